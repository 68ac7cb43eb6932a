//! The launcher process: forks a keeper for each socket it is given, and does nothing else.
//!
//! It parses nothing and allocates nearly nothing, so that every fork of it is small, and a message can at worst
//! harm the keeper that reads it.

use std::os::fd::AsFd as _;
use std::process::ExitCode;

use wharf_sys::scratch::forget_code;
use wharf_sys::{channel, child};

use crate::process;
use crate::protocol::{Fault, FaultKind, Reply};
use crate::wire;

/// Runs the launcher on standard input, a socket of the daemon; returns when the daemon is gone.
///
/// Must be the first thing that `main` does, while the process has one thread. Keepers also return from here,
/// when their container is over.
pub fn main() -> ExitCode {
    // Names and automatic reaping are comfort; without them the launcher still launches.
    drop(child::set_name("wharf-launcher"));
    child::ignore_children(true);
    let daemon = std::io::stdin();
    loop {
        // It sleeps nearly always. A fork inherits no code pages anyway.
        forget_code();
        let mut byte = [0; 1];
        let Ok(mut got) = channel::recv(daemon.as_fd(), &mut byte) else {
            return ExitCode::FAILURE;
        };
        let Some(socket) = got.fds.pop() else {
            return ExitCode::SUCCESS; // The daemon has closed its end.
        };
        match child::fork() {
            Ok(child::Fork::Child) => return process::main(socket),
            Ok(child::Fork::Parent(_)) => {}
            Err(e) => {
                let message = format!("fork a keeper: {e}");
                let failed = Reply::Failed(Fault { kind: FaultKind::Other, message });
                // If the daemon does not listen any more, nobody misses the answer.
                drop(wire::send(&socket, &failed, &[]));
            }
        }
    }
}
