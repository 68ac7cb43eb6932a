//! A host for tests: a network namespace of its own with a LAN beside it, so that the machine's own network is never touched.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use wharf_base::Id;
use wharf_base::db::Db;
use wharf_net::{EndpointConfig, Net, NetConfig, PortMap, Protocol};
use wharf_sys::netlink::route::{
    Address, LinkChange, LinkKind, LinkRef, MAIN_TABLE, NewLink, Route,
};
use wharf_sys::netlink::{Batch, Family, Socket, netns};

/// The host's address on the LAN, and the LAN's machine.
pub(crate) const HOST: [u8; 4] = [192, 0, 2, 1];
pub(crate) const NEIGHBOUR: [u8; 4] = [192, 0, 2, 2];

pub(crate) struct Host {
    pub(crate) net: Arc<Net>,
    pub(crate) db: Db,
    pub(crate) lan: OwnedFd,
    pub(crate) dir: tempfile::TempDir,
}

/// Runs `f` on a thread in a new "host", with a runtime whose threads are in it, too.
pub(crate) fn on_host(f: impl FnOnce(Host) + Send + 'static) {
    on_host_with(NetConfig::default(), f);
}

pub(crate) fn on_host_with(config: NetConfig, f: impl FnOnce(Host) + Send + 'static) {
    let run = || {
        netns::unshare().unwrap();
        let lan = wire();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("db")).unwrap();
        let net = Net::open(db.clone(), config).unwrap();
        f(Host { net, db, lan, dir });
    };
    std::thread::spawn(run).join().unwrap();
}

/// A second machine on a cable: its default route leads to the host.
fn wire() -> OwnedFd {
    let far = || {
        netns::unshare().unwrap();
        (netns::current().unwrap(), Socket::open(Family::Route).unwrap())
    };
    let (lan, mut inside) = std::thread::spawn(far).join().unwrap();
    let mut home = Socket::open(Family::Route).unwrap();
    let link =
        |name, ns, kind| NewLink { name, mac: None, mtu: None, master: None, ns, up: false, kind };
    let peer = link("eth0", Some(lan.as_fd()), LinkKind::Peer);
    let mut b = Batch::new();
    b.add_link(&link("wan0", None, LinkKind::Veth(&peer)));
    home.execute(b).unwrap();
    let six = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
    set(&mut home, "wan0", [(HOST.into(), 24), (six(1), 64)]);
    set(&mut inside, "eth0", [(NEIGHBOUR.into(), 24), (six(2), 64)]);
    let mut b = Batch::new();
    for via in [IpAddr::from(HOST), six(1)] {
        let to = if via.is_ipv4() { IpAddr::from([0u8; 4]) } else { IpAddr::from([0u8; 16]) };
        let via = Some(via);
        b.add_route(&Route {
            to,
            prefix: 0,
            via,
            link: None,
            source: None,
            metric: None,
            table: MAIN_TABLE,
            kind: 1,
        });
    }
    inside.execute(b).unwrap();
    // Asking makes the kernel see the carrier at once.
    home.link(LinkRef::Name("wan0")).unwrap();
    inside.link(LinkRef::Name("eth0")).unwrap();
    lan
}

fn set(socket: &mut Socket, name: &str, addresses: [(IpAddr, u8); 2]) {
    let link = socket.link(LinkRef::Name(name)).unwrap().unwrap().index;
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    let mut b = Batch::new();
    b.change_link(LinkRef::Name("lo"), &up);
    b.change_link(LinkRef::Index(link), &up);
    for (ip, prefix) in addresses {
        b.add_address(&Address { link, ip, prefix, scope: 0 });
    }
    socket.execute(b).unwrap();
}

impl Host {
    /// A container on `network`, which answers on TCP and UDP ports 80 and 81.
    pub(crate) fn container(&self, network: &str) -> Container {
        self.container_with(network, EndpointConfig::default())
    }

    pub(crate) fn container_with(&self, network: &str, config: EndpointConfig) -> Container {
        let id = Id::random();
        let sandbox = self.net.create_sandbox(&id).unwrap();
        let ns = sandbox.netns().try_clone_to_owned().unwrap();
        let endpoint = self.net.attach(&id, network, config).unwrap();
        let c = Container {
            id,
            ns,
            v4: endpoint.ipv4.map(|s| s.addr()),
            v6: endpoint.ipv6.map(|s| s.addr()),
        };
        for port in [80, 81] {
            serve(c.ns.as_fd(), port);
        }
        c
    }

    /// `nft` in the namespace of this thread.
    #[allow(clippy::disallowed_methods, reason = "nft is the foreign program here")]
    pub(crate) fn nft(&self, command: &str) -> String {
        let out = std::process::Command::new(nft_program()).arg(command).output().unwrap();
        assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
}

/// Debian's nft: the one that the tests brought along, or the machine's own.
fn nft_program() -> std::ffi::OsString {
    let brought = std::env::var_os("WHARF_TEST_NFT").unwrap_or_default();
    if std::path::Path::new(&brought).is_file() { brought } else { "nft".into() }
}

pub(crate) struct Container {
    pub(crate) id: Id,
    pub(crate) ns: OwnedFd,
    pub(crate) v4: Option<IpAddr>,
    pub(crate) v6: Option<IpAddr>,
}

/// Answers every TCP connection and UDP datagram on `port` in `ns` with the client's address.
pub(crate) fn serve(ns: BorrowedFd<'_>, port: u16) {
    let ns = ns.try_clone_to_owned().unwrap();
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        netns::enter(ns.as_fd()).unwrap();
        let any = |port| SocketAddr::from(([0u16; 8], port));
        let udp = UdpSocket::bind(any(port)).unwrap();
        let tcp = TcpListener::bind(any(port)).unwrap();
        std::thread::spawn(move || {
            let mut buf = [0; 64];
            while let Ok((_, from)) = udp.recv_from(&mut buf) {
                udp.send_to(from.ip().to_canonical().to_string().as_bytes(), from).unwrap();
            }
        });
        ready.send(()).unwrap();
        while let Ok((mut client, from)) = tcp.accept() {
            client.write_all(from.ip().to_canonical().to_string().as_bytes()).ok();
        }
    });
    is_ready.recv().unwrap();
}

/// Longer than it takes to send a lost SYN or neighbour solicitation again.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Connects from `ns` (or from the host) and returns who the server thinks it is talking to.
pub(crate) fn ask(ns: Option<BorrowedFd<'_>>, to: impl Into<SocketAddr>) -> io::Result<IpAddr> {
    let to = to.into();
    let go = move || {
        let mut s = TcpStream::connect_timeout(&to, PATIENCE)?;
        s.set_read_timeout(Some(PATIENCE))?;
        let mut answer = String::new();
        s.read_to_string(&mut answer)?;
        answer.parse().map_err(|_| io::Error::other(format!("answered {answer:?}")))
    };
    match ns {
        Some(ns) => netns::within(ns, go)?,
        None => go(),
    }
}

pub(crate) fn ask_udp(ns: Option<BorrowedFd<'_>>, to: impl Into<SocketAddr>) -> io::Result<IpAddr> {
    let to = to.into();
    let go = move || {
        let any: SocketAddr =
            if to.is_ipv4() { ([0u8; 4], 0).into() } else { ([0u16; 8], 0).into() };
        let s = UdpSocket::bind(any)?;
        s.set_read_timeout(Some(PATIENCE))?;
        s.connect(to)?;
        s.send(b"?")?;
        let mut buf = [0; 64];
        let len = s.recv(&mut buf)?;
        String::from_utf8_lossy(&buf[..len]).parse().map_err(io::Error::other)
    };
    match ns {
        Some(ns) => netns::within(ns, go)?,
        None => go(),
    }
}

pub(crate) fn port(host: Option<u16>, container: u16) -> PortMap {
    PortMap { container, proto: Protocol::Tcp, host_ip: None, host: host.map(|h| (h, h)) }
}

pub(crate) fn chain(e: &(dyn std::error::Error + 'static)) -> String {
    wharf_base::error::chain(e).to_string()
}
