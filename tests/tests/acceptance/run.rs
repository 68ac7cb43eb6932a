//! Ladder step 3: `docker run` in the foreground, detached, with input, and its exit codes.

use rustix::process::Signal;
use wharf_test::Host;

#[test]
fn foreground_separates_output_and_error() {
    let host = Host::with_busybox();
    let out = host.docker(["run", "busybox", "sh", "-c", "echo out; echo err >&2"]);
    out.exits(0);
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("out\n", "err\n"));
}

#[test]
fn exit_codes_are_those_of_the_process() {
    let host = Host::with_busybox();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("sh -c 'kill -9 $$'; exit $?", 137),
        ("trap 'exit 12' TERM; kill -15 $$; sleep 9", 12),
    ] {
        host.docker(["run", "--rm", "busybox", "sh", "-c", script]).exits(code);
    }
}

#[test]
fn exit_code_127_when_the_program_is_missing() {
    let host = Host::with_busybox();
    let out = host.docker(["run", "--rm", "busybox", "no-such-program"]);
    out.exits(127).fails("executable file not found in $PATH");
    let out = host.docker(["run", "--rm", "busybox", "/no/such/file"]);
    out.exits(127).fails("no such file or directory");
}

#[test]
fn exit_code_126_when_the_program_cannot_run() {
    let host = Host::with_busybox();
    host.docker(["run", "--rm", "busybox", "/etc/passwd"]).exits(126).fails("permission denied");
    host.docker(["run", "--rm", "busybox", "/etc"]).exits(126);
}

#[test]
fn exit_code_125_when_the_engine_refuses() {
    let host = Host::with_busybox();
    host.docker(["run", "--no-such-flag", "busybox"]).exits(125);
    host.docker(["run", "--memory", "1m", "busybox"]).exits(125).fails("Minimum memory limit");
    host.docker(["run", "--rm", "--network", "nowhere", "busybox", "true"]).exits(125);
    assert_eq!(host.docker(["ps", "-aq", "--filter", "status=running"]).ok(), "");
}

#[test]
fn signals_of_stop_and_kill_reach_the_exit_code() {
    let host = Host::with_busybox();
    let run = |name: &str, trap: &str| {
        let script = format!("trap '{trap}' TERM; echo ready; while :; do sleep 0.1; done");
        host.docker(["run", "-d", "--name", name, "busybox", "sh", "-c", &script]).ok();
        host.talk(&["logs", "-f", name]).expect("ready");
    };
    run("polite", "exit 0");
    host.docker(["stop", "polite"]).ok();
    assert_eq!(host.inspect("polite", "{{.State.ExitCode}}"), "0");
    run("killed", "exit 0");
    host.docker(["kill", "killed"]).ok();
    assert_eq!(host.docker(["wait", "killed"]).ok(), "137");
    run("termed", "trap - TERM; kill -TERM 0");
    host.docker(["kill", "-s", "KILL", "termed"]).ok();
    assert_eq!(host.inspect("termed", "{{.State.ExitCode}}"), "137");
}

#[test]
fn sig_proxy_passes_ctrl_c_on() {
    let host = Host::with_busybox();
    let script = "trap 'exit 42' INT; echo ready; while :; do sleep 0.1; done";
    let mut run = host.talk(&["run", "--rm", "busybox", "sh", "-c", script]);
    run.expect("ready");
    run.signal(Signal::INT);
    assert_eq!(run.finish().0, 42);
}

#[test]
fn stdin_is_piped_through_and_closed() {
    let host = Host::with_busybox();
    let input: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let out = host.docker_with(&input, ["run", "-i", "--rm", "busybox", "md5sum"]);
    let here = host.docker_with(&input, ["run", "-i", "--rm", "busybox", "cat"]);
    assert_eq!(here.code, 0);
    assert_eq!(out.ok().len(), "d41d8cd98f00b204e9800998ecf8427e  -".len());
    let empty = host.docker_with(b"", ["run", "-i", "--rm", "busybox", "wc", "-c"]);
    assert_eq!(empty.ok(), "0");
}

#[test]
fn large_output_arrives_whole() {
    let host = Host::with_busybox();
    let script = "i=0; while [ $i -lt 2000 ]; do echo \"line $i ........................\"; i=$((i+1)); done";
    let lines = host.docker(["run", "--rm", "busybox", "sh", "-c", script]).lines();
    assert_eq!(lines.len(), 2000);
    assert!(lines[1999].starts_with("line 1999 "));
}

#[test]
fn rm_leaves_nothing_and_the_name_is_free_at_once() {
    let host = Host::with_busybox();
    for _ in 0..5 {
        host.docker(["run", "--rm", "--name", "same", "busybox", "true"]).ok();
    }
    assert_eq!(host.docker(["ps", "-aq"]).ok(), "");
}

#[test]
fn detached_prints_the_id_and_runs_on() {
    let host = Host::with_busybox();
    let id = host.docker(["run", "-d", "busybox", "sh", "-c", "read x; exit 5"]).ok();
    assert_eq!(id.len(), 64);
    // Without -i its input is empty, so `read` returns at once.
    assert_eq!(host.docker(["wait", &id]).ok(), "5");
}

#[test]
fn environment_user_directory_and_hostname() {
    let host = Host::with_busybox();
    let args =
        ["run", "--rm", "-e", "COLOUR=blue", "-w", "/srv/new", "-h", "named", "-u", "alice:staff"];
    let script = "echo $COLOUR; pwd; hostname; id -u; id -g; echo $HOME";
    let lines = host.docker(args.into_iter().chain(["busybox", "sh", "-c", script])).lines();
    assert_eq!(lines, ["blue", "/srv/new", "named", "1000", "50", "/home/alice"]);
}

#[test]
fn numeric_users_are_never_names() {
    let host = Host::with_busybox();
    let id = |user: &str| host.docker(["run", "--rm", "-u", user, "busybox", "id", "-u"]).ok();
    assert_eq!(id("1"), "1");
    assert_eq!(id("4242"), "4242");
    assert_eq!(id("1000:1000"), "1000");
    host.docker(["run", "--rm", "-u", "nobody-here", "busybox"])
        .exits(125)
        .fails("unable to find user nobody-here");
}

#[test]
fn entrypoint_and_command_combine() {
    let host = Host::with_busybox();
    let out = host.docker(["run", "--rm", "--entrypoint", "echo", "busybox", "a", "b"]);
    assert_eq!(out.ok(), "a b");
    let image = wharf_test::image::on_busybox(
        "greeter:1",
        &serde_json::json!({ "Entrypoint": ["echo", "hello"], "Cmd": ["world"] }),
    );
    host.load(&image);
    assert_eq!(host.docker(["run", "--rm", "greeter:1"]).ok(), "hello world");
    assert_eq!(host.docker(["run", "--rm", "greeter:1", "moon"]).ok(), "hello moon");
}

#[test]
fn cidfile_label_file_and_env_file() {
    let host = Host::with_busybox();
    host.write("env", b"# comment\nA=1\nB=two words\n");
    host.write("labels", b"x=y\n");
    let args = ["run", "-d", "--cidfile", "cid", "--env-file", "env", "--label-file", "labels"];
    let id = host.docker(args.into_iter().chain(["busybox", "env"])).ok();
    assert_eq!(std::fs::read_to_string(host.dir().join("cid")).unwrap(), id);
    assert_eq!(host.docker(["wait", &id]).ok(), "0");
    host.docker(["logs", &id]).says("B=two words");
    assert_eq!(host.inspect(&id, "{{.Config.Labels.x}}"), "y");
}

#[test]
fn init_reaps_and_forwards() {
    let host = Host::with_busybox();
    let out = host.docker(["run", "--rm", "--init", "busybox", "ps", "-o", "pid,args"]);
    let text = out.ok();
    let first = text.lines().find(|l| l.trim_start().starts_with("1 ")).unwrap();
    assert!(first.contains("init"), "{text}");
    host.docker(["run", "--rm", "--init", "busybox", "sh", "-c", "exit 9"]).exits(9);
}

#[test]
fn start_of_a_missing_program_keeps_the_container_for_inspection() {
    let host = Host::with_busybox();
    host.docker(["run", "--name", "bad", "busybox", "nope"]).exits(127);
    assert_eq!(host.inspect("bad", "{{.State.Status}} {{.State.ExitCode}}"), "created 127");
    assert!(host.inspect("bad", "{{.State.Error}}").contains("executable file not found"));
}

#[test]
fn twenty_at_once() {
    let host = Host::with_busybox();
    let host = &host;
    std::thread::scope(|s| {
        let runs: Vec<_> = (0..20)
            .map(|i| {
                let word = format!("run-{i}");
                s.spawn(move || {
                    assert_eq!(host.docker(["run", "--rm", "busybox", "echo", &word]).ok(), word);
                })
            })
            .collect();
        for run in runs {
            run.join().unwrap();
        }
    });
    assert_eq!(host.docker(["ps", "-aq"]).ok(), "");
}
