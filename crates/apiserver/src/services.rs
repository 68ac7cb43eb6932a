//! Addresses and node ports of services: given out once, taken back when a service goes.

use crate::api::Api;
use crate::kinds::Kind;
use crate::stored;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use wharf_base::sync::Mutex;
use wharf_etcd::{KeyRange, Range};
use wharf_kube::status::{Fault, Problem};

/// The network of cluster addresses: 10.96.0.0/16.
const NETWORK: u32 = u32::from_be_bytes([10, 96, 0, 0]);
const SIZE: u32 = 1 << 16;
/// Addresses below this offset are given only to those who ask for them.
const STATIC: u32 = 256;
/// Ports that services get on every node.
const PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// What is given out. The store's services are the truth; this is read from them at the start.
#[derive(Debug, Default)]
pub struct Allocator {
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    addresses: BTreeSet<u32>,
    ports: BTreeSet<u16>,
}

/// What one write took, so that it can be given back if the write fails.
#[derive(Debug, Default)]
#[must_use]
pub struct Reserved {
    addresses: Vec<u32>,
    ports: Vec<u16>,
}

impl Reserved {
    /// Gives it back.
    pub fn release(self, allocator: &Allocator) {
        let mut used = allocator.used.lock();
        self.addresses.iter().for_each(|a| _ = used.addresses.remove(a));
        self.ports.iter().for_each(|p| _ = used.ports.remove(p));
    }
}

fn is_service(kind: &Kind) -> bool {
    kind.group().is_empty() && kind.resource.plural == "services"
}

impl Allocator {
    /// Reads what the store's services have.
    pub async fn load(&self, api: &Api) -> Result<(), Fault> {
        let range = Range::new(KeyRange::prefix("/registry/services/"));
        let reply = api.store.range(range).await.map_err(|e| crate::api::fault(&e))?;
        let mut used = self.used.lock();
        for kv in &reply.kvs {
            let service = stored::decode(kv);
            used.addresses.extend(addresses(&service));
            used.ports.extend(ports(&service));
        }
        Ok(())
    }

    /// Gives a service what it asks for, and what it needs; `old` is what it replaces.
    pub fn reserve(
        &self,
        kind: &Kind,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reserved, Fault> {
        let mut reserved = Reserved::default();
        if !is_service(kind) {
            return Ok(reserved);
        }
        let outcome = self.give(object, old, &mut reserved);
        match outcome {
            Ok(()) => Ok(reserved),
            Err(problem) => {
                reserved.release(self);
                let name = crate::api::meta(object, "name");
                Err(Fault::invalid("", "Service", name, &[problem]))
            }
        }
    }

    fn give(
        &self,
        object: &mut Value,
        old: Option<&Value>,
        reserved: &mut Reserved,
    ) -> Result<(), Problem> {
        let mut used = self.used.lock();
        let kind = object["spec"]["type"].as_str().unwrap_or_default().to_owned();
        let had: Vec<u32> = old.map(addresses).unwrap_or_default();
        let had_ports: Vec<u16> = old.map(ports).unwrap_or_default();
        let spec = &mut object["spec"];
        if kind == "ExternalName" {
            return Ok(());
        }
        family(spec);
        let address = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
        if address.is_empty() {
            let given = free_address(&used).ok_or_else(|| {
                Problem::invalid(
                    "spec.clusterIPs",
                    &json!([]),
                    "failed to allocate a serviceIP: range is full",
                )
            })?;
            used.addresses.insert(given);
            reserved.addresses.push(given);
            spec["clusterIP"] = json!(Ipv4Addr::from(given).to_string());
        } else if address != "None" {
            let number = number(&address).ok_or_else(|| {
                Problem::invalid(
                    "spec.clusterIPs",
                    &json!([address]),
                    "failed to allocate IP ".to_owned()
                        + &address
                        + ": the provided network does not match the current range",
                )
            })?;
            if !had.contains(&number) {
                if !used.addresses.insert(number) {
                    return Err(Problem::invalid(
                        "spec.clusterIPs",
                        &json!([address]),
                        format!(
                            "failed to allocate IP {address}: provided IP is already allocated"
                        ),
                    ));
                }
                reserved.addresses.push(number);
            }
        }
        spec["clusterIPs"] = json!([spec["clusterIP"]]);
        let node_ports = matches!(kind.as_str(), "NodePort" | "LoadBalancer")
            && spec.get("allocateLoadBalancerNodePorts") != Some(&json!(false));
        for (i, p) in spec["ports"].as_array_mut().into_iter().flatten().enumerate() {
            give_port(&mut used, p, i, node_ports, &had_ports, reserved)?;
        }
        Ok(())
    }

    /// What a change of a service leaves out, it keeps: its address, and the ports of its ports.
    pub fn carry_over(&self, kind: &Kind, object: &mut Value, old: &Value) {
        if !is_service(kind) {
            return;
        }
        let needs = |v: &Value| v["spec"]["type"] != "ExternalName";
        if !needs(object) || !needs(old) {
            return;
        }
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let empty = matches!(object["spec"].get(field), None | Some(Value::Null))
                || object["spec"][field] == json!("");
            if empty
                && let (Some(v), Some(spec)) =
                    (old["spec"].get(field), object["spec"].as_object_mut())
            {
                spec.insert(field.to_owned(), v.clone());
            }
        }
        if object["spec"]["type"] == "ClusterIP" {
            return;
        }
        let before: Vec<Value> = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
        for p in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
            if p["nodePort"].as_u64().unwrap_or(0) == 0 {
                let same = before
                    .iter()
                    .find(|b| b["port"] == p["port"] && b["protocol"] == p["protocol"]);
                if let Some(n) = same.and_then(|b| b.get("nodePort")) {
                    p["nodePort"] = n.clone();
                }
            }
        }
    }

    /// Takes everything back from a service that is gone.
    pub fn forget(&self, kind: &Kind, object: &Value) {
        if is_service(kind) {
            let mut used = self.used.lock();
            addresses(object).iter().for_each(|a| _ = used.addresses.remove(a));
            ports(object).iter().for_each(|p| _ = used.ports.remove(p));
        }
    }

    /// Takes back what a changed service no longer has.
    pub fn drop_replaced(&self, kind: &Kind, old: &Value, new: &Value) {
        if is_service(kind) {
            let mut used = self.used.lock();
            let (a, p) = (addresses(new), ports(new));
            addresses(old)
                .iter()
                .filter(|x| !a.contains(x))
                .for_each(|x| _ = used.addresses.remove(x));
            ports(old).iter().filter(|x| !p.contains(x)).for_each(|x| _ = used.ports.remove(x));
        }
    }
}

fn family(spec: &mut Value) {
    if spec["ipFamilies"].as_array().is_none_or(Vec::is_empty) {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    if spec["ipFamilyPolicy"].as_str().unwrap_or_default().is_empty() {
        spec["ipFamilyPolicy"] = json!("SingleStack");
    }
}

fn give_port(
    used: &mut Used,
    p: &mut Value,
    index: usize,
    wanted: bool,
    had: &[u16],
    reserved: &mut Reserved,
) -> Result<(), Problem> {
    let asked = p["nodePort"].as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    match asked {
        Some(n) if had.contains(&n) || reserved.ports.contains(&n) => Ok(()),
        Some(n) if !PORTS.contains(&n) => Err(Problem::invalid(
            format!("spec.ports[{index}].nodePort"),
            &json!(n),
            "provided port is not in the valid range. The range of valid ports is 30000-32767",
        )),
        Some(n) => {
            if !used.ports.insert(n) {
                return Err(Problem::invalid(
                    format!("spec.ports[{index}].nodePort"),
                    &json!(n),
                    "provided port is already allocated",
                ));
            }
            reserved.ports.push(n);
            Ok(())
        }
        None if wanted => {
            let free = free_port(used).ok_or_else(|| {
                Problem::invalid(
                    format!("spec.ports[{index}].nodePort"),
                    &json!(0),
                    "failed to allocate a nodePort: range is full",
                )
            })?;
            used.ports.insert(free);
            reserved.ports.push(free);
            p["nodePort"] = json!(free);
            Ok(())
        }
        None => Ok(()),
    }
}

fn pick(span: u32) -> u32 {
    let mut b = [0u8; 4];
    crate::random::fill(&mut b);
    u32::from_le_bytes(b) % span
}

/// A free address from the upper band, begun at random so that a deleted one is not soon another's.
fn free_address(used: &Used) -> Option<u32> {
    let span = SIZE - STATIC - 1;
    let start = pick(span);
    (0..span)
        .map(|i| NETWORK + STATIC + (start + i) % span)
        .chain((2..STATIC).map(|i| NETWORK + i))
        .find(|a| !used.addresses.contains(a))
}

fn free_port(used: &Used) -> Option<u16> {
    let span = u32::from(PORTS.end() - PORTS.start()) + 1;
    let start = pick(span);
    (0..span)
        .filter_map(|i| u16::try_from((start + i) % span).ok())
        .map(|i| PORTS.start() + i)
        .find(|p| !used.ports.contains(p))
}

fn number(address: &str) -> Option<u32> {
    let n = u32::from(address.parse::<Ipv4Addr>().ok()?);
    (n > NETWORK && n < NETWORK + SIZE - 1).then_some(n)
}

fn addresses(service: &Value) -> Vec<u32> {
    service["spec"]["clusterIP"].as_str().and_then(number).into_iter().collect()
}

fn ports(service: &Value) -> Vec<u16> {
    let list = service["spec"]["ports"].as_array().into_iter().flatten();
    list.filter_map(|p| p["nodePort"].as_u64().and_then(|n| u16::try_from(n).ok()))
        .filter(|n| *n > 0)
        .collect()
}
