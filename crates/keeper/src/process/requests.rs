//! What the keeper answers to each request.

use std::os::fd::OwnedFd;

use wharf_sys::child;

use crate::process::connection::{Follow, Topic};
use crate::process::keep::Keep;
use crate::protocol::{AttachOptions, ExecRequest, Reply, Request, State, VERSION};
use crate::wire::{self, Packet};

impl Keep {
    /// Something came on a connection.
    pub(super) fn talk(&mut self, id: u32) {
        let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) else { return };
        match wire::recv::<Request>(&connection.socket) {
            Ok(Packet::Message(request, fds)) if connection.topic == Topic::Nothing => {
                self.answer(id, request, fds);
            }
            Ok(Packet::Empty) if connection.topic == Topic::Log(Follow::Behind) => {
                connection.topic = Topic::Log(Follow::UpToDate);
                self.reply(id, &Reply::LogGrew);
            }
            Ok(Packet::Empty) if matches!(connection.topic, Topic::Log(_)) => {
                connection.topic = Topic::Log(Follow::Armed);
            }
            Ok(Packet::Empty) if let Topic::Exec(exec) = connection.topic.clone() => {
                self.execs.collect(&self.events, &exec);
            }
            Ok(Packet::Foreign { .. }) => self.reply(id, &Reply::Unsupported(VERSION)),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            // Gone, broken, or a second request where there may be only one.
            Ok(_) | Err(_) => self.close(id),
        }
    }

    fn answer(&mut self, id: u32, request: Request, fds: Vec<OwnedFd>) {
        match request {
            Request::Launch(..) => self.refuse(id, "this keeper has a container already"),
            Request::Watch => self.watch(id),
            Request::Acknowledge => self.acknowledge(id),
            Request::State => {
                let state = self.state();
                self.reply(id, &Reply::State(state));
            }
            Request::Attach(options) => self.attach(id, options, fds),
            Request::Resize(size) => self.done(id, self.pump.resize(size)),
            Request::Signal(signal) => {
                // A process that has just ended is no error: the news of its end is on the way.
                let sent = match child::signal(&self.pidfd, signal) {
                    Err(e) if e.raw_os_error() == Some(wharf_sys::errno::SRCH) => Ok(()),
                    other => other,
                };
                self.done(id, sent.map_err(|e| format!("signal the container: {e}")));
            }
            Request::Exec(request) => self.exec(id, &request, fds),
            Request::ExecWatch(exec) => self.exec_watch(id, exec),
            Request::ExecResize(exec, size) => self.done(id, self.execs.resize(&exec, size)),
            Request::ExecSignal(exec, signal) => self.done(id, self.execs.signal(&exec, signal)),
            Request::FollowLog if self.exit.is_some() => self.close(id),
            Request::FollowLog => self.become_about(id, Topic::Log(Follow::Behind)),
        }
    }

    fn watch(&mut self, id: u32) {
        self.become_about(id, Topic::Container);
        if let Some(exit) = self.exit {
            self.reply(id, &Reply::Exited(exit));
        }
    }

    fn acknowledge(&mut self, id: u32) {
        if self.exit.is_none() {
            return self.refuse(id, "the container has not ended");
        }
        self.acknowledged = true;
        self.execs.release_all(&self.events);
        self.reply(id, &Reply::Done);
    }

    fn state(&self) -> State {
        let trouble = self.log.trouble();
        State {
            started: self.started,
            exit: self.exit,
            execs: self.execs.states(),
            attached: u32::try_from(self.pump.attached()).unwrap_or(u32::MAX),
            log_lines_lost: trouble.lost,
            log_error: trouble.error,
        }
    }

    fn attach(&mut self, id: u32, options: AttachOptions, mut fds: Vec<OwnedFd>) {
        if self.exit.is_some() {
            return self.refuse(id, "the container has ended");
        }
        let Some(stream) = fds.pop() else {
            return self.refuse(id, "no stream came with the request to attach");
        };
        self.become_about(id, Topic::Attachment);
        let attached = self.pump.attach(&self.events, options, stream, Some(id));
        self.done(id, attached);
    }

    fn exec(&mut self, id: u32, request: &ExecRequest, fds: Vec<OwnedFd>) {
        if self.exit.is_some() {
            return self.refuse(id, "the container has ended");
        }
        let container = (&self.pidfd, &self.cgroup);
        match self.execs.start(&self.events, container, self.started.pid, request, fds) {
            Ok(pid) => {
                self.become_about(id, Topic::Exec(request.id.clone()));
                self.reply(id, &Reply::ExecStarted { pid });
            }
            Err(fault) => self.reply(id, &Reply::Failed(fault)),
        }
        child::trim_heap();
    }

    fn exec_watch(&mut self, id: u32, exec: String) {
        match self.execs.exit(&exec) {
            Err(why) => self.refuse(id, &why),
            Ok(exit) => {
                self.become_about(id, Topic::Exec(exec));
                if let Some(exit) = exit {
                    self.reply(id, &Reply::ExecEnded(exit));
                }
            }
        }
    }

    fn become_about(&mut self, id: u32, topic: Topic) {
        if let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) {
            connection.topic = topic;
        }
    }

    fn done(&mut self, id: u32, result: Result<(), String>) {
        match result {
            Ok(()) => self.reply(id, &Reply::Done),
            Err(why) => self.refuse(id, &why),
        }
    }

    fn refuse(&mut self, id: u32, why: &str) {
        self.reply(id, &Reply::Refused(why.to_owned()));
    }
}
