//! Sandboxes: making and releasing them, and what they count.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use wharf_base::Id;
use wharf_base::db::Batch as Changes;
use wharf_sys::nft::Transaction;

use crate::elements;
use crate::error::{NetError, kernel};
use crate::namespace::{Namespace, Upkeep};
use crate::net::{ENDPOINTS, Net, endpoint_key};
use crate::spec::{Endpoint, InterfaceStats};

/// A network namespace of a container. It lives as long as somebody holds a descriptor of it or
/// runs in it, so nothing is left when the container and the daemon are gone.
#[derive(Clone, Debug)]
pub struct Sandbox {
    ns: Arc<Namespace>,
}

impl Sandbox {
    /// The namespace, for `setns`.
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.ns.fd()
    }
}

/// How long spares are kept after the last container was started.
const SPARES_FOR: Duration = Duration::from_secs(5);

impl Net {
    /// Makes the network namespace for a container: loopback up, Docker's default sysctls.
    /// Pass its descriptor to whoever starts the container.
    ///
    /// If the sandbox exists already, a new namespace takes the place of one that has no endpoints;
    /// with endpoints it is an error.
    pub fn create_sandbox(&self, id: &Id) -> Result<Sandbox, NetError> {
        let (ns, upkeep) = self.pool.take().map_err(kernel("create network namespace"))?;
        if upkeep == Upkeep::Start {
            // The pool alone, so that a Net that is dropped is gone at once with the ports it holds.
            self.handle.spawn(self.pool.clone().keep(SPARES_FOR));
        }
        let mut state = self.state.lock();
        let member = state.sandboxes.entry(id.clone()).or_default();
        if !member.endpoints.is_empty() {
            let why = format!("container {id} has one with endpoints; release it first");
            return Err(NetError::invalid("sandbox", why));
        }
        member.ns = Some(ns.clone());
        Ok(Sandbox { ns })
    }

    /// The sandbox of a container, if it has one.
    pub fn sandbox(&self, id: &Id) -> Option<Sandbox> {
        let state = self.state.lock();
        Some(Sandbox { ns: state.sandboxes.get(id)?.ns.clone()? })
    }

    /// After a restart: takes the sandboxes of the containers that still run back (their namespaces
    /// as descriptors, say of `/proc/<pid>/ns/net`), and releases every other. Returns the released.
    pub fn adopt(&self, live: BTreeMap<Id, OwnedFd>) -> Result<Vec<Id>, NetError> {
        let mut failed = Ok(());
        let mut kept = Vec::new();
        for (id, fd) in live {
            kept.push(id.clone());
            match Namespace::adopt(fd) {
                Ok(ns) => {
                    let borrows = Net::borrows(&ns);
                    let mut state = self.state.lock();
                    let member = state.sandboxes.entry(id.clone()).or_default();
                    (member.ns, member.borrows) = (Some(Arc::new(ns)), borrows);
                    drop(state);
                    failed = failed.and(self.reconnect(&id));
                }
                Err(e) => {
                    failed =
                        failed.and(Err(kernel(format!("adopt the network of container {id}"))(e)));
                }
            }
        }
        let gone: Vec<Id> =
            self.state.lock().sandboxes.keys().filter(|id| !kept.contains(id)).cloned().collect();
        for id in &gone {
            failed = failed.and(self.release(id));
        }
        failed.map(|()| gone)
    }

    /// Withdraws ports, leaves networks and forgets the sandbox. Idempotent. When it returns, the
    /// ports are free; interfaces and addresses follow in the background.
    pub fn release(&self, id: &Id) -> Result<(), NetError> {
        let (member, rules) = {
            let mut state = self.state.lock();
            let Some(member) = state.sandboxes.remove(id) else { return Ok(()) };
            let mut rules = Vec::new();
            for e in member.endpoints.values() {
                state.held.release(&e.ports);
                if let Some(n) = state.networks.get(&e.network) {
                    rules.extend(elements::of_ports(e, n, &e.ports));
                    rules.extend(elements::of_links(e, n));
                }
            }
            let wired = member.endpoints.values().filter(|e| !e.ifname.is_empty());
            state.dying.endpoints.extend(wired.cloned());
            (member, rules)
        };
        let mut changes = Changes::new();
        for e in member.endpoints.values() {
            changes.delete(ENDPOINTS, &endpoint_key(e));
        }
        self.write_or_warn(changes);
        let mut t = Transaction::new();
        self.tables.remove(&mut t, rules);
        let done = self.commit(t);
        if let Some(ns) = member.ns.as_ref().filter(|_| member.borrows) {
            self.give_all_back(ns);
        }
        self.reap_soon();
        // Here the last descriptor may go, and the kernel starts to take the namespace apart.
        drop(member);
        done
    }

    /// The endpoints of a sandbox, the one with the default route first.
    pub fn endpoints(&self, sandbox: &Id) -> Vec<Endpoint> {
        let state = self.state.lock();
        let Some(member) = state.sandboxes.get(sandbox) else { return Vec::new() };
        let mut all: Vec<_> = member.endpoints.values().cloned().collect();
        all.sort_by(crate::attach::gateway_order);
        all
    }

    /// Counters of every interface of a sandbox but loopback. Empty on `host`.
    pub fn stats(&self, sandbox: &Id) -> Result<Vec<InterfaceStats>, NetError> {
        let ns = {
            let state = self.state.lock();
            let member = state.sandboxes.get(sandbox);
            let member = member.ok_or_else(|| NetError::NoSandbox(sandbox.to_string()))?;
            member.ns.clone()
        };
        let Some(ns) = ns else { return Ok(Vec::new()) };
        let links = ns.route().lock().links().map_err(kernel("read interface counters"))?;
        Ok(links
            .into_iter()
            .filter(|l| !l.loopback)
            .map(|l| InterfaceStats {
                ifname: l.name,
                rx_bytes: l.counters.rx_bytes,
                rx_packets: l.counters.rx_packets,
                rx_errors: l.counters.rx_errors,
                rx_dropped: l.counters.rx_dropped,
                tx_bytes: l.counters.tx_bytes,
                tx_packets: l.counters.tx_packets,
                tx_errors: l.counters.tx_errors,
                tx_dropped: l.counters.tx_dropped,
            })
            .collect())
    }
}
