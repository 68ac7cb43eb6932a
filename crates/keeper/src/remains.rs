//! Ending whatever is left of a container.

use std::os::fd::{AsFd as _, OwnedFd};

use wharf_runtime::cgroup::{Cgroup, CgroupError};
use wharf_sys::process;

/// How long the kernel may need to end a killed process.
const DEATH_MS: i32 = 10_000;

/// How long the kernel is left alone with a process that has closed its files and is still counted.
const LAST_BREATH_MS: i32 = 10;

/// Kills every process of `cgroup`, waits until they have ended, and removes it. A cgroup that is gone is no error.
pub(crate) fn end(cgroup: &Cgroup) -> Result<(), CgroupError> {
    let mut breaths = DEATH_MS / LAST_BREATH_MS;
    loop {
        kill(cgroup)?;
        match cgroup.delete() {
            // A process on its way out is listed no longer and counted still; no event tells of the moment after.
            Err(e) if e.is_busy() && breaths > 0 => {
                breaths -= 1;
                drop(process::poll_readable(&[], LAST_BREATH_MS));
            }
            done => return done,
        }
    }
}

fn kill(cgroup: &Cgroup) -> Result<(), CgroupError> {
    // A directory cannot be removed while a process in it is still on its way out.
    let left: Vec<OwnedFd> =
        cgroup.pids()?.into_iter().filter_map(|pid| process::pidfd_open(pid).ok()).collect();
    if left.is_empty() {
        return Ok(());
    }
    cgroup.kill_all()?;
    for pidfd in &left {
        // One that does not end in time is named by the removal that fails.
        drop(process::poll_readable(&[pidfd.as_fd()], DEATH_MS));
    }
    Ok(())
}
