//! What a cluster has from its first moment: namespaces, roles, priorities, the API's own service.

mod roles;

use crate::api::{Api, Call};
use crate::kinds::Kind;
use crate::request::Query;
use crate::user::User;
use crate::write::Change;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use wharf_base::sync::Mutex;
use wharf_kube::resources::GroupVersion;
use wharf_kube::status::Fault;
use wharf_kube::yaml;

/// The objects, as documents of one YAML stream.
const OBJECTS: &str = include_str!("bootstrap/objects.yaml");

/// Creates what is missing. What users changed stays changed; roles get back rules that they lost.
pub async fn run(api: &Api, address: SocketAddr) -> Result<(), Fault> {
    let mut objects = roles::all();
    for text in OBJECTS.split("\n---\n") {
        objects.push(yaml::parse(text.as_bytes()).map_err(Fault::internal)?.value);
    }
    // Most at once, so that their writes reach the disk together; namespaces before what is in them.
    let is_namespace = |o: &Value| o["kind"] == "Namespace";
    let (namespaces, objects): (Vec<_>, Vec<_>) = objects.into_iter().partition(is_namespace);
    for outcome in join_all(namespaces.into_iter().map(|o| keep(api, o))).await {
        outcome?;
    }
    for outcome in join_all(objects.into_iter().map(|o| keep(api, o))).await {
        outcome?;
    }
    own(api, address).await?;
    crate::definitions::refresh(api).await
}

/// Creates an object; gives a role or binding back what it lost, unless its owner has forbidden that.
async fn keep(api: &Api, object: Value) -> Result<(), Fault> {
    let kind = find(api, text(&object, "apiVersion"), text(&object, "kind"))?;
    let (ns, name) = (crate::api::meta(&object, "namespace"), crate::api::meta(&object, "name"));
    let Some(found) = api.object(&kind, Some(ns), name).await? else {
        return ensure(api, object).await;
    };
    if kind.group() != "rbac.authorization.k8s.io" {
        return Ok(());
    }
    let mark = &found["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"];
    if mark != "true" || crate::api::is_deleting(&found) {
        return Ok(());
    }
    let field = if object.get("rules").is_some() { "rules" } else { "subjects" };
    let mut list = found[field].as_array().cloned().unwrap_or_default();
    let lost = missing(&list, &object[field]);
    if lost.is_empty() || object.get("aggregationRule").is_some() {
        return Ok(());
    }
    list.extend(lost);
    let patch = json!({field: list});
    as_server(api, &kind, Some(ns), |mut call| {
        call.name = Some(name);
        async move { api.change(&call, &Change::MergePatch(&patch)).await.map(drop) }
    })
    .await
}

/// The entries of `wanted` that `list` lacks, whatever the order of their texts.
fn missing(list: &[Value], wanted: &Value) -> Vec<Value> {
    fn sorted(v: &Value) -> Value {
        match v {
            Value::Array(a) => {
                let mut texts: Vec<String> = a.iter().map(ToString::to_string).collect();
                texts.sort();
                json!(texts)
            }
            Value::Object(o) => o.iter().map(|(k, v)| (k.clone(), sorted(v))).collect(),
            v => v.clone(),
        }
    }
    let has: Vec<Value> = list.iter().map(sorted).collect();
    let wanted = wanted.as_array().into_iter().flatten();
    wanted.filter(|w| !has.contains(&sorted(w))).cloned().collect()
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

/// Creates what is missing of the API's own service.
pub async fn own(api: &Api, address: SocketAddr) -> Result<(), Fault> {
    let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
    for object in own_service(&address.ip().to_string(), family, address.port()) {
        ensure(api, object).await?;
    }
    Ok(())
}

/// The service by which pods reach this server.
fn own_service(ip: &str, family: &str, port: u16) -> Vec<Value> {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    vec![
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
            "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}}),
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"}}, "addressType": family,
            "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}),
    ]
}

/// Creates an object, unless it is there.
pub async fn ensure(api: &Api, object: Value) -> Result<(), Fault> {
    let kind = find(api, text(&object, "apiVersion"), text(&object, "kind"))?;
    let namespace = crate::api::meta(&object, "namespace").to_owned();
    let name = crate::api::meta(&object, "name").to_owned();
    if api.read(&kind.key(Some(&namespace), &name)).await?.is_some() {
        return Ok(());
    }
    let object = kind.normalize(object, &mut Vec::new()).map_err(Fault::internal)?;
    match as_server(
        api,
        &kind,
        Some(&namespace),
        |call| async move { api.create(&call, object).await },
    )
    .await
    {
        Err(f) if f.reason != "AlreadyExists" => Err(f),
        _ => Ok(()),
    }
}

/// The kind of an object by its version and kind.
pub fn find(api: &Api, api_version: &str, kind: &str) -> Result<Arc<Kind>, Fault> {
    let gv = GroupVersion::parse(api_version);
    let all = api.kinds.all();
    let found = all.iter().find(|k| k.resource.gv == gv && k.name() == kind);
    found.cloned().ok_or_else(|| Fault::internal(format!("no kind {kind} in {api_version}")))
}

/// Makes a call in the server's own name.
pub async fn as_server<'a, T, F>(
    _api: &Api,
    kind: &'a Arc<Kind>,
    namespace: Option<&'a str>,
    act: impl FnOnce(OwnCall<'a>) -> F,
) -> Result<T, Fault>
where
    F: Future<Output = Result<T, Fault>>,
{
    static SELF: std::sync::OnceLock<(User, Query)> = std::sync::OnceLock::new();
    let (user, query) = SELF.get_or_init(|| {
        let query = Query { field_manager: "wharf".to_owned(), ..Query::default() };
        (User::server(), query)
    });
    act(Call {
        user,
        kind,
        namespace,
        name: None,
        subresource: None,
        query,
        agent: "wharf",
        inner: false,
        warnings: Mutex::default(),
    })
    .await
}

/// A call that [`as_server`] makes.
pub type OwnCall<'a> = Call<'a>;
