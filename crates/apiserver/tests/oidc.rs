//! Keys of an OpenID Connect issuer: fetched when they are needed, once, and again when there are new ones.

#![allow(clippy::unwrap_used, reason = "a surprise in a test is a panic")]

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use wharf_apiserver::authn::jwt::Keys;
use wharf_apiserver::authn::oidc::{Oidc, Settings};
use wharf_base::sync::Mutex;

fn keys() -> Keys {
    let random = ring::rand::SystemRandom::new();
    let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    Keys::from_der(der.as_ref()).unwrap()
}

/// An issuer on a port of its own: its documents by path, and the paths that were asked for.
struct Issuer {
    url: String,
    roots: rustls::RootCertStore,
    documents: Arc<Mutex<HashMap<String, Value>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Issuer {
    async fn start(keys: &[&Keys]) -> Issuer {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let key = made.signing_key.serialize_der();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.try_into().unwrap())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let issuer = Issuer { url, roots, documents: Arc::default(), asked: Arc::default() };
        issuer.publish(keys);
        let (documents, asked) = (Arc::clone(&issuer.documents), Arc::clone(&issuer.asked));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(tls) = acceptor.accept(stream).await else { continue };
                let (documents, asked) = (Arc::clone(&documents), Arc::clone(&asked));
                let service = service_fn(move |r: Request<hyper::body::Incoming>| {
                    let path = r.uri().path().to_owned();
                    let document = documents.lock().get(&path).cloned();
                    asked.lock().push(path);
                    async move {
                        let status = if document.is_some() { 200 } else { 404 };
                        let body = Full::new(Bytes::from(document.unwrap_or_default().to_string()));
                        Response::builder().status(status).body(body)
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service),
                );
            }
        });
        issuer
    }

    /// What it says of itself, and its keys.
    fn publish(&self, keys: &[&Keys]) {
        let sets = keys.iter().map(|k| k.jwks());
        let all: Vec<Value> = sets.flat_map(|s| s["keys"].as_array().unwrap().clone()).collect();
        let itself = json!({"issuer": self.url, "jwks_uri": format!("{}/keys", self.url)});
        let mut documents = self.documents.lock();
        documents.insert("/.well-known/openid-configuration".to_owned(), itself);
        documents.insert("/keys".to_owned(), json!({ "keys": all }));
    }

    fn trusted(&self) -> Oidc {
        let settings = Settings {
            issuer: self.url.clone(),
            client_id: "wharf".to_owned(),
            username_prefix: Some("-".to_owned()),
            ..Settings::default()
        };
        Oidc::new(settings, self.roots.clone()).unwrap()
    }

    fn token(&self, keys: &Keys) -> String {
        let claims = json!({"iss": self.url, "aud": "wharf", "sub": "bob", "exp": 1000});
        keys.sign(&claims).unwrap()
    }

    /// How often it was asked for its keys.
    fn fetched(&self) -> usize {
        self.asked.lock().iter().filter(|p| *p == "/keys").count()
    }
}

async fn name(oidc: &Oidc, token: &str) -> Option<String> {
    oidc.user(token, 500).await.map(|u| u.name)
}

/// Lets the time go by in which an issuer is not asked again.
async fn later() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn keys_are_fetched_once_for_all_who_come_at_once() {
    let own = keys();
    let issuer = Issuer::start(&[&own]).await;
    let (oidc, token) = (issuer.trusted(), issuer.token(&own));
    // The first fetch is under way when the others come: none of them is turned away.
    let all = futures_util::future::join_all((0..8).map(|_| name(&oidc, &token))).await;
    assert!(all.iter().all(|n| n.as_deref() == Some("bob")), "{all:?}");
    assert_eq!(issuer.fetched(), 1);
    assert_eq!(name(&oidc, &token).await.as_deref(), Some("bob"));
    assert_eq!(issuer.fetched(), 1);
}

#[tokio::test]
async fn new_keys_are_taken_and_old_ones_are_let_go() {
    let (old, new) = (keys(), keys());
    let issuer = Issuer::start(&[&old]).await;
    let oidc = issuer.trusted();
    assert!(name(&oidc, &issuer.token(&old)).await.is_some());
    issuer.publish(&[&new]);
    // Tokens that nobody signed make no storm of questions.
    for _ in 0..5 {
        assert!(name(&oidc, &issuer.token(&new)).await.is_none());
    }
    assert_eq!(issuer.fetched(), 1);
    later().await;
    assert_eq!(name(&oidc, &issuer.token(&new)).await.as_deref(), Some("bob"));
    assert_eq!(issuer.fetched(), 2);
    later().await;
    assert!(name(&oidc, &issuer.token(&old)).await.is_none(), "its key is published no more");
}

#[tokio::test]
async fn an_issuer_that_fails_leaves_what_is_known() {
    let (own, other) = (keys(), keys());
    let issuer = Issuer::start(&[&own]).await;
    let oidc = issuer.trusted();
    assert!(name(&oidc, &issuer.token(&own)).await.is_some());
    issuer.documents.lock().clear();
    later().await;
    assert!(name(&oidc, &issuer.token(&other)).await.is_none());
    assert_eq!(name(&oidc, &issuer.token(&own)).await.as_deref(), Some("bob"));
    issuer.publish(&[&own, &other]);
    later().await;
    assert_eq!(name(&oidc, &issuer.token(&other)).await.as_deref(), Some("bob"));
}

#[tokio::test]
async fn an_issuer_that_says_it_is_another_is_not_believed() {
    let own = keys();
    let issuer = Issuer::start(&[&own]).await;
    let lie =
        json!({"issuer": "https://other.example", "jwks_uri": format!("{}/keys", issuer.url)});
    let path = "/.well-known/openid-configuration".to_owned();
    issuer.documents.lock().insert(path, lie);
    assert!(name(&issuer.trusted(), &issuer.token(&own)).await.is_none());
    assert_eq!(issuer.fetched(), 0);
    // Nor is one whose certificate nobody vouches for.
    issuer.publish(&[&own]);
    let settings = Settings {
        issuer: issuer.url.clone(),
        client_id: "wharf".to_owned(),
        ..Settings::default()
    };
    let strange = Oidc::new(settings, rustls::RootCertStore::empty()).unwrap();
    assert!(name(&strange, &issuer.token(&own)).await.is_none());
}
