//! Builds that come by `POST /build` in BuildKit's version: one request and one answer, with a session or without.

use std::collections::{BTreeMap, HashMap};

use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use wharf_base::Id;
use wharf_build::{ErrorKind, Tree};
use wharf_spec::dockerconfig::AuthConfig;

use crate::control;
use crate::kit::BuildKit;
use crate::proto::moby::buildkit::v1::{Exporter, SolveRequest};
use crate::upload;

/// What such a request asks for.
#[derive(Debug, Default)]
pub struct Posted {
    /// Options of the Dockerfile frontend, under BuildKit's names.
    pub options: HashMap<String, String>,
    /// What the Dockerfile may do.
    pub entitlements: Vec<String>,
    /// Where the result goes; `None` leaves it in the cache.
    pub output: Option<Output>,
    /// The client's session; empty if it has opened none.
    pub session: String,
    /// Logins of a client without a session, by registry.
    pub logins: BTreeMap<String, AuthConfig>,
    /// Files that came with the request.
    pub context: Option<Tree>,
}

/// An exporter and its attributes.
#[derive(Debug, Default)]
pub struct Output {
    /// `moby`, `image`, `local` and so on.
    pub kind: String,
    /// Under BuildKit's names.
    pub attrs: HashMap<String, String>,
}

/// A build that failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PostError {
    kind: ErrorKind,
    message: String,
}

impl PostError {
    /// What kind of failure it was.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl From<Status> for PostError {
    fn from(status: Status) -> PostError {
        let kind = match status.code() {
            Code::InvalidArgument => ErrorKind::Invalid,
            Code::NotFound => ErrorKind::NotFound,
            Code::Unimplemented => ErrorKind::Unsupported,
            Code::Cancelled => ErrorKind::Cancelled,
            _ => ErrorKind::Failed,
        };
        PostError { kind, message: status.message().to_owned() }
    }
}

impl BuildKit {
    /// Builds; `tell` gets messages as `Control.Status` sends them. Gives what the exporters say of the result.
    /// Cancelled or dropped, the build ends.
    pub async fn post(
        &self,
        posted: Posted,
        cancel: CancellationToken,
        mut tell: impl FnMut(Vec<u8>),
    ) -> Result<HashMap<String, String>, PostError> {
        let (session, _stand_in) = match posted.session {
            id if !id.is_empty() => (id, None),
            _ => {
                let (id, here) = self.sessions().stand_in(posted.logins);
                (id, Some(here))
            }
        };
        let mut options = posted.options;
        if posted.context.is_some() {
            // No more than a name: the files are here.
            options.insert("context".into(), format!("{}/body", upload::STDIN));
        }
        let exporter = |o: Output| Exporter { r#type: o.kind, attrs: o.attrs };
        let request = SolveRequest {
            r#ref: Id::random().to_string(),
            frontend: "dockerfile.v0".into(),
            frontend_attrs: options,
            session,
            entitlements: posted.entitlements,
            exporters: posted.output.map(exporter).into_iter().collect(),
            ..SolveRequest::default()
        };
        let (started, returned) = self.builds().start(request, self.clock().clone())?;
        let build = started.build.clone();
        build.lend(posted.context);
        let working = async move {
            let answer = control::run(self, &started, returned).await;
            // The journal ends with it.
            drop(started);
            answer
        };
        let telling = async {
            let mut place = 0;
            while let Some((messages, next)) = build.journal.read(place).await {
                place = next;
                messages.iter().for_each(|message| tell(message.encode_to_vec()));
            }
        };
        let stopping = async {
            cancel.cancelled().await;
            build.cancel.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            (answer, ()) = async { tokio::join!(working, telling) } => Ok(answer?),
            () = stopping => Err(Status::cancelled("the build was cancelled").into()),
        }
    }
}
