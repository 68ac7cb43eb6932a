//! Asking the name servers outside, for names that are no container's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Weak;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;
use wharf_sys::netlink::netns;

use crate::namespace::Namespace;

use super::message::{self, Code, Question, Transport};

/// Docker's figures: after three servers that do not answer, most clients have given up.
const SERVERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(4);
const PORT: u16 = 53;

/// Whose network the question leaves by.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// The host's.
    Host,
    /// The container's.
    Inside(Weak<Namespace>),
}

/// Asks the servers in turn. One that fails or refuses is passed over; every other answer is the answer.
pub(super) async fn ask(
    (servers, origin): (&[IpAddr], &Origin),
    question: &Question,
    message: &[u8],
    via: Transport,
) -> Option<Vec<u8>> {
    for server in servers.iter().take(SERVERS) {
        let to = SocketAddr::new(*server, PORT);
        let answer = async {
            match via {
                Transport::Udp => by_udp(to, origin, question, message).await,
                Transport::Tcp => by_tcp(to, origin, question, message).await,
            }
        };
        match timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) if is_useful(&answer) => return Some(answer),
            Ok(Ok(answer)) => {
                tracing::debug!(%to, code = message::code_of(&answer), "name server refused");
            }
            Ok(Err(error)) => tracing::debug!(%to, %error, "name server failed"),
            Err(_) => tracing::debug!(%to, "name server did not answer"),
        }
    }
    None
}

fn is_useful(answer: &[u8]) -> bool {
    let fails = [Code::ServFail as u8, Code::Refused as u8];
    message::code_of(answer).is_some_and(|code| !fails.contains(&code))
}

/// A socket of its own for each question: its random port is what makes forged answers hard.
async fn by_udp(
    to: SocketAddr,
    origin: &Origin,
    question: &Question,
    message: &[u8],
) -> io::Result<Vec<u8>> {
    let bind = move || std::net::UdpSocket::bind(any(to));
    let socket = match origin {
        Origin::Host => bind()?,
        Origin::Inside(ns) => inside(ns, bind).await?,
    };
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    socket.connect(to).await?;
    socket.send(message).await?;
    let mut answer = vec![0; question.receives()];
    loop {
        let len = socket.recv(&mut answer).await?;
        if question.is_answered_by(&answer[..len]) {
            answer.truncate(len);
            return Ok(answer);
        }
    }
}

async fn by_tcp(
    to: SocketAddr,
    origin: &Origin,
    question: &Question,
    message: &[u8],
) -> io::Result<Vec<u8>> {
    let open = move || if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = match origin {
        Origin::Host => open()?,
        Origin::Inside(ns) => inside(ns, open).await?,
    };
    let mut stream = socket.connect(to).await?;
    write(&mut stream, message).await?;
    let answer = read(&mut stream).await?;
    match question.is_answered_by(&answer) {
        true => Ok(answer),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to something else")),
    }
}

/// Makes a socket in a container's namespace. It stays there wherever it is used.
async fn inside<T: Send + 'static>(
    ns: &Weak<Namespace>,
    make: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "the container is gone");
    let ns = ns.upgrade().ok_or_else(gone)?;
    let made = tokio::task::spawn_blocking(move || netns::within(ns.fd(), make).flatten());
    made.await.map_err(io::Error::other)?
}

/// Reads one message from a stream.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let len = stream.read_u16().await?;
    let mut message = vec![0; usize::from(len)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes one message to a stream.
pub(super) async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(io::Error::other)?;
    let framed = [&len.to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await
}

fn any(to: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, 0)
}
