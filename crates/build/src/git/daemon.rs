//! Git's own protocol (`git://`): a connection for each command, in version 2 (gitprotocol-pack(5), gitprotocol-v2(5)).
//!
//! Nobody is asked who they are, and nothing is encrypted; objects are checked against their names as ever.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wharf_image::ByteStream;

use super::GitError;
use super::object::Format;
use super::wire::{self, Greeting, Packets};

const PORT: u16 = 9418;
/// How long a server may take to be reached, and then to send something.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;
/// Bytes of a greeting.
const MAX_GREETING: usize = 64 << 10;

/// A connection to a server that has greeted.
pub(super) struct Line {
    stream: TcpStream,
    /// What names the objects of the repository.
    pub(super) format: Format,
}

impl Line {
    /// Connects to the repository at `url`, which begins with `git://`.
    pub(super) async fn open(url: &str) -> Result<Line, GitError> {
        let (authority, host, port, path) = split(url)?;
        let connect = TcpStream::connect((host, port));
        let mut stream = soon(connect).await.map_err(unreached)?;
        let ask = wire::ask_service(path, authority);
        soon(stream.write_all(&ask)).await.map_err(unreached)?;
        let (mut packets, mut greeting, mut seen) = (Packets::default(), Greeting::default(), 0);
        let mut chunk = vec![0; CHUNK];
        loop {
            while let Some(packet) = packets.next()? {
                if greeting.take(&packet) {
                    return Ok(Line { stream, format: greeting.end()? });
                }
            }
            let n = soon(stream.read(&mut chunk)).await.map_err(unreached)?;
            seen += n;
            if n == 0 || seen > MAX_GREETING {
                return Err(GitError::Protocol("no greeting of git's".into()));
            }
            packets.feed(&chunk[..n]);
        }
    }

    /// Gives one command; the server's answer, and nothing after it.
    pub(super) async fn ask(mut self, mut command: Vec<u8>) -> Result<ByteStream, GitError> {
        // An empty command is the last one: the server ends the connection.
        command.extend_from_slice(b"0000");
        soon(self.stream.write_all(&command)).await.map_err(unreached)?;
        let answer = futures_util::stream::unfold(Some(self.stream), |stream| async move {
            let mut stream = stream?;
            let mut chunk = vec![0; CHUNK];
            match soon(stream.read(&mut chunk)).await {
                Ok(0) => None,
                Ok(n) => {
                    chunk.truncate(n);
                    Some((Ok(Bytes::from(chunk)), Some(stream)))
                }
                Err(e) => Some((Err(e), None)),
            }
        });
        Ok(Box::pin(answer))
    }
}

/// Does something that must not take for ever.
async fn soon<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| {
        let text = format!("nothing came for {} s", PATIENCE.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}

fn unreached(e: io::Error) -> GitError {
    GitError::Unreached(e)
}

/// The server as it is written, its name and port, and the path of an address.
fn split(url: &str) -> Result<(&str, &str, u16, &str), GitError> {
    let wrong = |why: &str| GitError::Address(format!("{why} in {url:?}"));
    let rest = url.strip_prefix("git://").unwrap_or(url);
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if path.len() < 2 {
        return Err(wrong("no path"));
    }
    if authority.contains('@') {
        return Err(wrong("a user, which git:// has none of,"));
    }
    // They would end the request's parts, which the server reads on from there.
    if url.chars().any(char::is_control) {
        return Err(wrong("a control character"));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().map_err(|_| wrong("no valid port"))?)
        }
        _ => (authority, PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() { Err(wrong("no server")) } else { Ok((authority, host, port, path)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_server_and_a_path() {
        let of = |url: &'static str| split(url).unwrap();
        assert_eq!(of("git://h/x.git"), ("h", "h", 9418, "/x.git"));
        assert_eq!(of("git://h:1/a/b"), ("h:1", "h", 1, "/a/b"));
        assert_eq!(of("git://[::1]/x"), ("[::1]", "::1", 9418, "/x"));
        assert_eq!(of("git://[::1]:7/x"), ("[::1]:7", "::1", 7, "/x"));
        for bad in ["git://", "git://h", "git://h/", "git:///x", "git://u@h/x", "git://h:x/y"] {
            assert!(split(bad).is_err(), "{bad}");
        }
        assert!(split("git://h/x\0host=other\0").is_err() && split("git://h/x\n").is_err());
    }
}
