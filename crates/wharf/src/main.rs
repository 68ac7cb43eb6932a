//! The binary: decides from its arguments which part of wharf to be.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything makes a thread or touches the heap: keepers are forks of this process.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == "launcher") {
        return wharf_keeper::launcher::main();
    }
    if std::env::args_os().nth(1).is_some_and(|verb| verb == "oci") {
        return wharf_runtime::oci::main(std::env::args_os().skip(2).collect());
    }
    ExitCode::SUCCESS
}
