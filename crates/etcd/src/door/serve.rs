//! The listening side: sockets, TLS, and plain HTTP for probes.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join_all};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tower_layer::Layer;
use tower_service::Service;

use super::gateway;
use super::{Host, MAX_REQUEST, Member, Users, VERSION};
use crate::embedded::{Embedded, Status};
use crate::proto::etcdserverpb::auth_server::AuthServer;
use crate::proto::etcdserverpb::cluster_server::ClusterServer;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::lease_server::LeaseServer;
use crate::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::proto::etcdserverpb::watch_server::WatchServer;
use crate::proto::v3electionpb::election_server::ElectionServer;
use crate::proto::v3lockpb::lock_server::LockServer;

/// What a message may have beyond the request in it.
const OVERHEAD: usize = 512 << 10;

/// Etcd's API over a store, on any number of sockets.
pub struct Door {
    host: Host,
    sockets: Vec<(TcpListener, Option<Tls>)>,
}

/// Certificates, each in PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The server's certificate, with those between it and its authority.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// Clients must show a certificate of this authority; `None` lets anyone in.
    pub client_authority: Option<Vec<u8>>,
}

/// Why a door cannot be opened or has closed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// Its address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Certificates do not fit, or the server failed.
    #[error("serve the etcd API")]
    Serve {
        /// Why.
        source: tonic::transport::Error,
    },
}

impl Door {
    /// A door without sockets.
    pub fn new(store: Embedded, member: Member, users: Users) -> Door {
        Door { host: Host::new(store, member, users), sockets: Vec::new() }
    }

    /// Listens on `address`; gives the one that it got, should the port be 0.
    pub async fn listen(
        &mut self,
        address: SocketAddr,
        tls: Option<Tls>,
    ) -> Result<SocketAddr, ServeError> {
        let failed = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        self.sockets.push((listener, tls));
        Ok(bound)
    }

    /// The service itself, for callers that have connections of their own.
    pub fn service(&self) -> Routes {
        routes(&self.host)
    }

    /// Serves until `end` resolves. Streams are then cut; requests under way are answered.
    pub async fn serve(self, end: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        let (stop, stopped) = watch::channel(());
        let servers = self.sockets.into_iter().map(|(listener, tls)| {
            let mut stopped = stopped.clone();
            // An error says that the sender is gone, which is the same news.
            let stopped = async move { drop(stopped.changed().await) };
            serve_one(self.host.clone(), listener, tls, stopped)
        });
        let all = try_join_all(servers);
        tokio::pin!(all, end);
        let serving = |source| ServeError::Serve { source };
        tokio::select! {
            done = &mut all => return done.map(drop).map_err(serving),
            () = &mut end => drop(stop),
        }
        // Watches have no end of their own, so waiting for them would be waiting for ever.
        match tokio::time::timeout(GRACE, all).await {
            Ok(done) => done.map(drop).map_err(serving),
            Err(_) => Ok(()),
        }
    }
}

/// How long requests under way may take to finish.
const GRACE: std::time::Duration = std::time::Duration::from_secs(1);

async fn serve_one(
    host: Host,
    listener: TcpListener,
    tls: Option<Tls>,
    stopped: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    // Each watch of some clients is a stream; etcd does not bound them either.
    let mut server = Server::builder().accept_http1(true).max_concurrent_streams(u32::MAX);
    if let Some(tls) = tls {
        let identity = Identity::from_pem(tls.certificate, tls.key);
        let mut config = ServerTlsConfig::new().identity(identity);
        if let Some(authority) = tls.client_authority {
            config = config.client_ca_root(Certificate::from_pem(authority));
        }
        server = server.tls_config(config)?;
    }
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let mut server = server.layer(Probes(host.clone()));
    server.add_routes(routes(&host)).serve_with_incoming_shutdown(incoming, stopped).await
}

fn routes(host: &Host) -> Routes {
    let limit = MAX_REQUEST + OVERHEAD;
    Routes::new(KvServer::new(host.clone()).max_decoding_message_size(limit))
        .add_service(WatchServer::new(host.clone()))
        .add_service(LeaseServer::new(host.clone()))
        .add_service(ClusterServer::new(host.clone()))
        .add_service(MaintenanceServer::new(host.clone()))
        .add_service(AuthServer::new(host.clone()))
        .add_service(LockServer::new(host.clone()))
        .add_service(ElectionServer::new(host.clone()))
}

/// Answers plain HTTP beside gRPC, as etcd does on the same port: `/health`, `/version`, `/metrics`, and the API
/// in JSON.
#[derive(Clone)]
struct Probes(Host);

#[derive(Clone)]
struct Probed<S> {
    host: Host,
    routes: Routes,
    inner: S,
}

impl<S> Layer<S> for Probes {
    type Service = Probed<S>;

    fn layer(&self, inner: S) -> Probed<S> {
        Probed { host: self.0.clone(), routes: routes(&self.0), inner }
    }
}

impl<S> Service<http::Request<Body>> for Probed<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if gateway::path(request.uri().path()).is_some() {
            let (host, routes) = (self.host.clone(), self.routes.clone());
            return Box::pin(async move { Ok(gateway::answer(&host, routes, request).await) });
        }
        match plain(&self.host, request.uri().path()) {
            Some(answer) => Box::pin(std::future::ready(Ok(answer))),
            None => {
                let answer: Pin<Box<_>> = Box::pin(self.inner.call(request));
                answer
            }
        }
    }
}

fn plain(host: &Host, path: &str) -> Option<http::Response<Body>> {
    let status = host.store.status();
    let (code, text) = match path {
        "/health" | "/livez" | "/readyz" => match (status.stalled, status.no_space) {
            (None, false) => (200, r#"{"health":"true","reason":""}"#.to_owned()),
            (Some(_), _) => (503, r#"{"health":"false","reason":"DISK"}"#.to_owned()),
            (None, true) => (503, r#"{"health":"false","reason":"ALARM NOSPACE"}"#.to_owned()),
        },
        "/metrics" => return Some(metrics(&status)),
        "/version" => (200, format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"3.5.0"}}"#)),
        _ => return None,
    };
    Some(written(code, "application/json", text))
}

fn written(code: u16, media: &'static str, text: String) -> http::Response<Body> {
    let mut answer = http::Response::new(Body::new(Full::new(Bytes::from(text))));
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    let media = http::HeaderValue::from_static(media);
    answer.headers_mut().insert(http::header::CONTENT_TYPE, media);
    answer
}

/// What etcd's dashboards and alerts look at, under etcd's names.
fn metrics(status: &Status) -> http::Response<Body> {
    let healthy = i64::from(status.stalled.is_none());
    let size = i64::try_from(status.size).unwrap_or(i64::MAX);
    let quota = i64::try_from(status.quota).unwrap_or(i64::MAX);
    let keys = i64::try_from(status.keys).unwrap_or(i64::MAX);
    let rows = [
        (
            "etcd_server_has_leader",
            "Whether a leader exists: the one member, while its disk takes writes.",
            healthy,
        ),
        ("etcd_server_is_leader", "Whether this member is the leader.", healthy),
        ("etcd_server_quota_backend_bytes", "Bytes beyond which puts are refused.", quota),
        ("etcd_mvcc_db_total_size_in_bytes", "Bytes that keys and values take.", size),
        ("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes that keys and values take.", size),
        (
            "etcd_debugging_mvcc_keys_total",
            "Keys, with those deleted since the last compaction.",
            keys,
        ),
        ("etcd_debugging_mvcc_current_revision", "The latest revision.", status.revision.0),
        (
            "etcd_debugging_mvcc_compact_revision",
            "The oldest revision that can be read.",
            status.compacted.0,
        ),
    ];
    let mut text = String::new();
    for (name, help, value) in rows {
        text += &format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
    }
    text += &format!(
        "# HELP etcd_server_version Which version is running.\n# TYPE etcd_server_version gauge\netcd_server_version{{server_version=\"{VERSION}\"}} 1\n"
    );
    written(200, "text/plain; version=0.0.4; charset=utf-8", text)
}
