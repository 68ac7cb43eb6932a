//! Where the engine can be reached: unix sockets, TCP with and without TLS, sockets handed over by systemd.

use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::{self, Answers};
use crate::socket::Socket;

/// Connections served at a time by one listener; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 8192;
/// How long a client may take for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause after `accept` failed because of a shortage (of descriptors, of memory).
const SHORTAGE: Duration = Duration::from_millis(100);

/// An address as `-H` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `unix:///path`
    Unix(PathBuf),
    /// `tcp://ip:port`; the port is `None` where it was not given.
    Tcp(IpAddr, Option<u16>),
    /// `fd://`, `fd://3` or `fd://name`: sockets that the service manager opened.
    Inherited(String),
}

/// A text that is not an address of a listener.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Unknown scheme, or none.
    #[error("invalid bind address ({0}): must start with unix://, tcp:// or fd://")]
    Scheme(String),
    /// A part that does not parse.
    #[error("invalid bind address ({address}): {why}")]
    Part {
        /// The text.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let wrong = |why| AddressError::Part { address: text.into(), why };
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        match scheme {
            "unix" if rest.is_empty() => Err(wrong("a path must follow unix://")),
            "unix" => Ok(Address::Unix(rest.into())),
            "fd" => Ok(Address::Inherited(rest.into())),
            "tcp" => tcp(rest).map_err(wrong),
            _ if text.starts_with('/') => Ok(Address::Unix(text.into())),
            // As dockerd: what names no scheme is an address of TCP.
            "" if text.contains(':') => tcp(text).map_err(wrong),
            _ => Err(AddressError::Scheme(text.into())),
        }
    }
}

fn tcp(rest: &str) -> Result<Address, &'static str> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if let Ok(SocketAddr::V6(v6)) = rest.parse() {
        return Ok(Address::Tcp((*v6.ip()).into(), Some(v6.port())));
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !rest.ends_with(']') => (host, port),
        _ => (rest, ""),
    };
    let port = match port {
        "" => None,
        text => Some(text.parse().map_err(|_| "the port must be a number from 0 to 65535")?),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip = match host {
        "" | "localhost" => Ipv4Addr::LOCALHOST.into(),
        // Names are not resolved: a daemon that binds should say which of its addresses it means.
        text => text.parse().map_err(|_| "the host must be an IP address or localhost")?,
    };
    Ok(Address::Tcp(ip, port))
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(ip, Some(port)) => write!(f, "tcp://{}", SocketAddr::new(*ip, *port)),
            Address::Tcp(ip, None) => write!(f, "tcp://{ip}"),
            Address::Inherited(which) => write!(f, "fd://{which}"),
        }
    }
}

/// An open listener.
pub enum Listener {
    /// A unix socket; the file is removed when the listener is dropped, if it is still this one.
    Unix(UnixListener, Option<SocketFile>),
    /// TCP, with TLS or without.
    Tcp(TcpListener, Option<TlsAcceptor>),
}

/// The file of a unix socket that this process made.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}")]
pub struct ListenError {
    /// The address.
    pub address: String,
    source: io::Error,
}

impl Listener {
    /// Opens a unix socket with mode 0660, owned by group `gid` if there is one.
    ///
    /// A socket file whose owner is dead is replaced; one that still answers is an error.
    pub async fn unix(path: &Path, gid: Option<u32>) -> Result<Listener, ListenError> {
        let failed = |source| ListenError { address: format!("unix://{}", path.display()), source };
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(failed(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another daemon answers there; stop it or choose another -H",
            )));
        }
        let (listener, file) = bind(path, gid).map_err(failed)?;
        Ok(Listener::Unix(listener, Some(file)))
    }

    /// Opens a TCP port.
    pub async fn tcp(at: SocketAddr, tls: Option<TlsAcceptor>) -> Result<Listener, ListenError> {
        let failed = |source| ListenError { address: format!("tcp://{at}"), source };
        Ok(Listener::Tcp(TcpListener::bind(at).await.map_err(failed)?, tls))
    }

    /// Takes over a unix socket that somebody else opened.
    pub fn inherited_unix(socket: std::os::unix::net::UnixListener) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        Ok(Listener::Unix(UnixListener::from_std(socket)?, None))
    }

    /// Takes over a TCP port that somebody else opened.
    pub fn inherited_tcp(
        socket: std::net::TcpListener,
        tls: Option<TlsAcceptor>,
    ) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        Ok(Listener::Tcp(TcpListener::from_std(socket)?, tls))
    }

    /// Accepts until `shutdown`. Connections run on `tasks`.
    pub(crate) async fn run<A: Answers>(
        self,
        door: Arc<A>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.accept(&places) => accepted,
            };
            match accepted {
                Ok((place, client)) => {
                    let (door, shutdown) = (door.clone(), shutdown.clone());
                    tasks.spawn(async move {
                        if let Some(socket) = client.ready().await {
                            connection::serve(socket, door, shutdown).await;
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(SHORTAGE).await;
                }
            }
        }
    }

    async fn accept(
        &self,
        places: &Arc<Semaphore>,
    ) -> io::Result<(tokio::sync::OwnedSemaphorePermit, Client)> {
        let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
        let client = match self {
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                if let Ok(peer) = stream.peer_cred() {
                    let (pid, uid, gid) = (peer.pid(), peer.uid(), peer.gid());
                    tracing::debug!(pid, uid, gid, "client connected");
                }
                Client::Open(Socket::Unix(stream))
            }
            Listener::Tcp(listener, tls) => {
                let (stream, peer) = listener.accept().await?;
                // Requests and answers are small and each waits for the other.
                stream.set_nodelay(true)?;
                tracing::debug!(%peer, tls = tls.is_some(), "client connected");
                match tls {
                    Some(tls) => Client::Shaking(tls.clone(), stream),
                    None => Client::Open(Socket::Tcp(stream)),
                }
            }
        };
        Ok((place, client))
    }
}

/// An accepted connection.
enum Client {
    /// Ready for requests.
    Open(Socket),
    /// Before its TLS handshake.
    Shaking(TlsAcceptor, TcpStream),
}

impl Client {
    async fn ready(self) -> Option<Socket> {
        let (tls, stream) = match self {
            Client::Open(socket) => return Some(socket),
            Client::Shaking(tls, stream) => (tls, stream),
        };
        match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => Some(Socket::Tls(Box::new(stream))),
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!("TLS handshake took too long");
                None
            }
        }
    }
}

/// Binds under a private name and renames, so that nobody can connect before mode and group are
/// right, and so that a dead daemon's file is replaced in one step.
fn bind(path: &Path, gid: Option<u32>) -> io::Result<(UnixListener, SocketFile)> {
    use std::os::unix::fs::MetadataExt as _;
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    if fs::symlink_metadata(path).is_ok_and(|m| m.is_dir()) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a directory of that name",
        ));
    }
    let temp = wharf_base::fs::temp_beside(path);
    let listener = UnixListener::bind(&temp)?;
    let placed = fs::set_permissions(&temp, Permissions::from_mode(0o660))
        .and_then(|()| std::os::unix::fs::chown(&temp, None, gid))
        .and_then(|()| fs::metadata(&temp))
        .and_then(|meta| fs::rename(&temp, path).map(|()| meta.ino()));
    match placed {
        Ok(inode) => Ok((listener, SocketFile { path: path.to_owned(), inode })),
        Err(e) => {
            // The name is ours alone; the reason matters more than a leftover.
            drop(fs::remove_file(&temp));
            Err(e)
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        use std::os::unix::fs::MetadataExt as _;
        // A successor may have put its own socket there already.
        if fs::metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            drop(fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn parses(text: &str, expected: Address) {
        assert_eq!(text.parse::<Address>().unwrap(), expected, "{text}");
    }

    #[test]
    fn addresses_in_every_spelling() {
        let local = IpAddr::from([127, 0, 0, 1]);
        parses("unix:///run/x.sock", Address::Unix("/run/x.sock".into()));
        parses("/run/x.sock", Address::Unix("/run/x.sock".into()));
        parses("tcp://0.0.0.0:2375", Address::Tcp([0, 0, 0, 0].into(), Some(2375)));
        parses("tcp://localhost", Address::Tcp(local, None));
        parses("tcp://:2376", Address::Tcp(local, Some(2376)));
        parses("tcp://[::1]:5", Address::Tcp(std::net::Ipv6Addr::LOCALHOST.into(), Some(5)));
        parses("tcp://[::1]", Address::Tcp(std::net::Ipv6Addr::LOCALHOST.into(), None));
        parses("fd://", Address::Inherited(String::new()));
        for bad in ["", "npipe:////./x", "http://x", "unix://", "tcp://host:99999", "tcp://a.b:1"] {
            bad.parse::<Address>().unwrap_err();
        }
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/x.sock");
        let first = Listener::unix(&path, None).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
        let Err(refused) = Listener::unix(&path, None).await else {
            panic!("two daemons, one socket")
        };
        let text = wharf_base::error::chain(&refused).to_string();
        assert!(text.contains("another daemon answers there"), "{text}");
        let Listener::Unix(listener, file) = first else { panic!("not a unix socket") };
        std::mem::forget(file);
        drop(listener);
        assert!(path.exists(), "the file of a killed daemon stays");
        let second = Listener::unix(&path, None).await.unwrap();
        drop(second);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(dir.path().join("sub")).unwrap().count(), 0);
    }
}
