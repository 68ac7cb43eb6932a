//! The door as a whole: what its services share, and which service a request is for.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;
use wharf_base::clock::Clock;
use wharf_build::{Builder, Credentials as _};
use wharf_engine::images::Images;
use wharf_image::{PushError, PushOptions, Several};
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

use crate::builds::{Build, Builds};
use crate::contexts::Contexts;
use crate::history::History;
use crate::line::{self, Io, MAX_MESSAGE};
use crate::proto::grpc::health::v1::health_server::HealthServer;
use crate::proto::moby::buildkit::v1::control_server::ControlServer;
use crate::proto::moby::buildkit::v1::frontend::llb_bridge_server::LlbBridgeServer;
use crate::proto::moby::buildkit::v1::types;
use crate::proto::moby::buildkit::v1::types::{BuildkitVersion, WorkerRecord};
use crate::proto::pb;
use crate::remote::Remote;
use crate::session::{Offer, OfferError, Session, Sessions};

/// The BuildKit whose services these are.
const LEVEL: &str = "v0.25.1";

/// BuildKit's door to one engine. Clones share it.
#[derive(Clone)]
pub struct BuildKit(Arc<Inner>);

struct Inner {
    builder: Builder,
    images: Images,
    builds: Builds,
    sessions: Sessions,
    contexts: Contexts,
    history: Arc<History>,
    settings: Settings,
    clock: Clock,
}

/// What the door must be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A directory of its own, for contexts and the history.
    pub dir: PathBuf,
    /// The engine's id, which becomes the worker's.
    pub id: String,
    /// wharf's version.
    pub version: String,
    /// What `host-gateway` means in `--add-host`.
    pub host_gateway: Option<std::net::IpAddr>,
}

impl BuildKit {
    /// The door to `builder` and `images`. Blocks.
    pub fn open(builder: Builder, images: Images, settings: Settings) -> io::Result<BuildKit> {
        let clock = Clock::system();
        wharf_base::fs::private_dir(&settings.dir)?;
        let contexts = Contexts::open(settings.dir.join("contexts"), clock.clone())?;
        let history = History::open(settings.dir.join("history"), clock.clone())?;
        let (builds, sessions) = (Builds::default(), Sessions::default());
        let inner = Inner { builder, images, builds, sessions, contexts, history, settings, clock };
        Ok(BuildKit(Arc::new(inner)))
    }

    /// Serves gRPC on a connection that speaks HTTP/2 from here on, until it ends.
    pub async fn serve(&self, io: impl Io) {
        if let Err(error) = line::serve(io, Services::new(self)).await {
            tracing::debug!(error = %wharf_base::error::chain(&error), "connection ended");
        }
    }

    /// Reads what a client offers with `POST /session`.
    pub fn offer(&self, headers: &HeaderMap) -> Result<Offer, OfferError> {
        let offer = Offer::read(headers)?;
        self.0.sessions.check(&offer)?;
        Ok(offer)
    }

    /// Keeps a session on a connection that speaks HTTP/2 from here on, until it ends. The client is the server.
    pub async fn hold(&self, io: impl Io, offer: Offer) {
        if let Err(error) = self.0.sessions.hold(io, offer).await {
            tracing::debug!(error = %wharf_base::error::chain(&error), "session ended");
        }
    }

    pub(crate) fn builder(&self) -> &Builder {
        &self.0.builder
    }

    pub(crate) fn images(&self) -> &Images {
        &self.0.images
    }

    pub(crate) fn builds(&self) -> &Builds {
        &self.0.builds
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    pub(crate) fn contexts(&self) -> &Contexts {
        &self.0.contexts
    }

    pub(crate) fn history(&self) -> &Arc<History> {
        &self.0.history
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// What stands for BuildKit's version.
    pub(crate) fn version(&self) -> BuildkitVersion {
        BuildkitVersion {
            package: "wharf".into(),
            version: LEVEL.into(),
            revision: self.0.settings.version.clone(),
            ..BuildkitVersion::default()
        }
    }

    /// The one worker there is.
    pub(crate) fn worker(&self) -> WorkerRecord {
        let settings = &self.0.settings;
        let mut labels = HashMap::from([
            ("org.mobyproject.buildkit.worker.executor".to_owned(), "wharf".to_owned()),
            // With this label buildx offers archives, which an engine without a content store could not make.
            ("org.mobyproject.buildkit.worker.snapshotter".to_owned(), "overlayfs".to_owned()),
        ]);
        if let Some(ip) = settings.host_gateway {
            let name = "org.mobyproject.buildkit.worker.moby.host-gateway-ip";
            labels.insert(name.to_owned(), ip.to_string());
        }
        let host = Platform::host();
        let platform = pb::Platform {
            architecture: host.architecture,
            os: host.os,
            variant: host.variant,
            ..pb::Platform::default()
        };
        WorkerRecord {
            id: settings.id.clone(),
            labels,
            platforms: vec![platform],
            gc_policy: self.builder().watermark().map(gc_policy).into_iter().collect(),
            buildkit_version: Some(self.version()),
        }
    }

    /// Pushes an image by one of its names; gives the digest that the registry knows it by.
    pub(crate) async fn push(
        &self,
        build: &Build,
        session: Arc<Session>,
        name: &Reference,
    ) -> Result<String, Status> {
        let task = build.journal.task(format!("pushing {}", name.familiar()));
        let push = async {
            let options = push_options(session, name).await?;
            let pushed = self.images().store().push(name, options).await;
            pushed.map_err(|e| push_failed(name, &e))
        };
        let pushed = push.await;
        let pushed = task.end(pushed)?;
        let (name, repository) = (name.familiar(), name.familiar_name());
        self.images().tell("push", &name, &repository, Some(&pushed.image));
        Ok(pushed.manifest.digest.to_string())
    }

    /// Pushes images of several platforms under one name; gives the digest of their index.
    pub(crate) async fn push_index(
        &self,
        build: &Build,
        session: Arc<Session>,
        name: &Reference,
        index: &Several,
    ) -> Result<String, Status> {
        let task = build.journal.task(format!("pushing manifest list for {}", name.familiar()));
        let push = async {
            let options = push_options(session, name).await?;
            let pushed = self.images().store().push_index(name, index, options).await;
            pushed.map_err(|e| push_failed(name, &e))
        };
        let pushed = push.await;
        let pushed = task.end(pushed)?;
        self.images().tell("push", &name.familiar(), &name.familiar_name(), None);
        Ok(pushed.digest.to_string())
    }
}

/// What is kept however old it is.
fn gc_policy(watermark: u64) -> types::GcPolicy {
    let max_used_space = i64::try_from(watermark).unwrap_or(i64::MAX);
    types::GcPolicy { all: true, max_used_space, ..types::GcPolicy::default() }
}

async fn push_options(session: Arc<Session>, name: &Reference) -> Result<PushOptions, Status> {
    let auth = Remote(session).auth(name.domain()).await.map_err(Status::unknown)?;
    Ok(PushOptions { auth, ..PushOptions::default() })
}

fn push_failed(name: &Reference, error: &PushError) -> Status {
    let text = wharf_base::error::chain(error).to_string();
    Status::unknown(format!("failed to push {}: {text}", name.familiar()))
}

/// The services, by their names.
#[derive(Clone)]
struct Services {
    control: ControlServer<BuildKit>,
    bridge: LlbBridgeServer<BuildKit>,
    health: HealthServer<BuildKit>,
}

impl Services {
    fn new(kit: &BuildKit) -> Services {
        Services {
            control: ControlServer::new(kit.clone()).max_decoding_message_size(MAX_MESSAGE),
            bridge: LlbBridgeServer::new(kit.clone()).max_decoding_message_size(MAX_MESSAGE),
            health: HealthServer::new(kit.clone()),
        }
    }
}

impl Service<Request<Incoming>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match service {
            "moby.buildkit.v1.Control" => self.control.call(request),
            "moby.buildkit.v1.frontend.LLBBridge" => self.bridge.call(request),
            "grpc.health.v1.Health" => self.health.call(request),
            other => {
                let unknown = Status::unimplemented(format!("unknown service {other}"));
                Box::pin(async move { Ok(unknown.into_http()) })
            }
        }
    }
}
