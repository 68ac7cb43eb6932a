//! From a launch request to a running container, or to the reason why not.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use wharf_base::clock::Clock;
use wharf_runtime::cgroup::Cgroup;
use wharf_runtime::{CreateError, Created, Failure, StartError};
use wharf_sys::events::{Events, Interest, signal_fd};
use wharf_sys::fs::{self, Mode, OFlags};
use wharf_sys::{channel, child};

use crate::process::logging::Log;
use crate::process::pump::{Pump, Streams, streams};
use crate::process::token::Token;
use crate::protocol::{
    AttachOptions, EXIT_FILE, Fault, FaultKind, Launch, RECORD_FILE, Record, SOCKET, Started,
};
use crate::{record, remains};

/// SIGHUP, SIGINT, SIGTERM: a keeper ends with its container and not before.
const SPARED: [i32; 3] = [1, 2, 15];
pub(super) const SIGCHLD: i32 = 17;

/// A container that runs, and what keeps it.
pub(super) struct Born {
    pub(super) started: Started,
    pub(super) pidfd: OwnedFd,
    pub(super) cgroup: Cgroup,
    pub(super) pump: Pump,
    pub(super) log: Log,
    pub(super) events: Events,
    pub(super) signals: OwnedFd,
    pub(super) listener: OwnedFd,
    pub(super) oom: Option<OwnedFd>,
    pub(super) root: Option<OwnedFd>,
}

/// A client that is there before the container: its options, its stream, and the connection to report to.
pub(super) type FirstClient = (AttachOptions, OwnedFd, u32);

/// Creates and starts the container. On a fault nothing of it is left.
pub(super) fn bear(launch: &Launch, clients: Vec<FirstClient>) -> Result<Born, Fault> {
    let born = try_bear(launch, clients);
    if born.is_err() {
        for name in [SOCKET, RECORD_FILE] {
            drop(std::fs::remove_file(launch.dir.join(name))); // Absent if it failed before.
        }
    }
    born
}

fn try_bear(launch: &Launch, clients: Vec<FirstClient>) -> Result<Born, Fault> {
    let log = Log::open(&launch.log)
        .map_err(|e| fault(format!("open log {}: {e}", launch.log.path.display())))?;
    let (events, signals, listener) =
        station(&launch.dir).map_err(|e| fault(format!("set up the keeper: {e}")))?;
    if let Some(news) = log.news() {
        events
            .add(news, Token::Log.pack(), Interest::READ)
            .map_err(|e| fault(format!("set up the log: {e}")))?;
    }
    let (ours, theirs) = streams(launch.io).map_err(|e| fault(format!("make pipes: {e}")))?;
    let mut created = wharf_runtime::create(&launch.plan, theirs).map_err(|e| create_fault(&e))?;
    let console = created.take_console();
    let cgroup = launch.plan.cgroup.clone();
    let root = open_root(created.pid());
    let pump = connect(launch, &events, ours, console, clients);
    let (pump, started, pidfd) = match pump.and_then(|pump| start(launch, created, pump)) {
        Ok(running) => running,
        Err(e) => {
            abandon(&cgroup);
            return Err(e);
        }
    };
    let oom = cgroup.oom_events().ok().filter(|oom| {
        events.add(oom, Token::Oom.pack(), Interest::READ).is_ok() // Else it is told at the end only.
    });
    Ok(Born { started, pidfd, cgroup, pump, log, events, signals, listener, oom, root })
}

/// Everything is connected before the first byte can come.
fn connect(
    launch: &Launch,
    events: &Events,
    streams: Streams,
    console: Option<OwnedFd>,
    clients: Vec<FirstClient>,
) -> Result<Pump, Fault> {
    let mut pump = Pump::new(0, launch.io, streams, console)
        .and_then(|pump| pump.watch(events).map(|()| pump))
        .map_err(|e| fault(format!("connect the container's streams: {e}")))?;
    for (options, stream, reporter) in clients {
        pump.attach(events, options, stream, Some(reporter)).map_err(fault)?;
    }
    Ok(pump)
}

/// Opens the gate. The record is written before: whoever finds it knows what to kill.
fn start(launch: &Launch, created: Created, pump: Pump) -> Result<(Pump, Started, OwnedFd), Fault> {
    let started = Started { pid: created.pid(), at: Clock::system().unix_nanos() };
    let cgroup = launch.plan.cgroup.clone();
    record::write(&launch.dir.join(RECORD_FILE), &Record { started, cgroup })
        .map_err(|e| fault(format!("write {RECORD_FILE} in {}: {e}", launch.dir.display())))?;
    let init = created.start().map_err(|e| start_fault(&e))?;
    let started = Started { at: Clock::system().unix_nanos(), ..started };
    Ok((pump, started, init.pidfd))
}

/// The container's root, which keeps its mount: a file system that goes with the last process inside is synced before
/// that process is seen to end, and nobody should wait for that.
fn open_root(pid: i32) -> Option<OwnedFd> {
    let path = format!("/proc/{pid}/root");
    // Without it the end is told later, and that is all.
    fs::openat(fs::CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .ok()
}

/// The descriptors that a keeper listens to.
fn station(dir: &Path) -> io::Result<(Events, OwnedFd, OwnedFd)> {
    match std::fs::remove_file(dir.join(EXIT_FILE)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let events = Events::new()?;
    let signals = signal_fd(&[&SPARED[..], &[SIGCHLD]].concat())?;
    let listener = channel::listen(dir, SOCKET)?;
    events.add(&signals, Token::Signals.pack(), Interest::READ)?;
    events.add(&listener, Token::Listener.pack(), Interest::READ)?;
    Ok((events, signals, listener))
}

/// Ends what was created and did not start.
fn abandon(cgroup: &Cgroup) {
    // The fault that led here is what the daemon hears of; what is left now, it finds by the cgroup.
    drop(remains::end(cgroup));
    while let Ok(Some(_)) = child::reap() {}
}

fn create_fault(error: &CreateError) -> Fault {
    let kind =
        if let CreateError::Init(failure) = error { kind(failure) } else { FaultKind::Other };
    Fault { kind, message: wharf_base::error::chain(error).to_string() }
}

/// What an exec or a start met.
pub(super) fn start_fault(error: &StartError) -> Fault {
    let kind = if let StartError::Init(failure) = error { kind(failure) } else { FaultKind::Other };
    Fault { kind, message: wharf_base::error::chain(error).to_string() }
}

fn kind(failure: &Failure) -> FaultKind {
    match failure.exit_code() {
        127 => FaultKind::NotFound,
        126 => FaultKind::NotExecutable,
        _ => FaultKind::Other,
    }
}

pub(super) fn fault(message: String) -> Fault {
    Fault { kind: FaultKind::Other, message }
}
