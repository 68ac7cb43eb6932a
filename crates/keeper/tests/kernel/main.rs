//! Real containers under real keepers. Needs root and Debian's busybox-static.
//!
//! This program is its own test harness, because it must also be the launcher that it tests.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stdout, reason = "tests")]

mod host;
mod lifecycle;
mod logs;
mod measure;
mod streams;
mod survival;

use std::process::ExitCode;
use std::time::Duration;

use host::Host;

type Test = (&'static str, fn(Host) -> std::pin::Pin<Box<dyn Future<Output = ()>>>);

/// Names each async function for the list of tests.
macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), |host| Box::pin($module::$name(host)))),*]
    };
}

const TESTS: &[Test] = tests![
    lifecycle::output_exit_and_acknowledgement,
    lifecycle::a_program_that_cannot_run_leaves_nothing,
    lifecycle::signals_give_their_exit_status,
    lifecycle::out_of_memory_is_told,
    lifecycle::an_init_reaps_and_passes_signals_on,
    lifecycle::a_keeper_that_ends_late_leaves_the_next_one_alone,
    lifecycle::everything_written_before_the_end_is_logged,
    streams::the_first_byte_reaches_an_early_client,
    streams::the_end_of_input_ends_the_program,
    streams::a_terminal_has_a_size_and_detach_keys,
    streams::a_client_that_holds_gets_every_byte,
    streams::a_slow_client_is_dropped_and_the_log_is_whole,
    streams::many_clients_hear_the_same,
    streams::execs_have_streams_and_codes,
    survival::a_container_outlives_its_daemon,
    survival::an_end_without_a_daemon_is_on_file,
    survival::a_dead_launcher_is_replaced,
    survival::a_dead_keeper_takes_its_container_along,
    logs::following_survives_rotation_and_compression,
    logs::a_full_disk_does_not_stop_a_container,
    logs::a_log_apart_is_whole_where_there_is_room,
    logs::a_stuck_log_apart_holds_nobody_up,
    measure::memory_of_an_idle_keeper,
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("launcher") => return wharf_keeper::launcher::main(),
        Some("daemon") => return survival::daemon(&args[1]),
        _ => {}
    }
    let wanted: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, test) in TESTS {
        if !wanted.is_empty() && !wanted.iter().any(|w| name.contains(w.as_str())) {
            continue;
        }
        println!("test {name} ...");
        match std::panic::catch_unwind(|| run(*test)) {
            Ok(()) => passed += 1,
            Err(_) => failed.push(name),
        }
    }
    // What the standard harness ends with, so that these count, and are named, as well.
    println!("failures:");
    for name in &failed {
        println!("    {name}");
    }
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {} failed; 0 ignored", failed.len());
    ExitCode::from(u8::from(!failed.is_empty()))
}

fn run(test: fn(Host) -> std::pin::Pin<Box<dyn Future<Output = ()>>>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let host = Host::new();
        tokio::time::timeout(Duration::from_secs(60), test(host)).await.unwrap();
    });
}
