//! Opening: reads the records, and makes the host agree with them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::runtime::Handle;
use wharf_base::Id;
use wharf_base::clock::Clock;
use wharf_base::db::{Batch as Changes, Db};
use wharf_base::sync::Mutex;
use wharf_sys::netlink::route::{Link, LinkRef};
use wharf_sys::netlink::{Batch, Family, Socket, netns};

use crate::config::{DefaultBridge, NetConfig};
use crate::error::{NetError, kernel};
use crate::firewall::Tables;
use crate::interface::addresses_of;
use crate::namespace::Pool;
use crate::net::{ENDPOINTS, NETWORKS, Net, State, warn};
use crate::network::{Network, Record, Surroundings};
use crate::spec::{Driver, Endpoint, IpamConfig};
use crate::subnet::Subnet;

impl Net {
    /// Reads the records, and makes the host's bridges, firewall rules and reserved ports agree with
    /// them. Must be called inside a tokio runtime, on which relays will run.
    ///
    /// Sandboxes of containers that still run stay as they are; call [`Net::adopt`] next.
    pub fn open(db: Db, config: NetConfig) -> Result<Arc<Net>, NetError> {
        check_instance(&config.instance)?;
        let handle = Handle::try_current().map_err(|e| NetError::Kernel {
            action: "open the network layer".into(),
            source: std::io::Error::other(e),
        })?;
        let route = Socket::open(Family::Route).map_err(kernel("open route socket"))?;
        let nft = Socket::open(Family::Netfilter)
            .map_err(kernel("open netfilter socket (is nf_tables in the kernel?)"))?;
        let home = netns::current().map_err(kernel("hold the host's network namespace"))?;
        let state = load(&db)?;
        let net = Arc::new_cyclic(|me| Net {
            me: me.clone(),
            db,
            clock: Clock::system(),
            handle,
            tables: Tables::new(&config.instance),
            config,
            pool: Arc::new(Pool::default()),
            state: Mutex::new(state),
            route: Mutex::new(route),
            nft_port: nft.port(),
            nft: Mutex::new(nft),
            reaper: Mutex::new(()),
            home,
            resolver: crate::dns::HostResolver::default(),
        });
        net.reconcile()?;
        Ok(net)
    }

    fn reconcile(&self) -> Result<(), NetError> {
        self.predefine()?;
        let networks: Vec<Network> = self.state.lock().networks.values().cloned().collect();
        for network in &networks {
            match self.ensure_interface(network) {
                Ok(_) => (),
                // One broken network must not keep the daemon down; attaching to it will say why again.
                Err(e) if !network.record.predefined => warn(&e, "network is not usable"),
                Err(e) => return Err(e),
            }
        }
        self.remove_orphans()?;
        self.install_rules()?;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        for endpoint in state.sandboxes.values().flat_map(|m| m.endpoints.values()) {
            state.held.resume(endpoint, &self.handle);
        }
        Ok(())
    }

    /// Makes `bridge`, `host` and `none`, and brings `bridge` in line with the configuration.
    fn predefine(&self) -> Result<(), NetError> {
        for (name, driver) in [("host", Driver::Host), ("none", Driver::Null)] {
            if self.named(name).is_none() {
                self.put(blank(name, driver, self.clock.unix_nanos()))?;
            }
        }
        let old = self.named("bridge").map(|n| n.record);
        let Some(config) = &self.config.bridge else {
            return old.map_or(Ok(()), |old| self.undefine(old));
        };
        let record = self.default_bridge(config, old.clone())?;
        let changed =
            old.as_ref().is_some_and(|o| o.ipam != record.ipam || o.options != record.options);
        let busy = old.as_ref().is_some_and(|o| self.has_endpoints(&o.id));
        if changed && busy {
            // Moving the network would cut off the containers on it.
            tracing::warn!("settings of the network bridge take effect when no container uses it");
            return Ok(());
        }
        if let Some(old) = old.filter(|_| changed) {
            self.remove_interface(&Network::new(old)?)?;
        }
        self.put(record)
    }

    fn default_bridge(
        &self,
        config: &DefaultBridge,
        old: Option<Record>,
    ) -> Result<Record, NetError> {
        let now = self.clock.unix_nanos();
        let mut record = blank("bridge", Driver::Bridge, now);
        if let Some(old) = &old {
            record.id = old.id.clone();
            record.created = old.created;
        }
        record.ipv6 = config.ipv6;
        record.options = self.default_options(config);
        let mut networks = self.state.lock().subnets();
        networks.retain(|(name, _)| name != "bridge");
        let around = Surroundings { config: &self.config, networks, routes: self.host_routes()? };
        record.ipam = self.default_ipam(config, old.as_ref())?;
        record.resolve_ipam(&around)?;
        Ok(record)
    }

    /// What is configured, else what the interface has, else what the record says.
    fn default_ipam(
        &self,
        config: &DefaultBridge,
        old: Option<&Record>,
    ) -> Result<Vec<IpamConfig>, NetError> {
        let there = match self.host_link(&config.name)? {
            Some(link) => addresses_of(self, &link)?,
            None => Vec::new(),
        };
        let of = |v4: bool, all: &[Subnet]| all.iter().find(|s| s.is_ipv4() == v4).copied();
        let v4 = config.bip.or_else(|| of(true, &there)).map(|s| (s.network(), Some(s.addr())));
        let v4 = v4.or_else(|| config.fixed_cidr.map(|s| (s.network(), None)));
        let v6 = config.bip6.map(|s| (s.network(), Some(s.addr())));
        let v6 = v6.or_else(|| config.fixed_cidr_v6.map(|s| (s.network(), None)));
        let mut out = Vec::new();
        for (is_v4, found, range, gateway) in [
            (true, v4, config.fixed_cidr, config.gateway),
            (false, v6.filter(|_| config.ipv6), config.fixed_cidr_v6, config.gateway6),
        ] {
            let before = old.and_then(|o| {
                o.ipam.iter().find(|c| c.subnet.is_some_and(|s| s.is_ipv4() == is_v4))
            });
            let (subnet, own) = match (found, before) {
                (Some((subnet, own)), _) => (subnet, own),
                (None, Some(b)) if is_v4 || config.ipv6 => match b.subnet {
                    Some(s) => (s, None),
                    None => continue,
                },
                _ => continue,
            };
            let range = range.map(|r| r.network()).filter(|r| subnet.covers(r) && *r != subnet);
            out.push(IpamConfig {
                subnet: Some(subnet),
                range,
                gateway: gateway.or(own),
                aux: BTreeMap::new(),
            });
        }
        Ok(out)
    }

    fn default_options(&self, config: &DefaultBridge) -> BTreeMap<String, String> {
        let binding = self.config.publish_on.unwrap_or(IpAddr::from([0u8; 4]));
        [
            ("com.docker.network.bridge.default_bridge", "true".to_owned()),
            ("com.docker.network.bridge.enable_icc", config.icc.to_string()),
            ("com.docker.network.bridge.enable_ip_masquerade", config.masquerade.to_string()),
            ("com.docker.network.bridge.host_binding_ipv4", binding.to_string()),
            ("com.docker.network.bridge.name", config.name.clone()),
            (
                "com.docker.network.driver.mtu",
                match self.config.mtu {
                    0 => self.host_mtu().to_string(),
                    mtu => mtu.to_string(),
                },
            ),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into()
    }

    fn named(&self, name: &str) -> Option<Network> {
        self.state.lock().networks.values().find(|n| n.record.name == name).cloned()
    }

    fn has_endpoints(&self, id: &Id) -> bool {
        self.state.lock().sandboxes.values().any(|m| m.endpoints.contains_key(id))
    }

    fn put(&self, record: Record) -> Result<(), NetError> {
        let mut network = Network::new(record)?;
        let mut state = self.state.lock();
        occupy(&mut network, state.sandboxes.values().flat_map(|m| m.endpoints.values()));
        if state.networks.get(&network.record.id).map(|n| &n.record) != Some(&network.record) {
            self.save_network(&network.record)?;
        }
        state.networks.insert(network.record.id.clone(), network);
        Ok(())
    }

    /// The daemon was started without a default bridge.
    fn undefine(&self, old: Record) -> Result<(), NetError> {
        if self.has_endpoints(&old.id) {
            return Ok(());
        }
        let mut changes = Changes::new();
        changes.delete(NETWORKS, old.id.as_str());
        self.write_or_warn(changes);
        self.state.lock().networks.remove(&old.id);
        self.remove_interface(&Network::new(old)?)
    }

    /// Removes interfaces that bear wharf's mark and belong to nothing that is recorded: a daemon
    /// that was killed between making and recording, or between forgetting and removing, left them.
    fn remove_orphans(&self) -> Result<(), NetError> {
        let known: BTreeSet<String> = {
            let state = self.state.lock();
            let networks = state.networks.keys();
            let endpoints = state.sandboxes.values().flat_map(|m| m.endpoints.values());
            networks.chain(endpoints.map(|e| &e.id)).map(|id| self.alias(id)).collect()
        };
        let prefix = self.alias_prefix();
        let orphan = |l: &Link| l.alias.starts_with(&prefix) && !known.contains(&l.alias);
        let mut route = self.route.lock();
        let links = route.links().map_err(kernel("list interfaces"))?;
        let mut batch = Batch::new();
        for link in links.into_iter().filter(orphan) {
            tracing::info!(interface = link.name, "removing an interface that nothing uses");
            batch.delete_link(LinkRef::Index(link.index));
        }
        if batch.is_empty() {
            return Ok(());
        }
        match route.execute(batch) {
            Err(e) if !e.is_absent() => Err(kernel("remove unused interfaces")(e)),
            _ => Ok(()),
        }
    }
}

fn load(db: &Db) -> Result<State, NetError> {
    let mut state = State::default();
    for (_, record) in db.scan::<Record>(NETWORKS).map_err(NetError::Db)? {
        state.networks.insert(record.id.clone(), Network::new(record)?);
    }
    for (_, endpoint) in db.scan::<Endpoint>(ENDPOINTS).map_err(NetError::Db)? {
        if let Some(network) = state.networks.get_mut(&endpoint.network) {
            occupy(network, std::iter::once(&endpoint));
        }
        let member = state.sandboxes.entry(endpoint.sandbox.clone()).or_default();
        member.endpoints.insert(endpoint.network.clone(), endpoint);
    }
    Ok(state)
}

/// Takes the addresses of recorded endpoints out of a network's pools.
fn occupy<'a>(network: &mut Network, endpoints: impl Iterator<Item = &'a Endpoint>) {
    for e in endpoints.filter(|e| e.network == network.record.id) {
        for (pool, ip) in [(&mut network.v4, e.ipv4), (&mut network.v6, e.ipv6)] {
            if let (Some(pool), Some(ip)) = (pool, ip)
                && let Err(error) = pool.take(Some(ip.addr()))
            {
                warn(&error, "recorded address does not fit its network");
            }
        }
    }
}

fn blank(name: &str, driver: Driver, created: i64) -> Record {
    Record {
        id: Id::random(),
        name: name.to_owned(),
        created,
        driver,
        ipv4: true,
        ipv6: false,
        internal: false,
        attachable: false,
        ipam: Vec::new(),
        ipam_options: BTreeMap::new(),
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
        predefined: true,
        config_only: false,
        config_from: String::new(),
    }
}

fn check_instance(name: &str) -> Result<(), NetError> {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if name.len() <= 8 && name.bytes().all(ok) {
        return Ok(());
    }
    let why = format!("{name:?} must be at most 8 lower-case letters or digits");
    Err(NetError::invalid("instance", why))
}
