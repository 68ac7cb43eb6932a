//! Containers that find each other by name: DNS on every network, links, and their life.

use std::fs;
use std::net::UdpSocket;
use wharf_test::namespace::in_network;
use wharf_test::{Host, PATIENCE, eventually};

/// What `getent`-like tools see: the addresses that busybox finds for a name, or its complaint.
fn find(host: &Host, from: &str, name: &str) -> Result<Vec<String>, String> {
    let out = host.docker(["exec", from, "nslookup", name, "127.0.0.11"]);
    if out.code != 0 {
        return Err(out.stdout + &out.stderr);
    }
    let after = out.stdout.split_once("\n\n").map_or("", |(_, answers)| answers);
    let ip = |l: &str| l.strip_prefix("Address: ").map(|a| a.trim().to_owned());
    Ok(after.lines().filter_map(ip).collect())
}

fn address(host: &Host, container: &str, network: &str) -> String {
    let template = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
    host.inspect(container, &template)
}

fn run(host: &Host, name: &str, flags: &[&str]) {
    let args = ["run", "-d", "--name", name, "--stop-timeout", "0"];
    let rest = ["busybox", "sleep", "1000"];
    host.docker(args.iter().chain(flags).chain(&rest)).ok();
}

#[test]
fn names_on_a_network_of_ones_own() {
    let host = Host::with_busybox();
    host.docker(["network", "create", "front"]).ok();
    host.docker(["network", "create", "back"]).ok();
    run(&host, "web", &["--network", "front", "--network-alias", "www", "-h", "webhost"]);
    run(&host, "db", &["--network", "back"]);
    host.docker(["network", "connect", "--alias", "shop", "back", "web"]).ok();
    let (front, back) = (address(&host, "web", "front"), address(&host, "web", "back"));
    for name in ["web", "shop", "web.back", "webhost", "WEB"] {
        assert_eq!(find(&host, "db", name).as_deref(), Ok(std::slice::from_ref(&back)), "{name}");
    }
    assert!(find(&host, "db", "www").is_err(), "an alias is of one network");
    assert_eq!(find(&host, "web", "www").unwrap(), [front]);
    let short = host.inspect("web", "{{slice .Id 0 12}}");
    assert_eq!(find(&host, "db", &short).as_deref(), Ok(std::slice::from_ref(&back)));
    let names = host.inspect("web", "{{json (index .NetworkSettings.Networks \"back\").DNSNames}}");
    assert_eq!(names, format!("[\"web\",\"shop\",\"{short}\",\"webhost\"]"));
    host.docker(["exec", "db", "nslookup", &back, "127.0.0.11"]).says("web.back");
    host.docker(["exec", "db", "ping", "-c1", "-W5", "web"]).ok();
    host.docker(["rename", "web", "mall"]).ok();
    assert_eq!(find(&host, "db", "mall").unwrap(), [back]);
    host.docker(["network", "disconnect", "back", "mall"]).ok();
    assert!(find(&host, "db", "mall").is_err());
}

#[test]
fn names_on_the_default_bridge() {
    let host = Host::with_busybox();
    run(&host, "web", &[]);
    let ip = address(&host, "web", "bridge");
    let out = host.docker(["run", "--rm", "busybox", "ping", "-c1", "-W5", "web"]);
    out.says(&format!("PING web ({ip})"));
    let conf = host.docker(["exec", "web", "cat", "/etc/resolv.conf"]).ok();
    assert!(conf.contains("nameserver 127.0.0.11"), "{conf}");
    let host_ip = find(&host, "web", "host.docker.internal").unwrap();
    assert_eq!(host_ip, [host.inspect("web", "{{.NetworkSettings.Networks.bridge.Gateway}}")]);
}

#[test]
fn names_survive_the_daemon() {
    let mut host = Host::with_busybox();
    host.docker(["network", "create", "net"]).ok();
    run(&host, "web", &["--network", "net"]);
    run(&host, "db", &["--network", "net"]);
    host.crash_daemon();
    assert_eq!(find(&host, "db", "web").unwrap(), [address(&host, "web", "net")]);
    host.docker(["restart", "-t", "0", "web"]).ok();
    assert_eq!(find(&host, "db", "web").unwrap(), [address(&host, "web", "net")]);
}

#[test]
fn the_hosts_resolver_is_followed_as_it_changes() {
    let mut host = Host::bare(wharf_test::host::Engine::chosen());
    let conf = host.write("resolv.conf", b"nameserver 192.0.2.1\n");
    let mount = ["mount", "--bind", conf.to_str().unwrap(), "/etc/resolv.conf"];
    assert!(host.enter(mount[0]).args(&mount[1..]).status().unwrap().success());
    host.start_daemon();
    host.load(wharf_test::image::busybox());
    run(&host, "client", &[]);
    // On the host's loopback, where systemd-resolved is: containers cannot ask it themselves.
    let server = in_network(host.init(), || UdpSocket::bind("127.0.0.53:53")).unwrap();
    std::thread::spawn(move || answer_all(&server));
    fs::write(&conf, "nameserver 127.0.0.53\n").unwrap();
    let found =
        eventually("the new name server answers", || find(&host, "client", "far.test").ok());
    assert_eq!(found, ["203.0.113.9"]);
}

/// Every IPv4 name is 203.0.113.9; no name has anything else.
fn answer_all(server: &UdpSocket) {
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut query = [0; 512];
    while let Ok((len, from)) = server.recv_from(&mut query) {
        let mut reply = query[..len].to_vec();
        reply[2] |= 0x80;
        if reply[len - 4..] == [0, 1, 0, 1] {
            reply[7] = 1;
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 203, 0, 113, 9]);
        }
        server.send_to(&reply, from).unwrap();
    }
}

#[test]
fn links_as_images_of_2015_read_them() {
    let host = Host::with_busybox();
    run(&host, "mysql", &["-e", "MYSQL_ROOT_PASSWORD=123456", "--expose", "3306", "-h", "sqlhost"]);
    let link = ["run", "--rm", "--name", "app", "--link", "mysql:default"];
    let script = "env; cat /etc/hosts; ping -c1 -W5 default";
    let out = host.docker(link.iter().chain(&["busybox", "sh", "-c", script])).ok();
    let ip = address(&host, "mysql", "bridge");
    for want in [
        format!("DEFAULT_PORT=tcp://{ip}:3306"),
        format!("DEFAULT_PORT_3306_TCP_ADDR={ip}"),
        "DEFAULT_PORT_3306_TCP_PORT=3306".into(),
        "DEFAULT_NAME=/app/default".into(),
        "DEFAULT_ENV_MYSQL_ROOT_PASSWORD=123456".into(),
        format!("{ip}\tdefault sqlhost mysql"),
    ] {
        assert!(out.lines().any(|l| l == want), "{want} in {out}");
    }
    host.docker(["run", "--rm", "--link", "gone", "busybox"])
        .exits(125)
        .fails("could not get container for gone");
}

#[test]
fn a_link_follows_a_restart_at_another_address() {
    let host = Host::with_busybox();
    run(&host, "db", &[]);
    run(&host, "app", &["--link", "db:store"]);
    assert_eq!(host.inspect("app", "{{json .HostConfig.Links}}"), "[\"/db:/app/store\"]");
    let before = address(&host, "db", "bridge");
    host.docker(["stop", "db"]).ok();
    eventually("somebody else has its address", || {
        run(&host, "squatter", &[]);
        let taken = address(&host, "squatter", "bridge") == before;
        if !taken {
            host.docker(["rm", "-f", "squatter"]).ok();
        }
        taken.then_some(())
    });
    host.docker(["start", "db"]).ok();
    let after = address(&host, "db", "bridge");
    assert_ne!(before, after);
    let hosts = host.docker(["exec", "app", "cat", "/etc/hosts"]).ok();
    assert!(hosts.contains(&format!("{after}\tstore ")), "{hosts}");
    assert!(!hosts.contains(&format!("{before}\tstore")), "{hosts}");
    host.docker(["stop", "-t", "0", "app", "db"]).ok();
    host.docker(["start", "app"])
        .fails("Cannot link to a non running container: /db AS /app/store");
}

#[test]
fn a_link_on_a_network_of_ones_own_is_a_name_of_one_container() {
    let host = Host::with_busybox();
    host.docker(["network", "create", "net"]).ok();
    run(&host, "db", &["--network", "net"]);
    run(&host, "app", &["--network", "net", "--link", "db:store"]);
    run(&host, "other", &["--network", "net"]);
    assert_eq!(find(&host, "app", "store").unwrap(), [address(&host, "db", "net")]);
    assert!(find(&host, "other", "store").is_err());
}

#[test]
fn a_legacy_link_is_a_name_that_can_be_taken_away() {
    let host = Host::with_busybox();
    host.sleeper("db");
    let args = ["run", "-d", "--name", "web", "--stop-timeout", "0", "--link", "db:store"];
    host.docker(args.iter().chain(&["busybox", "sleep", "1000"])).ok();
    let hosts = || host.docker(["exec", "web", "cat", "/etc/hosts"]).ok();
    assert!(hosts().contains("\tstore "), "{}", hosts());
    let names = ["ps", "--no-trunc", "--filter", "name=db", "--format", "{{.Names}}"];
    assert_eq!(host.docker(names).ok(), "db,web/store");
    assert_eq!(host.inspect("web/store", "{{.Id}}"), host.inspect("db", "{{.Id}}"));

    assert_eq!(host.docker(["rm", "--link", "/web/store"]).ok(), "/web/store");
    assert!(!hosts().contains("store"), "{}", hosts());
    assert_eq!(host.docker(names).ok(), "db");
    assert_eq!(host.inspect("web", "{{.HostConfig.Links}}"), "[]");
    host.docker(["rm", "--link", "web/store"]).fails("No such container");
    host.docker(["rm", "--link", "db"]).fails("cannot remove the default link name");
    assert_eq!(host.inspect("db", "{{.State.Running}}"), "true");
}
