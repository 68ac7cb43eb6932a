//! Entering a host's network from a thread of the test.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;

/// Runs `work` in the network namespace of process `pid`. A socket made there stays there,
/// whoever uses it later.
pub fn in_network<T: Send>(pid: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let network = File::open(format!("/proc/{pid}/ns/net")).expect("the host is gone");
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
