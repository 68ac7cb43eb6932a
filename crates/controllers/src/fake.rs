//! Nodes without a runtime, for tests and runs at scale: they register, keep their leases, and say that the
//! pods which they are given run.

mod status;

use crate::object::{is_deleting, meta, text};
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use status::{End, Place};
use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use wharf_client::resources::{LEASES, NAMESPACES, NODES, PODS};
use wharf_client::{At, Change, Deletion, Write};
use wharf_kube::status::Fault;
use wharf_kube::time;

const PREFIX: &str = "fake-";
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How often a node renews its lease, and for how long that holds (as kubelets do it).
const RENEW: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i64 = 40;
/// How long a pod that is to end runs.
const RUN: Duration = Duration::from_secs(1);
/// Addresses of pods: 10.128.0.0/9, so that there are enough for any run.
const POD_NETWORK: u32 = u32::from_be_bytes([10, 128, 0, 0]);

/// The loop of the nodes; its keys are nodes.
pub struct FakeNodes {
    count: usize,
}

impl FakeNodes {
    /// So many nodes.
    pub fn new(count: usize) -> FakeNodes {
        FakeNodes { count }
    }

    fn number(&self, name: &str) -> Option<usize> {
        name.strip_prefix(PREFIX)?.parse().ok().filter(|n| *n < self.count)
    }
}

impl Loop for FakeNodes {
    fn name(&self) -> &'static str {
        "fake-nodes"
    }

    fn workers(&self) -> usize {
        16
    }

    fn wake(&self, _: &World, change: &Change, _: &Before) -> Vec<Key> {
        let name = meta(&change.object, "name");
        match &*change.resource {
            // Nodes can register as soon as there is a place for their leases.
            r if *r == NAMESPACES && name == LEASE_NAMESPACE && !change.gone => {
                (0..self.count).map(|n| Key::new("", format!("{PREFIX}{n}"))).collect()
            }
            r if *r == NODES && change.gone && self.number(name).is_some() => {
                vec![Key::new("", name)]
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let Some(number) = self.number(&key.name) else { return Ok(Next::Change) };
            let node = cx.acting(&format!("system:node:{}", key.name));
            let uid = match cx.world.get(&NODES, key) {
                Some(known) => meta(&known, "uid").to_owned(),
                None => {
                    let new = registration(&key.name, number, &cx.timestamp());
                    let made = node.create(&NODES, "", new).await?;
                    meta(&made, "uid").to_owned()
                }
            };
            renew(&node, &key.name, &uid).await?;
            Ok(Next::After(RENEW))
        })
    }
}

/// The address of a node by its number.
fn address_of(number: usize) -> Ipv4Addr {
    let first = u32::from_be_bytes([10, 64, 0, 1]);
    Ipv4Addr::from(first.saturating_add(u32::try_from(number).unwrap_or(0)))
}

fn registration(name: &str, number: usize, now: &str) -> Value {
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    let amount = json!({"cpu": "32", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "110"});
    let address = address_of(number);
    json!({
    "apiVersion": "v1", "kind": "Node",
    "metadata": {"name": name, "labels": {
        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64"},
        "annotations": {"node.alpha.kubernetes.io/ttl": "0"}},
    "spec": {"providerID": format!("fake://{name}")},
    "status": {
        "capacity": amount, "allocatable": amount,
        "addresses": [{"type": "InternalIP", "address": address.to_string()}, {"type": "Hostname", "address": name}],
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "a node without a runtime is always ready"),
        ],
        "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux", "kubeletVersion": "v1.36.2",
            "containerRuntimeVersion": "fake://0", "osImage": "none", "kernelVersion": "none",
            "kubeProxyVersion": "", "machineID": name, "systemUUID": name, "bootID": name},
    }})
}

/// Renews the lease of the node, which goes with it.
async fn renew(node: &Context, name: &str, uid: &str) -> Result<(), Fault> {
    let at = At { resource: &LEASES, namespace: LEASE_NAMESPACE, name };
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS,
        "renewTime": time::format_micros(node.now() * 1_000_000)});
    match node.write(at, None, Write::Merge(json!({"spec": spec}))).await {
        Err(f) if f.code == 404 => {
            let owner = json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid});
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec,
                "metadata": {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]}});
            node.create(&LEASES, LEASE_NAMESPACE, lease).await.map(drop)
        }
        other => other.map(drop),
    }
}

/// The loop of the pods on fake nodes; its keys are pods.
#[derive(Default)]
pub struct FakePods {
    address: OnceLock<AtomicU32>,
}

impl Loop for FakePods {
    fn name(&self) -> &'static str {
        "fake-nodes"
    }

    fn workers(&self) -> usize {
        32
    }

    fn wake(&self, _: &World, change: &Change, _: &Before) -> Vec<Key> {
        let ours = *change.resource == PODS
            && !change.gone
            && text(&change.object, "/spec/nodeName").starts_with(PREFIX);
        if ours { vec![Key::of(&change.object)] } else { Vec::new() }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let Some(pod) = cx.world.get(&PODS, key) else { return Ok(Next::Change) };
            let node = cx.acting(&format!("system:node:{}", text(&pod, "/spec/nodeName")));
            let at = At { resource: &PODS, namespace: &key.namespace, name: &key.name };
            if is_deleting(&pod) {
                let uid = Some(meta(&pod, "uid").to_owned());
                node.delete(at, Deletion { uid, grace: Some(0), ..Deletion::default() }).await?;
                return Ok(Next::Change);
            }
            let told = |status: Value| {
                let change = Write::Strategic(json!({"status": status}));
                let node = &node;
                async move { node.write(at, Some("status"), change).await.map(drop) }
            };
            let now = cx.timestamp();
            match text(&pod, "/status/phase") {
                "Pending" | "" => {
                    let host = self.host(&pod);
                    let address = if pod.pointer("/spec/hostNetwork") == Some(&json!(true)) {
                        host.clone()
                    } else {
                        self.next_address(&cx.world)
                    };
                    told(status::running(&pod, &Place { host: &host, address: &address }, &now))
                        .await?;
                    Ok(lasts(&pod).map_or(Next::Change, |(time, _)| Next::After(time)))
                }
                "Running" => {
                    let begun = time::parse_micros(text(&pod, "/status/startTime")).unwrap_or(0);
                    let run = u64::try_from(cx.now() * 1_000_000 - begun).unwrap_or(0);
                    let left = |(time, _): &(Duration, End)| {
                        time.checked_sub(Duration::from_micros(run)).filter(|d| !d.is_zero())
                    };
                    let end = lasts(&pod);
                    if let Some((_, how)) = end.filter(|e| left(e).is_none()) {
                        told(status::ended(&pod, how, &now)).await?;
                        return Ok(Next::Change);
                    }
                    if !status::is_told(&pod) {
                        let of = |path: &str| text(&pod, path).to_owned();
                        let (host, address) = (of("/status/hostIP"), of("/status/podIP"));
                        let place = Place { host: &host, address: &address };
                        told(status::running(&pod, &place, &now)).await?;
                    }
                    Ok(end.as_ref().and_then(left).map_or(Next::Change, Next::After))
                }
                _ => Ok(Next::Change),
            }
        })
    }
}

/// How long a pod runs, and how it ends then, if it ever does by itself.
fn lasts(pod: &Value) -> Option<(Duration, End)> {
    let deadline = pod.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_u64);
    let deadline = deadline.map(Duration::from_secs);
    if text(pod, "/spec/restartPolicy") != "Always" && deadline.is_none_or(|d| d > RUN) {
        return Some((RUN, End::Completed));
    }
    deadline.map(|d| (d, End::Deadline))
}

impl FakePods {
    /// The address of the node that a pod is on.
    fn host(&self, pod: &Value) -> String {
        let number = text(pod, "/spec/nodeName").strip_prefix(PREFIX).and_then(|n| n.parse().ok());
        address_of(number.unwrap_or(0)).to_string()
    }

    /// An address that no pod has had since this process began, nor has from before.
    fn next_address(&self, world: &World) -> String {
        let next = self.address.get_or_init(|| {
            let address = |p: &Value| text(p, "/status/podIP").parse::<Ipv4Addr>().ok();
            let used = world.all(&PODS).into_iter().filter_map(|p| address(&p));
            let most = used.map(u32::from).filter(|n| *n > POD_NETWORK).max();
            AtomicU32::new(most.unwrap_or(POD_NETWORK + 1) + 1)
        });
        Ipv4Addr::from(next.fetch_add(1, Ordering::Relaxed)).to_string()
    }
}
