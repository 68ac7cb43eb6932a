//! The task that answers the questions of one sandbox.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinHandle, JoinSet};
use wharf_base::Id;

use crate::namespace::Namespace;
use crate::net::Net;

use super::forward::{self, Origin};
use super::message::{Code, Data, Question, Transport, kind};
use super::names::Verdict;
use super::{NameService, Sockets};

/// Questions of one sandbox that may be outside at a time, as in Docker; more are refused.
const OUTSIDE: usize = 1024;
/// Streams of one sandbox at a time; more wait.
const STREAMS: usize = 64;
/// A stream that says nothing is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Datagrams answered before other tasks get their turn.
const TURN: usize = 64;

/// A resolver at work. Dropping it closes its sockets.
#[derive(Debug)]
pub(crate) struct Service(JoinHandle<()>);

impl Drop for Service {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Service {
    pub(crate) fn start(
        net: &Net,
        (sandbox, ns): (&Id, &Arc<Namespace>),
        sockets: Sockets,
        settings: NameService,
    ) -> io::Result<Service> {
        let _inside = net.handle.enter();
        let udp = Arc::new(UdpSocket::from_std(sockets.udp)?);
        let tcp = TcpListener::from_std(sockets.tcp)?;
        let resolver = Arc::new(Resolver {
            net: net.me.clone(),
            sandbox: sandbox.clone(),
            // Weak, or the resolver would keep the namespace that it is to end with.
            ns: Arc::downgrade(ns),
            settings,
        });
        Ok(Service(net.handle.spawn(run(resolver, udp, tcp))))
    }
}

struct Resolver {
    net: Weak<Net>,
    sandbox: Id,
    ns: Weak<Namespace>,
    settings: NameService,
}

/// What is to be done about a message.
enum Reply {
    /// Nothing.
    Silence,
    /// Send this.
    Now(Vec<u8>),
    /// Ask outside.
    Ask(Question),
}

async fn run(resolver: Arc<Resolver>, udp: Arc<UdpSocket>, tcp: TcpListener) {
    // Both end with this task, and with them all that they hold.
    let (mut asked, mut streams) = (JoinSet::new(), JoinSet::new());
    loop {
        tokio::select! {
            ready = udp.readable() => match ready {
                Ok(()) => resolver.datagrams(&udp, &mut asked),
                Err(error) => return tracing::warn!(%error, "container resolver failed"),
            },
            accepted = tcp.accept(), if streams.len() < STREAMS => match accepted {
                Ok((stream, _)) => drop(streams.spawn(resolver.clone().stream(stream))),
                // Out of descriptors: wait for some to be closed rather than spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = asked.join_next() => (),
            Some(_) = streams.join_next() => (),
        }
    }
}

impl Resolver {
    fn datagrams(self: &Arc<Self>, udp: &Arc<UdpSocket>, asked: &mut JoinSet<()>) {
        let mut buf = [0; 4096];
        for _ in 0..TURN {
            let Ok((len, from)) = udp.try_recv_from(&mut buf) else { return };
            let reply = match self.consider(&buf[..len], Transport::Udp) {
                Reply::Silence => continue,
                Reply::Now(reply) => reply,
                Reply::Ask(q) if asked.len() >= OUTSIDE => {
                    q.answer(Code::Refused, &[], Transport::Udp)
                }
                Reply::Ask(q) => {
                    let (me, to_client) = (self.clone(), Arc::downgrade(udp));
                    asked.spawn(me.ask_for(q, buf[..len].to_vec(), (to_client, from)));
                    continue;
                }
            };
            // A full send queue loses the datagram, and the client asks again.
            udp.try_send_to(&reply, from).ok();
        }
    }

    async fn ask_for(
        self: Arc<Self>,
        q: Question,
        message: Vec<u8>,
        (udp, client): (Weak<UdpSocket>, SocketAddr),
    ) {
        let reply = self.outside(&q, &message, Transport::Udp).await;
        if let Some(udp) = udp.upgrade() {
            udp.try_send_to(&reply, client).ok();
        }
    }

    async fn stream(self: Arc<Self>, mut stream: TcpStream) {
        loop {
            let Ok(Ok(message)) = tokio::time::timeout(IDLE, forward::read(&mut stream)).await
            else {
                return;
            };
            let reply = match self.consider(&message, Transport::Tcp) {
                Reply::Silence => return,
                Reply::Now(reply) => reply,
                Reply::Ask(q) => self.outside(&q, &message, Transport::Tcp).await,
            };
            let sent = tokio::time::timeout(IDLE, forward::write(&mut stream, &reply)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    }

    fn consider(&self, message: &[u8], via: Transport) -> Reply {
        let q = match Question::read(message) {
            Ok(q) => q,
            Err(unreadable) => return unreadable.answer().map_or(Reply::Silence, Reply::Now),
        };
        if let Some(code) = q.refusal() {
            return Reply::Now(q.answer(code, &[], via));
        }
        let verdict = match self.net.upgrade() {
            Some(net) if q.is_internet() => net.state.lock().resolve(&self.sandbox, &q),
            _ => Verdict::Nowhere,
        };
        match verdict {
            Verdict::Known(mut data) => {
                shuffle(&mut data);
                Reply::Now(q.answer(Code::NoError, &data, via))
            }
            Verdict::Nowhere => Reply::Now(q.answer(Code::ServFail, &[], via)),
            Verdict::Outside if self.is_bare(&q) => Reply::Now(q.answer(Code::NoError, &[], via)),
            Verdict::Outside => Reply::Ask(q),
        }
    }

    /// With `ndots` set by the user the client will come back with a search domain after the name.
    fn is_bare(&self, q: &Question) -> bool {
        self.settings.ndots && matches!(q.kind, kind::A | kind::AAAA) && !q.name.contains('.')
    }

    async fn outside(&self, q: &Question, message: &[u8], via: Transport) -> Vec<u8> {
        let (servers, origin) = self.upstream();
        let answer = forward::ask((&servers, &origin), q, message, via).await;
        answer.unwrap_or_else(|| q.answer(Code::ServFail, &[], via))
    }

    fn upstream(&self) -> (Vec<IpAddr>, Origin) {
        if !self.settings.servers.is_empty() {
            return (self.settings.servers.clone(), Origin::Inside(self.ns.clone()));
        }
        let servers = match self.net.upgrade() {
            Some(net) => crate::files::upstream(&net.host_resolver()),
            None => Vec::new(),
        };
        (servers, Origin::Host)
    }
}

/// Spreads clients over the containers that share a name.
fn shuffle(data: &mut [Data]) {
    for i in (1..data.len()).rev() {
        // Every RandomState has other keys: randomness enough to spread load.
        let random = RandomState::new().build_hasher().finish();
        let below = u64::try_from(i + 1).unwrap_or(u64::MAX);
        data.swap(i, usize::try_from(random % below).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_comes_up() {
        let data: Vec<Data> = (1..=3).map(|i| Data::Address([10, 0, 0, i].into())).collect();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let mut d = data.clone();
            shuffle(&mut d);
            seen.insert(format!("{d:?}"));
        }
        assert_eq!(seen.len(), 6);
    }
}
