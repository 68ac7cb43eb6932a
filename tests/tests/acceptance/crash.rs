//! The engine dies and comes back; containers do not notice.

use rustix::process::Signal;
use wharf_test::host::Engine;
use wharf_test::{Host, eventually};

/// A host whose containers outlive the engine: wharf's default, a flag of the reference.
fn host() -> Host {
    let flags: &[&str] = match Engine::chosen() {
        Engine::Wharf => &[],
        Engine::Dockerd => &["--live-restore"],
    };
    let host = Host::with_flags(flags);
    host.load(wharf_test::image::busybox());
    host
}

#[test]
fn containers_run_on_and_are_found_again() {
    let mut host = host();
    host.sleeper("box");
    let pid = host.inspect("box", "{{.State.Pid}}");
    for signal in [Signal::KILL, Signal::TERM] {
        host.end_daemon(signal);
        host.start_daemon();
        assert_eq!(
            host.inspect("box", "{{.State.Status}} {{.State.Pid}}"),
            format!("running {pid}")
        );
        assert_eq!(host.docker(["exec", "box", "echo", "alive"]).ok(), "alive");
    }
    host.docker(["stop", "box"]).ok();
    assert_eq!(host.inspect("box", "{{.State.Status}}"), "exited");
}

#[test]
fn output_during_the_absence_is_kept() {
    let mut host = host();
    // The reference forgets both when it is killed.
    let Engine::Wharf = host.engine() else { return };

    host.docker([
        "run",
        "-d",
        "-i",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "mkfifo /go; echo before; cat /go; echo after",
    ])
    .ok();

    host.talk(&["logs", "-f", "box"]).expect("before");
    let pid = host.inspect("box", "{{.State.Pid}}");
    host.end_daemon(Signal::KILL);
    let go = format!("echo during > /proc/{pid}/root/go");
    assert!(host.enter("sh").args(["-c", &go]).status().unwrap().success());
    host.start_daemon();
    assert_eq!(host.docker(["wait", "box"]).ok(), "0");
    assert_eq!(host.docker(["logs", "box"]).lines(), ["before", "during", "after"]);
}

#[test]
fn exit_codes_during_the_absence_are_not_lost() {
    let mut host = host();
    // The reference forgets both when it is killed.
    let Engine::Wharf = host.engine() else { return };
    host.docker([
        "run",
        "-d",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "mkfifo /go; echo up; cat /go; exit 23",
    ])
    .ok();
    host.talk(&["logs", "-f", "box"]).expect("up");
    let pid = host.inspect("box", "{{.State.Pid}}");
    host.end_daemon(Signal::KILL);
    let go = format!("echo > /proc/{pid}/root/go; while kill -0 {pid} 2>/dev/null; do :; done");
    assert!(host.enter("bash").args(["-c", &go]).status().unwrap().success());
    host.start_daemon();
    eventually("the exit is known", || {
        (host.inspect("box", "{{.State.Status}} {{.State.ExitCode}}") == "exited 23").then_some(())
    });
}

#[test]
fn published_ports_survive() {
    let mut host = host();
    let script = "mkdir /w; echo page > /w/index.html; exec httpd -f -p 80 -h /w";
    host.docker([
        "run",
        "-d",
        "--name",
        "box",
        "--stop-timeout",
        "0",
        "-p",
        "91:80",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    let fetch = |host: &Host| {
        eventually("the page", || host.get("127.0.0.1:91", "/").ok().filter(|a| a.status == 200))
            .text()
    };
    assert_eq!(fetch(&host), "page\n");
    host.crash_daemon();
    assert_eq!(fetch(&host), "page\n");
    host.docker(["rm", "-f", "box"]).ok();
    assert!(host.connect("127.0.0.1:91").is_err());
}

#[test]
fn attach_works_again() {
    let mut host = host();
    host.docker([
        "run",
        "-d",
        "-i",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "while read x; do [ $x = stop ] && exit 3; echo got $x; done",
    ])
    .ok();
    host.crash_daemon();
    let mut attach = host.talk(&["attach", "box"]);
    attach.send("word\n");
    attach.expect("got word");
    attach.send("stop\n");
    assert_eq!(attach.finish().0, 3);
}

#[test]
fn restart_policies_hold_after_a_crash() {
    let mut host = host();
    host.docker([
        "run",
        "-d",
        "--name",
        "always",
        "--stop-timeout",
        "0",
        "--restart",
        "always",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    host.docker([
        "run",
        "-d",
        "--name",
        "plain",
        "--stop-timeout",
        "0",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    host.crash_daemon();
    for name in ["always", "plain"] {
        let pid = host.inspect(name, "{{.State.Pid}}");
        assert!(host.enter("kill").args(["-9", &pid]).status().unwrap().success());
    }
    eventually("always is back", || {
        (host.inspect("always", "{{.RestartCount}}") != "0").then_some(())
    });
    eventually("plain is down", || {
        (host.inspect("plain", "{{.State.Status}} {{.State.ExitCode}}") == "exited 137")
            .then_some(())
    });
}

#[test]
fn images_volumes_and_stopped_containers_are_remembered() {
    let mut host = host();
    host.docker([
        "run",
        "--name",
        "done",
        "-v",
        "data:/d",
        "busybox",
        "sh",
        "-c",
        "echo x > /d/f; exit 4",
    ])
    .exits(4);
    let before = host.docker(["inspect", "done"]).json();
    host.crash_daemon();
    let after = host.docker(["inspect", "done"]).json();
    for field in ["Id", "Name", "Config", "HostConfig", "Image", "Mounts", "Created"] {
        assert_eq!(before[0][field], after[0][field], "{field}");
    }
    assert_eq!(after[0]["State"]["ExitCode"], 4);
    assert_eq!(host.docker(["run", "--rm", "-v", "data:/d", "busybox", "cat", "/d/f"]).ok(), "x");
}

#[test]
fn two_engines_cannot_share_a_root() {
    let host = host();
    let Engine::Wharf = host.engine() else { return };
    let out = host
        .enter(wharf_test::tools::wharf())
        .arg("daemon")
        .arg("--data-root")
        .arg(host.dir().join("data"))
        .arg("--exec-root")
        .arg(host.dir().join("exec2"))
        .arg("-H")
        .arg(format!("unix://{}/s2", host.dir().display()))
        .output()
        .unwrap();
    assert!(!out.status.success());
    assert!(!out.stderr.is_empty());
}
