//! Compose: a project of twenty services up, up again and down; wharf on wharf, stock on dockerd.

use super::lab::{Lab, must};
use super::table::{Aim, Row};
use super::timing::{median, milliseconds};
use anyhow::Result;
use std::process::Command;
use wharf_test::{Host, tools};

const SERVICES: usize = 20;

/// Services in a few layers, as projects have them: most depend on one of the first three.
fn project() -> String {
    let service = |n: usize| {
        let depends = if n < 3 { String::new() } else { format!("    depends_on: [s{}]\n", n % 3) };
        format!(
            "  s{n}:\n    image: busybox\n    command: sleep 100000\n    stop_grace_period: 0s\n{depends}"
        )
    };
    let services: String = (0..SERVICES).map(service).collect();
    format!("name: bench\nservices:\n{services}")
}

pub(crate) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let wharf = |host: &Host| {
        let mut c = host.client(&lab.binary);
        c.arg("compose");
        c
    };
    let stock = |host: &Host| host.client(tools::path("docker-compose"));
    type Client<'a> = &'a dyn Fn(&Host) -> Command;
    let sides: [(&str, &Host, Client<'_>); 3] = [
        ("wharf", &lab.wharf, &wharf),
        ("docker", &lab.docker, &stock),
        ("stock on wharf", &lab.wharf, &stock),
    ];
    let mut times: [[Vec<f64>; 3]; 3] = Default::default();
    for (_, host, _) in &sides {
        host.write("bench/compose.yaml", project().as_bytes());
    }
    for _ in 0..lab.rounds(5) {
        for ((_, host, client), times) in sides.iter().zip(&mut times) {
            let run = |args: &[&str]| {
                let mut c = client(host);
                c.current_dir(host.dir().join("bench")).args(args);
                milliseconds(|| must(&mut c))
            };
            times[0].push(run(&["up", "-d"]));
            let running = host.docker(["ps", "-q"]).lines();
            anyhow::ensure!(running.len() >= SERVICES, "only {} containers run", running.len());
            times[1].push(run(&["up", "-d"]));
            times[2].push(run(&["down"]));
        }
    }
    let of = |side: usize, what: usize| median(times[side][what].clone());
    let row = |what: &str, at: usize| {
        Row::new(what, "ms", of(0, at))
            .peer("docker", Some(of(1, at)))
            .peer("stock compose on wharf", Some(of(2, at)))
    };
    Ok(vec![
        row("compose: up of 20 services", 0).aim(Aim::AtMost(0.25, "docker")),
        row("compose: up when nothing has changed", 1).aim(Aim::Below(50.0)),
        row("compose: down of 20 services", 2).aim(Aim::AtMost(0.25, "docker")),
    ])
}
