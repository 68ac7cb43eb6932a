//! Whether the servers behind this one answer, and what they offer.

use super::{Offer, PREFIX, trust};
use crate::api::{Api, Call, fault, meta};
use crate::bootstrap::as_server;
use crate::reach::{ReachError, exchange, service, whole};
use crate::stored;
use crate::write::Change;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use wharf_etcd::{KeyRange, Range};
use wharf_kube::resources::GroupVersion;
use wharf_kube::status::Fault;

/// How often a server is looked at that nothing happens to, and how long it may take to answer.
const AGAIN: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps the conditions of other servers true until the process ends.
pub async fn run(api: Api) {
    let prefixes = [
        PREFIX,
        "/registry/services/",
        "/registry/endpoints/",
        "/registry/discovery.k8s.io/endpointslices/",
        crate::definitions::PREFIX,
    ];
    let mut wake = crate::loops::bell(&api, prefixes.map(str::to_owned).to_vec());
    loop {
        let remote = match look(&api).await {
            Ok(remote) => remote,
            Err(f) => {
                tracing::warn!(error = %f, "other API servers were not looked at");
                true
            }
        };
        tokio::select! {
            changed = wake.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if remote => (),
        }
    }
}

/// Looks at all. Says whether there is any whose state may change by itself.
pub async fn look(api: &Api) -> Result<bool, Fault> {
    super::listing::register(api).await?;
    let range = Range::new(KeyRange::prefix(PREFIX));
    let reply = api.store.range(range).await.map_err(|e| fault(&e))?;
    let objects: Vec<Value> = reply.kvs.iter().map(stored::decode).collect();
    let mut offers = BTreeMap::new();
    for o in objects.iter().filter(|o| o["spec"]["service"].is_object()) {
        let name = meta(o, "name");
        let condition = match ask(api, o).await {
            Ok(offer) => {
                offers.insert(name.to_owned(), offer);
                ("True", "Passed", "all checks passed".to_owned())
            }
            Err((reason, message)) => ("False", reason, message),
        };
        say(api, o, &condition).await?;
    }
    let any = objects.iter().any(|o| o["spec"]["service"].is_object());
    *api.peers.offers.lock() = offers;
    Ok(any)
}

/// Asks a server what it offers; or else the reason and the sentence that say why it cannot be used.
async fn ask(api: &Api, o: &Value) -> Result<Offer, (&'static str, String)> {
    let spec = &o["spec"];
    let text = |key: &str| spec[key].as_str().unwrap_or_default();
    let s = &spec["service"];
    let place = service(api, s, 443).await.map_err(|e| {
        let (ns, name) =
            (s["namespace"].as_str().unwrap_or_default(), s["name"].as_str().unwrap_or_default());
        match e {
            ReachError::NoService(_) => {
                ("ServiceNotFound", format!("service/{name} in {ns:?} is not present"))
            }
            ReachError::NoPort { port, .. } => (
                "ServicePortError",
                format!("service/{name} in {ns:?} is not listening on port {port}"),
            ),
            ReachError::NoEndpoints(_) => (
                "MissingEndpoints",
                format!("endpoints for service/{name} in {ns:?} have no addresses"),
            ),
            e => ("EndpointsInaccessible", e.to_string()),
        }
    })?;
    let path = format!("/apis/{}/{}", text("group"), text("version"));
    let failed = |why: String| {
        let url = format!("https://{}{path}", place.authority());
        ("FailedDiscoveryCheck", format!("failing or missing response from {url}: {why}"))
    };
    let attempt = async {
        let request = Request::get(&path)
            .header("host", place.authority())
            .header("accept", "application/json")
            .header("x-remote-user", "system:kube-aggregator")
            .header("x-remote-group", "system:masters")
            .body(Full::new(Bytes::new()))
            .map_err(|e| e.to_string())?;
        let trust = trust(api, o).map_err(|e| e.to_string())?;
        let answer = exchange(&place, trust, request).await.map_err(|e| e.to_string())?;
        let (head, body) = whole(answer).await.map_err(|e| e.to_string())?;
        if !head.status.is_success() {
            return Err(format!("bad status from {path}: {}", head.status.as_u16()));
        }
        serde_json::from_slice::<Value>(&body).map_err(|e| e.to_string())
    };
    let list = match tokio::time::timeout(PATIENCE, attempt).await {
        Ok(list) => list.map_err(failed)?,
        Err(_) => return Err(failed("context deadline exceeded".to_owned())),
    };
    let number = |key: &str| spec[key].as_i64().unwrap_or(0);
    Ok(Offer {
        gv: GroupVersion { group: text("group").to_owned(), version: text("version").to_owned() },
        resources: list["resources"].as_array().cloned().unwrap_or_default(),
        priority: (number("groupPriorityMinimum"), number("versionPriority")),
    })
}

/// Writes the condition, unless it says that already.
async fn say(api: &Api, o: &Value, c: &(&str, &str, String)) -> Result<(), Fault> {
    let (status, reason, message) = (c.0, c.1, c.2.as_str());
    let old = o["status"]["conditions"]
        .as_array()
        .and_then(|l| l.iter().find(|c| c["type"] == "Available"));
    if old
        .is_some_and(|o| o["status"] == status && o["reason"] == reason && o["message"] == message)
    {
        return Ok(());
    }
    let since = match old {
        Some(o) if o["status"] == status => o["lastTransitionTime"].clone(),
        _ => json!(api.now()),
    };
    let patch = json!({"status": {"conditions": [{"type": "Available", "status": status,
        "lastTransitionTime": since, "reason": reason, "message": message}]}});
    let kind = super::listing::kind(api)?;
    let outcome = as_server(api, &kind, None, |mut call: Call<'_>| {
        call.name = Some(meta(o, "name"));
        call.subresource = Some("status");
        async move { api.change(&call, &Change::MergePatch(&patch)).await.map(drop) }
    });
    match outcome.await {
        // Gone or changed: the next look sees that.
        Err(f) if !matches!(f.code, 404 | 409) => Err(f),
        _ => Ok(()),
    }
}
