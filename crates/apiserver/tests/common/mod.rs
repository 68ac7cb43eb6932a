//! A server in this process, and requests to it without a network.

#![allow(dead_code, reason = "each test program uses its own part")]

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;
use std::sync::Arc;
use wharf_apiserver::api::Api;
use wharf_apiserver::authn::{Authenticator, jwt::Keys};
use wharf_apiserver::bootstrap;
use wharf_apiserver::respond::Content;
use wharf_apiserver::server::{Incoming, Server};
use wharf_apiserver::user::User;
use wharf_base::clock::Clock;
use wharf_etcd::{Embedded, Settings};

/// A server.
pub(crate) struct World {
    pub(crate) server: Server,
}

/// An answer.
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.headers.get_all("warning").iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    }
}

impl World {
    pub(crate) async fn new() -> World {
        let store = Embedded::in_memory(&Settings::default()).unwrap();
        let api = Api::new(Arc::new(store), Clock::system());
        bootstrap::run(&api, ([127, 0, 0, 1], 6443).into()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let pki = wharf_apiserver::certs::Pki::open(dir.path(), &[]).unwrap();
        let keys = Keys::from_der(&pki.token_key().unwrap()).unwrap();
        let server = Server::new(
            api,
            Authenticator::new(keys, "https://test".to_owned()),
            "127.0.0.1:6443".to_owned(),
        );
        World { server }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
        user: &User,
    ) -> Got {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut all = HeaderMap::new();
        all.insert("user-agent", "test/1.0".parse().unwrap());
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            all.insert(name, value.parse().unwrap());
        }
        let answer = self
            .server
            .handle(Incoming {
                method,
                path: path.to_owned(),
                query: query.to_owned(),
                headers: all,
                body: Bytes::from(body),
                certificate: Some(user.clone()),
                peer: None,
            })
            .await;
        let body = match answer.body {
            Content::Whole(b) | Content::Ended(b) => b.to_vec(),
            Content::Passed(body) => {
                use http_body_util::BodyExt as _;
                body.collect().await.unwrap().to_bytes().to_vec()
            }
            Content::Stream(mut events) => {
                let mut all = Vec::new();
                while let Some(b) = events.next().await {
                    all.extend_from_slice(&b);
                }
                all
            }
        };
        Got { status: answer.status.as_u16(), headers: answer.headers, body }
    }

    pub(crate) fn admin() -> User {
        User::new("kubernetes-admin", vec!["system:masters".to_owned()])
    }

    pub(crate) async fn get(&self, target: &str) -> Got {
        self.send(Method::GET, target, &[], Vec::new(), &World::admin()).await
    }

    /// Sends a document in YAML or JSON; `how` is the media type, or nothing for YAML.
    pub(crate) async fn write(&self, method: Method, target: &str, how: &str, body: &str) -> Got {
        let media = if how.is_empty() { "application/yaml" } else { how };
        let headers = [("content-type", media)];
        self.send(method, target, &headers, body.as_bytes().to_vec(), &World::admin()).await
    }

    #[track_caller]
    pub(crate) fn create<'a>(
        &'a self,
        target: &'a str,
        body: &'a str,
    ) -> impl Future<Output = Value> + 'a {
        let at = std::panic::Location::caller();
        async move {
            let got = self.write(Method::POST, target, "", body).await;
            assert_eq!(got.status, 201, "{at} {target}: {}", got.text());
            got.json()
        }
    }

    pub(crate) async fn merge(&self, target: &str, patch: Value) -> Got {
        self.write(Method::PATCH, target, "application/merge-patch+json", &patch.to_string()).await
    }

    pub(crate) async fn apply(&self, target: &str, body: &str) -> Got {
        self.write(Method::PATCH, target, "application/apply-patch+yaml", body).await
    }

    pub(crate) async fn delete(&self, target: &str) -> Got {
        self.send(Method::DELETE, target, &[], Vec::new(), &World::admin()).await
    }
}
