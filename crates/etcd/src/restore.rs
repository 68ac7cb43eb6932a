//! From a snapshot to a data directory.

use std::fs::File;
use std::io;
use std::path::Path;

use wharf_base::clock::Clock;

use crate::checkpoint::{self, Trust};
use crate::core::{Core, Rules};
use crate::disk::{Disk as _, Folder};
use crate::embedded::Status;
use crate::kv::Kv;
use crate::log::{Log, LogError, io_error};

/// Makes the data directory `dir` from `snapshot`, which wharf or etcd has saved. `dir` must be empty or not exist.
///
/// Without `checked` a file is taken that has no checksum, as a copy of etcd's database.
pub fn restore(snapshot: &Path, dir: &Path, checked: bool) -> Result<Status, LogError> {
    let core = read(snapshot, checked)?;
    let folder = Folder::open(dir).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => LogError::Locked,
        _ => io_error("open", &dir.display().to_string())(e),
    })?;
    let taken = folder.list().map_err(io_error("list", &dir.display().to_string()))?;
    if !taken.is_empty() {
        let source = io::ErrorKind::DirectoryNotEmpty.into();
        return Err(LogError::Io {
            action: "restore into",
            file: dir.display().to_string(),
            source,
        });
    }
    let mut versions = Vec::new();
    core.versions(b"", core.visible(), usize::MAX, &mut versions);
    versions.sort_unstable_by(Kv::by_time);
    // In this order: a checkpoint without its segment would be damage.
    Log::create(&folder, 1)?;
    checkpoint::save(&folder, 1, &core.outline(), &versions)?;
    Ok(Status::of(&core))
}

/// What a snapshot holds.
pub fn inspect(snapshot: &Path, checked: bool) -> Result<Status, LogError> {
    Ok(Status::of(&read(snapshot, checked)?))
}

fn read(snapshot: &Path, checked: bool) -> Result<Core, LogError> {
    let name = snapshot.display().to_string();
    let file = File::open(snapshot).map_err(io_error("open", &name))?;
    let trust = if checked { Trust::Checksum } else { Trust::Blind };
    let mut core = Core::new(Rules::default());
    checkpoint::load_into(&file, &name, trust, &mut core, Clock::system().instant())?;
    Ok(core)
}
