//! Small JSON files in a container's directory, whole or absent.

use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use wharf_base::fs::{Durability, write_atomic};

/// Writes `value` so that a reader sees all of it or nothing.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    write_atomic(path, &bytes, 0o600, Durability::Process)
}

/// Reads a file back; `None` if there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
