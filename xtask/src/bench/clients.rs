//! Containers one by one and many at once, through the API and the command lines.

use super::lab::{Lab, must};
use super::table::{Aim, Row};
use super::timing::{Contender, median, milliseconds, of, race};
use anyhow::Result;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use wharf_test::Host;
use wharf_test::http::Response;

/// What a start and an end cost whoever asks for them.
const KERNEL: &str = "Traced on a loaded machine: each container waits for two grace periods of RCU in the kernel, 1.4 ms to \
                      detach the old root and 0.7 ms to end its mount namespace; a network namespace with its \
                      interfaces takes the kernel 1.5 ms, and wharf itself computes for some 2 ms.";

/// Create, start, wait and delete through the API.
pub(crate) fn engine(lab: &Lab) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (network, word) in [("bridge", "default bridge"), ("none", "no network")] {
        let results = race(
            lab.rounds(40),
            &[
                Contender::new("wharf", || life(&lab.wharf, network)),
                Contender::new("docker", || life(&lab.docker, network)),
            ],
        );
        let wharf = of(&results, "wharf").unwrap_or(f64::NAN);
        let row = Row::new(format!("API create + start + wait + delete, {word}"), "ms", wharf);
        let row = row.peer("docker", of(&results, "docker")).aim(Aim::AtMost(0.05, "docker"));
        rows.push(row.because(KERNEL));
    }
    Ok(rows)
}

/// `run --rm IMAGE true` from the command line's start to its end.
pub(crate) fn run(lab: &Lab) -> Result<Vec<Row>> {
    let args = ["run", "--rm", "busybox", "true"];
    let results = race(
        lab.rounds(30),
        &[
            Contender::new("wharf", || must(lab.wharf_cli().args(args))),
            Contender::new("docker on wharf", || must(lab.wharf.docker_command().args(args))),
            Contender::new("docker", || must(lab.docker.docker_command().args(args))),
            Contender::new("podman", || must(lab.podman().args(args))),
        ],
    );
    let row = |work: &str, who, aim| {
        Row::new(work, "ms", of(&results, who).unwrap_or(f64::NAN))
            .peer("docker", of(&results, "docker"))
            .peer("podman", of(&results, "podman"))
            .aim(aim)
            .because(KERNEL)
    };
    Ok(vec![
        row("`run --rm IMAGE true`, wharf's own CLI", "wharf", Aim::AtMost(0.05, "docker")),
        row(
            "`run --rm IMAGE true`, docker CLI on wharf",
            "docker on wharf",
            Aim::AtMost(0.125, "docker"),
        ),
    ])
}

/// Containers at once: all together, and by a few workers.
pub(crate) fn many(lab: &Lab) -> Result<Vec<Row>> {
    let args = ["run", "--rm", "busybox", "true"];
    let wharf = || must(lab.wharf_cli().args(args));
    let docker = || must(lab.docker.docker_command().args(args));
    let sizes: &[(usize, usize)] =
        if lab.quick { &[(20, 20), (40, 8)] } else { &[(20, 20), (100, 8)] };
    let mut rows = Vec::new();
    for &(count, workers) in sizes {
        let ours: Vec<f64> = (0..3).map(|_| crowd(count, workers, &wharf)).collect();
        let theirs = crowd(count, workers, &docker);
        let work = format!("{count} × `run --rm IMAGE true` by {workers} workers");
        let row = Row::new(work, "s", median(ours)).peer("docker", Some(theirs));
        rows.push(row.aim(Aim::AtMost(1.0 / 15.0, "docker")).because(KERNEL));
    }
    Ok(rows)
}

/// `exec true` in a running container.
pub(crate) fn exec(lab: &Lab) -> Result<Vec<Row>> {
    for host in [&lab.wharf, &lab.docker] {
        host.sleeper("target");
    }
    must(lab.podman().args(["run", "-d", "--name", "target", "busybox", "sleep", "1000"]));
    let args = ["exec", "target", "true"];
    let results = race(
        lab.rounds(40),
        &[
            Contender::new("wharf", || must(lab.wharf_cli().args(args))),
            Contender::new("docker", || must(lab.docker.docker_command().args(args))),
            Contender::new("podman", || must(lab.podman().args(args))),
            Contender::new("wharf API", || api_exec(&lab.wharf)),
            Contender::new("docker API", || api_exec(&lab.docker)),
        ],
    );
    for host in [&lab.wharf, &lab.docker] {
        host.docker(["rm", "-f", "target"]).ok();
    }
    must(lab.podman().args(["rm", "-f", "-t", "0", "target"]));
    let figure = |who| of(&results, who).unwrap_or(f64::NAN);
    Ok(vec![
        Row::new("`exec true`, CLI", "ms", figure("wharf"))
            .peer("docker", of(&results, "docker"))
            .peer("podman", of(&results, "podman"))
            .aim(Aim::AtMost(0.1, "docker")),
        Row::new("`exec true`, API", "ms", figure("wharf API"))
            .peer("docker", of(&results, "docker API"))
            .aim(Aim::AtMost(0.1, "docker")),
    ])
}

/// A container's whole life through the API.
pub(crate) fn life(host: &Host, network: &str) {
    let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": network}});
    let id = created(host, "/containers/create", &body);
    expect(host, "POST", &format!("/containers/{id}/start"), b"", 204);
    expect(host, "POST", &format!("/containers/{id}/wait"), b"", 200);
    expect(host, "DELETE", &format!("/containers/{id}"), b"", 204);
}

fn api_exec(host: &Host) {
    let body = json!({"Cmd": ["true"], "AttachStdout": true, "AttachStderr": true});
    let id = created(host, "/containers/target/exec", &body);
    expect(host, "POST", &format!("/exec/{id}/start"), b"{}", 200);
    let state = expect(host, "GET", &format!("/exec/{id}/json"), b"", 200).json();
    assert_eq!(state["ExitCode"], 0, "{state}");
}

fn created(host: &Host, target: &str, body: &serde_json::Value) -> String {
    let answer = expect(host, "POST", target, body.to_string().as_bytes(), 201).json();
    answer["Id"].as_str().expect("an answer with an Id").to_owned()
}

fn expect(host: &Host, method: &str, target: &str, body: &[u8], status: u16) -> Response {
    let answer = host.api(method, target, body).unwrap_or_else(|e| panic!("{target}: {e}"));
    assert_eq!(answer.status, status, "{method} {target}: {}", answer.text());
    answer
}

/// Seconds until `count` pieces of work are done by `workers`.
fn crowd(count: usize, workers: usize, work: &(impl Fn() + Sync)) -> f64 {
    let next = AtomicUsize::new(0);
    let all = || {
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while next.fetch_add(1, Ordering::Relaxed) < count {
                        work()
                    }
                });
            }
        });
    };
    milliseconds(all) / 1e3
}
