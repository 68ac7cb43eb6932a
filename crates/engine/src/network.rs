//! A container's place in the network: its sandbox, its endpoints, its published ports, its name files.

use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use wharf_net::files::{Hosts, ResolvConf, Resolver};
use wharf_net::{Endpoint, EndpointConfig, Link, NameService, Sandbox, dns};
use wharf_spec::docker::EndpointSettings;

use crate::error::{EngineError, Result};
use crate::events;
use crate::files;
use crate::inner::Inner;
use crate::record::{NetworkMode, Record};
use crate::spec::Namespace;
use crate::undo::Undo;

/// The network of a container that is about to start.
pub(crate) enum Joined {
    /// The host's.
    Host,
    /// Another container's, by path.
    Other(std::path::PathBuf),
    /// Its own.
    Own {
        /// The namespace.
        sandbox: Sandbox,
        /// Where it is attached.
        endpoints: Vec<Endpoint>,
    },
}

impl Joined {
    /// For the spec. The path of an own namespace is a descriptor of this process, valid while `self` lives.
    pub(crate) fn namespace(&self) -> Namespace {
        match self {
            Joined::Host => Namespace::Host,
            Joined::Other(path) => Namespace::Join(path.clone()),
            Joined::Own { sandbox, .. } => {
                let fd = sandbox.netns().as_raw_fd();
                Namespace::Join(format!("/proc/{}/fd/{fd}", std::process::id()).into())
            }
        }
    }

    /// Its own endpoints.
    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        match self {
            Joined::Own { endpoints, .. } => endpoints,
            Joined::Host | Joined::Other(_) => &[],
        }
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let endpoints = self.endpoints();
        let both = |e: &Endpoint| [e.ipv4, e.ipv6];
        endpoints.iter().flat_map(both).flatten().map(|subnet| subnet.addr()).collect()
    }
}

impl Inner {
    /// Makes the sandbox, attaches it and publishes ports. Blocks.
    pub(crate) fn join_network(
        self: &Arc<Self>,
        record: &Record,
        undo: &mut Undo,
    ) -> Result<Joined> {
        match record.network_mode() {
            NetworkMode::Host => return Ok(Joined::Host),
            NetworkMode::Container(id) => {
                return Ok(Joined::Other(self.namespace_of(id, "net")?));
            }
            NetworkMode::None | NetworkMode::Named(_) => (),
        }
        // What an earlier daemon or a half start left would be in the way.
        drop(self.net.release(&record.id));
        let sandbox = self.net.create_sandbox(&record.id).map_err(EngineError::from)?;
        undo.push("release the network", {
            let (inner, id) = (self.clone(), record.id.clone());
            move || {
                if let Err(e) = inner.net.release(&id) {
                    tracing::error!(container = %id, error = %e, "network was not released");
                }
            }
        });
        for (network, settings) in &record.networks {
            let config = endpoint_config(record, settings)?;
            self.net.attach(&record.id, network, config).map_err(EngineError::from)?;
            self.network_event("connect", record, network);
        }
        let ports = crate::ports::wanted(&record.config, &record.host)?;
        if !ports.is_empty() {
            self.net.publish(&record.id, &ports).map_err(EngineError::from)?;
        }
        if !record.links.is_empty() {
            self.open_links(record)?;
        }
        let endpoints = self.net.endpoints(&record.id);
        if let Some(names) = self.name_service(record, &endpoints)? {
            self.net.serve_names(&record.id, names).map_err(EngineError::from)?;
        }
        Ok(Joined::Own { sandbox, endpoints })
    }

    /// How a container on these networks has its names resolved by the engine, if it has.
    ///
    /// On the default bridge alone, `--dns` names the servers that the container itself asks, as in Docker.
    pub(crate) fn name_service(
        &self,
        record: &Record,
        endpoints: &[Endpoint],
    ) -> Result<Option<NameService>> {
        let own = record.host.dns.as_ref().is_some_and(|d| !d.is_empty());
        let mut wired = endpoints.iter().filter(|e| !e.ifname.is_empty()).peekable();
        if wired.peek().is_none() || (own && wired.all(|e| e.network_name == "bridge")) {
            return Ok(None);
        }
        let (servers, _, options) = self.resolver_settings(record)?;
        let ndots = options.iter().any(|o| o.starts_with("ndots:"));
        Ok(Some(NameService { servers, ndots }))
    }

    /// Name servers, search list and options: the container's, else the daemon's.
    fn resolver_settings(
        &self,
        record: &Record,
    ) -> Result<(Vec<IpAddr>, Vec<String>, Vec<String>)> {
        let list = |own: &Option<Vec<String>>, default: &[String]| match own.as_deref() {
            None | Some([]) => default.to_vec(),
            Some(own) => own.to_vec(),
        };
        let h = &record.host;
        Ok((
            crate::validate::dns(&list(&h.dns, &self.config.dns))?,
            list(&h.dns_search, &self.config.dns_search),
            list(&h.dns_options, &self.config.dns_options),
        ))
    }

    /// Takes a container that ended off its networks. Blocks.
    pub(crate) fn leave_network(&self, record: &Record) {
        if matches!(record.network_mode(), NetworkMode::Host | NetworkMode::Container(_)) {
            return;
        }
        if let Err(e) = self.net.release(&record.id) {
            tracing::error!(container = %record.id, error = %e, "network was not released");
        }
        for network in record.networks.keys() {
            self.network_event("disconnect", record, network);
        }
    }

    pub(crate) fn network_event(&self, action: &str, record: &Record, network: &str) {
        let Ok(info) = self.net.network(network) else { return };
        let attributes = [
            ("container", record.id.to_string()),
            ("name", info.name),
            ("type", info.driver.as_str().to_owned()),
        ];
        let attributes = attributes.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        self.events.publish(events::Kind::Network, action, info.id.as_str(), attributes);
    }

    /// Writes hostname, hosts and resolv.conf; returns what the container calls itself.
    pub(crate) fn write_files(&self, record: &Record, network: &Joined) -> Result<String> {
        let dir = self.dir(&record.id);
        let hostname = self.hostname(record, network);
        files::write(&dir, "hostname", &format!("{hostname}\n"))?;
        if let NetworkMode::Container(id) = record.network_mode() {
            self.copy_files(record, &self.find(id)?.record())?;
            return Ok(hostname);
        }
        let mut extra = self.extra_hosts(record, network)?;
        if matches!(network, Joined::Host) {
            files::write(&dir, "hosts", &hosts_of_host(&extra))?;
            let text = self.resolv_conf(record, &[], true)?;
            files::write(&dir, "resolv.conf", &text)?;
            return Ok(hostname);
        }
        extra.extend(self.linked(record)?.iter().map(crate::links::Linked::host));
        let hosts = Hosts {
            own_names: own_names(&hostname, &record.config.domainname),
            own: network.addresses(),
            extra,
            host: self.gateways(network),
        };
        files::write(&dir, "hosts", &hosts.render())?;
        let text = self.resolv_conf(record, network.endpoints(), false)?;
        files::write(&dir, "resolv.conf", &text)?;
        Ok(hostname)
    }

    /// The text of a container's resolv.conf.
    pub(crate) fn resolv_conf(
        &self,
        record: &Record,
        endpoints: &[Endpoint],
        host_network: bool,
    ) -> Result<String> {
        let (dns, search, options) = self.resolver_settings(record)?;
        let embedded = self.name_service(record, endpoints)?.map(|_| dns::ADDRESS.into());
        let ipv6 = endpoints.iter().any(|e| e.ipv6.is_some());
        let resolver = Resolver { dns, search, options, ipv6, host_network, embedded };
        // Behind the engine's resolver, which runs on the host, a stub on the host's loopback is as good as any.
        let host = match embedded {
            Some(_) => self.net.host_resolver(),
            None => Arc::new(ResolvConf::of_host()),
        };
        Ok(resolver.render(&host))
    }

    /// Who shares another's network sees names as that one does.
    fn copy_files(&self, record: &Record, from: &Record) -> Result<()> {
        for name in ["hosts", "resolv.conf"] {
            let path = self.dir(&from.id).join(name);
            let text = std::fs::read_to_string(&path)
                .map_err(|e| EngineError::system(format!("read {}", path.display()), e))?;
            files::write(&self.dir(&record.id), name, &text)?;
        }
        Ok(())
    }

    fn hostname(&self, record: &Record, network: &Joined) -> String {
        let hosts_own = record.host.uts_mode == "host"
            || (matches!(network, Joined::Host) && record.config.hostname.is_empty());
        if hosts_own {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            return name.trim().to_owned();
        }
        match record.network_mode() {
            NetworkMode::Container(id) => match self.find(id) {
                Ok(other) => other.record().hostname().to_owned(),
                Err(_) => record.hostname().to_owned(),
            },
            _ => record.hostname().to_owned(),
        }
    }

    /// `--add-host`.
    fn extra_hosts(&self, record: &Record, network: &Joined) -> Result<Vec<(String, Vec<IpAddr>)>> {
        let gateway = self.gateways(network);
        let mut out = Vec::new();
        for entry in record.host.extra_hosts.iter().flatten() {
            let (name, address) = crate::validate::extra_host(entry)?;
            match address.parse() {
                Ok(ip) => out.push((name.to_owned(), vec![ip])),
                Err(_) if gateway.is_empty() => {
                    return Err(EngineError::invalid(format!(
                        "unable to derive the IP value for host-gateway in {entry:?}: the container \
                         has no gateway; set host-gateway-ip"
                    )));
                }
                Err(_) => out.push((name.to_owned(), gateway.clone())),
            }
        }
        Ok(out)
    }

    fn gateways(&self, network: &Joined) -> Vec<IpAddr> {
        match network {
            _ if !self.config.host_gateway_ips.is_empty() => self.config.host_gateway_ips.clone(),
            Joined::Host => vec![IpAddr::from([127, 0, 0, 1])],
            Joined::Other(_) => Vec::new(),
            Joined::Own { endpoints, .. } => {
                endpoints.iter().filter_map(|e| e.gateway4).map(IpAddr::from).take(1).collect()
            }
        }
    }
}

/// Who uses the host's network knows the names that the host knows, and those that were added for it.
fn hosts_of_host(extra: &[(String, Vec<IpAddr>)]) -> String {
    let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    for (name, ips) in extra {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.extend(ips.iter().map(|ip| format!("{ip}\t{name}\n")));
    }
    text
}

/// What a container calls itself in `/etc/hosts`.
pub(crate) fn own_names(hostname: &str, domain: &str) -> Vec<String> {
    let full = (!domain.is_empty()).then(|| format!("{hostname}.{domain}"));
    full.into_iter().chain([hostname.to_owned()]).collect()
}

/// Refuses, in Docker's words, what only networks of the user's can do.
pub(crate) fn check_settings(network: &str, settings: &EndpointSettings) -> Result<()> {
    let own = !matches!(network, "" | "default" | "bridge" | "host" | "none")
        && !network.starts_with("container:");
    let ipam = settings.ipam_config.as_ref();
    let addressed = ipam.is_some_and(|i| !i.ipv4_address.is_empty() || !i.ipv6_address.is_empty());
    let named = settings.aliases.as_ref().is_some_and(|a| !a.is_empty());
    let mut wrong = Vec::new();
    if !own && addressed {
        wrong.push("user specified IP address is supported on user defined networks only");
    }
    if !own && named {
        wrong
            .push("network-scoped alias is supported only for containers in user defined networks");
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => {
            let text = format!("invalid endpoint settings:\n{}", wrong.join("\n"));
            Err(EngineError::invalid(text))
        }
    }
}

pub(crate) fn endpoint_config(record: &Record, s: &EndpointSettings) -> Result<EndpointConfig> {
    let mut links = Vec::new();
    for text in s.links.iter().flatten() {
        let (container, alias) = crate::links::parse(text)?;
        links.push(Link { container: container.to_owned(), alias: alias.to_owned() });
    }
    let ipam = s.ipam_config.clone().unwrap_or_default();
    let bad = |what: &str| EngineError::invalid(format!("invalid IP address: {what}"));
    let mac = [&s.mac_address, &record.config.mac_address].into_iter().find(|m| !m.is_empty());
    let mut link_local = Vec::new();
    for ip in ipam.link_local_ips.iter().flatten() {
        link_local.push(ip.parse().map_err(|_| bad(ip))?);
    }
    let address = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let ipv4 = address(&ipam.ipv4_address).map(|a| a.parse().map_err(|_| bad(&a))).transpose()?;
    let ipv6 = address(&ipam.ipv6_address).map(|a| a.parse().map_err(|_| bad(&a))).transpose()?;
    let mut options = s.driver_opts.clone().unwrap_or_default();
    let ifname = options.remove("com.docker.network.endpoint.ifname");
    Ok(EndpointConfig {
        container_name: record.name.clone(),
        ipv4,
        ipv6,
        link_local,
        mac: mac
            .map(|m| {
                m.parse().map_err(|_| EngineError::invalid(format!("invalid MAC address: {m}")))
            })
            .transpose()?,
        ifname,
        hostname: record.hostname().to_owned(),
        aliases: s.aliases.clone().unwrap_or_default(),
        links,
        exposed: crate::ports::exposed(&record.config),
        gateway_priority: s.gw_priority,
        options,
    })
}
