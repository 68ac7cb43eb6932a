//! A first process that passes signals on and reaps orphans, so that the program need not.

use std::io;
use std::os::fd::AsFd as _;

use crate::child::{self, Ended, Fork, exit_now};
use crate::events::block_signals;
use crate::process;

/// Splits off the program: returns in a new process, while this one becomes its init and never returns.
///
/// The init holds no descriptor. It sends every signal it gets to the program, reaps whatever ends, and ends with
/// the program, with its status or 128 plus the signal that killed it. With a terminal on standard
/// input the program becomes its foreground process group, so that keys reach it once.
pub fn split_off() -> io::Result<()> {
    match child::fork()? {
        Fork::Child => come_to_foreground(),
        Fork::Parent(program) => exit_now(init(program)),
    }
}

fn come_to_foreground() -> io::Result<()> {
    let stdin = io::stdin();
    rustix::process::setpgid(None, None)?;
    if rustix::termios::isatty(&stdin) {
        // Asking from the background would stop the process; the runtime unblocks everything before exec.
        block_signals(&[libc::SIGTTOU])?;
        rustix::termios::tcsetpgrp(stdin.as_fd(), rustix::process::getpid())?;
    }
    Ok(())
}

/// Blocked signals wait for `next`; being blocked also makes them reach a pid 1 without handlers.
fn init(program: i32) -> i32 {
    let all: Vec<i32> = (1..32).collect();
    let Ok(set) = block_signals(&all) else { return 125 };
    drop(child::set_name("wharf-init")); // For `ps`; nothing depends on it.
    if child::close_all_but(&[]).is_err() || child::quiet_stdio().is_err() {
        child::close_stdio();
    }
    loop {
        let signal = next(&set);
        if signal != libc::SIGCHLD {
            drop(process::kill(program, signal)); // It may have just ended.
            continue;
        }
        while let Ok(Some((pid, how))) = child::reap() {
            if pid == program {
                return match how {
                    Ended::Exited(code) => code,
                    Ended::Killed(signal) => 128 + signal,
                };
            }
        }
    }
}

fn next(set: &libc::sigset_t) -> i32 {
    loop {
        // SAFETY: neither std nor rustix waits for signals. The set is initialised; no details are asked for.
        let signal = unsafe { libc::sigwaitinfo(std::ptr::from_ref(set), std::ptr::null_mut()) };
        if signal > 0 {
            return signal;
        }
    }
}
