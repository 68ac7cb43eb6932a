//! `wharf oci`: the command line of runc.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs one command of the OCI runtime; `args` begins after `wharf oci`.
/// The version of the OCI runtime specification that is implemented.
pub const OCI_VERSION: &str = "1.2.1";

pub fn main(_args: Vec<OsString>) -> ExitCode {
    ExitCode::FAILURE
}
