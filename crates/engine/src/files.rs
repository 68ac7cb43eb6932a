//! Writing the files that wharf puts into every container: hostname, hosts and resolv.conf.

use std::io::{self, Write as _};
use std::path::Path;

use wharf_base::fs::{Durability, write_atomic};

use crate::error::{EngineError, Result};

/// Writes one of the files, before a start: a new file, which is not the one that a running container has mounted.
pub(crate) fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    write_atomic(&path, text.as_bytes(), 0o644, Durability::Process)
        .map_err(|e| EngineError::system(format!("write {}", path.display()), e))
}

/// Changes one of the files under the eyes of a running container: the same file, because it is bind-mounted.
pub(crate) fn edit(dir: &Path, name: &str, change: impl FnOnce(&str) -> String) -> Result<()> {
    let path = dir.join(name);
    let rewrite = || -> io::Result<()> {
        let text = std::fs::read_to_string(&path)?;
        let new = change(&text);
        if new == text {
            return Ok(());
        }
        // Not atomically: a new file would not be the one that the container has mounted.
        let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(&path)?;
        file.write_all(new.as_bytes())
    };
    rewrite().map_err(|e| EngineError::system(format!("write {}", path.display()), e))
}
