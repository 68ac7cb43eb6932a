//! What an engine weighs: alone, per container, and after load.

use super::clients::life;
use super::lab::{Lab, must};
use super::table::{Aim, Row};
use anyhow::Result;
use std::fs;
use std::time::Duration;
use wharf_test::Host;

/// Containers over which the weight of one is averaged.
const CONTAINERS: usize = 10;

pub(crate) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let idle = [weight(&lab.wharf), weight(&lab.docker)];
    let each = [per_container(&lab.wharf), per_container(&lab.docker)];
    let podman = per_container_podman(lab);
    let count = lab.rounds(100);
    for host in [&lab.wharf, &lab.docker] {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..count.div_ceil(8)).for_each(|_| life(host, "bridge")));
            }
        });
    }
    let after = [weight(&lab.wharf), weight(&lab.docker)];
    Ok(vec![
        Row::new("idle engine, PSS", "MB", idle[0])
            .peer("docker", Some(idle[1]))
            .aim(Aim::Below(15.0)),
        Row::new(format!("the same after {count} containers"), "MB", after[0])
            .peer("docker", Some(after[1]))
            .aim(Aim::Below(15.0)),
        Row::new("each running container: PSS of all that is not the container", "MB", each[0])
            .peer("docker", Some(each[1]))
            .peer("podman", Some(podman))
            .aim(Aim::Below(0.3)),
    ])
}

fn per_container(host: &Host) -> f64 {
    let before = weight(host);
    let names: Vec<String> = (0..CONTAINERS).map(|n| format!("weight-{n}")).collect();
    names.iter().for_each(|name| host.sleeper(name));
    let more = weight(host) - before;
    host.docker(["rm", "-f"].into_iter().map(str::to_owned).chain(names)).ok();
    more / CONTAINERS as f64
}

fn per_container_podman(lab: &Lab) -> f64 {
    let before = weight(&lab.peers);
    let names: Vec<String> = (0..CONTAINERS).map(|n| format!("weight-{n}")).collect();
    for name in &names {
        must(lab.podman().args(["run", "-d", "--name", name, "busybox", "sleep", "1000"]));
    }
    let more = weight(&lab.peers) - before;
    must(lab.podman().args(["rm", "-f", "-t", "0"]).args(&names));
    more / CONTAINERS as f64
}

/// How long an engine is left alone before it is weighed: what it keeps at hand for the next request is not what it
/// idles with.
const LULL: Duration = Duration::from_secs(6);

/// Megabytes (proportional share) of all processes of a host but its first. The processes of
/// containers live in process namespaces below and do not count.
fn weight(host: &Host) -> f64 {
    std::thread::sleep(LULL);
    let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = space(&host.init().to_string());
    let mut kilobytes = 0.0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(|c: char| c.is_ascii_digit())
            || name == host.init().to_string()
            || space(&name) != own
        {
            continue;
        }
        let map = fs::read_to_string(entry.path().join("smaps_rollup")).unwrap_or_default();
        let pss = map.lines().find_map(|l| l.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
        kilobytes += pss.and_then(|n| n.trim().parse::<f64>().ok()).unwrap_or(0.0);
    }
    kilobytes / 1e3
}
