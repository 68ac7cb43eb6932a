//! Networks as the Engine API shows them: requests read, lists filtered, objects written, and their events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use wharf_net::{Driver, Endpoint, IpamConfig, Net, NetworkInfo, NetworkSpec};
use wharf_spec::docker;

use crate::error::{EngineError, Result};
use crate::events::{Attributes, Events, Kind};
use crate::filters::{self, FilterError, Filters};

/// Networks with their events.
#[derive(Clone)]
pub struct Networks {
    net: Arc<Net>,
    events: Events,
    /// Options of every new network, by driver.
    defaults: Arc<BTreeMap<String, BTreeMap<String, String>>>,
}

impl Networks {
    /// Over the network layer.
    pub fn new(net: Arc<Net>, events: Events) -> Networks {
        Networks { net, events, defaults: Arc::default() }
    }

    /// The same, with options that every new network of a driver gets unless its request or the network that it
    /// takes its settings from says otherwise.
    #[must_use]
    pub fn with_defaults(self, by_driver: BTreeMap<String, BTreeMap<String, String>>) -> Networks {
        Networks { defaults: Arc::new(by_driver), ..self }
    }

    /// Lists networks by name, without who is on them.
    pub fn list(&self, filters: &Filters) -> Result<Vec<docker::NetworkInspect>> {
        filters.check(filters::NETWORKS).map_err(invalid)?;
        check_type(filters)?;
        let dangling = filters.truth("dangling").map_err(invalid)?;
        let infos = self.net.networks();
        let wanted = infos.iter().filter(|n| passes(n, filters, dangling));
        Ok(wanted
            .map(|n| docker::NetworkInspect { containers: docker::Map::new(), ..describe(n) })
            .collect())
    }

    /// Everything about one, found by name, id or beginning of the id.
    pub fn inspect(&self, name: &str) -> Result<docker::NetworkInspect> {
        Ok(describe(&self.net.network(name)?))
    }

    /// Creates one.
    pub fn create(
        &self,
        request: docker::NetworkCreateRequest,
    ) -> Result<docker::NetworkCreateResponse> {
        let mut spec = read(request)?;
        let driver = if spec.driver.is_empty() { "bridge" } else { &spec.driver };
        if spec.config_from.is_empty()
            && let Some(defaults) = self.defaults.get(driver)
        {
            for (key, value) in defaults {
                spec.options.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        let info = self.net.create_network(spec)?;
        self.tell("create", &info, BTreeMap::new());
        Ok(docker::NetworkCreateResponse { id: info.id.to_string(), warning: String::new() })
    }

    /// Removes one that nobody is on.
    pub fn remove(&self, name: &str) -> Result<()> {
        let info = self.net.remove_network(name)?;
        self.tell("destroy", &info, BTreeMap::new());
        Ok(())
    }

    /// Removes every unused user-defined network that the filters agree to.
    pub fn prune(&self, filters: &Filters, now: SystemTime) -> Result<docker::NetworksPruneReport> {
        filters.check(filters::PRUNE).map_err(invalid)?;
        let until = filters.until(now).map_err(invalid)?.map(nanos);
        let gone = self
            .net
            .prune(&|n| filters.prunes(&n.labels) && until.is_none_or(|until| n.created < until))?;
        for info in &gone {
            self.tell("destroy", info, BTreeMap::new());
        }
        let reclaimed = Attributes::from([("reclaimed".into(), "0".into())]);
        self.events.publish(Kind::Network, "prune", "", reclaimed);
        let names: Vec<String> = gone.into_iter().map(|n| n.name).collect();
        Ok(docker::NetworksPruneReport { networks_deleted: (!names.is_empty()).then_some(names) })
    }

    fn tell(&self, action: &str, info: &NetworkInfo, mut attributes: Attributes) {
        attributes.insert("name".into(), info.name.clone());
        attributes.insert("type".into(), info.driver.as_str().into());
        self.events.publish(Kind::Network, action, info.id.as_str(), attributes);
    }
}

/// Names that exist without anybody creating them.
const PREDEFINED: &[&str] = &["bridge", "host", "none"];

fn check_type(filters: &Filters) -> Result<()> {
    match filters.values("type").find(|t| !matches!(*t, "custom" | "builtin")) {
        Some(other) => Err(EngineError::invalid(format!("invalid filter: 'type'='{other}'"))),
        None => Ok(()),
    }
}

fn passes(info: &NetworkInfo, filters: &Filters, dangling: Option<bool>) -> bool {
    let builtin = PREDEFINED.contains(&info.name.as_str());
    filters.exact("driver", info.driver.as_str())
        && filters.exact("scope", "local")
        && filters.exact("type", if builtin { "builtin" } else { "custom" })
        && filters.pattern("id", info.id.as_str())
        && filters.pattern("name", &info.name)
        && filters.labels("label", &info.labels)
        && dangling.is_none_or(|want| want == (info.endpoints.is_empty() && !builtin))
}

fn describe(info: &NetworkInfo) -> docker::NetworkInspect {
    docker::NetworkInspect {
        name: info.name.clone(),
        id: info.id.to_string(),
        created: docker::rfc3339(info.created),
        scope: "local".into(),
        driver: info.driver.as_str().into(),
        enable_ipv4: info.ipv4,
        enable_ipv6: info.ipv6,
        ipam: docker::Ipam {
            driver: "default".into(),
            options: (!info.ipam_options.is_empty()).then(|| info.ipam_options.clone()),
            config: Some(info.ipam.iter().map(describe_subnet).collect()),
        },
        internal: info.internal,
        attachable: info.attachable,
        ingress: false,
        config_from: docker::ConfigReference { network: info.config_from.clone() },
        config_only: info.config_only,
        containers: info
            .endpoints
            .iter()
            .map(|e| (e.sandbox.to_string(), describe_endpoint(e)))
            .collect(),
        options: info.options.clone(),
        labels: info.labels.clone(),
    }
}

fn describe_subnet(config: &IpamConfig) -> docker::IpamConfig {
    let text = |value: &dyn ToString| value.to_string();
    docker::IpamConfig {
        subnet: config.subnet.map_or_else(String::new, |s| text(&s)),
        ip_range: config.range.map_or_else(String::new, |s| text(&s)),
        gateway: config.gateway.map_or_else(String::new, |a| text(&a)),
        auxiliary_addresses: (!config.aux.is_empty())
            .then(|| config.aux.iter().map(|(k, v)| (k.clone(), v.to_string())).collect()),
    }
}

fn describe_endpoint(endpoint: &Endpoint) -> docker::EndpointResource {
    docker::EndpointResource {
        name: endpoint.container_name.clone(),
        endpoint_id: endpoint.id.to_string(),
        mac_address: endpoint.mac.map_or_else(String::new, |m| m.to_string()),
        ipv4_address: endpoint.ipv4.map_or_else(String::new, |a| a.to_string()),
        ipv6_address: endpoint.ipv6.map_or_else(String::new, |a| a.to_string()),
    }
}

/// Reads a create request; what this engine does not do is refused by name.
fn read(request: docker::NetworkCreateRequest) -> Result<NetworkSpec> {
    if request.ingress || request.scope == "swarm" {
        return Err(EngineError::new(crate::error::Kind::Unavailable, NOT_A_MANAGER));
    }
    let ipam = request.ipam.unwrap_or_default();
    if !matches!(ipam.driver.as_str(), "" | "default") {
        return Err(EngineError::not_found(format!(
            "could not find an available, non-invalid plugin for ipam driver {:?}: only \"default\" exists",
            ipam.driver
        )));
    }
    let configs = ipam.config.unwrap_or_default();
    Ok(NetworkSpec {
        name: request.name,
        driver: request.driver,
        ipv4: request.enable_ipv4,
        ipv6: request.enable_ipv6,
        internal: request.internal,
        attachable: request.attachable,
        ipam: configs.into_iter().map(read_subnet).collect::<Result<_>>()?,
        ipam_options: ipam.options.unwrap_or_default(),
        options: request.options.unwrap_or_default(),
        labels: request.labels.unwrap_or_default(),
        config_only: request.config_only,
        config_from: request.config_from.map(|c| c.network).unwrap_or_default(),
    })
}

fn read_subnet(config: docker::IpamConfig) -> Result<IpamConfig> {
    Ok(IpamConfig {
        subnet: optional("subnet", &config.subnet)?,
        range: optional("ip-range", &config.ip_range)?,
        gateway: optional("gateway", &config.gateway)?,
        aux: config
            .auxiliary_addresses
            .unwrap_or_default()
            .into_iter()
            .map(|(name, address)| Ok((name, required("aux-address", &address)?)))
            .collect::<Result<_>>()?,
    })
}

fn optional<T: std::str::FromStr>(what: &str, text: &str) -> Result<Option<T>> {
    if text.is_empty() { Ok(None) } else { required(what, text).map(Some) }
}

fn required<T: std::str::FromStr>(what: &str, text: &str) -> Result<T> {
    text.parse().map_err(|_| {
        EngineError::invalid(format!("invalid network config: invalid {what} {text:?}"))
    })
}

/// What every swarm route answers.
pub const NOT_A_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";

/// Whether the driver has interfaces at all.
pub fn is_attachable(driver: Driver) -> bool {
    !matches!(driver, Driver::Host | Driver::Null)
}

fn nanos(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn invalid(e: FilterError) -> EngineError {
    EngineError::invalid(e.to_string())
}
