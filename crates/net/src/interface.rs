//! The host's side of a network: its bridge or macvlan parent, forwarding, and what routes there are.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use wharf_base::Id;
use wharf_sys::netlink::route::{
    Address, Link, LinkChange, LinkKind, LinkRef, MAIN_TABLE, NewLink, Route,
};
use wharf_sys::netlink::{Batch, netns};

use crate::error::{NetError, kernel, missing_driver};
use crate::mac::Mac;
use crate::net::Net;
use crate::network::Network;
use crate::spec::{Driver, Endpoint};
use crate::subnet::Subnet;

/// How long the kernel may take to remove the interfaces of a namespace that ended.
const NAMESPACE_GONE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[allow(clippy::disallowed_methods, reason = "no event tells of children in other namespaces")]
fn pause() {
    std::thread::sleep(LOOK_AGAIN);
}

impl Net {
    /// Makes the bridge or the macvlan parent of a network, or completes it if it is there.
    pub(crate) fn ensure_interface(&self, network: &Network) -> Result<Option<Link>, NetError> {
        match network.record.driver {
            Driver::Bridge => self.ensure_bridge(network).map(Some),
            Driver::Macvlan | Driver::Ipvlan => {
                let parent = self.ensure_parent(network)?;
                self.ensure_shim(network, &parent)?;
                Ok(Some(parent))
            }
            Driver::Host | Driver::Null => Ok(None),
        }
    }

    /// Removes the interfaces of a network that wharf made.
    pub(crate) fn remove_interface(&self, network: &Network) -> Result<(), NetError> {
        if network.options.shim.is_some() {
            self.remove_own(network, &shim_name(network))?;
        }
        self.remove_own(network, &network.ifname)
    }

    fn remove_own(&self, network: &Network, name: &str) -> Result<(), NetError> {
        let Some(link) = self.own_link(network, name)? else { return Ok(()) };
        let mut batch = Batch::new();
        batch.delete_link(LinkRef::Index(link.index));
        match self.route.lock().execute(batch) {
            Err(e) if !e.is_absent() => Err(kernel(format!("remove interface {name}"))(e)),
            _ => Ok(()),
        }
    }

    /// An interface, if wharf made it for this network.
    pub(crate) fn own_link(&self, network: &Network, name: &str) -> Result<Option<Link>, NetError> {
        let own = self.alias(&network.record.id);
        Ok(self.host_link(name)?.filter(|l| l.alias == own))
    }

    /// The mark by which wharf knows its interfaces.
    pub(crate) fn alias(&self, id: &Id) -> String {
        format!("{}{id}", self.alias_prefix())
    }

    pub(crate) fn alias_prefix(&self) -> String {
        format!("wharf{}:", self.config.instance)
    }

    /// Looks an interface of the host up.
    pub(crate) fn host_link(&self, name: &str) -> Result<Option<Link>, NetError> {
        let found = self.route.lock().link(LinkRef::Name(name));
        found.map_err(kernel(format!("look up interface {name}")))
    }

    /// Where the host has routes to, the default route and wharf's own bridges aside.
    pub(crate) fn host_routes(&self) -> Result<Vec<Subnet>, NetError> {
        let own: BTreeSet<String> =
            self.state.lock().networks.values().map(|n| n.ifname.clone()).collect();
        let mut route = self.route.lock();
        let links = route.links().map_err(kernel("list interfaces"))?;
        let routes = route.routes().map_err(kernel("list routes"))?;
        let of_own = |index: u32| links.iter().any(|l| l.index == index && own.contains(&l.name));
        Ok(routes
            .into_iter()
            .filter(|r| r.table == MAIN_TABLE && r.prefix > 0)
            .filter(|r| !r.link.is_some_and(of_own))
            .filter_map(|r| Subnet::new(r.to, r.prefix))
            .collect())
    }

    /// The MTU of the interface that the host's default route leaves by.
    pub(crate) fn host_mtu(&self) -> u32 {
        const ETHERNET: u32 = 1500;
        let mut route = self.route.lock();
        let Ok(routes) = route.routes() else { return ETHERNET };
        let default = routes
            .iter()
            .filter(|r| r.table == MAIN_TABLE && r.prefix == 0 && r.to.is_ipv4())
            .min_by_key(|r| r.metric.unwrap_or(0));
        let Some(index) = default.and_then(|r| r.link) else { return ETHERNET };
        let link = route.link(LinkRef::Index(index)).ok().flatten();
        link.map_or(ETHERNET, |l| l.mtu.min(ETHERNET))
    }

    /// The MTU of a network's interfaces.
    pub(crate) fn mtu(&self, network: &Network) -> u32 {
        let own = network.options.mtu.or(Some(self.config.mtu)).filter(|m| *m > 0);
        own.unwrap_or_else(|| self.host_mtu())
    }

    fn ensure_bridge(&self, network: &Network) -> Result<Link, NetError> {
        let name = &network.ifname;
        let link = match self.host_link(name)? {
            Some(link) if link.kind == "bridge" => {
                self.claim(network, &link)?;
                link
            }
            Some(link) => {
                let why = format!("{name} exists and is not a bridge but a {:?}", link.kind);
                return Err(NetError::invalid("bridge name", why));
            }
            None => self.create_bridge(network)?,
        };
        self.bridge_sysctls(network)?;
        self.complete_bridge(network, &link)?;
        self.forward(network)?;
        Ok(link)
    }

    /// A bridge that wharf made for a network whose record is lost is this network's now.
    fn claim(&self, network: &Network, link: &Link) -> Result<(), NetError> {
        let own = self.alias(&network.record.id);
        if !link.alias.starts_with(&self.alias_prefix()) || link.alias == own {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.set_alias(LinkRef::Index(link.index), &own);
        let done = self.route.lock().execute(batch);
        done.map_err(kernel(format!("label bridge {}", link.name)))
    }

    fn create_bridge(&self, network: &Network) -> Result<Link, NetError> {
        let name = &network.ifname;
        let mtu = self.mtu(network);
        let mut batch = Batch::new();
        batch.add_link(&NewLink {
            name,
            // Without an address of its own a bridge changes it whenever a container comes or goes.
            mac: Some(Mac::random().0),
            mtu: Some(mtu),
            master: None,
            ns: None,
            up: false,
            kind: LinkKind::Bridge,
        });
        batch.set_alias(LinkRef::Name(name), &self.alias(&network.record.id));
        let done = self.route.lock().execute(batch);
        done.map_err(kernel(format!("create bridge {name}")))?;
        let gone = || NetError::Kernel {
            action: format!("create bridge {name}"),
            source: std::io::ErrorKind::NotFound.into(),
        };
        self.host_link(name)?.ok_or_else(gone)
    }

    /// Addresses that are missing, and up.
    fn complete_bridge(&self, network: &Network, link: &Link) -> Result<(), NetError> {
        let mut route = self.route.lock();
        let there = route.addresses().map_err(kernel("list addresses"))?;
        let mut batch = Batch::new();
        for want in [true, false].into_iter().filter_map(|v4| network.bridge_address(v4)) {
            let has = |a: &Address| a.link == link.index && a.ip == want.addr();
            if !there.iter().any(has) {
                batch.add_address(&Address {
                    link: link.index,
                    ip: want.addr(),
                    prefix: want.prefix(),
                    scope: 0,
                });
            }
        }
        if !link.up {
            let up = LinkChange { up: Some(true), ..LinkChange::default() };
            batch.change_link(LinkRef::Index(link.index), &up);
        }
        if batch.is_empty() {
            return Ok(());
        }
        route.execute(batch).map_err(kernel(format!("configure bridge {}", network.ifname)))
    }

    fn bridge_sysctls(&self, network: &Network) -> Result<(), NetError> {
        let name = &network.ifname;
        let ipv6 = if network.record.ipv6 { "0" } else { "1" };
        // 127.0.0.1 reaches published ports through the bridge; the table `…-filter` keeps containers
        // from doing the same the other way.
        set(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
        set(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
        if network.record.predefined && !network.options.icc {
            // Neighbours do not hear one another. The host answers in their place and forwards what the
            // table `…-filter` lets through: nothing but what links open.
            set(&format!("net/ipv4/conf/{name}/proxy_arp_pvlan"), "1")?;
        }
        // Until duplicate detection of its link-local address is done, the host asks for no neighbour on
        // the bridge: containers would be unreachable for two seconds.
        set(&format!("net/ipv6/conf/{name}/accept_dad"), "0")?;
        set(&format!("net/ipv6/conf/{name}/disable_ipv6"), ipv6)
    }

    fn forward(&self, network: &Network) -> Result<(), NetError> {
        if !self.config.ip_forward || network.record.internal {
            return Ok(());
        }
        if network.record.ipv4 {
            set("net/ipv4/ip_forward", "1")?;
        }
        if network.record.ipv6 {
            keep_router_advertisements()?;
            set("net/ipv6/conf/all/forwarding", "1")?;
        }
        Ok(())
    }

    /// The interface that children hang from. `eth0.50` is made if it is missing, and where no parent is named, one
    /// that leads nowhere.
    fn ensure_parent(&self, network: &Network) -> Result<Link, NetError> {
        let name = &network.ifname;
        let found = self.host_link(name)?;
        let link = match found {
            Some(link) => link,
            None => self.create_parent(network)?,
        };
        if network.record.driver == Driver::Ipvlan {
            self.try_ipvlan(network, &link)?;
        }
        Ok(link)
    }

    fn create_parent(&self, network: &Network) -> Result<Link, NetError> {
        let name = &network.ifname;
        let no_parent = || NetError::invalid("parent", format!("the host has no interface {name}"));
        let kind = match &network.options.parent {
            // Docker takes a dummy here. A bridge without ports does the same, on every kernel that runs containers at all.
            None => LinkKind::Bridge,
            Some(_) => {
                let (parent, vid) = name.rsplit_once('.').ok_or_else(no_parent)?;
                let id =
                    vid.parse().ok().filter(|v| (1..=4094).contains(v)).ok_or_else(no_parent)?;
                let parent = self.host_link(parent)?.ok_or_else(no_parent)?.index;
                LinkKind::Vlan { parent, id }
            }
        };
        let mut batch = Batch::new();
        batch.add_link(&plain(name, kind));
        batch.set_alias(LinkRef::Name(name), &self.alias(&network.record.id));
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        batch.change_link(LinkRef::Name(name), &up);
        let done = self.route.lock().execute(batch);
        done.map_err(missing_driver("802.1Q VLANs", "8021q"))?;
        self.host_link(name)?.ok_or_else(no_parent)
    }

    /// Finds out whether the kernel has ipvlan when a network is made, and not when the first container starts on it.
    fn try_ipvlan(&self, network: &Network, parent: &Link) -> Result<(), NetError> {
        let name = format!("try-{}", &network.record.id.as_str()[..10]);
        let mut batch = Batch::new();
        batch.add_link(&plain(&name, network.options.child(Driver::Ipvlan, parent.index)));
        self.add_child(&parent.name, batch, "ipvlan")?;
        let mut batch = Batch::new();
        batch.delete_link(LinkRef::Name(&name));
        self.route.lock().execute(batch).map_err(kernel("try ipvlan"))
    }

    /// Makes a child of an interface of the host, by the first request of the batch. The children of a namespace that
    /// ended are there until the kernel has taken it apart, and one of another kind is in the way for so long.
    pub(crate) fn add_child(
        &self,
        parent: &str,
        batch: Batch,
        driver: &'static str,
    ) -> Result<(), NetError> {
        let mut waited = Duration::ZERO;
        loop {
            let made = self.route.lock().execute(batch.clone());
            match made {
                Err(e) if e.is_busy() && waited >= NAMESPACE_GONE => {
                    return Err(NetError::ParentInUse(parent.to_owned()));
                }
                Err(e) if e.is_busy() => pause(),
                made => return made.map_err(missing_driver(driver, driver)),
            }
            waited += LOOK_AGAIN;
        }
    }

    /// The host's own child of the parent: the kernel lets no packet pass between a parent and its children.
    fn ensure_shim(&self, network: &Network, parent: &Link) -> Result<(), NetError> {
        let Some(ip) = network.shim() else { return Ok(()) };
        let name = shim_name(network);
        if self.host_link(&name)?.is_none() {
            let kind = network.options.child(network.record.driver, parent.index);
            let mut batch = Batch::new();
            batch.add_link(&plain(&name, kind));
            batch.set_alias(LinkRef::Name(&name), &self.alias(&network.record.id));
            let up = LinkChange { up: Some(true), ..LinkChange::default() };
            batch.change_link(LinkRef::Name(&name), &up);
            self.add_child(&parent.name, batch, network.record.driver.as_str())?;
            let Some(link) = self.host_link(&name)? else { return Ok(()) };
            let mut batch = Batch::new();
            let prefix = if ip.is_ipv4() { 32 } else { 128 };
            batch.add_address(&Address { link: link.index, ip, prefix, scope: 0 });
            let done = self.route.lock().execute(batch);
            done.map_err(kernel(format!("configure {name}")))?;
        }
        let endpoints: Vec<Endpoint> = {
            let state = self.state.lock();
            let members = state.sandboxes.values();
            members.filter_map(|m| m.endpoints.get(&network.record.id)).cloned().collect()
        };
        self.shim_routes(network, endpoints.iter())
    }

    /// Leads the host's packets for containers through its own child. Each address by itself: the others of the
    /// subnet are machines outside, which the host reaches as before.
    pub(crate) fn shim_routes<'a>(
        &self,
        network: &Network,
        endpoints: impl Iterator<Item = &'a Endpoint>,
    ) -> Result<(), NetError> {
        let Some(source) = network.shim() else { return Ok(()) };
        let Some(link) = self.host_link(&shim_name(network))? else { return Ok(()) };
        let mut batch = Batch::new();
        let addresses = endpoints.flat_map(|e| [e.ipv4, e.ipv6]).flatten().map(|s| s.addr());
        for to in addresses.filter(|ip| ip.is_ipv4() == source.is_ipv4()) {
            batch.replace_route(&Route {
                to,
                prefix: if to.is_ipv4() { 32 } else { 128 },
                via: None,
                link: Some(link.index),
                source: Some(source),
                metric: None,
                table: MAIN_TABLE,
                kind: 1,
            });
        }
        let done = self.route.lock().execute(batch);
        done.map_err(kernel(format!("route through {}", link.name)))
    }
}

fn shim_name(network: &Network) -> String {
    format!("shim-{}", &network.record.id.as_str()[..10])
}

fn plain<'a>(name: &'a str, kind: LinkKind<'a>) -> NewLink<'a> {
    NewLink { name, mac: None, mtu: None, master: None, ns: None, up: false, kind }
}

/// Whether frames on bridges pass the IP hooks, so that a translated frame may have to leave where it came in.
pub(crate) fn bridge_netfilter() -> bool {
    netns::read_sysctl("net/bridge/bridge-nf-call-iptables").is_ok_and(|v| v == "1")
}

/// The addresses of an interface, IPv4 first.
pub(crate) fn addresses_of(net: &Net, link: &Link) -> Result<Vec<Subnet>, NetError> {
    let all = net.route.lock().addresses().map_err(kernel("list addresses"))?;
    let own = all.into_iter().filter(|a| a.link == link.index && a.scope == 0);
    let mut subnets: Vec<_> = own.filter_map(|a| Subnet::new(a.ip, a.prefix)).collect();
    subnets.sort_by_key(|s| matches!(s.addr(), IpAddr::V6(_)));
    Ok(subnets)
}

/// Sets a sysctl unless it has that value, so that a read-only `/proc/sys` with the right value will do.
fn set(name: &str, value: &str) -> Result<(), NetError> {
    match netns::read_sysctl(name) {
        Ok(now) if now == value => return Ok(()),
        // A kernel without IPv6.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        _ => (),
    }
    netns::write_sysctl(name, value)
        .map_err(kernel(format!("set {}={value}", name.replace('/', "."))))
}

/// A host that forwards IPv6 stops listening to router advertisements, and loses its own default
/// route; `accept_ra=2` keeps it listening where it does now.
fn keep_router_advertisements() -> Result<(), NetError> {
    if netns::read_sysctl("net/ipv6/conf/all/forwarding").is_ok_and(|v| v == "1") {
        return Ok(());
    }
    let Ok(dir) = std::fs::read_dir("/proc/sys/net/ipv6/conf") else { return Ok(()) };
    for name in dir.flatten().filter_map(|e| e.file_name().into_string().ok()) {
        let sysctl = format!("net/ipv6/conf/{name}/accept_ra");
        if netns::read_sysctl(&sysctl).is_ok_and(|v| v == "1") && name != "all" && name != "default"
        {
            set(&sysctl, "2")?;
        }
    }
    Ok(())
}
