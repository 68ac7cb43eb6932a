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
        Some("--version" | "-v") => version(),
        // The programs of the builtin images, which run as pid 1 of a container.
        Some(verb) => wharf_image::builtin::main(verb).unwrap_or_else(usage),
        None => usage(),
    }
}

#[allow(clippy::print_stdout, reason = "the answer to --version")]
fn version() -> ExitCode {
    println!("wharf version {}", wharf_engine::info::VERSION);
    ExitCode::SUCCESS
}

#[allow(clippy::print_stderr, reason = "nothing else was understood")]
fn usage() -> ExitCode {
    eprintln!("usage: wharf daemon [OPTIONS]\n\nSee wharf daemon --help.");
    ExitCode::from(2)
}
