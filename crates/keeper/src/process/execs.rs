//! The further processes that were started in the container.

use std::os::fd::OwnedFd;

use wharf_runtime::cgroup::Cgroup;
use wharf_runtime::{ConsoleSize, Io, Target};
use wharf_sys::child;
use wharf_sys::events::Events;

use crate::log::Stream;
use crate::process::birth::{fault, start_fault};
use crate::process::pump::{Pump, streams};
use crate::protocol::{ExecIo, ExecRequest, ExecState, Exit, Fault, IoConfig, MAX_EXECS};

/// Ended execs whose result nobody has collected; beyond that the oldest is forgotten.
const UNCOLLECTED: usize = 64;

/// All execs of one container.
#[derive(Debug, Default)]
pub(super) struct Execs {
    list: Vec<Exec>,
    next_pump: u32,
}

#[derive(Debug)]
struct Exec {
    id: String,
    pid: i32,
    pidfd: OwnedFd,
    exit: Option<Exit>,
    /// Unless the daemon brought the descriptors.
    pump: Option<Pump>,
}

impl Execs {
    /// Starts one. `reporter` is the connection to tell of the end of its attachment.
    pub(super) fn start(
        &mut self,
        events: &Events,
        (init, cgroup): (&OwnedFd, &Cgroup),
        pid: i32,
        request: &ExecRequest,
        mut fds: Vec<OwnedFd>,
    ) -> Result<i32, Fault> {
        if self.list.iter().any(|e| e.id == request.id) {
            return Err(fault(format!("exec {} exists already", request.id)));
        }
        if self.list.iter().filter(|e| e.exit.is_none()).count() >= MAX_EXECS {
            return Err(fault(format!("{MAX_EXECS} execs run in this container already")));
        }
        let (config, ours, theirs) = match &request.io {
            ExecIo::Direct { stdin, stdout, stderr } => {
                let mut fds = fds.drain(..);
                let mut take = |given: bool| fds.by_ref().next_if(given);
                let io = Io {
                    stdin: take(*stdin),
                    stdout: take(*stdout),
                    stderr: take(*stderr),
                    console: None,
                };
                (IoConfig::default(), None, io)
            }
            ExecIo::Kept { io, .. } => {
                let (ours, theirs) = streams(*io).map_err(|e| fault(format!("make pipes: {e}")))?;
                (*io, Some(ours), theirs)
            }
        };
        let pidfd = init.try_clone().map_err(|e| fault(format!("exec: {e}")))?;
        let target = Target { pid, pidfd, cgroup: cgroup.clone() };
        let started =
            wharf_runtime::exec(&target, &request.plan, theirs).map_err(|e| start_fault(&e))?;
        let mut exec = Exec {
            id: request.id.clone(),
            pid: started.pid,
            pidfd: started.pidfd,
            exit: None,
            pump: None,
        };
        if let Some(ours) = ours {
            self.next_pump = self.next_pump % 0x00ff_fffe + 1;
            let pump = Pump::new(self.next_pump, config, ours, started.console)
                .and_then(|pump| pump.watch(events).map(|()| pump));
            let mut pump = pump.map_err(|e| {
                drop(child::signal(&exec.pidfd, 9)); // It runs with nobody to hear it; the main loop reaps it.
                fault(format!("connect the exec's streams: {e}"))
            })?;
            if let (ExecIo::Kept { attach: Some(options), .. }, Some(stream)) =
                (&request.io, fds.pop())
            {
                pump.attach(events, options.clone(), stream, None).map_err(fault)?;
            }
            exec.pump = Some(pump);
        }
        self.list.push(exec);
        Ok(started.pid)
    }

    /// Takes note that child `pid` ended, with its last output read. Its name, if it was an exec.
    pub(super) fn ended(
        &mut self,
        events: &Events,
        buffer: &mut [u8],
        pid: i32,
        exit: Exit,
    ) -> Option<String> {
        let exec = self.list.iter_mut().find(|e| e.pid == pid && e.exit.is_none())?;
        exec.exit = Some(exit);
        if let Some(pump) = &mut exec.pump {
            pump.finish(events, buffer, &mut no_log, &mut Vec::new());
        }
        let id = exec.id.clone();
        let ended = self.list.iter().filter(|e| e.exit.is_some());
        if ended.count() > UNCOLLECTED
            && let Some(oldest) = self.list.iter().position(|e| e.exit.is_some())
        {
            self.list.remove(oldest);
        }
        Some(id)
    }

    /// Lets the clients of an ended exec go: the daemon knows of its end, or is not there to know.
    pub(super) fn release(&mut self, events: &Events, id: &str) {
        let ended = self.list.iter_mut().find(|e| e.id == id && e.exit.is_some());
        if let Some(pump) = ended.and_then(|e| e.pump.as_mut()) {
            pump.release(events, &mut Vec::new());
        }
        self.sweep();
    }

    /// Lets the clients of all ended execs go.
    pub(super) fn release_all(&mut self, events: &Events) {
        for exec in self.list.iter_mut().filter(|e| e.exit.is_some()) {
            if let Some(pump) = &mut exec.pump {
                pump.release(events, &mut Vec::new());
            }
        }
        self.sweep();
    }

    /// Forgets an ended exec whose result was collected, once its clients have all of its output.
    pub(super) fn collect(&mut self, events: &Events, id: &str) {
        self.release(events, id);
        self.list.retain(|e| e.id != id || e.exit.is_none() || e.pump.is_some());
    }

    /// Drops pumps that have nothing more to do.
    pub(super) fn sweep(&mut self) {
        for exec in &mut self.list {
            if exec.exit.is_some() {
                exec.pump.take_if(|p| p.attached() == 0);
            }
        }
    }

    /// Whether some client still has to be sent output.
    pub(super) fn are_busy(&self) -> bool {
        self.list.iter().any(|e| e.pump.as_ref().is_some_and(|p| p.attached() > 0))
    }

    /// The pump of that number.
    pub(super) fn pump(&mut self, id: u32) -> Option<&mut Pump> {
        self.list.iter_mut().filter_map(|e| e.pump.as_mut()).find(|p| p.id == id)
    }

    /// Changes the size of a terminal.
    pub(super) fn resize(&self, id: &str, size: ConsoleSize) -> Result<(), String> {
        self.find(id)?.pump.as_ref().map_or(Ok(()), |pump| pump.resize(size))
    }

    /// Sends a signal.
    pub(super) fn signal(&self, id: &str, signal: i32) -> Result<(), String> {
        child::signal(&self.find(id)?.pidfd, signal).map_err(|e| format!("signal exec {id}: {e}"))
    }

    /// How an exec ended; `Ok(None)` while it runs.
    pub(super) fn exit(&self, id: &str) -> Result<Option<Exit>, String> {
        Ok(self.find(id)?.exit)
    }

    /// What there is.
    pub(super) fn states(&self) -> Vec<ExecState> {
        let state = |e: &Exec| ExecState { id: e.id.clone(), pid: e.pid, exit: e.exit };
        self.list.iter().map(state).collect()
    }

    fn find(&self, id: &str) -> Result<&Exec, String> {
        self.list
            .iter()
            .find(|e| e.id == id)
            .ok_or_else(|| format!("no exec {id} in this container"))
    }
}

/// Execs are not logged.
pub(super) fn no_log(_: Stream, _: &[u8]) {}

/// `Iterator::next` where a condition decides whether to take one at all.
trait NextIf: Iterator {
    fn next_if(&mut self, take: bool) -> Option<Self::Item>;
}

impl<I: Iterator> NextIf for I {
    fn next_if(&mut self, take: bool) -> Option<Self::Item> {
        if take { self.next() } else { None }
    }
}
