//! The one object that owns every network, sandbox and published port of a daemon.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;
use wharf_base::Id;
use wharf_base::clock::Clock;
use wharf_base::db::{Batch as Changes, Db, Durability};
use wharf_base::sync::Mutex;
use wharf_sys::netlink::Socket;

use crate::config::NetConfig;
use crate::dns::{HostResolver, Service};
use crate::elements;
use crate::error::NetError;
use crate::firewall::Tables;
use crate::namespace::{Namespace, Pool};
use crate::network::{Network, Record, Surroundings};
use crate::ports::Held;
use crate::reap::Dying;
use crate::spec::{Driver, Endpoint, NetworkInfo, NetworkSpec};

pub(crate) const NETWORKS: &str = "networks";
pub(crate) const ENDPOINTS: &str = "endpoints";

/// Every network, sandbox and published port of a daemon.
///
/// All methods but [`Net::watch`] block for microseconds to a few milliseconds; call them from a
/// blocking thread, in the network namespace in which [`Net::open`] was called.
#[derive(Debug)]
pub struct Net {
    pub(crate) me: Weak<Net>,
    pub(crate) db: Db,
    pub(crate) config: NetConfig,
    pub(crate) clock: Clock,
    pub(crate) handle: Handle,
    pub(crate) tables: Tables,
    pub(crate) pool: Arc<Pool>,
    pub(crate) state: Mutex<State>,
    /// For the host's interfaces.
    pub(crate) route: Mutex<Socket>,
    /// For the rules. Locked after `state` where both are.
    pub(crate) nft: Mutex<Socket>,
    /// Address of `nft`, by which events that this daemon causes are told from others.
    pub(crate) nft_port: u32,
    /// Held while what is dying is taken apart; who waits for it waits for addresses and names.
    pub(crate) reaper: Mutex<()>,
    /// The network namespace of the host, to which borrowed interfaces go back.
    pub(crate) home: std::os::fd::OwnedFd,
    /// The host's name servers.
    pub(crate) resolver: HostResolver,
}

/// What is known in memory; the database has the same but for descriptors.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) networks: BTreeMap<Id, Network>,
    pub(crate) sandboxes: BTreeMap<Id, Member>,
    pub(crate) held: Held,
    pub(crate) dying: Dying,
}

/// A sandbox in memory.
#[derive(Debug, Default)]
pub(crate) struct Member {
    /// None on `host`, and after a restart until it is adopted.
    pub(crate) ns: Option<Arc<Namespace>>,
    /// By network.
    pub(crate) endpoints: BTreeMap<Id, Endpoint>,
    /// Interfaces of the host are in it.
    pub(crate) borrows: bool,
    /// Its resolver, if it has one.
    pub(crate) names: Option<Service>,
}

impl Net {
    /// Creates a network.
    pub fn create_network(&self, mut spec: NetworkSpec) -> Result<NetworkInfo, NetError> {
        spec.check_config()?;
        let routes = self.host_routes()?;
        let id = (Id::random(), self.clock.unix_nanos());
        let network = {
            let mut state = self.state.lock();
            if state.networks.values().any(|n| n.record.name == spec.name) {
                return Err(NetError::NameTaken(spec.name));
            }
            if !spec.config_from.is_empty() {
                let from = |n: &&Network| n.record.config_only && n.record.name == spec.config_from;
                let Some(from) = state.networks.values().find(from) else {
                    return Err(NetError::NoConfig(spec.config_from));
                };
                spec.take_config(&from.record);
            }
            let around = Surroundings { config: &self.config, networks: state.subnets(), routes };
            let network = Network::new(Record::resolve(spec, id, &around)?)?;
            state.check_interface(&network)?;
            self.save_network(&network.record)?;
            state.networks.insert(network.record.id.clone(), network.clone());
            network
        };
        if self.state.lock().dying.has_bridge(&network.ifname) {
            self.reap();
        }
        match self.set_up(&network) {
            Ok(()) => Ok(network.info(Vec::new())),
            Err(e) => {
                self.tear_down(&network);
                Err(e)
            }
        }
    }

    /// Finds a network by name, id or unambiguous id prefix, in that order.
    pub fn network(&self, name_or_id: &str) -> Result<NetworkInfo, NetError> {
        let state = self.state.lock();
        let id = state.find(name_or_id)?;
        state.info(&id).ok_or_else(|| NetError::NoNetwork(name_or_id.to_owned()))
    }

    /// All networks by name.
    pub fn networks(&self) -> Vec<NetworkInfo> {
        let state = self.state.lock();
        let mut all: Vec<_> = state.networks.keys().filter_map(|id| state.info(id)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Removes a network that nobody is on.
    pub fn remove_network(&self, name_or_id: &str) -> Result<NetworkInfo, NetError> {
        let (info, network) = {
            let state = self.state.lock();
            let id = state.find(name_or_id)?;
            let Some(info) = state.info(&id) else {
                return Err(NetError::NoNetwork(name_or_id.to_owned()));
            };
            let network = state.networks[&id].clone();
            if network.record.predefined {
                return Err(NetError::Predefined(info.name, "removed"));
            }
            if !info.endpoints.is_empty() {
                let names = info.endpoints.iter().map(|e| format!("{:?}", e.container_name));
                let endpoints = names.collect::<Vec<_>>().join(" ");
                return Err(NetError::Busy { name: info.name, endpoints });
            }
            let uses = |n: &Network| n.record.config_from == network.record.name;
            if network.record.config_only && state.networks.values().any(uses) {
                return Err(NetError::ConfigInUse(info.name));
            }
            (info, network)
        };
        self.tear_down(&network);
        Ok(info)
    }

    /// Removes every unused user-defined network that `want` agrees to, and says which went.
    pub fn prune(&self, want: &dyn Fn(&NetworkInfo) -> bool) -> Result<Vec<NetworkInfo>, NetError> {
        let mut gone = Vec::new();
        for info in self.networks() {
            let predefined = self.state.lock().is_predefined(&info.id);
            if predefined || info.config_only || !info.endpoints.is_empty() || !want(&info) {
                continue;
            }
            match self.remove_network(info.id.as_str()) {
                Ok(info) => gone.push(info),
                // Somebody used or removed it in the meantime.
                Err(NetError::Busy { .. } | NetError::NoNetwork(_)) => (),
                Err(e) => return Err(e),
            }
        }
        Ok(gone)
    }

    /// Makes what a network needs on the host.
    fn set_up(&self, network: &Network) -> Result<(), NetError> {
        self.ensure_interface(network)?;
        let mut t = wharf_sys::nft::Transaction::new();
        self.tables.add(&mut t, elements::of_network(network));
        self.commit(t)
    }

    /// Undoes [`Net::set_up`] and forgets the network. Goes through to the end whatever fails.
    fn tear_down(&self, network: &Network) {
        {
            let mut state = self.state.lock();
            state.networks.remove(&network.record.id);
            let mut changes = Changes::new();
            changes.delete(NETWORKS, network.record.id.as_str());
            self.write_or_warn(changes);
        }
        let mut t = wharf_sys::nft::Transaction::new();
        self.tables.remove(&mut t, elements::of_network(network));
        if let Err(e) = self.commit(t) {
            warn(&e, "remove rules of a network");
        }
        if let Err(e) = self.retire_interface(network) {
            warn(&e, "remove interface of a network");
        }
    }

    pub(crate) fn save_network(&self, record: &Record) -> Result<(), NetError> {
        let mut changes = Changes::new();
        changes.put(NETWORKS, record.id.as_str(), record).map_err(NetError::Db)?;
        self.db.write(changes, Durability::Process).map_err(NetError::Db)
    }

    pub(crate) fn save_endpoint(&self, endpoint: &Endpoint) -> Result<(), NetError> {
        let mut changes = Changes::new();
        changes.put(ENDPOINTS, &endpoint_key(endpoint), endpoint).map_err(NetError::Db)?;
        self.db.write(changes, Durability::Process).map_err(NetError::Db)
    }

    /// For undo and release, which go on whatever happens; the next start repairs what this leaves.
    pub(crate) fn write_or_warn(&self, changes: Changes) {
        if let Err(e) = self.db.write(changes, Durability::Process) {
            warn(&NetError::Db(e), "forget network state");
        }
    }

    /// Applies a change of rules; if the rules are not what they were thought to be, installs all anew.
    pub(crate) fn commit(&self, t: wharf_sys::nft::Transaction) -> Result<(), NetError> {
        let first = self.nft.lock().commit(t);
        match first {
            Ok(()) => Ok(()),
            Err(e) => {
                tracing::debug!(error = %wharf_base::error::chain(&e), "rules differ, installing all");
                self.install_rules()
            }
        }
    }

    /// Replaces all rules by what the state asks for.
    pub(crate) fn install_rules(&self) -> Result<(), NetError> {
        // Both locks, so that no change slips in between what is read and what is installed.
        let state = self.state.lock();
        let t = self.tables.install(state.networks.values(), state.published());
        let done = self.nft.lock().commit(t);
        drop(state);
        done.map_err(crate::error::kernel("install firewall rules"))
    }
}

impl State {
    /// The id of a network by name, id or unambiguous prefix.
    pub(crate) fn find(&self, name_or_id: &str) -> Result<Id, NetError> {
        let whole = self.networks.values().find(|n| n.record.id.as_str() == name_or_id);
        let by_name = || self.networks.values().find(|n| n.record.name == name_or_id);
        if let Some(n) = whole.or_else(by_name) {
            return Ok(n.record.id.clone());
        }
        let matches: Vec<&Id> = self
            .networks
            .keys()
            .filter(|id| !name_or_id.is_empty() && id.as_str().starts_with(name_or_id))
            .collect();
        match matches[..] {
            [] => Err(NetError::NoNetwork(name_or_id.to_owned())),
            [one] => Ok(one.clone()),
            _ => Err(NetError::Ambiguous(name_or_id.to_owned(), matches.len())),
        }
    }

    /// Names and subnets of all networks.
    pub(crate) fn subnets(&self) -> Vec<(String, crate::Subnet)> {
        self.networks
            .values()
            .filter(|n| !n.record.config_only)
            .flat_map(|n| {
                let subnets = n.record.ipam.iter().filter_map(|c| c.subnet);
                subnets.map(|s| (n.record.name.clone(), s))
            })
            .collect()
    }

    /// Every endpoint with published ports or links, with its network.
    pub(crate) fn published(&self) -> impl Iterator<Item = (&Endpoint, &Network)> {
        self.sandboxes
            .values()
            .flat_map(|m| m.endpoints.values())
            .filter(|e| !e.ports.is_empty() || !e.opened.is_empty())
            .filter_map(|e| Some((e, self.networks.get(&e.network)?)))
    }

    fn info(&self, id: &Id) -> Option<NetworkInfo> {
        let on_it = self.sandboxes.values().filter_map(|m| m.endpoints.get(id)).cloned().collect();
        Some(self.networks.get(id)?.info(on_it))
    }

    fn is_predefined(&self, id: &Id) -> bool {
        self.networks.get(id).is_some_and(|n| n.record.predefined)
    }

    /// One network per bridge, and one per macvlan parent.
    fn check_interface(&self, new: &Network) -> Result<(), NetError> {
        let clash = |n: &&Network| {
            !new.ifname.is_empty() && n.ifname == new.ifname && n.record.driver != Driver::Null
        };
        match self.networks.values().find(clash) {
            None => Ok(()),
            Some(n) => Err(NetError::invalid(
                "interface",
                format!("{} is used by network {}", new.ifname, n.record.name),
            )),
        }
    }
}

/// The database key of an endpoint: a sandbox is on a network at most once.
pub(crate) fn endpoint_key(endpoint: &Endpoint) -> String {
    format!("{}/{}", endpoint.sandbox, endpoint.network)
}

pub(crate) fn warn(e: &NetError, action: &'static str) {
    tracing::warn!(error = %wharf_base::error::chain(e), "{action}");
}
