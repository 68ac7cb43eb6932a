//! Sessions: connections on which the client serves its files, secrets and agents to its builds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::watch;
use tonic::{Code, Status};
use wharf_base::Id;
use wharf_base::sync::Mutex;
use wharf_spec::dockerconfig::{AuthConfig, auth_key};

use crate::line::{Io, Line, MAX_MESSAGE};
use crate::proto::containerd::services::content::v1::content_client::ContentClient;
use crate::proto::moby::buildkit::secrets::v1::secrets_client::SecretsClient;
use crate::proto::moby::filesync::v1::auth_client::AuthClient;
use crate::proto::moby::filesync::v1::file_send_client::FileSendClient;
use crate::proto::moby::filesync::v1::file_sync_client::FileSyncClient;
use crate::proto::moby::sshforward::v1::ssh_client::SshClient;
use crate::proto::moby::upload::v1::upload_client::UploadClient;

/// A build may name its session before the session's connection is here. BuildKit waits as long.
const PATIENCE: Duration = Duration::from_secs(5);

/// The sessions of now, by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    open: Mutex<HashMap<String, Arc<Session>>>,
    changed: watch::Sender<()>,
}

impl Default for Inner {
    fn default() -> Inner {
        Inner { open: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

/// One client's offer.
#[derive(Debug)]
pub(crate) struct Session {
    offer: Offer,
    /// `None`: nobody is on the other side.
    line: Option<Line>,
    /// Logins that came by another way, by registry.
    logins: BTreeMap<String, AuthConfig>,
}

/// What a client says about the session that it opens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Its id, chosen by the client.
    pub id: String,
    /// The same for sessions of one client about one directory: what it sent before, it need not send again.
    pub shared_key: String,
    /// Paths of the methods that it serves, in lower case.
    methods: HashSet<String>,
}

/// Why a session is refused.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// No id.
    #[error("the header X-Docker-Expose-Session-Uuid is missing")]
    Nameless,
    /// Taken.
    #[error("session {0} already exists")]
    Taken(String),
}

impl Offer {
    /// Reads the headers of `POST /session`, or the metadata of `Control.Session`: the names are the same.
    pub fn read(headers: &HeaderMap) -> Result<Offer, OfferError> {
        let text = |name: &str| {
            let value = headers.get(format!("x-docker-expose-session-{name}"));
            value.and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
        };
        let id = text("uuid");
        if id.is_empty() {
            return Err(OfferError::Nameless);
        }
        let methods = headers
            .get_all("x-docker-expose-session-grpc-method")
            .iter()
            .filter_map(|v| v.to_str().ok())
            .map(str::to_ascii_lowercase)
            .collect();
        Ok(Offer { id, shared_key: text("sharedkey"), methods })
    }
}

impl Sessions {
    /// Refuses an id that is taken, before the connection is switched.
    pub(crate) fn check(&self, offer: &Offer) -> Result<(), OfferError> {
        match self.0.open.lock().contains_key(&offer.id) {
            true => Err(OfferError::Taken(offer.id.clone())),
            false => Ok(()),
        }
    }

    /// Keeps a session until its connection ends.
    pub(crate) async fn hold(&self, io: impl Io, offer: Offer) -> hyper::Result<()> {
        let (line, connection) = Line::open(io).await?;
        let id = offer.id.clone();
        let session = Session { offer, line: Some(line), logins: BTreeMap::new() };
        let _here = self.enter(id, session);
        connection.await
    }

    /// A session for a build whose client opened none; it is there until the guard is dropped.
    pub(crate) fn stand_in(&self, logins: BTreeMap<String, AuthConfig>) -> (String, Here) {
        let id = Id::random().to_string();
        let session = Session { offer: Offer::default(), line: None, logins };
        (id.clone(), self.enter(id, session))
    }

    fn enter(&self, id: String, session: Session) -> Here {
        let session = Arc::new(session);
        self.0.open.lock().insert(id.clone(), session.clone());
        self.0.changed.send_replace(());
        Here { sessions: self.clone(), id, session }
    }

    /// The session `id`, if need be after a short wait for it.
    pub(crate) async fn find(&self, id: &str) -> Result<Arc<Session>, Status> {
        // A prefix only keeps cache entries of different contexts apart.
        let id = id.split_once(':').map_or(id, |(_, id)| id);
        let mut changed = self.0.changed.subscribe();
        let look = async {
            loop {
                changed.borrow_and_update();
                if let Some(session) = self.0.open.lock().get(id) {
                    return Some(session.clone());
                }
                changed.changed().await.ok()?;
            }
        };
        let found = tokio::time::timeout(PATIENCE, look).await.ok().flatten();
        found.ok_or_else(|| Status::not_found(format!("no active session for {id}")))
    }
}

/// Takes a session off the list when its connection ends.
pub(crate) struct Here {
    sessions: Sessions,
    id: String,
    session: Arc<Session>,
}

impl Drop for Here {
    fn drop(&mut self) {
        let mut open = self.sessions.0.open.lock();
        if open.get(&self.id).is_some_and(|s| Arc::ptr_eq(s, &self.session)) {
            open.remove(&self.id);
        }
    }
}

/// A client for one service of the session, if the session has it.
macro_rules! service {
    ($(#[$doc:meta])* $name:ident, $client:ident, $method:literal) => {
        $(#[$doc])*
        pub(crate) fn $name(&self) -> Result<$client<Line>, Status> {
            self.offers($method)?;
            Ok($client::with_origin(self.line()?.clone(), Line::origin())
                .max_decoding_message_size(MAX_MESSAGE))
        }
    };
}

impl Session {
    service!(
        /// The client's directories.
        file_sync, FileSyncClient, "/moby.filesync.v1.FileSync/DiffCopy"
    );
    service!(
        /// Files that the client wants back.
        file_send, FileSendClient, "/moby.filesync.v1.FileSend/DiffCopy"
    );
    service!(
        /// The client's registry logins.
        auth, AuthClient, "/moby.filesync.v1.Auth/Credentials"
    );
    service!(
        /// Secrets.
        secrets, SecretsClient, "/moby.buildkit.secrets.v1.Secrets/GetSecret"
    );
    service!(
        /// Agents for ssh.
        ssh, SshClient, "/moby.sshforward.v1.SSH/ForwardAgent"
    );
    service!(
        /// Blobs in directories of the client.
        content, ContentClient, "/containerd.services.content.v1.Content/Write"
    );
    service!(
        /// A context on the client's standard input.
        upload, UploadClient, "/moby.upload.v1.Upload/Pull"
    );

    /// The connection itself, for messages that the generated clients have no type for.
    pub(crate) fn line(&self) -> Result<&Line, Status> {
        self.line.as_ref().ok_or_else(|| Status::failed_precondition("this build has no session"))
    }

    /// A login that came by another way.
    pub(crate) fn login(&self, host: &str) -> Option<&AuthConfig> {
        self.logins.get(&auth_key(host)).or_else(|| self.logins.get(host))
    }

    /// What the client said about it.
    pub(crate) fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Whether the client serves `method`; `Unimplemented` names it if not.
    pub(crate) fn offers(&self, method: &str) -> Result<(), Status> {
        if self.offer.methods.contains(&method.to_ascii_lowercase()) {
            return Ok(());
        }
        let text = format!("method {method} not supported by the client");
        Err(Status::new(Code::Unimplemented, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(id: &str) -> Offer {
        let mut headers = HeaderMap::new();
        headers.insert("x-docker-expose-session-uuid", id.parse().unwrap());
        headers.insert("x-docker-expose-session-sharedkey", "dir:node".parse().unwrap());
        for method in ["/moby.filesync.v1.FileSync/DiffCopy", "/grpc.health.v1.Health/Check"] {
            headers.append("x-docker-expose-session-grpc-method", method.parse().unwrap());
        }
        Offer::read(&headers).unwrap()
    }

    #[test]
    fn headers_tell_what_a_session_offers() {
        let offer = offer("s1");
        assert_eq!((offer.id.as_str(), offer.shared_key.as_str()), ("s1", "dir:node"));
        assert!(offer.methods.contains("/moby.filesync.v1.filesync/diffcopy"));
        assert!(matches!(Offer::read(&HeaderMap::new()), Err(OfferError::Nameless)));
    }

    #[tokio::test]
    async fn a_session_is_found_while_its_connection_lives() {
        let sessions = Sessions::default();
        let (client, server) = tokio::io::duplex(4096);
        let finding = tokio::spawn({
            let sessions = sessions.clone();
            async move { sessions.find("context:s1").await }
        });
        let holding = tokio::spawn({
            let sessions = sessions.clone();
            async move { sessions.hold(server, offer("s1")).await }
        });
        let session = finding.await.unwrap().unwrap();
        assert!(session.file_sync().is_ok());
        assert_eq!(session.secrets().unwrap_err().code(), Code::Unimplemented);
        assert!(matches!(sessions.check(&offer("s1")), Err(OfferError::Taken(_))));
        drop(client);
        drop(holding.await.unwrap());
        assert!(sessions.check(&offer("s1")).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_never_comes_is_not_found() {
        let missing = Sessions::default().find("nobody").await.unwrap_err();
        assert_eq!(missing.code(), Code::NotFound);
    }
}
