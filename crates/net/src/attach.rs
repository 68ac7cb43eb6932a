//! Putting sandboxes on networks and taking them off.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use wharf_base::Id;
use wharf_base::db::Batch as Changes;
use wharf_sys::netlink::Batch;
use wharf_sys::netlink::route::{
    Address, BridgePort, Link, LinkChange, LinkKind, LinkRef, MAIN_TABLE, Neighbour, NewLink, Route,
};
use wharf_sys::nft::Transaction;

use crate::elements::of_ports;
use crate::error::{NetError, kernel};
use crate::interface::bridge_netfilter;
use crate::mac::Mac;
use crate::namespace::Namespace;
use crate::net::{ENDPOINTS, Member, Net, State, endpoint_key, warn};
use crate::network::Network;
use crate::options::EndpointOptions;
use crate::spec::{Driver, Endpoint, EndpointConfig};
use crate::subnet::Subnet;

/// What the kernel is to be told for one endpoint.
struct Wiring {
    ns: Arc<Namespace>,
    network: Network,
    endpoint: Endpoint,
    options: EndpointOptions,
    link_local: Vec<IpAddr>,
    /// The sandbox's default routes after this endpoint has joined.
    gateways: Gateways,
    /// The user chose the MAC address, so neighbours may remember another for this IP address.
    own_mac: bool,
    /// Nobody else is on the network, so its bridge comes to life with this endpoint.
    first: bool,
}

/// Which interface carries the default route of each family, and to where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gateways {
    v4: Option<(String, Ipv4Addr)>,
    v6: Option<(String, Ipv6Addr)>,
}

impl Net {
    /// Puts a sandbox on a network: interface, addresses, routes. On `host` and `none` a record only.
    pub fn attach(
        &self,
        sandbox: &Id,
        network: &str,
        config: EndpointConfig,
    ) -> Result<Endpoint, NetError> {
        let wiring = match self.join(sandbox, network, &config) {
            // Addresses of sandboxes that are being taken apart are free in a moment.
            Err(NetError::AddressTaken(_) | NetError::AddressesExhausted(_)) => {
                self.reap();
                self.join(sandbox, network, &config)?
            }
            other => other?,
        };
        let Some(wiring) = wiring else {
            return self.endpoint(sandbox, network);
        };
        match self.connect(&wiring) {
            Ok(()) => Ok(wiring.endpoint),
            Err(e) => {
                self.leave(&wiring.endpoint);
                Err(e)
            }
        }
    }

    /// Takes a sandbox off a network, its published ports there included.
    pub fn detach(&self, sandbox: &Id, network: &str) -> Result<(), NetError> {
        let endpoint = self.endpoint(sandbox, network)?;
        self.withdraw(&endpoint)?;
        self.reopen(&endpoint, Vec::new())?;
        let before = self.gateways(sandbox);
        if !endpoint.ifname.is_empty() {
            self.disconnect(&endpoint)?;
        }
        self.leave(&endpoint);
        let after = self.gateways(sandbox);
        if let Some(ns) = self.state.lock().sandboxes.get(sandbox).and_then(|m| m.ns.clone()) {
            let mut batch = Batch::new();
            default_routes(&ns, &mut batch, &before, &after)?;
            ns.route().lock().execute(batch).map_err(kernel("set default route"))?;
        }
        Ok(())
    }

    /// One endpoint of a sandbox.
    pub(crate) fn endpoint(&self, sandbox: &Id, network: &str) -> Result<Endpoint, NetError> {
        let state = self.state.lock();
        let id = state.find(network)?;
        let member = state.sandboxes.get(sandbox);
        member.and_then(|m| m.endpoints.get(&id)).cloned().ok_or_else(|| NetError::NotConnected {
            container: sandbox.to_string(),
            network: network.to_owned(),
        })
    }

    /// After a restart: puts the interfaces of a sandbox back on bridges that had to be made anew.
    pub(crate) fn reconnect(&self, sandbox: &Id) -> Result<(), NetError> {
        let pairs: Vec<(Endpoint, Network)> = {
            let state = self.state.lock();
            let member = state.sandboxes.get(sandbox);
            let all = member.into_iter().flat_map(|m| m.endpoints.values());
            all.filter_map(|e| Some((e.clone(), state.networks.get(&e.network)?.clone()))).collect()
        };
        for (endpoint, network) in pairs {
            let Some(port) = self.host_link(&endpoint.host_ifname)? else { continue };
            let Some(bridge) = self.ensure_interface(&network)? else { continue };
            if port.master == bridge.index {
                continue;
            }
            let mut batch = Batch::new();
            let change = LinkChange { master: Some(bridge.index), ..LinkChange::default() };
            batch.change_link(LinkRef::Index(port.index), &change);
            batch.change_link(LinkRef::Index(port.index), &port_settings(&network));
            let done = self.route.lock().execute(batch);
            done.map_err(kernel(format!("return {} to {}", endpoint.host_ifname, network.ifname)))?;
        }
        Ok(())
    }

    /// Reserves addresses and a name, and records the endpoint. `None` when there is nothing to wire.
    fn join(
        &self,
        sandbox: &Id,
        network: &str,
        config: &EndpointConfig,
    ) -> Result<Option<Wiring>, NetError> {
        let options = EndpointOptions::parse(&config.options)?;
        let mut state = self.state.lock();
        let id = state.find(network)?;
        if state.networks.get(&id).is_some_and(|n| n.record.config_only) {
            return Err(NetError::Config(CONFIG_ONLY));
        }
        let endpoint = state.new_endpoint(sandbox, &id, config, &options)?;
        if let Err(e) = self.save_endpoint(&endpoint) {
            if let Some(n) = state.networks.get_mut(&id) {
                n.free(&endpoint);
            }
            return Err(e);
        }
        let first = !state.sandboxes.values().any(|m| m.endpoints.contains_key(&id));
        let member = state.sandboxes.entry(sandbox.clone()).or_default();
        member.endpoints.insert(id.clone(), endpoint.clone());
        let (ns, gateways) = (member.ns.clone(), gateways(&member.endpoints));
        let (Some(ns), false) = (ns, endpoint.ifname.is_empty()) else { return Ok(None) };
        Ok(Some(Wiring {
            ns,
            network: state.networks[&id].clone(),
            first,
            own_mac: config.mac.is_some() || endpoint.ipv4.is_none(),
            endpoint,
            options,
            link_local: config.link_local.clone(),
            gateways,
        }))
    }

    /// Undoes [`Net::join`].
    fn leave(&self, endpoint: &Endpoint) {
        let mut state = self.state.lock();
        let mut empty = false;
        if let Some(member) = state.sandboxes.get_mut(&endpoint.sandbox) {
            member.endpoints.remove(&endpoint.network);
            empty = member.ns.is_none() && member.endpoints.is_empty();
        }
        if empty {
            state.sandboxes.remove(&endpoint.sandbox);
        }
        if let Some(network) = state.networks.get_mut(&endpoint.network) {
            network.free(endpoint);
        }
        let mut changes = Changes::new();
        changes.delete(ENDPOINTS, &endpoint_key(endpoint));
        self.write_or_warn(changes);
    }

    fn connect(&self, w: &Wiring) -> Result<(), NetError> {
        let Some(parent) = self.ensure_cheaply(&w.network)? else { return Ok(()) };
        self.create_interface(w, &parent)?;
        let done = self
            .configure_interface(w)
            .and_then(|()| self.settle(w))
            .and_then(|()| self.shim_routes(&w.network, std::iter::once(&w.endpoint)));
        if done.is_err()
            && let Err(e) = self.disconnect(&w.endpoint)
        {
            warn(&e, "undo attach");
        }
        done
    }

    /// The bridge or parent, which is made again if somebody removed it.
    fn ensure_cheaply(&self, network: &Network) -> Result<Option<Link>, NetError> {
        if let Some(link) = self.host_link(&network.ifname)?
            && link.up
        {
            return Ok(Some(link));
        }
        self.ensure_interface(network)
    }

    fn create_interface(&self, w: &Wiring, on: &Link) -> Result<(), NetError> {
        let e = &w.endpoint;
        let parent = on.index;
        let inside = NewLink {
            name: &e.ifname,
            mac: e.mac.map(|m| m.0),
            mtu: None,
            master: None,
            ns: Some(w.ns.fd()),
            up: false,
            kind: LinkKind::Peer,
        };
        let mut batch = Batch::new();
        let driver = w.network.record.driver;
        if driver.has_parent() {
            let kind = w.network.options.child(driver, parent);
            batch.add_link(&NewLink { kind, mtu: w.network.options.mtu, ..inside });
            self.add_child(&on.name, batch, driver.as_str())?;
            if w.own_mac {
                forget_neighbours(&mut self.route.lock(), parent, e);
            }
            return Ok(());
        }
        let mtu = Some(w.network.options.mtu.unwrap_or(on.mtu));
        let inside = NewLink { mtu, ..inside };
        batch.add_link(&NewLink {
            name: &e.host_ifname,
            mac: None,
            mtu,
            master: Some(parent),
            ns: None,
            up: false,
            kind: LinkKind::Veth(&inside),
        });
        let host = LinkRef::Name(&e.host_ifname);
        // One message: each takes the lock that all network changes of the machine share.
        let alias = self.alias(&e.id);
        let settings = port_settings(&w.network);
        batch.change_link(host, &LinkChange { alias: Some(&alias), up: Some(true), ..settings });
        let what = format!("connect {} to network {}", e.container_name, e.network_name);
        let mut route = self.route.lock();
        if let Err(error) = route.execute(batch) {
            let mut undo = Batch::new();
            undo.delete_link(LinkRef::Name(&e.host_ifname));
            // Absent if the first request was the one that failed.
            route.execute(undo).ok();
            return Err(kernel(what)(error));
        }
        if w.own_mac {
            forget_neighbours(&mut route, parent, e);
        }
        Ok(())
    }

    fn configure_interface(&self, w: &Wiring) -> Result<(), NetError> {
        let e = &w.endpoint;
        w.ns.write_sysctls(&sysctls(e, &w.options)).map_err(kernel("set interface sysctls"))?;
        let what = format!("configure {} of {}", e.ifname, e.container_name);
        let link = w.ns.route().lock().link(LinkRef::Name(&e.ifname));
        let Some(link) = link.map_err(kernel(what.clone()))? else {
            return Err(kernel(what)(io::Error::from(io::ErrorKind::NotFound)));
        };
        let mut batch = Batch::new();
        batch.change_link(
            LinkRef::Index(link.index),
            &LinkChange { up: Some(true), ..LinkChange::default() },
        );
        for own in [e.ipv4, e.ipv6].into_iter().flatten() {
            batch.add_address(&Address {
                link: link.index,
                ip: own.addr(),
                prefix: own.prefix(),
                scope: 0,
            });
        }
        for ip in &w.link_local {
            const SCOPE_LINK: u8 = 253;
            let prefix = if ip.is_ipv4() { 16 } else { 64 };
            batch.add_address(&Address { link: link.index, ip: *ip, prefix, scope: SCOPE_LINK });
        }
        // The routes of another endpoint stand unless this one takes them over.
        let own = |name: &str| name == e.ifname;
        if let Some((_, via)) = w.gateways.v4.as_ref().filter(|(n, _)| own(n)) {
            batch.replace_route(&default_route((*via).into(), link.index));
        }
        if let Some((_, via)) = w.gateways.v6.as_ref().filter(|(n, _)| own(n)) {
            batch.replace_route(&default_route((*via).into(), link.index));
        }
        if w.network.options.is_layer3() && !w.network.record.internal {
            for own in [e.ipv4, e.ipv6].into_iter().flatten() {
                let taken =
                    if own.is_ipv4() { w.gateways.v4.is_some() } else { w.gateways.v6.is_some() };
                if !taken {
                    let any = unspecified(own.addr());
                    batch.replace_route(&Route { via: None, ..default_route(any, link.index) });
                }
            }
        }
        let done = w.ns.route().lock().execute(batch);
        done.map_err(kernel(what))
    }

    /// Makes the kernel see the cable as connected now. It does so by itself some milliseconds later, and
    /// loses what is sent until then: a first SYN would come back after a second. Asking for a link
    /// that has just changed brings the state up to date (Linux 6.8 on; before, it does no harm).
    fn settle(&self, w: &Wiring) -> Result<(), NetError> {
        if !w.endpoint.host_ifname.is_empty() {
            self.host_link(&w.endpoint.host_ifname)?;
            if w.first {
                self.host_link(&w.network.ifname)?;
            }
        }
        Ok(())
    }

    fn disconnect(&self, e: &Endpoint) -> Result<(), NetError> {
        let done = if e.host_ifname.is_empty() {
            let ns = self.state.lock().sandboxes.get(&e.sandbox).and_then(|m| m.ns.clone());
            let Some(ns) = ns else { return Ok(()) };
            let mut batch = Batch::new();
            batch.delete_link(LinkRef::Name(&e.ifname));
            ns.route().lock().execute(batch)
        } else {
            self.vanish(&e.host_ifname)
        };
        match done {
            Err(error) if !error.is_absent() => {
                Err(kernel(format!("disconnect from network {}", e.network_name))(error))
            }
            _ => Ok(()),
        }
    }

    /// Withdraws the ports of one endpoint.
    pub(crate) fn withdraw(&self, endpoint: &Endpoint) -> Result<(), NetError> {
        if endpoint.ports.is_empty() {
            return Ok(());
        }
        let rules = {
            let mut state = self.state.lock();
            state.held.release(&endpoint.ports);
            let rules = state
                .networks
                .get(&endpoint.network)
                .map(|n| of_ports(endpoint, n, &endpoint.ports));
            let member = state.sandboxes.get_mut(&endpoint.sandbox);
            if let Some(e) = member.and_then(|m| m.endpoints.get_mut(&endpoint.network)) {
                e.ports.clear();
                self.save_endpoint(e)?;
            }
            rules.unwrap_or_default()
        };
        let mut t = Transaction::new();
        self.tables.remove(&mut t, rules);
        self.commit(t)
    }

    pub(crate) fn gateways(&self, sandbox: &Id) -> Gateways {
        let state = self.state.lock();
        state.sandboxes.get(sandbox).map(|m| gateways(&m.endpoints)).unwrap_or_default()
    }
}

impl State {
    fn new_endpoint(
        &mut self,
        sandbox: &Id,
        id: &Id,
        config: &EndpointConfig,
        options: &EndpointOptions,
    ) -> Result<Endpoint, NetError> {
        let none = Member::default();
        let member = self.sandboxes.get(sandbox).unwrap_or(&none);
        let network =
            self.networks.get_mut(id).ok_or_else(|| NetError::NoNetwork(id.to_string()))?;
        let name = network.record.name.clone();
        if member.endpoints.contains_key(id) {
            let container = config.container_name.clone();
            return Err(NetError::AlreadyConnected { container, network: name });
        }
        let driver = network.record.driver;
        let wired = driver.is_wired();
        if driver == Driver::Ipvlan && config.mac.is_some() {
            let why = "containers on an ipvlan network have the MAC address of their parent";
            return Err(NetError::invalid("MAC address", why));
        }
        if wired && member.ns.is_none() {
            return Err(NetError::NoSandbox(sandbox.to_string()));
        }
        let ifname =
            if wired { free_ifname(member, network, config, options)? } else { String::new() };
        let (ipv4, ipv6) = take_addresses(network, config)?;
        let eid = Id::random();
        let host_ifname = match network.record.driver {
            Driver::Bridge => format!("veth{}", &eid.as_str()[..7]),
            _ => String::new(),
        };
        let routes = |v4: bool| network.routes_out(v4) && !network.options.is_layer3();
        let gateway = |v4: bool| network.gateway(v4).filter(|_| routes(v4));
        Ok(Endpoint {
            id: eid,
            sandbox: sandbox.clone(),
            container_name: config.container_name.clone(),
            hostname: config.hostname.clone(),
            network: id.clone(),
            network_name: name,
            ifname,
            host_ifname,
            mac: (wired && driver != Driver::Ipvlan)
                .then(|| config.mac.unwrap_or_else(|| mac_for(ipv4))),
            ipv4,
            ipv6,
            gateway4: gateway(true).and_then(v4_of),
            gateway6: gateway(false).and_then(v6_of),
            aliases: config.aliases.clone(),
            links: config.links.clone(),
            exposed: config.exposed.clone(),
            gateway_priority: config.gateway_priority,
            ports: Vec::new(),
            opened: Vec::new(),
        })
    }
}

/// Highest priority first, then by network name: the order in which endpoints are asked for a default route.
pub(crate) fn gateway_order(a: &Endpoint, b: &Endpoint) -> Ordering {
    let key =
        |e: &Endpoint| (e.gateway4.is_none() && e.gateway6.is_none(), Reverse(e.gateway_priority));
    key(a).cmp(&key(b)).then_with(|| a.network_name.cmp(&b.network_name))
}

fn gateways(endpoints: &BTreeMap<Id, Endpoint>) -> Gateways {
    let mut all: Vec<&Endpoint> = endpoints.values().collect();
    all.sort_by(|a, b| gateway_order(a, b));
    Gateways {
        v4: all.iter().find_map(|e| Some((e.ifname.clone(), e.gateway4?))),
        v6: all.iter().find_map(|e| Some((e.ifname.clone(), e.gateway6?))),
    }
}

/// Adds what turns the default routes of one state into those of another.
pub(crate) fn default_routes(
    ns: &Namespace,
    batch: &mut Batch,
    before: &Gateways,
    after: &Gateways,
) -> Result<(), NetError> {
    let pairs = [
        (before.v4 != after.v4, after.v4.as_ref().map(|(n, ip)| (n, IpAddr::from(*ip)))),
        (before.v6 != after.v6, after.v6.as_ref().map(|(n, ip)| (n, IpAddr::from(*ip)))),
    ];
    for (changed, to) in pairs {
        let Some((name, via)) = to.filter(|_| changed) else { continue };
        let link =
            ns.route().lock().link(LinkRef::Name(name)).map_err(kernel("look up interface"))?;
        if let Some(link) = link {
            batch.replace_route(&default_route(via, link.index));
        }
    }
    Ok(())
}

pub(crate) fn default_route(via: IpAddr, link: u32) -> Route {
    Route {
        to: unspecified(via),
        prefix: 0,
        via: Some(via),
        link: Some(link),
        source: None,
        metric: None,
        table: MAIN_TABLE,
        kind: 1,
    }
}

/// Docker's text.
const CONFIG_ONLY: &str = "cannot create endpoint on configuration-only network";

/// The address `0.0.0.0` or `::`, of the family of another.
fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn port_settings(network: &Network) -> LinkChange<'static> {
    LinkChange {
        // The host's end needs no address.
        ipv6_autoconf: Some(false),
        port: Some(BridgePort { hairpin: bridge_netfilter(), isolated: !network.options.icc }),
        ..LinkChange::default()
    }
}

fn sysctls(e: &Endpoint, options: &EndpointOptions) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    if e.ipv6.is_some() {
        pairs.push((format!("net/ipv6/conf/{}/accept_dad", e.ifname), "0".to_owned()));
        pairs.push((format!("net/ipv6/conf/{}/disable_ipv6", e.ifname), "0".to_owned()));
    }
    let named = |name: &str| name.replace("/IFNAME/", &format!("/{}/", e.ifname));
    pairs.extend(options.sysctls.iter().map(|(name, value)| (named(name), value.clone())));
    pairs
}

/// The host may remember who had the addresses before.
fn forget_neighbours(route: &mut wharf_sys::netlink::Socket, bridge: u32, e: &Endpoint) {
    for ip in [e.ipv4, e.ipv6].into_iter().flatten() {
        let mut batch = Batch::new();
        let n = Neighbour { link: bridge, ip: Some(ip.addr()), mac: None, bridge: false };
        batch.delete_neighbour(&n);
        // Mostly there is nothing to forget.
        route.execute(batch).ok();
    }
}

fn take_addresses(
    network: &mut Network,
    config: &EndpointConfig,
) -> Result<(Option<Subnet>, Option<Subnet>), NetError> {
    let off = |family: &str| {
        let why = format!("network {} has no {family} subnet", network.record.name);
        NetError::invalid("address", why)
    };
    if config.ipv4.is_some() && network.v4.is_none() {
        return Err(off("IPv4"));
    }
    if config.ipv6.is_some() && network.v6.is_none() {
        return Err(off("IPv6"));
    }
    let v4 = network.v4.as_mut().map(|p| p.take(config.ipv4.map(IpAddr::V4))).transpose()?;
    let v6 = network.v6.as_mut().map(|p| p.take(config.ipv6.map(IpAddr::V6))).transpose();
    if let (Err(_), Some(taken), Some(pool)) = (&v6, v4, &mut network.v4) {
        pool.free(taken.addr());
    }
    Ok((v4, v6?))
}

fn free_ifname(
    member: &Member,
    network: &Network,
    config: &EndpointConfig,
    options: &EndpointOptions,
) -> Result<String, NetError> {
    let used = |name: &str| member.endpoints.values().any(|e| e.ifname == name);
    if let Some(name) = config.ifname.as_ref().or(options.ifname.as_ref()) {
        let name = crate::options::interface_name("interface name", name)?;
        if used(&name) {
            let why = format!(
                "error renaming interface to {name:?}: file exists: the container has one of that name"
            );
            return Err(NetError::invalid("interface name", why));
        }
        return Ok(name);
    }
    let prefix = &network.options.prefix;
    let numbered = |n: usize| format!("{prefix}{n}");
    // There are more candidates than endpoints, so one is free.
    (0..=member.endpoints.len())
        .map(numbered)
        .find(|name| !used(name))
        .ok_or_else(|| NetError::invalid("interface name", format!("no free {prefix}N")))
}

/// Made from the address, so that whoever remembers the pair is right about the next container with this address, too.
fn mac_for(ipv4: Option<Subnet>) -> Mac {
    match ipv4.map(|s| s.addr()) {
        Some(IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            Mac([0x02, 0x42, a, b, c, d])
        }
        _ => Mac::random(),
    }
}

fn v4_of(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

fn v6_of(ip: IpAddr) -> Option<Ipv6Addr> {
    match ip {
        IpAddr::V6(ip) => Some(ip),
        IpAddr::V4(_) => None,
    }
}
