//! The default bridge, published ports, and the other modes.

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use wharf_test::{
    Host, eventually,
    namespace::{in_network, in_network_at},
};

/// A web server that answers `page` and stays.
fn serve(host: &Host, name: &str, flags: &[&str], page: &str) {
    let script = format!(
        "mkdir /www; echo {page} > /www/index.html; echo ready; exec httpd -f -p 80 -h /www"
    );
    let args = ["run", "-d", "--name", name, "--stop-timeout", "0"];
    let all = args.iter().chain(flags).copied().chain(["busybox", "sh", "-c", &script]);
    host.docker(all).ok();
}

/// Asks until the server inside has come up.
#[track_caller]
fn page(host: &Host, address: &str) -> String {
    eventually(address, || {
        let answer = host.get(address, "/").ok()?;
        (answer.status == 200).then(|| answer.text().trim().to_owned())
    })
}

#[test]
fn published_ports_answer_on_loopback_and_on_the_bridge() {
    let host = Host::with_busybox();
    serve(&host, "web", &["-p", "91:80"], "hello");
    assert_eq!(page(&host, "127.0.0.1:91"), "hello");
    assert_eq!(host.docker(["port", "web", "80"]).lines()[0], "0.0.0.0:91");
    let ip = host.inspect("web", "{{.NetworkSettings.IPAddress}}");
    assert_eq!(page(&host, &format!("{ip}:80")), "hello");
    assert!(host.docker(["ps"]).ok().contains("0.0.0.0:91->80/tcp"));
}

#[test]
fn hairpin_a_container_reaches_another_through_the_host_port() {
    let host = Host::with_busybox();
    serve(&host, "web", &["-p", "92:80"], "looped");
    page(&host, "127.0.0.1:92");
    let gateway = host.inspect("web", "{{.NetworkSettings.Gateway}}");
    let url = format!("http://{gateway}:92/");
    let other = host.docker(["run", "--rm", "busybox", "wget", "-qO-", &url]);
    assert_eq!(other.ok(), "looped");
    let itself = host.docker(["exec", "web", "wget", "-qO-", &url]);
    assert_eq!(itself.ok(), "looped");
}

#[test]
fn containers_talk_over_the_bridge() {
    let host = Host::with_busybox();
    serve(&host, "web", &[], "neighbour");
    let ip = host.inspect("web", "{{.NetworkSettings.Networks.bridge.IPAddress}}");
    page(&host, &format!("{ip}:80"));
    let url = format!("http://{ip}/");
    assert_eq!(host.docker(["run", "--rm", "busybox", "wget", "-qO-", &url]).ok(), "neighbour");
}

#[test]
fn all_forms_of_publishing() {
    let host = Host::with_busybox();
    serve(
        &host,
        "web",
        &["-p", "127.0.0.1:93:80", "-p", "80", "-p", "9400-9402:81", "-p", "95:95/udp"],
        "many",
    );
    assert_eq!(page(&host, "127.0.0.1:93"), "many");
    let bindings = host.docker(["inspect", "-f", "{{json .NetworkSettings.Ports}}", "web"]).json();
    let tcp = bindings["80/tcp"].as_array().unwrap();
    assert!(tcp.iter().any(|b| b["HostIp"] == "127.0.0.1" && b["HostPort"] == "93"), "{bindings}");
    let random = tcp.iter().find(|b| b["HostPort"] != "93").unwrap()["HostPort"].as_str().unwrap();
    assert_eq!(page(&host, &format!("127.0.0.1:{random}")), "many");
    assert_eq!(bindings["81/tcp"][0]["HostPort"], "9400");
    assert_eq!(bindings["95/udp"][0]["HostPort"], "95");
}

#[test]
fn ranges_map_one_to_one() {
    let host = Host::with_busybox();
    host.docker([
        "run",
        "-d",
        "--name",
        "box",
        "--stop-timeout",
        "0",
        "-p",
        "7000-7002:80-82",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    for (inside, outside) in [("80", "7000"), ("81", "7001"), ("82", "7002")] {
        assert_eq!(host.docker(["port", "box", inside]).lines()[0], format!("0.0.0.0:{outside}"));
    }
}

#[test]
fn publish_all_takes_exposed_ports() {
    let host = Host::with_busybox();
    serve(&host, "web", &["-P", "--expose", "80"], "exposed");
    let address = host.docker(["port", "web", "80"]).lines()[0].replace("0.0.0.0", "127.0.0.1");
    assert_eq!(page(&host, &address), "exposed");
}

#[test]
fn a_taken_port_is_refused_and_freed_later() {
    let host = Host::with_busybox();
    serve(&host, "one", &["-p", "91:80"], "one");
    let second = ["run", "-d", "--name", "two", "-p", "91:80", "busybox", "sleep", "1000"];
    host.docker(second).exits(125).fails("port is already allocated");
    assert_eq!(host.inspect("two", "{{.State.Status}}"), "created");
    host.docker(["rm", "-f", "one"]).ok();
    host.docker(["start", "two"]).ok();
}

#[test]
fn a_port_that_the_host_uses_is_refused() {
    let host = Host::with_busybox();
    let _listener = in_network(host.init(), || TcpListener::bind("0.0.0.0:91")).unwrap();
    host.docker(["run", "-d", "-p", "91:80", "busybox", "sleep", "1000"])
        .exits(125)
        .fails("address already in use");
}

#[test]
fn a_stopped_container_gives_its_port_back() {
    let host = Host::with_busybox();
    serve(&host, "web", &["-p", "91:80"], "x");
    page(&host, "127.0.0.1:91");
    host.docker(["stop", "web"]).ok();
    assert!(host.connect("127.0.0.1:91").is_err());
    drop(in_network(host.init(), || TcpListener::bind("0.0.0.0:91")).unwrap());
    host.docker(["start", "web"]).ok();
    host.docker(["exec", "web", "true"]).ok();
}

#[test]
fn none_has_only_loopback_and_host_has_everything() {
    let host = Host::with_busybox();
    let links = |mode: &str| {
        host.docker(["run", "--rm", "--network", mode, "busybox", "ls", "/sys/class/net"]).lines()
    };
    assert_eq!(links("none"), ["lo"]);
    assert!(links("host").len() > 1);
    assert_eq!(links("bridge"), ["eth0", "lo"]);
}

#[test]
fn container_mode_shares_the_network() {
    let host = Host::with_busybox();
    serve(&host, "web", &[], "shared");
    let script = "until wget -qO- http://127.0.0.1/; do :; done";
    let out =
        host.docker(["run", "--rm", "--network", "container:web", "busybox", "sh", "-c", script]);
    assert_eq!(out.ok(), "shared");
    host.docker(["run", "--rm", "--network", "container:web", "-p", "1:1", "busybox"])
        .exits(125)
        .fails("conflicting options: port publishing and the container type network mode");
    host.docker(["run", "--rm", "--network", "container:gone", "busybox"])
        .exits(125)
        .fails("No such container: gone");
}

#[test]
fn names_inside_hosts_hostname_and_resolv_conf() {
    let host = Host::with_busybox();
    let script = "cat /etc/hosts /etc/hostname /etc/resolv.conf";
    let out = host
        .docker([
            "run",
            "--rm",
            "-h",
            "me",
            "--add-host",
            "db:10.1.2.3",
            "--add-host",
            "up:host-gateway",
            "--dns",
            "192.0.2.53",
            "--dns-search",
            "example.test",
            "--dns-option",
            "ndots:3",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok();
    for text in [
        "10.1.2.3\tdb",
        "127.0.0.1\tlocalhost",
        "nameserver 192.0.2.53",
        "search example.test",
        "options ndots:3",
    ] {
        assert!(out.contains(text), "{text} in {out}");
    }
    assert!(out.lines().any(|l| l.ends_with("\tme")), "{out}");
    assert!(out.lines().any(|l| l.ends_with("\tup") && l.starts_with("172.")), "{out}");
}

#[test]
fn addresses_are_not_shared_and_come_back() {
    let host = Host::with_busybox();
    let mut seen = std::collections::BTreeSet::new();
    for i in 0..5 {
        host.sleeper(&format!("c{i}"));
        seen.insert(
            host.inspect(&format!("c{i}"), "{{.NetworkSettings.Networks.bridge.IPAddress}}"),
        );
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.iter().all(|ip| ip.starts_with("172.17.0.")), "{seen:?}");
}

#[test]
fn mac_address_and_link_are_as_asked() {
    let host = Host::with_busybox();
    let out = host.docker([
        "run",
        "--rm",
        "--mac-address",
        "02:42:ac:11:00:99",
        "busybox",
        "cat",
        "/sys/class/net/eth0/address",
    ]);
    assert_eq!(out.ok(), "02:42:ac:11:00:99");
}

#[test]
fn network_inspect_lists_its_containers() {
    let host = Host::with_busybox();
    host.sleeper("box");
    let network = host.docker(["network", "inspect", "bridge"]).json();
    let containers = network[0]["Containers"].as_object().unwrap();
    assert!(containers.values().any(|c| c["Name"] == "box"), "{network}");
    assert_eq!(network[0]["Driver"], "bridge");
    host.docker(["network", "rm", "bridge"])
        .fails("bridge is a pre-defined network and cannot be removed");
    host.docker(["network", "inspect", "nowhere"]).fails("network nowhere not found");
}

#[test]
fn sctp_is_published_or_refused_for_a_reason() {
    let host = Host::with_busybox();
    let args = ["run", "-d", "--name", "box", "--stop-timeout", "0", "-p", "3868:3868/sctp"];
    let out = host.docker(args.into_iter().chain(["busybox", "sleep", "1000"]));
    if out.code != 0 {
        out.exits(125).fails("this kernel has no connection tracking for SCTP");
        return;
    }
    assert_eq!(host.docker(["port", "box"]).lines(), ["3868/sctp -> 0.0.0.0:3868"]);
    let pid = host.inspect("box", "{{.State.Pid}}");
    let inside = format!("/proc/{}/root/proc/{pid}/ns/net", host.init());
    // A kernel without SCTP sockets still translates for those who bring their own.
    let Some(server) = in_network_at(inside.as_ref(), || sctp_socket().ok()) else { return };
    rustix::net::bind(&server, &"0.0.0.0:3868".parse::<SocketAddr>().unwrap()).unwrap();
    rustix::net::listen(&server, 1).unwrap();
    for address in ["127.0.0.1:3868", &format!("{}:3868", bridge(&host))] {
        let client = in_network(host.init(), || sctp_socket().unwrap());
        rustix::net::connect(&client, &address.parse::<SocketAddr>().unwrap()).unwrap();
        rustix::net::send(&client, b"ping", SendFlags::empty()).unwrap();
        let inside = rustix::net::accept(&server).unwrap();
        let mut buffer = [0; 16];
        let (n, _) = rustix::net::recv(&inside, &mut buffer, RecvFlags::empty()).unwrap();
        assert_eq!(&buffer[..n], b"ping", "to {address}");
        rustix::net::send(&inside, b"pong", SendFlags::empty()).unwrap();
        let (n, _) = rustix::net::recv(&client, &mut buffer, RecvFlags::empty()).unwrap();
        assert_eq!(&buffer[..n], b"pong", "from {address}");
    }
    host.docker(["run", "--rm", "-p", "[::1]:3868:3868/sctp", "busybox", "true"])
        .exits(125)
        .fails("an SCTP port at ::1 for a container at 172.17.0.");
}

fn sctp_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let protocol = Some(rustix::net::ipproto::SCTP);
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        flags,
        protocol,
    )?;
    let patience = Some(wharf_test::PATIENCE);
    for timeout in [Timeout::Recv, Timeout::Send] {
        sockopt::set_socket_timeout(&socket, timeout, patience)?;
    }
    Ok(socket)
}

/// The host's address on the default bridge.
fn bridge(host: &Host) -> String {
    let template = "{{(index .IPAM.Config 0).Gateway}}";
    host.docker(["network", "inspect", "-f", template, "bridge"]).ok()
}

#[test]
fn udp_is_published_too() {
    let host = Host::with_busybox();
    let args = ["run", "-d", "--name", "udp", "--stop-timeout", "0", "-p", "9:9/udp"];
    host.docker(args.into_iter().chain(["busybox", "sleep", "1000"])).ok();
    // The container's process id counts in the host's namespace, so look through its /proc.
    let pid = host.inspect("udp", "{{.State.Pid}}");
    let inside = format!("/proc/{}/root/proc/{pid}/ns/net", host.init());
    let server = in_network_at(inside.as_ref(), || UdpSocket::bind("0.0.0.0:9")).unwrap();
    let client = in_network(host.init(), || UdpSocket::bind("127.0.0.1:0")).unwrap();
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(wharf_test::PATIENCE)).unwrap();
    }
    client.send_to(b"ping", "127.0.0.1:9").unwrap();
    let mut buffer = [0; 16];
    let (n, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..n], b"ping");
    server.send_to(b"pong", from).unwrap();
    let (n, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..n], from), (&b"pong"[..], "127.0.0.1:9".parse().unwrap()));
}

#[test]
fn who_uses_the_hosts_network_knows_its_names() {
    let host = Host::with_busybox();
    let run = ["run", "--rm", "--network", "host", "--add-host", "more:10.9.8.7", "busybox"];
    let hosts = host.docker(run.iter().chain(&["cat", "/etc/hosts"])).ok();
    let own = std::fs::read_to_string("/etc/hosts").unwrap();
    assert!(hosts.starts_with(own.trim_end()), "{hosts}");
    assert!(hosts.contains("10.9.8.7\tmore"), "{hosts}");
}
