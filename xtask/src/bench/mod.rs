//! `cargo xtask bench`: wharf and its peers on the same work, in turn, in the same run.

mod build;
mod clients;
mod compose;
mod etcd;
mod images;
mod kube;
mod lab;
mod logs;
mod memory;
mod network;
mod networks;
mod runtime;
mod server;
mod ship;
mod table;
mod timing;

use crate::sh::{cmd, read, root, seconds};
use crate::{machine, tools};
use anyhow::{Context, Result, bail};
use lab::Lab;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;
use table::Row;

pub(crate) use runtime::race_programs;
pub(crate) use server::serve;

/// One subject: its name for the filter, and what measures it.
type Part = (&'static str, fn(&Lab) -> Result<Vec<Row>>);

const PARTS: &[Part] = &[
    ("size", |lab| lab.size()),
    ("memory", memory::measure),
    ("engine", clients::engine),
    ("run", clients::run),
    ("many", clients::many),
    ("exec", clients::exec),
    ("names", networks::measure),
    ("compose", compose::measure),
    ("logs", logs::measure),
    ("images", images::measure),
    ("network", network::measure),
    ("etcd", etcd::measure),
    ("kube", kube::measure),
    ("scale", kube::scale),
    ("ship", ship::measure),
    ("build", build::measure),
    // Last, because it has to build the runtime's examples.
    ("oci", runtime::measure),
];

/// `cargo xtask bench [--quick] [FILTER]`; writes the table unless a filter left parts out.
pub(crate) fn run(args: &[&str]) -> Result<bool> {
    if cfg!(debug_assertions) {
        return optimized(args);
    }
    let (mut quick, mut filter) = (false, None);
    for word in args {
        match *word {
            "--quick" => quick = true,
            flag if flag.starts_with('-') => bail!("unknown flag {flag}"),
            name if PARTS.iter().any(|(part, _)| part.contains(name)) => filter = Some(name),
            other => bail!("no part {other:?}; there are: {}", names()),
        }
    }
    machine::check()?;
    tools::clients()?;
    tools::peers()?;
    tools::ship()?;
    tools::nginx()?;
    let begin = Instant::now();
    let lab = Lab::open(quick)?;
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for (name, part) in PARTS.iter().filter(|(name, _)| filter.is_none_or(|f| name.contains(f))) {
        println!("\n=== {name}");
        match attempt(|| part(&lab)) {
            Ok(more) => {
                more.iter().for_each(|row| println!("{}", row.line()));
                rows.extend(more);
            }
            Err(problem) => {
                println!("failed: {problem}");
                failed.push(format!("- {name}: {}", problem.lines().next().unwrap_or_default()));
            }
        }
        // Now and not at the end, so that a run that is cut short leaves what it has.
        if filter.is_none() {
            record(&lab, &rows, &failed)?;
        }
    }
    println!("\nmeasured in {}", seconds(begin.elapsed()));
    Ok(failed.is_empty())
}

/// Runs this program again, compiled to be fast: a slow client on the same cores would be what is measured.
fn optimized(args: &[&str]) -> Result<bool> {
    let run = ["run", "--quiet", "--profile", "measure", "-p", "xtask", "--", "bench"];
    Ok(crate::sh::cargo().args(run).args(args).status()?.success())
}

/// A part that fails is reported; the others still run. The harness panics on what it did not expect.
fn attempt(part: impl FnOnce() -> Result<Vec<Row>>) -> Result<Vec<Row>, String> {
    match catch_unwind(AssertUnwindSafe(part)) {
        Ok(rows) => rows.map_err(|e| format!("{e:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.unwrap_or_else(|| "a step did not do what it should".to_owned()))
        }
    }
}

fn names() -> String {
    PARTS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
}

fn record(lab: &Lab, rows: &[Row], failed: &[String]) -> Result<()> {
    let path = root().join("bench/RESULTS.md");
    fs::create_dir_all(root().join("bench"))?;
    let mut text = "# Benchmarks\n\n".to_owned();
    text += "`cargo xtask bench` runs wharf and its peers in turn on the same work and writes this file. \
             Figures are medians; the ratio is wharf's figure divided by the peer's.\n\n";
    text += &setting(lab)?;
    text += "\n";
    text += &table::markdown(rows);
    if !failed.is_empty() {
        text += &format!("\nParts that failed and have no figures:\n\n{}\n", failed.join("\n"));
    }
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

/// The machine, the day and the versions, as far as they matter to a reader elsewhere.
fn setting(lab: &Lab) -> Result<String> {
    let date = read(cmd("date").arg("+%Y-%m-%d"))?;
    let kernel = read(cmd("uname").arg("-r"))?;
    let cores = std::thread::available_parallelism()?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or("?");
    let mode = if lab.quick { "quick run (fewer rounds)" } else { "full run" };
    Ok(format!(
        "{}: {cores} cores, Linux {}, cgroup {}, load average {load}; {mode}.\n\n{}\n",
        date.trim(),
        kernel.trim(),
        machine::cgroup(),
        lab.versions()
    ))
}
