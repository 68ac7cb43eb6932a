//! Interfaces added to a running sandbox beside its networks: what people used pipework for.
//!
//! They live as long as the sandbox, and are not made again when its container restarts: what they hang
//! from is the host's own business, and so is its order of coming up.

use std::net::IpAddr;
use std::os::fd::AsFd as _;

use wharf_base::Id;
use wharf_sys::netlink::Batch;
use wharf_sys::netlink::route::{
    Address, Link, LinkChange, LinkKind, LinkRef, MAIN_TABLE, NewLink, Route,
};

use crate::attach::{Gateways, default_route, default_routes};
use crate::error::{NetError, kernel};
use crate::mac::Mac;
use crate::namespace::Namespace;
use crate::net::{Net, warn};
use crate::options::{interface_name, macvlan_mode};
use crate::subnet::Subnet;

/// An interface to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plug {
    /// What it is.
    pub source: Source,
    /// Its name in the sandbox, or the next free `ethN`.
    pub ifname: Option<String>,
    /// Its MAC address, or whatever it has.
    pub mac: Option<Mac>,
    /// Its MTU in bytes, or whatever it has.
    pub mtu: Option<u32>,
    /// 802.1Q: addresses and routes belong to this VLAN on it.
    pub vlan: Option<u16>,
    /// Its addresses with their prefixes; none leaves it without.
    pub addresses: Vec<Subnet>,
    /// Default routes, at most one per family.
    pub gateways: Vec<IpAddr>,
    /// Other routes, through a router or directly.
    pub routes: Vec<(Subnet, Option<IpAddr>)>,
}

/// Where an added interface comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A cable to a bridge that the host has.
    Bridge(String),
    /// An interface of the host, by name or MAC address, which moves into the sandbox.
    Physical(String),
    /// A macvlan child of an interface of the host; the mode is `bridge`, `private`, `vepa` or `passthru`.
    Parent {
        /// The interface.
        name: String,
        /// How children reach one another; empty is `bridge`.
        mode: String,
    },
}

/// How an interface remembers what it was called on the host: the text travels with it.
const WAS: &str = "wharf-was:";

impl Net {
    /// Adds an interface to a sandbox; returns its name there.
    pub fn plug(&self, sandbox: &Id, plug: &Plug) -> Result<String, NetError> {
        let ns = self.own_namespace(sandbox)?;
        let ifname = free_name(&ns, plug.ifname.as_deref())?;
        if matches!(plug.source, Source::Physical(_))
            && let Some(member) = self.state.lock().sandboxes.get_mut(sandbox)
        {
            member.borrows = true;
        }
        match &plug.source {
            Source::Bridge(bridge) => self.cable(&ns, &ifname, bridge)?,
            Source::Physical(which) => self.borrow(&ns, &ifname, which)?,
            Source::Parent { name, mode } => self.child(&ns, &ifname, (name, mode))?,
        }
        if let Err(e) = configure(&ns, &ifname, plug) {
            if let Err(undo) = self.unplug(sandbox, &ifname) {
                warn(&undo, "undo the addition of an interface");
            }
            return Err(e);
        }
        Ok(ifname)
    }

    /// Takes an added interface away. One of the host's goes back to the host, under its old name.
    pub fn unplug(&self, sandbox: &Id, ifname: &str) -> Result<(), NetError> {
        let ns = self.own_namespace(sandbox)?;
        let belongs = {
            let state = self.state.lock();
            let member = state.sandboxes.get(sandbox);
            let mut all = member.into_iter().flat_map(|m| m.endpoints.values());
            all.find(|e| e.ifname == ifname).map(|e| e.network_name.clone())
        };
        if let Some(network) = belongs {
            let why = format!("{ifname} belongs to network {network}: disconnect that instead");
            return Err(NetError::invalid("interface", why));
        }
        let link = inside(&ns, ifname)?;
        match link.alias.strip_prefix(WAS) {
            Some(was) => self.give_back(&ns, &link, was)?,
            None => {
                let mut batch = Batch::new();
                batch.delete_link(LinkRef::Index(link.index));
                let done = ns.route().lock().execute(batch);
                done.map_err(kernel(format!("remove interface {ifname}")))?;
            }
        }
        // The default route may have gone with it; that of the networks takes its place.
        let mut batch = Batch::new();
        default_routes(&ns, &mut batch, &Gateways::default(), &self.gateways(sandbox))?;
        ns.route().lock().execute(batch).map_err(kernel("set default route"))
    }

    /// Gives every borrowed interface of a sandbox that ends back to the host. The kernel would do it for hardware, to
    /// the first namespace of the machine and under any name.
    pub(crate) fn give_all_back(&self, ns: &Namespace) {
        let links = match ns.route().lock().links() {
            Ok(links) => links,
            Err(e) => return warn(&kernel("list interfaces")(e), "give interfaces back"),
        };
        for link in links {
            if let Some(was) = link.alias.strip_prefix(WAS)
                && let Err(e) = self.give_back(ns, &link, was)
            {
                warn(&e, "give an interface back");
            }
        }
    }

    /// Whether interfaces of the host are in a namespace.
    pub(crate) fn borrows(ns: &Namespace) -> bool {
        let links = ns.route().lock().links().unwrap_or_default();
        links.iter().any(|l| l.alias.starts_with(WAS))
    }

    fn own_namespace(&self, sandbox: &Id) -> Result<std::sync::Arc<Namespace>, NetError> {
        let state = self.state.lock();
        let member = state.sandboxes.get(sandbox);
        member.and_then(|m| m.ns.clone()).ok_or_else(|| NetError::NoSandbox(sandbox.to_string()))
    }

    /// A veth whose other end is a port of a bridge.
    fn cable(&self, ns: &Namespace, ifname: &str, bridge: &str) -> Result<(), NetError> {
        let on = self.of_host("bridge", bridge)?;
        if on.kind != "bridge" {
            let what = if on.kind.is_empty() { "hardware" } else { &on.kind };
            return Err(NetError::invalid(
                "bridge",
                format!("{bridge} is not a bridge but {what}"),
            ));
        }
        let host_ifname = format!("veth{}", &Id::random().as_str()[..7]);
        let inside = blank(ifname, LinkKind::Peer);
        let inside = NewLink { mtu: Some(on.mtu), ns: Some(ns.fd()), ..inside };
        let outside = blank(&host_ifname, LinkKind::Veth(&inside));
        let mut batch = Batch::new();
        batch.add_link(&NewLink { mtu: Some(on.mtu), master: Some(on.index), ..outside });
        let up = LinkChange { up: Some(true), ipv6_autoconf: Some(false), ..LinkChange::default() };
        batch.change_link(LinkRef::Name(&host_ifname), &up);
        let done = self.route.lock().execute(batch);
        done.map_err(kernel(format!("connect to bridge {bridge}")))
    }

    fn child(
        &self,
        ns: &Namespace,
        ifname: &str,
        (parent, mode): (&str, &str),
    ) -> Result<(), NetError> {
        let mode = macvlan_mode("mode", mode)?;
        let parent_index = self.of_host("parent", parent)?.index;
        let kind = LinkKind::Macvlan { parent: parent_index, mode };
        let mut batch = Batch::new();
        batch.add_link(&NewLink { ns: Some(ns.fd()), ..blank(ifname, kind) });
        self.add_child(parent, batch, "macvlan")
    }

    /// Moves an interface of the host into a namespace.
    fn borrow(&self, ns: &Namespace, ifname: &str, which: &str) -> Result<(), NetError> {
        let link = match which.parse::<Mac>() {
            Err(_) => self.of_host("interface", which)?,
            Ok(mac) => {
                let all = self.route.lock().links().map_err(kernel("list interfaces"))?;
                let none =
                    || NetError::invalid("interface", format!("the host has none with {mac}"));
                all.into_iter().find(|l| l.mac == Some(mac.0)).ok_or_else(none)?
            }
        };
        if link.loopback || link.alias.starts_with(&self.alias_prefix()) {
            let why =
                format!("{} is not to be moved: it is wharf's or the host's loopback", link.name);
            return Err(NetError::invalid("interface", why));
        }
        let by = LinkRef::Index(link.index);
        let alias = format!("{WAS}{}", link.name);
        // A name that neither side has, so that the move cannot clash.
        let transit = format!("wharf{}", &Id::random().as_str()[..8]);
        let mut batch = Batch::new();
        let down = LinkChange { up: Some(false), alias: Some(&alias), ..LinkChange::default() };
        batch.change_link(by, &down);
        batch.change_link(by, &LinkChange { rename: Some(&transit), ..LinkChange::default() });
        batch.change_link(by, &LinkChange { ns: Some(ns.fd()), ..LinkChange::default() });
        let what = format!("move {} into the container", link.name);
        self.route.lock().execute(batch).map_err(kernel(what.clone()))?;
        let moved = inside(ns, &transit)?;
        let mut batch = Batch::new();
        let named = LinkChange { rename: Some(ifname), ..LinkChange::default() };
        batch.change_link(LinkRef::Index(moved.index), &named);
        ns.route().lock().execute(batch).map_err(kernel(what))
    }

    fn give_back(&self, ns: &Namespace, link: &Link, was: &str) -> Result<(), NetError> {
        let by = LinkRef::Index(link.index);
        let mut batch = Batch::new();
        let down = LinkChange { up: Some(false), alias: Some(""), ..LinkChange::default() };
        batch.change_link(by, &down);
        batch.change_link(by, &LinkChange { rename: Some(was), ..LinkChange::default() });
        batch.change_link(by, &LinkChange { ns: Some(self.home.as_fd()), ..LinkChange::default() });
        let what = format!("give {was} back to the host");
        ns.route().lock().execute(batch).map_err(kernel(what.clone()))?;
        let mut batch = Batch::new();
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        batch.change_link(LinkRef::Name(was), &up);
        self.route.lock().execute(batch).map_err(kernel(what))
    }

    fn of_host(&self, what: &str, name: &str) -> Result<Link, NetError> {
        interface_name(what, name)?;
        let none = || NetError::invalid(what, format!("the host has no interface {name}"));
        self.host_link(name)?.ok_or_else(none)
    }
}

fn blank<'a>(name: &'a str, kind: LinkKind<'a>) -> NewLink<'a> {
    NewLink { name, mac: None, mtu: None, master: None, ns: None, up: false, kind }
}

fn inside(ns: &Namespace, name: &str) -> Result<Link, NetError> {
    let found = ns.route().lock().link(LinkRef::Name(name)).map_err(kernel("look up interface"))?;
    let none = || NetError::invalid("interface", format!("the container has no interface {name}"));
    found.ok_or_else(none)
}

fn free_name(ns: &Namespace, wanted: Option<&str>) -> Result<String, NetError> {
    let links = ns.route().lock().links().map_err(kernel("list interfaces"))?;
    let used = |name: &str| links.iter().any(|l| l.name == name);
    match wanted {
        Some(name) if used(name) => {
            let why = format!(
                "error renaming interface to {name:?}: file exists: the container has one of that name"
            );
            Err(NetError::invalid("interface name", why))
        }
        Some(name) => interface_name("interface name", name),
        // One more candidate than there are interfaces.
        None => (0..=links.len())
            .map(|n| format!("eth{n}"))
            .find(|name| !used(name))
            .ok_or_else(|| NetError::invalid("interface name", "no ethN is free")),
    }
}

/// Up, with VLAN, addresses and routes.
fn configure(ns: &Namespace, ifname: &str, plug: &Plug) -> Result<(), NetError> {
    let base = inside(ns, ifname)?;
    let what = format!("configure {ifname}");
    let mut batch = Batch::new();
    let change = LinkChange { mac: plug.mac.map(|m| m.0), mtu: plug.mtu, ..LinkChange::default() };
    batch.change_link(LinkRef::Index(base.index), &change);
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    batch.change_link(LinkRef::Index(base.index), &up);
    ns.route().lock().execute(batch).map_err(kernel(what.clone()))?;
    let (name, link) = match plug.vlan {
        None => (ifname.to_owned(), base.index),
        Some(id) => tagged(ns, &base, id)?,
    };
    if plug.addresses.iter().any(|a| !a.is_ipv4()) {
        let on = ["accept_dad", "disable_ipv6"]
            .map(|key| (format!("net/ipv6/conf/{name}/{key}"), "0".to_owned()));
        ns.write_sysctls(&on).map_err(kernel("turn IPv6 on"))?;
    }
    let mut batch = Batch::new();
    for a in &plug.addresses {
        batch.add_address(&Address { link, ip: a.addr(), prefix: a.prefix(), scope: 0 });
    }
    for gateway in &plug.gateways {
        batch.replace_route(&default_route(*gateway, link));
    }
    for (to, via) in &plug.routes {
        batch.replace_route(&Route {
            to: to.network().addr(),
            prefix: to.prefix(),
            via: *via,
            link: Some(link),
            source: None,
            metric: None,
            table: MAIN_TABLE,
            kind: 1,
        });
    }
    ns.route().lock().execute(batch).map_err(kernel(what))
}

/// Makes the interface of a VLAN on top of another; it ends with the other.
fn tagged(ns: &Namespace, base: &Link, id: u16) -> Result<(String, u32), NetError> {
    if !(1..=4094).contains(&id) {
        return Err(NetError::invalid("vlan", format!("{id} is not in 1 to 4094")));
    }
    let name = interface_name("vlan", &format!("{}.{id}", base.name))?;
    let mut batch = Batch::new();
    batch.add_link(&blank(&name, LinkKind::Vlan { parent: base.index, id }));
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    batch.change_link(LinkRef::Name(&name), &up);
    let done = ns.route().lock().execute(batch);
    done.map_err(crate::error::missing_driver("802.1Q VLANs", "8021q"))?;
    let index = inside(ns, &name)?.index;
    Ok((name, index))
}
