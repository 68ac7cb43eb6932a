//! Entering a host's network from a thread of the test.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

/// Runs `work` in the network namespace of process `pid`. A socket made there stays there,
/// whoever uses it later.
pub fn in_network<T: Send>(pid: u32, work: impl FnOnce() -> T + Send) -> T {
    in_network_at(format!("/proc/{pid}/ns/net").as_ref(), work)
}

/// Runs `work` in the network namespace that `path` names.
pub fn in_network_at<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let network = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("entering a network namespace needs root");
            work()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
