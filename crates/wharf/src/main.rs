//! The binary: decides from its arguments which part of wharf to be.
#![forbid(unsafe_code)]

mod daemon;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|program| is_runtime(&program)) {
        return wharf_runtime::oci::main(std::env::args_os().skip(1).collect());
    }
    let verb = std::env::args_os().nth(1).unwrap_or_default();
    match verb.to_str() {
        // Before anything makes a thread or touches the heap: keepers are forks of this process.
        Some("launcher") => wharf_keeper::launcher::main(),
        Some("oci") => wharf_runtime::oci::main(std::env::args_os().skip(2).collect()),
        Some("daemon") => daemon::main(std::env::args_os().skip(1)),
        // The programs of the builtin images, which run as pid 1 of a container.
        other => other
            .and_then(wharf_image::builtin::main)
            .unwrap_or_else(|| wharf_cli::main(std::env::args_os().collect())),
    }
}

/// Whether the name that this program was called by asks for the OCI runtime: engines name their
/// runtime by a path, to which no word can be added.
fn is_runtime(program: &OsStr) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == "wharf-oci" || name == "runc")
}
