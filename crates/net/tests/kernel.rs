//! Networks against the kernel: every test is a host of its own.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints figures"
)]

mod host;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use host::{HOST, Host, NEIGHBOUR, ask, ask_udp, chain, on_host, on_host_with, port, serve};
use wharf_base::Id;
use wharf_net::{
    DefaultBridge, EndpointConfig, ErrorKind, Net, NetConfig, NetworkSpec, PortMap, Protocol, Reach,
};
use wharf_sys::netlink::route::LinkRef;
use wharf_sys::netlink::{Family, Socket};

const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
const LOOPBACK6: Ipv6Addr = Ipv6Addr::LOCALHOST;

fn network(h: &Host, name: &str, change: impl FnOnce(&mut NetworkSpec)) {
    let mut spec = NetworkSpec { name: name.into(), ..NetworkSpec::default() };
    change(&mut spec);
    h.net.create_network(spec).unwrap();
}

fn option(spec: &mut NetworkSpec, key: &str, value: &str) {
    spec.options.insert(format!("com.docker.network.bridge.{key}"), value.into());
}

#[test]
fn the_default_bridge_is_dockers() {
    on_host(|h| {
        let names: Vec<_> = h.net.networks().into_iter().map(|n| n.name).collect();
        assert_eq!(names, ["bridge", "host", "none"]);
        let c = h.container("bridge");
        assert_eq!(c.v4, Some([172, 17, 0, 2].into()));
        let e = &h.net.endpoints(&c.id)[0];
        assert_eq!((e.ifname.as_str(), e.gateway4), ("eth0", Some([172, 17, 0, 1].into())));
        assert_eq!(e.mac.unwrap().to_string(), "02:42:ac:11:00:02");
        assert_eq!(ask(None, (c.v4.unwrap(), 80)).unwrap(), IpAddr::from([172, 17, 0, 1]));
        let stats = h.net.stats(&c.id).unwrap();
        assert!(stats[0].ifname == "eth0" && stats[0].rx_packets > 0 && stats[0].tx_bytes > 0);
    });
}

#[test]
fn a_published_port_is_reachable_every_way() {
    on_host(|h| {
        let (c, other) = (h.container("bridge"), h.container("bridge"));
        network(&h, "apart", |_| ());
        let far = h.container("apart");
        let got = h.net.publish(&c.id, &[port(Some(8080), 80)]).unwrap();
        assert_eq!(got.len(), 2);
        assert_eq!(
            (got[0].host_ip, got[0].host, got[0].reach),
            (Ipv4Addr::UNSPECIFIED.into(), 8080, Reach::Nat)
        );
        assert_eq!((got[1].host_ip, got[1].reach), (Ipv6Addr::UNSPECIFIED.into(), Reach::Relay));
        let gateway = IpAddr::from([172, 17, 0, 1]);
        assert_eq!(ask(None, (LOOPBACK, 8080)).unwrap(), gateway);
        ask(None, (HOST, 8080)).unwrap();
        assert_eq!(ask(None, (LOOPBACK6, 8080)).unwrap(), gateway, "relayed");
        let lan = ask(Some(h.lan.as_fd()), (HOST, 8080)).unwrap();
        assert_eq!(lan, IpAddr::from(NEIGHBOUR), "the source address is kept");
        ask(Some(c.ns.as_fd()), (HOST, 8080)).expect("hairpin to itself");
        ask(Some(c.ns.as_fd()), (gateway, 8080)).expect("hairpin through the gateway");
        ask(Some(other.ns.as_fd()), (HOST, 8080)).expect("a neighbour on the network");
        ask(Some(far.ns.as_fd()), (HOST, 8080)).expect("from another network");
        h.net.unpublish(&c.id).unwrap();
        for to in [LOOPBACK, HOST] {
            ask(None, (to, 8080)).unwrap_err();
        }
        ask(Some(h.lan.as_fd()), (HOST, 8080)).unwrap_err();
    });
}

#[test]
fn udp_ports_follow_the_container() {
    on_host(|h| {
        let udp = |p: u16| PortMap { proto: Protocol::Udp, ..port(Some(p), 80) };
        let c = h.container("bridge");
        h.net.publish(&c.id, &[udp(5300)]).unwrap();
        ask_udp(None, (LOOPBACK, 5300)).unwrap();
        ask_udp(None, (LOOPBACK6, 5300)).unwrap();
        assert_eq!(ask_udp(Some(h.lan.as_fd()), (HOST, 5300)).unwrap(), IpAddr::from(NEIGHBOUR));
        h.net.release(&c.id).unwrap();
        let next = h.container("bridge");
        h.net.publish(&next.id, &[udp(5300)]).unwrap();
        ask_udp(Some(h.lan.as_fd()), (HOST, 5300)).unwrap();
    });
}

#[test]
fn only_what_is_published_is_reachable_from_the_lan() {
    on_host(|h| {
        let c = h.container("bridge");
        let local = PortMap { host_ip: Some(LOOPBACK.into()), ..port(Some(8081), 81) };
        h.net.publish(&c.id, &[port(Some(8080), 80), local]).unwrap();
        let lan = Some(h.lan.as_fd());
        ask(lan, (HOST, 8080)).unwrap();
        ask(None, (LOOPBACK, 8081)).unwrap();
        ask(lan, (HOST, 8081)).expect_err("bound to loopback");
        ask(lan, (c.v4.unwrap(), 80)).expect_err("published, but not at the container's address");
        ask(lan, (c.v4.unwrap(), 81)).expect_err("not published");
        // A neighbour that routes 127.0.0.0/8 to us.
        let lo = IpAddr::from([127, 0, 0, 1]);
        wharf_sys::netlink::netns::within(h.lan.as_fd(), || {
            use wharf_sys::netlink::route::{Address, Route};
            let mut s = Socket::open(Family::Route).unwrap();
            let mut b = wharf_sys::netlink::Batch::new();
            let lo_index = s.link(LinkRef::Name("lo")).unwrap().unwrap().index;
            b.delete_address(&Address { link: lo_index, ip: lo, prefix: 8, scope: 254 });
            s.execute(b).unwrap();
            let mut b = wharf_sys::netlink::Batch::new();
            b.add_route(&Route {
                to: [127, 0, 0, 0].into(),
                prefix: 8,
                via: Some(HOST.into()),
                link: None,
                source: Some(NEIGHBOUR.into()),
                metric: None,
                table: 254,
                kind: 1,
            });
            s.execute(b).unwrap();
            wharf_sys::netlink::netns::write_sysctl("net/ipv4/conf/eth0/route_localnet", "1")
                .unwrap();
        })
        .unwrap();
        ask(lan, (LOOPBACK, 8081)).expect_err("loopback from the wire");
        ask(lan, (HOST, 8080)).expect("the path as such works");
    });
}

#[test]
fn containers_cannot_use_the_hosts_loopback() {
    on_host(|h| {
        let c = h.container("bridge");
        let inside = TcpListener::bind("127.0.0.1:9000").unwrap();
        std::thread::spawn(move || while inside.accept().is_ok() {});
        wharf_sys::netlink::netns::within(c.ns.as_fd(), || {
            use wharf_sys::netlink::route::{Address, Route};
            let mut s = Socket::open(Family::Route).unwrap();
            let lo = s.link(LinkRef::Name("lo")).unwrap().unwrap().index;
            let mut b = wharf_sys::netlink::Batch::new();
            b.delete_address(&Address { link: lo, ip: LOOPBACK.into(), prefix: 8, scope: 254 });
            b.add_route(&Route {
                to: [127, 0, 0, 0].into(),
                prefix: 8,
                via: Some([172, 17, 0, 1].into()),
                link: None,
                source: Some([172, 17, 0, 2].into()),
                metric: None,
                table: 254,
                kind: 1,
            });
            s.execute(b).unwrap();
            wharf_sys::netlink::netns::write_sysctl("net/ipv4/conf/eth0/route_localnet", "1")
                .unwrap();
        })
        .unwrap();
        ask(Some(c.ns.as_fd()), (LOOPBACK, 9000)).unwrap_err();
        let guard = h.nft("list chain inet wharf-filter guard");
        let counted = |l: &str| l.contains("ip daddr 127.0.0.0/8") && !l.contains("packets 0 ");
        assert!(guard.lines().any(counted), "{guard}");
    });
}

#[test]
fn networks_are_apart_and_reach_out() {
    on_host(|h| {
        network(&h, "a", |_| ());
        network(&h, "b", |_| ());
        network(&h, "inner", |s| s.internal = true);
        serve(h.lan.as_fd(), 80);
        let (a, a2, b) = (h.container("a"), h.container("a"), h.container("b"));
        let (i, i2) = (h.container("inner"), h.container("inner"));
        ask(Some(a.ns.as_fd()), (a2.v4.unwrap(), 80)).expect("one network");
        ask(Some(a.ns.as_fd()), (b.v4.unwrap(), 80)).expect_err("two networks");
        let seen = ask(Some(a.ns.as_fd()), (NEIGHBOUR, 80)).unwrap();
        assert_eq!(seen, IpAddr::from(HOST), "masqueraded");
        ask(Some(i.ns.as_fd()), (i2.v4.unwrap(), 80)).expect("within an internal network");
        ask(Some(i.ns.as_fd()), (NEIGHBOUR, 80)).expect_err("out of an internal network");
        ask(Some(a.ns.as_fd()), (i.v4.unwrap(), 80)).expect_err("into an internal network");
        assert!(h.net.publish(&i.id, &[port(None, 80)]).unwrap().is_empty());
    });
}

#[test]
fn icc_off_keeps_neighbours_apart() {
    on_host(|h| {
        network(&h, "quiet", |s| option(s, "enable_icc", "false"));
        serve(h.lan.as_fd(), 80);
        let (a, b) = (h.container("quiet"), h.container("quiet"));
        ask(Some(a.ns.as_fd()), (b.v4.unwrap(), 80)).unwrap_err();
        ask(Some(a.ns.as_fd()), (NEIGHBOUR, 80)).expect("out");
        ask(None, (b.v4.unwrap(), 80)).expect("from the host");
    });
}

#[test]
fn gateway_modes_do_what_they_say() {
    on_host(|h| {
        serve(h.lan.as_fd(), 80);
        network(&h, "routed", |s| option(s, "gateway_mode_ipv4", "routed"));
        network(&h, "open", |s| option(s, "gateway_mode_ipv4", "nat-unprotected"));
        network(&h, "alone", |s| option(s, "gateway_mode_ipv4", "isolated"));
        network(&h, "trusting", |s| option(s, "trusted_host_interfaces", "wan0"));
        let lan = Some(h.lan.as_fd());
        let r = h.container("routed");
        let got = h.net.publish(&r.id, &[port(Some(8080), 80)]).unwrap();
        assert!(got.iter().all(|b| b.reach == Reach::Routed && b.host == 0), "{got:?}");
        ask(lan, (r.v4.unwrap(), 80)).expect("published, routed");
        ask(lan, (r.v4.unwrap(), 81)).expect_err("not published, routed");
        assert_eq!(ask(Some(r.ns.as_fd()), (NEIGHBOUR, 80)).unwrap(), r.v4.unwrap());
        ask(lan, (h.container("open").v4.unwrap(), 81)).expect("unprotected");
        ask(lan, (h.container("trusting").v4.unwrap(), 81)).expect("trusted interface");
        let alone = h.container("alone");
        assert_eq!(h.net.endpoints(&alone.id)[0].gateway4, None);
        ask(None, (alone.v4.unwrap(), 80)).unwrap_err();
    });
}

#[test]
fn ipv6_works_like_ipv4() {
    on_host(|h| {
        network(&h, "six", |s| s.ipv6 = Some(true));
        network(&h, "only", |s| (s.ipv4, s.ipv6) = (Some(false), Some(true)));
        let (a, b) = (h.container("six"), h.container("six"));
        ask(Some(a.ns.as_fd()), (b.v6.unwrap(), 80)).unwrap();
        let got = h.net.publish(&a.id, &[port(Some(8080), 80)]).unwrap();
        assert!(got.iter().all(|b| b.reach == Reach::Nat), "{got:?}");
        let host6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
        let lan6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]);
        assert_eq!(ask(Some(h.lan.as_fd()), (host6, 8080)).unwrap(), lan6);
        ask(None, (LOOPBACK6, 8080)).unwrap();
        ask(Some(b.ns.as_fd()), (host6, 8080)).unwrap();
        ask(Some(h.lan.as_fd()), (a.v6.unwrap(), 80)).expect_err("not at the container's address");
        let only = h.container("only");
        assert_eq!(only.v4, None);
        h.net.publish(&only.id, &[port(Some(8082), 80)]).unwrap();
        ask(None, (LOOPBACK, 8082)).expect("IPv4 client of an IPv6 container");
        ask(Some(h.lan.as_fd()), (host6, 8082)).unwrap();
    });
}

#[test]
fn ports_that_clash_say_so_in_dockers_words() {
    on_host(|h| {
        let (a, b) = (h.container("bridge"), h.container("bridge"));
        h.net.publish(&a.id, &[port(Some(8080), 80)]).unwrap();
        let e = h.net.publish(&b.id, &[port(Some(9090), 81), port(Some(8080), 80)]).unwrap_err();
        assert!(
            chain(&e).ends_with("Bind for 0.0.0.0:8080 failed: port is already allocated"),
            "{}",
            chain(&e)
        );
        assert_eq!(e.kind(), ErrorKind::Unavailable);
        TcpListener::bind("0.0.0.0:9090").expect("all or none");
        let foreign = TcpListener::bind("0.0.0.0:7070").unwrap();
        let e = chain(&h.net.publish(&b.id, &[port(Some(7070), 80)]).unwrap_err());
        assert!(e.contains("failed to bind host port for 0.0.0.0:7070:172.17.0.3:80/tcp: "), "{e}");
        assert!(e.to_lowercase().contains("address already in use"), "{e}");
        drop(foreign);
        TcpListener::bind("0.0.0.0:8080").expect_err("held by the daemon");
        let range = PortMap { host: Some((8080, 8082)), ..port(None, 80) };
        assert_eq!(h.net.publish(&b.id, std::slice::from_ref(&range)).unwrap()[0].host, 8081);
        let c = h.container("bridge");
        assert_eq!(h.net.publish(&c.id, std::slice::from_ref(&range)).unwrap()[0].host, 8082);
        let e = chain(&h.net.publish(&h.container("bridge").id, &[range]).unwrap_err());
        assert!(e.contains("8080-8082/tcp"), "{e}");
        let free = h.net.publish(&c.id, &[port(None, 81)]).unwrap();
        assert!(free[0].host >= 32768 && free[0].host == free[1].host, "{free:?}");
        let sctp = PortMap { proto: Protocol::Sctp, ..port(Some(3868), 3868) };
        assert_eq!(h.net.publish(&c.id, std::slice::from_ref(&sctp)).unwrap()[0].host, 3868);
        h.net.publish(&a.id, &[sctp]).unwrap_err();
        h.net.release(&a.id).unwrap();
        h.net.publish(&b.id, &[port(Some(8080), 80)]).expect("free at once");
        ask(None, (LOOPBACK, 8080)).unwrap();
    });
}

#[test]
fn ranges_are_one_element() {
    on_host(|h| {
        let c = h.container("bridge");
        serve(c.ns.as_fd(), 7042);
        let maps: Vec<_> = (7000..7100).map(|p| port(Some(p), p)).collect();
        h.net.publish(&c.id, &maps).unwrap();
        assert!(h.nft("list map inet wharf-nat ranges4").contains("7000-7099 : 172.17.0.2"));
        ask(None, (LOOPBACK, 7042)).unwrap();
        ask(Some(h.lan.as_fd()), (HOST, 7042)).unwrap();
        h.net.unpublish(&c.id).unwrap();
        assert!(!h.nft("list map inet wharf-nat ranges4").contains("7000"));
    });
}

#[test]
fn the_hosts_own_forward_policy_is_honoured() {
    on_host(|h| {
        let c = h.container("bridge");
        h.net.publish(&c.id, &[port(Some(8080), 80)]).unwrap();
        let lan = Some(h.lan.as_fd());
        ask(lan, (HOST, 8080)).unwrap();
        h.nft("add table inet admin");
        h.nft("add chain inet admin limits { type filter hook forward priority 10; policy drop; }");
        ask(lan, (HOST, 8080)).expect_err("the administrator said drop");
        h.nft("add rule inet admin limits ct state established,related accept");
        h.nft("add rule inet admin limits meta l4proto tcp ct original proto-dst 8080 accept");
        ask(lan, (HOST, 8080)).expect("the administrator allowed this port");
    });
}

#[test]
fn a_foreign_flush_is_repaired_at_once() {
    on_host(|h| {
        let c = h.container("bridge");
        h.net.publish(&c.id, &[port(Some(8080), 80)]).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let handle = tokio::runtime::Handle::current();
        let mut events = wharf_sys::nft::subscribe().unwrap();
        let watching = handle.spawn(h.net.clone().watch(async move { drop(stopped.await) }));
        let mut s = Socket::open(Family::Netfilter).unwrap();
        // The watcher installs once when it starts; after that, and after each repair, all is quiet.
        installed(&mut events);
        let mut worst = Duration::ZERO;
        for command in
            ["flush ruleset", "delete table inet wharf-nat", "flush chain inet wharf-nat ports"]
        {
            let whole = |s: &mut Socket| {
                let mut t = s.tables().unwrap();
                t.sort();
                t == ["wharf-filter", "wharf-nat"]
                    && ask(None, (LOOPBACK, 8080)).is_ok()
                    && ask(Some(h.lan.as_fd()), (HOST, 8080))
                        .is_ok_and(|ip| ip == IpAddr::from(NEIGHBOUR))
            };
            assert!(whole(&mut s));
            while events.receive_now().unwrap().is_some() {}
            h.nft(command);
            let start = Instant::now();
            installed(&mut events);
            worst = worst.max(start.elapsed());
            assert!(whole(&mut s), "after {command}");
        }
        println!("rules were back within {worst:?} of a foreign flush");
        drop(stop);
        handle.block_on(watching).unwrap();
    });
}

/// Waits until the rules of `wharf-nat` are made.
fn installed(events: &mut Socket) {
    loop {
        let messages = events.receive().unwrap();
        if wharf_sys::nft::events(&messages).any(|e| !e.removed && e.table == "wharf-nat") {
            return;
        }
    }
}

#[test]
fn a_new_daemon_takes_over_where_the_old_one_died() {
    on_host(|h| {
        network(&h, "user", |_| ());
        let (kept, gone) = (h.container("user"), h.container("bridge"));
        h.net.publish(&kept.id, &[port(Some(8080), 80)]).unwrap();
        h.net.publish(&gone.id, &[port(Some(8081), 80)]).unwrap();
        let before = h.net.networks();
        let Host { net, db, lan, dir: _dir } = h;
        drop(net);
        ask(Some(lan.as_fd()), (HOST, 8080)).expect("the kernel serves without a daemon");
        // Meanwhile somebody deletes a bridge and all rules.
        let mut s = Socket::open(Family::Route).unwrap();
        let mut b = wharf_sys::netlink::Batch::new();
        let bridge = format!("br-{}", before.iter().find(|n| n.name == "user").unwrap().id.short());
        b.delete_link(LinkRef::Name(&bridge));
        s.execute(b).unwrap();
        let net = Net::open(db, NetConfig::default()).unwrap();
        assert_eq!(net.networks(), before);
        let live = [(kept.id.clone(), kept.ns.try_clone().unwrap())].into();
        assert_eq!(net.adopt(live).unwrap(), std::slice::from_ref(&gone.id));
        ask(Some(lan.as_fd()), (HOST, 8080)).expect("kept");
        ask(None, (LOOPBACK, 8080)).expect("kept");
        ask(None, (LOOPBACK, 8081)).expect_err("released");
        TcpListener::bind("0.0.0.0:8080").expect_err("held again");
        assert_eq!(net.stats(&kept.id).unwrap().len(), 1);
        net.release(&kept.id).unwrap();
        until(&mut s, |names| !names.iter().any(|n| n.starts_with("veth")));
    });
}

#[test]
fn interfaces_that_nobody_recorded_are_removed() {
    on_host(|h| {
        network(&h, "doomed", |_| ());
        let c = h.container("doomed");
        let Host { net, lan: _lan, .. } = h;
        drop(net);
        // Another state directory: the records are lost.
        let dir = tempfile::tempdir().unwrap();
        let db = wharf_base::db::Db::open(&dir.path().join("db")).unwrap();
        let net = Net::open(db, NetConfig::default()).unwrap();
        let mut s = Socket::open(Family::Route).unwrap();
        let names: Vec<_> = s.links().unwrap().into_iter().map(|l| l.name).collect();
        assert!(!names.iter().any(|n| n.starts_with("veth") || n.starts_with("br-")), "{names:?}");
        assert!(names.contains(&"docker0".to_owned()));
        drop((c, net));
    });
}

/// Waits, by link events, until the names of the host's interfaces satisfy `done`.
fn until(s: &mut Socket, done: impl Fn(&[String]) -> bool) {
    const LINK_EVENTS: u32 = 1;
    let mut events = Socket::subscribe(Family::Route, &[LINK_EVENTS]).unwrap();
    loop {
        let names: Vec<_> = s.links().unwrap().into_iter().map(|l| l.name).collect();
        if done(&names) {
            return;
        }
        events.receive().unwrap();
    }
}

#[test]
fn nothing_is_left_of_a_released_sandbox() {
    on_host(|h| {
        let c = h.container("bridge");
        h.net.publish(&c.id, &[port(Some(8080), 80)]).unwrap();
        h.net.release(&c.id).unwrap();
        h.net.release(&c.id).expect("twice is fine");
        let mut s = Socket::open(Family::Route).unwrap();
        until(&mut s, |names| !names.iter().any(|n| n.starts_with("veth")));
        assert!(h.db.scan::<wharf_net::Endpoint>("endpoints").unwrap().is_empty());
        assert!(!h.nft("list map inet wharf-nat ports4").contains("8080"));
        TcpListener::bind("0.0.0.0:8080").unwrap();
        let wanted =
            EndpointConfig { ipv4: Some([172, 17, 0, 2].into()), ..EndpointConfig::default() };
        h.container_with("bridge", wanted);
    });
}

#[test]
fn a_container_may_be_on_several_networks() {
    on_host(|h| {
        serve(h.lan.as_fd(), 80);
        network(&h, "net-a", |_| ());
        network(&h, "net-b", |_| ());
        let c = h.container("net-b");
        h.net.attach(&c.id, "net-a", EndpointConfig::default()).unwrap();
        let names = |h: &Host| -> Vec<_> {
            h.net.endpoints(&c.id).into_iter().map(|e| (e.network_name, e.ifname)).collect()
        };
        assert_eq!(
            names(&h),
            [("net-a".into(), "eth1".into()), ("net-b".to_owned(), "eth0".to_owned())]
        );
        ask(Some(c.ns.as_fd()), (NEIGHBOUR, 80)).unwrap();
        let e = h.net.attach(&c.id, "net-a", EndpointConfig::default()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Forbidden);
        h.net.detach(&c.id, "net-a").unwrap();
        ask(Some(c.ns.as_fd()), (NEIGHBOUR, 80)).expect("the default route moved back");
        let first = EndpointConfig {
            gateway_priority: 5,
            ifname: Some("up0".into()),
            mac: Some("02:00:00:00:00:07".parse().unwrap()),
            ..EndpointConfig::default()
        };
        h.net.attach(&c.id, "net-a", first).unwrap();
        assert_eq!(h.net.endpoints(&c.id)[0].ifname, "up0");
        assert_eq!(h.net.detach(&c.id, "bridge").unwrap_err().kind(), ErrorKind::NotFound);
        let e = h.net.remove_network("net-b").unwrap_err();
        assert!(e.kind() == ErrorKind::Forbidden && e.to_string().contains("has active endpoints"));
        assert_eq!(h.net.remove_network("bridge").unwrap_err().kind(), ErrorKind::Forbidden);
        h.net.detach(&c.id, "net-b").unwrap();
        h.net.remove_network("net-b").unwrap();
        assert_eq!(h.net.network("net-b").unwrap_err().kind(), ErrorKind::NotFound);
        let gone = h.net.prune(&|_| true).unwrap();
        assert!(gone.is_empty(), "net-a is in use: {gone:?}");
    });
}

#[test]
fn none_and_host_are_records_only() {
    on_host(|h| {
        let id = Id::random();
        h.net.create_sandbox(&id).unwrap();
        let e = h.net.attach(&id, "none", EndpointConfig::default()).unwrap();
        assert!(e.ifname.is_empty() && e.ipv4.is_none());
        assert!(h.net.publish(&id, &[port(None, 80)]).unwrap().is_empty());
        let on_host = Id::random();
        h.net.attach(&on_host, "host", EndpointConfig::default()).unwrap();
        assert_eq!(h.net.network("host").unwrap().endpoints.len(), 1);
        assert!(h.net.stats(&on_host).unwrap().is_empty());
        h.net.release(&on_host).unwrap();
        assert!(h.net.network("host").unwrap().endpoints.is_empty());
    });
}

#[test]
fn macvlan_children_are_on_the_lan() {
    on_host(|h| {
        network(&h, "lan", |s| {
            s.driver = "macvlan".into();
            s.options.insert("parent".into(), "wan0".into());
            s.ipam = vec![wharf_net::IpamConfig {
                subnet: Some("192.0.2.0/24".parse().unwrap()),
                range: Some("192.0.2.64/26".parse().unwrap()),
                gateway: Some(NEIGHBOUR.into()),
                aux: [].into(),
            }];
        });
        let c = h.container("lan");
        assert_eq!(c.v4, Some([192, 0, 2, 64].into()));
        assert_eq!(ask(Some(h.lan.as_fd()), (c.v4.unwrap(), 80)).unwrap(), IpAddr::from(NEIGHBOUR));
        h.net.detach(&c.id, "lan").unwrap();
        h.net.remove_network("lan").unwrap();
        assert!(
            Socket::open(Family::Route).unwrap().link(LinkRef::Name("wan0")).unwrap().is_some()
        );
    });
}

#[test]
fn the_default_bridge_follows_its_flags() {
    let bridge = DefaultBridge {
        name: "wharf7".into(),
        bip: Some("10.77.0.1/24".parse().unwrap()),
        fixed_cidr: Some("10.77.0.128/25".parse().unwrap()),
        icc: false,
        ..DefaultBridge::default()
    };
    let config = NetConfig {
        instance: "two".into(),
        bridge: Some(bridge),
        publish_on: Some(LOOPBACK.into()),
        ..NetConfig::default()
    };
    on_host_with(config, |h| {
        let c = h.container("bridge");
        assert_eq!(c.v4, Some([10, 77, 0, 128].into()));
        let got = h.net.publish(&c.id, &[port(Some(8080), 80)]).unwrap();
        assert_eq!((got.len(), got[0].host_ip), (1, LOOPBACK.into()));
        ask(None, (LOOPBACK, 8080)).unwrap();
        ask(Some(h.lan.as_fd()), (HOST, 8080)).unwrap_err();
        assert!(h.nft("list tables").contains("wharf-two-nat"));
    });
}

#[test]
fn many_networks_and_ports_stay_fast() {
    on_host(|h| {
        let start = Instant::now();
        for n in 0..60 {
            network(&h, &format!("n{n}"), |_| ());
        }
        println!("60 networks in {:?}", start.elapsed());
        let c = h.container("n59");
        let maps: Vec<_> = (0..1000).map(|i| port(Some(20000 + i * 2), 80)).collect();
        let start = Instant::now();
        h.net.publish(&c.id, &maps).unwrap();
        println!("1000 ports in {:?}", start.elapsed());
        for p in [20000, 21998] {
            ask(None, (LOOPBACK, p)).unwrap();
            ask(Some(h.lan.as_fd()), (HOST, p)).unwrap();
        }
        let start = Instant::now();
        h.net.release(&c.id).unwrap();
        println!("1000 ports withdrawn in {:?}", start.elapsed());
    });
}

/// Not an assertion: figures for a person to read, with `--nocapture`.
#[test]
fn latency_of_a_containers_network_life() {
    on_host(|h| {
        let mut figures: Vec<[Duration; 5]> = Vec::new();
        for round in 0..60u16 {
            let id = Id::random();
            let t0 = Instant::now();
            let sandbox = h.net.create_sandbox(&id).unwrap();
            let t1 = Instant::now();
            h.net.attach(&id, "bridge", EndpointConfig::default()).unwrap();
            let t2 = Instant::now();
            h.net.publish(&id, &[port(Some(30000 + round), 80)]).unwrap();
            let t3 = Instant::now();
            drop(sandbox);
            h.net.release(&id).unwrap();
            let t4 = Instant::now();
            figures.push([t1 - t0, t2 - t1, t3 - t2, t4 - t3, t4 - t0]);
        }
        for (i, name) in ["sandbox", "attach", "publish", "release", "total"].iter().enumerate() {
            let mut column: Vec<_> = figures.iter().map(|f| f[i]).collect();
            column.sort();
            println!("{name:8} median {:?}, p90 {:?}", column[30], column[54]);
        }
        // Without the kernel taking old namespaces apart at the same time.
        let mut quiet: Vec<_> = (0..20)
            .map(|_| {
                let id = Id::random();
                let start = Instant::now();
                h.net.create_sandbox(&id).unwrap();
                h.net.attach(&id, "bridge", EndpointConfig::default()).unwrap();
                start.elapsed()
            })
            .collect();
        quiet.sort();
        println!(
            "sandbox and attach, nothing released: median {:?}, best {:?}",
            quiet[10], quiet[0]
        );
    });
}
