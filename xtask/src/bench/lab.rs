//! The engines side by side: wharf, dockerd and podman, each on a host of its own.

use super::table::{Aim, Row};
use crate::sh::{cmd, read};
use crate::suites;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use wharf_test::host::Engine;
use wharf_test::{Host, Output, image};

/// Everything that is measured, set up once.
pub(crate) struct Lab {
    pub(crate) quick: bool,
    /// The binary under test.
    pub(crate) binary: PathBuf,
    pub(crate) wharf: Host,
    pub(crate) docker: Host,
    /// podman, crun and runc.
    pub(crate) peers: Host,
}

impl Lab {
    pub(crate) fn open(quick: bool) -> Result<Lab> {
        let binary = suites::build()?;
        let up = |engine| {
            let mut host = Host::bare(engine);
            host.start_daemon();
            host.load(image::busybox());
            host
        };
        let lab = Lab {
            quick,
            binary,
            wharf: up(Engine::Wharf),
            docker: up(Engine::Dockerd),
            peers: Host::peers(),
        };
        lab.prepare_peers()?;
        Ok(lab)
    }

    /// crun refuses the hybrid layout of control groups; without the `unified` tree it is v1.
    fn prepare_peers(&self) -> Result<()> {
        let busybox = self.peers.dir().join("busybox");
        let inside = |args: &[&str]| Output::of(self.peers.enter(&busybox).args(args), b"");
        inside(&["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]).ok();
        if fs::exists("/sys/fs/cgroup/unified")? {
            inside(&["umount", "/sys/fs/cgroup/unified"]).ok();
        }
        let archive = self.peers.write("busybox.tar", &image::busybox().docker_archive());
        let path = archive.to_str().context("a path of words")?;
        Output::of(self.podman().args(["load", "-q", "-i", path]), b"").ok();
        Ok(())
    }

    /// More rounds, unless the run is to be quick.
    pub(crate) fn rounds(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(4).max(3) } else { full }
    }

    /// wharf's own command line.
    pub(crate) fn wharf_cli(&self) -> Command {
        self.wharf.client(&self.binary)
    }

    /// podman on its host, with crun.
    pub(crate) fn podman(&self) -> Command {
        let mut c = self.peers.enter("podman");
        c.arg("--root").arg(self.peers.dir().join("podman"));
        c.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "crun"]);
        c.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
        c.env("HOME", self.peers.dir().join("home"));
        c
    }

    /// The size of the binary.
    pub(crate) fn size(&self) -> Result<Vec<Row>> {
        let size = fs::metadata(&self.binary)?.len() as f64 / 1e6;
        Ok(vec![Row::new("the binary, stripped", "MB", size).aim(Aim::None)])
    }

    /// Who took part.
    pub(crate) fn versions(&self) -> String {
        let first = |c: &mut Command| {
            let text = read(c.stdin(Stdio::null())).unwrap_or_default();
            text.lines().next().unwrap_or("?").to_owned()
        };
        let mut lines = vec![
            first(cmd(&self.binary).arg("--version")),
            first(self.docker.enter("dockerd").arg("--version")),
            first(self.docker.docker_command().arg("--version")),
        ];
        for peer in ["podman", "crun", "runc"] {
            lines.push(first(self.peers.enter(peer).arg("--version")));
        }
        lines.iter().map(|l| format!("- {l}\n")).collect()
    }
}

/// Runs a command to its end without looking at its output; it must succeed.
#[track_caller]
pub(crate) fn must(c: &mut Command) {
    let status = c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let done = status.unwrap_or_else(|e| panic!("start {c:?}: {e}"));
    assert!(
        done.status.success(),
        "{c:?}: {} {}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    );
}
