//! Connections that stop being HTTP: the exact bytes of the switch, and the pump between a client and a process.

use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use wharf_engine::options::{ByteStream, Session};

use crate::socket::{Reader, Socket, Writer};
use crate::version::{ApiVersion, v};

/// Bytes read per turn from a client.
const CHUNK: usize = 16 << 10;
/// How long a client may take to see that the output has ended.
const LINGER: Duration = Duration::from_secs(10);

/// A process's input.
type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// A connection that hyper has let go of, with what the client had already sent.
#[derive(Debug)]
pub(crate) struct Hijacked {
    /// The connection.
    pub socket: Socket,
    /// Bytes that came after the request.
    pub early: Bytes,
}

/// What a raw stream carries, as its content type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// A terminal's bytes.
    Raw,
    /// Frames with stream number and length.
    Multiplexed,
}

impl Framing {
    /// The framing that a client of `version` is told of. Older ones know one content type for both.
    pub(crate) fn told(tty: bool, version: ApiVersion) -> Framing {
        if !tty && version >= v(42) { Framing::Multiplexed } else { Framing::Raw }
    }

    /// The content type.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Framing::Raw => "application/vnd.docker.raw-stream",
            Framing::Multiplexed => "application/vnd.docker.multiplexed-stream",
        }
    }
}

/// The bytes that switch the connection. `upgrade`: the client asked with an `Upgrade` header;
/// without one it is answered 200 and the connection changes all the same. `headers` are extra
/// header lines, each with its line end.
pub(crate) fn switch(upgrade: bool, framing: Framing, headers: &str) -> Bytes {
    let head = if upgrade {
        format!(
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: {}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n{headers}\r\n",
            framing.content_type()
        )
    } else {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {}\r\n{headers}\r\n", Framing::Raw.content_type())
    };
    head.into()
}

/// The bytes that switch to HTTP/2.
pub(crate) fn switch_to_http2() -> Bytes {
    Bytes::from_static(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    )
}

/// Joins a client to a process until the process's output ends or the client is gone.
///
/// The client's half-close becomes the end of the process's input, and its output goes on. Both
/// directions run at once: a process that waits for its output to be taken must not stop its input.
pub(crate) async fn pump(client: Hijacked, head: Bytes, session: Session) -> io::Result<()> {
    let (mut reader, mut writer) = client.socket.split();
    writer.write_all(&head).await?;
    writer.flush().await?;
    let Session { output, input, .. } = session;
    let ended = {
        let mut printing = pin!(print(output, &mut writer));
        let typing = pin!(type_in(client.early, &mut reader, input));
        tokio::select! {
            biased;
            ended = &mut printing => ended,
            after = typing => match after {
                Client::Gone => return Ok(()),
                Client::Listens => printing.await,
            },
        }
    };
    ended?;
    linger(&mut reader).await
}

/// What a client does once it types no more.
enum Client {
    /// It reads what the process prints.
    Listens,
    /// It closed the connection.
    Gone,
}

/// The head of the response is on its way already. docker-py reads it through a buffer and then goes on beside the
/// buffer: output that came in one read with the head would be lost.
async fn print(mut output: ByteStream, writer: &mut Writer) -> io::Result<()> {
    let mut first = true;
    while let Some(block) = output.next().await {
        if std::mem::take(&mut first) {
            writer.heeded().await;
        }
        writer.write_all(&block?).await?;
    }
    writer.flush().await?;
    writer.shutdown().await
}

async fn type_in(early: Bytes, reader: &mut Reader, mut input: Input) -> Client {
    let mut chunk = vec![0; CHUNK];
    let mut takes = early.is_empty() || typed(&mut input, &early).await;
    loop {
        match reader.read(&mut chunk).await {
            Ok(0) => break,
            // A process that ended or closed its input takes no more; what it prints still matters,
            // and the client must not be stopped from sending.
            Ok(n) => takes = takes && typed(&mut input, &chunk[..n]).await,
            Err(_) => return Client::Gone,
        }
    }
    if reader.peer_is_gone().await {
        return Client::Gone;
    }
    // A process that has ended already does not mind.
    drop(input.shutdown().await);
    Client::Listens
}

/// Hands bytes to the process; whether it takes more.
async fn typed(input: &mut Input, bytes: &[u8]) -> bool {
    input.write_all(bytes).await.is_ok() && input.flush().await.is_ok()
}

/// Takes what a client still sends until it has seen the end: closing a socket with unread bytes
/// makes the client's kernel report a reset instead of the end, and `docker run` then fails.
async fn linger(reader: &mut Reader) -> io::Result<()> {
    let mut nowhere = tokio::io::sink();
    let drained = tokio::time::timeout(LINGER, tokio::io::copy(reader, &mut nowhere));
    drained.await.map_or(Ok(()), |read| read.map(drop))
}

/// The bytes that switch to WebSocket for a client that sent `key`.
pub(crate) fn switch_to_websocket(key: &[u8]) -> Bytes {
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into()
}

/// Joins a WebSocket client to a process. Frames of a process without terminal are unpacked: this
/// door never multiplexes. `binary`: messages are binary; clients before 1.28 get text.
pub(crate) async fn pump_websocket(
    client: Hijacked,
    head: Bytes,
    session: Session,
    binary: bool,
) -> io::Result<()> {
    let Hijacked { mut socket, early } = client;
    socket.write_all(&head).await?;
    let ws = WebSocketStream::from_partially_read(socket, early.to_vec(), Role::Server, None);
    let (mut sink, mut messages) = ws.await.split();
    let Session { mut output, mut input, tty } = session;
    let printing = async {
        let mut unpack = Unpack::new(tty);
        while let Some(block) = output.next().await {
            for payload in unpack.feed(block?) {
                sink.send(message(payload, binary)).await.map_err(ws_error)?;
            }
        }
        sink.close().await.map_err(ws_error)
    };
    let typing = async {
        let mut takes = true;
        while let Some(received) = messages.next().await {
            match received.map_err(ws_error)? {
                Message::Close(_) => break,
                Message::Text(_) | Message::Binary(_) if !takes => (),
                received @ (Message::Text(_) | Message::Binary(_)) => {
                    takes = typed(&mut input, &received.into_data()).await;
                }
                // The library answers pings itself.
                _ => (),
            }
        }
        Ok(())
    };
    tokio::select! {
        biased;
        ended = printing => ended,
        ended = typing => ended,
    }
}

fn message(payload: Bytes, binary: bool) -> Message {
    if binary {
        return Message::Binary(payload);
    }
    Message::text(String::from_utf8_lossy(&payload).into_owned())
}

fn ws_error(e: WsError) -> io::Error {
    match e {
        WsError::Io(e) => e,
        other => io::Error::other(other),
    }
}

/// Takes the frames off a process's output, whatever blocks they come in.
#[derive(Debug)]
pub(crate) struct Unpack {
    raw: bool,
    header: [u8; 8],
    have: usize,
    left: usize,
}

impl Unpack {
    /// For the output of a process with (`tty`) or without a terminal.
    pub(crate) fn new(tty: bool) -> Unpack {
        Unpack { raw: tty, header: [0; 8], have: 0, left: 0 }
    }

    /// The payloads in the next block.
    pub(crate) fn feed(&mut self, mut block: Bytes) -> Vec<Bytes> {
        if self.raw {
            return vec![block];
        }
        let mut payloads = Vec::new();
        while !block.is_empty() {
            if self.left > 0 {
                let part = block.split_to(self.left.min(block.len()));
                self.left -= part.len();
                payloads.push(part);
                continue;
            }
            let part = block.split_to((8 - self.have).min(block.len()));
            self.header[self.have..self.have + part.len()].copy_from_slice(&part);
            self.have += part.len();
            if self.have == 8 {
                let [.., a, b, c, d] = self.header;
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.have = 0;
            }
        }
        payloads
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::*;

    #[test]
    fn the_switch_is_exact() {
        let head = |up, tty, minor| {
            String::from_utf8(switch(up, Framing::told(tty, v(minor)), "").to_vec()).unwrap()
        };
        assert_eq!(
            head(true, false, 42),
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        );
        assert_eq!(
            head(true, false, 41),
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        );
        assert_eq!(head(true, true, 53), head(true, false, 41));
        assert_eq!(
            head(false, false, 53),
            "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"
        );
    }

    #[test]
    fn frames_are_unpacked_across_block_borders() {
        let mut wire = Vec::new();
        for (stream, text) in [(1u8, "hello "), (2, ""), (2, "wide world")] {
            wire.extend([stream, 0, 0, 0, 0, 0, 0, u8::try_from(text.len()).unwrap()]);
            wire.extend(text.as_bytes());
        }
        for size in 1..wire.len() {
            let mut unpack = Unpack::new(false);
            let got: Vec<u8> = wire
                .chunks(size)
                .flat_map(|c| unpack.feed(Bytes::copy_from_slice(c)))
                .flatten()
                .collect();
            assert_eq!(got, b"hello wide world", "blocks of {size}");
        }
        assert_eq!(Unpack::new(true).feed(Bytes::from_static(b"\x01raw")), [&b"\x01raw"[..]]);
    }

    struct Process {
        out: tokio::sync::mpsc::UnboundedSender<Bytes>,
        stdin: DuplexStream,
    }

    fn session() -> (Session, Process) {
        let (out, mut rx) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
        let (input, stdin) = tokio::io::duplex(1024);
        let output =
            Box::pin(futures_util::stream::poll_fn(move |cx| rx.poll_recv(cx).map(|b| b.map(Ok))));
        let input: Pin<Box<dyn AsyncWrite + Send>> = Box::pin(input);
        (Session { output, input, tty: true }, Process { out, stdin })
    }

    fn start(early: &'static [u8]) -> (DuplexStream, Process) {
        let (client, socket) = tokio::io::duplex(1024);
        let (session, process) = session();
        let hijacked =
            Hijacked { socket: Socket::Memory(socket), early: Bytes::from_static(early) };
        tokio::spawn(pump(hijacked, Bytes::from_static(b"HEAD\r\n\r\n"), session));
        (client, process)
    }

    #[tokio::test]
    async fn bytes_sent_with_the_request_reach_the_process_first() {
        let (mut client, mut process) = start(b"early ");
        client.write_all(b"late").await.unwrap();
        let mut got = [0; 10];
        process.stdin.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"early late");
    }

    #[tokio::test]
    async fn output_follows_the_head_and_ends_the_connection() {
        let (mut client, process) = start(b"");
        process.out.send(Bytes::from_static(b"one")).unwrap();
        process.out.send(Bytes::from_static(b"two")).unwrap();
        drop(process.out);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"HEAD\r\n\r\nonetwo");
    }

    /// A client that reads the head through a buffer finds nothing but the head in it.
    #[tokio::test]
    async fn output_waits_until_the_head_was_read() {
        let (mut client, socket) = tokio::net::UnixStream::pair().unwrap();
        let (session, process) = session();
        let hijacked = Hijacked { socket: Socket::Unix(socket), early: Bytes::new() };
        process.out.send(Bytes::from_static(b"output")).unwrap();
        tokio::spawn(pump(hijacked, Bytes::from_static(b"HEAD\r\n\r\n"), session));
        let mut got = [0; 100];
        client.readable().await.unwrap();
        // Long enough for the output to come if nothing held it back.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let n = client.read(&mut got).await.unwrap();
        assert_eq!(&got[..n], b"HEAD\r\n\r\n");
        let n = client.read(&mut got).await.unwrap();
        assert_eq!(&got[..n], b"output");
    }

    #[tokio::test]
    async fn a_half_close_ends_input_and_not_output() {
        let (mut client, mut process) = start(b"");
        client.write_all(b"last").await.unwrap();
        client.shutdown().await.unwrap();
        let mut typed = Vec::new();
        process.stdin.read_to_end(&mut typed).await.unwrap();
        assert_eq!(typed, b"last");
        process.out.send(Bytes::from_static(b"still here")).unwrap();
        drop(process.out);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"HEAD\r\n\r\nstill here");
    }

    #[tokio::test]
    async fn a_process_that_closes_its_input_still_prints() {
        let (mut client, process) = start(b"");
        drop(process.stdin);
        client.write_all(b"nobody reads this").await.unwrap();
        process.out.send(Bytes::from_static(b"done")).unwrap();
        drop(process.out);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"HEAD\r\n\r\ndone");
    }

    /// `cat` with a full pipe on either side: input must flow while output waits, and the reverse.
    #[tokio::test]
    async fn both_directions_flow_at_once() {
        let (mut client, process) = start(b"");
        let Process { out, mut stdin } = process;
        tokio::spawn(async move {
            let mut chunk = [0; 512];
            while let Ok(n @ 1..) = stdin.read(&mut chunk).await {
                out.send(Bytes::copy_from_slice(&chunk[..n])).unwrap();
            }
        });
        let sent = vec![b'x'; 300_000];
        let (mut r, mut w) = tokio::io::split(&mut client);
        let mut got = Vec::new();
        let (read, written) = tokio::join!(r.read_to_end(&mut got), async {
            w.write_all(&sent).await?;
            w.shutdown().await
        });
        read.unwrap();
        written.unwrap();
        assert_eq!(got.len(), b"HEAD\r\n\r\n".len() + sent.len());
    }

    #[test]
    fn the_websocket_switch_has_the_key_of_the_rfc() {
        let head = switch_to_websocket(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert!(head.ends_with(b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"));
    }
}
