//! Published ports: which host ports a request gets, and the sockets that hold them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use tokio::runtime::Handle;
use tracing::warn;
use wharf_sys::netlink::hostport::{self, Transport};
use wharf_sys::netlink::netns;

use crate::error::NetError;
use crate::network::Network;
use crate::options::GatewayMode;
use crate::relay::Relay;
use crate::spec::{Binding, Endpoint, PortMap, Protocol, Reach};

type PortKey = (Protocol, u16, IpAddr);

/// Every host port that this daemon holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    ports: BTreeMap<PortKey, Holder>,
    /// Where the search for an ephemeral port goes on.
    next: u16,
}

#[derive(Debug)]
#[allow(dead_code, reason = "held for its Drop")]
enum Holder {
    /// The daemon serves the socket.
    Relay(Relay),
    /// The socket only holds the port.
    Socket(OwnedFd),
    /// Nothing holds it but this table: the kernel lacks the transport, or somebody took it while the daemon was down.
    Nothing,
}

/// Where a container's port is to appear, before a host port is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    map: PortMap,
    at: Vec<Way>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    host_ip: IpAddr,
    reach: Reach,
    /// Where the daemon's own copy goes.
    target: SocketAddr,
    /// The user did not name this address: do without it where the host has no such family.
    optional: bool,
}

impl Held {
    /// Chooses and holds host ports for `maps`, all or none.
    pub(crate) fn publish(
        &mut self,
        (endpoint, network): (&Endpoint, &Network),
        maps: &[PortMap],
        default_ip: Option<IpAddr>,
        handle: &Handle,
    ) -> Result<Vec<Binding>, NetError> {
        let mut got = Vec::new();
        for map in maps {
            let plan = plan(map, endpoint, network, default_ip);
            match possible(&plan).and_then(|()| self.publish_one(&plan, handle)) {
                Ok(bindings) => got.extend(bindings),
                Err(e) => {
                    self.release(&got);
                    return Err(e);
                }
            }
        }
        Ok(got)
    }

    /// Lets ports go.
    pub(crate) fn release(&mut self, bindings: &[Binding]) {
        for b in bindings {
            self.ports.remove(&(b.proto, b.host, b.host_ip));
        }
    }

    /// After a restart: holds ports again that were published before. A port that somebody took
    /// in the meantime stays published; the container had it first.
    pub(crate) fn resume(&mut self, endpoint: &Endpoint, handle: &Handle) {
        for b in endpoint.ports.iter().filter(|b| b.reach != Reach::Routed) {
            let Some(target) = target(endpoint, b.host_ip, b.container) else { continue };
            let way = Way { host_ip: b.host_ip, reach: b.reach, target, optional: false };
            let holder = hold(b.proto, way, b.host, handle).unwrap_or_else(|e| {
                warn!(port = b.host, ip = %b.host_ip, error = %e, "published port is in use by another program");
                Holder::Nothing
            });
            self.ports.insert((b.proto, b.host, b.host_ip), holder);
        }
    }

    fn publish_one(&mut self, plan: &Plan, handle: &Handle) -> Result<Vec<Binding>, NetError> {
        let held: Vec<Way> = plan.at.iter().filter(|w| w.reach != Reach::Routed).copied().collect();
        let mut bindings: Vec<Binding> = plan
            .at
            .iter()
            .filter(|w| w.reach == Reach::Routed)
            .map(|w| binding(&plan.map, w, 0))
            .collect();
        if held.is_empty() {
            return Ok(bindings);
        }
        let (first, last) = plan.map.host.unwrap_or_else(ephemeral_range);
        let count = u32::from(last - first) + 1;
        let start = match plan.map.host {
            Some(_) => 0,
            None => u32::from(self.next.clamp(first, last) - first),
        };
        for i in 0..count {
            let port = first + u16::try_from((start + i) % count).unwrap_or(0);
            match self.take(&plan.map, &held, port, handle) {
                Ok(taken) => {
                    if plan.map.host.is_none() {
                        self.next = port.checked_add(1).unwrap_or(first);
                    }
                    bindings.extend(taken);
                    return Ok(bindings);
                }
                Err(e) if count == 1 || !is_busy(&e) => return Err(e),
                Err(_) => (),
            }
        }
        Err(NetError::PortsExhausted { first, last, proto: plan.map.proto })
    }

    /// Takes one host port on every address, or on none.
    fn take(
        &mut self,
        map: &PortMap,
        ways: &[Way],
        port: u16,
        handle: &Handle,
    ) -> Result<Vec<Binding>, NetError> {
        let mut taken: Vec<(PortKey, Holder, Binding)> = Vec::new();
        for way in ways {
            if self.clashes(map.proto, way.host_ip, port) {
                return Err(NetError::PortAllocated { ip: shown(way.host_ip), port });
            }
            match hold(map.proto, *way, port, handle) {
                Ok(holder) => {
                    let key = (map.proto, port, way.host_ip);
                    taken.push((key, holder, binding(map, way, port)));
                }
                Err(e) if way.optional && hostport::is_unsupported(&e) => (),
                Err(e) if way.optional && e.kind() == io::ErrorKind::AddrNotAvailable => (),
                Err(source) => {
                    return Err(NetError::PortInUse {
                        ip: shown(way.host_ip),
                        port,
                        container: shown(way.target.ip()),
                        target: map.container,
                        proto: map.proto,
                        source,
                    });
                }
            }
        }
        let bindings = taken.iter().map(|(_, _, b)| b.clone()).collect();
        self.ports.extend(taken.into_iter().map(|(key, holder, _)| (key, holder)));
        Ok(bindings)
    }

    /// Whether a container has this port, on this address or on all.
    fn clashes(&self, proto: Protocol, ip: IpAddr, port: u16) -> bool {
        let lowest = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let on_port = self.ports.range((proto, port, lowest)..);
        on_port
            .take_while(|((p, n, _), _)| (*p, *n) == (proto, port))
            .filter(|((_, _, other), _)| other.is_ipv4() == ip.is_ipv4())
            .any(|((_, _, other), _)| *other == ip || other.is_unspecified() || ip.is_unspecified())
    }
}

fn plan(map: &PortMap, endpoint: &Endpoint, network: &Network, default_ip: Option<IpAddr>) -> Plan {
    let default = network.options.host_binding.or(default_ip).filter(|ip| !ip.is_unspecified());
    let at = match map.host_ip.or(default) {
        Some(ip) => way(ip, false, map, endpoint, network).into_iter().collect(),
        None => {
            let v4 = way(Ipv4Addr::UNSPECIFIED.into(), false, map, endpoint, network);
            let v6 = way(Ipv6Addr::UNSPECIFIED.into(), true, map, endpoint, network);
            let relayed = |w: &Way| map.proto == Protocol::Sctp && w.reach == Reach::Relay;
            v4.into_iter().chain(v6.filter(|w| !relayed(w))).collect()
        }
    };
    Plan { map: map.clone(), at }
}

/// Whether the kernel can do what is planned. SCTP goes by translation only: the daemon relays TCP and UDP.
fn possible(plan: &Plan) -> Result<(), NetError> {
    const TRACKED: &str = "net/netfilter/nf_conntrack_sctp_timeout_established";
    if plan.map.proto != Protocol::Sctp {
        return Ok(());
    }
    if let Some(way) = plan.at.iter().find(|w| w.reach == Reach::Relay) {
        return Err(NetError::Unsupported {
            what: format!("an SCTP port at {} for a container at {}", way.host_ip, way.target.ip()),
            why: "publish it at an address of the container's own family".into(),
        });
    }
    match netns::read_sysctl(TRACKED) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(NetError::MissingDriver {
            what: "connection tracking for SCTP (CONFIG_NF_CT_PROTO_SCTP)",
            module: "nf_conntrack",
        }),
        _ => Ok(()),
    }
}

fn way(
    host_ip: IpAddr,
    optional: bool,
    map: &PortMap,
    endpoint: &Endpoint,
    network: &Network,
) -> Option<Way> {
    let v4 = host_ip.is_ipv4();
    let same_family = if v4 { endpoint.ipv4 } else { endpoint.ipv6 };
    let target = target(endpoint, host_ip, map.container)?;
    let reach = match (same_family, network.mode(v4)) {
        (Some(_), GatewayMode::Nat | GatewayMode::Unprotected) => Reach::Nat,
        (Some(_), GatewayMode::Routed) => Reach::Routed,
        (Some(_), GatewayMode::Isolated) => return None,
        // The container lacks the family of the host address. A routed network promises that the
        // host's own ports stay free.
        (None, _) if network.mode(!v4) == GatewayMode::Routed => return None,
        (None, _) => Reach::Relay,
    };
    Some(Way { host_ip, reach, target, optional })
}

/// The container's address for clients of `host_ip`: of the same family if there is one.
fn target(endpoint: &Endpoint, host_ip: IpAddr, port: u16) -> Option<SocketAddr> {
    let (same, other) = if host_ip.is_ipv4() {
        (endpoint.ipv4, endpoint.ipv6)
    } else {
        (endpoint.ipv6, endpoint.ipv4)
    };
    same.or(other).map(|s| SocketAddr::new(s.addr(), port))
}

fn hold(proto: Protocol, way: Way, port: u16, handle: &Handle) -> io::Result<Holder> {
    let transport = match proto {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    };
    let fd = match hostport::reserve(transport, way.host_ip, port) {
        Ok(fd) => fd,
        // The kernel can translate SCTP without having SCTP sockets.
        Err(e) if proto == Protocol::Sctp && hostport::is_unsupported(&e) => {
            return Ok(Holder::Nothing);
        }
        Err(e) => return Err(e),
    };
    if proto == Protocol::Sctp {
        return Ok(Holder::Socket(fd));
    }
    Ok(match Relay::start(handle, proto, fd, way.target)? {
        Some(relay) => Holder::Relay(relay),
        None => Holder::Nothing,
    })
}

fn binding(map: &PortMap, way: &Way, host: u16) -> Binding {
    Binding {
        container: map.container,
        proto: map.proto,
        host_ip: way.host_ip,
        host,
        reach: way.reach,
    }
}

fn is_busy(e: &NetError) -> bool {
    match e {
        NetError::PortAllocated { .. } => true,
        NetError::PortInUse { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
        _ => false,
    }
}

fn shown(ip: IpAddr) -> String {
    if ip.is_ipv4() { ip.to_string() } else { format!("[{ip}]") }
}

/// What the kernel uses for ports that nobody names; Docker asks there, too.
fn ephemeral_range() -> (u16, u16) {
    const FALLBACK: (u16, u16) = (49153, 65535);
    let Ok(text) = netns::read_sysctl("net/ipv4/ip_local_port_range") else { return FALLBACK };
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first > 0 && first <= last => (first, last),
        _ => FALLBACK,
    }
}
