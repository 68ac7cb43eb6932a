//! A big tree on its way into the store, as multiples of a plain `tar -xf` of it.

use super::lab::{Lab, must};
use super::table::{Aim, Row};
use super::timing::{median, milliseconds, of};
use crate::sh::{cmd, run};
use anyhow::Result;
use serde_json::json;
use std::fs;
use std::path::Path;
use wharf_test::image::{Image, folder_layer};
use wharf_test::registry::Registry;
use wharf_test::tools;

/// Bytes of the tree, about.
const SIZE: u64 = 204_000_000;

pub(crate) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let dir = lab.wharf.dir().join("big");
    gather(&dir)?;
    let layer = folder_layer(&dir.join("tree"));
    let megabytes = layer.len() as f64 / 1e6;
    fs::write(dir.join("tree.tar"), &layer)?;
    let image = Image::new("big:latest", layer, &json!({"Cmd": ["true"]}));
    fs::write(dir.join("image.tar"), image.docker_archive())?;
    let tar = dir.join("tree.tar").display().to_string();
    let archive = dir.join("image.tar").display().to_string();
    let out = dir.join("out");
    let plain = || {
        fs::remove_dir_all(&out).ok();
        fs::create_dir_all(&out).expect("make a directory");
        must(cmd("tar").arg("-xf").arg(&tar).arg("-C").arg(&out));
    };
    let ours = Registry::serve(lab.wharf.init(), &[&image], None);
    let theirs = Registry::serve(lab.docker.init(), &[&image], None);
    let names = [&ours, &theirs].map(|r| format!("{}/big:latest", r.address));
    let mut rows = Vec::new();
    for (work, words) in [
        ("import", [["import", &tar]; 2]),
        ("load", [["load", &archive]; 2]),
        ("pull", [["pull", &names[0]], ["pull", &names[1]]]),
    ] {
        let results = compare(lab, &plain, words);
        let floor = of(&results, "tar").unwrap_or(f64::NAN);
        let times = |who| of(&results, who).map(|v| v / floor);
        let work = format!("{work} of a {megabytes:.0} MB tree ÷ `tar -xf` of it ({floor:.0} ms)");
        let row = Row::new(work, "×", times("wharf").unwrap_or(f64::NAN));
        rows.push(row.peer("docker", times("docker")).aim(Aim::Below(0.7)));
    }
    fs::remove_dir_all(&dir)?;
    Ok(rows)
}

/// Plain tar, wharf and dockerd in turn; what came in goes before the next round, untimed.
fn compare(lab: &Lab, plain: &dyn Fn(), words: [[&str; 2]; 2]) -> Vec<(&'static str, f64)> {
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..if lab.quick { 2 } else { 4 } {
        settle();
        times[0].push(milliseconds(plain));
        for (index, host) in [&lab.wharf, &lab.docker].into_iter().enumerate() {
            let [verb, source] = words[index];
            let mut c = host.docker_command();
            match verb {
                "load" => c.args(["load", "-q", "-i", source]),
                "import" => c.args(["import", source, "big:latest"]),
                _ => c.args(["pull", "-q", source]),
            };
            settle();
            times[index + 1].push(milliseconds(|| must(&mut c)));
            let name = if verb == "pull" { source } else { "big:latest" };
            host.docker(["rmi", "-f", name]).ok();
        }
    }
    // The first round of each finds a cold page cache.
    for times in &mut times {
        times.remove(0);
    }
    ["tar", "wharf", "docker"].into_iter().zip(times.map(median)).collect()
}

/// Lets the disk finish what the one before left to be written.
fn settle() {
    must(&mut cmd("sync"));
}

/// Copies programs, libraries and Python's many small files until the tree is big enough.
fn gather(dir: &Path) -> Result<()> {
    let tree = dir.join("tree");
    fs::create_dir_all(&tree)?;
    for name in ["python", "nginx", "dockerd"] {
        let from = tools::path(name).join("usr");
        let to = tree.join(name);
        fs::create_dir_all(&to)?;
        for part in ["lib", "share", "bin"] {
            let left = SIZE.saturating_sub(size(&tree));
            if left > 0 && from.join(part).exists() && size(&from.join(part)) <= left + SIZE / 10 {
                run(cmd("cp").arg("-a").arg(from.join(part)).arg(&to))?;
            }
        }
    }
    Ok(())
}

/// Bytes of all files below a directory.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => size(&e.path()),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}
