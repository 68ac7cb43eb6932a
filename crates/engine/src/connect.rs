//! Connecting existing containers to networks and disconnecting them, live where they run.

use std::sync::Arc;

use wharf_net::{Binding, Driver, Endpoint, NetworkInfo, PortMap};
use wharf_spec::docker::EndpointSettings;

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::network::{check_settings, endpoint_config};
use crate::record::{self, NetworkMode, Record};
use crate::state::State;

impl Inner {
    /// Puts a container on one more network. One that runs is there when this returns.
    pub(crate) async fn connect_network(
        self: &Arc<Self>,
        network: &str,
        c: &Arc<Container>,
        settings: EndpointSettings,
    ) -> Result<()> {
        let _turn = c.turn.lock().await;
        let info = self.net.network(network).map_err(EngineError::from)?;
        let (old, state) = (c.record(), c.state());
        may_connect(&old, &state, &info)?;
        check_settings(&info.name, &settings)?;
        let config = endpoint_config(&old, &settings)?;
        let live = state.run().is_some();
        if live {
            let of = old.clone();
            let name = info.name.clone();
            self.blocking(move |inner| {
                let before = inner.net.endpoints(&of.id);
                let made = inner.net.attach(&of.id, &name, config).map_err(EngineError::from)?;
                if let Err(e) = inner.follow_gateway(&of, &before) {
                    // The ports go back to where they were with the endpoint that took them.
                    if let Err(e) = inner.net.detach(&of.id, &name) {
                        tracing::error!(container = %of.id, error = %e, "network was not left");
                    }
                    inner.follow_gateway(&of, &before)?;
                    return Err(e);
                }
                inner.edit_hosts(&of, |text| with_own(text, &of, &made))?;
                inner.begin_names(&of, &before)
            })
            .await?;
        }
        let mut record = Record::clone(&old);
        record.networks.insert(info.name.clone(), settings);
        self.keep(c, record)?;
        if live {
            self.network_event("connect", &old, &info.name);
        }
        Ok(())
    }

    /// Takes a container off a network.
    pub(crate) async fn disconnect_network(
        self: &Arc<Self>,
        network: &str,
        c: &Arc<Container>,
        force: bool,
    ) -> Result<()> {
        let _turn = c.turn.lock().await;
        let info = self.net.network(network).map_err(EngineError::from)?;
        let old = c.record();
        if matches!(old.network_mode(), NetworkMode::Host) && info.driver == Driver::Host {
            return Err(EngineError::invalid(HOST));
        }
        if !old.networks.contains_key(&info.name) {
            return Err(EngineError::forbidden(format!(
                "container {} is not connected to network {}",
                c.id, info.name
            )));
        }
        if c.state().run().is_some() {
            let (of, name) = (old.clone(), info.name.clone());
            let left = self.blocking(move |inner| inner.leave_one(&of, &name)).await;
            // By force the record forgets the network whatever became of the interface.
            match left {
                Err(e) if force => {
                    tracing::warn!(container = %c.id, error = %e.message(), "network was left by force");
                }
                left => left?,
            }
        }
        let mut record = Record::clone(&old);
        record.networks.remove(&info.name);
        self.keep(c, record)?;
        self.network_event("disconnect", &old, &info.name);
        Ok(())
    }

    /// Takes an endpoint off a network whose container the engine does not know, by the container's name or id.
    pub(crate) async fn disconnect_remains(
        self: &Arc<Self>,
        network: &str,
        container: &str,
    ) -> Result<()> {
        let (network, name) = (network.to_owned(), container.to_owned());
        self.blocking(move |inner| {
            let info = inner.net.network(&network).map_err(EngineError::from)?;
            let of = |e: &&Endpoint| e.container_name == name || e.sandbox.as_str() == name;
            let Some(found) = info.endpoints.iter().find(of) else {
                return Err(EngineError::not_found(format!("endpoint {name} not found")));
            };
            inner.net.detach(&found.sandbox, info.id.as_str()).map_err(EngineError::from)
        })
        .await
    }

    fn leave_one(&self, record: &Record, network: &str) -> Result<()> {
        let before = self.net.endpoints(&record.id);
        self.net.detach(&record.id, network).map_err(EngineError::from)?;
        self.follow_gateway(record, &before)?;
        let gone = before.into_iter().find(|e| e.network_name == network);
        match gone {
            Some(gone) => self.edit_hosts(record, |text| without_own(text, &gone)),
            None => Ok(()),
        }
    }

    /// Ports are published through the endpoint with the default route. When that is another one now, they
    /// move to it, each to the host port that it had.
    fn follow_gateway(&self, record: &Record, before: &[Endpoint]) -> Result<()> {
        let wanted = crate::ports::wanted(&record.config, &record.host)?;
        let now = self.net.endpoints(&record.id);
        let first = now.first().map(|e| &e.id);
        let holds = now.iter().find(|e| !e.ports.is_empty()).map(|e| &e.id);
        if wanted.is_empty() || (holds.is_some() && holds == first) {
            return Ok(());
        }
        let had: Vec<PortMap> = before.iter().flat_map(|e| &e.ports).map(same_port).collect();
        let ports = if had.is_empty() { wanted } else { had };
        self.net.unpublish(&record.id).map_err(EngineError::from)?;
        self.net.publish(&record.id, &ports).map_err(EngineError::from)?;
        Ok(())
    }

    fn edit_hosts(&self, record: &Record, edit: impl FnOnce(&str) -> String) -> Result<()> {
        crate::files::edit(&self.dir(&record.id), "hosts", edit)
    }

    /// A container that asked its name servers itself, and is on a user-defined network now, asks the engine from here on,
    /// unless it has written a resolv.conf of its own.
    fn begin_names(&self, record: &Record, before: &[Endpoint]) -> Result<()> {
        let now = self.net.endpoints(&record.id);
        let had = self.name_service(record, before)?.is_some();
        let Some(names) = self.name_service(record, &now)?.filter(|_| !had) else { return Ok(()) };
        self.net.serve_names(&record.id, names).map_err(EngineError::from)?;
        let (old, new) =
            (self.resolv_conf(record, before, false)?, self.resolv_conf(record, &now, false)?);
        crate::files::edit(&self.dir(&record.id), "resolv.conf", |text| {
            if text == old { new } else { text.to_owned() }
        })
    }

    fn keep(&self, c: &Container, record: Record) -> Result<()> {
        record::store(&self.db, &record, &c.life())?;
        c.with(|core| core.record = Arc::new(record));
        Ok(())
    }
}

/// Docker's text.
const HOST: &str =
    "container cannot be disconnected from host network or connected to host network";

fn may_connect(record: &Record, state: &State, info: &NetworkInfo) -> Result<()> {
    if matches!(state, State::Removing(_) | State::Dead(_)) {
        return Err(EngineError::conflict(format!(
            "container is marked for removal and cannot be connected: {}",
            record.id
        )));
    }
    match record.network_mode() {
        NetworkMode::Host | NetworkMode::Container(_) => {
            return Err(EngineError::invalid(
                "container sharing network namespace with another container or host cannot be connected to any other network",
            ));
        }
        NetworkMode::None if record.networks.contains_key("none") => {
            return Err(EngineError::invalid(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode",
            ));
        }
        NetworkMode::None | NetworkMode::Named(_) => (),
    }
    match info.driver {
        _ if info.config_only => {
            Err(EngineError::forbidden("cannot create endpoint on configuration-only network"))
        }
        Driver::Host => Err(EngineError::invalid(HOST)),
        Driver::Null => Err(EngineError::invalid(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        )),
        _ if record.networks.contains_key(&info.name) => Err(EngineError::forbidden(format!(
            "endpoint with name {} already exists in network {}",
            record.name, info.name
        ))),
        _ => Ok(()),
    }
}

/// What asks for a binding again.
fn same_port(b: &Binding) -> PortMap {
    PortMap {
        container: b.container,
        proto: b.proto,
        host_ip: Some(b.host_ip),
        host: Some((b.host, b.host)),
    }
}

fn own_lines(record: &Record, endpoint: &Endpoint) -> String {
    let names = crate::network::own_names(record.hostname(), &record.config.domainname).join(" ");
    addresses(endpoint).map(|ip| format!("{ip}\t{names}\n")).collect()
}

fn with_own(text: &str, record: &Record, endpoint: &Endpoint) -> String {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}{}", own_lines(record, endpoint))
}

/// Without the lines of an endpoint's addresses; what the container wrote itself stays.
fn without_own(text: &str, endpoint: &Endpoint) -> String {
    let gone: Vec<String> = addresses(endpoint).map(|ip| ip.to_string()).collect();
    let of_it = |line: &&str| {
        line.split_whitespace().next().is_some_and(|first| gone.iter().any(|g| g == first))
    };
    text.split_inclusive('\n').filter(|line| !of_it(line)).collect()
}

fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = std::net::IpAddr> {
    [endpoint.ipv4, endpoint.ipv6].into_iter().flatten().map(|subnet| subnet.addr())
}
