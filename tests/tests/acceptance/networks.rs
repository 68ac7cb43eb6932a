//! Networks of the user's own: made, listed, joined and left with stock docker, and `wharf network attach`.

use wharf_test::docker::Output;
use wharf_test::{Host, tools};

fn run(host: &Host, name: &str, flags: &[&str]) {
    let args = ["run", "-d", "--name", name, "--stop-timeout", "0"];
    let rest = ["busybox", "sleep", "1000"];
    host.docker(args.iter().chain(flags).chain(&rest)).ok();
}

fn inside(host: &Host, container: &str, script: &str) -> Output {
    host.docker(["exec", container, "sh", "-c", script])
}

fn pings(host: &Host, from: &str, to: &str) -> bool {
    inside(host, from, &format!("ping -c1 -W2 {to}")).code == 0
}

fn of(host: &Host, container: &str, network: &str, field: &str) -> String {
    let settings = format!("(index .NetworkSettings.Networks {network:?})");
    host.inspect(container, &format!("{{{{{settings}.{field}}}}}"))
}

#[test]
fn networks_are_made_listed_and_pruned() {
    let host = Host::with_busybox();
    let id = host.docker(["network", "create", "--label", "team=a", "one"]).ok();
    host.docker(["network", "create", "--label", "team=b", "--internal", "two"]).ok();
    host.docker(["network", "create", "one"]).fails("network with name one already exists");
    let ls = |filters: &[&str]| {
        let flags = filters.iter().flat_map(|f| ["-f", f]);
        host.docker(["network", "ls", "--format", "{{.Name}}"].into_iter().chain(flags)).lines()
    };
    assert_eq!(ls(&[]), ["bridge", "host", "none", "one", "two"]);
    assert_eq!(ls(&["type=custom"]), ["one", "two"]);
    assert_eq!(ls(&["type=builtin", "driver=bridge"]), ["bridge"]);
    assert_eq!(ls(&["label=team=b"]), ["two"]);
    assert_eq!(ls(&[&format!("id={}", &id[..8])]), ["one"]);
    assert_eq!(ls(&["name=tw"]), ["two"]);
    run(&host, "box", &["--network", "one"]);
    assert_eq!(ls(&["dangling=true"]), ["two"]);
    host.docker(["network", "ls", "-f", "colour=red"]).fails("invalid filter 'colour'");
    let two = host.docker(["network", "inspect", "two"]).json();
    assert_eq!((&two[0]["Internal"], &two[0]["EnableIPv6"]), (&true.into(), &false.into()));
    host.docker(["network", "rm", "one"]).fails("has active endpoints");
    host.docker(["network", "prune", "-f", "--filter", "label=team=a"]).ok();
    assert_eq!(ls(&["type=custom"]), ["one", "two"]);
    host.docker(["network", "prune", "-f"]).says("two");
    host.docker(["rm", "-f", "box"]).ok();
    host.docker(["network", "rm", "one"]).says("one");
    let events = host.events("type=network", "{{.Action}} {{.Actor.Attributes.name}}");
    let of_one: Vec<_> = events.iter().filter(|e| e.ends_with(" one")).collect();
    assert_eq!(of_one, ["create one", "connect one", "disconnect one", "destroy one"]);
}

#[test]
fn networks_take_their_settings_from_one_that_has_nothing_else() {
    let host = Host::with_busybox();
    let create = |args: &[&str]| host.docker(["network", "create"].iter().chain(args));
    let settings = ["--subnet", "10.78.0.0/24", "--label", "team=a", "-o"];
    let mtu = ["com.docker.network.driver.mtu=1400", "--config-only", "settings"];
    create(&[&settings[..], &mtu].concat()).ok();
    let shown = host.docker(["network", "inspect", "settings"]).json();
    assert_eq!((&shown[0]["ConfigOnly"], &shown[0]["Driver"]), (&true.into(), &"null".into()));
    create(&["--config-from", "settings", "made"]).ok();
    let made = host.docker(["network", "inspect", "made"]).json();
    assert_eq!(made[0]["ConfigFrom"]["Network"], "settings");
    assert_eq!(made[0]["IPAM"]["Config"][0]["Subnet"], "10.78.0.0/24");
    assert_eq!(made[0]["Labels"]["team"], "a");
    run(&host, "box", &["--network", "made"]);
    inside(&host, "box", "cat /sys/class/net/eth0/mtu; ip -4 addr show eth0")
        .says("1400\n")
        .says("10.78.0.2/24");
    create(&["--config-from", "nowhere", "x"])
        .fails("configuration network \"nowhere\" does not exist");
    create(&["--config-from", "settings", "--subnet", "10.79.0.0/24", "x"])
        .fails("user specified configurations are not supported");
    host.docker(["network", "rm", "settings"])
        .fails("configuration network \"settings\" is in use");
    host.docker(["run", "--rm", "--network", "settings", "busybox"])
        .fails("cannot create endpoint on configuration-only network");
    host.docker(["network", "create", "-d", "nonesuch", "x"]).fails(
        "could not find plugin nonesuch in v1 plugin registry: plugin \"nonesuch\" not found",
    );
    host.docker(["rm", "-f", "box"]).ok();
    host.docker(["network", "rm", "made", "settings"]).ok();
}

#[test]
fn addresses_and_aliases_are_for_networks_of_the_users_own() {
    let host = Host::with_busybox();
    let body = |settings: &str| {
        format!(
            r#"{{"Image":"busybox","NetworkingConfig":{{"EndpointsConfig":{{"bridge":{settings}}}}}}}"#
        )
    };
    for (settings, words) in [
        (
            r#"{"IPAMConfig":{"IPv4Address":"172.17.0.9"}}"#,
            "user specified IP address is supported on user defined networks only",
        ),
        (
            r#"{"Aliases":["web"]}"#,
            "network-scoped alias is supported only for containers in user defined networks",
        ),
    ] {
        let answer = host.api("POST", "/containers/create", body(settings).as_bytes()).unwrap();
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.text().contains(words), "{}", answer.text());
    }
    host.docker(["network", "create", "own"]).ok();
    run(&host, "box", &["--network", "own"]);
    host.docker(["network", "connect", "--alias", "web", "bridge", "box"])
        .fails("network-scoped alias is supported only for containers in user defined networks");
    host.docker(["network", "connect", "bridge", "box"]).ok();
    host.docker(["rm", "-f", "box"]).ok();
}

#[test]
fn a_container_is_on_several_networks_as_asked() {
    let host = Host::with_busybox();
    let subnets = ["--subnet", "10.77.0.0/24", "--subnet", "fd77::/64", "--ipv6"];
    let own = ["--gateway", "10.77.0.254", "--opt", "com.docker.network.driver.mtu=1400", "wide"];
    host.docker(["network", "create"].iter().chain(&subnets).chain(&own)).ok();
    host.docker(["network", "create", "plain"]).ok();
    let wide = "name=wide,ip=10.77.0.9,ip6=fd77::9,mac-address=02:42:0a:4d:00:09,gw-priority=5,\
                driver-opt=com.docker.network.endpoint.ifname=up0";
    run(&host, "box", &["--network", "plain", "--network", wide]);
    assert_eq!(of(&host, "box", "wide", "IPAddress"), "10.77.0.9");
    assert_eq!(of(&host, "box", "wide", "GlobalIPv6Address"), "fd77::9");
    let link = inside(&host, "box", "ip addr show up0").ok();
    for want in ["10.77.0.9/24", "fd77::9/64", "02:42:0a:4d:00:09", "mtu 1400"] {
        assert!(link.contains(want), "{want} in {link}");
    }
    let route = inside(&host, "box", "ip route").ok();
    assert!(route.contains("default via 10.77.0.254 dev up0"), "{route}");
    host.docker(["network", "disconnect", "wide", "box"]).ok();
    let gateway = of(&host, "box", "plain", "Gateway");
    let route = inside(&host, "box", "ip route").ok();
    assert!(route.contains(&format!("default via {gateway} dev eth")), "{route}");
    host.docker(["network", "connect", "--ip", "10.77.0.9", "wide", "box"]).ok();
    let taken = ["run", "--rm", "--network", "wide", "--ip", "10.77.0.9", "busybox"];
    host.docker(taken).exits(125).fails("Address already in use");
    let outside = ["run", "--rm", "--network", "wide", "--ip", "10.99.0.1", "busybox"];
    host.docker(outside).exits(125).fails("10.99.0.1 is not in 10.77.0.0/24");
}

#[test]
fn networks_are_apart_and_internal_ones_shut() {
    let host = Host::with_busybox();
    host.docker(["network", "create", "a"]).ok();
    host.docker(["network", "create", "b"]).ok();
    host.docker(["network", "create", "--internal", "shut"]).ok();
    host.docker(["network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "mute"])
        .ok();
    for (name, network) in [
        ("a1", "a"),
        ("a2", "a"),
        ("b1", "b"),
        ("s1", "shut"),
        ("s2", "shut"),
        ("m1", "mute"),
        ("m2", "mute"),
    ] {
        run(&host, name, &["--network", network]);
    }
    assert!(pings(&host, "a1", "a2") && pings(&host, "s1", "s2"));
    assert!(!pings(&host, "a1", &of(&host, "b1", "b", "IPAddress")), "another network");
    assert!(!pings(&host, "m1", "m2"), "no traffic within the network");
    assert!(pings(&host, "m1", &of(&host, "m1", "mute", "Gateway")));
    assert!(!pings(&host, "s1", &of(&host, "a1", "a", "Gateway")), "out of an internal network");
    host.docker(["network", "connect", "b", "a1"]).ok();
    assert!(pings(&host, "a1", "b1"), "on both networks now");
}

/// From moby's `TestPointToPoint`.
#[test]
fn two_addresses_are_enough_where_nobody_needs_a_gateway() {
    let host = Host::with_busybox();
    for option in ["inhibit_ipv4=true", "gateway_mode_ipv4=isolated"] {
        let option = format!("com.docker.network.bridge.{option}");
        let flags = ["--internal", "--subnet", "192.168.135.0/31", "-o", &option];
        host.docker(["network", "create"].iter().chain(&flags).chain(&["pair"])).ok();
        run(&host, "one", &["--network", "pair"]);
        run(&host, "two", &["--network", "pair"]);
        assert!(pings(&host, "two", "one"), "{option}");
        host.docker(["run", "--rm", "--network", "pair", "busybox", "true"]).exits(125);
        host.docker(["rm", "-f", "one", "two"]).ok();
        host.docker(["network", "rm", "pair"]).ok();
    }
}

#[test]
fn a_network_of_ipv6_alone() {
    let host = Host::with_busybox();
    host.docker(["network", "create", "--ipv4=false", "--ipv6", "six"]).ok();
    run(&host, "web", &["--network", "six"]);
    run(&host, "db", &["--network", "six"]);
    assert_eq!(of(&host, "web", "six", "IPAddress"), "");
    let ip = of(&host, "web", "six", "GlobalIPv6Address");
    inside(&host, "db", "nslookup -type=aaaa web 127.0.0.11").says(&ip);
    inside(&host, "db", "ping -6 -c1 -W5 web").ok();
}

#[test]
fn there_are_more_than_thirty_one_networks() {
    let host = Host::with_busybox();
    let names: Vec<String> = (0..40).map(|i| format!("n{i}")).collect();
    for name in &names {
        host.docker(["network", "create", name]).ok();
    }
    run(&host, "box", &["--network", "n39"]);
    assert!(pings(&host, "box", &of(&host, "box", "n39", "Gateway")));
}

#[test]
fn what_overlaps_is_refused_before_anything_is_made() {
    let host = Host::with_busybox();
    let create = |subnet: &str| host.docker(["network", "create", "--subnet", subnet, "net"]);
    create("172.17.3.0/24").fails("Pool overlaps with other one on this address space");
    let busybox = tools::path("busybox");
    for args in
        ["ip link add far type bridge", "ip link set far up", "ip route add 10.88.1.0/24 dev far"]
    {
        assert!(host.enter(&busybox).args(args.split(' ')).status().unwrap().success());
    }
    create("10.88.0.0/16").fails("a route of this host (10.88.1.0/24)");
    create("10.88.1.0/24").fails("a route of this host (10.88.1.0/24)");
    assert_eq!(host.docker(["network", "ls", "-q", "-f", "type=custom"]).ok(), "");
    create("10.88.2.0/24").ok();
    assert!(host.enter(&busybox).args(["ip", "link", "del", "far"]).status().unwrap().success());
}

#[test]
fn leaving_by_force_and_running_options_that_do_not_exist() {
    let host = Host::with_busybox();
    host.docker(["network", "create", "net"]).ok();
    run(&host, "box", &["--network", "net"]);
    host.docker(["network", "disconnect", "-f", "net", "gone"]).fails("endpoint gone not found");
    host.docker(["network", "disconnect", "net", "gone"]).fails("No such container: gone");
    host.docker(["network", "disconnect", "-f", "net", "box"]).ok();
    host.docker(["network", "disconnect", "net", "box"]).fails("is not connected to");
    host.docker(["network", "create", "-d", "overlay", "o"]).fails("\"overlay\"");
    host.docker(["network", "create", "-o", "com.docker.network.bridge.typo=1", "o"]).fails("typo");
}

#[test]
fn an_interface_is_added_to_a_running_container() {
    let host = Host::with_busybox();
    let busybox = tools::path("busybox");
    for args in
        ["ip link add br1 type bridge", "ip addr add 10.66.0.1/24 dev br1", "ip link set br1 up"]
    {
        assert!(host.enter(&busybox).args(args.split(' ')).status().unwrap().success());
    }
    run(&host, "box", &[]);
    let wharf =
        |args: &[&str]| Output::run(host.client(tools::wharf()).arg("network").args(args), b"");
    let ip =
        ["attach", "--bridge", "br1", "--ip", "10.66.0.9/24", "--route", "10.67.0.0/16=10.66.0.1"];
    assert_eq!(wharf(&[&ip[..], &["box"]].concat()).ok(), "eth1");
    assert!(pings(&host, "box", "10.66.0.1"));
    let route = inside(&host, "box", "ip route").ok();
    assert!(route.contains("10.67.0.0/16 via 10.66.0.1 dev eth1"), "{route}");
    wharf(&["attach", "--bridge", "br2", "box"]).fails("the host has no interface br2");
    wharf(&["attach", "box"]).fails("where the interface comes from");
    wharf(&["detach", "box", "eth1"]).ok();
    assert!(!inside(&host, "box", "ip link").ok().contains("eth1"));
    assert_eq!(wharf(&[&ip[..], &["--ifname", "lan0", "box"]].concat()).ok(), "lan0");
    host.docker(["rm", "-f", "box"]).ok();
    assert!(host.enter(&busybox).args(["ip", "link", "del", "br1"]).status().unwrap().success());
}

#[test]
fn a_full_id_means_its_network_whatever_others_are_called() {
    let host = Host::start();
    let id = host.docker(["network", "create", "first"]).ok();
    host.docker(["network", "create", &id]).ok();
    host.docker(["network", "rm", &id]).ok();
    let names = host.docker(["network", "ls", "--format", "{{.Name}}"]).lines();
    assert!(names.contains(&id) && !names.contains(&"first".into()), "{names:?}");
    host.docker(["network", "rm", &id]).ok();
}

#[test]
fn a_container_is_on_the_networks_that_it_names() {
    let host = Host::with_busybox();
    host.docker(["network", "create", "mine"]).ok();
    let body = br#"{"Image":"busybox","NetworkingConfig":{"EndpointsConfig":{"mine":{}}}}"#;
    assert_eq!(host.api("POST", "/containers/create?name=box", body).unwrap().status, 201);
    let names =
        host.inspect("box", "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}");
    assert_eq!(names.trim(), "mine");
}

#[test]
fn without_a_default_bridge_the_default_is_no_network() {
    let host = Host::with_flags(&["--bridge=none"]);
    host.load(wharf_test::image::busybox());
    let out = host.docker(["run", "--rm", "busybox", "ls", "/sys/class/net"]).ok();
    assert_eq!(out.trim(), "lo");
}

#[test]
fn new_networks_have_the_options_that_the_daemon_gives_their_driver() {
    let host =
        Host::with_flags(&["--default-network-opt=bridge=com.docker.network.driver.mtu=1234"]);
    let mtu = "com.docker.network.driver.mtu";
    host.docker(["network", "create", "plain"]).ok();
    host.docker(["network", "create", "-o", &format!("{mtu}=1400"), "own"]).ok();
    let told = |name| host.inspect(name, &format!("{{{{index .Options \"{mtu}\"}}}}"));
    assert_eq!((told("plain").as_str(), told("own").as_str()), ("1234", "1400"));
}
