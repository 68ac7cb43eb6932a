//! Between the terminal and a container: streams, detach keys, window size, signals.

use std::future::{Future, pending};
use std::io::{IsTerminal, Write};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use wharf_sys::terminal::{self, Raw};

use crate::api::frames::{Demux, Stream};
use crate::api::{ApiError, Client, Hijacked, Payload, segment, url};
use crate::failure::Failure;

/// What is connected, and how.
pub struct Streams {
    /// Whether standard input goes in.
    pub stdin: bool,
    /// Whether standard output comes out.
    pub stdout: bool,
    /// Whether standard error comes out.
    pub stderr: bool,
    /// Whether the container has a terminal: one raw stream.
    pub tty: bool,
    /// The keys that end the connection, as configured; empty for `ctrl-p,ctrl-q`.
    pub detach_keys: String,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The container closed it.
    Closed,
    /// The user typed the detach keys.
    Detached,
}

/// Refuses `-t` with input that is no terminal, in docker's words.
pub fn check_tty(attach_stdin: bool, tty: bool) -> Result<(), Failure> {
    match attach_stdin && tty && !std::io::stdin().is_terminal() {
        true => Err("the input device is not a TTY".into()),
        false => Ok(()),
    }
}

/// Copies both ways until the container closes the stream or the user detaches.
pub async fn stream(connection: Hijacked, streams: &Streams) -> Result<End, Failure> {
    let raw_terminal = streams.stdin && streams.tty && std::io::stdin().is_terminal();
    let _raw = match raw_terminal {
        true => Some(Raw::enter(std::io::stdin())?),
        false => None,
    };
    let (reader, mut writer) = tokio::io::split(connection);
    let output = copy_out(reader, streams);
    let input = async {
        if streams.stdin {
            let keys = if streams.tty { detach_keys(&streams.detach_keys)? } else { Vec::new() };
            if copy_in(&mut writer, keys).await {
                return Ok(End::Detached);
            }
        }
        if !streams.stdin || !streams.tty {
            // Half-close: the container sees the end of its input and may still speak.
            drop(writer.shutdown().await);
        }
        pending::<()>().await;
        Ok(End::Closed)
    };
    tokio::select! {
        // Output first, so that the end of the stream wins over a key typed at the same time.
        biased;
        result = output => result.map(|()| End::Closed),
        end = input => end,
    }
}

async fn copy_out(mut reader: impl AsyncRead + Unpin, streams: &Streams) -> Result<(), Failure> {
    let mut buffer = vec![0; 64 << 10];
    let mut demux = Demux::default();
    loop {
        let length = match reader.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => {
                return Err(Failure::new(format!("the connection to the container broke: {e}")));
            }
        };
        match streams.tty {
            true => crate::app::say(&buffer[..length])?,
            false => write_frames(&mut demux, &buffer[..length], streams)?,
        }
    }
}

/// Writes the payload of frames to standard output and standard error.
pub fn write_frames(demux: &mut Demux, mut bytes: &[u8], streams: &Streams) -> Result<(), Failure> {
    while let Some((stream, piece)) = demux.next(&mut bytes)? {
        match stream {
            Stream::Stdout if streams.stdout => crate::app::say(piece)?,
            Stream::Stderr if streams.stderr => drop(std::io::stderr().lock().write_all(piece)),
            Stream::Stdout | Stream::Stderr => (),
            Stream::System => {
                let text = String::from_utf8_lossy(piece);
                return Err(Failure::new(format!("error from daemon in stream: {text}")));
            }
        }
    }
    Ok(())
}

/// Copies standard input; true when the detach keys were typed.
async fn copy_in(writer: &mut (impl AsyncWrite + Unpin), keys: Vec<u8>) -> bool {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 32 << 10];
    let mut filter = KeyFilter { keys, matched: 0 };
    loop {
        let Ok(length @ 1..) = stdin.read(&mut buffer).await else { return false };
        let (bytes, detached) = filter.feed(&buffer[..length]);
        // A container that no longer reads is not an error of the one who types.
        if !bytes.is_empty() && writer.write_all(&bytes).await.is_err() {
            return false;
        }
        if writer.flush().await.is_err() {
            return false;
        }
        if detached {
            return true;
        }
    }
}

/// Holds back what may be the beginning of the detach keys.
struct KeyFilter {
    keys: Vec<u8>,
    matched: usize,
}

impl KeyFilter {
    fn feed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (bytes.to_vec(), false);
        }
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(byte == self.keys[0]);
            if self.matched == 0 {
                out.push(byte);
            }
        }
        (out, false)
    }
}

/// The bytes of `ctrl-p,ctrl-q` and the like.
pub fn detach_keys(text: &str) -> Result<Vec<u8>, Failure> {
    let text = if text.is_empty() { "ctrl-p,ctrl-q" } else { text };
    let key = |name: &str| match (name.strip_prefix("ctrl-"), name.as_bytes()) {
        (None, [byte]) => Some(*byte),
        (Some("@"), _) => Some(0),
        (Some("["), _) => Some(27),
        (Some("\\"), _) => Some(28),
        (Some("]"), _) => Some(29),
        (Some("^"), _) => Some(30),
        (Some("_"), _) => Some(31),
        (Some(letter), _) => match letter.as_bytes() {
            [byte @ b'a'..=b'z'] => Some(byte - b'a' + 1),
            _ => None,
        },
        _ => None,
    };
    let unknown = |name: &str| Failure::new(format!("Unknown character: '{name}'"));
    text.split(',').map(|name| key(name).ok_or_else(|| unknown(name))).collect()
}

/// What has a window: a container, or an exec in one.
#[derive(Clone, Copy)]
pub enum Window<'a> {
    /// A container, by id.
    Container(&'a str),
    /// An exec, by id.
    Exec(&'a str),
}

impl Window<'_> {
    /// Tells the engine a size.
    pub async fn resize(self, client: &Client, rows: u16, columns: u16) -> Result<(), ApiError> {
        if rows == 0 && columns == 0 {
            return Ok(());
        }
        let path = match self {
            Self::Container(id) => format!("/containers/{}/resize", segment(id)),
            Self::Exec(id) => format!("/exec/{}/resize", segment(id)),
        };
        let path = url(&path, &[("h", &rows.to_string()), ("w", &columns.to_string())]);
        client.post(&path, Payload::Empty).await.map(drop)
    }
}

/// Keeps the size in step with the terminal's. Never ends.
pub async fn follow_size(client: &Client, window: Window<'_>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return pending().await };
    let mut tries = 0;
    loop {
        if let Some((rows, columns)) = terminal::size(std::io::stdout()) {
            // Right after its start a container may not have its terminal yet.
            while window.resize(client, rows, columns).await.is_err() && tries < 10 {
                tries += 1;
                tokio::time::sleep(std::time::Duration::from_millis(10 * tries)).await;
            }
        }
        if changes.recv().await.is_none() {
            return pending().await;
        }
    }
}

const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("USR1", 10),
    ("USR2", 12),
    ("ALRM", 14),
    ("TERM", 15),
    ("CONT", 18),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("WINCH", 28),
];

/// Runs `work` and meanwhile sends every signal that arrives to the container.
pub async fn forwarding<T>(
    client: &Client,
    id: &str,
    on: bool,
    work: impl Future<Output = T>,
) -> T {
    if !on {
        return work.await;
    }
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    for (name, number) in SIGNALS {
        let Ok(mut arrivals) = signal(SignalKind::from_raw(*number)) else { continue };
        let sender = sender.clone();
        tokio::task::spawn_local(async move {
            while arrivals.recv().await.is_some() {
                if sender.send(*name).is_err() {
                    return;
                }
            }
        });
    }
    let forward = async {
        while let Some(name) = receiver.recv().await {
            let path = url(&format!("/containers/{}/kill", segment(id)), &[("signal", name)]);
            // A container that has ended cannot be told; the one who waits for it will see.
            drop(client.post(&path, Payload::Empty).await);
        }
    };
    tokio::select! {
        result = work => result,
        () = async { forward.await; pending().await } => unreachable!("pending never ends"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_read() {
        assert_eq!(detach_keys("").unwrap(), [16, 17]);
        assert_eq!(detach_keys("ctrl-a,x,ctrl-]").unwrap(), [1, b'x', 29]);
        assert!(detach_keys("ctrl-1").is_err());
        assert!(detach_keys("ab").is_err());
    }

    #[test]
    fn keys_are_held_back_until_they_cannot_be_the_sequence() {
        let mut filter = KeyFilter { keys: vec![16, 17], matched: 0 };
        assert_eq!(filter.feed(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(filter.feed(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(filter.feed(b"\x10\x10\x11d"), (b"\x10".to_vec(), true));
    }
}
