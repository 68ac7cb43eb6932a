//! Containers against the kernel, as root: every case in a process of its own, which has one thread.
//!
//! The binary is three things: without arguments the runner, with `case NAME` one case, with
//! `oci …` the OCI runtime that the cases call.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::let_underscore_must_use,
    unreachable_pub,
    reason = "a test: what is unexpected ends it, and it starts programs and writes plain files"
)]

use std::ffi::OsString;
use std::process::{Command, ExitCode};

mod bundle;
mod cases;
mod escapes;
mod limits;

type Case = (&'static str, fn());

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.first().and_then(|a| a.to_str()) {
        Some("oci") => wharf_runtime::oci::main(args.split_off(1)),
        Some("case") => {
            let name = args[1].to_string_lossy();
            let case = all().find(|(n, _)| *n == name).expect("a case of that name");
            (case.1)();
            ExitCode::SUCCESS
        }
        _ => run_all(&args),
    }
}

fn all() -> impl Iterator<Item = Case> {
    cases::CASES.iter().chain(escapes::CASES).chain(limits::CASES).copied()
}

/// Takes filters and prints results like the standard harness.
fn run_all(args: &[OsString]) -> ExitCode {
    if args.iter().any(|a| a == "--list") {
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&str> =
        args.iter().filter_map(|a| a.to_str().filter(|a| !a.starts_with('-'))).collect();
    let me = std::env::current_exe().expect("own path");
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, _) in all() {
        if !wanted.is_empty() && !wanted.iter().any(|w| name.contains(w)) {
            continue;
        }
        let done = Command::new(&me).args(["case", name]).output().expect("run a case");
        if done.status.success() {
            passed += 1;
            println!("case {name} ... ok");
        } else {
            failed.push(name);
            println!("case {name} ... FAILED ({})", done.status);
            println!(
                "{}{}",
                String::from_utf8_lossy(&done.stdout),
                String::from_utf8_lossy(&done.stderr)
            );
        }
    }
    println!("failures:");
    for name in &failed {
        println!("    {name}");
    }
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {} failed; 0 ignored", failed.len());
    ExitCode::from(u8::from(!failed.is_empty()))
}
