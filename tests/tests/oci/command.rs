//! The command line of `wharf oci`, step by step beside runc's.

use crate::host;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use wharf_test::{Host, Output, PATIENCE, eventually, image, program};

/// A runtime's program, its state and one bundle.
struct Runtime<'h> {
    host: &'h Host,
    program: PathBuf,
    name: &'static str,
    bundle: PathBuf,
}

/// What a command answered.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
}

impl Said {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.out);
        self.out
    }

    #[track_caller]
    fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

impl Runtime<'_> {
    /// Runs a command. Its output goes to a file: a container keeps a pipe open.
    #[track_caller]
    fn call(&self, args: &[&str]) -> Said {
        let path = self.bundle.join("output");
        let file = File::create(&path).unwrap();
        let mut child = self
            .host
            .enter(&self.program)
            .arg("--root")
            .arg(self.bundle.join("state"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let status = program::wait(&mut child, PATIENCE);
        let out = fs::read_to_string(path).unwrap();
        let status = status.unwrap_or_else(|| panic!("{} {args:?} hangs: {out}", self.name));
        Said { code: status.code().unwrap_or(-1), out }
    }

    /// Writes the configuration: the runtime's own default with a program.
    #[track_caller]
    fn configure(&self, words: &[&str]) {
        let path = self.bundle.join("config.json");
        if path.exists() {
            fs::remove_file(&path).unwrap();
        }
        self.call(&["spec", "--bundle", self.bundle.to_str().unwrap()]).ok();
        let mut spec: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        spec["process"]["args"] = json!(words);
        spec["process"]["terminal"] = json!(false);
        let env = spec["process"]["env"].as_array_mut().unwrap();
        env.push("GREETING=hello".into());
        let group = format!("{}/{}", self.host.cgroup(), self.name);
        spec["linux"]["cgroupsPath"] = json!(group);
        fs::write(path, spec.to_string()).unwrap();
    }

    #[track_caller]
    fn create(&self, id: &str) -> Said {
        self.call(&["create", "--bundle", self.bundle.to_str().unwrap(), id])
    }

    #[track_caller]
    fn run(&self, id: &str) -> Said {
        self.call(&["run", "--bundle", self.bundle.to_str().unwrap(), id])
    }

    #[track_caller]
    fn status(&self, id: &str) -> String {
        self.call(&["state", id]).json()["status"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn until(&self, id: &str, status: &str) {
        eventually(status, || (self.status(id) == status).then_some(()));
    }

    /// A running container.
    #[track_caller]
    fn sleeper(&self, id: &str) {
        self.configure(&["sleep", "1000"]);
        self.create(id).ok();
        self.call(&["start", id]).ok();
    }
}

/// Runs `steps` with both runtimes; what they observe must be the same.
#[track_caller]
fn alike<T: PartialEq + std::fmt::Debug>(steps: impl Fn(&Runtime<'_>) -> T) {
    let (host, wharf) = host();
    let archive = host.write("layer.tar", &image::busybox_layer());
    let look = |name: &'static str, program: &Path| {
        let bundle = host.dir().join(format!("bundle-{name}"));
        let rootfs = bundle.join("rootfs");
        fs::create_dir_all(&rootfs).unwrap();
        let mut tar = std::process::Command::new("tar");
        Output::of(tar.arg("-xf").arg(&archive).arg("-C").arg(&rootfs), b"").ok();
        steps(&Runtime { host: &host, program: program.to_owned(), name, bundle })
    };
    let expected = look("runc", "/usr/sbin/runc".as_ref());
    assert_eq!(look("wharf", &wharf), expected, "left: wharf, right: runc");
}

#[test]
fn a_container_walks_through_its_states() {
    alike(|r| {
        r.configure(&["sleep", "1000"]);
        let mut seen = vec![format!("{}", r.create("c").code)];
        seen.push(r.status("c"));
        seen.push(format!("again {}", r.create("c").code));
        seen.push(format!("start {}", r.call(&["start", "c"]).code));
        seen.push(r.status("c"));
        seen.push(format!("start again {}", r.call(&["start", "c"]).code));
        seen.push(format!("delete running {}", r.call(&["delete", "c"]).code));
        seen.push(format!("pause {}", r.call(&["pause", "c"]).code));
        seen.push(r.status("c"));
        seen.push(format!("exec paused {}", r.call(&["exec", "c", "true"]).code));
        seen.push(format!("resume {}", r.call(&["resume", "c"]).code));
        seen.push(format!("resume again {}", r.call(&["resume", "c"]).code));
        seen.push(format!("kill {}", r.call(&["kill", "c", "KILL"]).code));
        r.until("c", "stopped");
        seen.push(format!("kill stopped {}", r.call(&["kill", "c", "KILL"]).code));
        seen.push(format!("exec stopped {}", r.call(&["exec", "c", "true"]).code));
        seen.push(format!("delete {}", r.call(&["delete", "c"]).code));
        seen.push(format!("state {}", r.call(&["state", "c"]).code));
        seen.push(format!("delete again {}", r.call(&["delete", "c"]).code));
        seen.push(format!("forced {}", r.call(&["delete", "--force", "c"]).code));
        seen
    });
}

#[test]
fn run_passes_output_and_exit_codes() {
    alike(|r| {
        let programs: [&[&str]; 4] = [
            &["sh", "-c", "echo $GREETING; exit 7"],
            &["sh", "-c", "kill -9 $$"],
            &["true"],
            &["cat", "/proc/self/cgroup", "/nothing"],
        ];
        programs.map(|words| {
            r.configure(words);
            let said = r.run("c");
            (said.code, said.out.lines().next().unwrap_or("").len() < 60)
        })
    });
}

#[test]
fn what_cannot_run_is_refused_in_the_same_words() {
    alike(|r| {
        [&["nothing-of-that-name"][..], &["/etc/passwd"], &["/nothing"]].map(|words| {
            r.configure(words);
            let said = r.run("c");
            let known = [
                "executable file not found in $PATH",
                "permission denied",
                "no such file or directory",
            ];
            let text = known.iter().find(|k| said.out.contains(**k)).copied();
            assert!(text.is_some(), "{}: {}", r.name, said.out);
            (said.code != 0, text, r.call(&["list", "-q"]).ok())
        })
    });
}

#[test]
fn exec_adds_processes() {
    alike(|r| {
        r.sleeper("c");
        let process = r.bundle.join("process.json");
        let described = json!({"cwd": "/tmp", "args": ["sh", "-c", "pwd; id -u"], "env": ["PATH=/bin"], "user": {"uid": 1000, "gid": 1000}});
        fs::write(&process, described.to_string()).unwrap();
        let calls: [&[&str]; 6] = [
            &["exec", "c", "sh", "-c", "exit 3"],
            &["exec", "c", "cat", "/proc/1/comm"],
            &[
                "exec",
                "--env",
                "A=b",
                "--cwd",
                "/tmp",
                "--user",
                "1000:50",
                "c",
                "sh",
                "-c",
                "echo $A; pwd; id -u; id -g",
            ],
            &["exec", "--process", process.to_str().unwrap(), "c"],
            &["exec", "--cap", "CAP_SYS_TIME", "c", "grep", "CapBnd", "/proc/self/status"],
            &["exec", "--user", "nobody", "c", "true"],
        ];
        let seen = calls.map(|args| {
            let said = r.call(args);
            (said.code, if said.code == 0 { said.out } else { String::new() })
        });
        let missing = r.call(&["exec", "c", "nothing-of-that-name"]);
        assert!(missing.out.contains("executable file not found in $PATH"), "{}", missing.out);
        let pid_file = r.bundle.join("pid");
        r.call(&["exec", "-d", "--pid-file", pid_file.to_str().unwrap(), "c", "sleep", "1000"])
            .ok();
        let pids = r.call(&["ps", "--format", "json", "c"]).json();
        let listed = pids.as_array().unwrap().len();
        r.call(&["delete", "--force", "c"]).ok();
        (
            seen,
            missing.code != 0,
            fs::read_to_string(pid_file).unwrap().parse::<u32>().is_ok(),
            listed,
        )
    });
}

#[test]
fn state_and_list_have_the_same_members() {
    alike(|r| {
        r.sleeper("c");
        let state = r.call(&["state", "c"]).json();
        let mut members: Vec<String> = state.as_object().unwrap().keys().cloned().collect();
        members.sort();
        let list = r.call(&["list", "--format", "json"]).json();
        assert_eq!(list[0]["pid"], state["pid"]);
        assert_eq!(list[0]["bundle"], json!(r.bundle));
        let quiet = r.call(&["list", "-q"]).ok();
        let table = r.call(&["list"]).ok();
        let head: Vec<String> =
            table.lines().next().unwrap().split_whitespace().map(str::to_owned).collect();
        r.call(&["delete", "-f", "c"]).ok();
        (members, list.as_array().unwrap().len(), quiet, head, r.call(&["list", "-q"]).ok())
    });
}

#[test]
fn update_changes_limits() {
    alike(|r| {
        r.sleeper("c");
        let file = |controller: &str, v1: &str, v2: &str| {
            let group = format!("{}/{}", r.host.cgroup(), r.name);
            let old = format!("/sys/fs/cgroup/{controller}{group}/{v1}");
            let text = fs::read_to_string(old)
                .or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup{group}/{v2}")));
            text.unwrap().trim().to_owned()
        };
        let flags = [
            "update",
            "--memory",
            "64000000",
            "--pids-limit",
            "20",
            "--cpu-quota",
            "30000",
            "--cpu-period",
            "100000",
            "c",
        ];
        let flagged = r.call(&flags).code;
        let look = || {
            [
                file("memory", "memory.limit_in_bytes", "memory.max"),
                file("pids", "pids.max", "pids.max"),
                file("cpu", "cpu.cfs_quota_us", "cpu.max"),
            ]
        };
        let first = look();
        let resources = r.bundle.join("resources.json");
        fs::write(&resources, r#"{"memory":{"limit":80000000},"pids":{"limit":30}}"#).unwrap();
        let read = r.call(&["update", "--resources", resources.to_str().unwrap(), "c"]).code;
        let second = look();
        r.call(&["delete", "-f", "c"]).ok();
        (flagged, first, read, second)
    });
}

#[test]
fn events_tell_the_same_account() {
    alike(|r| {
        r.sleeper("c");
        let event = r.call(&["events", "--stats", "c"]).json();
        assert!(event["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
        assert!(event["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0);
        r.call(&["delete", "-f", "c"]).ok();
        (event["type"].clone(), event["id"].clone(), event["data"]["pids"]["current"].clone())
    });
}

#[test]
fn kill_reaches_the_first_process_or_all() {
    alike(|r| {
        r.configure(&[
            "sh",
            "-c",
            "trap 'exit 9' USR1; touch /tmp/up; while :; do sleep 0.05; done",
        ]);
        let config = r.bundle.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        spec["root"]["readonly"] = json!(false);
        fs::write(config, spec.to_string()).unwrap();
        r.create("c").ok();
        r.call(&["start", "c"]).ok();
        let up = r.bundle.join("rootfs/tmp/up");
        eventually("the trap is set", || up.exists().then_some(()));
        let codes = [
            r.call(&["kill", "c", "NOSUCH"]).code,
            r.call(&["kill", "c", "0"]).code,
            r.call(&["kill", "c", "SIGUSR1"]).code,
        ];
        r.until("c", "stopped");
        (codes, r.call(&["delete", "c"]).code)
    });
}

#[test]
fn features_name_what_runc_names() {
    let (host, wharf) = host();
    let look = |program: &Path| Output::of(host.enter(program).arg("features"), b"").json();
    let (ours, runc) = (look(&wharf), look("/usr/sbin/runc".as_ref()));
    for at in [
        "/hooks",
        "/linux/namespaces",
        "/linux/seccomp/actions",
        "/linux/seccomp/operators",
        "/mountOptions",
    ] {
        let list = |v: &Value| v.pointer(at).and_then(Value::as_array).cloned().unwrap_or_default();
        let ours = list(&ours);
        // Nothing is there to be remounted when a container's file system is made.
        let lacking: Vec<Value> =
            list(&runc).into_iter().filter(|f| f != "remount" && !ours.contains(f)).collect();
        assert!(lacking.is_empty(), "{at} lacks {lacking:?}");
    }
}

#[test]
fn spec_has_the_members_of_runcs() {
    alike(|r| {
        r.call(&["spec", "--bundle", r.bundle.to_str().unwrap()]).ok();
        let spec: Value =
            serde_json::from_slice(&fs::read(r.bundle.join("config.json")).unwrap()).unwrap();
        let again = r.call(&["spec", "--bundle", r.bundle.to_str().unwrap()]).code;
        let keys = |at: &str| -> Vec<String> {
            let mut keys: Vec<String> =
                spec.pointer(at).unwrap().as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys
        };
        let mounts: Vec<Value> =
            spec["mounts"].as_array().unwrap().iter().map(|m| m["destination"].clone()).collect();
        (keys(""), keys("/process"), keys("/linux"), spec["process"]["args"].clone(), mounts, again)
    });
}
