//! The command line: docker's verbs, flags, tables and templates over the Engine API.
#![forbid(unsafe_code)]

pub mod api;
pub mod app;
pub mod attach;
pub mod cmdline;
mod complete;
pub mod conf;
pub mod failure;
pub mod out;
pub mod parse;
pub mod verbs;

pub use failure::Failure;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs one verb and returns wharf's exit status. `args` begins with the program's name, which
/// the messages repeat, so that a link named `docker` speaks as docker.
pub fn main(args: Vec<OsString>) -> ExitCode {
    app::main(args)
}

/// The whole tree of verbs as clap knows commands; for man pages. Parsing does not use it.
pub fn command() -> clap::Command {
    cmdline::help::clap_command()
}
