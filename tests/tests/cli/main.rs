//! wharf's command line beside the stock docker CLI, on one engine: same output, same exit codes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod build;
mod build_cache;
mod build_context;
mod changing;
mod reading;
mod sides;

use sides::{Side, Sides};
use wharf_test::Terminal;

/// The containers that the reading commands look at.
const STAYING: &[&str] = &["sleeper", "ended", "made", "two", "tty"];

/// A host with something in every list.
fn furnished() -> Sides {
    let sides = Sides::start();
    let host = &sides.host;
    let docker = |args: &[&str]| drop(host.docker(args).ok());
    docker(&["volume", "create", "--label", "a=b", "vol1"]);
    docker(&["network", "create", "--label", "n=1", "net1"]);
    let labelled = ["run", "-d", "--name", "sleeper", "--label", "role=x", "--stop-timeout", "0"];
    let rest = ["-p", "8081:80", "-v", "vol1:/data", "busybox", "sleep", "100000"];
    docker(&[&labelled[..], &rest[..]].concat());
    let script = "echo out; echo err >&2; touch /new; rm /etc/group; exit 3";
    host.docker(["run", "--name", "ended", "busybox", "sh", "-c", script]).exits(3);
    docker(&[
        "create",
        "--name",
        "made",
        "--network",
        "net1",
        "--restart",
        "always",
        "busybox",
        "true",
    ]);
    host.sleeper("two");
    let script = "mkdir -p /d/sub; echo hello >/d/f; ln -s f /d/l; chown 1000:1000 /d/f";
    docker(&["exec", "sleeper", "sh", "-c", script]);
    docker(&["run", "--name", "tty", "-t", "busybox", "echo", "tty"]);
    sides
}

#[test]
fn lists_are_the_same() {
    furnished().read(STAYING, reading::LISTS);
}

#[test]
fn inspections_are_the_same() {
    furnished().read(STAYING, reading::INSPECTIONS);
}

#[test]
fn programs_in_containers_answer_the_same() {
    furnished().read(STAYING, reading::EXECS);
}

#[test]
fn refusals_are_the_same() {
    furnished().read(STAYING, reading::REFUSALS);
}

macro_rules! scripts {
    ($($name:ident: $script:ident,)*) => {
        $(#[test] fn $name() { Sides::start().change(changing::$script); })*
    };
}

scripts! {
    runs: RUNS,
    life: LIFE,
    created: CREATED,
    options: OPTIONS,
    mounts: MOUNTS,
    endings: ENDINGS,
    volumes: VOLUMES,
    networks: NETWORKS,
    tags: TAGS,
    images: IMAGES,
    logs: LOGS,
    restarts: RESTARTS,
    sharing: SHARING,
}

/// What a person sees who works in a container and leaves it.
fn session(sides: &Sides, side: Side, verb: &[&str], leave: &str) -> (i32, String) {
    let mut terminal = Terminal::start(sides.command(side).args(verb));
    // The shell throws away what is typed before it asks; one that is attached to has asked already.
    terminal.send("\r");
    terminal.expect("# ");
    terminal.send("echo to''gether\r");
    terminal.expect("\ntogether");
    terminal.expect("# ");
    terminal.resize(30, 100);
    terminal.send("until stty size | grep '30 100'; do :; done\r");
    terminal.expect("\n30 100");
    terminal.expect("# ");
    terminal.send(leave);
    let (code, text) = terminal.finish();
    // How often the shell had to look is a matter of time.
    // So is whether it repaints its prompt for the new size before the end.
    let text = text.replace("\r/ # \u{1b}[J", "");
    let text = text.lines().last().unwrap_or_default().replace("docker", "wharf");
    (code, text)
}

#[test]
fn terminals_behave_the_same() {
    let sides = Sides::start();
    let run = &["run", "-it", "--rm", "busybox", "sh"][..];
    for leave in ["exit 7\r", "\x04"] {
        let [docker, wharf] =
            [Side::Docker, Side::Wharf].map(|side| session(&sides, side, run, leave));
        assert_eq!(docker, wharf, "leaving by {leave:?}");
    }
}

#[test]
fn detaching_behaves_the_same() {
    let sides = Sides::start();
    let ends = [Side::Docker, Side::Wharf].map(|side| {
        let run = &["run", "-it", "--name", "box", "--stop-timeout", "0", "busybox", "sh"][..];
        let left = session(&sides, side, run, "\x10\x11");
        assert_eq!(sides.host.inspect("box", "{{.State.Running}}"), "true");
        let attach = &["attach", "--detach-keys", "ctrl-a,x", "box"][..];
        let again = session(&sides, side, attach, "\x01x");
        let exec = session(&sides, side, &["exec", "-it", "box", "sh"][..], "exit 5\r");
        sides.host.docker(["rm", "-f", "box"]).ok();
        (left, again, exec)
    });
    assert_eq!(ends[0], ends[1]);
}
