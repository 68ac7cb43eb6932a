//! Ladder step 4: logs with all flags.

use wharf_test::Host;

const THREE: &str = "echo one; echo two >&2; echo three";

#[test]
fn streams_stay_apart() {
    let host = Host::with_busybox();
    host.docker(["run", "--name", "box", "busybox", "sh", "-c", THREE]).ok();
    let out = host.docker(["logs", "box"]);
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("one\nthree\n", "two\n"));
}

#[test]
fn tail_counts_lines_from_the_end() {
    let host = Host::with_busybox();
    let script = "for i in 1 2 3 4 5; do echo $i; done";
    host.docker(["run", "--name", "box", "busybox", "sh", "-c", script]).ok();
    let tail = |n: &str| host.docker(["logs", "--tail", n, "box"]).ok().replace('\n', " ");
    assert_eq!(tail("2"), "4 5");
    assert_eq!(tail("0"), "");
    assert_eq!(tail("99"), "1 2 3 4 5");
    assert_eq!(tail("all"), "1 2 3 4 5");
}

#[test]
fn timestamps_have_nine_digits() {
    let host = Host::with_busybox();
    host.docker(["run", "--name", "box", "busybox", "echo", "hi"]).ok();
    let line = host.docker(["logs", "-t", "box"]).ok();
    let (time, text) = line.split_once(' ').unwrap();
    assert_eq!(text, "hi");
    let (_, fraction) = time.split_once('.').unwrap();
    assert_eq!(fraction.len(), "123456789Z".len(), "{time}");
}

#[test]
fn since_and_until_cut_by_time() {
    let host = Host::with_busybox();
    host.docker([
        "run",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "echo a; sleep 0.05; echo b; sleep 0.05; echo c",
    ])
    .ok();
    let lines = host.docker(["logs", "-t", "box"]).lines();
    let time = |i: usize| lines[i].split(' ').next().unwrap().to_owned();
    let since = host.docker(["logs", "--since", &time(1), "box"]).lines();
    assert_eq!(since, ["b", "c"]);
    let until = host.docker(["logs", "--until", &time(1), "box"]).lines();
    assert_eq!(until, ["a", "b"]);
    assert_eq!(host.docker(["logs", "--since", "2100-01-01T00:00:00Z", "box"]).ok(), "");
}

#[test]
fn follow_waits_for_the_last_line_and_ends_with_the_container() {
    let host = Host::with_busybox();
    let script = "echo first; read x; echo last; exit 0";
    host.docker(["run", "-d", "-i", "--name", "box", "busybox", "sh", "-c", script]).ok();
    let mut follow = host.talk(&["logs", "-f", "box"]);
    follow.expect("first\n");
    let mut attach = host.talk(&["attach", "box"]);
    attach.send("\n");
    follow.expect("last\n");
    assert_eq!(follow.finish().0, 0);
}

#[test]
fn follow_of_a_stopped_container_ends_at_once() {
    let host = Host::with_busybox();
    host.docker(["run", "--name", "box", "busybox", "echo", "over"]).ok();
    assert_eq!(host.docker(["logs", "-f", "box"]).ok(), "over");
}

#[test]
fn lines_of_earlier_runs_remain() {
    let host = Host::with_busybox();
    host.docker(["run", "--name", "box", "busybox", "echo", "run"]).ok();
    host.docker(["start", "-a", "box"]).ok();
    assert_eq!(host.docker(["logs", "box"]).lines(), ["run", "run"]);
}

#[test]
fn a_last_line_without_newline_is_kept() {
    let host = Host::with_busybox();
    host.docker(["run", "--name", "box", "busybox", "printf", "no newline"]).ok();
    assert_eq!(host.docker(["logs", "box"]).stdout, "no newline");
}

#[test]
fn long_lines_come_back_whole() {
    let host = Host::with_busybox();
    let script = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo next";
    host.docker(["run", "--name", "box", "busybox", "sh", "-c", script]).ok();
    let lines = host.docker(["logs", "box"]).lines();
    assert_eq!((lines[0].len(), lines[1].as_str()), (100_000, "next"));
}

#[test]
fn rotation_keeps_the_newest_lines_within_bounds() {
    let host = Host::with_busybox();
    let script = "i=0; while [ $i -lt 20000 ]; do echo \"line number $i padded to be long enough\"; i=$((i+1)); done";
    host.docker([
        "run",
        "--name",
        "box",
        "--log-opt",
        "max-size=100k",
        "--log-opt",
        "max-file=2",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    let lines = host.docker(["logs", "box"]).lines();
    assert!(lines.len() < 20_000, "nothing was rotated away");
    assert_eq!(lines.last().unwrap(), "line number 19999 padded to be long enough");
}

#[test]
fn drivers_none_and_local() {
    let host = Host::with_busybox();
    host.docker(["run", "--name", "none-log", "--log-driver", "none", "busybox", "echo", "x"])
        .says("x");
    host.docker(["logs", "none-log"]).fails("configured logging driver does not support reading");
    host.docker(["run", "--name", "loc", "--log-driver", "local", "busybox", "echo", "kept"]).ok();
    assert_eq!(host.docker(["logs", "loc"]).ok(), "kept");
    host.docker(["run", "--log-driver", "smoke-signals", "busybox"])
        .exits(125)
        .fails("smoke-signals");
}

#[test]
fn details_show_labels_and_environment_that_were_asked_for() {
    let host = Host::with_busybox();
    host.docker([
        "run",
        "--name",
        "box",
        "--label",
        "tier=db",
        "-e",
        "ZONE=eu",
        "--log-opt",
        "labels=tier",
        "--log-opt",
        "env=ZONE",
        "busybox",
        "echo",
        "x",
    ])
    .ok();
    let line = host.docker(["logs", "--details", "box"]).ok();
    assert!(line.contains("ZONE=eu") && line.contains("tier=db") && line.ends_with(" x"), "{line}");
}

#[test]
fn a_log_that_nobody_waits_for_is_read_back() {
    let host = Host::with_busybox();
    let options = ["--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=4m"];
    let command = ["--name", "box", "busybox", "sh", "-c", "seq 1 1000"];
    host.docker([&["run"], &options[..], &command[..]].concat()).ok();
    let numbers: Vec<String> = (1..=1000).map(|n| n.to_string()).collect();
    assert_eq!(host.docker(["logs", "box"]).lines(), numbers);
    assert_eq!(host.docker(["logs", "--follow", "--tail", "1", "box"]).ok(), "1000");
}
