//! rtnetlink: links, addresses, routes, neighbours and rules.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use super::{
    Attributes, Batch, Family, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL,
    NLM_F_REPLACE, NetlinkError, Received, Socket, attribute, attributes, text, u32_of,
};

/// An interface by index or by name.
#[derive(Clone, Copy, Debug)]
pub enum LinkRef<'a> {
    /// Its index.
    Index(u32),
    /// Its name.
    Name(&'a str),
}

/// An interface to create.
#[derive(Clone, Copy, Debug)]
pub struct NewLink<'a> {
    /// Its name.
    pub name: &'a str,
    /// Ethernet address, or the kernel's choice.
    pub mac: Option<[u8; 6]>,
    /// MTU in bytes, or the kernel's choice.
    pub mtu: Option<u32>,
    /// Index of the bridge that it becomes a port of.
    pub master: Option<u32>,
    /// Namespace in which it appears, instead of the socket's.
    pub ns: Option<BorrowedFd<'a>>,
    /// Whether it is up at once. Not for veths: either half refuses while the other is being made.
    pub up: bool,
    /// Which driver, with its settings.
    pub kind: LinkKind<'a>,
}

/// Drivers of virtual interfaces.
#[derive(Clone, Copy, Debug)]
pub enum LinkKind<'a> {
    /// An Ethernet bridge.
    Bridge,
    /// An interface that drops everything.
    Dummy,
    /// One half of a cable; the other half is `peer`, created by the same request.
    Veth(&'a NewLink<'a>),
    /// The other half of a veth, inside [`LinkKind::Veth`].
    Peer,
    /// A child of interface `parent` with its own MAC address.
    Macvlan {
        /// Index of the parent.
        parent: u32,
        /// How children reach one another.
        mode: MacvlanMode,
    },
    /// A child of interface `parent` with the parent's MAC address.
    Ipvlan {
        /// Index of the parent.
        parent: u32,
        /// On which layer packets find their child.
        mode: IpvlanMode,
        /// How children reach one another.
        flag: IpvlanFlag,
    },
    /// 802.1Q sub-interface of `parent`.
    Vlan {
        /// Index of the parent.
        parent: u32,
        /// VLAN id.
        id: u16,
    },
    /// Ethernet over UDP.
    Vxlan {
        /// Network identifier.
        vni: u32,
        /// UDP port.
        port: u16,
        /// Source address of the outer packets.
        local: IpAddr,
        /// Index of the interface that carries it.
        parent: Option<u32>,
        /// Learn peers from traffic.
        learning: bool,
    },
}

/// How children of one macvlan parent reach one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Not at all.
    Private = 1,
    /// Through the switch outside.
    Vepa = 2,
    /// Directly.
    Bridge = 4,
    /// There is one child only, which takes the parent over.
    Passthru = 8,
}

/// On which layer packets find the children of an ipvlan parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpvlanMode {
    /// Children answer to ARP.
    L2 = 0,
    /// The parent routes; nothing is broadcast.
    L3 = 1,
    /// As [`IpvlanMode::L3`], and packets pass the host's firewall.
    L3s = 2,
}

/// How children of one ipvlan parent reach one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpvlanFlag {
    /// Directly.
    Bridge = 0,
    /// Not at all.
    Private = 1,
    /// Through the switch outside.
    Vepa = 2,
}

/// Changes of an interface; `None` leaves a thing as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkChange<'a> {
    /// Up or down.
    pub up: Option<bool>,
    /// The bridge; 0 for none.
    pub master: Option<u32>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// New name; the interface must be down.
    pub rename: Option<&'a str>,
    /// Namespace to move to.
    pub ns: Option<BorrowedFd<'a>>,
    /// Let the kernel make IPv6 link-local addresses.
    pub ipv6_autoconf: Option<bool>,
    /// Settings as a bridge port.
    pub port: Option<BridgePort>,
    /// Free text, by which its owner recognises it.
    pub alias: Option<&'a str>,
}

/// Settings of a port of a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgePort {
    /// Frames may leave where they came in.
    pub hairpin: bool,
    /// No frames between this port and other isolated ports.
    pub isolated: bool,
}

/// An interface as the kernel lists it.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Driver, such as `veth`; empty for hardware.
    pub kind: String,
    /// Administratively up.
    pub up: bool,
    /// Loopback.
    pub loopback: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Index of its bridge, or 0.
    pub master: u32,
    /// Index of the parent or of the other half, or 0.
    pub parent: u32,
    /// Free text that somebody gave it.
    pub alias: String,
    /// Counters.
    pub counters: Counters,
}

/// Counters of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's own names")]
pub struct Counters {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the interface.
    pub link: u32,
    /// The address.
    pub ip: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// `RT_SCOPE_*`: 0 global, 253 link, 254 host.
    pub scope: u8,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination, with prefix length 0 for the default route.
    pub to: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Next hop.
    pub via: Option<IpAddr>,
    /// Index of the interface.
    pub link: Option<u32>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Lower is better; `None` is the kernel's default.
    pub metric: Option<u32>,
    /// Routing table; 254 is the main one.
    pub table: u32,
    /// 1 unicast, 2 local, 6 blackhole, 7 unreachable.
    pub kind: u8,
}

/// A neighbour (ARP, ND) or, with `bridge`, a forwarding entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the interface.
    pub link: u32,
    /// Its network address; for a forwarding entry of a vxlan, the far end.
    pub ip: Option<IpAddr>,
    /// Its Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// A forwarding entry of the interface itself rather than a neighbour.
    pub bridge: bool,
}

/// A routing policy rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// Lower is earlier.
    pub priority: u32,
    /// Table looked up when it matches.
    pub table: u32,
    /// Firewall mark with its mask.
    pub mark: Option<(u32, u32)>,
    /// Source with prefix length.
    pub from: Option<(IpAddr, u8)>,
}

/// The main routing table.
pub const MAIN_TABLE: u32 = 254;

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;
const NEWNEIGH: u16 = 28;
const DELNEIGH: u16 = 29;
const GETNEIGH: u16 = 30;
const NEWRULE: u16 = 32;
const DELRULE: u16 = 33;
const GETRULE: u16 = 34;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_IFALIAS: u16 = 20;
const IFLA_STATS64: u16 = 23;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;

const CREATE: u16 = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

impl Batch {
    /// Creates an interface.
    pub fn add_link(&mut self, link: &NewLink<'_>) {
        let action = format!("create interface {}", link.name);
        let head = link_head(0, Some(link.up).filter(|u| *u));
        self.message(action, (NEWLINK, CREATE), &head, |a| link_attributes(a, link));
    }

    /// Changes an interface.
    pub fn change_link(&mut self, link: LinkRef<'_>, change: &LinkChange<'_>) {
        let (index, action) = named(link, "configure");
        // Only NEWLINK looks at the settings of a bridge port; without CREATE it changes and never creates.
        let kind = if change.port.is_some() { NEWLINK } else { SETLINK };
        self.message(action, (kind, NLM_F_ACK), &link_head(index, change.up), |a| {
            change_attributes(a, link, change);
        });
    }

    /// Sets the free text of an interface, by which its owner recognises it.
    pub fn set_alias(&mut self, link: LinkRef<'_>, alias: &str) {
        let (index, action) = named(link, "label");
        self.message(action, (SETLINK, NLM_F_ACK), &link_head(index, None), |a| {
            reference(a, link);
            a.bytes(IFLA_IFALIAS, alias.as_bytes());
        });
    }

    /// Deletes an interface.
    pub fn delete_link(&mut self, link: LinkRef<'_>) {
        let (index, action) = named(link, "delete");
        self.message(action, (DELLINK, NLM_F_ACK), &link_head(index, None), |a| reference(a, link));
    }

    /// Adds an address. IPv6 addresses skip duplicate detection, which would delay their use by a second.
    pub fn add_address(&mut self, address: &Address) {
        self.address(address, (NEWADDR, CREATE), "add");
    }

    /// Removes an address.
    pub fn delete_address(&mut self, address: &Address) {
        self.address(address, (DELADDR, NLM_F_ACK), "remove");
    }

    fn address(&mut self, address: &Address, kind: (u16, u16), verb: &str) {
        const NODAD: u8 = 0x02;
        let Address { link, ip, prefix, scope } = *address;
        let [a, b, c, d] = link.to_ne_bytes();
        let flags = if ip.is_ipv6() { NODAD } else { 0 };
        let head = [family(ip), prefix, flags, scope, a, b, c, d];
        self.message(format!("{verb} address {ip}/{prefix}"), kind, &head, |at| {
            put_ip(at, 2, ip);
            put_ip(at, 1, ip);
            if let (IpAddr::V4(v4), 0..=30) = (ip, prefix) {
                let broadcast = v4.to_bits() | (u32::MAX >> prefix);
                at.be32(4, broadcast);
            }
        });
    }

    /// Adds a route; an equal one is an error.
    pub fn add_route(&mut self, route: &Route) {
        self.route(route, (NEWROUTE, CREATE), "add");
    }

    /// Sets a route, whatever was there for the same destination and metric.
    pub fn replace_route(&mut self, route: &Route) {
        self.route(route, (NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE), "set");
    }

    /// Removes a route.
    pub fn delete_route(&mut self, route: &Route) {
        self.route(route, (DELROUTE, NLM_F_ACK), "remove");
    }

    fn route(&mut self, route: &Route, kind: (u16, u16), verb: &str) {
        const BOOT: u8 = 3;
        const SCOPE_LINK: u8 = 253;
        let scope = if route.via.is_none() && route.to.is_ipv4() { SCOPE_LINK } else { 0 };
        let table = u8::try_from(route.table).unwrap_or(0);
        let head =
            [family(route.to), route.prefix, 0, 0, table, BOOT, scope, route.kind, 0, 0, 0, 0];
        let action = format!("{verb} route to {}/{}", route.to, route.prefix);
        self.message(action, kind, &head, |a| {
            if route.prefix > 0 {
                put_ip(a, 1, route.to);
            }
            if let Some(link) = route.link {
                a.u32(4, link);
            }
            if let Some(via) = route.via {
                put_ip(a, 5, via);
            }
            if let Some(metric) = route.metric {
                a.u32(6, metric);
            }
            if let Some(source) = route.source {
                put_ip(a, 7, source);
            }
            a.u32(15, route.table);
        });
    }

    /// Sets a permanent neighbour or appends a forwarding entry.
    pub fn add_neighbour(&mut self, n: &Neighbour) {
        let flags = if n.bridge { NLM_F_APPEND } else { NLM_F_REPLACE };
        self.neighbour(n, (NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | flags), "add");
    }

    /// Removes a neighbour or a forwarding entry.
    pub fn delete_neighbour(&mut self, n: &Neighbour) {
        self.neighbour(n, (DELNEIGH, NLM_F_ACK), "remove");
    }

    fn neighbour(&mut self, n: &Neighbour, kind: (u16, u16), verb: &str) {
        const PERMANENT: u8 = 0x80;
        const OWN: u8 = 0x02;
        let family = match (n.bridge, n.ip) {
            (false, Some(ip)) => family(ip),
            _ => u8::try_from(libc::AF_BRIDGE).unwrap_or(0),
        };
        let [a, b, c, d] = n.link.to_ne_bytes();
        let flags = if n.bridge { OWN } else { 0 };
        let head = [family, 0, 0, 0, a, b, c, d, PERMANENT, 0, flags, 0];
        self.message(format!("{verb} neighbour on interface {}", n.link), kind, &head, |at| {
            if let Some(ip) = n.ip {
                put_ip(at, 1, ip);
            }
            if let Some(mac) = n.mac {
                at.bytes(2, &mac);
            }
        });
    }

    /// Adds a routing policy rule.
    pub fn add_rule(&mut self, rule: &Rule) {
        self.rule(rule, (NEWRULE, CREATE), "add");
    }

    /// Removes a routing policy rule.
    pub fn delete_rule(&mut self, rule: &Rule) {
        self.rule(rule, (DELRULE, NLM_F_ACK), "remove");
    }

    fn rule(&mut self, rule: &Rule, kind: (u16, u16), verb: &str) {
        const TO_TABLE: u8 = 1;
        let family = if rule.ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        let from = rule.from.map_or(0, |(_, prefix)| prefix);
        let table = u8::try_from(rule.table).unwrap_or(0);
        let family = u8::try_from(family).unwrap_or(0);
        let head = [family, 0, from, 0, table, 0, 0, TO_TABLE, 0, 0, 0, 0];
        self.message(format!("{verb} routing rule {}", rule.priority), kind, &head, |a| {
            a.u32(6, rule.priority);
            a.u32(15, rule.table);
            if let Some((mark, mask)) = rule.mark {
                a.u32(10, mark);
                a.u32(16, mask);
            }
            if let Some((ip, _)) = rule.from {
                put_ip(a, 2, ip);
            }
        });
    }
}

/// Opens a socket on which changes of interfaces arrive.
pub fn subscribe() -> io::Result<Socket> {
    const LINKS: u32 = 1;
    Socket::subscribe(Family::Route, &[LINKS])
}

impl Socket {
    /// On a [`subscribe`]d socket: waits until nobody sees the interface of that index any more. False if
    /// nothing at all happens for as long as `patience`.
    pub fn wait_for_end(&mut self, index: u32, patience: Duration) -> io::Result<bool> {
        // Bridges report a port that leaves as a deletion as well, in their own family.
        let gone = |m: &Received| {
            let own = m.body.first() == Some(&0);
            own && m.kind == DELLINK && m.body.get(4..8).and_then(u32_of) == Some(index)
        };
        while self.readable_within(patience)? {
            if self.receive()?.iter().any(gone) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Every interface.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let answer = self.dump("list interfaces", GETLINK, &link_head(0, None))?;
        Ok(answer.iter().filter_map(|m| parse_link(&m.body)).collect())
    }

    /// One interface, if it exists.
    pub fn link(&mut self, link: LinkRef<'_>) -> Result<Option<Link>, NetlinkError> {
        let (index, action) = named(link, "look up");
        let mut batch = Batch::new();
        batch
            .message(action, (GETLINK, NLM_F_ACK), &link_head(index, None), |a| reference(a, link));
        match self.query(&batch) {
            Ok(answer) => Ok(answer.iter().find_map(|m| parse_link(&m.body))),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Every address.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let answer = self.dump("list addresses", GETADDR, &[0; 8])?;
        Ok(answer.iter().filter_map(|m| parse_address(&m.body)).collect())
    }

    /// Every route of every table.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let answer = self.dump("list routes", GETROUTE, &[0; 12])?;
        Ok(answer.iter().filter_map(|m| parse_route(&m.body)).collect())
    }

    /// Every neighbour, or with `bridge` every forwarding entry.
    pub fn neighbours(&mut self, bridge: bool) -> Result<Vec<Neighbour>, NetlinkError> {
        let mut head = [0u8; 12];
        if bridge {
            head[0] = u8::try_from(libc::AF_BRIDGE).unwrap_or(0);
        }
        let answer = self.dump("list neighbours", GETNEIGH, &head)?;
        Ok(answer.iter().filter_map(|m| parse_neighbour(&m.body)).collect())
    }

    /// Every routing policy rule.
    pub fn rules(&mut self) -> Result<Vec<Rule>, NetlinkError> {
        let answer = self.dump("list routing rules", GETRULE, &[0; 12])?;
        Ok(answer.iter().filter_map(|m| parse_rule(&m.body)).collect())
    }

    fn dump(
        &mut self,
        action: &str,
        kind: u16,
        head: &[u8],
    ) -> Result<Vec<Received>, NetlinkError> {
        let mut batch = Batch::new();
        batch.message(action, (kind, NLM_F_DUMP), head, |_| ());
        self.query(&batch)
    }
}

fn link_head(index: u32, up: Option<bool>) -> [u8; 16] {
    const UP: u32 = 1;
    let mut head = [0u8; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    if let Some(up) = up {
        head[8..12].copy_from_slice(&(if up { UP } else { 0 }).to_ne_bytes());
        head[12..16].copy_from_slice(&UP.to_ne_bytes());
    }
    head
}

fn named(link: LinkRef<'_>, verb: &str) -> (u32, String) {
    match link {
        LinkRef::Index(i) => (i, format!("{verb} interface {i}")),
        LinkRef::Name(n) => (0, format!("{verb} interface {n}")),
    }
}

fn reference(a: &mut Attributes<'_>, link: LinkRef<'_>) {
    if let LinkRef::Name(name) = link {
        a.str(IFLA_IFNAME, name);
    }
}

fn link_attributes(a: &mut Attributes<'_>, link: &NewLink<'_>) {
    a.str(IFLA_IFNAME, link.name);
    if let Some(mac) = link.mac {
        a.bytes(IFLA_ADDRESS, &mac);
    }
    if let Some(mtu) = link.mtu {
        a.u32(IFLA_MTU, mtu);
    }
    if let Some(master) = link.master {
        a.u32(IFLA_MASTER, master);
    }
    if let Some(ns) = link.ns {
        a.u32(IFLA_NET_NS_FD, ns.as_raw_fd().cast_unsigned());
    }
    match link.kind {
        LinkKind::Macvlan { parent, .. }
        | LinkKind::Ipvlan { parent, .. }
        | LinkKind::Vlan { parent, .. } => a.u32(IFLA_LINK, parent),
        // The kernel would make a queue for each processor and switch off all but one, and wait for a grace period of RCU
        // on each half to do so.
        LinkKind::Veth(_) | LinkKind::Peer => {
            a.u32(IFLA_NUM_TX_QUEUES, 1);
            a.u32(IFLA_NUM_RX_QUEUES, 1);
        }
        _ => (),
    }
    let Some(name) = kind_name(link.kind) else { return };
    a.nest(IFLA_LINKINFO, |info| {
        info.str(INFO_KIND, name);
        info.nest(INFO_DATA, |data| kind_attributes(data, link.kind));
    });
}

fn kind_name(kind: LinkKind<'_>) -> Option<&'static str> {
    match kind {
        LinkKind::Bridge => Some("bridge"),
        LinkKind::Dummy => Some("dummy"),
        LinkKind::Veth(_) => Some("veth"),
        LinkKind::Macvlan { .. } => Some("macvlan"),
        LinkKind::Ipvlan { .. } => Some("ipvlan"),
        LinkKind::Vlan { .. } => Some("vlan"),
        LinkKind::Vxlan { .. } => Some("vxlan"),
        LinkKind::Peer => None,
    }
}

fn kind_attributes(data: &mut Attributes<'_>, kind: LinkKind<'_>) {
    match kind {
        LinkKind::Bridge | LinkKind::Dummy | LinkKind::Peer => (),
        LinkKind::Veth(peer) => {
            let head = link_head(0, Some(peer.up).filter(|u| *u));
            data.flat_nest(1 | 0x8000, &head, |p| link_attributes(p, peer));
        }
        LinkKind::Macvlan { mode, .. } => data.u32(1, mode as u32),
        LinkKind::Ipvlan { mode, flag, .. } => {
            data.u16(1, mode as u16);
            data.u16(2, flag as u16);
        }
        LinkKind::Vlan { id, .. } => data.u16(1, id),
        LinkKind::Vxlan { vni, port, local, parent, learning } => {
            data.u32(1, vni);
            if let Some(parent) = parent {
                data.u32(3, parent);
            }
            put_ip(data, if local.is_ipv4() { 4 } else { 17 }, local);
            data.u8(7, learning.into());
            data.bytes(15, &port.to_be_bytes());
        }
    }
}

fn change_attributes(a: &mut Attributes<'_>, link: LinkRef<'_>, change: &LinkChange<'_>) {
    const AF_SPEC_INET6: u16 = 10;
    const ADDR_GEN_MODE: u16 = 8;
    match (link, change.rename) {
        (LinkRef::Index(_), Some(new)) => a.str(IFLA_IFNAME, new),
        _ => reference(a, link),
    }
    if let Some(mac) = change.mac {
        a.bytes(IFLA_ADDRESS, &mac);
    }
    if let Some(mtu) = change.mtu {
        a.u32(IFLA_MTU, mtu);
    }
    if let Some(alias) = change.alias {
        a.bytes(IFLA_IFALIAS, alias.as_bytes());
    }
    if let Some(master) = change.master {
        a.u32(IFLA_MASTER, master);
    }
    if let Some(ns) = change.ns {
        a.u32(IFLA_NET_NS_FD, ns.as_raw_fd().cast_unsigned());
    }
    if let Some(on) = change.ipv6_autoconf {
        a.nest(IFLA_AF_SPEC, |f| {
            f.nest(AF_SPEC_INET6, |i| i.u8(ADDR_GEN_MODE, (!on).into()));
        });
    }
    if let Some(port) = change.port {
        a.nest(IFLA_LINKINFO, |info| {
            info.str(INFO_SLAVE_KIND, "bridge");
            info.nest(INFO_SLAVE_DATA, |data| {
                data.u8(4, port.hairpin.into());
                data.u8(33, port.isolated.into());
            });
        });
    }
}

fn family(ip: IpAddr) -> u8 {
    u8::try_from(if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or(0)
}

fn put_ip(a: &mut Attributes<'_>, kind: u16, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => a.bytes(kind, &v4.octets()),
        IpAddr::V6(v6) => a.bytes(kind, &v6.octets()),
    }
}

fn ip_of(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}

fn parse_link(body: &[u8]) -> Option<Link> {
    const UP: u32 = 1;
    const LOOPBACK: u32 = 8;
    let index = u32_of(body.get(4..8)?)?;
    let flags = u32_of(body.get(8..12)?)?;
    let mut link =
        Link { index, up: flags & UP != 0, loopback: flags & LOOPBACK != 0, ..Link::default() };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_MTU => link.mtu = u32_of(value)?,
            IFLA_LINK => link.parent = u32_of(value)?,
            IFLA_MASTER => link.master = u32_of(value)?,
            IFLA_IFALIAS => link.alias = text(value),
            IFLA_LINKINFO => link.kind = attribute(value, INFO_KIND).map(text).unwrap_or_default(),
            IFLA_STATS64 => link.counters = parse_counters(value)?,
            _ => (),
        }
    }
    Some(link)
}

fn parse_counters(value: &[u8]) -> Option<Counters> {
    let at = |i: usize| value.get(i * 8..i * 8 + 8)?.try_into().ok().map(u64::from_ne_bytes);
    Some(Counters {
        rx_packets: at(0)?,
        tx_packets: at(1)?,
        rx_bytes: at(2)?,
        tx_bytes: at(3)?,
        rx_errors: at(4)?,
        tx_errors: at(5)?,
        rx_dropped: at(6)?,
        tx_dropped: at(7)?,
    })
}

fn parse_address(body: &[u8]) -> Option<Address> {
    let link = u32_of(body.get(4..8)?)?;
    let rest = body.get(8..)?;
    // On a point-to-point link attribute 1 is the far end; attribute 2 is always the near one.
    let ip = attribute(rest, 2).or_else(|| attribute(rest, 1)).and_then(ip_of)?;
    Some(Address { link, ip, prefix: body[1], scope: body[3] })
}

fn parse_route(body: &[u8]) -> Option<Route> {
    let [family, prefix, _, _, table, _, _, kind] = *body.first_chunk::<8>()?;
    let any = match i32::from(family) {
        libc::AF_INET => IpAddr::from([0u8; 4]),
        libc::AF_INET6 => IpAddr::from([0u8; 16]),
        _ => return None,
    };
    let mut route = Route {
        to: any,
        prefix,
        via: None,
        link: None,
        source: None,
        metric: None,
        table: table.into(),
        kind,
    };
    for (attr, value) in attributes(body.get(12..)?) {
        match attr {
            1 => route.to = ip_of(value)?,
            4 => route.link = u32_of(value),
            5 => route.via = ip_of(value),
            6 => route.metric = u32_of(value),
            7 => route.source = ip_of(value),
            15 => route.table = u32_of(value)?,
            _ => (),
        }
    }
    Some(route)
}

fn parse_neighbour(body: &[u8]) -> Option<Neighbour> {
    let bridge = i32::from(*body.first()?) == libc::AF_BRIDGE;
    let link = u32_of(body.get(4..8)?)?;
    let rest = body.get(12..)?;
    let ip = attribute(rest, 1).and_then(ip_of);
    let mac = attribute(rest, 2).and_then(|m| m.try_into().ok());
    Some(Neighbour { link, ip, mac, bridge })
}

fn parse_rule(body: &[u8]) -> Option<Rule> {
    let ipv6 = i32::from(*body.first()?) == libc::AF_INET6;
    let rest = body.get(12..)?;
    let word = |kind| attribute(rest, kind).and_then(u32_of);
    Some(Rule {
        ipv6,
        priority: word(6).unwrap_or(0),
        table: word(15).unwrap_or(body[4].into()),
        mark: word(10).map(|m| (m, word(16).unwrap_or(u32::MAX))),
        from: attribute(rest, 2).and_then(ip_of).map(|ip| (ip, body[2])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Family, netns};
    use std::os::fd::AsFd as _;

    fn in_new_netns(f: impl FnOnce() + Send + 'static) {
        std::thread::spawn(|| {
            netns::unshare().unwrap();
            f();
        })
        .join()
        .unwrap();
    }

    fn new<'a>(name: &'a str, kind: LinkKind<'a>) -> NewLink<'a> {
        NewLink { name, mac: None, mtu: None, master: None, ns: None, up: false, kind }
    }

    fn v4_route(to: [u8; 4], prefix: u8, via: [u8; 4]) -> Route {
        Route {
            to: to.into(),
            prefix,
            via: Some(via.into()),
            link: None,
            source: None,
            metric: None,
            table: MAIN_TABLE,
            kind: 1,
        }
    }

    #[test]
    fn bridge_veth_address_and_route_appear_as_asked() {
        in_new_netns(|| {
            let mut home = Socket::open(Family::Route).unwrap();
            let far = std::thread::spawn(|| {
                netns::unshare().unwrap();
                (netns::current().unwrap(), Socket::open(Family::Route).unwrap())
            });
            let (ns, mut inside) = far.join().unwrap();
            let mut b = Batch::new();
            b.add_link(&NewLink { up: true, mtu: Some(1400), ..new("br0", LinkKind::Bridge) });
            home.execute(b).unwrap();
            let bridge = home.link(LinkRef::Name("br0")).unwrap().unwrap();
            assert!(bridge.up && bridge.kind == "bridge" && bridge.mtu == 1400);

            let mac = [2, 0x42, 1, 2, 3, 4];
            let peer =
                NewLink { ns: Some(ns.as_fd()), mac: Some(mac), ..new("eth0", LinkKind::Peer) };
            let mut b = Batch::new();
            b.add_link(&NewLink { master: Some(bridge.index), ..new("v0", LinkKind::Veth(&peer)) });
            b.change_link(
                LinkRef::Name("v0"),
                &LinkChange {
                    port: Some(BridgePort { hairpin: true, isolated: true }),
                    ipv6_autoconf: Some(false),
                    up: Some(true),
                    alias: Some("hello"),
                    ..LinkChange::default()
                },
            );
            let up = LinkChange { up: Some(true), ..LinkChange::default() };
            home.execute(b).unwrap();
            let v0 = home.link(LinkRef::Name("v0")).unwrap().unwrap();
            assert_eq!((v0.master, v0.alias.as_str(), v0.up), (bridge.index, "hello", true));
            let port = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
            assert!(!port.contains("v0"), "no link-local address on the host side: {port}");

            let eth0 = inside.link(LinkRef::Name("eth0")).unwrap().unwrap();
            assert_eq!(eth0.mac, Some(mac));
            let own = Address { link: eth0.index, ip: [10, 0, 0, 2].into(), prefix: 24, scope: 0 };
            let route = v4_route([0; 4], 0, [10, 0, 0, 1]);
            let mut b = Batch::new();
            b.change_link(LinkRef::Name("eth0"), &up);
            b.add_address(&own);
            b.add_route(&route);
            inside.execute(b).unwrap();
            assert!(inside.addresses().unwrap().contains(&own));
            let found = inside.routes().unwrap();
            assert!(found.iter().any(|r| r.via == route.via && r.prefix == 0), "{found:?}");
        });
    }

    #[test]
    fn overlay_pieces_are_understood() {
        in_new_netns(|| {
            let mut s = Socket::open(Family::Route).unwrap();
            let local = IpAddr::from([10, 9, 0, 1]);
            let vxlan =
                LinkKind::Vxlan { vni: 7, port: 8472, local, parent: None, learning: false };
            let mut b = Batch::new();
            b.add_link(&NewLink { up: true, ..new("br0", LinkKind::Bridge) });
            b.add_link(&NewLink { up: true, ..new("vx0", vxlan) });
            s.execute(b).unwrap();
            let parent = s.link(LinkRef::Name("br0")).unwrap().unwrap().index;
            let vx = s.link(LinkRef::Name("vx0")).unwrap().unwrap();
            assert_eq!(vx.kind, "vxlan");
            let mac = Some([2, 0, 0, 0, 0, 9]);
            let far = Some(IpAddr::from([10, 9, 0, 2]));
            let fdb = Neighbour { link: vx.index, ip: far, mac, bridge: true };
            let arp = Neighbour { link: vx.index, ip: far, mac, bridge: false };
            let rule = Rule {
                ipv6: false,
                priority: 99,
                table: 1000,
                mark: Some((4, 0xff)),
                from: Some(([10, 0, 0, 0].into(), 8)),
            };
            let mode = MacvlanMode::Bridge;
            let mut b = Batch::new();
            b.add_neighbour(&fdb);
            b.add_neighbour(&arp);
            b.add_rule(&rule);
            b.add_link(&new("mv0", LinkKind::Macvlan { parent, mode }));
            s.execute(b).unwrap();
            assert!(s.neighbours(true).unwrap().contains(&fdb));
            assert!(s.neighbours(false).unwrap().contains(&arp));
            assert!(s.rules().unwrap().contains(&rule));
            assert_eq!(s.link(LinkRef::Name("mv0")).unwrap().unwrap().parent, parent);
            let mut b = Batch::new();
            b.delete_neighbour(&fdb);
            b.delete_rule(&rule);
            s.execute(b).unwrap();
            assert!(!s.rules().unwrap().contains(&rule));
        });
    }
}
