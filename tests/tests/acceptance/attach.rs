//! Terminals: `-it`, attach and detach, window sizes.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use wharf_test::Host;

#[test]
fn it_gives_a_terminal_of_the_right_size() {
    let host = Host::with_busybox();
    let mut shell = host.terminal(&["run", "--rm", "-it", "--name", "term", "busybox", "sh"]);
    shell.expect("# ");
    shell.send("tty; stty size; exit 7\n");
    shell.expect("/dev/pts/0");
    shell.expect("24 80");
    let (code, _) = shell.finish();
    assert_eq!(code, 7);
}

#[test]
fn window_changes_reach_the_container() {
    let host = Host::with_busybox();
    let mut shell = host.terminal(&["run", "--rm", "-it", "busybox", "sh"]);
    shell.expect("# ");
    // The CLI listens for changes only a moment after the container has started.
    let mut rows = 40;
    wharf_test::eventually("the container sees 132 columns", || {
        rows += 1;
        shell.resize(rows, 132);
        shell.send("stty size\n");
        shell.shows(" 132\r\n").then_some(())
    });
    shell.send("exit\n");
    shell.finish();
}

#[test]
fn control_c_reaches_the_foreground_process() {
    let host = Host::with_busybox();
    // The inner shell speaks first, so that the key cannot come before there is a foreground process.
    let script = "trap : INT; sh -c 'echo up; exec sleep 1000'; echo ended=$?";
    let mut shell = host.terminal(&["run", "--rm", "-it", "busybox", "sh", "-c", script]);
    shell.expect("up\r\n");
    shell.send([3]);
    shell.expect("ended=130");
    assert_eq!(shell.finish().0, 0);
}

#[test]
fn detach_keys_leave_the_container_running() {
    let host = Host::with_busybox();
    let mut shell = host.terminal(&["run", "-it", "--name", "dee", "busybox", "sh"]);
    shell.expect("# ");
    shell.send([16]);
    shell.send([17]);
    let (code, _) = shell.finish();
    assert_eq!(code, 0);
    assert_eq!(host.inspect("dee", "{{.State.Running}}"), "true");
    let mut again = host.terminal(&["attach", "dee"]);
    again.send("echo back-again\n");
    again.expect("back-again\r\n");
    again.send("exit 4\n");
    assert_eq!(again.finish().0, 4);
}

#[test]
fn own_detach_keys_are_honoured() {
    let host = Host::with_busybox();
    let args = ["run", "-it", "--name", "dee", "--detach-keys", "ctrl-a,x", "busybox", "sh"];
    let mut shell = host.terminal(&args);
    shell.expect("# ");
    shell.send([1]);
    shell.send("x");
    shell.finish();
    assert_eq!(host.inspect("dee", "{{.State.Running}}"), "true");
}

#[test]
fn attach_sees_only_what_comes_and_ends_with_the_container() {
    let host = Host::with_busybox();
    let script = "echo early; read x; echo got $x; exit 6";
    host.docker(["run", "-d", "-i", "--name", "att", "busybox", "sh", "-c", script]).ok();
    host.talk(&["logs", "-f", "att"]).expect("early");
    let mut attach = host.talk(&["attach", "att"]);
    attach.send("word\n");
    attach.expect("got word");
    let (code, text) = attach.finish();
    assert_eq!(code, 6);
    assert!(!text.contains("early"), "{text}");
}

#[test]
fn two_attached_clients_see_the_same() {
    let host = Host::with_busybox();
    host.docker(["run", "-d", "-i", "--name", "att", "busybox", "sh", "-c", "cat; echo end"]).ok();
    let mut one = host.talk(&["attach", "--no-stdin", "att"]);
    let mut two = host.talk(&["attach", "att"]);
    wharf_test::eventually("both are attached", || {
        two.send("probe\n");
        (one.shows("probe") && two.shows("probe")).then_some(())
    });
    two.send("shared\n");
    two.expect("shared");
    one.expect("shared");
    host.docker(["exec", "att", "killall", "cat"]).ok();
    one.expect("end");
}

#[test]
fn start_attached_replays_exit_code_and_output() {
    let host = Host::with_busybox();
    host.docker(["create", "--name", "starter", "busybox", "sh", "-c", "echo again; exit 3"]).ok();
    for _ in 0..3 {
        let out = host.docker(["start", "-a", "starter"]);
        assert_eq!(out.exits(3).stdout, "again\n");
    }
    host.docker(["create", "-i", "--name", "cat", "busybox", "cat"]).ok();
    assert_eq!(host.docker_with(b"through", ["start", "-ai", "cat"]).ok(), "through");
}

#[test]
fn attach_refuses_what_does_not_run() {
    let host = Host::with_busybox();
    host.docker(["create", "--name", "box", "busybox"]).ok();
    host.docker(["attach", "box"]).fails("cannot attach to a stopped container");
    host.sleeper("paused");
    host.docker(["pause", "paused"]).ok();
    host.docker(["attach", "paused"]).fails("cannot attach to a paused container");
}

/// Asked for while the end is on its way to the engine, which takes the container for running.
#[test]
fn who_attaches_at_the_very_end_waits_for_the_next_start() {
    let host = Host::with_busybox();
    let script = "[ -e /once ] || { touch /once; echo first; exec sleep 1000; }; echo word";
    // nsenter, the parent, stops once it sees that its child has, and continues it when it goes on itself.
    let daemon = host.daemon();
    let of = |pid: u32, field: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|l| l.strip_prefix(field)).unwrap().trim().to_owned()
    };
    let parent: u32 = of(daemon, "PPid:").parse().unwrap();
    let send = |pid: u32, signal| {
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
    };
    let is_stopped = || of(parent, "State:").starts_with('T').then_some(());
    for n in 0..5 {
        let name = format!("box{n}");
        host.docker(["run", "-d", "--name", &name, "busybox", "sh", "-c", script]).ok();
        wharf_test::eventually("its first word", || {
            host.docker(["logs", &name]).ok().contains("first").then_some(())
        });
        let pid = host.inspect(&name, "{{.State.Pid}}");
        send(daemon, Signal::STOP);
        wharf_test::eventually("the engine and its parent stop", is_stopped);
        let killed = host.enter("kill").args(["-9", &pid]).status();
        let attach = format!("/containers/{name}/attach?stream=1&stdout=1");
        std::thread::scope(|scope| {
            let output = scope.spawn(|| host.api("POST", &attach, b""));
            // The keeper has seen the end when the process is gone.
            let gone = || host.enter("kill").args(["-0", &pid]).stderr(Stdio::null()).status();
            wharf_test::eventually("the process is gone", || {
                (!gone().unwrap().success()).then_some(())
            });
            send(parent, Signal::CONT);
            let attached = format!("container={name}");
            wharf_test::eventually("the client is attached", || {
                let events = host.events(&attached, "{{.Action}}");
                events.iter().any(|e| e == "attach").then_some(())
            });
            host.docker(["start", &name]).ok();
            let output = output.join().unwrap().unwrap();
            assert!(output.text().contains("word"), "{}: {}", output.status, output.text());
        });
        assert!(killed.unwrap().success());
    }
}

/// From bollard's `resize_container_test`.
#[test]
fn a_resize_without_a_terminal_changes_nothing() {
    let host = Host::with_busybox();
    host.sleeper("box");
    let resize = || host.api("POST", "/containers/box/resize?h=50&w=50", b"").unwrap().status;
    assert_eq!(resize(), 200);
    host.docker(["kill", "box"]).ok();
    assert_eq!(resize(), 409);
}
