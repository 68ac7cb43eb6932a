//! Ladder step 4: stop, kill, wait, restart policies, pause, rename, update, stats, top.

use wharf_test::{Host, eventually};

#[test]
fn states_follow_the_life_of_a_container() {
    let host = Host::with_busybox();
    let state = || host.inspect("box", "{{.State.Status}}");
    host.docker(["create", "--name", "box", "--stop-timeout", "0", "busybox", "sleep", "1000"])
        .ok();
    assert_eq!(state(), "created");
    host.docker(["start", "box"]).ok();
    assert_eq!(state(), "running");
    host.docker(["pause", "box"]).ok();
    assert_eq!(state(), "paused");
    host.docker(["unpause", "box"]).ok();
    host.docker(["restart", "box"]).ok();
    assert_eq!(state(), "running");
    host.docker(["stop", "box"]).ok();
    assert_eq!(state(), "exited");
    host.docker(["rm", "box"]).ok();
    host.docker(["inspect", "box"]).fails("No such object: box");
}

/// Of a container with --rm nothing is there after a crash of the machine: its files need not reach the disk.
#[test]
fn only_what_may_be_needed_again_is_synced() {
    let host = Host::with_busybox();
    host.sleeper("kept");
    let args = ["run", "-d", "--rm", "--name", "gone", "--stop-timeout", "0", "busybox"];
    host.docker(args.iter().chain(&["sleep", "1000"])).ok();
    let root = |name: &str| host.docker(["exec", name, "grep", " / overlay ", "/proc/mounts"]).ok();
    assert!(!root("kept").contains("volatile"), "{}", root("kept"));
    if wharf_test::host::Engine::chosen() == wharf_test::host::Engine::Wharf {
        assert!(root("gone").contains("volatile"), "{}", root("gone"));
    }
    host.docker(["exec", "gone", "touch", "/file"]).ok();
    host.docker(["restart", "gone"]).ok();
    host.docker(["exec", "gone", "test", "-e", "/file"]).ok();
}

#[test]
fn doing_it_twice_is_harmless_where_docker_says_so() {
    let host = Host::with_busybox();
    host.sleeper("box");
    assert_eq!(host.api("POST", "/containers/box/start", b"").unwrap().status, 304);
    host.docker(["stop", "box"]).ok();
    assert_eq!(host.api("POST", "/containers/box/stop", b"").unwrap().status, 304);
    assert_eq!(host.api("POST", "/containers/box/kill", b"").unwrap().status, 409);
    host.docker(["kill", "box"]).fails("is not running");
    host.docker(["unpause", "box"]).fails("is not");
}

#[test]
fn stop_sends_the_signal_that_was_asked_for() {
    let host = Host::with_busybox();
    let script = "trap 'exit 33' USR1; echo ready; while :; do sleep 0.1; done";
    host.docker([
        "run",
        "-d",
        "--name",
        "box",
        "--stop-signal",
        "USR1",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    host.talk(&["logs", "-f", "box"]).expect("ready");
    host.docker(["stop", "box"]).ok();
    assert_eq!(host.inspect("box", "{{.State.ExitCode}}"), "33");
}

#[test]
fn stop_kills_when_patience_runs_out() {
    let host = Host::with_busybox();
    let script = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    host.docker(["run", "-d", "--name", "box", "busybox", "sh", "-c", script]).ok();
    host.talk(&["logs", "-f", "box"]).expect("ready");
    host.docker(["stop", "-t", "0", "box"]).ok();
    assert_eq!(host.inspect("box", "{{.State.ExitCode}}"), "137");
}

#[test]
fn removal_of_a_running_container_needs_force() {
    let host = Host::with_busybox();
    host.sleeper("box");
    host.docker(["rm", "box"]).fails("cannot remove container");
    assert_eq!(host.api("DELETE", "/containers/box", b"").unwrap().status, 409);
    host.docker(["rm", "-f", "box"]).ok();
    host.docker(["rm", "box"]).fails("No such container: box");
    host.docker(["rm", "-f", "box"]).exits(0);
}

#[test]
fn on_failure_restarts_as_often_as_it_may() {
    let host = Host::with_busybox();
    host.docker([
        "run",
        "-d",
        "--name",
        "box",
        "--restart",
        "on-failure:3",
        "busybox",
        "sh",
        "-c",
        "exit 5",
    ])
    .ok();
    eventually("three restarts", || {
        let now = host.inspect("box", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}");
        (now == "3 exited 5").then_some(())
    });
}

#[test]
fn on_failure_lets_success_be() {
    let host = Host::with_busybox();
    host.docker(["run", "-d", "--name", "box", "--restart", "on-failure", "busybox", "true"]).ok();
    assert_eq!(host.docker(["wait", "box"]).ok(), "0");
    assert_eq!(host.inspect("box", "{{.RestartCount}}"), "0");
}

#[test]
fn always_restarts_until_it_is_stopped() {
    let host = Host::with_busybox();
    host.docker([
        "run",
        "-d",
        "--name",
        "box",
        "--restart",
        "always",
        "busybox",
        "sh",
        "-c",
        "exit 0",
    ])
    .ok();
    eventually("two restarts", || {
        host.inspect("box", "{{.RestartCount}}").parse().ok().filter(|n: &u32| *n >= 2)
    });
    host.docker(["stop", "box"]).ok();
    assert_eq!(host.inspect("box", "{{.State.Status}}"), "exited");
}

#[test]
fn kill_by_hand_does_not_stop_unless_stopped() {
    let host = Host::with_busybox();
    host.docker([
        "run",
        "-d",
        "--name",
        "box",
        "--restart",
        "unless-stopped",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    let pid = host.inspect("box", "{{.State.Pid}}");
    host.docker(["exec", "box", "sh", "-c", "kill -9 1 || true"]);
    // Process 1 is deaf to its own namespace, so the host has to do it.
    assert!(host.enter("kill").args(["-9", &pid]).status().unwrap().success());
    eventually("a new process", || {
        let now = host.inspect("box", "{{.State.Status}} {{.State.Pid}}");
        (now.starts_with("running") && !now.ends_with(&format!(" {pid}"))).then_some(())
    });
}

#[test]
fn wait_gives_the_code_to_everyone() {
    let host = Host::with_busybox();
    host.docker(["run", "-d", "-i", "--name", "box", "busybox", "sh", "-c", "read x; exit 11"])
        .ok();
    let host = &host;
    std::thread::scope(|s| {
        let waits: Vec<_> =
            (0..4).map(|_| s.spawn(move || host.docker(["wait", "box"]).ok())).collect();
        let mut attach = host.talk(&["attach", "box"]);
        attach.send("\n");
        for wait in waits {
            assert_eq!(wait.join().unwrap(), "11");
        }
    });
    assert_eq!(host.docker(["wait", "box"]).ok(), "11");
}

#[test]
fn rename_moves_the_name() {
    let host = Host::with_busybox();
    host.sleeper("old");
    host.docker(["create", "--name", "taken", "busybox"]).ok();
    host.docker(["rename", "old", "taken"]).fails("is already in use");
    host.docker(["rename", "old", "new"]).ok();
    assert_eq!(host.inspect("new", "{{.Name}}"), "/new");
    host.docker(["inspect", "old"]).fails("No such object");
    host.docker(["create", "--name", "old", "busybox"]).ok();
}

#[test]
fn top_lists_the_processes_of_the_container() {
    let host = Host::with_busybox();
    host.sleeper("box");
    let table = host.docker(["top", "box"]).lines();
    assert!(table[0].starts_with("UID"), "{table:?}");
    assert!(table[1].ends_with("sleep 1000"), "{table:?}");
    host.docker(["create", "--name", "idle", "busybox"]).ok();
    host.docker(["top", "idle"]).fails("is not running");
}

#[test]
fn stats_show_memory_and_processes() {
    let host = Host::with_busybox();
    host.docker(["run", "-d", "--name", "box", "--memory", "64m", "busybox", "sleep", "1000"]).ok();
    let line = host
        .docker([
            "stats",
            "--no-stream",
            "--format",
            "{{.Name}}|{{.MemUsage}}|{{.PIDs}}|{{.CPUPerc}}",
            "box",
        ])
        .ok();
    let fields: Vec<&str> = line.split('|').collect();
    assert_eq!((fields[0], fields[2]), ("box", "1"), "{line}");
    assert!(fields[1].ends_with("/ 64MiB") && fields[3].ends_with('%'), "{line}");
}

#[test]
fn pause_freezes_and_kill_works_on_the_frozen() {
    let host = Host::with_busybox();
    host.docker(["run", "-d", "--name", "box", "busybox", "sh", "-c", "while :; do :; done"]).ok();
    host.docker(["pause", "box"]).ok();
    assert!(host.docker(["ps"]).ok().contains("(Paused)"));
    host.docker(["pause", "box"]).fails("is already paused");
    host.docker(["kill", "box"]).ok();
    assert_eq!(host.docker(["wait", "box"]).ok(), "137");
}

#[test]
fn create_twice_with_one_name_conflicts() {
    let host = Host::with_busybox();
    let id = host.docker(["create", "--name", "xx", "busybox"]).ok();
    let text =
        format!("Conflict. The container name \"/xx\" is already in use by container \"{id}\"");
    host.docker(["create", "--name", "xx", "busybox"]).fails(&text);
}

#[test]
fn commit_keeps_files_and_changes_configuration() {
    let host = Host::with_busybox();
    host.docker([
        "run",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "echo saved > /note; rm /etc/group",
    ])
    .ok();
    host.docker([
        "commit",
        "-m",
        "why",
        "-a",
        "who",
        "-c",
        "ENV A=b",
        "-c",
        "CMD cat /note",
        "box",
        "kept:1",
    ])
    .says("sha256:");
    assert_eq!(host.docker(["run", "--rm", "kept:1"]).ok(), "saved");
    host.docker(["run", "--rm", "kept:1", "test", "-e", "/etc/group"]).exits(1);
    let env = host.docker([
        "image",
        "inspect",
        "-f",
        "{{.Config.Env}} {{.Comment}} {{.Author}}",
        "kept:1",
    ]);
    assert!(env.ok().contains("A=b] why who"), "{env}");
    assert_eq!(host.docker(["history", "-q", "kept:1"]).lines().len(), 2);
}

#[test]
fn a_stop_with_a_time_waits_for_a_program_that_ends_by_itself() {
    let host = Host::with_busybox();
    let script = "sleep 2; exit 42";
    host.docker(["run", "-d", "--name", "box", "busybox", "sh", "-c", script]).ok();
    host.docker(["stop", "-t", "30", "box"]).ok();
    assert_eq!(host.inspect("box", "{{.State.ExitCode}}"), "42");
}

#[test]
fn a_namespace_to_join_must_be_there_and_run() {
    let host = Host::with_busybox();
    let missing = br#"{"Image":"busybox","HostConfig":{"PidMode":"container:gone"}}"#;
    let answer = host.api("POST", "/containers/create", missing).unwrap();
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("No such container: gone"), "{}", answer.text());
    let from = br#"{"Image":"busybox","HostConfig":{"VolumesFrom":["gone"]}}"#;
    assert_eq!(host.api("POST", "/containers/create", from).unwrap().status, 400);
    host.docker(["create", "--name", "off", "busybox"]).ok();
    host.docker(["create", "--name", "box", "--pid", "container:off", "busybox"]).ok();
    let answer = host.api("POST", "/containers/box/start", b"").unwrap();
    assert_eq!(answer.status, 500);
    let id = host.inspect("off", "{{.Id}}");
    let text = answer.text();
    assert!(text.contains("failed to join PID namespace"), "{text}");
    assert!(text.contains(&format!("container {id} is not running")), "{text}");
}
