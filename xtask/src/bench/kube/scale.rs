//! Scale: many pods on many nodes that only pretend, and what the server costs and answers then.

use super::super::table::{Aim, Row};
use super::{CLIENTS, Client, Server, count, load, pod, run};
use anyhow::{Result, bail};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const NAMESPACES: usize = 100;

/// Creates pods, waits until the scheduler and the nodes have them running, and measures what is there then.
pub(super) fn measure(quick: bool, rows: &mut Vec<Row>) -> Result<()> {
    let (pods, nodes) = if quick { (5_000, 250) } else { (100_000, 5_000) };
    let patience = Duration::from_secs(if quick { 120 } else { 600 });
    let flags = ["--fake-nodes".to_owned(), nodes.to_string()];
    let server = Server::start(&flags, &mut Vec::new())?;
    let begin = Instant::now();
    let space = |n: usize| format!("/api/v1/namespaces/s{}", n % NAMESPACES);
    let namespace = |c: &mut Client, n: usize| {
        let body = format!("{{\"metadata\":{{\"name\":\"s{n}\"}}}}");
        c.send("POST", "/api/v1/namespaces", &body, 201)
    };
    count(&server, NAMESPACES, &namespace)?;
    let mut client = server.client()?;
    for n in 0..NAMESPACES {
        let account = format!("{}/serviceaccounts/default", space(n));
        until(begin, patience, &account, || client.send("GET", &account, "", 200).is_ok())?;
    }
    let create = |c: &mut Client, n: usize| {
        c.send("POST", &format!("{}/pods", space(n)), &pod(n, "1m"), 201)
    };
    let begin = Instant::now();
    let in_time = |n: usize| n < pods && begin.elapsed() < patience;
    let made = run(&server, CLIENTS, &in_time, &create)?;
    if made.times.len() < pods {
        bail!("only {} of {pods} pods were created in {patience:?}", made.times.len());
    }
    let waiting = "/api/v1/pods?fieldSelector=status.phase!%3DRunning&limit=1";
    until(begin, patience, "the last pod", || {
        // A connection that rested would have been closed.
        let answer =
            server.client().and_then(|mut c| c.ask("GET", waiting, "application/json", "", 200));
        answer.is_ok_and(|a| a.json()["items"].as_array().is_some_and(Vec::is_empty))
    })?;
    let work = format!("{pods} pods on {nodes} nodes");
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = pods as f64 / begin.elapsed().as_secs_f64();
    rows.push(Row::new(format!("{work}: created, scheduled and running"), "/s", rate));
    let next = AtomicUsize::new(0);
    let get = |c: &mut Client, _: usize| {
        // Far apart, so that nothing is still at hand from the one before.
        let n = next.fetch_add(7_919, Ordering::Relaxed) % pods;
        c.send("GET", &format!("{}/pods/p{n}", space(n)), "", 200)
    };
    let time = Duration::from_secs(if quick { 3 } else { 10 });
    let got = load(&server, CLIENTS, time, &get)?;
    let row = Row::new(
        format!("{work}: get a pod, 8 clients, 99th percentile"),
        "ms",
        got.percentile(99),
    );
    rows.push(row.aim(Aim::Below(10.0)));
    let resident = server.resident()?;
    let row = Row::new(format!("{work}: resident"), "MB", resident);
    rows.push(if quick { row } else { row.aim(Aim::Below(1_500.0)) });
    let (cpu, idle) = (server.cpu()?, Duration::from_secs(10));
    std::thread::sleep(idle);
    let used = (server.cpu()? - cpu) / idle.as_secs_f64() * 1e3;
    rows.push(Row::new(format!("{work}: processor for the nodes' leases"), "millicores", used));
    Ok(())
}

fn until(
    begin: Instant,
    patience: Duration,
    what: &str,
    mut is: impl FnMut() -> bool,
) -> Result<()> {
    while !is() {
        if begin.elapsed() > patience {
            bail!("{what} does not come in {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
