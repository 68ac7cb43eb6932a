//! `/dev/shm` that several containers share.

use std::path::PathBuf;

use wharf_sys::mount::{self, Fs, attr};

use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::record::Record;

impl Inner {
    /// A tmpfs on the host that belongs to the container and that others can bind. Mounted once per run.
    pub(crate) fn shared_shm(&self, record: &Record) -> Result<PathBuf> {
        let dir = self.run_dir(&record.id).join("shm");
        let failed = |e| EngineError::system(format!("mount {}", dir.display()), e);
        std::fs::create_dir_all(&dir).map_err(failed)?;
        if wharf_sys::fs::is_mount_root(&dir).map_err(failed)? {
            return Ok(dir);
        }
        let make = || -> std::io::Result<()> {
            let fs = Fs::open("tmpfs")?;
            fs.set("source", "shm")?;
            fs.set("mode", "1777")?;
            fs.set("size", record.host.shm_size.to_string().as_str())?;
            let mounted = fs.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
            mount::attach(mounted, std::fs::File::open(&dir)?)
        };
        make().map_err(failed)?;
        Ok(dir)
    }

    /// The shared memory of another container, which must have been made to be shared.
    pub(crate) fn shm_of(&self, id: &str) -> Result<PathBuf> {
        let other = self.find(id)?.record();
        match other.host.ipc_mode.as_str() {
            "shareable" => Ok(self.run_dir(&other.id).join("shm")),
            "host" => Ok("/dev/shm".into()),
            _ => Err(EngineError::invalid(format!(
                "can't join IPC of container {}: non-shareable IPC (hint: use IpcMode:shareable for \
                 the donor container)",
                other.id
            ))),
        }
    }

    /// Takes the shared memory of an ended container away; others that bound it keep it.
    pub(crate) fn release_shm(&self, record: &Record) {
        if record.host.ipc_mode != "shareable" {
            return;
        }
        let dir = self.run_dir(&record.id).join("shm");
        if let Err(e) = mount::detach(&dir) {
            tracing::debug!(dir = %dir.display(), error = %e, "shared memory was not mounted");
        }
    }
}
