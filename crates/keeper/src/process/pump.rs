//! Moves bytes between one process's streams and the clients attached to it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;

use wharf_runtime::{ConsoleSize, Io};
use wharf_sys::events::{Events, Interest, Ready};
use wharf_sys::{channel, scratch};

use crate::log::Stream;
use crate::process::client::Client;
use crate::process::token::Token;
use crate::protocol::{AttachOptions, Detached, IoConfig, MAX_ATTACHED, MAX_DETACH_KEYS};

/// A pipe holds what a container writes while the keeper is busy.
const PIPE: usize = 1 << 20;
/// Read from a process at once, at most.
pub(super) const BLOCK: usize = 128 << 10;
/// Room for a frame header in front of what is read.
pub(super) const HEADER: usize = 8;
/// Read from a client at once.
const INPUT_BLOCK: usize = 16 << 10;
/// The most that a pipe or terminal can still hold after its process has ended, in blocks.
const LAST_BLOCKS: usize = 2 * PIPE / BLOCK;

/// One process's streams and its clients.
#[derive(Debug)]
pub(super) struct Pump {
    pub(super) id: u32,
    config: IoConfig,
    input: Option<Input>,
    outputs: [Option<File>; 2],
    /// The outputs are out of the event loop because a client holds the process.
    held: bool,
    clients: Vec<Client>,
    next_client: u32,
}

/// The way to a process's standard input.
#[derive(Debug)]
struct Input {
    file: File,
    /// What it did not take yet. While there is any, clients are not read.
    pending: Vec<u8>,
    /// Close it after that.
    closing: bool,
}

/// An attachment that is over: whom to tell, and why.
pub(super) type Ended = (Option<u32>, Detached);

/// The two sides of the streams of a process that is about to be made.
pub(super) struct Streams {
    input: Option<OwnedFd>,
    outputs: [Option<OwnedFd>; 2],
}

/// Makes the pipes that `config` asks for. A terminal is made by the runtime.
pub(super) fn streams(config: IoConfig) -> io::Result<(Streams, Io)> {
    if config.tty.is_some() {
        let io = Io { console: config.tty, ..Io::default() };
        return Ok((Streams { input: None, outputs: [None, None] }, io));
    }
    let (stdin, input) = if config.open_stdin {
        let (read, write) = scratch::pipe()?;
        (Some(read), Some(write))
    } else {
        (None, None)
    };
    let (out, stdout) = output_pipe()?;
    let (err, stderr) = output_pipe()?;
    let io = Io { stdin, stdout: Some(stdout), stderr: Some(stderr), console: None };
    Ok((Streams { input, outputs: [Some(out), Some(err)] }, io))
}

fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = scratch::pipe()?;
    scratch::grow_pipe(&write, PIPE)?; // A smaller one, where the host allows no more, is only slower.
    Ok((read, write))
}

impl Pump {
    /// Connects the keeper's side of the streams; `console` is the terminal's master side, if there is one.
    pub(super) fn new(
        id: u32,
        config: IoConfig,
        streams: Streams,
        console: Option<OwnedFd>,
    ) -> io::Result<Pump> {
        let (input, outputs) = match console {
            Some(master) => {
                let master = File::from(master);
                (Some(master.try_clone()?), [Some(master), None])
            }
            None => (streams.input.map(File::from), streams.outputs.map(|o| o.map(File::from))),
        };
        for file in input.iter().chain(outputs.iter().flatten()) {
            channel::set_nonblocking(file, true)?;
        }
        let input = input.map(|file| Input { file, pending: Vec::new(), closing: false });
        Ok(Pump { id, config, input, outputs, held: false, clients: Vec::new(), next_client: 0 })
    }

    /// Puts the outputs into the event loop.
    pub(super) fn watch(&self, events: &Events) -> io::Result<()> {
        for (stream, output) in self.outputs() {
            events.add(output, Token::Output(self.id, stream).pack(), Interest::READ)?;
        }
        Ok(())
    }

    fn outputs(&self) -> impl Iterator<Item = (Stream, &File)> {
        let names = [Stream::Stdout, Stream::Stderr];
        names.into_iter().zip(&self.outputs).filter_map(|(s, o)| Some((s, o.as_ref()?)))
    }

    /// How many clients there are.
    pub(super) fn attached(&self) -> usize {
        self.clients.len()
    }

    /// Adds a client. `reporter` is the connection to tell of its end.
    ///
    /// # Errors
    /// A text for the daemon.
    pub(super) fn attach(
        &mut self,
        events: &Events,
        mut options: AttachOptions,
        stream: OwnedFd,
        reporter: Option<u32>,
    ) -> Result<(), String> {
        if self.config.tty.is_none() {
            // What is piped in is data: only a terminal has keys.
            options.detach_keys.clear();
        }
        if self.clients.len() >= MAX_ATTACHED {
            return Err(format!("{MAX_ATTACHED} clients are attached already: detach one first"));
        }
        if options.detach_keys.len() > MAX_DETACH_KEYS {
            return Err(format!("detach keys are longer than {MAX_DETACH_KEYS} bytes"));
        }
        channel::set_nonblocking(&stream, true).map_err(|e| format!("attach: {e}"))?;
        self.next_client += 1;
        self.clients.push(Client::new(self.next_client, stream.into(), options, reporter));
        self.retune(events);
        Ok(())
    }

    /// Sets the size of the terminal. Without one there is nothing to set, which is no error to Docker's clients.
    pub(super) fn resize(&self, size: ConsoleSize) -> Result<(), String> {
        let terminal = self.outputs[0].as_ref().filter(|_| self.config.tty.is_some());
        let Some(terminal) = terminal else { return Ok(()) };
        wharf_sys::tty::set_size(terminal, size.rows, size.cols)
            .map_err(|e| format!("resize the terminal: {e}"))
    }

    /// Reads what the process wrote to `stream`, hands it to `log` and to the clients. `buffer` has [`HEADER`]
    /// plus [`BLOCK`] bytes. `false` at the end of the stream, or when there is nothing.
    pub(super) fn output(
        &mut self,
        events: &Events,
        stream: Stream,
        buffer: &mut [u8],
        log: &mut dyn FnMut(Stream, &[u8]),
        ended: &mut Vec<Ended>,
    ) -> bool {
        let slot = &mut self.outputs[usize::from(stream == Stream::Stderr)];
        let Some(output) = slot else { return false };
        let len = match output.read(&mut buffer[HEADER..HEADER + BLOCK]) {
            Err(e) if is_transient(&e) => return false,
            // A terminal whose last process has gone answers EIO; nothing else can fail here.
            Ok(0) | Err(_) => {
                *slot = None; // Closing it takes it out of the event loop.
                return false;
            }
            Ok(len) => len,
        };
        log(stream, &buffer[HEADER..HEADER + len]);
        let length = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
        buffer[..HEADER].copy_from_slice(&[stream.number(), 0, 0, 0, 0, 0, 0, 0]);
        buffer[4..HEADER].copy_from_slice(&length);
        let from = if self.config.tty.is_some() { HEADER } else { 0 };
        let gone = self
            .each(|c| if c.wants(stream) { c.send(&buffer[from..HEADER + len]) } else { Ok(()) });
        for id in gone {
            self.drop_client(id, Detached::Client, ended);
        }
        self.retune(events);
        true
    }

    /// Reads all that is left after the process has ended, and lets the clients go when they have it.
    pub(super) fn finish(
        &mut self,
        events: &Events,
        buffer: &mut [u8],
        log: &mut dyn FnMut(Stream, &[u8]),
        ended: &mut Vec<Ended>,
    ) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            // Something outside the container may hold the pipe and write on: do not wait for its end.
            for _ in 0..LAST_BLOCKS {
                if !self.output(events, stream, buffer, log, ended) {
                    break;
                }
            }
        }
        self.outputs = [None, None];
        self.input = None;
    }

    /// Ends each attachment as soon as its client has everything.
    pub(super) fn release(&mut self, events: &Events, ended: &mut Vec<Ended>) {
        for client in &mut self.clients {
            client.ending.get_or_insert(Detached::Ended);
            client.stdin = false;
        }
        self.drop_finished(ended);
        self.retune(events);
    }

    /// The process takes input again.
    pub(super) fn input_ready(&mut self, events: &Events, ended: &mut Vec<Ended>) {
        let Some(input) = &mut self.input else { return };
        let pending = std::mem::take(&mut input.pending);
        // It is in the loop only while something is pending; `feed` puts it back.
        drop(events.remove(&input.file));
        self.feed(events, &pending);
        self.drop_finished(ended);
        self.retune(events);
    }

    /// Something happened to a client's socket.
    pub(super) fn client_ready(
        &mut self,
        events: &Events,
        id: u32,
        ready: Ready,
        ended: &mut Vec<Ended>,
    ) {
        let Some(at) = self.clients.iter().position(|c| c.id == id) else { return };
        if ready.write && self.clients[at].flush().is_err() {
            self.drop_client(id, Detached::Client, ended);
        } else if ready.read && self.clients[at].stdin {
            self.client_input(events, at, ready, ended);
        } else if ready.hangup {
            self.drop_client(id, Detached::Client, ended);
        }
        self.drop_finished(ended);
        self.retune(events);
    }

    fn client_input(&mut self, events: &Events, at: usize, ready: Ready, ended: &mut Vec<Ended>) {
        if self.is_stuffed() {
            // It has gone, but what it typed is still in its socket: read that when there is room.
            self.set_interest(events, at, None);
            return;
        }
        let id = self.clients[at].id;
        let mut block = [0; INPUT_BLOCK];
        match self.clients[at].socket.read(&mut block) {
            Err(e) if is_transient(&e) => {}
            Ok(0) => self.client_closed_input(id, ready.hangup, ended),
            Err(_) => self.client_closed_input(id, true, ended),
            Ok(len) => {
                let (typed, detach) = self.clients[at].typed(&block[..len]);
                self.feed(events, &typed);
                if detach {
                    self.drop_client(id, Detached::Keys, ended);
                }
            }
        }
    }

    fn client_closed_input(&mut self, id: u32, gone: bool, ended: &mut Vec<Ended>) {
        let once = self.config.stdin_once && self.config.tty.is_none();
        if gone || !once {
            self.drop_client(id, Detached::Client, ended);
            return;
        }
        if let Some(client) = self.clients.iter_mut().find(|c| c.id == id) {
            client.stdin = false;
        }
        self.close_input();
    }

    /// Writes to the process's input what it takes and keeps the rest.
    fn feed(&mut self, events: &Events, mut bytes: &[u8]) {
        let Some(input) = &mut self.input else { return };
        while !bytes.is_empty() && input.pending.is_empty() {
            match input.file.write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let interest = Interest { read: false, write: true };
                    let token = Token::Input(self.id).pack();
                    if events.add(&input.file, token, interest).is_err() {
                        break; // No memory in the kernel: this input is lost rather than the container.
                    }
                    input.pending = bytes.to_vec();
                }
                Err(_) => {
                    self.input = None; // The process has closed its end; what is typed now goes nowhere.
                    return;
                }
            }
        }
        if input.closing && input.pending.is_empty() {
            self.input = None;
        }
    }

    fn is_stuffed(&self) -> bool {
        self.input.as_ref().is_some_and(|i| !i.pending.is_empty())
    }

    fn close_input(&mut self) {
        match &mut self.input {
            Some(input) if !input.pending.is_empty() => input.closing = true,
            _ => self.input = None,
        }
    }

    /// Calls `what` for each client; returns those for which it failed.
    fn each(&mut self, mut what: impl FnMut(&mut Client) -> io::Result<()>) -> Vec<u32> {
        self.clients.iter_mut().filter_map(|c| what(c).is_err().then_some(c.id)).collect()
    }

    fn drop_client(&mut self, id: u32, why: Detached, ended: &mut Vec<Ended>) {
        let Some(at) = self.clients.iter().position(|c| c.id == id) else { return };
        let client = self.clients.swap_remove(at);
        ended.push((client.reporter, why));
        let ends_input = self.config.stdin_once && self.config.tty.is_none();
        if client.stdin && ends_input && why != Detached::Keys {
            self.close_input();
        }
    }

    fn drop_finished(&mut self, ended: &mut Vec<Ended>) {
        self.clients.retain(|c| match c.ending {
            Some(why) if !c.is_behind() => {
                ended.push((c.reporter, why));
                false
            }
            _ => true,
        });
    }

    /// Brings the event loop in line with what is pending.
    fn retune(&mut self, events: &Events) {
        let stuffed = self.is_stuffed();
        for at in 0..self.clients.len() {
            let client = &self.clients[at];
            let read = client.stdin && !stuffed;
            let want = Interest { read, write: client.is_behind() };
            // A client that has gone while it may not be read would be reported without end.
            let parked = client.stdin && stuffed && client.interest.is_none();
            if !parked || want.write {
                self.set_interest(events, at, Some(want));
            }
        }
        let hold = self.clients.iter().any(Client::holds);
        if hold != self.held {
            // An output that cannot be put back would stall its process for ever; adding fails only for
            // want of kernel memory, and the next news of any client tries again.
            self.held = hold || self.resume(events).is_err();
            if hold {
                self.suspend(events);
            }
        }
    }

    fn suspend(&self, events: &Events) {
        for (_, output) in self.outputs() {
            drop(events.remove(output)); // It may be out already, after a resume that failed half-way.
        }
    }

    fn resume(&self, events: &Events) -> io::Result<()> {
        for (stream, output) in self.outputs() {
            let token = Token::Output(self.id, stream).pack();
            match events.add(output, token, Interest::READ) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    fn set_interest(&mut self, events: &Events, at: usize, want: Option<Interest>) {
        let token = Token::Client(self.id, self.clients[at].id).pack();
        let client = &mut self.clients[at];
        let done = match (client.interest, want) {
            (now, want) if now == want => Ok(()),
            (None, Some(want)) => events.add(&client.socket, token, want),
            (Some(_), Some(want)) => events.modify(&client.socket, token, want),
            (_, None) => events.remove(&client.socket),
        };
        if done.is_ok() {
            client.interest = want;
        }
    }
}

/// An error after which the descriptor is still good.
fn is_transient(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
