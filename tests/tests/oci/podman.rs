//! Debian's podman runs its containers with `wharf oci`.

use crate::{cgroup_file, host};
use std::path::PathBuf;
use std::process::Command;
use wharf_test::{Host, Output, Terminal, eventually, image};

struct Podman {
    host: Host,
    runtime: PathBuf,
}

impl Podman {
    /// A host whose podman has `busybox` in its store.
    #[track_caller]
    fn start() -> Podman {
        let (host, runtime) = host();
        // podman's locks lie there; the machine's own belong to the machine.
        Output::of(
            host.enter(host.dir().join("busybox"))
                .args(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]),
            b"",
        )
        .ok();
        let podman = Podman { host, runtime };
        let archive = podman.host.write("busybox.tar", &image::busybox().docker_archive());
        podman.call(&["load", "-q", "-i", archive.to_str().unwrap()]).ok();
        podman
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = self.host.enter("podman");
        // Overlays do not stack, and the host's root is one.
        c.arg("--root").arg(self.host.dir().join("podman")).arg("--runtime").arg(&self.runtime);
        c.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"]).args(args);
        c.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("TERM", "xterm");
        c.env("HOME", self.host.dir().join("home")).current_dir("/");
        c
    }

    #[track_caller]
    fn call(&self, args: &[&str]) -> Output {
        Output::of(&mut self.command(args), b"")
    }

    /// `podman run` with the host's own place for control groups.
    #[track_caller]
    fn run(&self, args: &[&str]) -> Output {
        let parent = self.host.cgroup();
        let mut all = vec!["run", "--cgroup-parent", &parent];
        all.extend(args);
        self.call(&all)
    }

    #[track_caller]
    fn sleeper(&self, name: &str) {
        self.run(&["-d", "--name", name, "--network", "none", "busybox", "sleep", "1000"]).ok();
    }

    #[track_caller]
    fn status(&self, name: &str) -> String {
        self.call(&["inspect", "--format", "{{.State.Status}}", name]).ok()
    }
}

#[test]
fn podman_run_gives_output_and_exit_codes() {
    let podman = Podman::start();
    let run = |args: &[&str]| {
        let mut all = vec!["--rm", "--network", "none", "busybox"];
        all.extend(args);
        podman.run(&all)
    };
    assert_eq!(run(&["echo", "hello"]).ok(), "hello");
    run(&["sh", "-c", "exit 7"]).exits(7);
    run(&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).exits(137);
    run(&["nothing-of-that-name"]).exits(127);
    run(&["/etc"]).exits(126);
    run(&["hostname"]).exits(0);
    let used = podman.call(&["info", "--format", "{{.Host.OCIRuntime.Path}}"]).ok();
    assert_eq!(used, podman.runtime.to_str().unwrap(), "podman took another runtime");
}

#[test]
fn podman_passes_standard_input() {
    let podman = Podman::start();
    let parent = podman.host.cgroup();
    let args =
        ["run", "-i", "--rm", "--network", "none", "--cgroup-parent", &parent, "busybox", "cat"];
    assert_eq!(Output::of(&mut podman.command(&args), b"through\n").ok(), "through");
}

#[test]
fn podman_gives_run_and_exec_a_terminal() {
    let podman = Podman::start();
    let parent = podman.host.cgroup();
    let run =
        ["run", "-it", "--rm", "--network", "none", "--cgroup-parent", &parent, "busybox", "sh"];
    let mut shell = Terminal::start(&podman.command(&run));
    shell.send("tty; exit 5\n");
    shell.expect("/dev/pts/0");
    assert_eq!(shell.finish().0, 5);
    podman.sleeper("c");
    let mut shell = Terminal::start(&podman.command(&["exec", "-it", "c", "sh"]));
    shell.send("tty; exit 6\n");
    shell.expect("/dev/pts/");
    assert_eq!(shell.finish().0, 6);
}

#[test]
fn podman_exec_joins_the_container() {
    let podman = Podman::start();
    podman.sleeper("c");
    assert_eq!(podman.call(&["exec", "c", "cat", "/proc/1/comm"]).ok(), "sleep");
    podman.call(&["exec", "c", "sh", "-c", "exit 3"]).exits(3);
    podman.call(&["exec", "c", "nothing-of-that-name"]).exits(127);
    let args = [
        "exec",
        "-u",
        "alice",
        "-w",
        "/tmp",
        "-e",
        "WORD=x",
        "c",
        "sh",
        "-c",
        "id -u; pwd; echo $WORD",
    ];
    assert_eq!(podman.call(&args).lines(), ["1000", "/tmp", "x"]);
}

#[test]
fn podman_pauses_and_resumes() {
    let podman = Podman::start();
    podman.sleeper("c");
    podman.call(&["pause", "c"]).ok();
    assert_eq!(podman.status("c"), "paused");
    podman.call(&["exec", "c", "true"]).fails("");
    podman.call(&["unpause", "c"]).ok();
    assert_eq!(podman.status("c"), "running");
    podman.call(&["exec", "c", "true"]).ok();
}

#[test]
fn podman_signals_stops_and_removes() {
    let podman = Podman::start();
    let run = |name: &str, script: &str| {
        podman.run(&["-d", "--name", name, "--network", "none", "busybox", "sh", "-c", script]).ok()
    };
    let wait = "while :; do sleep 0.1; done";
    run("polite", &format!("trap 'exit 4' TERM; echo up; {wait}"));
    eventually("the trap is set", || (podman.call(&["logs", "polite"]).ok() == "up").then_some(()));
    podman.call(&["stop", "polite"]).ok();
    assert_eq!(podman.call(&["inspect", "--format", "{{.State.ExitCode}}", "polite"]).ok(), "4");
    run("deaf", &format!("trap '' TERM; {wait}"));
    podman.call(&["stop", "-t", "1", "deaf"]).ok();
    assert_eq!(podman.call(&["inspect", "--format", "{{.State.ExitCode}}", "deaf"]).ok(), "137");
    run("told", &format!("trap 'exit 9' USR1; echo up; {wait}"));
    eventually("the trap is set", || (podman.call(&["logs", "told"]).ok() == "up").then_some(()));
    podman.call(&["kill", "-s", "USR1", "told"]).ok();
    assert_eq!(podman.call(&["wait", "told"]).ok(), "9");
    podman.sleeper("running");
    podman.call(&["rm", "-f", "-t", "0", "running"]).ok();
    podman.call(&["start", "polite"]).ok();
    podman.call(&["rm", "-f", "-t", "0", "polite", "deaf", "told"]).ok();
    assert_eq!(podman.call(&["ps", "-aq"]).ok(), "");
}

#[test]
fn podman_keeps_logs() {
    let podman = Podman::start();
    let script = "echo one; echo two >&2";
    podman.run(&["--name", "c", "--network", "none", "busybox", "sh", "-c", script]).ok();
    let logs = podman.call(&["logs", "c"]);
    assert_eq!((logs.ok(), logs.stderr.trim_end()), ("one".to_owned(), "two"));
}

#[test]
fn podman_sets_and_changes_limits() {
    let podman = Podman::start();
    podman
        .run(&[
            "-d",
            "--name",
            "c",
            "--network",
            "none",
            "--memory",
            "64m",
            "--pids-limit",
            "9",
            "--cpus",
            "0.5",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    let read = |script: &str| podman.call(&["exec", "c", "sh", "-c", script]).ok();
    let memory = cgroup_file("memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(read(&memory), (64 << 20).to_string());
    assert_eq!(read(&cgroup_file("pids", "pids.max", "pids.max")), "9");
    let quota = read(&cgroup_file("cpu", "cpu.cfs_quota_us", "cpu.max"));
    assert_eq!(quota.split(' ').next(), Some("50000"));
    podman.call(&["update", "--memory", "32m", "--memory-swap", "32m", "c"]).ok();
    assert_eq!(read(&memory), (32 << 20).to_string());
}

#[test]
fn podman_publishes_a_port() {
    let podman = Podman::start();
    podman.run(&["-d", "-p", "8080:80", "busybox", "httpd", "-f", "-p", "80", "-h", "/etc"]).ok();
    let page =
        eventually("the page is served", || podman.host.get("127.0.0.1:8080", "/passwd").ok());
    assert!(page.text().starts_with("root:x:0:0:"), "{}", page.text());
}
