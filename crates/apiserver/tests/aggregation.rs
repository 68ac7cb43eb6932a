//! Another API server behind this one: found healthy, discovered, and asked in the client's name.

#![allow(clippy::unwrap_used, reason = "a surprise in a test is a panic")]

mod common;

use base64::Engine as _;
use bytes::Bytes;
use common::World;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::sync::Arc;
use wharf_apiserver::user::User;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// A server that lists one resource, and otherwise says what it was asked by whom.
async fn other() -> (u16, String) {
    let made =
        rcgen::generate_simple_self_signed(vec!["metrics.kube-system.svc".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(tls) = acceptor.accept(stream).await else { continue };
            let service = service_fn(|r: Request<hyper::body::Incoming>| async move {
                let texts = |name: &str| -> Vec<String> {
                    let all = r.headers().get_all(name);
                    all.iter().map(|v| v.to_str().unwrap().to_owned()).collect()
                };
                let answer = if r.uri().path() == "/apis/metrics.example.com/v1" {
                    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.example.com/v1", "resources": [
                        {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"]}]})
                } else {
                    json!({"method": r.method().as_str(), "target": r.uri().to_string(), "user": texts("x-remote-user"),
                        "groups": texts("x-remote-group"), "authorization": texts("authorization"), "odd": texts("x-odd")})
                };
                let echo = r.into_body().collect().await.unwrap().to_bytes();
                let mut answer = answer;
                answer["body"] = json!(String::from_utf8_lossy(&echo));
                let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
                response.headers_mut().insert("content-type", "application/json".parse().unwrap());
                Ok::<_, std::convert::Infallible>(response)
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tls), service),
            );
        }
    });
    (port, base64::engine::general_purpose::STANDARD.encode(made.cert.pem()))
}

async fn registered(port: u16, bundle: &str) -> World {
    let w = World::new().await;
    w.create("/api/v1/namespaces/kube-system/services", "apiVersion: v1\nkind: Service\nmetadata: {name: metrics}\nspec: {type: ExternalName, externalName: localhost}\n").await;
    let object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.metrics.example.com"},
        "spec": {"group": "metrics.example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "caBundle": bundle, "service": {"namespace": "kube-system", "name": "metrics", "port": port}}});
    w.create(SERVICES, &object.to_string()).await;
    w
}

#[tokio::test]
async fn requests_are_passed_on_in_the_clients_name() {
    let (port, bundle) = other().await;
    let w = registered(port, &bundle).await;
    let target = "/apis/metrics.example.com/v1/namespaces/default/pods?limit=5";
    assert_eq!(w.get(target).await.status, 503, "nobody has found it healthy yet");
    wharf_apiserver::aggregator::look(&w.server.api).await.unwrap();
    let object = w.get(&format!("{SERVICES}/v1.metrics.example.com")).await.json();
    assert_eq!(object["status"]["conditions"][0]["reason"], "Passed", "{object}");
    let headers = [("x-odd", "1"), ("authorization", "Basic x"), ("x-remote-user", "somebody")];
    let got = w.send(Method::GET, target, &headers, Vec::new(), &World::admin()).await;
    assert_eq!(got.status, 200, "{}", got.text());
    assert_eq!(
        got.json(),
        json!({"method": "GET", "target": "/apis/metrics.example.com/v1/namespaces/default/pods?limit=5", "user": ["kubernetes-admin"],
            "groups": ["system:masters", "system:authenticated"], "authorization": [], "odd": ["1"], "body": ""})
    );
    let posted = w.write(Method::POST, target, "application/json", "{}").await.json();
    assert_eq!((posted["method"].as_str(), posted["body"].as_str()), (Some("POST"), Some("{}")));
    let nobody = User::new("nobody", Vec::new());
    let refused = w.send(Method::GET, target, &[], Vec::new(), &nobody).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
}

#[tokio::test]
async fn what_others_offer_is_discovered() {
    let (port, bundle) = other().await;
    let w = registered(port, &bundle).await;
    wharf_apiserver::aggregator::look(&w.server.api).await.unwrap();
    let groups = w.get("/apis").await.json();
    assert!(
        groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "metrics.example.com")
    );
    assert_eq!(
        w.get("/apis/metrics.example.com").await.json()["preferredVersion"]["version"],
        "v1"
    );
    let accept =
        [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let all = w.send(Method::GET, "/apis", &accept, Vec::new(), &World::admin()).await.json();
    let found = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|g| g["metadata"]["name"] == "metrics.example.com")
        .unwrap();
    assert_eq!(found["versions"][0]["resources"][0]["responseKind"]["kind"], "PodMetrics");
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_condition() {
    let w = registered(1, "").await;
    wharf_apiserver::aggregator::look(&w.server.api).await.unwrap();
    let target = format!("{SERVICES}/v1.metrics.example.com");
    let condition = w.get(&target).await.json()["status"]["conditions"][0].clone();
    assert_eq!(
        (condition["status"].as_str(), condition["reason"].as_str()),
        (Some("False"), Some("FailedDiscoveryCheck"))
    );
    w.delete("/api/v1/namespaces/kube-system/services/metrics").await;
    wharf_apiserver::aggregator::look(&w.server.api).await.unwrap();
    let condition = w.get(&target).await.json()["status"]["conditions"][0].clone();
    assert_eq!(condition["message"], "service/metrics in \"kube-system\" is not present");
    assert_eq!(
        w.get("/apis/metrics.example.com/v1").await.json()["message"],
        "service unavailable"
    );
}

#[tokio::test]
async fn every_group_and_version_has_its_object() {
    let w = World::new().await;
    wharf_apiserver::aggregator::look(&w.server.api).await.unwrap();
    let core = w.get(&format!("{SERVICES}/v1.")).await.json();
    assert_eq!(core["status"]["conditions"][0]["reason"], "Local", "{core}");
    let count = |v: serde_json::Value| v["items"].as_array().unwrap().len();
    let before = count(w.get(SERVICES).await.json());
    w.create(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        include_str!("data/crontab.yaml"),
    )
    .await;
    wharf_apiserver::aggregator::look(&w.server.api).await.unwrap();
    assert_eq!(count(w.get(SERVICES).await.json()), before + 2);
    w.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/crontabs.stable.example.com")
        .await;
    wharf_apiserver::definitions::finish(&w.server.api).await.unwrap();
    wharf_apiserver::aggregator::look(&w.server.api).await.unwrap();
    assert_eq!(count(w.get(SERVICES).await.json()), before);
}

#[tokio::test]
async fn other_servers_can_read_whom_to_trust() {
    let w = World::new().await;
    wharf_apiserver::aggregator::publish(&w.server.api, "clients", "proxy").await.unwrap();
    let target = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let data = w.get(target).await.json()["data"].clone();
    assert_eq!(data["client-ca-file"], "clients");
    assert_eq!(data["requestheader-client-ca-file"], "proxy");
    assert_eq!(data["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    // Authorities that were changed while the server was down are told with its next start.
    wharf_apiserver::aggregator::publish(&w.server.api, "others", "proxy").await.unwrap();
    assert_eq!(w.get(target).await.json()["data"]["client-ca-file"], "others");
}
