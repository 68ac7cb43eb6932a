//! `wharf oci`: the command line of runc.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs one command of the OCI runtime; `args` begins after `wharf oci`.
pub fn main(_args: Vec<OsString>) -> ExitCode {
    ExitCode::FAILURE
}
