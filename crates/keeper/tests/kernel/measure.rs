//! Figures, printed; only gross regressions fail.

use crate::host::{Host, parent};

pub(crate) async fn memory_of_an_idle_keeper(host: Host) {
    let mut all = Vec::new();
    let launcher = i32::try_from(host.launcher.pid()).unwrap();
    let before = pss(launcher);
    for n in 1..=10 {
        all.push(host.launch(host.container(&["sleep", "1000"])).await.unwrap());
        // Memory of the launch is given back after half a second of quiet.
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        let keepers: u64 = all.iter().map(|l| pss(parent(l.started.pid).unwrap())).sum();
        let both = keepers + pss(launcher);
        println!(
            "    {n} keepers: {} KiB each, launcher {} KiB, a further container costs {} KiB",
            keepers / n,
            pss(launcher),
            (both - before) / n
        );
    }
    for launched in &all {
        launched.keeper.signal(9).await.unwrap();
    }
    for launched in all {
        crate::host::finish(launched).await;
    }
}

/// Proportional set size in KiB.
fn pss(pid: i32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find(|l| l.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
