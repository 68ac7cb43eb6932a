//! The binary: decides from its arguments which part of wharf to be.
#![forbid(unsafe_code)]

mod daemon;

use std::process::ExitCode;

fn main() -> ExitCode {
    let verb = std::env::args_os().nth(1).unwrap_or_default();
    match verb.to_str() {
        // Before anything makes a thread or touches the heap: keepers are forks of this process.
        Some("launcher") => wharf_keeper::launcher::main(),
        Some("daemon") => daemon::main(std::env::args_os().skip(1)),
        Some("oci") => wharf_runtime::oci::main(std::env::args_os().skip(2).collect()),
        // The programs of the builtin images, which run as pid 1 of a container.
        other => other
            .and_then(wharf_image::builtin::main)
            .unwrap_or_else(|| wharf_cli::main(std::env::args_os().collect())),
    }
}
