//! Leaving networks and removing them against the kernel, and links where neighbours are kept apart.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking; the host's helpers serve other tests too"
)]

mod host;

use std::os::fd::AsFd as _;

use host::{Host, ask, on_host, on_host_with};
use wharf_net::{
    DefaultBridge, EndpointConfig, IpamConfig, NetConfig, NetworkSpec, Opening, Protocol,
};
use wharf_sys::netlink::{Family, Socket, netns};

fn network(h: &Host, name: &str, subnet: &str, bridge: &str) {
    let mut spec = NetworkSpec { name: name.into(), ..NetworkSpec::default() };
    spec.options.insert("com.docker.network.bridge.name".into(), bridge.into());
    spec.ipam = vec![IpamConfig {
        subnet: Some(subnet.parse().unwrap()),
        range: None,
        gateway: None,
        aux: Default::default(),
    }];
    h.net.create_network(spec).unwrap();
}

#[test]
fn a_removed_network_gives_its_addresses_and_its_name_back() {
    on_host(|h| {
        let gateway = std::net::IpAddr::from([10, 81, 0, 1]);
        for round in 0..3 {
            network(&h, "net", "10.81.0.0/24", "br-mine");
            let c = h.container("net");
            ask(None, (c.v4.unwrap(), 80)).unwrap_or_else(|e| panic!("round {round}: {e}"));
            h.net.release(&c.id).unwrap();
            h.net.remove_network("net").unwrap();
            let mut s = Socket::open(Family::Route).unwrap();
            let addresses = s.addresses().unwrap();
            assert!(!addresses.iter().any(|a| a.ip == gateway), "round {round}");
            // The same subnet on another bridge, while the first is still being taken apart.
            network(&h, "other", "10.81.0.0/24", "br-other");
            h.net.remove_network("other").unwrap();
        }
    });
}

#[test]
fn who_leaves_a_network_sees_no_interface_of_it() {
    on_host(|h| {
        network(&h, "net", "10.82.0.0/24", "br-mine");
        let c = h.container("bridge");
        let names = || {
            let list = || Socket::open(Family::Route).unwrap().links().unwrap();
            netns::within(c.ns.as_fd(), list).unwrap().into_iter().map(|l| l.name)
        };
        for _ in 0..5 {
            h.net.attach(&c.id, "net", EndpointConfig::default()).unwrap();
            assert!(names().any(|n| n == "eth1"));
            h.net.detach(&c.id, "net").unwrap();
            assert!(!names().any(|n| n == "eth1"));
        }
    });
}

#[test]
fn links_open_what_icc_off_shuts_and_no_more() {
    let bridge = DefaultBridge { icc: false, ..DefaultBridge::default() };
    on_host_with(NetConfig { bridge: Some(bridge), ..NetConfig::default() }, |h| {
        let (parent, child, other) =
            (h.container("bridge"), h.container("bridge"), h.container("bridge"));
        let from = |c: &host::Container, port: u16| {
            ask(Some(c.ns.as_fd()), (child.v4.unwrap(), port)).map(Some)
        };
        from(&parent, 80).expect_err("apart");
        let Some(std::net::IpAddr::V4(to)) = child.v4 else { panic!("no IPv4 address") };
        let opening = Opening { to, proto: Protocol::Tcp, port: 80 };
        h.net.open_links(&parent.id, vec![opening, opening]).unwrap();
        assert_eq!(from(&parent, 80).expect("linked"), parent.v4, "seen under its own address");
        from(&parent, 81).expect_err("another port");
        from(&other, 80).expect_err("another container");
        let back = ask(Some(child.ns.as_fd()), (parent.v4.unwrap(), 80));
        back.expect_err("links lead one way");
        h.nft("flush ruleset");
        h.net.open_links(&parent.id, Vec::new()).unwrap();
        from(&parent, 80).expect_err("unlinked");
        h.net.open_links(&parent.id, vec![opening]).unwrap();
        h.net.release(&parent.id).unwrap();
        assert!(!h.nft("list set inet wharf-filter linked4").contains("docker0"));
    });
}
