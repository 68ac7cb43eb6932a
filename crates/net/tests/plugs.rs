//! Interfaces beside the networks, and networks on the host's own interfaces, against the kernel.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    dead_code,
    reason = "a test fails by panicking; not every test file needs the whole host"
)]

mod host;

use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use host::{Container, HOST, Host, NEIGHBOUR, ask, chain, on_host, serve};
use wharf_net::{EndpointConfig, ErrorKind, IpamConfig, Net, NetConfig, NetworkSpec, Plug, Source};
use wharf_sys::netlink::route::{LinkChange, LinkKind, LinkRef, NewLink};
use wharf_sys::netlink::{Batch, Family, Socket, netns};

const INSIDE: [u8; 4] = [192, 0, 2, 50];

fn plug(source: Source) -> Plug {
    Plug {
        source,
        ifname: None,
        mac: None,
        mtu: None,
        vlan: None,
        addresses: vec!["192.0.2.50/24".parse().unwrap()],
        gateways: Vec::new(),
        routes: Vec::new(),
    }
}

fn on_parent(
    h: &Host,
    driver: &str,
    edit: impl FnOnce(&mut NetworkSpec),
) -> Result<(), wharf_net::NetError> {
    let mut spec =
        NetworkSpec { name: "lan".into(), driver: driver.into(), ..NetworkSpec::default() };
    spec.options.insert("parent".into(), "wan0".into());
    spec.ipam = vec![IpamConfig {
        subnet: Some("192.0.2.0/24".parse().unwrap()),
        range: Some("192.0.2.64/26".parse().unwrap()),
        gateway: Some(NEIGHBOUR.into()),
        aux: [].into(),
    }];
    edit(&mut spec);
    h.net.create_network(spec).map(drop)
}

/// Makes `wan0` a port of a bridge `br9` that is none of wharf's.
fn bridge_the_lan() {
    let mut s = Socket::open(Family::Route).unwrap();
    let mut b = Batch::new();
    b.add_link(&NewLink {
        name: "br9",
        mac: None,
        mtu: None,
        master: None,
        ns: None,
        up: true,
        kind: LinkKind::Bridge,
    });
    s.execute(b).unwrap();
    let master = s.link(LinkRef::Name("br9")).unwrap().unwrap().index;
    let mut b = Batch::new();
    let port = LinkChange { master: Some(master), up: Some(true), ..LinkChange::default() };
    b.change_link(LinkRef::Name("wan0"), &port);
    s.execute(b).unwrap();
}

fn has_link(name: &str) -> bool {
    Socket::open(Family::Route).unwrap().link(LinkRef::Name(name)).unwrap().is_some()
}

fn has_link_inside(c: &Container, name: &str) -> bool {
    netns::within(c.ns.as_fd(), || has_link(name)).unwrap()
}

/// Asks from outside until the bridge has learnt where the answer is.
fn reachable(h: &Host, to: impl Into<IpAddr>) {
    let to = to.into();
    let found = (0..20).any(|_| ask(Some(h.lan.as_fd()), (to, 80)).is_ok());
    assert!(found, "{to} does not answer");
}

#[test]
fn a_foreign_bridge_takes_a_running_container() {
    on_host(|h| {
        bridge_the_lan();
        let c = h.container("bridge");
        let mut wanted = plug(Source::Bridge("br9".into()));
        wanted.mac = Some("02:00:00:00:00:50".parse().unwrap());
        wanted.routes = vec![("198.51.100.0/24".parse().unwrap(), Some(NEIGHBOUR.into()))];
        assert_eq!(h.net.plug(&c.id, &wanted).unwrap(), "eth1");
        reachable(&h, INSIDE);
        let routes =
            netns::within(c.ns.as_fd(), || Socket::open(Family::Route).unwrap().routes()).unwrap();
        let via = Some(IpAddr::from(NEIGHBOUR));
        assert!(routes.unwrap().iter().any(|r| r.prefix == 24 && r.via == via));
        let e = h.net.plug(&c.id, &Plug { ifname: Some("eth1".into()), ..wanted }).unwrap_err();
        assert!(e.to_string().contains("error renaming interface to \"eth1\": file exists"), "{e}");
        let e = h.net.unplug(&c.id, "eth0").unwrap_err();
        assert!(e.to_string().contains("belongs to network bridge"), "{e}");
        h.net.unplug(&c.id, "eth1").unwrap();
        assert!(!has_link_inside(&c, "eth1"));
    });
}

#[test]
fn an_interface_of_the_host_moves_in_and_back() {
    on_host(|h| {
        let c = h.container("bridge");
        let mut wanted = plug(Source::Physical("wan0".into()));
        wanted.ifname = Some("lan0".into());
        wanted.gateways = vec![NEIGHBOUR.into()];
        h.net.plug(&c.id, &wanted).unwrap();
        assert!(!has_link("wan0") && has_link_inside(&c, "lan0"));
        reachable(&h, INSIDE);
        h.net.unplug(&c.id, "lan0").unwrap();
        assert!(has_link("wan0"));
        // By its MAC address, and back when the container ends, whatever daemon is there then.
        let mac =
            Socket::open(Family::Route).unwrap().link(LinkRef::Name("wan0")).unwrap().unwrap();
        let mac = wharf_net::Mac(mac.mac.unwrap()).to_string();
        h.net.plug(&c.id, &Plug { ifname: None, ..plug(Source::Physical(mac)) }).unwrap();
        assert!(!has_link("wan0"));
        let Host { net, db, lan: _lan, dir: _dir } = h;
        drop(net);
        let net = Net::open(db, NetConfig::default()).unwrap();
        net.adopt([(c.id.clone(), c.ns.try_clone().unwrap())].into()).unwrap();
        net.release(&c.id).unwrap();
        assert!(has_link("wan0"));
    });
}

#[test]
fn what_cannot_be_added_is_refused_and_leaves_nothing() {
    on_host(|h| {
        let c = h.container("bridge");
        let refused = |p: Plug, want: &str| {
            let e = h.net.plug(&c.id, &p).unwrap_err();
            assert!(chain(&e).contains(want), "{}", chain(&e));
            assert!(!has_link_inside(&c, "eth1"));
        };
        refused(plug(Source::Bridge("nowhere".into())), "the host has no interface nowhere");
        refused(plug(Source::Bridge("wan0".into())), "wan0 is not a bridge but veth");
        refused(plug(Source::Physical("docker0".into())), "is not to be moved");
        refused(plug(Source::Physical("lo".into())), "lo");
        let parent = |mode: &str| Source::Parent { name: "wan0".into(), mode: mode.into() };
        refused(plug(parent("sideways")), "private, vepa, bridge or passthru");
        let gateway = vec![IpAddr::from([203, 0, 113, 1])];
        refused(Plug { gateways: gateway, ..plug(parent("")) }, "configure eth1");
        let vlan = Plug { vlan: Some(5), ..plug(parent("")) };
        // Kernels differ: with 802.1Q it works, and without the error says what is missing.
        match h.net.plug(&c.id, &vlan) {
            Ok(name) => {
                assert!(has_link_inside(&c, &format!("{name}.5")));
                h.net.unplug(&c.id, &name).unwrap();
            }
            Err(e) => {
                assert!(e.to_string().contains("no 802.1Q VLANs: load the module 8021q"), "{e}")
            }
        }
        assert!(!has_link_inside(&c, "eth1"));
    });
}

#[test]
fn the_host_reaches_its_macvlan_children_through_a_shim() {
    on_host(|h| {
        on_parent(&h, "macvlan", |s| drop(s.options.insert("host_shim".into(), "true".into())))
            .unwrap();
        let c = h.container("lan");
        let ip = c.v4.unwrap();
        reachable(&h, ip);
        assert_eq!(ask(None, (ip, 80)).unwrap(), IpAddr::from([192, 0, 2, 127]));
        serve(h.lan.as_fd(), 8080);
        ask(None, (NEIGHBOUR, 8080)).expect("other machines of the subnet as before");
        let Host { net, db, lan: _lan, dir: _dir } = h;
        drop(net);
        // Somebody removes the shim while no daemon is there.
        let mut s = Socket::open(Family::Route).unwrap();
        let shim = s.links().unwrap().into_iter().find(|l| l.name.starts_with("shim-")).unwrap();
        let mut b = Batch::new();
        b.delete_link(LinkRef::Index(shim.index));
        s.execute(b).unwrap();
        let net = Net::open(db, NetConfig::default()).unwrap();
        net.adopt([(c.id.clone(), c.ns.try_clone().unwrap())].into()).unwrap();
        ask(None, (ip, 80)).expect("made again");
        net.release(&c.id).unwrap();
        net.remove_network("lan").unwrap();
        assert!(!s.links().unwrap().iter().any(|l| l.name.starts_with("shim-")));
    });
}

#[test]
fn children_without_a_parent_have_each_other() {
    on_host(|h| {
        on_parent(&h, "macvlan", |s| drop(s.options.remove("parent"))).unwrap();
        let (a, b) = (h.container("lan"), h.container("lan"));
        ask(Some(a.ns.as_fd()), (b.v4.unwrap(), 80)).unwrap();
        ask(Some(a.ns.as_fd()), (HOST, 80)).unwrap_err();
        let dummy = |s: &mut Socket| s.links().unwrap().iter().any(|l| l.name.starts_with("dm-"));
        let mut s = Socket::open(Family::Route).unwrap();
        assert!(dummy(&mut s));
        for c in [&a, &b] {
            h.net.detach(&c.id, "lan").unwrap();
        }
        h.net.remove_network("lan").unwrap();
        assert!(!dummy(&mut s));
    });
}

#[test]
fn a_parent_that_somebody_else_has_is_waited_for_and_then_named() {
    on_host(|h| {
        on_parent(&h, "macvlan", |_| ()).unwrap();
        bridge_the_lan();
        let id = wharf_base::Id::random();
        h.net.create_sandbox(&id).unwrap();
        let e = h.net.attach(&id, "lan", EndpointConfig::default()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Forbidden);
        assert!(e.to_string().starts_with("wan0 is in use: take it out of its bridge"), "{e}");
        std::thread::scope(|s| {
            s.spawn(|| {
                #[allow(clippy::disallowed_methods, reason = "somebody else takes his time")]
                std::thread::sleep(Duration::from_millis(300));
                let mut b = Batch::new();
                b.delete_link(LinkRef::Name("br9"));
                Socket::open(Family::Route).unwrap().execute(b).unwrap();
            });
            h.net.attach(&id, "lan", EndpointConfig::default()).unwrap();
        });
    });
}

#[test]
fn ipvlan_works_or_the_kernel_is_said_to_lack_it() {
    on_host(|h| match on_parent(&h, "ipvlan", |_| ()) {
        Ok(()) => {
            let c = h.container("lan");
            reachable(&h, c.v4.unwrap());
            let mac = EndpointConfig {
                mac: Some("02:00:00:00:00:07".parse().unwrap()),
                ..EndpointConfig::default()
            };
            let other = wharf_base::Id::random();
            h.net.create_sandbox(&other).unwrap();
            let e = h.net.attach(&other, "lan", mac).unwrap_err();
            assert!(e.to_string().contains("MAC address of their parent"), "{e}");
        }
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::Unsupported);
            assert!(e.to_string().contains("no ipvlan: load the module ipvlan"), "{e}");
            assert!(h.net.network("lan").is_err(), "the network is there all the same");
        }
    });
}

#[test]
fn a_vlan_trunk_works_or_the_kernel_is_said_to_lack_it() {
    on_host(|h| {
        let trunk = |s: &mut NetworkSpec| drop(s.options.insert("parent".into(), "wan0.50".into()));
        match on_parent(&h, "macvlan", trunk) {
            Ok(()) => {
                assert!(has_link("wan0.50"));
                h.net.remove_network("lan").unwrap();
                assert!(!has_link("wan0.50"));
            }
            Err(e) => {
                assert!(e.to_string().contains("no 802.1Q VLANs: load the module 8021q"), "{e}")
            }
        }
        let e =
            on_parent(&h, "macvlan", |s| drop(s.options.insert("parent".into(), "wan7".into())));
        assert!(e.unwrap_err().to_string().contains("the host has no interface wan7"));
    });
}
