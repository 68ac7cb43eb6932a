//! Looking into a container's file system from outside, without running anything in it.

use std::path::PathBuf;

use crate::error::Result;
use crate::inner::Inner;
use crate::record::Record;
use crate::spec::user::{Accounts, ResolvedUser};

impl Inner {
    /// Who `spec` names in the container's own passwd and group files.
    pub(crate) fn user(&self, record: &Record, spec: &str) -> Result<ResolvedUser> {
        let accounts = Accounts::default();
        accounts.resolve(spec, record.host.group_add.as_deref().unwrap_or_default())
    }

    /// Why the container's program cannot run, if the image tells.
    pub(crate) fn preflight(&self, _record: &Record) -> Option<String> {
        None
    }

    /// The program that `--init` puts first.
    pub(crate) fn init_program(&self) -> Result<PathBuf> {
        Err(crate::EngineError::not_implemented("--init is not built yet"))
    }

    pub(crate) fn shared_shm(&self, _record: &Record) -> Result<PathBuf> {
        Err(crate::EngineError::not_implemented("--ipc=shareable is not built yet"))
    }

    pub(crate) fn shm_of(&self, _id: &str) -> Result<PathBuf> {
        Err(crate::EngineError::not_implemented("--ipc=container is not built yet"))
    }

    pub(crate) fn release_shm(&self, _record: &Record) {}
}

impl crate::volume::Volumes {
    /// Fills an empty volume with what the image has at `destination`.
    pub(crate) fn populate(&self, _name: &str, _lowers: &[PathBuf], _at: &str) -> Result<()> {
        Ok(())
    }
}
