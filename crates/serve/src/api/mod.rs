//! The Docker Engine API: every action, decoded, done by the engine, encoded.

mod archive;
mod build;
mod build_context;
mod build_posted;
mod buildkit;
mod containers;
mod exec;
mod images;
mod networks;
mod streams;
mod system;
mod uploads;
mod volumes;

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::sync::Notify;
use wharf_base::sync::Mutex;
use wharf_build::Builder;
use wharf_buildkit::BuildKit;
use wharf_engine::Engine;
use wharf_engine::images::Images;
use wharf_engine::info::System;
use wharf_engine::networks::{NOT_A_MANAGER, Networks};

use crate::call::{Call, Upload};
use crate::connection::{Answer, Answers};
use crate::fault::Fault;
use crate::hijack::Hijacked;
use crate::query::{Query, decode_path};
use crate::reply::{self, Headers, Reply};
use crate::route::{self, Absent, Action, ContainerAction};
use crate::version::{ApiVersion, MAX, MIN};

/// The door to one engine.
pub struct Door {
    engine: Engine,
    images: Images,
    networks: Networks,
    builder: Builder,
    builds: build::Running,
    uploads: uploads::Uploads,
    buildkit: BuildKit,
    system: Mutex<Arc<System>>,
    headers: Headers,
    traffic: Arc<Notify>,
}

impl Door {
    /// A door to `engine` and its floors.
    pub fn new(
        engine: Engine,
        images: Images,
        networks: Networks,
        builder: Builder,
        buildkit: BuildKit,
        system: System,
    ) -> Arc<Door> {
        let headers = Headers::new(wharf_engine::info::DOCKER_VERSION, system.experimental);
        let (builds, system) = (build::Running::default(), Mutex::new(Arc::new(system)));
        let (traffic, uploads) = (Arc::default(), uploads::Uploads::default());
        Arc::new(Door {
            engine,
            images,
            networks,
            builder,
            builds,
            uploads,
            buildkit,
            system,
            headers,
            traffic,
        })
    }

    /// Is notified when a request comes and when a connection ends.
    pub fn traffic(&self) -> Arc<Notify> {
        self.traffic.clone()
    }

    /// Replaces the settings that `docker info` shows, after a reload; the id stays. Returns the new ones.
    pub fn redescribe(&self, system: System) -> Arc<System> {
        let mut now = self.system.lock();
        *now = Arc::new(System { id: now.id.clone(), ..system });
        now.clone()
    }

    /// The facts and settings of now.
    fn system(&self) -> Arc<System> {
        self.system.lock().clone()
    }

    async fn decode(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = Upload::new(body);
        let path = decode_path(parts.uri.path());
        let (version, rest) = ApiVersion::split(&path);
        let answer = match understand(&parts.method, version, rest, parts.uri.query()) {
            Ok((action, query)) => {
                let call = Call { version, query, headers: parts.headers, body };
                self.clone().act(action, call).await
            }
            Err(fault) => Err(fault),
        };
        match answer {
            Ok(Answer::Response(response)) => self.finish(response),
            Ok(hijack) => hijack,
            Err(fault) => {
                log_fault(&parts.method, &path, &fault);
                self.finish(reply::fault(&fault, version))
            }
        }
    }

    fn finish(&self, mut response: Reply) -> Answer {
        self.headers.stamp(response.headers_mut());
        Answer::Response(response)
    }

    /// One future per area, each on the heap, so that a connection's own future stays small.
    fn act(
        self: Arc<Self>,
        action: Action,
        call: Call,
    ) -> BoxFuture<'static, Result<Answer, Fault>> {
        let door = self;
        match action {
            Action::Ping => responds(system::ping()),
            Action::PingHead => responds(system::ping_head()),
            Action::Options => responds(async { Ok(reply::status(StatusCode::OK)) }),
            Action::Version => responds(system::version(door)),
            Action::Info => responds(system::info(door, call)),
            Action::Events => responds(system::events(door, call)),
            Action::Auth => responds(system::auth(door, call)),
            Action::DiskUsage => responds(system::disk_usage(door, call)),
            Action::Distribution(name) => responds(images::distribution(door, name, call)),
            Action::Commit => responds(containers::commit(door, call)),
            Action::Build(action) => responds(build::build(door, action, call)),
            Action::Grpc => Box::pin(async move { buildkit::grpc(&door, &call) }),
            Action::Session => Box::pin(async move { buildkit::session(&door, &call) }),
            Action::Plugins => responds(async { Ok(reply::ok::<[(); 0]>(&[])) }),
            Action::PluginInspect(name) => responds(async move {
                let text = format!("plugin {name:?} not found");
                Err(Fault::new(StatusCode::NOT_FOUND, text))
            }),
            Action::Absent(area) => responds(absent(area)),
            Action::Container(ContainerAction::List) => responds(containers::list(door, call)),
            Action::Container(ContainerAction::Create) => responds(containers::create(door, call)),
            Action::Container(ContainerAction::Prune) => responds(containers::prune(door, call)),
            Action::Container(ContainerAction::One(one, name)) => {
                containers::one(door, one, name, call).boxed()
            }
            Action::Exec(action, id) => exec::one(door, action, id, call).boxed(),
            Action::Image(action) => responds(images::image(door, action, call)),
            Action::Network(action) => responds(networks::network(door, action, call)),
            Action::Volume(action) => responds(volumes::volume(door, action, call)),
        }
    }
}

impl Answers for Door {
    fn answer(self: Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Answer> {
        self.traffic.notify_one();
        self.decode(request).boxed()
    }

    fn http2(self: Arc<Self>, client: Hijacked) -> BoxFuture<'static, ()> {
        buildkit::http2(self.buildkit.clone(), client).boxed()
    }

    fn left(&self) {
        self.traffic.notify_one();
    }
}

/// What a method, path and query mean, and whether the version is served.
fn understand(
    method: &Method,
    version: ApiVersion,
    path: &str,
    query: Option<&str>,
) -> Result<(Action, Query), Fault> {
    let action = route::route(method, path).ok_or_else(Fault::page_not_found)?;
    version.check()?;
    Ok((action, Query::parse(query.unwrap_or_default())?))
}

fn log_fault(method: &Method, path: &str, fault: &Fault) {
    let (status, answer) = (fault.status().as_u16(), fault.message());
    // Clients can cause the others at will.
    if fault.status().is_server_error() && status != 501 && status != 503 {
        tracing::error!(%method, path, status, answer, "request failed");
    } else {
        tracing::debug!(%method, path, status, answer, "request refused");
    }
}

/// An action that never takes the connection over.
fn responds(
    reply: impl Future<Output = Result<Reply, Fault>> + Send + 'static,
) -> BoxFuture<'static, Result<Answer, Fault>> {
    reply.map(|r| r.map(Answer::Response)).boxed()
}

/// Runs a change to its end even if the client goes away meanwhile: a half-made change helps nobody.
async fn complete<T: Send + 'static>(
    change: impl Future<Output = Result<T, wharf_engine::EngineError>> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::spawn(change).await {
        Ok(done) => Ok(done?),
        Err(e) => Err(broken(&e)),
    }
}

/// Runs blocking work of the store or the network layer.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, wharf_engine::EngineError> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(e) => Err(broken(&e)),
    }
}

fn broken(e: &tokio::task::JoinError) -> Fault {
    Fault::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the request's task ended: {e}"))
}

async fn absent(area: Absent) -> Result<Reply, Fault> {
    Err(match area {
        Absent::Swarm => Fault::new(StatusCode::SERVICE_UNAVAILABLE, NOT_A_MANAGER),
        Absent::Plugins => {
            Fault::not_implemented("wharf has no plugins: volume and network drivers are built in")
        }
        Absent::Checkpoint => {
            Fault::not_implemented("wharf does not checkpoint containers (it would need CRIU)")
        }
    })
}

/// The API versions of this door, as clients read them.
fn versions() -> (String, String) {
    (MAX.to_string(), MIN.to_string())
}
