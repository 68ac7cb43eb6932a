//! A big tree on its way into the store, as multiples of a plain `tar -xf` of it.
//!
//! Nothing is removed between the rounds, and each has an archive of its own, which no engine has seen. On an ext4
//! without a journal a new file passes over every inode that was freed in the last minutes, one by one: whoever comes
//! after a removal of some ten thousand files pays for it, tar as well, and several times what the work itself costs.

use super::lab::{Lab, must};
use super::table::{Aim, Row};
use super::timing::{median, milliseconds};
use crate::sh::{cmd, run};
use anyhow::Result;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use wharf_test::image::{Image, Tar, folder_layer};
use wharf_test::registry::Registry;
use wharf_test::{Host, tools};

/// Bytes of the tree, about.
const SIZE: u64 = 204_000_000;

/// What makes wharf slower than tar.
const TWICE: &str = "Beside the files wharf keeps the archive as it came, for pushes and saves: it writes twice what \
                     tar writes, gets it through a socket and hashes it.";

pub(crate) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let dir = lab.wharf.dir().join("big");
    gather(&dir)?;
    let layer = folder_layer(&dir.join("tree"));
    let tree = Tree { dir, layer };
    let mut rows = Vec::new();
    for work in [Work::Import, Work::Load, Work::Pull] {
        rows.push(compare(lab, &tree, work)?);
    }
    Ok(rows)
}

#[derive(Clone, Copy)]
enum Work {
    Import,
    Load,
    Pull,
}

impl Work {
    fn verb(self) -> &'static str {
        match self {
            Work::Import => "import",
            Work::Load => "load",
            Work::Pull => "pull",
        }
    }
}

/// The tree as an archive.
struct Tree {
    dir: PathBuf,
    layer: Vec<u8>,
}

impl Tree {
    /// The same with a file that says which round it is for.
    fn for_round(&self, mark: &str) -> Vec<u8> {
        const TRAILER: usize = 1024;
        let mut tar = Tar::default();
        tar.file("round", 0o644, mark.as_bytes());
        let mut all = tar.finish();
        all.truncate(all.len() - TRAILER);
        all.extend_from_slice(&self.layer);
        all
    }
}

/// Plain tar, wharf and dockerd in turn.
fn compare(lab: &Lab, tree: &Tree, work: Work) -> Result<Row> {
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..if lab.quick { 3 } else { 4 } {
        let mark = format!("{}-{round}", work.verb());
        let layer = tree.for_round(&mark);
        let (tar, out) = (tree.dir.join("tree.tar"), tree.dir.join(&mark));
        fs::write(&tar, &layer)?;
        fs::create_dir(&out)?;
        let name = format!("{mark}:latest");
        let image = Image::new(&name, layer, &json!({"Cmd": ["true"]}));
        settle();
        times[0].push(milliseconds(|| must(cmd("tar").arg("-xf").arg(&tar).arg("-C").arg(&out))));
        for (host, times) in [&lab.wharf, &lab.docker].into_iter().zip(&mut times[1..]) {
            times.push(engine(host, work, &image, &tar)?);
        }
    }
    // The first round of each finds a cold page cache.
    for times in &mut times {
        times.remove(0);
    }
    let [floor, wharf, docker] = times.map(median);
    let megabytes = tree.layer.len() as f64 / 1e6;
    let what =
        format!("{} of a {megabytes:.0} MB tree ÷ `tar -xf` of it ({floor:.0} ms)", work.verb());
    let row = Row::new(what, "×", wharf / floor).peer("docker", Some(docker / floor));
    Ok(row.aim(Aim::Below(0.7)).because(TWICE))
}

/// Milliseconds that an engine takes.
fn engine(host: &Host, work: Work, image: &Image, tar: &Path) -> Result<f64> {
    let archive = tar.with_file_name("image.tar");
    let mut c = host.docker_command();
    match work {
        Work::Import => c.arg("import").arg(tar).arg(&image.name),
        Work::Load => {
            fs::write(&archive, image.docker_archive())?;
            c.args(["load", "-q", "-i"]).arg(&archive)
        }
        Work::Pull => {
            let registry = Registry::serve(host.init(), &[image], None);
            c.args(["pull", "-q", &format!("{}/{}", registry.address, image.name)])
        }
    };
    settle();
    Ok(milliseconds(|| must(&mut c)))
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
