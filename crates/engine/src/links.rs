//! Legacy links: names and environment variables that one container on the default bridge has for another.
//!
//! Docker has discouraged them since 2015, and images of that time read nothing but these variables. On
//! user-defined networks a link is one more name in DNS and nothing else.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wharf_base::Id;
use wharf_net::{Endpoint, Opening, Protocol};
use wharf_spec::docker::HostConfig;

use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::record::{self, NetworkMode, Record};

/// A link as a container keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyLink {
    /// The other container.
    pub child: Id,
    /// What it is called here.
    pub alias: String,
}

/// The other end of a link, up and running.
#[derive(Clone, Debug)]
pub(crate) struct Linked {
    alias: String,
    ip: IpAddr,
    name: String,
    hostname: String,
    env: Vec<String>,
    ports: Vec<(Protocol, u16)>,
}

/// Reads `name:alias`, `name`, or `/name:/parent/alias`, which inspect shows.
pub(crate) fn parse(text: &str) -> Result<(&str, &str)> {
    let wrong = || EngineError::invalid(format!("bad format for links: {text}"));
    let (name, alias) = match text.split_once(':') {
        None => (text, text),
        Some((_, alias)) if alias.contains(':') => return Err(wrong()),
        Some((name, alias)) => match name.strip_prefix('/') {
            Some(name) => (name, alias.rsplit('/').next().unwrap_or(alias)),
            None => (name, alias.strip_prefix('/').unwrap_or(alias)),
        },
    };
    if name.is_empty() || alias.is_empty() { Err(wrong()) } else { Ok((name, alias)) }
}

impl Inner {
    /// Takes the links of a request out of it: to other containers on the default bridge, by id, so that they
    /// follow a rename.
    pub(crate) fn take_links(&self, host: &mut HostConfig) -> Result<Vec<LegacyLink>> {
        let given = host.links.take().unwrap_or_default();
        let mut out = Vec::new();
        for text in &given {
            let (name, alias) = parse(text)?;
            let missing =
                |e| EngineError::invalid(format!("could not get container for {name}")).because(e);
            let mut child = self.find(name).map_err(missing)?;
            while let NetworkMode::Container(id) = child.record().network_mode() {
                child = self.find(id).map_err(missing)?;
            }
            if child.record().network_mode() == NetworkMode::Host {
                return Err(EngineError::invalid(
                    "conflicting options: host type networking can't be used with links. This would \
                     result in undefined behavior",
                ));
            }
            out.push(LegacyLink { child: child.id.clone(), alias: alias.to_owned() });
        }
        Ok(out)
    }

    /// What a container's links lead to. All must run on the default bridge.
    pub(crate) fn linked(&self, record: &Record) -> Result<Vec<Linked>> {
        let mut out = Vec::new();
        for link in &record.links {
            // A container that was removed took its links along.
            let Ok(child) = self.find(link.child.as_str()) else { continue };
            let of = child.record();
            if child.state().run().is_none() {
                return Err(EngineError::conflict(format!(
                    "Cannot link to a non running container: /{} AS /{}/{}",
                    of.name, record.name, link.alias
                )));
            }
            let ip = bridge_address(&self.net.endpoints(&child.id)).ok_or_else(|| {
                EngineError::conflict(format!(
                    "Cannot link to /{}, as it does not belong to the default network",
                    of.name
                ))
            })?;
            out.push(Linked {
                alias: link.alias.clone(),
                ip,
                name: of.name.clone(),
                hostname: of.hostname().to_owned(),
                env: of.config.env.clone().unwrap_or_default(),
                ports: crate::ports::exposed(&of.config),
            });
        }
        Ok(out)
    }

    /// Variables about those that a container links to, as far as they run.
    pub(crate) fn link_variables(&self, record: &Record) -> Vec<String> {
        let linked = self.linked(record).unwrap_or_default();
        linked.iter().flat_map(|l| l.environment(&record.name)).collect()
    }

    /// Lets a container reach what it links to, and no more, on a bridge that keeps containers apart. Blocks.
    pub(crate) fn open_links(&self, record: &Record) -> Result<()> {
        let openings = self.linked(record)?.into_iter().flat_map(|l| {
            let IpAddr::V4(to) = l.ip else { return Vec::new() };
            let opening = |(proto, port)| Opening { to, proto, port };
            l.ports.into_iter().map(opening).collect::<Vec<_>>()
        });
        self.net.open_links(&record.id, openings.collect()).map_err(EngineError::from)
    }

    /// A container has started, maybe at another address: tells those that link to it.
    pub(crate) async fn tell_linking(self: &Arc<Self>, child: &Record) {
        let Some(ip) = bridge_address(&self.net.endpoints(&child.id)) else { return };
        for parent in self.all() {
            let of = parent.record();
            if parent.state().run().is_none() || parent.id == child.id {
                continue;
            }
            for link in of.links.iter().filter(|l| l.child == child.id) {
                let names = names(&link.alias, child.hostname(), &child.name);
                let edited = crate::files::edit(&self.dir(&parent.id), "hosts", |text| {
                    moved(text, &names, ip)
                });
                let linking = of.clone();
                let opened = self.blocking(move |inner| inner.open_links(&linking)).await;
                if let Err(e) = edited.and(opened) {
                    tracing::warn!(container = %parent.id, error = %e.message(), "link was not updated");
                }
            }
        }
    }

    /// `rm --link parent/alias`: the container `parent` loses the link, the one that it led to stays.
    pub(crate) async fn unlink(self: &Arc<Self>, text: &str) -> Result<()> {
        let Some((parent, alias)) = text.strip_prefix('/').unwrap_or(text).split_once('/') else {
            return Err(EngineError::conflict(
                "conflict: cannot remove the default link name of the container",
            ));
        };
        let parent = self.find(parent)?;
        let _turn = parent.turn.lock().await;
        let mut record = Record::clone(&parent.record());
        let Some(child) = record.linked(alias).cloned() else {
            return Err(EngineError::no_such_container(text));
        };
        record.links.retain(|l| l.alias != alias);
        record::store(&self.db, &record, &parent.life())?;
        let record = Arc::new(record);
        parent.with(|core| core.record = record.clone());
        let Ok(child) = self.find(child.as_str()) else { return Ok(()) };
        let of = child.record();
        let names = names(alias, of.hostname(), &of.name);
        if parent.state().run().is_some() {
            self.blocking(move |inner| inner.open_links(&record)).await?;
            crate::files::edit(&self.dir(&parent.id), "hosts", |text| without(text, &names))?;
        }
        Ok(())
    }

    /// Links as inspect shows them.
    pub(crate) fn shown_links(&self, record: &Record) -> Option<Vec<String>> {
        let shown = record.links.iter().filter_map(|link| {
            let child = self.find(link.child.as_str()).ok()?.record().name.clone();
            Some(format!("/{child}:/{}/{}", record.name, link.alias))
        });
        let shown: Vec<_> = shown.collect();
        (!shown.is_empty()).then_some(shown)
    }
}

impl Linked {
    /// The names in `/etc/hosts`, with their address.
    pub(crate) fn host(&self) -> (String, Vec<IpAddr>) {
        (names(&self.alias, &self.hostname, &self.name), vec![self.ip])
    }

    /// Docker's variables, in its order.
    pub(crate) fn environment(&self, parent: &str) -> Vec<String> {
        let alias = self.alias.to_uppercase().replace('-', "_");
        let ip = self.ip;
        let mut ports = self.ports.clone();
        // By number, TCP before others: the first is the port.
        ports.sort_by_key(|(proto, port)| (*port, *proto));
        let mut out = Vec::new();
        if let Some((proto, port)) = ports.first() {
            out.push(format!("{alias}_PORT={proto}://{ip}:{port}"));
        }
        for run in runs(&ports) {
            let (proto, first, last) = (run[0].0, run[0].1, run[run.len() - 1].1);
            if run.len() == 1 {
                continue;
            }
            let start = format!("{alias}_PORT_{first}_{}", proto.as_str().to_uppercase());
            out.push(format!("{start}_START={proto}://{ip}:{first}"));
            out.push(format!("{start}_PORT_START={first}"));
            out.push(format!("{start}_END={proto}://{ip}:{last}"));
            out.push(format!("{start}_PORT_END={last}"));
        }
        for (proto, port) in &ports {
            let one = format!("{alias}_PORT_{port}_{}", proto.as_str().to_uppercase());
            out.push(format!("{one}={proto}://{ip}:{port}"));
            out.push(format!("{one}_ADDR={ip}"));
            out.push(format!("{one}_PORT={port}"));
            out.push(format!("{one}_PROTO={proto}"));
        }
        out.push(format!("{alias}_NAME=/{parent}/{}", self.alias));
        for (name, value) in self.env.iter().filter_map(|e| e.split_once('=')) {
            // Of no meaning in another container.
            if !["HOME", "PATH"].contains(&name) {
                out.push(format!("{alias}_ENV_{name}={value}"));
            }
        }
        out
    }
}

/// Splits sorted ports into runs of consecutive numbers of one protocol.
fn runs(ports: &[(Protocol, u16)]) -> impl Iterator<Item = &[(Protocol, u16)]> {
    ports.chunk_by(|a, b| a.0 == b.0 && a.1.checked_add(1) == Some(b.1))
}

fn names(alias: &str, hostname: &str, name: &str) -> String {
    let mut all = vec![alias, hostname];
    if alias != name {
        all.push(name);
    }
    all.dedup();
    all.join(" ")
}

/// `/etc/hosts` with the line of `names` at another address.
fn moved(text: &str, names: &str, ip: IpAddr) -> String {
    let line = |l: &str| match l.trim_end().split_once('\t') {
        Some((_, after)) if after == names => format!("{ip}\t{names}\n"),
        _ => l.to_owned(),
    };
    text.split_inclusive('\n').map(line).collect()
}

/// `/etc/hosts` without the line of `names`.
fn without(text: &str, names: &str) -> String {
    let other = |l: &&str| l.trim_end().split_once('\t').is_none_or(|(_, after)| after != names);
    text.split_inclusive('\n').filter(other).collect()
}

fn bridge_address(endpoints: &[Endpoint]) -> Option<IpAddr> {
    let bridge = endpoints.iter().find(|e| e.network_name == "bridge")?;
    bridge.ipv4.or(bridge.ipv6).map(|s| s.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_every_spelling() {
        for (text, want) in [
            ("db", ("db", "db")),
            ("db:store", ("db", "store")),
            ("/db:/web/store", ("db", "store")),
        ] {
            assert_eq!(parse(text).unwrap(), want);
        }
        for bad in ["", "a:b:c", ":b", "a:"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables_are_those_of_2015() {
        let linked = Linked {
            alias: "my-db".into(),
            ip: [172, 17, 0, 2].into(),
            name: "db".into(),
            hostname: "0123456789ab".into(),
            env: vec!["HOME=/x".into(), "MYSQL_ROOT_PASSWORD=a=b".into(), "EMPTY".into()],
            ports: vec![(Protocol::Udp, 53), (Protocol::Tcp, 3306)],
        };
        assert_eq!(
            linked.environment("web"),
            [
                "MY_DB_PORT=udp://172.17.0.2:53",
                "MY_DB_PORT_53_UDP=udp://172.17.0.2:53",
                "MY_DB_PORT_53_UDP_ADDR=172.17.0.2",
                "MY_DB_PORT_53_UDP_PORT=53",
                "MY_DB_PORT_53_UDP_PROTO=udp",
                "MY_DB_PORT_3306_TCP=tcp://172.17.0.2:3306",
                "MY_DB_PORT_3306_TCP_ADDR=172.17.0.2",
                "MY_DB_PORT_3306_TCP_PORT=3306",
                "MY_DB_PORT_3306_TCP_PROTO=tcp",
                "MY_DB_NAME=/web/my-db",
                "MY_DB_ENV_MYSQL_ROOT_PASSWORD=a=b",
            ]
        );
        assert_eq!(linked.host().0, "my-db 0123456789ab db");
    }

    #[test]
    fn a_run_of_ports_is_told_as_such() {
        let linked = Linked {
            alias: "a".into(),
            ip: [10, 0, 0, 1].into(),
            name: "a".into(),
            hostname: "h".into(),
            env: Vec::new(),
            ports: (0..3).map(|i| (Protocol::Tcp, 8000 + i)).collect(),
        };
        let env = linked.environment("p");
        for want in ["A_PORT_8000_TCP_START=tcp://10.0.0.1:8000", "A_PORT_8000_TCP_PORT_END=8002"] {
            assert!(env.iter().any(|e| e == want), "{want} in {env:?}");
        }
    }

    #[test]
    fn a_line_moves_and_others_stay() {
        let text = "1.1.1.1\tdb h\n2.2.2.2\tdb\n";
        assert_eq!(moved(text, "db h", [3, 3, 3, 3].into()), "3.3.3.3\tdb h\n2.2.2.2\tdb\n");
        assert_eq!(without(text, "db h"), "2.2.2.2\tdb\n");
    }
}
