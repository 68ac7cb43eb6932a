//! Directories in which a layer is made; gone when they are dropped.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use wharf_base::sync::Mutex;
use wharf_image::{ImageStore, Layer};
use wharf_sys::mount::{self, Upper};
use wharf_sys::root::Root;

use crate::error::BuildError;

/// An upper directory, a work directory for who mounts it, and room for more.
pub(crate) struct Scratch {
    dir: PathBuf,
    upper: PathBuf,
    work: PathBuf,
    made: Mutex<bool>,
}

impl Scratch {
    pub(crate) fn new(store: &ImageStore) -> Result<Scratch, BuildError> {
        let scratch = Scratch::later(store);
        scratch.make()?;
        Ok(scratch)
    }

    /// One that is not on the disk before [`Scratch::make`]: what is cached needs none.
    pub(crate) fn later(store: &ImageStore) -> Scratch {
        let dir = store.scratch_path("build");
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        Scratch { upper, work, dir, made: Mutex::new(false) }
    }

    /// Makes the directories, unless they are there.
    pub(crate) fn make(&self) -> Result<(), BuildError> {
        let mut made = self.made.lock();
        if *made {
            return Ok(());
        }
        let failed = || BuildError::io(format!("create {}", self.dir.display()));
        fs::create_dir(&self.dir).map_err(failed())?;
        *made = true;
        fs::create_dir(&self.upper).map_err(failed())?;
        // The root directory of the stage: readable by the users inside.
        fs::set_permissions(&self.upper, fs::Permissions::from_mode(0o755)).map_err(failed())
    }

    /// Takes the changes.
    pub(crate) fn upper(&self) -> &Path {
        &self.upper
    }

    /// overlayfs's own, made now.
    pub(crate) fn work(&self) -> Result<&Path, BuildError> {
        match fs::create_dir(&self.work) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(BuildError::io(format!("create {}", self.work.display()))(e))
            }
            _ => Ok(&self.work),
        }
    }

    /// Where one file may be put.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join("file")
    }

    /// Where a further directory may be made.
    pub(crate) fn sub(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// `below` with the upper directory on top, writable, seen by nobody else.
    pub(crate) fn mount(&self, store: &ImageStore, below: &[Layer]) -> Result<Root, BuildError> {
        let lowers = store.layer_dirs(below);
        let upper = Upper { dir: &self.upper, work: self.work()?, volatile: true };
        mount::overlay(&lowers, Some(upper), None)
            .map(Root::from_fd)
            .map_err(BuildError::io("mount the files of a stage"))
    }
}

impl Drop for Scratch {
    /// What cannot be removed now goes when the store is opened again.
    fn drop(&mut self) {
        if !*self.made.lock() {
            return;
        }
        let dir = std::mem::take(&mut self.dir);
        let remove = move || drop(fs::remove_dir_all(dir));
        // A context may have many files, and whoever drops it may be an async thread.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}
