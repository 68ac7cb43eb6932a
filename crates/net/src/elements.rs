//! What networks, published ports and links put into the firewall's sets and maps.

use std::net::IpAddr;

use wharf_sys::nft::{Element, Value, ifname, key};

use crate::firewall::{FAMILIES, Family, Place, Placed};
use crate::network::Network;
use crate::options::GatewayMode;
use crate::spec::{Binding, Driver, Endpoint, Opening, Reach};
use crate::subnet::Subnet;

/// Shorter runs of ports are cheaper as single elements of a hash.
const RANGE_FROM: usize = 16;

/// What a network puts into the sets.
pub(crate) fn of_network(network: &Network) -> Vec<Placed> {
    if network.record.driver != Driver::Bridge {
        return Vec::new();
    }
    let name = ifname(&network.ifname);
    let single = || Element::member(name.to_vec());
    let mut out = vec![(Place::NatBridges, single()), (Place::Bridges, single())];
    if network.options.icc {
        out.push((Place::Same, Element::member(key(&[&name, &name]))));
    }
    if network.record.internal {
        out.push((Place::Internal, single()));
    }
    for host in &network.options.trusted {
        out.push((Place::Trusted, Element::member(key(&[&ifname(host), &name]))));
    }
    for family in FAMILIES {
        let v4 = family == Family::V4;
        let Some(subnet) = network.subnet(v4) else { continue };
        let mode = network.mode(v4);
        let (first, last) = (bytes(subnet.network().addr()), bytes(subnet.last_addr()));
        let pair =
            Element { end: Some(key(&[&last, &name])), ..Element::member(key(&[&first, &name])) };
        out.push((Place::Subnets(family), pair));
        match mode {
            GatewayMode::Routed => out.push((Place::Routed(family), single())),
            GatewayMode::Unprotected => out.push((Place::Unprotected(family), single())),
            GatewayMode::Nat | GatewayMode::Isolated => (),
        }
        let translated = matches!(mode, GatewayMode::Nat | GatewayMode::Unprotected);
        if translated && network.options.masquerade && !network.record.internal {
            out.push(outgoing(network, family, &first, &last));
        }
    }
    out
}

fn outgoing(network: &Network, family: Family, first: &[u8], last: &[u8]) -> Placed {
    let whole = Element { end: Some(last.to_vec()), ..Element::member(first.to_vec()) };
    let source = match family {
        Family::V4 => network.options.source4.map(IpAddr::V4),
        Family::V6 => network.options.source6.map(IpAddr::V6),
    };
    match source {
        None => (Place::Masquerade(family), whole),
        Some(ip) => (Place::Source(family), Element { value: Value::Fields(bytes(ip)), ..whole }),
    }
}

/// What published ports put into the sets. Equal arguments give equal elements, so that what was
/// added can be removed.
pub(crate) fn of_ports(endpoint: &Endpoint, network: &Network, ports: &[Binding]) -> Vec<Placed> {
    let mut sorted: Vec<&Binding> = ports.iter().collect();
    sorted.sort_by_key(|b| (b.reach, b.host_ip, b.proto, b.host));
    let mut out = Vec::new();
    let mut rest = &sorted[..];
    while let Some(first) = rest.first() {
        let run = straight_run(rest);
        let family = Family::of(first.host_ip);
        let container = match family {
            Family::V4 => endpoint.ipv4,
            Family::V6 => endpoint.ipv6,
        };
        let take = if run >= RANGE_FROM { run } else { 1 };
        if let Some(container) = container {
            match first.reach {
                Reach::Nat if take > 1 => out.push(range(first, rest[take - 1].host, container)),
                Reach::Nat => out.push(single(first, container)),
                Reach::Routed if network.mode(family == Family::V4) == GatewayMode::Routed => {
                    out.push(open(first, container));
                }
                Reach::Routed | Reach::Relay => (),
            }
        }
        rest = &rest[take..];
    }
    out.dedup();
    out
}

/// What links put into the sets: where a network keeps neighbours apart, the ports that stay open.
pub(crate) fn of_links(endpoint: &Endpoint, network: &Network) -> Vec<Placed> {
    let Some(from) = endpoint.ipv4.filter(|_| !network.options.icc) else { return Vec::new() };
    let (name, from) = (ifname(&network.ifname), bytes(from.addr()));
    let element = |l: &Opening| {
        let (to, proto, port) = (l.to.octets(), [l.proto.number()], l.port.to_be_bytes());
        (Place::Linked, Element::member(key(&[&name, &from, &to, &proto, &port])))
    };
    endpoint.opened.iter().map(element).collect()
}

/// How many bindings from the first on are consecutive and map each port to itself.
fn straight_run(sorted: &[&Binding]) -> usize {
    let first = sorted[0];
    let like = |(i, b): &(usize, &&Binding)| {
        (b.reach, b.host_ip, b.proto) == (first.reach, first.host_ip, first.proto)
            && usize::from(b.host) == usize::from(first.host) + i
            && b.host == b.container
    };
    sorted.iter().enumerate().take_while(like).count().max(1)
}

fn single(b: &Binding, container: Subnet) -> Placed {
    let value = key(&[&bytes(container.addr()), &b.container.to_be_bytes()]);
    let family = Family::of(b.host_ip);
    let (proto, port) = ([b.proto.number()], b.host.to_be_bytes());
    let (place, key) = if b.host_ip.is_unspecified() {
        (Place::Any(family), key(&[&proto, &port]))
    } else {
        (Place::At(family), key(&[&bytes(b.host_ip), &proto, &port]))
    };
    (place, Element { value: Value::Fields(value), ..Element::member(key) })
}

fn range(first: &Binding, last: u16, container: Subnet) -> Placed {
    let family = Family::of(first.host_ip);
    let proto = [first.proto.number()];
    let (ip, any) = (bytes(first.host_ip), first.host_ip.is_unspecified());
    let at = |port: u16| {
        let port = port.to_be_bytes();
        if any { key(&[&proto, &port]) } else { key(&[&ip, &proto, &port]) }
    };
    let place = if any { Place::AnyRange(family) } else { Place::AtRange(family) };
    let value = Value::Fields(bytes(container.addr()));
    (place, Element { key: at(first.host), end: Some(at(last)), value, timeout: None })
}

fn open(b: &Binding, container: Subnet) -> Placed {
    let ip = bytes(container.addr());
    let key = key(&[&ip, &[b.proto.number()], &b.container.to_be_bytes()]);
    (Place::Open(Family::of(b.host_ip)), Element::member(key))
}

fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}
