//! Development tasks: `cargo xtask demo`, `test`, `bench`, `vm`, `protos`, `tools`.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a development tool: it runs programs, measures and talks to a person"
)]

mod bench;
mod debian;
mod demo;
mod machine;
mod protos;
mod sh;
mod suites;
mod tools;
mod vm;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  demo                    build wharf, start an engine and show a container serving a page
  test [--only SUITE]...  install missing test clients, then run everything (or those suites)
       [FILTER]           run only tests whose name contains FILTER
  bench [--quick] [NAME]  measure wharf and its peers on the same work; writes bench/RESULTS.md
  vm [--all] [FILTER]     run kernel tests, ladder, tour and demo in a virtual machine with cgroup v2;
                          --all: every test that drives an engine (an hour or more)
  protos                  write the Rust code of the protocol definitions anew
  tools                   fetch the test clients into target/tools and stop

suites: fmt clippy house unit acceptance cli applications reliability clients etcd ship buildkit everyday
        kube oci vm";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["demo"] => demo::run(),
        ["demo-of", wharf] => demo::show(wharf.as_ref()),
        ["bench", rest @ ..] => bench::run(rest),
        ["bench-serve"] => bench::serve(),
        ["bench-race", rounds, commands] => bench::race_programs(rounds, commands),
        ["tools", rest @ ..] => tools::install(rest).map(|()| true),
        ["protos"] => protos::run().map(|()| true),
        ["test", rest @ ..] => suites::run(rest),
        ["vm", rest @ ..] => vm::run(rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
