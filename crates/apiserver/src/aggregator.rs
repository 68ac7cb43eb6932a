//! Other API servers behind this one: which groups they serve, whether they answer, and requests passed on to them.

mod health;
mod listing;

pub use health::{look, run};
pub use listing::{local, merge_discovery, merge_groups};

use crate::api::{Api, fault};
use crate::certs::{CertError, Pki};
use crate::reach::{ReachError, Trust, exchange, service};
use crate::respond::{Answer, Content};
use crate::server::Incoming;
use crate::stored;
use crate::user::User;
use crate::write::Change;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::Full;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use wharf_base::sync::Mutex;
use wharf_etcd::{KeyRange, Range};
use wharf_kube::resources::GroupVersion;
use wharf_kube::status::Fault;

const PREFIX: &str = "/registry/apiregistration.k8s.io/apiservices/";
/// How long another server may take to begin its answer; watches go on after that.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is known of the servers behind this one.
#[derive(Default)]
pub struct Peers {
    identity: Mutex<Option<Identity>>,
    /// What each group and version of theirs offers, as they said it last.
    offers: Mutex<BTreeMap<String, Offer>>,
}

/// The resources of one group and version, and how much it is preferred.
#[derive(Debug, Clone)]
struct Offer {
    gv: GroupVersion,
    /// `APIResource`s.
    resources: Vec<Value>,
    /// Group before version.
    priority: (i64, i64),
}

/// As whom this server speaks to the others.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Peers {
    /// Lets this server show others the certificate by which they believe whom it speaks for.
    pub fn introduce(&self, pki: &Pki) -> Result<(), CertError> {
        let (chain, key) = pki.front_proxy()?;
        *self.identity.lock() = Some(Identity { chain, key });
        Ok(())
    }

    fn identity(&self) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        self.identity.lock().as_ref().map(|i| (i.chain.clone(), i.key.clone_key()))
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peers")
    }
}

/// Tells other servers by which authorities clients, and the proxy that speaks for clients, are known: also when
/// they are others than at the last start.
pub async fn publish(api: &Api, clients: &str, proxy: &str) -> Result<(), Fault> {
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": clients,
            "requestheader-allowed-names": "[\"front-proxy-client\"]",
            "requestheader-client-ca-file": proxy,
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]"}});
    crate::bootstrap::ensure(api, config.clone()).await?;
    let kind = crate::bootstrap::find(api, "v1", "ConfigMap")?;
    let patch = json!({"data": config["data"]});
    crate::bootstrap::as_server(api, &kind, Some("kube-system"), |mut call| {
        call.name = Some("extension-apiserver-authentication");
        async move { api.change(&call, &Change::MergePatch(&patch)).await.map(drop) }
    })
    .await
}

/// The object that says another server has a group and version; nothing where this one has it.
pub async fn find(api: &Api, gv: &GroupVersion) -> Result<Option<Value>, Fault> {
    if gv.group.is_empty() || api.kinds.serves(gv) {
        return Ok(None);
    }
    let key = format!("{PREFIX}{}.{}", gv.version, gv.group);
    let range = Range::new(KeyRange::key(key.into_bytes()));
    let reply = api.store.range(range).await.map_err(|e| fault(&e))?;
    let object = reply.kvs.first().map(stored::decode);
    Ok(object.filter(|o| o["spec"]["service"].is_object()))
}

/// Whether an object says that its server answers.
fn is_available(object: &Value) -> bool {
    let all = object["status"]["conditions"].as_array();
    all.into_iter().flatten().any(|c| c["type"] == "Available" && c["status"] == "True")
}

fn trust(api: &Api, object: &Value) -> Result<Trust, ReachError> {
    let spec = &object["spec"];
    let mut trust = Trust::bundle(&spec["caBundle"])?;
    trust.anybody = spec["insecureSkipTLSVerify"] == Value::Bool(true);
    trust.identity = api.peers.identity();
    Ok(trust)
}

/// Headers that concern one connection only, and those by which a client must not pose as somebody.
fn is_kept(name: &HeaderName) -> bool {
    let name = name.as_str();
    const CUT: [&str; 10] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "authorization",
        "host",
    ];
    !CUT.contains(&name)
        && !name.starts_with("x-remote-")
        && !name.starts_with("impersonate-")
        && name != "content-length"
}

fn speak_for(user: &User, headers: &mut HeaderMap) {
    let mut add = |name: &str, text: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(text)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    user.groups.iter().for_each(|g| add("x-remote-group", g));
    for (key, values) in &user.extra {
        let escaped: String = key
            .bytes()
            .map(|b| match b {
                b if b.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&b) => {
                    char::from(b).to_string()
                }
                b => format!("%{b:02X}"),
            })
            .collect();
        let name = format!("x-remote-extra-{}", escaped.to_ascii_lowercase());
        values.iter().for_each(|v| add(&name, v));
    }
}

/// Passes a request on, and the answer back. Dropping the answer ends the exchange.
pub async fn pass(api: &Api, r: &Incoming, user: &User, object: &Value) -> Result<Answer, Fault> {
    if !is_available(object) {
        return Err(Fault::unavailable("service unavailable"));
    }
    let failed = |e: ReachError| Fault::unavailable(format!("error trying to reach service: {e}"));
    let place = service(api, &object["spec"]["service"], 443).await.map_err(failed)?;
    let query = if r.query.is_empty() { String::new() } else { format!("?{}", r.query) };
    let mut request = Request::new(Full::new(r.body.clone()));
    *request.method_mut() = r.method.clone();
    let target = format!("{}{query}", r.path);
    *request.uri_mut() =
        target.parse().map_err(|_| Fault::bad_request(format!("the path {target:?} is no URI")))?;
    let headers = request.headers_mut();
    for (name, value) in r.headers.iter().filter(|(n, _)| is_kept(n)) {
        headers.append(name.clone(), value.clone());
    }
    if let Ok(host) = HeaderValue::try_from(place.authority()) {
        headers.insert(http::header::HOST, host);
    }
    speak_for(user, headers);
    let attempt = exchange(&place, trust(api, object).map_err(failed)?, request);
    let answer = match tokio::time::timeout(PATIENCE, attempt).await {
        Ok(answer) => answer.map_err(failed)?,
        Err(_) => return Err(failed(ReachError::Late)),
    };
    let (head, body) = answer.into_parts();
    let mut headers = head.headers;
    let cut: Vec<HeaderName> = headers.keys().filter(|n| is_hop(n)).cloned().collect();
    cut.iter().for_each(|n| _ = headers.remove(n));
    Ok(Answer { status: head.status, headers, body: Content::Passed(body) })
}

fn is_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "transfer-encoding" | "upgrade" | "trailer" | "te"
    )
}
