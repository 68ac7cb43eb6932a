//! Driver options of a network, parsed: what each key of docker.md §4.1 means.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wharf_sys::netlink::route::{IpvlanFlag, IpvlanMode, LinkKind, MacvlanMode};

use crate::error::NetError;
use crate::spec::Driver;

/// How packets get in and out of a bridge network, per family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GatewayMode {
    /// Translated; only published ports are reachable.
    Nat,
    /// Not translated; only published ports are reachable, at the container's own address.
    Routed,
    /// Translated; every port is reachable at the container's own address.
    Unprotected,
    /// The host has no address on the bridge.
    Isolated,
}

/// The host's own place on a macvlan or ipvlan network, whose children cannot reach their parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shim {
    /// At an address that wharf chooses.
    Any,
    /// At this address.
    At(IpAddr),
}

/// The options of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Name of the bridge, if the user chose one.
    pub(crate) bridge: Option<String>,
    pub(crate) icc: bool,
    pub(crate) masquerade: bool,
    pub(crate) host_binding: Option<IpAddr>,
    pub(crate) mode4: GatewayMode,
    pub(crate) mode6: GatewayMode,
    pub(crate) inhibit_ipv4: bool,
    pub(crate) trusted: Vec<String>,
    pub(crate) mtu: Option<u32>,
    pub(crate) prefix: String,
    pub(crate) source4: Option<Ipv4Addr>,
    pub(crate) source6: Option<Ipv6Addr>,
    pub(crate) parent: Option<String>,
    pub(crate) macvlan: MacvlanMode,
    pub(crate) ipvlan: (IpvlanMode, IpvlanFlag),
    pub(crate) shim: Option<Shim>,
}

/// The options of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointOptions {
    pub(crate) ifname: Option<String>,
    /// Sysctls as `net/ipv4/conf/IFNAME/x`, with their values.
    pub(crate) sysctls: Vec<(String, String)>,
}

const BRIDGE: &str = "com.docker.network.bridge.";
const DRIVER: &str = "com.docker.network.driver.";

impl Options {
    /// Parses the options of a network of `driver`. An unknown key is refused, not ignored.
    pub(crate) fn parse(
        driver: Driver,
        map: &BTreeMap<String, String>,
    ) -> Result<Options, NetError> {
        let mut o = Options {
            bridge: None,
            icc: true,
            masquerade: true,
            host_binding: None,
            mode4: GatewayMode::Nat,
            mode6: GatewayMode::Nat,
            inhibit_ipv4: false,
            trusted: Vec::new(),
            mtu: None,
            prefix: "eth".into(),
            source4: None,
            source6: None,
            parent: None,
            macvlan: MacvlanMode::Bridge,
            ipvlan: (IpvlanMode::L2, IpvlanFlag::Bridge),
            shim: None,
        };
        for (key, value) in map {
            let known = match driver {
                Driver::Bridge => o.bridge_option(key, value)?,
                Driver::Macvlan => o.macvlan_option(key, value)? || o.child_option(key, value)?,
                Driver::Ipvlan => o.ipvlan_option(key, value)? || o.child_option(key, value)?,
                Driver::Host | Driver::Null => false,
            };
            if !known && !o.common_option(key, value)? {
                return Err(NetError::Unsupported {
                    what: format!("network option {key:?}"),
                    why: format!("the driver {} has no such option", driver.as_str()),
                });
            }
        }
        Ok(o)
    }

    fn bridge_option(&mut self, key: &str, value: &str) -> Result<bool, NetError> {
        let Some(short) = key.strip_prefix(BRIDGE) else {
            match key {
                "com.docker.network.host_ipv4" => self.source4 = Some(parse(key, value)?),
                "com.docker.network.host_ipv6" => self.source6 = Some(parse(key, value)?),
                _ => return Ok(false),
            }
            return Ok(true);
        };
        match short {
            "name" => self.bridge = Some(interface_name(key, value)?),
            "enable_icc" => self.icc = boolean(key, value)?,
            "enable_ip_masquerade" => self.masquerade = boolean(key, value)?,
            "host_binding_ipv4" => self.host_binding = Some(parse(key, value)?),
            "gateway_mode_ipv4" => self.mode4 = gateway_mode(key, value)?,
            "gateway_mode_ipv6" => self.mode6 = gateway_mode(key, value)?,
            "inhibit_ipv4" => self.inhibit_ipv4 = boolean(key, value)?,
            "trusted_host_interfaces" => {
                self.trusted = value
                    .split(':')
                    .filter(|s| !s.is_empty())
                    .map(|s| interface_name(key, s))
                    .collect::<Result<_, _>>()?;
            }
            // Shown on the network `bridge`, and says nothing else.
            "default_bridge" => drop(boolean(key, value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn macvlan_option(&mut self, key: &str, value: &str) -> Result<bool, NetError> {
        match key {
            "macvlan_mode" => self.macvlan = macvlan_mode(key, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn ipvlan_option(&mut self, key: &str, value: &str) -> Result<bool, NetError> {
        match key {
            "ipvlan_mode" => {
                self.ipvlan.0 = match value {
                    "" | "l2" => IpvlanMode::L2,
                    "l3" => IpvlanMode::L3,
                    "l3s" => IpvlanMode::L3s,
                    _ => return Err(wrong(key, value, "l2, l3 or l3s")),
                }
            }
            "ipvlan_flag" => {
                self.ipvlan.1 = match value {
                    "" | "bridge" => IpvlanFlag::Bridge,
                    "private" => IpvlanFlag::Private,
                    "vepa" => IpvlanFlag::Vepa,
                    _ => return Err(wrong(key, value, "bridge, private or vepa")),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What macvlan and ipvlan have in common.
    fn child_option(&mut self, key: &str, value: &str) -> Result<bool, NetError> {
        match key {
            "parent" => self.parent = Some(interface_name(key, value)?).filter(|p| p != "lo"),
            "host_shim" => {
                self.shim = match boolean(key, value) {
                    Ok(true) => Some(Shim::Any),
                    Ok(false) => None,
                    Err(_) => Some(Shim::At(
                        value
                            .parse()
                            .map_err(|_| wrong(key, value, "true, false or an address"))?,
                    )),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The kind of interface that a container on a network of `driver` gets.
    pub(crate) fn child(&self, driver: Driver, parent: u32) -> LinkKind<'static> {
        let (mode, flag) = self.ipvlan;
        match driver {
            Driver::Ipvlan => LinkKind::Ipvlan { parent, mode, flag },
            _ => LinkKind::Macvlan { parent, mode: self.macvlan },
        }
    }

    /// Whether packets are routed rather than bridged, so that there is no gateway to name.
    pub(crate) fn is_layer3(&self) -> bool {
        self.ipvlan.0 != IpvlanMode::L2
    }

    fn common_option(&mut self, key: &str, value: &str) -> Result<bool, NetError> {
        match key.strip_prefix(DRIVER) {
            Some("mtu") => {
                let mtu: u32 = parse(key, value)?;
                let sane = mtu == 0 || (68..=65535).contains(&mtu);
                if !sane {
                    return Err(wrong(key, value, "0 or 68 to 65535"));
                }
                self.mtu = Some(mtu).filter(|m| *m > 0);
            }
            _ if key == "com.docker.network.container_iface_prefix" => {
                // Room for a number after it.
                self.prefix = interface_name(key, value)?.chars().take(12).collect();
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl EndpointOptions {
    /// Parses the options of an endpoint. An unknown key of Docker's is refused, not ignored; keys of
    /// others are notes for their drivers, kept with the endpoint and shown as they are.
    pub(crate) fn parse(map: &BTreeMap<String, String>) -> Result<EndpointOptions, NetError> {
        let mut o = EndpointOptions::default();
        for (key, value) in map {
            match key.strip_prefix("com.docker.network.endpoint.") {
                Some("ifname") => o.ifname = Some(interface_name(key, value)?),
                Some("sysctls") => o.sysctls = sysctls(key, value)?,
                // For drivers that route; a bridge has no use for it, and Docker sends it to all.
                Some("exposedports" | "macaddress") => (),
                None if !key.starts_with("com.docker.network.") => (),
                _ => {
                    return Err(NetError::Unsupported {
                        what: format!("endpoint option {key:?}"),
                        why: "no driver has such an option".into(),
                    });
                }
            }
        }
        Ok(o)
    }
}

/// Checks a name against what the kernel takes for an interface.
pub(crate) fn interface_name(what: &str, name: &str) -> Result<String, NetError> {
    let ok = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':');
    if matches!(name, "" | "." | ".." | "lo") || name.len() > 15 || !name.bytes().all(ok) {
        return Err(wrong(what, name, "an interface name of 1 to 15 characters"));
    }
    Ok(name.to_owned())
}

/// Reads a mode of macvlan; empty is `bridge`.
pub(crate) fn macvlan_mode(key: &str, value: &str) -> Result<MacvlanMode, NetError> {
    match value {
        "private" => Ok(MacvlanMode::Private),
        "vepa" => Ok(MacvlanMode::Vepa),
        "" | "bridge" => Ok(MacvlanMode::Bridge),
        "passthru" => Ok(MacvlanMode::Passthru),
        _ => Err(wrong(key, value, "private, vepa, bridge or passthru")),
    }
}

fn sysctls(key: &str, value: &str) -> Result<Vec<(String, String)>, NetError> {
    let bad = |part: &str| wrong(key, part, "net.<family>.<conf|neigh>.IFNAME.<name>=<value>");
    value
        .split(',')
        .map(|part| {
            let (name, value) = part.split_once('=').ok_or_else(|| bad(part))?;
            let steps: Vec<_> = name.trim().split('.').collect();
            let [top, _, _, ifname, _] = steps[..] else { return Err(bad(part)) };
            let clean = steps.iter().all(|s| !s.is_empty() && !s.contains('/'));
            if top != "net" || ifname != "IFNAME" || !clean {
                return Err(bad(part));
            }
            Ok((steps.join("/"), value.to_owned()))
        })
        .collect()
}

fn gateway_mode(key: &str, value: &str) -> Result<GatewayMode, NetError> {
    match value {
        "" | "nat" => Ok(GatewayMode::Nat),
        "routed" => Ok(GatewayMode::Routed),
        "nat-unprotected" => Ok(GatewayMode::Unprotected),
        "isolated" => Ok(GatewayMode::Isolated),
        _ => Err(wrong(key, value, "nat, routed, nat-unprotected or isolated")),
    }
}

/// As Go's `strconv.ParseBool`.
fn boolean(key: &str, value: &str) -> Result<bool, NetError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(wrong(key, value, "true or false")),
    }
}

fn parse<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, NetError> {
    value.parse().map_err(|_| wrong(key, value, std::any::type_name::<T>()))
}

fn wrong(key: &str, value: &str, want: &str) -> NetError {
    NetError::invalid(key, format!("{value:?} is not {want}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_documented_option_is_understood() {
        let o = Options::parse(
            Driver::Bridge,
            &map(&[
                ("com.docker.network.bridge.name", "br7"),
                ("com.docker.network.bridge.enable_icc", "false"),
                ("com.docker.network.bridge.enable_ip_masquerade", "0"),
                ("com.docker.network.bridge.host_binding_ipv4", "127.0.0.1"),
                ("com.docker.network.bridge.gateway_mode_ipv4", "routed"),
                ("com.docker.network.bridge.gateway_mode_ipv6", "nat-unprotected"),
                ("com.docker.network.bridge.inhibit_ipv4", "true"),
                ("com.docker.network.bridge.trusted_host_interfaces", "eth0:wg0"),
                ("com.docker.network.driver.mtu", "1400"),
                ("com.docker.network.container_iface_prefix", "net"),
                ("com.docker.network.host_ipv4", "192.0.2.9"),
            ]),
        )
        .unwrap();
        assert_eq!(o.bridge.as_deref(), Some("br7"));
        assert!(!o.icc && !o.masquerade && o.inhibit_ipv4);
        assert_eq!((o.mode4, o.mode6), (GatewayMode::Routed, GatewayMode::Unprotected));
        assert_eq!(o.trusted, ["eth0", "wg0"]);
        assert_eq!((o.mtu, o.prefix.as_str()), (Some(1400), "net"));
    }

    #[test]
    fn unknown_and_wrong_options_are_refused_by_name() {
        for (k, v) in [
            ("com.docker.network.bridge.typo", "1"),
            ("foo", "bar"),
            ("com.docker.network.bridge.enable_icc", "maybe"),
            ("com.docker.network.driver.mtu", "7"),
            ("com.docker.network.bridge.name", "a-name-that-is-too-long"),
        ] {
            let e = Options::parse(Driver::Bridge, &map(&[(k, v)])).unwrap_err().to_string();
            assert!(e.contains(k), "{e}");
        }
    }

    #[test]
    fn endpoint_sysctls_name_the_interface() {
        let key = "com.docker.network.endpoint.sysctls";
        let o = EndpointOptions::parse(&map(&[(key, "net.ipv4.conf.IFNAME.log_martians=1")]));
        assert_eq!(o.unwrap().sysctls, [("net/ipv4/conf/IFNAME/log_martians".into(), "1".into())]);
        for bad in [
            "kernel.x=1",
            "net.ipv4.conf.eth0.x=1",
            "net.ipv4.conf.IFNAME.x",
            "net.a/b.c.IFNAME.x=1",
        ] {
            EndpointOptions::parse(&map(&[(key, bad)])).unwrap_err();
        }
    }
}
