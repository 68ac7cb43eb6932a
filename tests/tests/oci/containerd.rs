//! Debian's containerd runs its containers with `wharf oci`.

use crate::host;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use wharf_test::{Host, Output, Terminal, eventually, image};

struct Containerd {
    host: Host,
    runtime: PathBuf,
    _daemon: Reap,
}

/// Waits for a process that the end of its host ends.
struct Reap(Child);

impl Drop for Reap {
    fn drop(&mut self) {
        self.0.wait().unwrap();
    }
}

const IMAGE: &str = "docker.io/library/busybox:latest";

impl Containerd {
    /// A host with a containerd that has `busybox`.
    #[track_caller]
    fn start() -> Containerd {
        let (host, runtime) = host();
        let dir = host.dir().display();
        let config = format!(
            "version = 2\nroot = \"{dir}/containerd\"\nstate = \"/run/containerd\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"
        );
        let config = host.write("containerd.toml", config.as_bytes());
        let log = File::create(host.dir().join("containerd.log")).unwrap();
        let mut daemon = host.enter("containerd");
        daemon.arg("--config").arg(config).stdin(Stdio::null());
        daemon.stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = Reap(daemon.spawn().unwrap());
        let containerd = Containerd { host, runtime, _daemon: daemon };
        eventually("containerd answers", || (containerd.ctr(&["version"]).code == 0).then_some(()));
        let archive = containerd.host.write("busybox.tar", &image::busybox().oci_archive());
        containerd.ctr(&["images", "import", archive.to_str().unwrap()]).ok();
        containerd
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = self.host.enter("ctr");
        c.args(args).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("TERM", "xterm");
        c
    }

    #[track_caller]
    fn ctr(&self, args: &[&str]) -> Output {
        Output::of(&mut self.command(args), b"")
    }

    /// `ctr run` with wharf as its runtime.
    fn run(&self, flags: &[&str], id: &str, words: &[&str]) -> Command {
        let group = format!("{}/{id}", self.host.cgroup());
        let runtime = self.runtime.to_str().unwrap();
        let mut all = vec!["run", "--runc-binary", runtime, "--cgroup", &group];
        all.extend(flags);
        all.extend([IMAGE, id]);
        all.extend(words);
        self.command(&all)
    }

    #[track_caller]
    fn sleeper(&self, flags: &[&str], id: &str) {
        let flags: Vec<&str> = ["-d"].iter().chain(flags).copied().collect();
        Output::of(&mut self.run(&flags, id, &["sleep", "1000"]), b"").ok();
    }

    #[track_caller]
    fn status(&self, id: &str) -> String {
        let table = self.ctr(&["tasks", "ls"]).ok();
        let row = table.lines().find(|l| l.starts_with(id)).unwrap_or_default();
        row.split_whitespace().last().unwrap_or_default().to_owned()
    }
}

#[test]
fn containerd_run_gives_output_and_exit_codes() {
    let containerd = Containerd::start();
    let run = |id: &str, words: &[&str]| Output::of(&mut containerd.run(&["--rm"], id, words), b"");
    assert_eq!(run("a", &["echo", "hello"]).ok(), "hello");
    run("b", &["sh", "-c", "exit 7"]).exits(7);
    run("c", &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).exits(137);
    run("d", &["nothing-of-that-name"]).fails("executable file not found in $PATH");
}

#[test]
fn containerd_gives_run_and_exec_a_terminal() {
    let containerd = Containerd::start();
    let mut shell = Terminal::start(&containerd.run(&["--rm", "-t"], "t", &["sh"]));
    shell.send("tty; exit 5\n");
    shell.expect("/dev/pts/0");
    assert_eq!(shell.finish().0, 5);
    containerd.sleeper(&[], "c");
    let exec = ["tasks", "exec", "-t", "--exec-id", "e", "c", "sh"];
    let mut shell = Terminal::start(&containerd.command(&exec));
    shell.send("tty; exit 6\n");
    shell.expect("/dev/pts/");
    assert_eq!(shell.finish().0, 6);
}

#[test]
fn containerd_execs_freezes_kills_and_deletes() {
    let containerd = Containerd::start();
    containerd.sleeper(&[], "c");
    let exec = |id: &str, words: &[&str]| {
        let mut all = vec!["tasks", "exec", "--exec-id", id, "c"];
        all.extend(words);
        containerd.ctr(&all)
    };
    assert_eq!(exec("e1", &["cat", "/proc/1/comm"]).ok(), "sleep");
    exec("e2", &["sh", "-c", "exit 3"]).exits(3);
    containerd.ctr(&["tasks", "pause", "c"]).ok();
    assert_eq!(containerd.status("c"), "PAUSED");
    containerd.ctr(&["tasks", "resume", "c"]).ok();
    assert_eq!(containerd.status("c"), "RUNNING");
    assert_eq!(containerd.ctr(&["tasks", "ps", "c"]).lines().len(), 2, "a head and one process");
    containerd.ctr(&["tasks", "metrics", "c"]).ok();
    containerd.ctr(&["tasks", "kill", "-s", "SIGKILL", "c"]).ok();
    eventually("the task ends", || (containerd.status("c") == "STOPPED").then_some(()));
    let deleted = containerd.ctr(&["tasks", "delete", "c"]);
    assert!(deleted.stderr.contains("exit code 137"), "{deleted}");
    containerd.ctr(&["containers", "delete", "c"]).ok();
    assert_eq!(containerd.ctr(&["containers", "ls", "-q"]).ok(), "");
}

#[test]
fn containerd_sets_limits() {
    let containerd = Containerd::start();
    containerd.sleeper(&["--memory-limit", "67108864"], "c");
    let seen = limit(&containerd.host, "c");
    assert_eq!(seen, (64 << 20).to_string());
}

/// The memory limit of a control group, read on the host.
fn limit(host: &Host, id: &str) -> String {
    let group = format!("{}/{id}", host.cgroup());
    let script = format!(
        "cat /sys/fs/cgroup/memory{group}/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup{group}/memory.max"
    );
    Output::of(host.enter("sh").args(["-c", &script]), b"").ok()
}
