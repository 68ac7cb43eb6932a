//! Container DNS: a resolver at 127.0.0.11 inside every sandbox, answered by the daemon.
//!
//! The sockets are opened in the container's network namespace and served by one small task of the daemon: no
//! process, no thread, some two kilobytes per container. They listen on ports of the kernel's choice, because a
//! container may want port 53 for a name server of its own; two stateless rules in its
//! namespace turn 53 into them and back, without connection tracking, which would slow all of its traffic.
//!
//! While the daemon is away nobody listens, and a third rule drops the kernel's "port unreachable", so that questions
//! wait instead of failing: stub resolvers repeat them for ten seconds, and a daemon that was restarted or upgraded in
//! that time has opened sockets again (`Net::serve_names` after `Net::adopt`) and answers.

mod forward;
mod host;
pub mod message;
mod names;
mod serve;

use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Arc;

use wharf_base::Id;
use wharf_sys::netlink::{Family, Socket, netns};
use wharf_sys::nft::{
    Base, ChainKind, Expr, Hook, MetaKey, Payload, Register, Transaction, Verdict,
};

use crate::error::{NetError, kernel};
use crate::net::Net;

pub(crate) use host::HostResolver;
pub(crate) use serve::Service;

/// Where containers ask.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// How the resolver of one sandbox behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameService {
    /// Servers for names that are no container's, asked from inside the sandbox. Empty means the host's own, asked
    /// from the host, so that servers on its loopback count.
    pub servers: Vec<IpAddr>,
    /// The user set `ndots`: a name without a dot is no foreign name, and is not asked outside.
    pub ndots: bool,
}

/// The sockets of a resolver, with the rules that lead to them.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Net {
    /// Answers questions to 127.0.0.11 inside a sandbox, until it is released. Called again, it replaces the
    /// settings; after a restart of the daemon it makes the resolver of an adopted sandbox work again.
    pub fn serve_names(&self, sandbox: &Id, settings: NameService) -> Result<(), NetError> {
        let none = || NetError::NoSandbox(sandbox.to_string());
        let ns = {
            let state = self.state.lock();
            let member = state.sandboxes.get(sandbox).ok_or_else(none)?;
            member.ns.clone().ok_or_else(none)?
        };
        let sockets = match ns.take_resolver() {
            Some(made_ahead) => made_ahead,
            None => netns::within(ns.fd(), || Sockets::open(Rules::Replace))
                .flatten()
                .map_err(kernel("open the container's resolver"))?,
        };
        let service = Service::start(self, (sandbox, &ns), sockets, settings)
            .map_err(kernel("serve the container's resolver"))?;
        match self.state.lock().sandboxes.get_mut(sandbox) {
            Some(member) => member.names = Some(service),
            None => return Err(none()),
        }
        Ok(())
    }

    /// What the host's `/etc/resolv.conf` says now.
    pub fn host_resolver(&self) -> Arc<crate::files::ResolvConf> {
        self.resolver.current()
    }

    /// A container was renamed: its new name is found, its old one is not.
    pub fn rename(&self, sandbox: &Id, name: &str) -> Result<(), NetError> {
        let mut state = self.state.lock();
        let Some(member) = state.sandboxes.get_mut(sandbox) else { return Ok(()) };
        for e in member.endpoints.values_mut() {
            name.clone_into(&mut e.container_name);
            self.save_endpoint(e)?;
        }
        Ok(())
    }
}

impl Sockets {
    /// Opens them in the network namespace of the calling thread.
    pub(crate) fn open(rules: Rules) -> io::Result<Sockets> {
        let udp = UdpSocket::bind((ADDRESS, 0))?;
        let tcp = TcpListener::bind((ADDRESS, 0))?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let ports = [(UDP, udp.local_addr()?.port()), (TCP, tcp.local_addr()?.port())];
        Socket::open(Family::Netfilter)?.commit(rules.lead_to(ports))?;
        Ok(Sockets { udp, tcp })
    }
}

const TABLE: &str = "wharf-dns";
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DNS_PORT: u16 = 53;

/// What the rules in a namespace take the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// Nothing: the namespace is new. Taking away what is not there costs milliseconds.
    Fresh,
    /// Whatever an earlier daemon set.
    Replace,
}

impl Rules {
    /// Port 53 of 127.0.0.11 is where the sockets are.
    fn lead_to(self, ports: [(u8, u16); 2]) -> Transaction {
        let mut t = Transaction::new();
        if self == Rules::Replace {
            t.drop_table(TABLE);
        }
        t.add_table(TABLE);
        add_rules(&mut t, ports);
        t
    }
}

fn add_rules(t: &mut Transaction, ports: [(u8, u16); 2]) {
    const BEFORE_ALL: i32 = -300;
    const CHAIN: &str = "output";
    let base = Base { kind: ChainKind::Filter, hook: Hook::Output, priority: BEFORE_ALL };
    t.add_chain(TABLE, CHAIN, Some(base));
    for (proto, port) in ports {
        let (to, from) = (Payload::DestinationPort, Payload::SourcePort);
        let question = rewrite((Payload::DestinationV4, to), proto, (DNS_PORT, port));
        t.add_rule(TABLE, CHAIN, "questions", &question);
        let answer = rewrite((Payload::SourceV4, from), proto, (port, DNS_PORT));
        t.add_rule(TABLE, CHAIN, "answers", &answer);
    }
    t.add_rule(TABLE, CHAIN, "no daemon: wait", &unreachable());
}

fn r(n: u32) -> Register {
    Register::at(n)
}

/// Matches packets of `proto` that have this resolver's address in the field `address`.
fn of_resolver(address: Payload, proto: u8) -> Vec<Expr> {
    const IPV4: u8 = 2;
    vec![
        Expr::Meta { key: MetaKey::NfProto, into: r(0) },
        Expr::equals(r(0), vec![IPV4]),
        Expr::Payload { what: address, into: r(0) },
        Expr::equals(r(0), ADDRESS.octets().to_vec()),
        Expr::Meta { key: MetaKey::L4Proto, into: r(0) },
        Expr::equals(r(0), vec![proto]),
    ]
}

fn rewrite((address, field): (Payload, Payload), proto: u8, (from, to): (u16, u16)) -> Vec<Expr> {
    const UDP_CHECKSUM: u32 = 6;
    const TCP_CHECKSUM: u32 = 16;
    let checksum = if proto == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
    let mut out = of_resolver(address, proto);
    out.extend([
        Expr::Payload { what: field, into: r(0) },
        Expr::equals(r(0), from.to_be_bytes().to_vec()),
        Expr::Immediate { value: to.to_be_bytes().to_vec(), into: r(0) },
        Expr::SetPayload { what: field, from: r(0), checksum },
    ]);
    out
}

fn unreachable() -> Vec<Expr> {
    const DESTINATION_UNREACHABLE: u8 = 3;
    let mut out = of_resolver(Payload::SourceV4, ICMP);
    out.extend([
        Expr::Payload { what: Payload::IcmpType, into: r(0) },
        Expr::equals(r(0), vec![DESTINATION_UNREACHABLE]),
        Expr::Verdict(Verdict::Drop),
    ]);
    out
}
