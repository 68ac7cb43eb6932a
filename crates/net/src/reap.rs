//! Taking apart in the background what the API has forgotten already: the kernel waits out grace periods for it.

use std::sync::mpsc;
use std::time::Duration;

use wharf_sys::netlink::conntrack::{self, Flows};
use wharf_sys::netlink::route::{self, Address, Link, LinkRef};
use wharf_sys::netlink::{Batch, Family, NetlinkError, Socket};

use crate::error::{NetError, kernel};
use crate::net::{Net, warn};
use crate::network::Network;
use crate::spec::{Driver, Endpoint};

/// How long interfaces of a released sandbox may take to go by themselves, with the namespace. The
/// kernel removes those of many namespaces at the price of one, so it is worth waiting for.
const REAP_AFTER: Duration = Duration::from_millis(50);
/// How long an interface may take to get out of sight.
const OUT_OF_SIGHT: Duration = Duration::from_secs(2);

/// What the database has forgotten and the kernel may still have.
#[derive(Debug, Default)]
pub(crate) struct Dying {
    /// Endpoints of released sandboxes, whose interfaces may still be there and whose addresses are
    /// therefore not free yet.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Bridges of removed networks, without addresses. Each stays listed until it is gone, so that
    /// its name is not taken for a bridge to use.
    pub(crate) bridges: Vec<Link>,
    /// Somebody has been sent to do it.
    reaping: bool,
}

impl Dying {
    fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.bridges.is_empty()
    }

    /// Whether an interface of that name is on its way out.
    pub(crate) fn has_bridge(&self, name: &str) -> bool {
        self.bridges.iter().any(|b| b.name == name)
    }
}

impl Net {
    /// Removes what is dying now, and frees its addresses. Blocks for some tens of milliseconds: the
    /// kernel waits until no packet can be on the way.
    pub(crate) fn reap(&self) {
        let _one_at_a_time = self.reaper.lock();
        let (endpoints, bridges) = {
            let dying = &mut self.state.lock().dying;
            (std::mem::take(&mut dying.endpoints), dying.bridges.clone())
        };
        let mut links = Batch::new();
        for e in endpoints.iter().filter(|e| !e.host_ifname.is_empty()) {
            links.delete_link(LinkRef::Name(&e.host_ifname));
        }
        for bridge in &bridges {
            links.delete_link(LinkRef::Index(bridge.index));
        }
        if links.is_empty() {
            return;
        }
        // A socket of its own: the shared one must stay free for containers that start.
        let done = Socket::open(Family::Route).map(|mut s| s.execute(links));
        if let Ok(Err(e)) = &done
            && !e.is_absent()
        {
            tracing::warn!(error = %wharf_base::error::chain(e), "remove interfaces");
        }
        forget_flows(&endpoints);
        let mut state = self.state.lock();
        for e in &endpoints {
            if let Some(n) = state.networks.get_mut(&e.network) {
                n.free(e);
            }
        }
        state.dying.bridges.retain(|b| !bridges.iter().any(|gone| gone.index == b.index));
    }

    /// Has it done after a moment.
    pub(crate) fn reap_soon(&self) {
        {
            let mut state = self.state.lock();
            if state.dying.reaping || state.dying.is_empty() {
                return;
            }
            state.dying.reaping = true;
        }
        let me = self.me.clone();
        self.handle.spawn(async move {
            tokio::time::sleep(REAP_AFTER).await;
            let Some(net) = me.upgrade() else { return };
            let work = move || {
                net.state.lock().dying.reaping = false;
                net.reap();
                net.reap_soon();
            };
            tokio::task::spawn_blocking(work).await.ok();
        });
    }

    /// Takes the interfaces of a removed network out of use. A bridge loses its addresses, and with them its
    /// routes, at once; removing it takes the kernel 30 ms, and is done in the background.
    pub(crate) fn retire_interface(&self, network: &Network) -> Result<(), NetError> {
        if network.record.driver != Driver::Bridge {
            return self.remove_interface(network);
        }
        let Some(bridge) = self.own_link(network, &network.ifname)? else { return Ok(()) };
        let mut batch = Batch::new();
        for own in [true, false].into_iter().filter_map(|v4| network.bridge_address(v4)) {
            let (ip, prefix) = (own.addr(), own.prefix());
            batch.delete_address(&Address { link: bridge.index, ip, prefix, scope: 0 });
        }
        let done = self.route.lock().execute(batch);
        self.state.lock().dying.bridges.push(bridge);
        self.reap_soon();
        match done {
            Err(e) if !e.is_absent() => {
                Err(kernel(format!("take addresses from {}", network.ifname))(e))
            }
            _ => Ok(()),
        }
    }

    /// Removes an interface of the host, with the other end of the cable. When it returns nobody sees either any
    /// more; a thread stays behind for the 15 ms after which the kernel says that it is done.
    pub(crate) fn vanish(&self, name: &str) -> Result<(), NetlinkError> {
        let broken = |action| move |source| NetlinkError::Io { action, source };
        let mut events = route::subscribe().map_err(broken("subscribe"))?;
        let Some(link) = self.route.lock().link(LinkRef::Name(name))? else { return Ok(()) };
        let mut batch = Batch::new();
        batch.delete_link(LinkRef::Index(link.index));
        let (tell, told) = mpsc::channel();
        self.handle.spawn_blocking(move || {
            let done = Socket::open(Family::Route).map_err(broken("open"));
            // Mostly nobody waits for it any more.
            tell.send(done.and_then(|mut s| s.execute(batch))).ok();
        });
        // Whoever removes it first, there is an event.
        if events.wait_for_end(link.index, OUT_OF_SIGHT).is_ok_and(|gone| gone) {
            return Ok(());
        }
        let lost = |e| broken("wait")(std::io::Error::other(e));
        told.recv().map_err(lost)?
    }
}

/// Makes the kernel forget flows to addresses that will be somebody else's. Only published ports are
/// worth the pass over the whole table: other flows ended with the container.
fn forget_flows(dying: &[Endpoint]) {
    let published = dying.iter().filter(|e| !e.ports.is_empty());
    let addresses = published.flat_map(|e| [e.ipv4, e.ipv6]).flatten().map(|s| s.addr());
    let flows =
        addresses.map(|ip| Flows { ipv6: ip.is_ipv6(), answered_by: Some(ip), ..Flows::default() });
    forget(&flows.collect::<Vec<_>>());
}

/// Asks connection tracking to forget. Failing leaves flows that time out by themselves.
pub(crate) fn forget(flows: &[Flows]) {
    if flows.is_empty() {
        return;
    }
    match Socket::open(Family::Netfilter).map(|mut s| conntrack::forget(&mut s, flows)) {
        Ok(Ok(())) => (),
        // No such flow.
        Ok(Err(e)) if e.is_absent() => (),
        Ok(Err(e)) => warn(&kernel("forget tracked flows")(e), "conntrack"),
        Err(e) => warn(&kernel("open netfilter socket")(e), "conntrack"),
    }
}
