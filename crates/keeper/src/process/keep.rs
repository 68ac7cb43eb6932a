//! The keeper's loop: what is ready, what that means, and when there is nothing left to keep.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use wharf_base::clock::Clock;
use wharf_runtime::cgroup::Cgroup;
use wharf_sys::child::{self, Ended as ChildEnded};
use wharf_sys::events::{Events, Interest, Ready, next_signal};
use wharf_sys::root::{Dir, Root};
use wharf_sys::scratch::{Scratch, forget_code};
use wharf_sys::{channel, process};

use crate::log::Stream;
use crate::process::birth::{Born, SIGCHLD, fault};
use crate::process::connection::{Connection, Follow, Topic};
use crate::process::execs::{Execs, no_log};
use crate::process::logging::Log;
use crate::process::pump::{self, Ended, Pump};
use crate::process::token::Token;
use crate::protocol::{EXIT_FILE, Exit, Fault, MAX_CONNECTIONS, Reply, SOCKET, Started};
use crate::{record, remains};

/// How long after a burst its memory is kept for the next one.
const LINGER: Duration = Duration::from_millis(500);
/// A burst is what dirties more memory than this.
const BURST: usize = 16 << 10;
/// Output that comes again so soon is written faster than each piece is worth a wake-up.
const RUSH: Duration = Duration::from_micros(300);
/// How long such output then gathers in its pipe, which holds far more.
const GATHER: Duration = Duration::from_micros(500);
/// Less than this at once is a conversation, not a flood.
const FLOOD: usize = 2 << 10;

/// A container being kept.
pub(super) struct Keep {
    pub(super) dir: PathBuf,
    /// The same directory, whatever has its name by now: a container that was started again has a new one.
    home: Option<Dir>,
    pub(super) started: Started,
    pub(super) pidfd: OwnedFd,
    pub(super) cgroup: Cgroup,
    pub(super) events: Events,
    signals: OwnedFd,
    listener: OwnedFd,
    /// Held so that a connection can be refused when descriptors run out.
    spare: Option<OwnedFd>,
    /// Held so that the root is unmounted when everybody knows of the end.
    _root: Option<OwnedFd>,
    oom: Option<File>,
    oom_kills: u64,
    pub(super) log: Log,
    pub(super) pump: Pump,
    pub(super) execs: Execs,
    pub(super) connections: Vec<Connection>,
    next_connection: u32,
    buffer: Scratch,
    burst: bool,
    /// When output was last read.
    read: Instant,
    pub(super) exit: Option<Exit>,
    pub(super) acknowledged: bool,
}

impl Keep {
    /// Takes over a container that runs. `reports` are the connections that its first clients' ends are told on.
    pub(super) fn new(born: Born, dir: &Path, reports: Vec<OwnedFd>) -> Result<Keep, Fault> {
        let buffer = Scratch::new(pump::HEADER + pump::BLOCK)
            .map_err(|e| fault(format!("allocate the keeper's buffer: {e}")))?;
        let mut keep = Keep {
            dir: dir.to_owned(),
            home: Root::open(dir).and_then(|root| root.top()).ok(),
            started: born.started,
            pidfd: born.pidfd,
            cgroup: born.cgroup,
            events: born.events,
            signals: born.signals,
            listener: born.listener,
            spare: spare(),
            _root: born.root,
            oom: born.oom.map(File::from),
            oom_kills: 0,
            log: born.log,
            pump: born.pump,
            execs: Execs::default(),
            connections: Vec::new(),
            next_connection: 0,
            buffer,
            // The birth of the container was one: it needed most of the code that this process has.
            burst: true,
            read: Clock::system().instant(),
            exit: None,
            acknowledged: false,
        };
        for report in reports {
            keep.connect(report, Topic::Attachment);
        }
        Ok(keep)
    }

    pub(super) fn started(&self) -> Started {
        self.started
    }

    /// Keeps the container until its end is known to the daemon, or nobody is there to know.
    pub(super) fn run(mut self, daemon: OwnedFd) -> ExitCode {
        self.connect(daemon, Topic::Container);
        let mut ready = Vec::with_capacity(32);
        while !self.is_over() {
            let linger = self.burst.then_some(LINGER);
            if self.events.wait(&mut ready, linger).is_err() {
                return ExitCode::FAILURE; // Only a broken kernel or bug; the daemon buries the container.
            }
            if ready.is_empty() && self.burst {
                self.rest();
            }
            for &event in &ready {
                if let Some(token) = Token::unpack(event.token) {
                    self.handle(token, event);
                }
            }
        }
        if let Some(home) = &self.home {
            drop(home.unlink(SOCKET.as_ref())); // Gone with its directory if the container runs again.
        }
        ExitCode::SUCCESS
    }

    /// The container has ended, its clients have its output, and its end is known or nobody asks for it.
    fn is_over(&self) -> bool {
        let watched = self.connections.iter().any(|c| c.topic == Topic::Container);
        self.exit.is_some()
            && (self.acknowledged || !watched)
            && self.pump.attached() == 0
            && !self.execs.are_busy()
    }

    fn handle(&mut self, token: Token, event: Ready) {
        let mut ended = Vec::new();
        match token {
            Token::Listener => self.accept(),
            Token::Signals => self.signalled(),
            Token::Oom => self.oom_event(),
            Token::Log => self.log_news(),
            Token::Connection(id) => self.talk(id),
            Token::Output(0, stream) => self.output(stream, &mut ended),
            Token::Output(id, stream) => {
                if let Some(pump) = self.execs.pump(id) {
                    pump.output(&self.events, stream, &mut self.buffer, &mut no_log, &mut ended);
                    self.burst = true;
                }
            }
            Token::Input(id) => {
                if let Some(pump) = pump_of(&mut self.pump, &mut self.execs, id) {
                    pump.input_ready(&self.events, &mut ended);
                }
            }
            Token::Client(id, client) => {
                if let Some(pump) = pump_of(&mut self.pump, &mut self.execs, id) {
                    pump.client_ready(&self.events, client, event, &mut ended);
                }
                self.execs.sweep();
            }
        }
        self.report(ended);
    }

    fn output(&mut self, stream: Stream, ended: &mut Vec<Ended>) {
        let now = Clock::system().unix_nanos();
        let (log, mut len, mut grew) = (&mut self.log, 0, false);
        let mut write = |stream, bytes: &[u8]| {
            len = bytes.len();
            grew = log.write(stream, bytes, now);
        };
        self.pump.output(&self.events, stream, &mut self.buffer, &mut write, ended);
        self.burst |= len > BURST;
        if grew {
            self.log_grew();
        }
        self.pace(len);
    }

    /// Lets a flood of output gather, so that it is read in large blocks: the writer, the keeper and the disk
    /// then do not take turns for every page. `len` is what was just read.
    fn pace(&mut self, len: usize) {
        let now = Clock::system().instant();
        let rush = now.duration_since(self.read) < RUSH;
        if rush && (FLOOD..pump::BLOCK).contains(&len) {
            process::pause_for(GATHER);
        }
        self.read = Clock::system().instant();
    }

    /// Tells of each attachment that is over to whoever wants to know.
    fn report(&mut self, ended: Vec<Ended>) {
        for (reporter, why) in ended {
            if let Some(id) = reporter {
                self.reply(id, &Reply::Detached(why));
            }
        }
    }

    fn signalled(&mut self) {
        let mut children = false;
        while let Ok(Some(signal)) = next_signal(&self.signals) {
            children |= signal == SIGCHLD;
        }
        while children && let Ok(Some((pid, how))) = child::reap() {
            if pid == self.started.pid && self.exit.is_none() {
                self.container_ended(how);
            } else if !self.log.child_ended(pid, how == ChildEnded::Exited(0)) {
                self.exec_ended(pid, how);
            }
        }
    }

    /// The order matters: all output is in the log, and the exit on file, before anyone can ask.
    fn container_ended(&mut self, how: ChildEnded) {
        let mut ended = Vec::new();
        let now = Clock::system().unix_nanos();
        let log = &mut self.log;
        let mut write = |stream, bytes: &[u8]| {
            log.write(stream, bytes, now);
        };
        self.pump.finish(&self.events, &mut self.buffer, &mut write, &mut ended);
        self.log.finish(now);
        self.check_oom();
        let exit = exit_of(how, self.oom_kills > 0);
        // Without a file the daemon still hears of it, unless it is away; then `bury` says 137.
        drop(record::write(&self.dir.join(EXIT_FILE), &exit));
        self.oom = None; // Removing a v1 cgroup would signal it.
        // In a pid namespace of its own nothing is left; in a shared one the rest must not outlive its
        // keeper. What cannot be removed now, `bury` removes.
        drop(remains::end(&self.cgroup));
        self.exit = Some(exit);
        self.pump.release(&self.events, &mut ended);
        self.report(ended);
        self.tell(&Topic::Container, &Reply::Exited(exit));
        self.connections.retain(|c| !matches!(c.topic, Topic::Log(_)));
    }

    fn exec_ended(&mut self, pid: i32, how: ChildEnded) {
        let exit = exit_of(how, false);
        let Some(id) = self.execs.ended(&self.events, &mut self.buffer, pid, exit) else {
            return; // An orphan from somewhere in the container.
        };
        let topic = Topic::Exec(id.clone());
        self.tell(&topic, &Reply::ExecEnded(exit));
        // While the daemon has the connection open, it has not yet stored the end; see `closed`.
        if !self.connections.iter().any(|c| c.topic == topic) {
            self.execs.release(&self.events, &id);
        }
    }

    fn oom_event(&mut self) {
        if let Some(mut oom) = self.oom.as_ref() {
            // Draining it is all there is to reading it: the cgroup's own counter tells.
            drop(oom.read(&mut [0; 4096]));
        }
        self.check_oom();
    }

    fn check_oom(&mut self) {
        let kills = self.cgroup.oom_kills().unwrap_or(self.oom_kills);
        if kills > self.oom_kills {
            self.oom_kills = kills;
            self.tell(&Topic::Container, &Reply::Oom);
        }
    }

    fn log_news(&mut self) {
        if !self.log.hear()
            && let Some(news) = self.log.news()
        {
            // The writer has ended; it has told what it had to tell.
            drop(self.events.remove(news));
        }
        self.log_grew();
    }

    fn log_grew(&mut self) {
        let mut told = Vec::new();
        for connection in &mut self.connections {
            match connection.topic {
                Topic::Log(Follow::Armed) => {
                    connection.topic = Topic::Log(Follow::UpToDate);
                    told.push(connection.id);
                }
                Topic::Log(Follow::UpToDate) => connection.topic = Topic::Log(Follow::Behind),
                _ => {}
            }
        }
        for id in told {
            self.reply(id, &Reply::LogGrew);
        }
    }

    fn accept(&mut self) {
        match channel::accept(&self.listener) {
            Ok(socket) if self.connections.len() < MAX_CONNECTIONS && is_trusted(&socket) => {
                self.connect(socket, Topic::Nothing);
            }
            Ok(_refused) => {}
            Err(e) if e.raw_os_error() == Some(EMFILE) => {
                // The waiting connection would wake the loop for ever: take it with the spare and close it.
                self.spare = None;
                drop(channel::accept(&self.listener));
                self.spare = spare();
            }
            Err(_) => {} // The peer gave up meanwhile.
        }
    }

    fn connect(&mut self, socket: OwnedFd, topic: Topic) {
        let id = self.next_connection;
        self.next_connection += 1;
        let token = Token::Connection(id).pack();
        let ready = channel::set_nonblocking(&socket, true)
            .and_then(|()| self.events.add(&socket, token, Interest::READ));
        if ready.is_ok() {
            self.connections.push(Connection { id, socket, topic });
        }
    }

    /// Replies on a connection; one that does not take it is closed.
    pub(super) fn reply(&mut self, id: u32, reply: &Reply) {
        let connection = self.connections.iter().find(|c| c.id == id);
        if connection.is_some_and(|c| !c.reply(reply)) {
            self.close(id);
        }
    }

    /// Replies on every connection about `topic`.
    fn tell(&mut self, topic: &Topic, reply: &Reply) {
        let about = self.connections.iter().filter(|c| c.topic == *topic);
        let ids: Vec<u32> = about.map(|c| c.id).collect();
        for id in ids {
            self.reply(id, reply);
        }
    }

    /// Forgets a connection. An ended exec's clients go with the last connection about it.
    pub(super) fn close(&mut self, id: u32) {
        let Some(at) = self.connections.iter().position(|c| c.id == id) else { return };
        let topic = self.connections.swap_remove(at).topic;
        if let Topic::Exec(exec) = &topic
            && !self.connections.iter().any(|c| c.topic == topic)
        {
            self.execs.release(&self.events, exec);
        }
    }

    /// Gives back the memory that a burst of output needed.
    fn rest(&mut self) {
        self.burst = false;
        self.log.rest();
        self.buffer.release();
        child::trim_heap();
        forget_code();
    }
}

fn pump_of<'a>(container: &'a mut Pump, execs: &'a mut Execs, id: u32) -> Option<&'a mut Pump> {
    if id == 0 { Some(container) } else { execs.pump(id) }
}

fn exit_of(how: ChildEnded, oom: bool) -> Exit {
    let at = Clock::system().unix_nanos();
    match how {
        ChildEnded::Exited(code) => Exit { code, signal: None, oom, at },
        ChildEnded::Killed(signal) => Exit { code: 128 + signal, signal: Some(signal), oom, at },
    }
}

/// Whether root is at the other end; file modes keep others out already.
fn is_trusted(socket: &OwnedFd) -> bool {
    channel::peer_uid(socket.as_fd()).is_ok_and(|uid| uid == 0)
}

const EMFILE: i32 = 24;

fn spare() -> Option<OwnedFd> {
    File::open("/dev/null").ok().map(OwnedFd::from)
}
