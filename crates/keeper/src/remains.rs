//! Ending whatever is left of a container.

use std::os::fd::{AsFd as _, OwnedFd};

use wharf_runtime::cgroup::{Cgroup, CgroupError};
use wharf_sys::process;

/// How long the kernel may need to end a killed process.
const DEATH_MS: i32 = 10_000;

/// Kills every process of `cgroup`, waits until they have ended, and removes it. A cgroup that is gone is no error.
pub(crate) fn end(cgroup: &Cgroup) -> Result<(), CgroupError> {
    // A directory cannot be removed while a process in it is still on its way out.
    let left: Vec<OwnedFd> =
        cgroup.pids()?.into_iter().filter_map(|pid| process::pidfd_open(pid).ok()).collect();
    if !left.is_empty() {
        cgroup.kill_all()?;
        for pidfd in &left {
            // One that does not end in time is named by the removal that fails.
            drop(process::poll_readable(&[pidfd.as_fd()], DEATH_MS));
        }
    }
    cgroup.delete()
}
