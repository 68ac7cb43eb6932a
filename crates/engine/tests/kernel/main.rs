//! The engine against the real kernel: containers run, end, are entered, and survive a daemon's death.
//!
//! The program is its own launcher, so it has no test harness: `cargo test -p wharf-engine --test kernel [FILTER]`.
//! Each test has its own root, cgroup and engine; all of them run in a mount and network namespace of their own.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests, with a harness of their own"
)]

mod files;
mod host;
mod lifecycle;
mod networks;
mod runs;

use std::process::ExitCode;

use host::Test;

fn main() -> ExitCode {
    // First of all, while there is one thread: this process may be the launcher.
    if std::env::args().nth(1).as_deref() == Some("launcher") {
        return wharf_keeper::launcher::main();
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if !host::is_root() {
        println!("kernel tests need root: skipped");
        return ExitCode::SUCCESS;
    }
    host::isolate();
    let tests: Vec<Test> = [lifecycle::TESTS, files::TESTS, networks::TESTS, runs::TESTS].concat();
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, test) in &tests {
        if !wanted.is_empty() && !wanted.iter().any(|w| name.contains(w.as_str())) {
            continue;
        }
        println!("test {name} ...");
        let run = std::panic::catch_unwind(|| host::run(*test));
        println!("test {name} ... {}", if run.is_ok() { "ok" } else { "FAILED" });
        match run {
            Ok(()) => passed += 1,
            Err(_) => failed.push(*name),
        }
    }
    // What the standard harness ends with, so that these count, and are named, as well.
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("failures:");
    for name in &failed {
        println!("    {name}");
    }
    println!("test result: {word}. {passed} passed; {} failed; 0 ignored", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
