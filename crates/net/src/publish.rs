//! Publishing ports of sandboxes, and withdrawing them.

use wharf_base::Id;
use wharf_sys::netlink::conntrack::Flows;
use wharf_sys::nft::Transaction;

use crate::attach::gateway_order;
use crate::elements;
use crate::error::NetError;
use crate::net::Net;
use crate::reap::forget;
use crate::spec::{Binding, Endpoint, Opening, PortMap, Protocol};

impl Net {
    /// Publishes ports of a sandbox, all or none, through the endpoint that holds its default route.
    /// A sandbox without one (`none`, `host`, internal networks) has no way in, and gets no bindings, as in Docker.
    pub fn publish(&self, sandbox: &Id, ports: &[PortMap]) -> Result<Vec<Binding>, NetError> {
        if ports.is_empty() {
            return Ok(Vec::new());
        }
        let (endpoint, bindings, rules) = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let member = state.sandboxes.get_mut(sandbox);
            let member = member.ok_or_else(|| NetError::NoSandbox(sandbox.to_string()))?;
            let Some(endpoint) = way_in(member.endpoints.values_mut()) else {
                return Ok(Vec::new());
            };
            let Some(network) = state.networks.get(&endpoint.network) else {
                return Err(NetError::NoNetwork(endpoint.network_name.clone()));
            };
            let place = (&*endpoint, network);
            let bindings = state
                .held
                .publish(place, ports, self.config.publish_on, &self.handle)
                .map_err(|e| publish_error(endpoint, e))?;
            let rules = elements::of_ports(endpoint, network, &bindings);
            endpoint.ports.extend(bindings.iter().cloned());
            if let Err(e) = self.save_endpoint(endpoint) {
                state.held.release(&bindings);
                endpoint.ports.retain(|p| !bindings.contains(p));
                return Err(e);
            }
            (endpoint.clone(), bindings, rules)
        };
        let mut t = Transaction::new();
        self.tables.add(&mut t, rules);
        if let Err(e) = self.commit(t) {
            self.withdraw(&endpoint)?;
            return Err(publish_error(&endpoint, e));
        }
        forget_untranslated(&bindings);
        Ok(bindings)
    }

    /// Opens ports of linked containers to a sandbox, instead of those that were open to it. Links lead to
    /// containers on the default bridge; while that lets all neighbours talk, nothing is to be done.
    pub fn open_links(&self, sandbox: &Id, mut openings: Vec<Opening>) -> Result<(), NetError> {
        openings.sort();
        openings.dedup();
        let found = {
            let state = self.state.lock();
            let apart = |e: &&Endpoint| {
                let network = state.networks.get(&e.network);
                network.is_some_and(|n| n.record.predefined && !n.options.icc)
            };
            let member = state.sandboxes.get(sandbox);
            member.and_then(|m| m.endpoints.values().find(apart)).cloned()
        };
        found.map_or(Ok(()), |endpoint| self.reopen(&endpoint, openings))
    }

    /// Replaces what is open to an endpoint.
    pub(crate) fn reopen(
        &self,
        endpoint: &Endpoint,
        openings: Vec<Opening>,
    ) -> Result<(), NetError> {
        if endpoint.opened == openings {
            return Ok(());
        }
        let mut t = Transaction::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let member = state.sandboxes.get_mut(&endpoint.sandbox);
            let now = member.and_then(|m| m.endpoints.get_mut(&endpoint.network));
            let (Some(now), Some(network)) = (now, state.networks.get(&endpoint.network)) else {
                return Ok(());
            };
            self.tables.remove(&mut t, elements::of_links(now, network));
            now.opened = openings;
            self.tables.add(&mut t, elements::of_links(now, network));
            self.save_endpoint(now)?;
        }
        self.commit(t)
    }

    /// Withdraws every published port of a sandbox.
    pub fn unpublish(&self, sandbox: &Id) -> Result<(), NetError> {
        let mut done = Ok(());
        for endpoint in self.endpoints(sandbox) {
            let untranslated = endpoint.ports.clone();
            done = done.and(self.withdraw(&endpoint));
            forget_untranslated(&untranslated);
        }
        done
    }
}

/// A client that went on sending while nobody listened has a flow without translation, which
/// would keep its packets from the container for as long as it sends. Not in the background, where it
/// would catch the first flows that are translated.
fn forget_untranslated(bindings: &[Binding]) {
    let udp = bindings.iter().filter(|b| b.proto == Protocol::Udp && b.host != 0);
    let flows = udp.map(|b| Flows {
        ipv6: b.host_ip.is_ipv6(),
        to_port: Some((b.proto.number(), b.host)),
        to: Some(b.host_ip).filter(|ip| !ip.is_unspecified()),
        answered_by: None,
    });
    forget(&flows.collect::<Vec<_>>());
}

fn way_in<'a>(endpoints: impl Iterator<Item = &'a mut Endpoint>) -> Option<&'a mut Endpoint> {
    endpoints
        .filter(|e| e.gateway4.is_some() || e.gateway6.is_some())
        .filter(|e| !e.host_ifname.is_empty())
        .min_by(|a, b| gateway_order(a, b))
}

fn publish_error(endpoint: &Endpoint, source: NetError) -> NetError {
    NetError::Publish {
        name: endpoint.container_name.clone(),
        id: endpoint.id.to_string(),
        source: Box::new(source),
    }
}
