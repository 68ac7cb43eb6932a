//! Builds: wharf's own command line beside Debian's docker, by buildx and by the classic builder.

use super::lab::{Lab, must};
use super::table::{Aim, Row};
use super::timing::{Contender, of, race};
use crate::tools;
use anyhow::{Context, Result};
use serde_json::json;
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use wharf_test::Host;
use wharf_test::image::{self, Image, Tar};

/// Bytes of the base image besides busybox.
const SIZE: usize = 200_000_000;
const FILES: usize = 50_000;

/// Ten steps on the base: what changes with the context begins at the third.
const TEN: &str = "FROM base\nENV A=b\nCOPY src /src\nRUN cp -r /src /work\nWORKDIR /work\nRUN echo one > one\n\
    RUN echo two > two\nLABEL l=m\nRUN rm one && cat two > three\nCMD [\"cat\", \"three\"]\n";
const MANY: &str = "FROM busybox\nCOPY . /all\n";

/// What a build that finds everything cached spends its time with.
const FREED: &str = "It unpacks the context and removes it again, and on an ext4 without a journal a new file passes \
                     over every inode that was freed in the last minutes: the other builders have just freed many.";

/// Who builds.
#[derive(Clone, Copy)]
enum Who {
    Wharf,
    Buildx,
    Classic,
}

impl Who {
    const ALL: [Who; 3] = [Who::Wharf, Who::Buildx, Who::Classic];

    fn name(self) -> &'static str {
        match self {
            Who::Wharf => "wharf",
            Who::Buildx => "buildx",
            Who::Classic => "classic",
        }
    }

    fn command(self, lab: &Lab, dir: &Path, flags: &[&str]) -> Command {
        let mut c = match self {
            Who::Wharf => lab.wharf_cli(),
            Who::Buildx | Who::Classic => lab.docker.docker_command(),
        };
        c.env("DOCKER_BUILDKIT", if matches!(self, Who::Classic) { "0" } else { "1" });
        match self {
            Who::Buildx => c.args(["buildx", "build", "--provenance=false"]),
            Who::Wharf | Who::Classic => c.arg("build"),
        };
        c.args(["-q", "-t", "bench"]).args(flags).arg(dir);
        c
    }
}

pub(crate) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    tools::buildx()?;
    let plugins = tools::dir().join("cli-plugins");
    let config = json!({ "cliPluginsExtraDirs": [plugins] }).to_string();
    lab.docker.write("home/.docker/config.json", config.as_bytes());
    for host in [&lab.wharf, &lab.docker] {
        load(host)?;
    }
    let ten = lab.wharf.dir().join("ten");
    write(&ten, "Dockerfile", TEN)?;
    for n in 0..20 {
        write(&ten, &format!("src/{n}"), &format!("file {n}\n"))?;
    }
    let mut rows = Vec::new();
    let cold = compare(lab, &Who::ALL, lab.rounds(8), &ten, &["--no-cache"], || ());
    rows.push(row("build: 10 steps on a 200 MB base, no cache", &cold, Aim::AtMost(0.2, "buildx")));
    let cached = compare(lab, &Who::ALL, lab.rounds(20), &ten, &[], || ());
    let aim = Aim::AtMost(1.0 / 3.0, "classic");
    rows.push(row("build: the same, all cached", &cached, aim).because(FREED));
    let wharf = of(&cached, "wharf").unwrap_or(f64::NAN);
    rows.push(
        Row::new("build: the same by itself", "ms", wharf).aim(Aim::Below(15.0)).because(FREED),
    );
    let count = Cell::new(0);
    let change = || {
        count.set(count.get() + 1);
        write(&ten, "src/0", &format!("changed {}\n", count.get())).expect("write to the context");
    };
    let changed = compare(lab, &Who::ALL, lab.rounds(8), &ten, &[], change);
    rows.push(row("build: its context changed at step 3", &changed, Aim::AtMost(0.2, "buildx")));
    rows.push(many(lab)?);
    Ok(rows)
}

/// A context of many small files of which one changes.
fn many(lab: &Lab) -> Result<Row> {
    let dir = lab.wharf.dir().join("many");
    write(&dir, "Dockerfile", MANY)?;
    for n in 0..FILES {
        write(&dir, &format!("d{}/{n}", n / 500), &format!("{n}\n"))?;
    }
    let count = Cell::new(0);
    let change = || {
        count.set(count.get() + 1);
        write(&dir, "d7/3500", &format!("changed {}\n", count.get()))
            .expect("write to the context");
    };
    // Each of these takes seconds, the classic builder's a minute: it sends the whole context anew.
    let contenders = if lab.quick { &Who::ALL[..2] } else { &Who::ALL[..] };
    let times = compare(lab, contenders, if lab.quick { 1 } else { 5 }, &dir, &[], change);
    // The files stay until the host goes: see `images.rs` for what a removal costs those that come after.
    Ok(row("build: a context of 50,000 files, one changed", &times, Aim::AtMost(0.5, "buildx")))
}

/// These in turn; `before` each, within the time: it is nothing beside a build.
fn compare(
    lab: &Lab,
    who: &[Who],
    rounds: usize,
    dir: &Path,
    flags: &[&str],
    before: impl Fn(),
) -> Vec<(&'static str, f64)> {
    let before = &before;
    let contender = |who: &Who| {
        let who = *who;
        Contender::new(who.name(), move || {
            before();
            must(&mut who.command(lab, dir, flags));
        })
    };
    race(rounds, &who.iter().map(contender).collect::<Vec<_>>())
}

fn row(work: &str, times: &[(&'static str, f64)], aim: Aim) -> Row {
    let row = Row::new(work, "ms", of(times, "wharf").unwrap_or(f64::NAN));
    row.peer("buildx", of(times, "buildx")).peer("classic", of(times, "classic")).aim(aim)
}

/// `base`: busybox and a file of 200 MB.
fn load(host: &Host) -> Result<()> {
    let mut tar = Tar::default();
    tar.file("big", 0o644, &vec![0x5a; SIZE]);
    let mut layer = image::busybox_layer();
    // Two archives one behind the other: without the end of the first.
    layer.truncate(layer.len() - 1024);
    layer.extend(tar.finish());
    let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    let base = Image::new("base:latest", layer, &json!({ "Cmd": ["sh"], "Env": [path] }));
    let archive: PathBuf = host.write("base.tar", &base.docker_archive());
    must(host.docker_command().args(["load", "-q", "-i"]).arg(&archive));
    fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))
}

fn write(dir: &Path, name: &str, content: &str) -> Result<()> {
    let path = dir.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, content).with_context(|| format!("write {}", path.display()))
}
