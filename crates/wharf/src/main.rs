//! The binary: decides from its arguments which part of wharf to be.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything makes a thread or touches the heap: keepers are forks of this process.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == "launcher") {
        return wharf_keeper::launcher::main();
    }
    // The programs of the builtin images, which run as pid 1 of a container.
    if let Some(status) = std::env::args().nth(1).and_then(|verb| wharf_image::builtin::main(&verb))
    {
        return status;
    }
    ExitCode::SUCCESS
}
