//! Opens a connection to an engine: unix socket, TCP, TLS, or ssh.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::host::Endpoint;
use super::{ApiError, resolve, tls};

/// A connection of any kind.
pub enum Io {
    /// A unix socket, also the one to ssh.
    Unix(UnixStream),
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connects.
pub async fn connect(endpoint: &Endpoint) -> Result<Io, ApiError> {
    let refused = |why: String| ApiError::Connect { host: endpoint.to_string(), why };
    match endpoint {
        Endpoint::Unix(path) => match UnixStream::connect(path).await {
            Ok(stream) => Ok(Io::Unix(stream)),
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                Err(ApiError::Broken(format!(
                    "permission denied while trying to connect to the Docker daemon socket at {endpoint}: dial unix {}: connect: permission denied",
                    path.display()
                )))
            }
            Err(_) => Err(refused(String::new())),
        },
        Endpoint::Tcp { host, port, tls } => {
            let stream = tcp(host, *port).await.map_err(refused)?;
            // A refusal to set this costs only latency.
            drop(stream.set_nodelay(true));
            match tls {
                None => Ok(Io::Tcp(stream)),
                Some(files) => tls::handshake(stream, host, files)
                    .await
                    .map(|s| Io::Tls(Box::new(s)))
                    .map_err(refused),
            }
        }
        Endpoint::Ssh { user, host, port, socket, .. } => {
            ssh(user.as_deref(), host, *port, socket.as_deref()).map_err(|e| refused(e.to_string()))
        }
    }
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, String> {
    let mut last = String::new();
    for address in resolve::lookup(host).await? {
        match TcpStream::connect((address, port)).await {
            Ok(stream) => return Ok(stream),
            // Nothing listens: docker's usual question says it best.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => last.clear(),
            Err(e) => last = e.to_string(),
        }
    }
    Err(last)
}

/// Runs `ssh HOST docker system dial-stdio`, as docker's client does. This is the client on the
/// user's own machine; the engine never runs a program of the host.
#[expect(
    clippy::disallowed_methods,
    reason = "ssh wants the user's own environment and working directory"
)]
fn ssh(
    user: Option<&str>,
    host: &str,
    port: Option<u16>,
    socket: Option<&str>,
) -> std::io::Result<Io> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let mut command = std::process::Command::new("ssh");
    if let Some(user) = user {
        command.args(["-l", user]);
    }
    if let Some(port) = port {
        command.args(["-p", &port.to_string()]);
    }
    command.args(["-o", "ConnectTimeout=30", "-T", "--", host, "docker"]);
    if let Some(socket) = socket {
        command.args(["--host", &quoted(socket)]);
    }
    command.args(["system", "dial-stdio"]);
    let output: OwnedFd = theirs.try_clone()?.into();
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::from(output));
    // ssh ends when its socket closes; wharf exits right after and leaves it to init.
    let child = command.spawn();
    drop(child.map_err(|e| std::io::Error::new(e.kind(), format!("cannot run ssh: {e}")))?);
    ours.set_nonblocking(true)?;
    Ok(Io::Unix(UnixStream::from_std(ours)?))
}

/// A word that the remote shell takes as one.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
