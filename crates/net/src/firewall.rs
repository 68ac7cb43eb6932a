//! The nf_tables rules of wharf: two fixed rulesets, and sets and maps that hold all that changes.
//!
//! Nothing here depends on how many networks, containers or ports there are: a packet meets a dozen
//! rules and a few hash lookups. `wharf-nat` translates, `wharf-filter` keeps apart.
//!
//! Accepting in wharf's chains never overrides anybody else: an accept ends one base chain only, and a
//! drop in any other table still drops. A published port is therefore as open as the host's own forward policy lets it be.

use std::net::IpAddr;

use wharf_sys::nft::{
    Base, ChainKind, Data, Element, Expr, Field, Hook, MetaKey, Payload, Register, Set,
    Transaction, Value, Verdict, ifname, key,
};

use crate::network::Network;
use crate::options::GatewayMode;
use crate::spec::{Binding, Driver, Endpoint, Reach};
use crate::subnet::Subnet;

/// Shorter runs of ports are cheaper as single elements of a hash.
const RANGE_FROM: usize = 16;

/// Names of the tables of one daemon.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    pub(crate) nat: String,
    pub(crate) filter: String,
}

/// An element and where it belongs.
pub(crate) type Placed = (Place, Element);

/// Every set and map, which table it is in, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// nat: (protocol, port) at any local address → container, per family.
    Any(Family),
    /// nat: (address, protocol, port) → container.
    At(Family),
    /// nat: (protocol, port range) at any local address → container address.
    AnyRange(Family),
    /// nat: (address, protocol, port range) → container address.
    AtRange(Family),
    /// nat: subnets to masquerade when they leave.
    Masquerade(Family),
    /// nat: subnets with a source address of their own when they leave.
    Source(Family),
    /// nat: (subnet, bridge) pairs.
    Subnets(Family),
    /// nat: every bridge.
    NatBridges,
    /// filter: every bridge.
    Bridges,
    /// filter: (bridge, same bridge), because a rule cannot compare two names.
    Same,
    /// filter: bridges with no way out.
    Internal,
    /// filter: (host interface, bridge) pairs with free access.
    Trusted,
    /// filter: bridges whose containers answer to ping from outside.
    Routed(Family),
    /// filter: (container, protocol, port) open to routed traffic.
    Open(Family),
    /// filter: bridges whose every port is open to routed traffic.
    Unprotected(Family),
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    pub(crate) fn of(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn number(self) -> u8 {
        match self {
            Family::V4 => 2,
            Family::V6 => 10,
        }
    }

    fn source(self) -> Payload {
        match self {
            Family::V4 => Payload::SourceV4,
            Family::V6 => Payload::SourceV6,
        }
    }

    fn destination(self) -> Payload {
        match self {
            Family::V4 => Payload::DestinationV4,
            Family::V6 => Payload::DestinationV6,
        }
    }

    /// How many registers an address takes.
    fn words(self) -> u32 {
        match self {
            Family::V4 => 1,
            Family::V6 => 4,
        }
    }
}

impl Tables {
    /// For a daemon's instance name, empty for the main one.
    pub(crate) fn new(instance: &str) -> Tables {
        let dash = if instance.is_empty() { "" } else { "-" };
        Tables {
            nat: format!("wharf{dash}{instance}-nat"),
            filter: format!("wharf{dash}{instance}-filter"),
        }
    }

    /// Replaces both tables: whatever was there before, after this there is what is given and nothing else.
    pub(crate) fn install<'a>(
        &self,
        networks: impl Iterator<Item = &'a Network>,
        endpoints: impl Iterator<Item = (&'a Endpoint, &'a Network)>,
    ) -> Transaction {
        let mut t = Transaction::new();
        for table in [&self.nat, &self.filter] {
            t.drop_table(table);
            t.add_table(table);
        }
        for place in places() {
            t.add_set(self.table(place), &set(place));
        }
        nat_rules(&mut t, &self.nat);
        filter_rules(&mut t, &self.filter);
        let mut all: Vec<Placed> = networks.flat_map(of_network).collect();
        all.extend(endpoints.flat_map(|(e, n)| of_ports(e, n, &e.ports)));
        self.add(&mut t, all);
        t
    }

    /// Adds elements.
    pub(crate) fn add(&self, t: &mut Transaction, elements: Vec<Placed>) {
        for (place, group) in grouped(elements) {
            t.add_elements(self.table(place), &set(place), &group);
        }
    }

    /// Removes elements.
    pub(crate) fn remove(&self, t: &mut Transaction, elements: Vec<Placed>) {
        for (place, group) in grouped(elements) {
            t.delete_elements(self.table(place), &set(place), &group);
        }
    }

    /// Whether a table of this name is one of these.
    pub(crate) fn own(&self, table: &str) -> bool {
        table == self.nat || table == self.filter
    }

    fn table(&self, place: Place) -> &str {
        use Place::{
            Any, AnyRange, At, AtRange, Bridges, Internal, Masquerade, NatBridges, Open, Routed,
            Same, Source, Subnets, Trusted, Unprotected,
        };
        match place {
            Any(_) | At(_) | AnyRange(_) | AtRange(_) | Masquerade(_) | Source(_) | Subnets(_)
            | NatBridges => &self.nat,
            Bridges | Same | Internal | Trusted | Routed(_) | Open(_) | Unprotected(_) => {
                &self.filter
            }
        }
    }
}

/// What a network puts into the sets.
pub(crate) fn of_network(network: &Network) -> Vec<Placed> {
    if network.record.driver != Driver::Bridge {
        return Vec::new();
    }
    let name = ifname(&network.ifname);
    let single = || Element::member(name.to_vec());
    let mut out = vec![
        (Place::NatBridges, single()),
        (Place::Bridges, single()),
        (Place::Same, Element::member(key(&[&name, &name]))),
    ];
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

fn grouped(mut elements: Vec<Placed>) -> Vec<(Place, Vec<Element>)> {
    elements.sort_by_key(|(place, _)| *place);
    let mut out: Vec<(Place, Vec<Element>)> = Vec::new();
    for (place, element) in elements {
        match out.last_mut().filter(|(p, _)| *p == place) {
            Some((_, group)) => group.push(element),
            None => out.push((place, vec![element])),
        }
    }
    out
}

fn places() -> Vec<Place> {
    let per_family = [
        Place::Any as fn(Family) -> Place,
        Place::At,
        Place::AnyRange,
        Place::AtRange,
        Place::Masquerade,
        Place::Source,
        Place::Subnets,
        Place::Routed,
        Place::Open,
        Place::Unprotected,
    ];
    let mut all: Vec<Place> =
        per_family.iter().flat_map(|p| FAMILIES.iter().map(|f| p(*f))).collect();
    all.extend([Place::NatBridges, Place::Bridges, Place::Same, Place::Internal, Place::Trusted]);
    all
}

fn set(place: Place) -> Set<'static> {
    use Field::{Ifname, Ipv4, Ipv6, Port, Proto};
    use Place::{
        Any, AnyRange, At, AtRange, Bridges, Internal, Masquerade, NatBridges, Open, Routed, Same,
        Source, Subnets, Trusted, Unprotected,
    };
    let (name, key, data): (_, &'static [Field], &'static [Field]) = match place {
        Any(Family::V4) => ("ports4", &[Proto, Port], &[Ipv4, Port]),
        Any(Family::V6) => ("ports6", &[Proto, Port], &[Ipv6, Port]),
        At(Family::V4) => ("ports4-at", &[Ipv4, Proto, Port], &[Ipv4, Port]),
        At(Family::V6) => ("ports6-at", &[Ipv6, Proto, Port], &[Ipv6, Port]),
        AnyRange(Family::V4) => ("ranges4", &[Proto, Port], &[Ipv4]),
        AnyRange(Family::V6) => ("ranges6", &[Proto, Port], &[Ipv6]),
        AtRange(Family::V4) => ("ranges4-at", &[Ipv4, Proto, Port], &[Ipv4]),
        AtRange(Family::V6) => ("ranges6-at", &[Ipv6, Proto, Port], &[Ipv6]),
        Masquerade(Family::V4) => ("masquerade4", &[Ipv4], &[]),
        Masquerade(Family::V6) => ("masquerade6", &[Ipv6], &[]),
        Source(Family::V4) => ("source4", &[Ipv4], &[Ipv4]),
        Source(Family::V6) => ("source6", &[Ipv6], &[Ipv6]),
        Subnets(Family::V4) => ("subnets4", &[Ipv4, Ifname], &[]),
        Subnets(Family::V6) => ("subnets6", &[Ipv6, Ifname], &[]),
        NatBridges | Bridges => ("bridges", &[Ifname], &[]),
        Same => ("same", &[Ifname, Ifname], &[]),
        Internal => ("internal", &[Ifname], &[]),
        Trusted => ("trusted", &[Ifname, Ifname], &[]),
        Routed(Family::V4) => ("routed4", &[Ifname], &[]),
        Routed(Family::V6) => ("routed6", &[Ifname], &[]),
        Open(Family::V4) => ("open4", &[Ipv4, Proto, Port], &[]),
        Open(Family::V6) => ("open6", &[Ipv6, Proto, Port], &[]),
        Unprotected(Family::V4) => ("unprotected4", &[Ifname], &[]),
        Unprotected(Family::V6) => ("unprotected6", &[Ifname], &[]),
    };
    let interval =
        matches!(place, AnyRange(_) | AtRange(_) | Masquerade(_) | Source(_) | Subnets(_));
    let data = if data.is_empty() { Data::None } else { Data::Fields(data) };
    Set { name, key, data, interval, timeout: false }
}

fn r(n: u32) -> Register {
    Register::at(n)
}

fn family(f: Family) -> [Expr; 2] {
    [Expr::Meta { key: MetaKey::NfProto, into: r(0) }, Expr::equals(r(0), vec![f.number()])]
}

fn member(place: Place, key: Register) -> Expr {
    Expr::Lookup { name: set(place).name.into(), key, invert: false }
}

fn not_member(place: Place, key: Register) -> Expr {
    Expr::Lookup { name: set(place).name.into(), key, invert: true }
}

fn iif() -> Expr {
    Expr::Meta { key: MetaKey::IifName, into: r(0) }
}

fn oif() -> Expr {
    Expr::Meta { key: MetaKey::OifName, into: r(0) }
}

/// Loads (incoming interface, outgoing interface).
fn both() -> [Expr; 2] {
    [iif(), Expr::Meta { key: MetaKey::OifName, into: r(4) }]
}

/// Matches `127.0.0.0/8` or `::1` in a field.
fn loopback(f: Family, what: Payload) -> Vec<Expr> {
    let mut out = family(f).to_vec();
    out.push(Expr::Payload { what, into: r(0) });
    match f {
        Family::V4 => out.extend([
            Expr::Bitwise { register: r(0), mask: vec![255, 0, 0, 0], xor: vec![0; 4] },
            Expr::equals(r(0), vec![127, 0, 0, 0]),
        ]),
        Family::V6 => {
            out.push(Expr::equals(r(0), std::net::Ipv6Addr::LOCALHOST.octets().to_vec()));
        }
    }
    out
}

fn base(kind: ChainKind, hook: Hook, priority: i32) -> Option<Base> {
    Some(Base { kind, hook, priority })
}

fn nat_rules(t: &mut Transaction, table: &str) {
    const DSTNAT: i32 = -100;
    const SRCNAT: i32 = 100;
    t.add_chain(table, "ports", None);
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        t.add_chain(table, name, base(ChainKind::Nat, hook, DSTNAT));
        let guard = if hook == Hook::Prerouting {
            // A neighbour may send us a packet to 127.0.0.1; translation comes before the routing
            // code that would drop it, and would carry it into a container (CVE-2020-8558).
            ("from the wire there is no loopback", loopback(Family::V4, Payload::DestinationV4))
        } else {
            // No route leads from ::1 to a bridge; the daemon relays those.
            ("relayed by the daemon", loopback(Family::V6, Payload::DestinationV6))
        };
        rule(t, (table, name), guard.0, [guard.1, vec![Expr::Verdict(Verdict::Return)]].concat());
        let local = [Expr::fib_local(), Expr::is_local(true)];
        let jump = Expr::Verdict(Verdict::Jump("ports".into()));
        rule(t, (table, name), "to an address of this host", [&local[..], &[jump]].concat());
    }
    for f in FAMILIES {
        for place in [Place::At(f), Place::Any(f), Place::AtRange(f), Place::AnyRange(f)] {
            rule(t, (table, "ports"), "published", translate(f, place));
        }
    }
    t.add_chain(table, "postrouting", base(ChainKind::Nat, Hook::Postrouting, SRCNAT));
    source_rules(t, table);
}

/// Looks the packet up in one of the port maps and sends it to what it finds.
fn translate(f: Family, place: Place) -> Vec<Expr> {
    let mut out = family(f).to_vec();
    let with_address = matches!(place, Place::At(_) | Place::AtRange(_));
    let mut at = 0;
    if with_address {
        out.push(Expr::Payload { what: f.destination(), into: r(0) });
        at = f.words();
    }
    let with_port = matches!(place, Place::At(_) | Place::Any(_));
    let port = with_port.then(|| r(f.words()));
    out.extend([
        Expr::Meta { key: MetaKey::L4Proto, into: r(at) },
        Expr::Payload { what: Payload::DestinationPort, into: r(at + 1) },
        Expr::Map { name: set(place).name.into(), key: r(0), into: r(0) },
        Expr::Dnat { ipv6: f == Family::V6, address: r(0), port },
    ]);
    out
}

fn source_rules(t: &mut Transaction, table: &str) {
    let to_bridge = [oif(), member(Place::NatBridges, r(0))];
    let from_loopback = loopback(Family::V4, Payload::SourceV4);
    let all = [&to_bridge[..], &from_loopback, &[Expr::Masquerade]].concat();
    rule(t, (table, "postrouting"), "host loopback to a published port", all);
    for f in FAMILIES {
        let here = |then: Vec<Expr>, dnat: bool| {
            let mut out = family(f).to_vec();
            if dnat {
                out.extend(Expr::ct_dnat());
            }
            out.push(Expr::Payload { what: f.source(), into: r(0) });
            out.push(Expr::Meta { key: MetaKey::OifName, into: r(f.words()) });
            out.push(member(Place::Subnets(f), r(0)));
            [out, then].concat()
        };
        // Answers must come back through the host to be translated back.
        let back = here(vec![Expr::Masquerade], true);
        rule(t, (table, "postrouting"), "a network to its own published port", back);
        let stay = here(vec![Expr::Verdict(Verdict::Return)], false);
        rule(t, (table, "postrouting"), "within a network", stay);
        let mut source = family(f).to_vec();
        source.extend([
            Expr::Payload { what: f.source(), into: r(0) },
            Expr::Map { name: set(Place::Source(f)).name.into(), key: r(0), into: r(0) },
            Expr::Snat { ipv6: f == Family::V6, address: r(0) },
        ]);
        rule(t, (table, "postrouting"), "out, from a chosen address", source);
        let mut out = family(f).to_vec();
        out.push(Expr::Payload { what: f.source(), into: r(0) });
        out.push(member(Place::Masquerade(f), r(0)));
        out.push(Expr::Masquerade);
        rule(t, (table, "postrouting"), "out", out);
    }
}

fn filter_rules(t: &mut Transaction, table: &str) {
    const RAW: i32 = -300;
    const FILTER: i32 = 0;
    t.add_chain(table, "guard", base(ChainKind::Filter, Hook::Prerouting, RAW));
    for what in [Payload::SourceV4, Payload::DestinationV4] {
        // Bridges accept loopback addresses, so that 127.0.0.1 reaches published ports. What comes
        // from a container must not use that (CVE-2020-8558).
        let from_bridge = [iif(), member(Place::Bridges, r(0))];
        let lo = loopback(Family::V4, what);
        let all = [&from_bridge[..], &lo, &[Expr::Counter, Expr::Verdict(Verdict::Drop)]].concat();
        rule(t, (table, "guard"), "containers may not use host loopback", all);
    }
    t.add_chain(table, "forward", base(ChainKind::Filter, Hook::Forward, FILTER));
    let forward = (table, "forward");
    let accept = || vec![Expr::Verdict(Verdict::Accept)];
    let drop_it = || vec![Expr::Counter, Expr::Verdict(Verdict::Drop)];
    let pair = |place: Place| [&both()[..], &[member(place, r(0))]].concat();
    let from = |place: Place| vec![iif(), member(place, r(0))];
    let to = |place: Place| vec![oif(), member(place, r(0))];
    let known = Expr::ct_established().to_vec();
    rule(t, forward, "known flows", [known, accept()].concat());
    rule(t, forward, "within a network", [pair(Place::Same), accept()].concat());
    rule(t, forward, "internal: no way out", [from(Place::Internal), drop_it()].concat());
    rule(t, forward, "internal: no way in", [to(Place::Internal), drop_it()].concat());
    let elsewhere = vec![oif(), not_member(Place::Bridges, r(0))];
    rule(t, forward, "not to a network", [elsewhere, accept()].concat());
    rule(t, forward, "to a published port", [Expr::ct_dnat().to_vec(), accept()].concat());
    rule(t, forward, "from a trusted interface", [pair(Place::Trusted), accept()].concat());
    for f in FAMILIES {
        rule(t, forward, "open on a routed network", [opened(f), accept()].concat());
        rule(t, forward, "ping on a routed network", [ping(f), accept()].concat());
    }
    rule(t, forward, "networks are apart", [from(Place::Bridges), drop_it()].concat());
    for f in FAMILIES {
        let free = [family(f).to_vec(), to(Place::Unprotected(f)), accept()].concat();
        rule(t, forward, "unprotected network", free);
    }
    rule(t, forward, "not published", drop_it());
}

fn opened(f: Family) -> Vec<Expr> {
    let mut out = family(f).to_vec();
    out.extend([
        Expr::Payload { what: f.destination(), into: r(0) },
        Expr::Meta { key: MetaKey::L4Proto, into: r(f.words()) },
        Expr::Payload { what: Payload::DestinationPort, into: r(f.words() + 1) },
        member(Place::Open(f), r(0)),
    ]);
    out
}

fn ping(f: Family) -> Vec<Expr> {
    let icmp = match f {
        Family::V4 => 1,
        Family::V6 => 58,
    };
    let mut out = family(f).to_vec();
    out.extend([
        Expr::Meta { key: MetaKey::L4Proto, into: r(0) },
        Expr::equals(r(0), vec![icmp]),
        oif(),
        member(Place::Routed(f), r(0)),
    ]);
    out
}

fn rule(t: &mut Transaction, (table, chain): (&str, &str), comment: &str, steps: Vec<Expr>) {
    t.add_rule(table, chain, comment, &steps);
}
