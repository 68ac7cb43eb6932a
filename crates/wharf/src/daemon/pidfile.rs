//! The file with the daemon's process id.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use wharf_base::fs::{Durability, write_atomic};

/// The file, removed when the daemon ends.
#[derive(Debug)]
pub(super) struct Pidfile(PathBuf);

impl Pidfile {
    /// Writes it. Refuses if the process that it names still runs as a wharf daemon.
    pub(super) fn create(path: &Path) -> Result<Pidfile> {
        if let Some(pid) = read(path).filter(|pid| is_daemon(*pid)) {
            bail!("{}: process with PID {pid} is still running", path.display());
        }
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("create {}", parent.display()))?;
        }
        let pid = std::process::id().to_string();
        write_atomic(path, pid.as_bytes(), 0o644, Durability::Process)
            .with_context(|| format!("write {}", path.display()))?;
        Ok(Pidfile(path.to_owned()))
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        // A successor's file stays.
        if read(&self.0) == Some(std::process::id()) {
            drop(std::fs::remove_file(&self.0));
        }
    }
}

fn read(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Whether a process of that id runs this program: after a reboot the number may be anybody's.
fn is_daemon(pid: u32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    pid != std::process::id() && command.split(|b| *b == 0).any(|arg| arg == b"daemon")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test's own file")]
    fn a_dead_process_does_not_block_and_the_file_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/wharf.pid");
        std::fs::create_dir(dir.path().join("run")).unwrap();
        std::fs::write(&path, "4194303999").unwrap();
        let file = Pidfile::create(&path).unwrap();
        assert_eq!(read(&path), Some(std::process::id()));
        drop(file);
        assert!(!path.exists());
    }
}
