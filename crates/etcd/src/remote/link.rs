//! Connections to the members of a cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use wharf_base::sync::Mutex;

use super::{Cluster, is_lost};
use crate::error::StoreError;
use crate::proto::etcdserverpb::auth_client::AuthClient;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::{AuthenticateRequest, StatusRequest};
use crate::wire;

/// How long a member may take to let somebody in.
const CONNECT: Duration = Duration::from_secs(2);

/// How long a member may take to answer. Etcd itself gives up after seven seconds.
const ANSWER: Duration = Duration::from_secs(10);

/// How long the members' versions are remembered.
const VERSIONS: Duration = Duration::from_secs(60);

/// How long a silent connection is believed in.
const SILENCE: Duration = Duration::from_secs(5);

/// Connections to every member, one of which is in use.
#[derive(Clone)]
pub(super) struct Links(Arc<Shared>);

struct Shared {
    channels: Vec<Channel>,
    current: AtomicUsize,
    user: Option<(String, String)>,
    token: Mutex<Option<String>>,
    /// What was found out of the members' progress, and when.
    progress: Mutex<Option<(Instant, bool)>>,
}

/// A connection to one member, as whoever is signed in.
#[derive(Clone)]
pub(super) struct Link {
    channel: Channel,
    number: usize,
    token: Option<String>,
}

impl Links {
    pub(super) fn new(cluster: Cluster) -> Result<Links, StoreError> {
        let channels = cluster.endpoints.iter().map(|url| channel(url, &cluster));
        let channels = channels.collect::<Result<Vec<_>, _>>()?;
        if channels.is_empty() {
            return Err(StoreError::Refused { reason: "no endpoint is given".to_owned() });
        }
        Ok(Links(Arc::new(Shared {
            channels,
            current: AtomicUsize::new(0),
            user: cluster.user,
            token: Mutex::new(None),
            progress: Mutex::new(None),
        })))
    }

    /// Whether every member tells its progress only behind what it has delivered. Before 3.4.25 and 3.5.8 they did
    /// not (etcd's issue 15220); a member that does not answer may be of those.
    pub(super) async fn tells_progress(&self) -> bool {
        if let Some((when, told)) = *self.0.progress.lock()
            && when.elapsed() < VERSIONS
        {
            return told;
        }
        let mut told = true;
        for channel in &self.0.channels {
            let mut member = MaintenanceClient::new(channel.clone());
            let status = member.status(timed(StatusRequest {})).await;
            told &= status.is_ok_and(|s| is_orderly(&s.get_ref().version));
        }
        *self.0.progress.lock() = Some((Instant::now(), told));
        told
    }

    /// Fetches a token, if there is a user.
    pub(super) async fn sign_in(&self) -> Result<(), Status> {
        let Some((name, password)) = self.0.user.clone() else { return Ok(()) };
        for _ in &self.0.channels {
            let link = self.link();
            let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
            let mut auth = AuthClient::new(link.channel.clone());
            match auth.authenticate(timed(request)).await {
                Ok(answer) => {
                    *self.0.token.lock() = Some(answer.into_inner().token);
                    return Ok(());
                }
                Err(status) if is_lost(&status) => self.leave(&link),
                Err(status) => return Err(status),
            }
        }
        Err(Status::unavailable("no member answered"))
    }

    /// The connection in use.
    pub(super) fn link(&self) -> Link {
        let number = self.0.current.load(Ordering::Relaxed);
        let token = self.0.token.lock().clone();
        Link { channel: self.0.channels[number].clone(), number, token }
    }

    /// Goes on with the next member, unless somebody else has already.
    pub(super) fn leave(&self, link: &Link) {
        let next = (link.number + 1) % self.0.channels.len();
        let order = Ordering::Relaxed;
        if self.0.current.compare_exchange(link.number, next, order, order).is_ok() {
            tracing::debug!(member = next, "going on with another member of the etcd cluster");
        }
    }

    /// Asks one member after the other until one answers.
    pub(super) async fn read<T, F>(&self, ask: impl Fn(Link) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut last = None;
        // Twice around: the first time may be what makes members elect another leader.
        for _ in 0..2 * self.0.channels.len() {
            match self.attempt(&ask).await {
                Err(status) if is_lost(&status) => last = Some(status),
                answer => return answer.map_err(|s| wire::error(&s)),
            }
        }
        let none = || Status::unavailable("no member answered");
        Err(wire::error(&last.unwrap_or_else(none)))
    }

    /// Asks one member once. If it does not answer, the next request goes to another one.
    pub(super) async fn write<T, F>(&self, ask: impl Fn(Link) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.attempt(&ask).await.map_err(|s| wire::error(&s))
    }

    async fn attempt<T, F>(&self, ask: &impl Fn(Link) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let link = self.link();
        let answer = ask(link.clone()).await;
        match answer {
            // Tokens live for minutes; a request with an old one did not happen.
            Err(status) if status.code() == Code::Unauthenticated && self.0.user.is_some() => {
                self.sign_in().await?;
                ask(self.link()).await
            }
            Err(status) if is_lost(&status) => {
                self.leave(&link);
                Err(status)
            }
            answer => answer,
        }
    }
}

impl Link {
    pub(super) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(super) fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(super) fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// A request that is to be answered soon.
    pub(super) fn request<M>(&self, message: M) -> Result<Request<M>, Status> {
        let mut request = self.stream(message)?;
        request.set_timeout(ANSWER);
        Ok(request)
    }

    /// A request whose answer goes on for long, as long as the member has a leader.
    pub(super) fn stream<M>(&self, message: M) -> Result<Request<M>, Status> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            let token = MetadataValue::try_from(token)
                .map_err(|_| Status::unauthenticated("the token is no header"))?;
            request.metadata_mut().insert("token", token);
        }
        Ok(request)
    }
}

/// Whether a member of this version delivers before it tells its progress.
fn is_orderly(version: &str) -> bool {
    let numbers: Vec<u64> = version.split(['.', '-', '+']).map_while(|n| n.parse().ok()).collect();
    match numbers[..] {
        [3, 4, patch, ..] => patch >= 25,
        [3, 5, patch, ..] => patch >= 8,
        [major, minor, ..] => (major, minor) > (3, 5),
        _ => false,
    }
}

fn timed<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER);
    request
}

fn channel(url: &str, cluster: &Cluster) -> Result<Channel, StoreError> {
    let refused = |e: tonic::transport::Error| StoreError::Refused {
        reason: format!("endpoint {url}: {}", wharf_base::error::chain(&e)),
    };
    // etcdctl takes endpoints without a scheme.
    let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let mut endpoint = Endpoint::from_shared(full.clone())
        .map_err(refused)?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE)
        .keep_alive_while_idle(true);
    if full.starts_with("https://") {
        let mut tls = ClientTlsConfig::new();
        if let Some(authority) = &cluster.authority {
            tls = tls.ca_certificate(Certificate::from_pem(authority));
        }
        if let Some((certificate, key)) = &cluster.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        endpoint = endpoint.tls_config(tls).map_err(refused)?;
    }
    Ok(endpoint.connect_lazy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_members_are_known_by_their_versions() {
        let check = |version: &str| is_orderly(version);
        for orderly in ["3.4.25", "3.5.8", "3.5.30", "3.6.0-rc.1", "3.10.0", "4.0.0"] {
            assert!(check(orderly), "{orderly}");
        }
        for other in ["3.4.23", "3.4.23+dfsg", "3.5.7", "3.3.27", "2.3.8", "", "new"] {
            assert!(!check(other), "{other}");
        }
    }
}
