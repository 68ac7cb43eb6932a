//! A container that writes a lot to its log, and a reader of all of it.

use super::lab::{Lab, must};
use super::table::{Aim, Row};
use super::timing::{median, milliseconds};
use anyhow::Result;
use wharf_test::Host;

pub(crate) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let megabytes = if lab.quick { 50 } else { 200 };
    let (mut ours, mut theirs) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for _ in 0..if lab.quick { 1 } else { 3 } {
        for (host, into) in [(&lab.wharf, &mut ours), (&lab.docker, &mut theirs)] {
            let (write, read) = once(host, megabytes);
            into.0.push(write);
            into.1.push(read);
        }
    }
    let podman = podman(lab, megabytes);
    let row = |work: &str, wharf, docker, podman, aim| {
        let work = format!("{work}, {megabytes} MB of 100-byte lines");
        Row::new(work, "MB/s", median(wharf))
            .peer("docker", Some(median(docker)))
            .peer("podman", Some(podman))
            .aim(aim)
    };
    Ok(vec![
        row("writing to the log", ours.0, theirs.0, podman.0, Aim::AtLeast(5.0, "docker")),
        row("reading it back", ours.1, theirs.1, podman.1, Aim::AtLeast(10.0, "docker")),
    ])
}

/// Megabytes a second of writing and of reading.
fn once(host: &Host, megabytes: usize) -> (f64, f64) {
    let (volume, script) = (lines(host), script(megabytes));
    // Logs of both are kept whole.
    let args = [
        "run",
        "-d",
        "--name",
        "log",
        "--log-driver",
        "json-file",
        "--log-opt",
        "max-size=2g",
        "-v",
        &volume,
        "busybox",
        "sh",
        "-c",
        &script,
    ];
    let write = milliseconds(|| {
        host.docker(args).ok();
        host.docker(["wait", "log"]).ok();
    });
    let read = milliseconds(|| {
        let answer = host.api("GET", "/containers/log/logs?stdout=1", b"").expect("read the log");
        // Each line comes with a header of its own, or many share one.
        assert!(
            answer.body.len() >= megabytes * 1_000_000,
            "only {} bytes came back",
            answer.body.len()
        );
    });
    host.docker(["rm", "-f", "log"]).ok();
    (rate(megabytes, write), rate(megabytes, read))
}

fn podman(lab: &Lab, megabytes: usize) -> (f64, f64) {
    let (volume, script) = (lines(&lab.peers), script(megabytes));
    let args = ["run", "--name", "log", "--log-driver", "k8s-file", "-d", "-v", &volume];
    let args = args.into_iter().chain(["busybox", "sh", "-c", &script]);
    let write = milliseconds(|| {
        must(lab.podman().args(args.clone()));
        must(lab.podman().args(["wait", "log"]));
    });
    let read = milliseconds(|| must(lab.podman().args(["logs", "log"])));
    must(lab.podman().args(["rm", "-f", "-t", "0", "log"]));
    (rate(megabytes, write), rate(megabytes, read))
}

/// A file of lines as a volume of the container, so that what writes them costs next to nothing.
fn lines(host: &Host) -> String {
    let line = format!("{}\n", "x".repeat(99));
    let path = host.write("lines", line.repeat(100_000).as_bytes());
    format!("{}:/lines:ro", path.display())
}

fn script(megabytes: usize) -> String {
    format!("i=0; while [ $i -lt {} ]; do cat /lines; i=$((i+1)); done", megabytes / 10)
}

fn rate(megabytes: usize, milliseconds: f64) -> f64 {
    megabytes as f64 / milliseconds * 1e3
}
