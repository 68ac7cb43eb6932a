//! Directories in which a layer is made; gone when they are dropped.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use wharf_image::{ImageStore, Layer};
use wharf_sys::mount::{self, Upper};
use wharf_sys::root::Root;

use crate::error::BuildError;

/// An upper and a work directory, and room for more.
pub(crate) struct Scratch {
    dir: PathBuf,
    upper: PathBuf,
    work: PathBuf,
}

impl Scratch {
    pub(crate) fn new(store: &ImageStore) -> Result<Scratch, BuildError> {
        let dir = store.scratch_path("build");
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        let failed = || BuildError::io(format!("create {}", dir.display()));
        for made in [&dir, &upper, &work] {
            fs::create_dir(made).map_err(failed())?;
        }
        // The root directory of the stage: readable by the users inside.
        fs::set_permissions(&upper, fs::Permissions::from_mode(0o755)).map_err(failed())?;
        Ok(Scratch { upper, work, dir })
    }

    /// Takes the changes.
    pub(crate) fn upper(&self) -> &Path {
        &self.upper
    }

    /// overlayfs's own.
    pub(crate) fn work(&self) -> &Path {
        &self.work
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
        let upper = Upper { dir: &self.upper, work: &self.work, volatile: true };
        mount::overlay(&lowers, Some(upper), None)
            .map(Root::from_fd)
            .map_err(BuildError::io("mount the files of a stage"))
    }
}

impl Drop for Scratch {
    /// What cannot be removed now goes when the store is opened again.
    fn drop(&mut self) {
        let dir = std::mem::take(&mut self.dir);
        let remove = move || drop(fs::remove_dir_all(dir));
        // A context may have many files, and whoever drops it may be an async thread.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}
