//! From files to a state: the newest checkpoint, and the segments of the log behind it.

use std::time::Instant;

use crate::checkpoint::{self, Trust};
use crate::core::Core;
use crate::disk::Disk;
use crate::log::{self, Log, LogError, io_error};

/// Reads `core` back from `disk` and opens the log for appending. A fresh disk gives a fresh store.
pub(crate) fn open(disk: &dyn Disk, core: &mut Core, now: Instant) -> Result<Log, LogError> {
    let names = disk.list().map_err(io_error("list", "the store's directory"))?;
    for unfinished in names.iter().filter(|n| n.ends_with(".new")) {
        disk.remove(unfinished).map_err(io_error("remove", unfinished))?;
    }
    let newest = names.iter().filter_map(|n| checkpoint::number(n)).max();
    let last = names.iter().filter_map(|n| log::segment_number(n)).max();
    if let Some(number) = newest {
        load(disk, &checkpoint::name(number), core, now)?;
    }
    let first = newest.unwrap_or(1);
    let log = match last {
        None if newest.is_none() => Log::create(disk, first)?,
        last => replay(disk, core, first, last.unwrap_or(first), now)?,
    };
    forget(disk, first)?;
    Ok(log)
}

/// Removes what came before checkpoint `first`.
pub(crate) fn forget(disk: &dyn Disk, first: u64) -> Result<(), LogError> {
    let names = disk.list().map_err(io_error("list", "the store's directory"))?;
    for name in names {
        let number = checkpoint::number(&name).or(log::segment_number(&name));
        if number.is_some_and(|n| n < first) {
            disk.remove(&name).map_err(io_error("remove", &name))?;
        }
    }
    Ok(())
}

fn load(disk: &dyn Disk, name: &str, core: &mut Core, now: Instant) -> Result<(), LogError> {
    let file = disk.open(name).map_err(io_error("open", name))?;
    checkpoint::load_into(&*file, name, Trust::Checksum, core, now)
}

fn replay(
    disk: &dyn Disk,
    core: &mut Core,
    first: u64,
    last: u64,
    now: Instant,
) -> Result<Log, LogError> {
    let mut replayed = None;
    for number in first..=last.max(first) {
        let take = |batch: &[u8]| core.replay(batch, now).map_err(drop);
        let segment = Log::replay(disk, number, number == last, take)?;
        if segment.torn > 0 {
            let (file, bytes) = (log::segment(number), segment.torn);
            tracing::warn!(
                file,
                bytes,
                "cut off a write that was not finished when the store ended"
            );
        }
        replayed = Some((number, segment));
    }
    let missing = || LogError::Missing { file: log::segment(first) };
    let (number, segment) = replayed.ok_or_else(missing)?;
    Log::resume(disk, number, &segment)
}
