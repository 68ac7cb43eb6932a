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
    Transaction, Verdict,
};

use crate::elements::{of_links, of_network, of_ports};
use crate::network::Network;
use crate::spec::Endpoint;

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
    /// filter: (bridge, container, linked container, protocol, port) where neighbours are kept apart.
    Linked,
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

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

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
        for (e, n) in endpoints {
            all.extend(of_ports(e, n, &e.ports));
            all.extend(of_links(e, n));
        }
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
            Any, AnyRange, At, AtRange, Bridges, Internal, Linked, Masquerade, NatBridges, Open,
            Routed, Same, Source, Subnets, Trusted, Unprotected,
        };
        match place {
            Any(_) | At(_) | AnyRange(_) | AtRange(_) | Masquerade(_) | Source(_) | Subnets(_)
            | NatBridges => &self.nat,
            Bridges | Same | Linked | Internal | Trusted | Routed(_) | Open(_) | Unprotected(_) => {
                &self.filter
            }
        }
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
    all.extend([Place::NatBridges, Place::Bridges, Place::Same, Place::Linked]);
    all.extend([Place::Internal, Place::Trusted]);
    all
}

fn set(place: Place) -> Set<'static> {
    use Field::{Ifname, Ipv4, Ipv6, Port, Proto};
    use Place::{
        Any, AnyRange, At, AtRange, Bridges, Internal, Linked, Masquerade, NatBridges, Open,
        Routed, Same, Source, Subnets, Trusted, Unprotected,
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
        Linked => ("linked4", &[Ifname, Ipv4, Ipv4, Proto, Port], &[]),
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
        // The address first: every packet of a container passes here, and comparing four bytes costs less than
        // looking a name up.
        let from_bridge = [iif(), member(Place::Bridges, r(0))];
        let lo = loopback(Family::V4, what);
        let all = [&lo[..], &from_bridge, &[Expr::Counter, Expr::Verdict(Verdict::Drop)]].concat();
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
    rule(t, forward, "to a linked neighbour", [linked(), accept()].concat());
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

/// Loads what tells a link, at the bridge where the packet came in. It leaves there, too: the address is on it.
fn linked() -> Vec<Expr> {
    let mut out = family(Family::V4).to_vec();
    out.extend([
        iif(),
        Expr::Payload { what: Payload::SourceV4, into: r(4) },
        Expr::Payload { what: Payload::DestinationV4, into: r(5) },
        Expr::Meta { key: MetaKey::L4Proto, into: r(6) },
        Expr::Payload { what: Payload::DestinationPort, into: r(7) },
        member(Place::Linked, r(0)),
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
