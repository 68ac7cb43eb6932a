//! Container DNS against the kernel: every test is a host of its own.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    dead_code,
    reason = "a test fails by panicking; not every test file needs the whole host"
)]

mod host;

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::mpsc;
use std::time::Duration;

use host::{Container, Host, NEIGHBOUR, on_host};
use wharf_net::{EndpointConfig, NameService, Net, NetConfig, NetworkSpec};
use wharf_sys::netlink::netns;

const RESOLVER: ([u8; 4], u16) = ([127, 0, 0, 11], 53);
const A: u16 = 1;
const AAAA: u16 = 28;
const PATIENCE: Duration = Duration::from_secs(20);

/// What a resolver answered.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    code: u8,
    truncated: bool,
    addresses: Vec<IpAddr>,
}

fn addresses(list: &[IpAddr]) -> Answer {
    Answer { code: 0, truncated: false, addresses: list.to_vec() }
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend(label.as_bytes());
    }
    out.push(0);
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    out
}

fn parse(query: &[u8], reply: &[u8]) -> Answer {
    assert_eq!(reply[..2], query[..2], "the id");
    let count = usize::from(u16::from_be_bytes([reply[6], reply[7]]));
    let mut at = query.len();
    let mut found = Vec::new();
    for _ in 0..count {
        let len = usize::from(u16::from_be_bytes([reply[at + 10], reply[at + 11]]));
        let data = &reply[at + 12..at + 12 + len];
        found.extend(<[u8; 4]>::try_from(data).map(IpAddr::from));
        found.extend(<[u8; 16]>::try_from(data).map(IpAddr::from));
        at += 12 + len;
    }
    found.sort();
    Answer { code: reply[3] & 0xf, truncated: reply[2] & 2 != 0, addresses: found }
}

/// Asks like a stub resolver: again after two seconds, for some time.
fn look_up(ns: BorrowedFd<'_>, name: &str, kind: u16) -> Answer {
    let query = query(name, kind);
    let go = || -> io::Result<Vec<u8>> {
        let s = UdpSocket::bind("0.0.0.0:0")?;
        s.set_read_timeout(Some(Duration::from_secs(2)))?;
        s.connect(SocketAddr::from(RESOLVER))?;
        let mut reply = [0; 4096];
        for _ in 0..10 {
            s.send(&query)?;
            match s.recv(&mut reply) {
                Ok(len) => return Ok(reply[..len].to_vec()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => (),
                Err(e) => return Err(e),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    };
    parse(&query, &netns::within(ns, go).unwrap().unwrap())
}

fn look_up_by_tcp(ns: BorrowedFd<'_>, name: &str, kind: u16) -> Answer {
    let query = query(name, kind);
    let go = || -> io::Result<Vec<u8>> {
        let mut s = TcpStream::connect_timeout(&SocketAddr::from(RESOLVER), PATIENCE)?;
        s.set_read_timeout(Some(PATIENCE))?;
        s.write_all(&u16::try_from(query.len()).unwrap().to_be_bytes())?;
        s.write_all(&query)?;
        let mut len = [0; 2];
        s.read_exact(&mut len)?;
        let mut reply = vec![0; usize::from(u16::from_be_bytes(len))];
        s.read_exact(&mut reply)?;
        Ok(reply)
    };
    parse(&query, &netns::within(ns, go).unwrap().unwrap())
}

/// A name server on port 53 of `ns` that knows every name but `fail`, at 198.51.100.7, and tells who asked for what.
fn name_server(ns: BorrowedFd<'_>) -> mpsc::Receiver<IpAddr> {
    let ns = ns.try_clone_to_owned().unwrap();
    let (ready, is_ready) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        netns::enter(ns.as_fd()).unwrap();
        let udp = UdpSocket::bind("0.0.0.0:53").unwrap();
        let tcp = TcpListener::bind("0.0.0.0:53").unwrap();
        ready.send(()).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut s, _)) = tcp.accept() {
                let mut len = [0; 2];
                s.read_exact(&mut len).unwrap();
                let mut q = vec![0; usize::from(u16::from_be_bytes(len))];
                s.read_exact(&mut q).unwrap();
                let reply = reply(&q);
                s.write_all(&u16::try_from(reply.len()).unwrap().to_be_bytes()).unwrap();
                s.write_all(&reply).unwrap();
            }
        });
        let mut buf = [0; 4096];
        while let Ok((len, from)) = udp.recv_from(&mut buf) {
            udp.send_to(&reply(&buf[..len]), from).unwrap();
            tell.send(from.ip()).ok();
        }
    });
    is_ready.recv().unwrap();
    told
}

fn reply(query: &[u8]) -> Vec<u8> {
    let mut out = query.to_vec();
    out[2] |= 0x80;
    if query[12..].starts_with(b"\x04fail") {
        out[3] = 2;
        return out;
    }
    out[7] = 1;
    out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 198, 51, 100, 7]);
    out
}

const FOREIGN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

/// A container with a resolver that asks the LAN's machine.
fn named(h: &Host, network: &str, name: &str, aliases: &[&str]) -> Container {
    let config = EndpointConfig {
        container_name: name.into(),
        aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
        ..EndpointConfig::default()
    };
    let c = h.container_with(network, config);
    serve(&h.net, &c);
    c
}

fn serve(net: &Net, c: &Container) {
    let settings = NameService { servers: vec![NEIGHBOUR.into()], ndots: false };
    net.serve_names(&c.id, settings).unwrap();
}

fn network(h: &Host, name: &str, change: impl FnOnce(&mut NetworkSpec)) {
    let mut spec = NetworkSpec { name: name.into(), ..NetworkSpec::default() };
    change(&mut spec);
    h.net.create_network(spec).unwrap();
}

#[test]
fn containers_find_each_other_and_the_world() {
    on_host(|h| {
        let told = name_server(h.lan.as_fd());
        network(&h, "user", |n| n.ipv6 = Some(true));
        for (network, v6) in [("bridge", false), ("user", true)] {
            let web = named(&h, network, "web", &["www"]);
            let db = named(&h, network, "db", &[]);
            let ns = db.ns.as_fd();
            for look_up in [look_up, look_up_by_tcp] {
                assert_eq!(look_up(ns, "web", A), addresses(&[web.v4.unwrap()]));
                assert_eq!(look_up(ns, "WWW", A), addresses(&[web.v4.unwrap()]));
                let want: Vec<IpAddr> = web.v6.into_iter().collect();
                assert_eq!(look_up(ns, "web", AAAA), addresses(&want));
                assert_eq!(want.is_empty(), !v6);
                assert_eq!(look_up(ns, "example.org", A), addresses(&[FOREIGN]));
                assert_eq!(look_up(ns, "fail.example.org", A).code, 2);
            }
            assert_eq!(
                told.recv().unwrap(),
                IpAddr::from(host::HOST),
                "asked from inside, translated"
            );
            h.net.rename(&web.id, "shop").unwrap();
            assert_eq!(look_up(ns, "shop", A), addresses(&[web.v4.unwrap()]));
            h.net.release(&web.id).unwrap();
            assert_eq!(look_up(ns, "shop", A), addresses(&[FOREIGN]), "nobody's any more");
        }
    });
}

#[test]
fn port_53_is_the_containers_own() {
    on_host(|h| {
        let c = named(&h, "bridge", "ns", &[]);
        let told = name_server(c.ns.as_fd());
        drop(told);
        assert_eq!(look_up(c.ns.as_fd(), "ns", A), addresses(&[c.v4.unwrap()]));
    });
}

#[test]
fn nothing_leaves_an_internal_network() {
    on_host(|h| {
        let told = name_server(h.lan.as_fd());
        network(&h, "inside", |n| n.internal = true);
        let c = named(&h, "inside", "alone", &[]);
        assert_eq!(look_up(c.ns.as_fd(), "alone", A), addresses(&[c.v4.unwrap()]));
        assert_eq!(look_up(c.ns.as_fd(), "example.org", A).code, 2);
        told.try_recv().expect_err("a question got out");
    });
}

#[test]
fn many_containers_of_one_name_do_not_fit_into_a_datagram() {
    on_host(|h| {
        let all: Vec<Container> =
            (0..40).map(|i| named(&h, "bridge", &format!("c{i}"), &["many"])).collect();
        let ns = all[0].ns.as_fd();
        let cut = look_up(ns, "many", A);
        assert!(cut.truncated && cut.addresses.len() > 20, "{cut:?}");
        let whole = look_up_by_tcp(ns, "many", A);
        assert!(!whole.truncated);
        assert_eq!(whole.addresses.len(), all.len());
    });
}

#[test]
fn questions_wait_for_a_daemon_that_is_away() {
    on_host(|h| {
        let _told = name_server(h.lan.as_fd());
        let (web, db) = (named(&h, "bridge", "web", &[]), named(&h, "bridge", "db", &[]));
        let Host { net, db: records, lan: _lan, dir: _dir } = h;
        drop(net);
        let ns = db.ns.try_clone().unwrap();
        let want = web.v4.unwrap();
        let asking = std::thread::spawn(move || look_up(ns.as_fd(), "web", A));
        let net = Net::open(records, NetConfig::default()).unwrap();
        let live = [&web, &db].map(|c| (c.id.clone(), c.ns.try_clone().unwrap()));
        net.adopt(live.into()).unwrap();
        for c in [&web, &db] {
            serve(&net, c);
        }
        assert_eq!(asking.join().unwrap(), addresses(&[want]));
        assert_eq!(look_up(web.ns.as_fd(), "example.org", A), addresses(&[FOREIGN]));
        assert_eq!(look_up_by_tcp(web.ns.as_fd(), "db", A), addresses(&[db.v4.unwrap()]));
    });
}
