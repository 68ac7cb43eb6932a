//! Networks and names: making a network, joining it, asking for a neighbour; wharf beside docker.

use super::lab::Lab;
use super::table::{Aim, Row};
use super::timing::{Contender, median, milliseconds, of, race};
use anyhow::Result;
use std::cell::Cell;
use std::net::UdpSocket;
use std::time::Duration;
use wharf_test::Host;
use wharf_test::namespace::in_network_at;

pub(crate) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let hosts = [("wharf", &lab.wharf), ("docker", &lab.docker)];
    for (_, host) in hosts {
        host.docker(["network", "create", "names"]).ok();
        for name in ["joiner", "asked"] {
            let args = ["run", "-d", "--stop-timeout", "0", "--network", "names", "--name", name];
            host.docker(args.iter().chain(&["busybox", "sleep", "1000"])).ok();
        }
    }
    let race_of = |work: fn(&Host, usize)| {
        let count = Cell::new(0);
        let contenders = hosts.map(|(who, host)| {
            let count = &count;
            Contender::new(who, move || {
                count.set(count.get() + 1);
                work(host, count.get());
            })
        });
        race(lab.rounds(20), &contenders)
    };
    let mut rows = vec![
        row("network: create and remove, over the API", &race_of(create)),
        row("network: a running container joins and leaves", &race_of(join)),
    ];
    let asked = hosts.map(|(who, host)| (who, ask(host, lab.rounds(2000))));
    let floor = echo(&lab.wharf, lab.rounds(2000));
    let names = row("names: one question about a neighbour", &asked);
    rows.push(names.peer("a datagram there and back", Some(floor)).because(DATAGRAM));
    for (_, host) in hosts {
        host.docker(["rm", "-f", "joiner", "asked"]).ok();
        host.docker(["network", "rm", "names"]).ok();
    }
    Ok(rows)
}

fn row(what: &str, results: &[(&'static str, f64)]) -> Row {
    let wharf = of(results, "wharf").unwrap_or(f64::NAN);
    Row::new(what, "ms", wharf)
        .peer("docker", of(results, "docker"))
        .aim(Aim::AtMost(0.2, "docker"))
}

fn must(host: &Host, method: &str, target: &str, body: &str) {
    let answer = host.api(method, target, body.as_bytes()).expect("the engine answers");
    assert!(answer.status < 300, "{method} {target}: {}", answer.text());
}

fn create(host: &Host, n: usize) {
    let name = format!("bench{n}");
    must(host, "POST", "/networks/create", &format!("{{\"Name\":\"{name}\"}}"));
    must(host, "DELETE", &format!("/networks/{name}"), "");
}

fn join(host: &Host, _: usize) {
    let body = "{\"Container\":\"joiner\"}";
    must(host, "POST", "/networks/bridge/connect", body);
    must(host, "POST", "/networks/bridge/disconnect", body);
}

/// What an answer consists of, for the most part.
const DATAGRAM: &str = "Two wake-ups and two datagrams are the most of it: a program that sends back what it gets, in \
                        the same namespace, is the other peer.";

/// Median milliseconds of a question about a container, asked inside another.
fn ask(host: &Host, questions: usize) -> f64 {
    let socket = in_joiner(host, || UdpSocket::bind("0.0.0.0:0").expect("a socket"));
    socket.connect("127.0.0.11:53").expect("a resolver");
    there_and_back(&socket, questions, |answer| assert_eq!(answer[7], 1, "one address"))
}

/// The same with somebody who only sends the question back.
fn echo(host: &Host, questions: usize) -> f64 {
    let bind = || UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let (socket, other) = in_joiner(host, || (bind(), bind()));
    socket.connect(other.local_addr().expect("an address")).expect("connect");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut question = [0; 512];
            loop {
                match other.recv_from(&mut question).expect("a question") {
                    // The end.
                    (0, _) => break,
                    (len, from) => other.send_to(&question[..len], from).expect("answer"),
                };
            }
        });
        let median = there_and_back(&socket, questions, |_| ());
        socket.send(&[]).expect("say that this is the end");
        median
    })
}

/// Runs `work` in the network of the container that asks.
fn in_joiner<T: Send>(host: &Host, work: impl FnOnce() -> T + Send) -> T {
    let pid = host.inspect("joiner", "{{.State.Pid}}");
    let inside = format!("/proc/{}/root/proc/{pid}/ns/net", host.init());
    in_network_at(inside.as_ref(), work)
}

fn there_and_back(socket: &UdpSocket, questions: usize, check: impl Fn(&[u8])) -> f64 {
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("set an option");
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05asked\0\0\x01\0\x01";
    let mut reply = [0; 512];
    let times = (0..questions).map(|_| {
        milliseconds(|| {
            socket.send(question).expect("ask");
            let len = socket.recv(&mut reply).expect("an answer");
            check(&reply[..len]);
        })
    });
    median(times.collect())
}
