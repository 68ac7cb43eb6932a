//! One client attached to a process's streams: what it is owed, and what it types.

use std::fs::File;
use std::io::{self, Write as _};

use crate::log::Stream;
use crate::protocol::{AttachOptions, Detached, Slow};

/// Most that a client with [`Slow::Drop`] may be behind.
const BACKLOG: usize = 1 << 20;
/// The last thing that a client hears when it is cut off.
const CUT_OFF: &[u8] = b"\r\nwharf: output was cut off here: this client reads more slowly than the container writes; see the log\r\n";

/// A client and its socket, which does not block.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: u32,
    pub(super) socket: File,
    /// Its input is read.
    pub(super) stdin: bool,
    /// What the event loop was told to wait for; `None` when it is not in the loop.
    pub(super) interest: Option<wharf_sys::events::Interest>,
    /// The connection that wants to know of its end.
    pub(super) reporter: Option<u32>,
    /// Set when nothing more is sent than what is pending.
    pub(super) ending: Option<Detached>,
    stdout: bool,
    stderr: bool,
    slow: Slow,
    keys: Keys,
    pending: Vec<u8>,
    sent: usize,
}

impl Client {
    pub(super) fn new(
        id: u32,
        socket: File,
        options: AttachOptions,
        reporter: Option<u32>,
    ) -> Client {
        Client {
            id,
            socket,
            stdin: options.stdin,
            interest: None,
            reporter,
            ending: None,
            stdout: options.stdout,
            stderr: options.stderr,
            slow: options.slow,
            keys: Keys { sequence: options.detach_keys, matched: 0 },
            pending: Vec::new(),
            sent: 0,
        }
    }

    /// Whether it gets `stream`.
    pub(super) fn wants(&self, stream: Stream) -> bool {
        self.ending.is_none()
            && match stream {
                Stream::Stdout => self.stdout,
                Stream::Stderr => self.stderr,
            }
    }

    /// Sends as much as the socket takes and keeps the rest.
    ///
    /// # Errors
    /// The client has gone.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = if self.is_behind() { 0 } else { write(&self.socket, bytes)? };
        let rest = &bytes[sent..];
        if rest.is_empty() {
            return Ok(());
        }
        self.pending.extend_from_slice(rest);
        if self.slow == Slow::Drop && self.pending.len() - self.sent > BACKLOG {
            self.ending = Some(Detached::Slow);
            self.pending.extend_from_slice(CUT_OFF);
        }
        Ok(())
    }

    /// Sends what is pending.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.is_behind() {
            match write(&self.socket, &self.pending[self.sent..])? {
                0 => return Ok(()),
                n => self.sent += n,
            }
        }
        self.pending = Vec::new();
        self.sent = 0;
        Ok(())
    }

    /// Whether it has not been sent all that it is owed.
    pub(super) fn is_behind(&self) -> bool {
        self.sent < self.pending.len()
    }

    /// Whether the process has to wait for it.
    pub(super) fn holds(&self) -> bool {
        self.slow == Slow::Hold && self.is_behind()
    }

    /// What of its input is meant for the process; `true` when it typed the detach keys after that.
    pub(super) fn typed(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        self.keys.filter(input)
    }
}

/// 0 when the socket is full.
fn write(mut socket: &File, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match socket.write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Looks for the detach keys in what is typed.
#[derive(Debug)]
struct Keys {
    sequence: Vec<u8>,
    matched: usize,
}

impl Keys {
    fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        if self.sequence.is_empty() {
            return (input.to_vec(), false);
        }
        let mut out = Vec::with_capacity(input.len());
        for &key in input {
            if self.sequence[self.matched] != key && self.matched > 0 {
                out.extend_from_slice(&self.sequence[..self.matched]);
                self.matched = 0;
            }
            if self.sequence[self.matched] != key {
                out.push(key);
                continue;
            }
            self.matched += 1;
            if self.matched == self.sequence.len() {
                return (out, true);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(inputs: &[&[u8]], want: &[u8], detached: bool) {
        let mut keys = Keys { sequence: vec![16, 17], matched: 0 };
        let (mut got, mut done) = (Vec::new(), false);
        for input in inputs {
            let (out, end) = keys.filter(input);
            got.extend(out);
            done |= end;
        }
        assert_eq!((&got[..], done), (want, detached), "{inputs:?}");
    }

    #[test]
    fn detach_keys_are_found_and_other_keys_pass() {
        check(&[b"abc"], b"abc", false);
        check(&[b"a\x10\x11b"], b"a", true);
        check(&[b"a\x10", b"\x11"], b"a", true);
        check(&[b"a\x10b"], b"a\x10b", false);
        check(&[b"\x10\x10\x11"], b"\x10", true);
        check(&[b"\x10", b"x", b"\x11"], b"\x10x\x11", false);
    }

    #[test]
    fn a_slow_client_is_cut_off_with_a_message() {
        let (ours, theirs) = wharf_sys::channel::stream_pair().unwrap();
        let options = AttachOptions {
            stdin: false,
            stdout: true,
            stderr: true,
            detach_keys: Vec::new(),
            slow: Slow::Drop,
        };
        let mut client = Client::new(1, ours.into(), options, None);
        while client.wants(Stream::Stdout) {
            client.send(&[b'x'; 50_000]).unwrap();
            assert!(!client.holds());
        }
        assert_eq!(client.ending, Some(Detached::Slow));
        let mut theirs = File::from(theirs);
        let mut got = Vec::new();
        while client.is_behind() {
            // Ends with WouldBlock each time the socket is empty.
            drop(io::Read::read_to_end(&mut theirs, &mut got));
            client.flush().unwrap();
        }
        drop(client);
        io::Read::read_to_end(&mut theirs, &mut got).unwrap();
        assert!(got.ends_with(CUT_OFF));
    }

    #[test]
    fn a_client_that_is_gone_is_an_error() {
        let (ours, theirs) = wharf_sys::channel::stream_pair().unwrap();
        drop(theirs);
        let options = AttachOptions {
            stdin: true,
            stdout: true,
            stderr: true,
            detach_keys: Vec::new(),
            slow: Slow::Hold,
        };
        let mut client = Client::new(1, ours.into(), options, None);
        assert_eq!(client.send(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
