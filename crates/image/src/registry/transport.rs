//! Connections to registries: names, proxies, TLS.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::payload::PayloadBody;
use super::tls::Configs;
use super::{RegistryError, dns, endpoint, host_of};
use crate::settings::{RegistrySettings, Settings};

/// For a connection to come about, TLS included.
const CONNECT: Duration = Duration::from_secs(20);
/// Connections without work are closed after this, so that an idle engine holds none.
const IDLE: Duration = Duration::from_secs(15);

/// Sends requests; keeps connections for a while.
pub(super) struct Http {
    client: hyper_util::client::legacy::Client<Connector, PayloadBody>,
    connector: Connector,
}

/// What a registry that may speak no TLS answers to it.
pub(super) enum Greeting {
    Tls,
    Plain,
    /// No connection.
    Nobody(RegistryError),
}

impl Http {
    pub(super) fn new(settings: &Settings) -> Self {
        let connector = Connector(Arc::new(Shared {
            settings: settings.registries.clone(),
            tls: Configs::default(),
        }));
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .build(connector.clone());
        Self { client, connector }
    }

    /// Connects to `url` with TLS, to see whether it is spoken there.
    pub(super) async fn greet(&self, url: &str) -> Result<Greeting, RegistryError> {
        let setting = || RegistryError::Setting { what: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| setting())?;
        let patience = self.connector.0.settings.greeting;
        let error = match tokio::time::timeout(patience, self.connector.0.connect(&uri)).await {
            Ok(Ok(_)) => return Ok(Greeting::Tls),
            Ok(Err(error)) => error,
            Err(_) => return Ok(Greeting::Plain),
        };
        Ok(match error.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NotFound => Greeting::Nobody(RegistryError::Connect {
                host: host_of(&uri),
                source: error.into(),
            }),
            // Who refuses us in TLS speaks it, and says why when asked in earnest.
            _ if is_tls(&error) && !is_plain_http(&error) => Greeting::Tls,
            _ => Greeting::Plain,
        })
    }

    /// Sends one request; `patience` is for the head of the answer, without it the caller watches.
    pub(super) async fn send(
        &self,
        request: Request<PayloadBody>,
        patience: Option<Duration>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let host = host_of(request.uri());
        let request = self.client.request(request);
        let answer = match patience {
            Some(patience) => tokio::time::timeout(patience + CONNECT, request).await,
            None => Ok(request.await),
        };
        match answer {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if is_plain_http(&error) => Err(RegistryError::PlainHttp { host }),
            Ok(Err(error)) => Err(RegistryError::Connect { host, source: error.into() }),
            Err(_) => Err(RegistryError::Connect { host, source: "it does not answer".into() }),
        }
    }
}

/// Whether it is an error of TLS, not of the connection under it.
fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Whether TLS failed because the other side does not speak it.
fn is_plain_http(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidMessage(_)) = error.downcast_ref() {
            return true;
        }
        // io::Error hides what it wraps from `source`.
        if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && is_plain_http(inner)
        {
            return true;
        }
        next = error.source();
    }
    false
}

#[derive(Clone)]
struct Connector(Arc<Shared>);

struct Shared {
    settings: RegistrySettings,
    tls: Configs,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let shared = self.0.clone();
        Box::pin(async move {
            match tokio::time::timeout(CONNECT, shared.connect(&uri)).await {
                Ok(stream) => stream.map(TokioIo::new),
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connecting took too long")),
            }
        })
    }
}

impl Shared {
    async fn connect(&self, uri: &Uri) -> io::Result<Stream> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let proxy = self.proxy(host, port, secure)?;
        let tcp = match &proxy {
            Some(proxy) => dial(&proxy.host, proxy.port).await?,
            None => dial(host, port).await?,
        };
        if !secure {
            return Ok(Stream::Plain { tcp, proxied: proxy.is_some() });
        }
        let tcp = match &proxy {
            Some(proxy) => tunnel(tcp, host, port, proxy.authorization.as_deref()).await?,
            None => tcp,
        };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let config = self.tls.get(host, port, &self.settings)?;
        let tls = TlsConnector::from(config).connect(name, tcp).await?;
        Ok(Stream::Tls(Box::new(tls)))
    }

    fn proxy(&self, host: &str, port: u16, secure: bool) -> io::Result<Option<Proxy>> {
        let settings = &self.settings.proxy;
        let url = if secure { &settings.https } else { &settings.http };
        if url.is_empty() || goes_direct(host, port, &settings.none) {
            return Ok(None);
        }
        Proxy::parse(url).map(Some)
    }
}

/// Tries the addresses of a host in turn.
async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in dns::resolve(host).await? {
        let connect = TcpStream::connect(SocketAddr::new(address, port));
        match tokio::time::timeout(Duration::from_secs(8), connect).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => {
                last = io::Error::new(io::ErrorKind::TimedOut, format!("{address} is silent"))
            }
        }
    }
    Err(last)
}

struct Proxy {
    host: String,
    port: u16,
    authorization: Option<String>,
}

impl Proxy {
    fn parse(url: &str) -> io::Result<Self> {
        let wrong =
            || io::Error::other("the proxy setting is not http://[user:password@]host:port");
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some(_) => return Err(wrong()),
            None => url,
        };
        let rest = rest.trim_end_matches('/');
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (rest, 3128),
        };
        let authorization = user.map(|user| format!("Basic {}", STANDARD.encode(user)));
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port, authorization })
    }
}

/// Asks a proxy for a tunnel.
async fn tunnel(
    mut tcp: TcpStream,
    host: &str,
    port: u16,
    authorization: Option<&str>,
) -> io::Result<TcpStream> {
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some(value) = authorization {
        request.push_str(&format!("Proxy-Authorization: {value}\r\n"));
    }
    request.push_str("\r\n");
    tcp.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        // One byte at a time: what follows belongs to the tunnel.
        answer.push(tcp.read_u8().await?);
        if answer.len() > 16 << 10 {
            return Err(io::Error::other("the proxy answers without end"));
        }
    }
    let line = String::from_utf8_lossy(&answer);
    let line = line.lines().next().unwrap_or_default().to_owned();
    if line.split(' ').nth(1) == Some("200") {
        return Ok(tcp);
    }
    Err(io::Error::other(format!("the proxy refused: {line}")))
}

/// `NO_PROXY`: hosts with their subdomains, `host:port`, addresses and blocks; `*` is all. Loopback always goes direct.
fn goes_direct(host: &str, port: u16, none: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>().ok();
    if host == "localhost" || address.is_some_and(|a| a.is_loopback()) {
        return true;
    }
    none.split(',').map(str::trim).filter(|e| !e.is_empty()).any(|entry| {
        let entry = match entry.rsplit_once(':') {
            Some((name, p)) if !name.contains(':') => {
                if p.parse() != Ok(port) {
                    return false;
                }
                name
            }
            _ => entry,
        };
        let suffix = entry.trim_start_matches("*.").trim_start_matches('.');
        entry == "*"
            || host.eq_ignore_ascii_case(suffix)
            || host.to_ascii_lowercase().ends_with(&format!(".{}", suffix.to_ascii_lowercase()))
            || address.is_some_and(|a| endpoint::in_block(a, entry))
    })
}

enum Stream {
    Plain { tcp: TcpStream, proxied: bool },
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        // A proxy wants the whole address in the request line.
        Connected::new().proxy(matches!(self, Self::Plain { proxied: true, .. }))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { tcp, .. } => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain { tcp, .. } => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { tcp, .. } => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { tcp, .. } => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_names_hosts_suffixes_ports_and_blocks() {
        let none = "a.example, .b.example,*.c.example,10.0.0.0/8,d.example:5000";
        for direct in [
            "a.example",
            "x.a.example",
            "x.b.example",
            "c.example",
            "10.2.3.4",
            "localhost",
            "127.0.0.1",
        ] {
            assert!(goes_direct(direct, 443, none), "{direct}");
        }
        for proxied in ["example", "xa.example", "11.0.0.1", "d.example"] {
            assert!(!goes_direct(proxied, 443, none), "{proxied}");
        }
        assert!(goes_direct("d.example", 5000, none));
        assert!(goes_direct("anything", 1, "*"));
    }

    #[test]
    fn proxies_are_taken_apart() {
        let proxy = Proxy::parse("http://me:pw@proxy:8080/").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy", 8080));
        assert_eq!(proxy.authorization.unwrap(), format!("Basic {}", STANDARD.encode("me:pw")));
        assert!(Proxy::parse("socks5://x:1").is_err());
    }
}
