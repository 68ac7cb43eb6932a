//! Autoscalers that go by metrics with names, which another API server behind this one serves.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod cluster;

use base64::Engine as _;
use cluster::Cluster;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wharf_base::sync::Mutex;

/// A server of metrics: its answers by path, and everything that it was asked.
#[derive(Clone, Default)]
struct Metrics {
    values: Arc<Mutex<Vec<(String, Value)>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Metrics {
    /// Serves for ever; gives its port and the certificate to trust.
    async fn start(&self) -> (u16, String) {
        let names = vec!["metrics.kube-system.svc".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
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
        let port = listener.local_addr().unwrap().port();
        let own = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, own) = (acceptor.clone(), own.clone());
                tokio::spawn(async move {
                    let Ok(mut tls) = acceptor.accept(stream).await else { return };
                    let mut head = Vec::new();
                    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                        if tls.read_buf(&mut head).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let answer = own.answer(&String::from_utf8_lossy(&head));
                    _ = tls.write_all(answer.as_bytes()).await;
                    _ = tls.shutdown().await;
                });
            }
        });
        (port, base64::engine::general_purpose::STANDARD.encode(made.cert.pem()))
    }

    fn answer(&self, head: &str) -> String {
        let target = head.split(' ').nth(1).unwrap_or_default();
        self.asked.lock().push(target.to_owned());
        let path = target.split('?').next().unwrap_or_default();
        let values = self.values.lock();
        let found = values.iter().find(|(p, _)| path.ends_with(p.as_str())).map(|(_, v)| v.clone());
        let (status, body) = match found {
            Some(items) => ("200 OK", json!({"kind": "List", "items": items})),
            // What looks whether the server is well asks for the list of its resources.
            None => {
                ("200 OK", json!({"kind": "APIResourceList", "apiVersion": "v1", "resources": []}))
            }
        };
        let body = body.to_string();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn set(&self, path: &str, items: Value) {
        let mut values = self.values.lock();
        values.retain(|(p, _)| p != path);
        values.push((path.to_owned(), items));
    }
}

async fn register(c: &Cluster, metrics: &Metrics) {
    let (port, bundle) = metrics.start().await;
    let service = json!({"metadata": {"name": "metrics"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    c.create("/api/v1/namespaces/kube-system/services", service).await;
    for (group, version) in
        [("custom.metrics.k8s.io", "v1beta2"), ("external.metrics.k8s.io", "v1beta1")]
    {
        let name = format!("{version}.{group}");
        let spec = json!({"group": group, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100,
            "caBundle": bundle, "service": {"namespace": "kube-system", "name": "metrics", "port": port}});
        let all = "/apis/apiregistration.k8s.io/v1/apiservices";
        c.create(all, json!({"metadata": {"name": name}, "spec": spec})).await;
        let available = |o: &Value| {
            let list = o["status"]["conditions"].as_array().cloned().unwrap_or_default();
            list.iter().any(|c| c["type"] == "Available" && c["status"] == "True")
        };
        c.until(&format!("{all}/{name}"), available).await;
    }
}

/// A deployment of two pods that run, and an autoscaler with this metric; gives the autoscaler when it has decided.
async fn scaled(c: &Cluster, name: &str, metric: Value, replicas: u32) -> Value {
    let labels = json!({"app": name});
    let spec = json!({"replicas": 2, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}});
    let deployment = format!("/apis/apps/v1/namespaces/default/deployments/{name}");
    let all = "/apis/apps/v1/namespaces/default/deployments";
    c.create(all, json!({"metadata": {"name": name}, "spec": spec})).await;
    c.until(&deployment, |o| o["status"]["readyReplicas"] == 2).await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": name});
    let spec =
        json!({"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 10, "metrics": [metric]});
    let scalers = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    c.create(scalers, json!({"metadata": {"name": name}, "spec": spec})).await;
    c.until(&deployment, |o| o["spec"]["replicas"] == replicas).await;
    let decided = |o: &Value| o["status"]["desiredReplicas"] == replicas;
    c.until(&format!("{scalers}/{name}"), decided).await
}

#[tokio::test(flavor = "multi_thread")]
async fn autoscalers_go_by_metrics_of_objects_and_from_outside() {
    let settings = wharf_controllers::Settings { fake_nodes: 1, ..Default::default() };
    let c = Cluster::with(settings).await;
    c.until("/api/v1/namespaces/default/serviceaccounts/default", |_| true).await;
    let metrics = Metrics::default();
    let now = "2026-01-01T00:00:00Z";
    metrics
        .set("/ingresses.networking.k8s.io/main/hits", json!([{"value": "30", "timestamp": now}]));
    metrics.set("/namespaces/default/queue", json!([{"value": "7"}, {"value": "5"}]));
    register(&c, &metrics).await;
    let described =
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "main"});
    let hits = json!({"name": "hits", "selector": {"matchLabels": {"verb": "GET"}}});
    let object = json!({"type": "Object", "object": {"metric": hits, "describedObject": described, "target": {"type": "Value", "value": "10"}}});
    let scaler = scaled(&c, "object", object, 6).await;
    let reading = &scaler["status"]["currentMetrics"][0]["object"];
    assert_eq!(
        (&reading["current"], &reading["describedObject"]),
        (&json!({"value": "30"}), &described)
    );
    let external = json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "3"}}});
    let scaler = scaled(&c, "external", external, 4).await;
    let reading = &scaler["status"]["currentMetrics"][0]["external"]["current"];
    assert!(reading["averageValue"].is_string(), "{scaler}");
    let asked = metrics.asked.lock().clone();
    assert!(asked.iter().any(|t| t.contains("metricLabelSelector=verb%3DGET")), "{asked:?}");
    c.told("HorizontalPodAutoscaler", "SuccessfulRescale").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn autoscalers_go_by_metrics_of_pods_and_say_what_is_missing() {
    let settings = wharf_controllers::Settings { fake_nodes: 1, ..Default::default() };
    let c = Cluster::with(settings).await;
    c.until("/api/v1/namespaces/default/serviceaccounts/default", |_| true).await;
    let packets = json!({"type": "Pods", "pods": {"metric": {"name": "packets"}, "target": {"type": "AverageValue", "averageValue": "100"}}});
    let scaler = scaled(&c, "pods", packets, 2).await;
    let active = |o: &Value| {
        let list = o["status"]["conditions"].as_array().cloned().unwrap_or_default();
        list.into_iter().find(|c| c["type"] == "ScalingActive").unwrap_or_default()
    };
    assert_eq!(active(&scaler)["reason"], "FailedGetPodsMetric", "{scaler}");
    let message = active(&scaler)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("nobody serves custom.metrics.k8s.io"), "{message}");
    let (_, list) = c.send("GET", "/api/v1/namespaces/default/pods", Value::Null).await;
    let value = |p: &Value| json!({"describedObject": {"kind": "Pod", "name": p["metadata"]["name"]}, "value": "250", "timestamp": "2026-01-01T00:00:00Z"});
    let values: Vec<Value> = list["items"].as_array().unwrap().iter().map(value).collect();
    let metrics = Metrics::default();
    metrics.set("/pods/*/packets", json!(values));
    register(&c, &metrics).await;
    // The next look comes by itself within fifteen seconds; a changed spec makes it come now.
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/pods";
    c.send("PATCH", path, json!({"spec": {"maxReplicas": 20}})).await;
    c.until("/apis/apps/v1/namespaces/default/deployments/pods", |o| o["spec"]["replicas"] == 5)
        .await;
}
