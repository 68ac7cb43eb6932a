//! What an engine can leak: mounts, links, cgroups, firewall rules, processes, directories.

use crate::tools;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One look at a host. Entries are lines that a person can read.
pub struct World {
    entries: BTreeSet<String>,
}

impl World {
    /// Looks at the host of process `init`, whose engine lives in `dir` and under `cgroup`.
    ///
    /// `engine` and its children are left out: after a crash they are others than before.
    pub fn see(init: u32, engine: Option<u32>, dir: &Path, cgroup: &str) -> World {
        let mut entries = BTreeSet::new();
        mounts(init, &mut entries);
        links(init, &mut entries);
        rules(init, &mut entries);
        processes(init, engine, &mut entries);
        for at in cgroups(cgroup) {
            entries.insert(format!("cgroup {}", at.display()));
        }
        for sub in ["data/containers", "exec/containers", "data/volumes"] {
            for entry in fs::read_dir(dir.join(sub)).into_iter().flatten().flatten() {
                entries.insert(format!("file {}", entry.path().display()));
            }
        }
        World { entries }
    }

    /// What is here and was not there `before`, a line each.
    pub fn beyond(&self, before: &World) -> String {
        let new: Vec<&str> = self.entries.difference(&before.entries).map(String::as_str).collect();
        new.join("\n")
    }

    /// Removes the cgroups of a host that is gone.
    pub fn sweep(cgroup: &str) {
        for at in cgroups(cgroup) {
            // The frozen cannot die. Only one of the two files is there, if any.
            for (file, free) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
                let file = at.join(file);
                if file.exists() {
                    fs::write(file, free).ok();
                }
            }
        }
        crate::settles(|| {
            // Deepest first: a cgroup with children cannot go.
            let all = cgroups(cgroup);
            for at in all.iter().rev() {
                if fs::remove_dir(at).is_err() {
                    return None;
                }
            }
            let top = hierarchies().into_iter().map(|h| h.join(cgroup.trim_start_matches('/')));
            top.filter(|t| t.exists()).all(|t| fs::remove_dir(t).is_ok()).then_some(())
        });
    }
}

fn mounts(init: u32, entries: &mut BTreeSet<String>) {
    let table = fs::read_to_string(format!("/proc/{init}/mountinfo")).unwrap_or_default();
    for line in table.lines() {
        if let Some(point) = line.split(' ').nth(4) {
            entries.insert(format!("mount {point}"));
        }
    }
}

fn links(init: u32, entries: &mut BTreeSet<String>) {
    let table = fs::read_to_string(format!("/proc/{init}/net/dev")).unwrap_or_default();
    for line in table.lines().skip(2) {
        if let Some((name, _)) = line.split_once(':') {
            entries.insert(format!("link {}", name.trim()));
        }
    }
}

/// The rules as nft lists them, without counters, each under its table and chain.
fn rules(init: u32, entries: &mut BTreeSet<String>) {
    let out = Command::new("nsenter")
        .args(["-t", &init.to_string(), "-n", "--"])
        .arg(tools::path("nft"))
        .args(["--stateless", "list", "ruleset"])
        .output()
        .expect("start nsenter");
    assert!(out.status.success(), "nft: {}", String::from_utf8_lossy(&out.stderr));
    let mut within: Vec<String> = Vec::new();
    for line in String::from_utf8_lossy(&out.stdout).lines().map(str::trim) {
        if line.ends_with('{') {
            within.push(line.trim_end_matches('{').trim().to_owned());
            entries.insert(format!("rule {}", within.join(" / ")));
        } else if line == "}" {
            within.pop();
        } else if !line.is_empty() {
            entries.insert(format!("rule {} / {line}", within.join(" / ")));
        }
    }
}

/// Processes by host pid and name; a zombie counts, for nobody else will reap it.
fn processes(init: u32, engine: Option<u32>, entries: &mut BTreeSet<String>) {
    let Ok(own) = fs::read_link(format!("/proc/{init}/ns/pid")) else { return };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if engine.is_some_and(|e| e == pid || parent_of(&entry.path()) == Some(e)) {
            continue;
        }
        // A container's processes live in namespaces below; their keeper is here.
        if fs::read_link(entry.path().join("ns/pid")).is_ok_and(|ns| ns == own) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            // Threads of nsenter come and go with the harness itself.
            if !["nsenter", "nft"].contains(&name.trim()) {
                entries.insert(format!("process {pid} {}", name.trim()));
            }
        }
    }
}

/// The parent of the process whose folder in `/proc` this is.
pub(crate) fn parent_of(proc: &Path) -> Option<u32> {
    let stat = fs::read_to_string(proc.join("stat")).ok()?;
    // "PID (NAME) STATE PPID": the name may hold anything, even brackets.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

/// Every cgroup strictly below `parent`, in every hierarchy, parents first.
fn cgroups(parent: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> =
        hierarchies().iter().map(|h| h.join(parent.trim_start_matches('/'))).collect();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                found.push(entry.path());
                todo.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// The mount points of all cgroup hierarchies.
fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/mounts").expect("read /proc/mounts");
    let is_cgroup = |l: &&str| l.split(' ').nth(2).is_some_and(|t| t.starts_with("cgroup"));
    table.lines().filter(is_cgroup).filter_map(|l| l.split(' ').nth(1)).map(PathBuf::from).collect()
}
