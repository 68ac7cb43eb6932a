//! One network: its record, how a request becomes one, and its address pools. No I/O.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use wharf_base::Id;

use crate::config::{NetConfig, Pool};
use crate::error::NetError;
use crate::ipam::{self, Addresses};
use crate::options::{GatewayMode, Options, Shim};
use crate::spec::{Driver, Endpoint, IpamConfig, NetworkInfo, NetworkSpec};
use crate::subnet::Subnet;

/// A network as the database keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: Id,
    pub(crate) name: String,
    pub(crate) created: i64,
    pub(crate) driver: Driver,
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
    pub(crate) internal: bool,
    pub(crate) attachable: bool,
    pub(crate) ipam: Vec<IpamConfig>,
    pub(crate) ipam_options: BTreeMap<String, String>,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// `bridge`, `host` and `none`.
    pub(crate) predefined: bool,
    /// Nothing but settings.
    #[serde(default)]
    pub(crate) config_only: bool,
    /// Whose settings these are, by name.
    #[serde(default)]
    pub(crate) config_from: String,
}

/// A network in memory.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) record: Record,
    pub(crate) options: Options,
    /// The bridge, or the parent of macvlan children; empty where there is neither.
    pub(crate) ifname: String,
    pub(crate) v4: Option<Addresses>,
    pub(crate) v6: Option<Addresses>,
}

/// What a new network may not collide with.
pub(crate) struct Surroundings<'a> {
    pub(crate) config: &'a NetConfig,
    /// Subnets of other networks, with their names.
    pub(crate) networks: Vec<(String, Subnet)>,
    /// Destinations that the host has routes to.
    pub(crate) routes: Vec<Subnet>,
}

impl Record {
    /// Turns a request into a record: checks it, and chooses what it leaves open.
    pub(crate) fn resolve(
        spec: NetworkSpec,
        (id, created): (Id, i64),
        around: &Surroundings<'_>,
    ) -> Result<Record, NetError> {
        check_name(&spec.name)?;
        let driver = match spec.config_only {
            true => Driver::Null,
            false => driver(&spec.driver)?,
        };
        let (ipv4, ipv6) = (spec.ipv4.unwrap_or(true), spec.ipv6.unwrap_or(false));
        let mut record = Record {
            id,
            name: spec.name,
            created,
            driver,
            ipv4,
            ipv6,
            internal: spec.internal,
            attachable: spec.attachable,
            ipam: spec.ipam,
            ipam_options: spec.ipam_options,
            options: spec.options,
            labels: spec.labels,
            predefined: false,
            config_only: spec.config_only,
            config_from: spec.config_from,
        };
        if record.config_only {
            // What the settings are worth is decided by the driver of a network that takes them.
            return Ok(record);
        }
        let options = Options::parse(driver, &record.options)?;
        record.resolve_ipam(around)?;
        if driver == Driver::Bridge && options.bridge.is_none() {
            record.check_routes(around)?;
        }
        if let Some(shim) = options.shim {
            record.place_shim(shim)?;
        }
        Ok(record)
    }

    /// A bridge whose subnet the host already has a route to, or to a part of it, would cut the host off from there. A
    /// wider route is no reason to refuse: the bridge's own is more exact.
    fn check_routes(&self, around: &Surroundings<'_>) -> Result<(), NetError> {
        for subnet in self.ipam.iter().filter_map(|c| c.subnet) {
            if let Some(route) = around.routes.iter().find(|r| subnet.covers(r)) {
                let by = format!("a route of this host ({})", route.network());
                return Err(NetError::Overlap { subnet: subnet.to_string(), by });
            }
        }
        Ok(())
    }

    /// Sets an address aside for the host: the chosen one, or the last of those that containers would get.
    fn place_shim(&mut self, shim: Shim) -> Result<(), NetError> {
        let of = |c: &IpamConfig| match shim {
            Shim::At(ip) => c.subnet.is_some_and(|s| s.contains(ip)),
            Shim::Any => c.subnet.is_some_and(|s| s.is_ipv4() == self.ipv4),
        };
        let none = || NetError::invalid("host_shim", "no subnet of the network has room for it");
        let config = self.ipam.iter_mut().find(|c| of(c)).ok_or_else(none)?;
        let ip = match shim {
            Shim::At(ip) => ip,
            Shim::Any => last_free(config).ok_or_else(none)?,
        };
        config.aux.insert(SHIM.to_owned(), ip);
        Ok(())
    }

    /// Chooses subnets and gateways that are not given, and checks those that are.
    pub(crate) fn resolve_ipam(&mut self, around: &Surroundings<'_>) -> Result<(), NetError> {
        if matches!(self.driver, Driver::Host | Driver::Null) {
            return Ok(());
        }
        if !self.ipv4 && !self.ipv6 {
            return Err(NetError::invalid("network", "IPv4 or IPv6 must be enabled"));
        }
        for (v4, on) in [(true, self.ipv4), (false, self.ipv6)] {
            let of_family = |c: &IpamConfig| c.subnet.is_some_and(|s| s.is_ipv4() == v4);
            let count = self.ipam.iter().filter(|c| of_family(c)).count();
            let name = if v4 { "IPv4" } else { "IPv6" };
            if count > 1 {
                return Err(NetError::Unsupported {
                    what: format!("a second {name} subnet"),
                    why: "give one larger subnet, or make two networks".into(),
                });
            }
            if count == 1 && !on {
                let why = format!("an {name} subnet is given and {name} is not enabled");
                return Err(NetError::invalid("ipam config", why));
            }
            if on && count == 0 {
                self.add_subnet(v4, around)?;
            }
        }
        self.ipam.retain(|c| c.subnet.is_some());
        let gatewayless = [self.is_gatewayless(true)?, self.is_gatewayless(false)?];
        for config in &mut self.ipam {
            let v4 = config.subnet.is_some_and(|s| s.is_ipv4());
            complete(config, &self.name, around, gatewayless[usize::from(!v4)])?;
        }
        Ok(())
    }

    /// Whether nothing would ever use a gateway's address.
    fn is_gatewayless(&self, v4: bool) -> Result<bool, NetError> {
        let options = Options::parse(self.driver, &self.options)?;
        let mode = if v4 { options.mode4 } else { options.mode6 };
        // Without a parent they lead nowhere.
        let inside = self.internal || options.parent.is_none();
        Ok(match self.driver {
            Driver::Bridge => {
                mode == GatewayMode::Isolated || (v4 && options.inhibit_ipv4 && self.internal)
            }
            Driver::Macvlan => inside,
            Driver::Ipvlan => inside || options.is_layer3(),
            Driver::Host | Driver::Null => false,
        })
    }

    fn add_subnet(&mut self, v4: bool, around: &Surroundings<'_>) -> Result<(), NetError> {
        let mut taken = around.routes.clone();
        taken.extend(around.networks.iter().map(|(_, s)| *s));
        let pools: Vec<Pool> =
            around.config.pools.iter().filter(|p| p.base.is_ipv4() == v4).copied().collect();
        let subnet = if v4 || !pools.is_empty() {
            ipam::choose_subnet(&pools, &taken)?
        } else {
            ipam::choose_ula(&self.id, &taken)?
        };
        // A configuration without a subnet may still carry a gateway or a range for it.
        let open = self.ipam.iter_mut().find(|c| {
            let hint = c.gateway.or(c.range.map(|r| r.addr()));
            c.subnet.is_none() && hint.is_none_or(|ip| ip.is_ipv4() == v4)
        });
        match open {
            Some(config) => config.subnet = Some(subnet),
            None => self.ipam.push(IpamConfig {
                subnet: Some(subnet),
                range: None,
                gateway: None,
                aux: BTreeMap::new(),
            }),
        }
        Ok(())
    }
}

impl Network {
    /// The working form of a record.
    pub(crate) fn new(record: Record) -> Result<Network, NetError> {
        let options = match record.config_only {
            true => Options::parse(record.driver, &BTreeMap::new())?,
            false => Options::parse(record.driver, &record.options)?,
        };
        let ifname = match record.driver {
            Driver::Bridge => {
                options.bridge.clone().unwrap_or_else(|| format!("br-{}", record.id.short()))
            }
            // Without a parent the children have a switch of their own, which leads nowhere.
            Driver::Macvlan | Driver::Ipvlan => {
                options.parent.clone().unwrap_or_else(|| format!("dm-{}", record.id.short()))
            }
            Driver::Host | Driver::Null => String::new(),
        };
        let pool = |v4: bool| {
            let config = record.ipam.iter().find(|c| c.subnet.is_some_and(|s| s.is_ipv4() == v4));
            config.and_then(Addresses::new)
        };
        let (v4, v6) = match record.config_only {
            true => (None, None),
            false => (pool(true), pool(false)),
        };
        Ok(Network { record, options, ifname, v4, v6 })
    }

    /// The subnet of a family.
    pub(crate) fn subnet(&self, v4: bool) -> Option<Subnet> {
        let pool = if v4 { &self.v4 } else { &self.v6 };
        pool.as_ref().map(Addresses::subnet)
    }

    /// The gateway address of a family, whether or not containers route through it.
    pub(crate) fn gateway(&self, v4: bool) -> Option<IpAddr> {
        self.record.ipam.iter().filter_map(|c| c.gateway).find(|g| g.is_ipv4() == v4)
    }

    /// How packets of a family get in and out.
    pub(crate) fn mode(&self, v4: bool) -> GatewayMode {
        if v4 { self.options.mode4 } else { self.options.mode6 }
    }

    /// Whether containers get a default route through this network.
    pub(crate) fn routes_out(&self, v4: bool) -> bool {
        !self.record.internal && self.mode(v4) != GatewayMode::Isolated
    }

    /// The address that the bridge itself carries.
    pub(crate) fn bridge_address(&self, v4: bool) -> Option<Subnet> {
        let hidden = self.mode(v4) == GatewayMode::Isolated || (v4 && self.options.inhibit_ipv4);
        let subnet = self.subnet(v4).filter(|_| !hidden)?;
        Subnet::new(self.gateway(v4)?, subnet.prefix())
    }

    /// The host's own address on a macvlan or ipvlan network, if it has one.
    pub(crate) fn shim(&self) -> Option<IpAddr> {
        self.options.shim?;
        self.record.ipam.iter().find_map(|c| c.aux.get(SHIM)).copied()
    }

    /// Frees what an endpoint holds.
    pub(crate) fn free(&mut self, endpoint: &Endpoint) {
        if let (Some(pool), Some(ip)) = (&mut self.v4, endpoint.ipv4) {
            pool.free(ip.addr());
        }
        if let (Some(pool), Some(ip)) = (&mut self.v6, endpoint.ipv6) {
            pool.free(ip.addr());
        }
    }

    /// What callers see.
    pub(crate) fn info(&self, endpoints: Vec<Endpoint>) -> NetworkInfo {
        let r = self.record.clone();
        NetworkInfo {
            id: r.id,
            name: r.name,
            created: r.created,
            driver: r.driver,
            ipv4: r.ipv4,
            ipv6: r.ipv6,
            internal: r.internal,
            attachable: r.attachable,
            ipam: r.ipam,
            ipam_options: r.ipam_options,
            options: r.options,
            labels: r.labels,
            config_only: r.config_only,
            config_from: r.config_from,
            endpoints,
        }
    }
}

/// Under this name the host's own address is among those that containers never get.
const SHIM: &str = "host-shim";

fn last_free(config: &IpamConfig) -> Option<IpAddr> {
    let subnet = config.subnet?;
    let range = config.range.unwrap_or(subnet);
    let edges = [subnet.network().addr(), subnet.last_addr()];
    let free = |ip: &IpAddr| {
        !edges.contains(ip) && config.gateway != Some(*ip) && !config.aux.values().any(|a| a == ip)
    };
    let tries = range.span().min(config.aux.len() as u128 + 3);
    (0..=tries).filter_map(|n| range.nth(range.span() - n)).find(free)
}

impl NetworkSpec {
    /// Refuses, in Docker's words, settings that a network with nothing but settings cannot have, and
    /// settings beside those of another network.
    pub(crate) fn check_config(&self) -> Result<(), NetError> {
        if self.config_only && (self.internal || self.attachable) {
            return Err(NetError::Config(
                "configuration network can only contain network specific fields. Network operator fields like [ ingress | internal | attachable | scope ] are not supported.",
            ));
        }
        if self.config_from.is_empty() {
            return Ok(());
        }
        if self.config_only {
            return Err(NetError::Config(
                "a configuration network cannot depend on another configuration network",
            ));
        }
        let own = self.ipv6 == Some(true)
            || !self.ipam.is_empty()
            || !self.ipam_options.is_empty()
            || !self.options.is_empty()
            || !self.labels.is_empty();
        match own {
            true => Err(NetError::Config(
                "user specified configurations are not supported if the network depends on a configuration network",
            )),
            false => Ok(()),
        }
    }

    /// Takes the settings of another network.
    pub(crate) fn take_config(&mut self, from: &Record) {
        self.ipv4 = Some(from.ipv4);
        self.ipv6 = Some(from.ipv6);
        self.ipam.clone_from(&from.ipam);
        self.ipam_options.clone_from(&from.ipam_options);
        self.options.clone_from(&from.options);
        self.labels.clone_from(&from.labels);
    }
}

fn check_name(name: &str) -> Result<(), NetError> {
    let start = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.- ".contains(&b));
    if start && rest && !name.ends_with(' ') && name.len() <= 255 {
        return Ok(());
    }
    let why = format!("{name:?} must match [a-zA-Z0-9][a-zA-Z0-9_.-]*, with blanks only inside");
    Err(NetError::invalid("network name", why))
}

fn driver(name: &str) -> Result<Driver, NetError> {
    match name {
        "" | "default" | "bridge" => Ok(Driver::Bridge),
        "macvlan" => Ok(Driver::Macvlan),
        "ipvlan" => Ok(Driver::Ipvlan),
        "host" | "null" => {
            Err(NetError::Predefined(name.to_owned(), "created again: one of its kind exists"))
        }
        "overlay" => Err(NetError::Unsupported {
            what: "network driver \"overlay\"".to_owned(),
            why: "use bridge, macvlan or ipvlan".into(),
        }),
        other => Err(NetError::NoDriver(other.to_owned())),
    }
}

fn complete(
    config: &mut IpamConfig,
    name: &str,
    around: &Surroundings<'_>,
    gatewayless: bool,
) -> Result<(), NetError> {
    let Some(subnet) = config.subnet else { return Ok(()) };
    let bad = |what: &str, why: String| Err(NetError::invalid(what, why));
    if !subnet.is_network() {
        let why = format!("{subnet} has host bits set, it should be {}", subnet.network());
        return bad("network config: invalid subnet", why);
    }
    if subnet.prefix() == 0 || subnet.span() < 1 {
        return bad("subnet", format!("{subnet} leaves no room for a gateway and a container"));
    }
    if let Some((by, other)) = around.networks.iter().find(|(_, s)| s.overlaps(&subnet)) {
        let by = format!("network {by} ({other})");
        return Err(NetError::Overlap { subnet: subnet.to_string(), by });
    }
    if let Some(range) = config.range.filter(|r| !subnet.covers(r)) {
        return bad("ip-range", format!("{range} is not inside {subnet} of network {name}"));
    }
    if let Some((who, ip)) = config.aux.iter().find(|(_, ip)| !subnet.contains(**ip)) {
        return bad("aux-address", format!("{who}={ip} is not inside {subnet}"));
    }
    match config.gateway {
        Some(ip) if !subnet.contains(ip) => {
            return bad("gateway", format!("{ip} is not inside {subnet}"));
        }
        None if !gatewayless => config.gateway = Some(first_gateway(subnet, config)?),
        _ => (),
    }
    Ok(())
}

/// The first address that no aux entry has.
fn first_gateway(subnet: Subnet, config: &IpamConfig) -> Result<IpAddr, NetError> {
    let first = u128::from(subnet.span() > 1);
    (first..=first + config.aux.len() as u128)
        .filter_map(|n| subnet.nth(n))
        .find(|ip| !config.aux.values().any(|a| a == ip))
        .ok_or_else(|| NetError::AddressesExhausted(subnet.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn with(subnet: &str) -> NetworkSpec {
        let ipam =
            IpamConfig { subnet: Some(s(subnet)), range: None, gateway: None, aux: [].into() };
        NetworkSpec { name: "n".into(), ipam: vec![ipam], ..NetworkSpec::default() }
    }

    fn resolve(spec: NetworkSpec) -> Result<Record, NetError> {
        let config = NetConfig::default();
        let around = Surroundings {
            config: &config,
            networks: vec![("web".into(), s("172.17.0.0/16"))],
            routes: vec![s("172.18.0.0/16")],
        };
        Record::resolve(spec, (Id::random(), 0), &around)
    }

    #[test]
    fn what_is_left_open_is_chosen() {
        let r = resolve(NetworkSpec { name: "n".into(), ipv6: Some(true), ..Default::default() });
        let r = r.unwrap();
        assert_eq!(r.ipam[0].subnet, Some(s("172.19.0.0/16")));
        assert_eq!(r.ipam[0].gateway, Some("172.19.0.1".parse().unwrap()));
        assert!(s("fd00::/8").covers(&r.ipam[1].subnet.unwrap()));
        assert!(!r.ipam[1].gateway.unwrap().is_ipv4());
    }

    #[test]
    fn a_gateway_without_a_subnet_goes_with_the_chosen_one() {
        let mut spec = with("10.5.0.0/24");
        spec.ipam[0].gateway = Some("10.5.0.254".parse().unwrap());
        assert_eq!(resolve(spec).unwrap().ipam[0].gateway, Some("10.5.0.254".parse().unwrap()));
        let only6 = NetworkSpec { ipv4: Some(false), ipv6: Some(true), ..with("fd77::/64") };
        assert_eq!(resolve(only6).unwrap().ipam.len(), 1);
    }

    #[test]
    fn what_nobody_routes_through_reserves_no_address() {
        let gateway = |driver: &str, internal: bool, options: &[(&str, &str)]| {
            let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            let (driver, options) = (driver.to_owned(), options.collect());
            let spec = NetworkSpec { driver, internal, options, ..with("10.0.0.0/31") };
            resolve(spec).unwrap().ipam[0].gateway.is_some()
        };
        let inhibit = ("com.docker.network.bridge.inhibit_ipv4", "true");
        let isolated = ("com.docker.network.bridge.gateway_mode_ipv4", "isolated");
        assert!(gateway("bridge", true, &[]));
        assert!(gateway("bridge", false, &[inhibit]));
        assert!(!gateway("bridge", true, &[inhibit]));
        assert!(!gateway("bridge", true, &[isolated]));
        assert!(!gateway("macvlan", false, &[]));
        assert!(gateway("macvlan", false, &[("parent", "eth0")]));
        assert!(!gateway("macvlan", true, &[("parent", "eth0")]));
        assert!(!gateway("ipvlan", false, &[("parent", "eth0"), ("ipvlan_mode", "l3")]));
    }

    #[test]
    fn the_host_gets_an_address_beside_the_containers() {
        let shim = |value: &str, range: Option<&str>| {
            let mut spec = NetworkSpec { driver: "macvlan".into(), ..with("192.0.2.0/24") };
            spec.options.insert("host_shim".into(), value.into());
            spec.ipam[0].range = range.map(s);
            Network::new(resolve(spec)?).map(|n| n.shim().map(|ip| ip.to_string()))
        };
        assert_eq!(shim("true", None).unwrap().as_deref(), Some("192.0.2.254"));
        assert_eq!(shim("1", Some("192.0.2.64/26")).unwrap().as_deref(), Some("192.0.2.127"));
        assert_eq!(shim("192.0.2.9", None).unwrap().as_deref(), Some("192.0.2.9"));
        assert_eq!(shim("false", None).unwrap(), None);
        assert!(shim("10.0.0.1", None).unwrap_err().to_string().contains("host_shim"));
    }

    #[test]
    fn a_route_to_the_subnet_or_a_part_of_it_is_in_the_way() {
        let check = |subnet: &str, free: bool| {
            let got = resolve(with(subnet)).map_err(|e| e.to_string());
            assert_eq!(got.is_ok(), free, "{subnet}: {got:?}");
            assert!(free || got.unwrap_err().contains("a route of this host (172.18.0.0/16)"));
        };
        check("172.18.0.0/16", false);
        check("172.18.0.0/15", false);
        check("172.18.5.0/24", true);
        check("10.0.0.0/8", true);
    }

    #[test]
    fn wrong_requests_say_what_is_wrong() {
        for (spec, want) in [
            (with("172.17.5.0/24"), "Pool overlaps with other one on this address space"),
            (with("10.0.0.1/24"), "it should be 10.0.0.0/24"),
            (with("10.0.0.1/32"), "no room"),
            (with("fd77::/64"), "IPv6 is not enabled"),
            (NetworkSpec { name: "a b ".into(), ..with("10.0.0.0/24") }, "must match"),
            (NetworkSpec { driver: "overlay".into(), ..with("10.0.0.0/24") }, "overlay"),
            (
                NetworkSpec {
                    ipv4: Some(false),
                    ..NetworkSpec { name: "n".into(), ..Default::default() }
                },
                "must be enabled",
            ),
        ] {
            let e = resolve(spec).unwrap_err().to_string();
            assert!(e.contains(want), "{e}");
        }
    }
}
