//! An API server over a store in memory with its loops, asked without a socket.

#![allow(dead_code, reason = "each test program uses its own part")]

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use wharf_apiserver::api::Api;
use wharf_apiserver::authn::{Authenticator, jwt::Keys};
use wharf_apiserver::certs::Pki;
use wharf_apiserver::local::Local;
use wharf_apiserver::respond::Content;
use wharf_apiserver::server::{Incoming, Server};
use wharf_apiserver::user::User;
use wharf_apiserver::{bootstrap, loops};
use wharf_base::clock::Clock;
use wharf_etcd::{Embedded, Settings};

/// How long a loop may take in a test on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster that ends with this.
pub(crate) struct Cluster {
    server: Arc<Server>,
    _loops: [JoinSet<()>; 2],
}

impl Cluster {
    /// One without nodes.
    pub(crate) async fn start() -> Cluster {
        Cluster::with(wharf_controllers::Settings::default()).await
    }

    /// One whose loops have these settings.
    pub(crate) async fn with(settings: wharf_controllers::Settings) -> Cluster {
        Cluster::at(Clock::system(), settings).await
    }

    /// One that goes by a clock.
    pub(crate) async fn at(clock: Clock, mut settings: wharf_controllers::Settings) -> Cluster {
        let store = Embedded::in_memory(&Settings::default()).unwrap();
        let api = Api::new(Arc::new(store), clock);
        let address = ([127, 0, 0, 1], 6443).into();
        bootstrap::run(&api, address).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), &[]).unwrap();
        let keys = Keys::from_der(&pki.token_key().unwrap()).unwrap();
        let upkeep = loops::start(&api, address);
        let server = Arc::new(Server::new(
            api,
            Authenticator::new(keys, "https://test".to_owned()),
            address.to_string(),
        ));
        let reached: Arc<dyn wharf_client::Cluster> =
            Arc::new(Local::new(Arc::clone(&server), "system:apiserver"));
        if settings.root.is_empty() {
            settings.root = "root".to_owned();
        }
        let loops = wharf_controllers::start(&reached, &settings);
        Cluster { server, _loops: [upkeep, loops] }
    }

    /// Sends a request as the administrator; gives the status and what was answered.
    pub(crate) async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let admin = User::new("admin", vec!["system:masters".to_owned()]);
        self.send_as(admin, method, path, body).await
    }

    /// The same as somebody.
    pub(crate) async fn send_as(
        &self,
        user: User,
        method: &str,
        path: &str,
        body: Value,
    ) -> (u16, Value) {
        let mut headers = HeaderMap::new();
        let media =
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        headers.insert("content-type", media.parse().unwrap());
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let answer = self.server.handle(Incoming {
            method: method.parse::<Method>().unwrap(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
            body: if body.is_null() { Bytes::new() } else { body.to_string().into() },
            certificate: Some(user),
            peer: None,
        });
        let answer = answer.await;
        let Content::Whole(bytes) = answer.body else { panic!("a stream") };
        (answer.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Creates an object, which must be accepted.
    #[track_caller]
    pub(crate) fn create<'a>(
        &'a self,
        path: &'a str,
        object: Value,
    ) -> impl Future<Output = Value> + 'a {
        let at = std::panic::Location::caller();
        async move {
            let (status, answer) = self.send("POST", path, object).await;
            assert_eq!(status, 201, "{at}: {answer}");
            answer
        }
    }

    /// Waits until an object is there and as it should be.
    #[track_caller]
    pub(crate) fn until<'a>(
        &'a self,
        path: &'a str,
        is: impl Fn(&Value) -> bool + 'a,
    ) -> impl Future<Output = Value> + 'a {
        let (at, begin) = (std::panic::Location::caller(), Instant::now());
        async move {
            loop {
                let (status, object) = self.send("GET", path, Value::Null).await;
                if status == 200 && is(&object) {
                    return object;
                }
                assert!(begin.elapsed() < PATIENCE, "{at}: {path} stays {object}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Waits until there is an event about an object of this kind, with this reason.
    pub(crate) async fn told(&self, kind: &str, reason: &str) {
        let fits = |e: &Value| e["involvedObject"]["kind"] == kind && e["reason"] == reason;
        let told = |l: &Value| l["items"].as_array().unwrap().iter().any(fits);
        self.until("/api/v1/events", told).await;
    }

    /// Waits until an object is gone.
    #[track_caller]
    pub(crate) fn gone<'a>(&'a self, path: &'a str) -> impl Future<Output = ()> + 'a {
        let (at, begin) = (std::panic::Location::caller(), Instant::now());
        async move {
            loop {
                let (status, object) = self.send("GET", path, Value::Null).await;
                if status == 404 {
                    return;
                }
                assert!(begin.elapsed() < PATIENCE, "{at}: {path} stays {object}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
