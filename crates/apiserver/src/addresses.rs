//! Addresses of services as objects: an `IPAddress` is written and deleted with the service that has it, and repaired
//! where somebody changed that.

use crate::api::{Api, fault, meta};
use crate::kinds::Kind;
use crate::{random, stored};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use wharf_etcd::{Compare, Delete, KeyRange, Kv, Op, Put, Range, Txn};
use wharf_kube::resources::GroupVersion;
use wharf_kube::status::Fault;

/// Who says that an address is managed.
const MANAGER: &str = "ipallocator.k8s.io";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
/// Between two repairs: whole collections are read.
const PAUSE: Duration = Duration::from_secs(5);

/// What a write of a service does to its addresses: `old` is what it replaces, `new` what it leaves.
pub(crate) fn ops(api: &Api, kind: &Kind, old: Option<&Value>, new: Option<&Value>) -> Vec<Op> {
    if !kind.group().is_empty() || kind.resource.plural != "services" {
        return Vec::new();
    }
    let Some(own) = address_kind(api) else { return Vec::new() };
    let (had, has) =
        (old.map(addresses).unwrap_or_default(), new.map(addresses).unwrap_or_default());
    let mut out = Vec::new();
    for ip in had.iter().filter(|ip| !has.contains(ip)) {
        out.push(Op::Delete(Delete::new(KeyRange::key(own.key(None, ip).into_bytes()))));
    }
    for ip in has.iter().filter(|ip| !had.contains(ip)) {
        let Some(service) = new else { continue };
        out.push(Op::Put(put(api, &own, ip, meta(service, "namespace"), meta(service, "name"))));
    }
    out
}

fn address_kind(api: &Api) -> Option<Arc<Kind>> {
    api.kinds.find(&GroupVersion::parse("networking.k8s.io/v1"), "ipaddresses")
}

/// The addresses of a service, as they name objects.
fn addresses(service: &Value) -> Vec<String> {
    let all = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    all.filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok()).map(|ip| ip.to_string()).collect()
}

fn put(api: &Api, own: &Kind, ip: &str, namespace: &str, name: &str) -> Put {
    let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
    let object = json!({"kind": own.name(), "apiVersion": own.api_version,
        "metadata": {"name": ip, "uid": random::uid(), "creationTimestamp": api.now(),
            "labels": {MANAGED_BY: MANAGER, FAMILY: family}},
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}}});
    let key = Bytes::from(own.key(None, ip).into_bytes());
    Put::new(key, stored::encode(&own.ordered_hub(object)))
}

/// Gives services back the addresses that they lost as objects, and takes away those of services that are gone, until
/// the process ends.
pub async fn run(api: Api) {
    let Some(own) = address_kind(&api) else { return };
    let mut wake = crate::loops::bell(&api, vec![own.prefix(), "/registry/services/".to_owned()]);
    loop {
        if let Err(f) = repair(&api, &own).await {
            tracing::warn!(error = %f, "addresses of services were not looked after");
        }
        if wake.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
        wake.mark_unchanged();
    }
}

/// Compares both collections once.
pub async fn repair(api: &Api, own: &Kind) -> Result<(), Fault> {
    let read = async |prefix: String| {
        let reply = api.store.range(Range::new(KeyRange::prefix(prefix))).await;
        reply.map_err(|e| fault(&e))
    };
    // In this order: what was given out meanwhile is then wanted and there, and what was taken back is neither.
    let present = read(own.prefix()).await?;
    let services = read("/registry/services/".to_owned()).await?;
    let mut wanted: BTreeMap<String, &Kv> = BTreeMap::new();
    for kv in &services.kvs {
        wanted.extend(addresses(&stored::decode(kv)).into_iter().map(|ip| (ip, kv)));
    }
    for kv in &present.kvs {
        let object = stored::decode(kv);
        let known = wanted.remove(meta(&object, "name")).is_some();
        let managed = object["metadata"]["labels"][MANAGED_BY] == MANAGER;
        if !known && managed {
            let key = Bytes::copy_from_slice(kv.key());
            let gone = Op::Delete(Delete::new(KeyRange::key(key.clone())));
            write(api, vec![Compare::unchanged(key, kv.mod_revision())], gone).await?;
        }
    }
    for (ip, kv) in wanted {
        let service = stored::decode(kv);
        let put = put(api, own, &ip, meta(&service, "namespace"), meta(&service, "name"));
        // Only while the service is what was read: it may have lost the address meanwhile.
        let same = Compare::unchanged(Bytes::copy_from_slice(kv.key()), kv.mod_revision());
        let absent = Compare::absent(put.key.clone());
        write(api, vec![same, absent], Op::Put(put)).await?;
    }
    Ok(())
}

async fn write(api: &Api, when: Vec<Compare>, op: Op) -> Result<(), Fault> {
    let txn = Txn { when, then: vec![op], otherwise: Vec::new() };
    api.store.txn(txn).await.map(drop).map_err(|e| fault(&e))
}
