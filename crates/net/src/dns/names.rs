//! Which names the containers of a sandbox's networks have: what is answered here, and what is not. No I/O.

use std::net::IpAddr;

use wharf_base::Id;

use crate::attach::gateway_order;
use crate::files::HOST_NAME;
use crate::net::State;
use crate::spec::{Endpoint, Protocol};

use super::message::{Data, Question, kind};

/// What becomes of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The name is a container's; nothing outside is asked, even if there is no data of the type that was asked for.
    Known(Vec<Data>),
    /// The name is not a container's, and the sandbox has a way out on which to ask for it.
    Outside,
    /// The name is not a container's, and the sandbox is on internal networks alone: nothing may leave
    /// them, questions included (CVE-2024-29018).
    Nowhere,
}

impl State {
    /// Answers a question that came from a sandbox.
    pub(crate) fn resolve(&self, sandbox: &Id, q: &Question) -> Verdict {
        let own = self.own_endpoints(sandbox);
        if let Some(data) = self.known(&own, q) {
            return Verdict::Known(data);
        }
        // An ipvlan network of layer 3 has a way out without a gateway.
        let routed = |e: &Endpoint| {
            let n = self.networks.get(&e.network);
            n.is_some_and(|n| n.options.is_layer3() && !n.record.internal)
        };
        let leaves = |e: &&Endpoint| e.gateway4.is_some() || e.gateway6.is_some() || routed(e);
        let leaves = own.iter().any(leaves);
        if leaves { Verdict::Outside } else { Verdict::Nowhere }
    }

    /// The sandbox's endpoints in the order in which their networks are asked.
    fn own_endpoints(&self, sandbox: &Id) -> Vec<&Endpoint> {
        let member = self.sandboxes.get(sandbox);
        let mut own: Vec<&Endpoint> =
            member.into_iter().flat_map(|m| m.endpoints.values()).collect();
        own.sort_by(|a, b| gateway_order(a, b));
        own
    }

    fn known(&self, own: &[&Endpoint], q: &Question) -> Option<Vec<Data>> {
        match q.kind {
            kind::PTR => {
                let ip = q.reverse()?;
                let holder = own.iter().find_map(|e| self.holder(&e.network, ip))?;
                let name = format!("{}.{}", holder.container_name, holder.network_name);
                Some(vec![Data::Pointer(name)])
            }
            kind::SRV => match service(&q.name) {
                Some((port, proto, host)) => self.service(own, port, proto, host),
                None => self.addresses(own, &q.name).map(|_| Vec::new()),
            },
            _ => {
                let all = self.addresses(own, &q.name)?;
                let wanted = |ip: &IpAddr| match q.kind {
                    kind::A => ip.is_ipv4(),
                    kind::AAAA => ip.is_ipv6(),
                    _ => false,
                };
                Some(all.into_iter().filter(wanted).map(Data::Address).collect())
            }
        }
    }

    /// The addresses of a name: as it is, or with a network's name after it. The first network that knows it
    /// answers alone, so that a name is not half on one network and half on another.
    fn addresses(&self, own: &[&Endpoint], name: &str) -> Option<Vec<IpAddr>> {
        if name == HOST_NAME {
            let host = |e: &&&Endpoint| e.gateway4.is_some() || e.gateway6.is_some();
            let e = own.iter().find(host)?;
            return Some(
                [e.gateway4.map(IpAddr::from), e.gateway6.map(IpAddr::from)]
                    .into_iter()
                    .flatten()
                    .collect(),
            );
        }
        splits(name).find_map(|(host, network)| {
            let on =
                |e: &&&Endpoint| network.is_none_or(|n| e.network_name.eq_ignore_ascii_case(n));
            own.iter().filter(on).find_map(|e| {
                let found = self.on_network(e, host);
                (!found.is_empty()).then(|| found.into_iter().flat_map(addresses_of).collect())
            })
        })
    }

    /// Who on the network of `from` has a name, or the name that a link of `from` stands for.
    fn on_network(&self, from: &Endpoint, name: &str) -> Vec<&Endpoint> {
        let linked = from.links.iter().find(|l| l.alias.eq_ignore_ascii_case(name));
        let name = linked.map_or(name, |l| l.container.as_str());
        let there = self.sandboxes.values().filter_map(|m| m.endpoints.get(&from.network));
        there.filter(|e| e.is_named(name)).collect()
    }

    fn holder(&self, network: &Id, ip: IpAddr) -> Option<&Endpoint> {
        let there = self.sandboxes.values().filter_map(|m| m.endpoints.get(network));
        there.into_iter().find(|e| addresses_of(e).any(|own| own == ip))
    }

    /// A port that a container exposes, by number or by its well-known name.
    fn service(
        &self,
        own: &[&Endpoint],
        port: &str,
        proto: Protocol,
        host: &str,
    ) -> Option<Vec<Data>> {
        let number = port.parse().ok().or_else(|| well_known(port));
        splits(host).find_map(|(host, network)| {
            let on =
                |e: &&&Endpoint| network.is_none_or(|n| e.network_name.eq_ignore_ascii_case(n));
            own.iter().filter(on).find_map(|e| {
                let found = self.on_network(e, host);
                let offers =
                    |e: &&Endpoint| number.is_some_and(|n| e.exposed.contains(&(proto, n)));
                let data = |e: &Endpoint| Data::Service {
                    port: number.unwrap_or(0),
                    target: format!("{}.{}", e.container_name, e.network_name),
                };
                (!found.is_empty()).then(|| found.into_iter().filter(offers).map(data).collect())
            })
        })
    }
}

impl Endpoint {
    /// The names under which others on its network find a container, the first its own.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        [self.container_name.as_str()]
            .into_iter()
            .chain(self.aliases.iter().map(String::as_str))
            .chain([self.sandbox.short(), self.hostname.as_str()])
            .filter(|n| !n.is_empty())
    }

    fn is_named(&self, name: &str) -> bool {
        self.names().any(|n| n.eq_ignore_ascii_case(name))
    }
}

/// A name as it is, then every way to take its end for the name of a network. Both may hold dots.
fn splits(name: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let parts = name.rmatch_indices('.').map(move |(at, _)| (&name[..at], Some(&name[at + 1..])));
    std::iter::once((name, None)).chain(parts)
}

/// `_port._proto.host`, taken apart.
fn service(name: &str) -> Option<(&str, Protocol, &str)> {
    let (port, rest) = name.strip_prefix('_')?.split_once("._")?;
    let (proto, host) = rest.split_once('.')?;
    Some((port, proto.parse().ok()?, host))
}

/// Ports that people write by name.
fn well_known(service: &str) -> Option<u16> {
    const NAMES: &[(&str, u16)] = &[
        ("amqp", 5672),
        ("domain", 53),
        ("ftp", 21),
        ("http", 80),
        ("https", 443),
        ("imap", 143),
        ("ldap", 389),
        ("memcache", 11211),
        ("mongodb", 27017),
        ("mqtt", 1883),
        ("mysql", 3306),
        ("postgresql", 5432),
        ("redis", 6379),
        ("smtp", 25),
        ("ssh", 22),
    ];
    NAMES.iter().find(|(name, _)| *name == service).map(|(_, port)| *port)
}

fn addresses_of(e: &Endpoint) -> impl Iterator<Item = IpAddr> {
    [e.ipv4, e.ipv6].into_iter().flatten().map(|s| s.addr())
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::question;
    use super::*;
    use crate::net::Member;
    use crate::spec::Link;

    fn endpoint(sandbox: &Id, network: &Id, network_name: &str, ip: &str) -> Endpoint {
        Endpoint {
            id: Id::random(),
            sandbox: sandbox.clone(),
            container_name: "me".into(),
            hostname: String::new(),
            network: network.clone(),
            network_name: network_name.into(),
            ifname: "eth0".into(),
            host_ifname: String::new(),
            mac: None,
            ipv4: Some(format!("{ip}/24").parse().unwrap()),
            ipv6: None,
            gateway4: None,
            gateway6: None,
            aliases: Vec::new(),
            links: Vec::new(),
            exposed: Vec::new(),
            gateway_priority: 0,
            ports: Vec::new(),
            opened: Vec::new(),
        }
    }

    /// `me` is on `front` (first) and `back`; `web` on both, `db` twice on `back`, `far` on a third network.
    struct World {
        state: State,
        me: Id,
        db: Id,
    }

    fn world() -> World {
        let [me, web, db, db2, far] = std::array::from_fn(|_| Id::random());
        let [front, back, third] = std::array::from_fn(|_| Id::random());
        let mut state = State::default();
        let mut put =
            |sandbox: &Id, network: &Id, name: &str, ip: &str, edit: &dyn Fn(&mut Endpoint)| {
                let mut e = endpoint(sandbox, network, name, ip);
                edit(&mut e);
                let member: &mut Member = state.sandboxes.entry(sandbox.clone()).or_default();
                member.endpoints.insert(network.clone(), e);
            };
        put(&me, &front, "front", "10.1.0.2", &|e| e.gateway4 = Some([10, 1, 0, 1].into()));
        put(&me, &back, "back.end", "10.2.0.2", &|e| {
            e.links = vec![Link { container: "db".into(), alias: "store".into() }];
        });
        put(&web, &front, "front", "10.1.0.3", &|e| e.container_name = "web".into());
        put(&web, &back, "back.end", "10.2.0.3", &|e| {
            e.container_name = "web".into();
            e.exposed = vec![(Protocol::Tcp, 80), (Protocol::Tcp, 8080)];
        });
        for (id, name, ip) in [(&db, "db", "10.2.0.4"), (&db2, "db2", "10.2.0.5")] {
            put(id, &back, "back.end", ip, &|e| {
                e.container_name = name.into();
                e.hostname = format!("host-{name}");
                e.aliases = vec!["Data.Base".into()];
            });
        }
        put(&far, &third, "third", "10.3.0.2", &|e| e.container_name = "far".into());
        World { state, me, db }
    }

    #[track_caller]
    fn check(w: &World, name: &str, k: u16, want: Option<&[&str]>) {
        let shown = |d: Data| match d {
            Data::Address(ip) => ip.to_string(),
            Data::Pointer(name) => name,
            Data::Service { port, target } => format!("{port} {target}"),
        };
        let got = match w.state.resolve(&w.me, &question(name, k)) {
            Verdict::Known(data) => Some(data.into_iter().map(shown).collect::<Vec<_>>()),
            Verdict::Outside | Verdict::Nowhere => None,
        };
        let mut got = got;
        got.iter_mut().for_each(|g| g.sort());
        assert_eq!(got, want.map(|w| w.iter().map(|s| (*s).to_owned()).collect()), "{name}");
    }

    #[test]
    fn names_of_every_kind_are_known() {
        let w = world();
        check(&w, "db", kind::A, Some(&["10.2.0.4"]));
        check(&w, "DB2", kind::A, Some(&["10.2.0.5"]));
        check(&w, "host-db", kind::A, Some(&["10.2.0.4"]));
        check(&w, w.db.short(), kind::A, Some(&["10.2.0.4"]));
        check(&w, "data.base", kind::A, Some(&["10.2.0.4", "10.2.0.5"]));
        check(&w, "store", kind::A, Some(&["10.2.0.4"]));
        check(&w, "me", kind::A, Some(&["10.1.0.2"]));
        check(&w, "far", kind::A, None);
        check(&w, "example.org", kind::A, None);
        check(&w, "host.docker.internal", kind::A, Some(&["10.1.0.1"]));
    }

    #[test]
    fn the_first_network_answers_unless_one_is_named() {
        let w = world();
        check(&w, "web", kind::A, Some(&["10.1.0.3"]));
        check(&w, "web.front", kind::A, Some(&["10.1.0.3"]));
        check(&w, "web.back.end", kind::A, Some(&["10.2.0.3"]));
        check(&w, "web.third", kind::A, None);
    }

    #[test]
    fn a_known_name_without_data_of_the_type_is_not_asked_outside() {
        let w = world();
        for k in [kind::AAAA, 15, 16, 65, kind::SRV] {
            check(&w, "web", k, Some(&[]));
        }
    }

    #[test]
    fn addresses_and_services_have_names() {
        let w = world();
        check(&w, "3.0.2.10.in-addr.arpa", kind::PTR, Some(&["web.back.end"]));
        check(&w, "2.0.3.10.in-addr.arpa", kind::PTR, None);
        check(&w, "_http._tcp.web.back.end", kind::SRV, Some(&["80 web.back.end"]));
        check(&w, "_8080._tcp.web.back.end", kind::SRV, Some(&["8080 web.back.end"]));
        check(&w, "_443._tcp.web.back.end", kind::SRV, Some(&[]));
        check(&w, "_ldap._tcp.example.org", kind::SRV, None);
    }

    #[test]
    fn questions_do_not_leave_internal_networks() {
        let w = world();
        let outside = |id: &Id| w.state.resolve(id, &question("example.org", kind::A));
        assert_eq!(outside(&w.me), Verdict::Outside);
        assert_eq!(outside(&w.db), Verdict::Nowhere);
    }
}
