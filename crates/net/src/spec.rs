//! What callers ask of networks, and what they are told.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use wharf_base::Id;

use crate::mac::Mac;
use crate::subnet::Subnet;

/// Who implements a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A Linux bridge with NAT.
    Bridge,
    /// Child interfaces of a host interface, with MAC addresses of their own.
    Macvlan,
    /// Child interfaces of a host interface, with its MAC address.
    Ipvlan,
    /// The host's own network; nothing to attach.
    Host,
    /// Loopback only.
    Null,
}

/// A network to create. Fields are those of Docker's `NetworkCreate`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Its name; unique.
    pub name: String,
    /// `bridge` when empty.
    pub driver: String,
    /// IPv4 on; default true.
    pub ipv4: Option<bool>,
    /// IPv6 on; default false.
    pub ipv6: Option<bool>,
    /// No way out of the network.
    pub internal: bool,
    /// Kept for clients; every network of a single host is attachable.
    pub attachable: bool,
    /// Subnets; empty means one is chosen per enabled family.
    pub ipam: Vec<IpamConfig>,
    /// IPAM driver options, kept for clients.
    pub ipam_options: BTreeMap<String, String>,
    /// Driver options of docker.md §4.1. An unknown `com.docker.network.*` key is refused.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Nothing but settings, for other networks to be made from.
    pub config_only: bool,
    /// The network with nothing but settings that this one takes its own from; empty for none.
    pub config_from: String,
}

/// One subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamConfig {
    /// The subnet, host bits clear.
    pub subnet: Option<Subnet>,
    /// Containers get addresses from this part only.
    pub range: Option<Subnet>,
    /// The gateway; first address of the subnet by default.
    pub gateway: Option<IpAddr>,
    /// Addresses that containers never get, by name.
    pub aux: BTreeMap<String, IpAddr>,
}

/// A network as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// Nanoseconds since 1970 when it was created.
    pub created: i64,
    /// Who implements it.
    pub driver: Driver,
    /// IPv4 on.
    pub ipv4: bool,
    /// IPv6 on.
    pub ipv6: bool,
    /// No way out.
    pub internal: bool,
    /// As asked.
    pub attachable: bool,
    /// Its subnets, resolved.
    pub ipam: Vec<IpamConfig>,
    /// As asked.
    pub ipam_options: BTreeMap<String, String>,
    /// Options, the defaults of the network `bridge` spelt out as Docker does.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Nothing but settings, for other networks to be made from.
    pub config_only: bool,
    /// The network that its settings are from; empty for none.
    pub config_from: String,
    /// Who is on it.
    pub endpoints: Vec<Endpoint>,
}

/// How a container wants to be on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointConfig {
    /// The container's name without a slash; shown in errors, lists and DNS.
    pub container_name: String,
    /// A static address, or any.
    pub ipv4: Option<Ipv4Addr>,
    /// A static address, or any.
    pub ipv6: Option<Ipv6Addr>,
    /// More addresses with link scope.
    pub link_local: Vec<IpAddr>,
    /// MAC address, or a random one.
    pub mac: Option<Mac>,
    /// Name in the sandbox, or `eth0`, `eth1`, … whichever is free.
    pub ifname: Option<String>,
    /// What the container calls itself, found by DNS as well; may be empty.
    pub hostname: String,
    /// Names of the container for DNS on this network.
    pub aliases: Vec<String>,
    /// Names that others have for this container alone.
    pub links: Vec<Link>,
    /// Ports that the container offers, for questions about services.
    pub exposed: Vec<(Protocol, u16)>,
    /// The default route goes through the endpoint with the highest priority, then the first by network name.
    pub gateway_priority: i64,
    /// `com.docker.network.endpoint.*`. An unknown key is refused.
    pub options: BTreeMap<String, String>,
}

/// A name that one container has for another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The other's name, or one of its aliases.
    pub container: String,
    /// What it is called.
    pub alias: String,
}

/// A sandbox's place on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its own id.
    pub id: Id,
    /// The sandbox, which carries the id of its container.
    pub sandbox: Id,
    /// The container's name.
    pub container_name: String,
    /// What the container calls itself; may be empty.
    #[serde(default)]
    pub hostname: String,
    /// The network.
    pub network: Id,
    /// The network's name when it attached.
    pub network_name: String,
    /// Interface name in the sandbox; empty on `none`.
    pub ifname: String,
    /// Interface name on the host; empty where there is none.
    pub host_ifname: String,
    /// MAC address.
    pub mac: Option<Mac>,
    /// Address with prefix.
    pub ipv4: Option<Subnet>,
    /// Address with prefix.
    pub ipv6: Option<Subnet>,
    /// Where the default route would go; none on an internal network.
    pub gateway4: Option<Ipv4Addr>,
    /// Where the default route would go.
    pub gateway6: Option<Ipv6Addr>,
    /// Names for DNS.
    pub aliases: Vec<String>,
    /// Names that others have for this container alone.
    #[serde(default)]
    pub links: Vec<Link>,
    /// Ports that the container offers.
    #[serde(default)]
    pub exposed: Vec<(Protocol, u16)>,
    /// See [`EndpointConfig::gateway_priority`].
    pub gateway_priority: i64,
    /// Ports published through this endpoint.
    pub ports: Vec<Binding>,
    /// Ports of neighbours that it may use where its network keeps neighbours apart.
    #[serde(default)]
    pub opened: Vec<Opening>,
}

/// A port of a linked container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Opening {
    /// The container's address.
    pub to: Ipv4Addr,
    /// Transport.
    pub proto: Protocol,
    /// Port.
    pub port: u16,
}

/// A transport with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// One container port to publish: `-p [host_ip:][first-last:]container/proto`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMap {
    /// Port in the container.
    pub container: u16,
    /// Transport.
    pub proto: Protocol,
    /// Host address; none means all of IPv4 and of IPv6.
    pub host_ip: Option<IpAddr>,
    /// Host ports to choose from, first free first; none means an ephemeral one.
    pub host: Option<(u16, u16)>,
}

/// A container port as it is published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Binding {
    /// Port in the container.
    pub container: u16,
    /// Transport.
    pub proto: Protocol,
    /// Host address.
    pub host_ip: IpAddr,
    /// Host port. 0 on a routed network, where the container's own address is the way in.
    pub host: u16,
    /// How packets get in.
    pub reach: Reach,
}

/// How packets reach a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Translated by the kernel.
    Nat,
    /// Copied by the daemon, because the container has no address of the host address's family.
    Relay,
    /// Routed to the container's own address.
    Routed,
}

/// Counters of one interface, seen from inside the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceStats {
    /// Interface name in the sandbox.
    pub ifname: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Packets dropped on receive.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Packets dropped on send.
    pub tx_dropped: u64,
}

impl Driver {
    /// Whether containers on it have an interface.
    pub fn is_wired(self) -> bool {
        self == Driver::Bridge || self.has_parent()
    }

    /// Whether its interfaces are children of one of the host's.
    pub fn has_parent(self) -> bool {
        matches!(self, Driver::Macvlan | Driver::Ipvlan)
    }

    /// As the Engine API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Driver::Bridge => "bridge",
            Driver::Macvlan => "macvlan",
            Driver::Ipvlan => "ipvlan",
            Driver::Host => "host",
            Driver::Null => "null",
        }
    }
}

impl Protocol {
    /// `tcp`, `udp` or `sctp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    /// The IANA number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = crate::NetError;

    fn from_str(s: &str) -> Result<Protocol, crate::NetError> {
        match s.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            _ => Err(crate::NetError::invalid("proto", format!("{s:?} is not tcp, udp or sctp"))),
        }
    }
}
