//! Settings of the network layer, as the daemon resolved them.

use std::net::IpAddr;

use crate::subnet::Subnet;

/// Everything [`crate::Net::open`] needs to know.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Tells several daemons on one host apart: part of the names of nf_tables tables and of
    /// interfaces. Empty for the main daemon; otherwise at most 8 lower-case letters or digits.
    pub instance: String,
    /// The network named `bridge`. `None` is dockerd's `--bridge=none`.
    pub bridge: Option<DefaultBridge>,
    /// Where subnets of networks without one come from, in order.
    pub pools: Vec<Pool>,
    /// Host address of published ports that name none, `--ip`. Unspecified means all addresses.
    pub publish_on: Option<IpAddr>,
    /// Turn on IP forwarding, as Docker does. Default true.
    pub ip_forward: bool,
    /// Default MTU of bridge networks, in bytes; 0 takes that of the host's default route.
    pub mtu: u32,
}

/// The network named `bridge`.
#[derive(Clone, Debug)]
pub struct DefaultBridge {
    /// Interface name, default `docker0`. If it exists already it is used as it is and never removed.
    pub name: String,
    /// Address of the bridge with its prefix, dockerd's `--bip`.
    pub bip: Option<Subnet>,
    /// IPv6 address of the bridge, `--bip6`.
    pub bip6: Option<Subnet>,
    /// Containers get addresses from this part of the subnet only, `--fixed-cidr`.
    pub fixed_cidr: Option<Subnet>,
    /// The IPv6 subnet, `--fixed-cidr-v6`.
    pub fixed_cidr_v6: Option<Subnet>,
    /// Gateway when it is not the bridge itself, `--default-gateway`.
    pub gateway: Option<IpAddr>,
    /// IPv6 gateway, `--default-gateway-v6`.
    pub gateway6: Option<IpAddr>,
    /// Give containers IPv6 addresses, `--ipv6`. Default false.
    pub ipv6: bool,
    /// Containers may talk to one another, `--icc`. Default true.
    pub icc: bool,
    /// Masquerade outgoing traffic, `--ip-masq`. Default true.
    pub masquerade: bool,
}

/// A range from which subnets of one size are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The whole range.
    pub base: Subnet,
    /// Prefix length of each subnet.
    pub size: u8,
}

impl Default for DefaultBridge {
    fn default() -> DefaultBridge {
        DefaultBridge {
            name: "docker0".into(),
            bip: None,
            bip6: None,
            fixed_cidr: None,
            fixed_cidr_v6: None,
            gateway: None,
            gateway6: None,
            ipv6: false,
            icc: true,
            masquerade: true,
        }
    }
}

impl Default for NetConfig {
    fn default() -> NetConfig {
        NetConfig {
            instance: String::new(),
            bridge: Some(DefaultBridge::default()),
            pools: Pool::defaults(),
            publish_on: None,
            ip_forward: true,
            mtu: 0,
        }
    }
}

impl Pool {
    /// Docker's 31 subnets first, so that addresses look familiar; then thousands of /24 out of
    /// 100.64.0.0/10 (carrier-grade NAT space, which home and office networks do not use), because 31
    /// networks are too few (the pain is docker.md §8, 17).
    pub fn defaults() -> Vec<Pool> {
        let pool = |a: [u8; 4], prefix, size| {
            Subnet::new(IpAddr::from(a), prefix).map(|base| Pool { base, size })
        };
        [
            pool([172, 17, 0, 0], 16, 16),
            pool([172, 18, 0, 0], 16, 16),
            pool([172, 19, 0, 0], 16, 16),
            pool([172, 20, 0, 0], 14, 16),
            pool([172, 24, 0, 0], 14, 16),
            pool([172, 28, 0, 0], 14, 16),
            pool([192, 168, 0, 0], 16, 20),
            pool([100, 64, 0, 0], 10, 24),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
