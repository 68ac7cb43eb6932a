//! The keeper process: one container's parent, from its first moment to its acknowledged end.
//!
//! One thread, one epoll loop, no timers. An idle keeper is not woken at all.

mod birth;
mod client;
mod connection;
mod execs;
mod keep;
mod logging;
mod pump;
mod requests;
mod token;

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use wharf_sys::child;

use crate::process::birth::{FirstClient, fault};
use crate::process::keep::Keep;
use crate::protocol::{AttachOptions, Fault, Launch, Reply, Request, VERSION};
use crate::wire::{self, Packet};

/// Becomes the keeper of the container that the daemon describes on `daemon`; returns when it is over.
pub(crate) fn main(daemon: OwnedFd) -> ExitCode {
    if settle().is_err() {
        return ExitCode::FAILURE; // The daemon sees its socket close.
    }
    let (launch, clients, fds) = match wire::recv::<Request>(&daemon) {
        Ok(Packet::Message(Request::Launch(launch, clients), fds)) => (launch, clients, fds),
        Ok(Packet::Foreign { .. } | Packet::Message(..)) => {
            return answer(&daemon, &Reply::Unsupported(VERSION));
        }
        Ok(Packet::Empty | Packet::Closed) | Err(_) => return ExitCode::FAILURE,
    };
    if wire::send(&daemon, &Reply::Hello, &[]).is_err() {
        return ExitCode::FAILURE;
    }
    match begin(*launch, clients, fds, &daemon) {
        Ok(keep) => keep.run(daemon),
        Err(fault) => answer(&daemon, &Reply::Failed(fault)),
    }
}

/// Cuts what ties a fork to its launcher.
fn settle() -> std::io::Result<()> {
    child::ignore_children(false);
    child::adopt_orphans()?;
    child::set_name("wharf-keeper")?;
    child::quiet_stdio()
}

/// Starts the container with its first clients. The plan is gone afterwards, and its memory with it.
fn begin(
    launch: Launch,
    clients: Vec<AttachOptions>,
    fds: Vec<OwnedFd>,
    daemon: &OwnedFd,
) -> Result<Keep, Fault> {
    let (first, reports) = pair_up(clients, fds)?;
    let keep = Keep::new(birth::bear(&launch, first)?, &launch.dir, reports)?;
    drop(launch);
    child::trim_heap();
    // If the daemon is gone already, it will find the keeper when it comes back.
    drop(wire::send(daemon, &Reply::Started(keep.started()), &[]));
    Ok(keep)
}

/// Gives each client its two descriptors; connections of first clients are numbered from 0.
fn pair_up(
    clients: Vec<AttachOptions>,
    fds: Vec<OwnedFd>,
) -> Result<(Vec<FirstClient>, Vec<OwnedFd>), Fault> {
    if fds.len() != clients.len() * 2 {
        return Err(fault(format!("{} descriptors came for {} clients", fds.len(), clients.len())));
    }
    let (mut first, mut reports) = (Vec::new(), Vec::new());
    let mut fds = fds.into_iter();
    for (options, id) in clients.into_iter().zip(0..) {
        if let (Some(stream), Some(report)) = (fds.next(), fds.next()) {
            first.push((options, stream, id));
            reports.push(report);
        }
    }
    Ok((first, reports))
}

fn answer(daemon: &OwnedFd, reply: &Reply) -> ExitCode {
    match wire::send(daemon, reply, &[]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
