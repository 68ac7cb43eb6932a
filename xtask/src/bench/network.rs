//! A published port over loopback: bytes, requests, new connections; beside no container at all, and beside a bridge
//! without any rules, which is the least that a container on a bridge costs.

use super::lab::{Lab, must};
use super::table::{Aim, Row};
use super::timing::median;
use anyhow::{Context, Result};
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use wharf_test::image::{Image, Tar};
use wharf_test::namespace::in_network;
use wharf_test::{Host, eventually};

/// Connections that ask at the same time.
const CLIENTS: usize = 32;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";

/// One server, as its users find it.
#[derive(Default)]
struct Figures {
    gigabits: Vec<f64>,
    requests: Vec<f64>,
    p99: Vec<f64>,
    connections: Vec<f64>,
}

/// Where a server is reached: from the network of a process, at an address, on two ports.
struct Place {
    init: u32,
    address: Ipv4Addr,
    pages: u16,
    bytes: u16,
}

pub(crate) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let program = fs::read(std::env::current_exe()?).context("read this program")?;
    let mut tar = Tar::default();
    tar.file("serve", 0o755, &program);
    let image =
        Image::new("serve:latest", tar.finish(), &json!({"Cmd": ["/serve", "bench-serve"]}));
    for host in [&lab.wharf, &lab.docker] {
        host.load(&image);
        host.docker(["run", "-d", "--name", "serve", "-p", "8080:80", "-p", "8081:81", "serve"])
            .ok();
    }
    let bare = Bare::start(&lab.wharf)?;
    let floor = Floor::start(&program)?;
    let places = [
        Place::new(&lab.wharf, Ipv4Addr::LOCALHOST, [8080, 8081]),
        Place::new(&lab.docker, Ipv4Addr::LOCALHOST, [8080, 8081]),
        Place::new(&lab.wharf, Ipv4Addr::LOCALHOST, [80, 81]),
        Place::new(&floor.host, FLOOR, [80, 81]),
    ];
    let mut figures: [Figures; 4] = Default::default();
    for _ in 0..if lab.quick { 3 } else { 5 } {
        for (place, figures) in places.iter().zip(&mut figures) {
            place.measure(figures);
        }
    }
    drop((bare, floor));
    for host in [&lab.wharf, &lab.docker] {
        host.docker(["rm", "-f", "serve"]).ok();
    }
    Ok(rows(figures))
}

fn rows(figures: [Figures; 4]) -> Vec<Row> {
    let row = |what: &str, unit, part: fn(&Figures) -> &Vec<f64>, aim| {
        let [wharf, docker, none, floor] = [0, 1, 2, 3].map(|n| median(part(&figures[n]).clone()));
        Row::new(format!("published port over loopback: {what}"), unit, wharf)
            .peer(NONE, Some(none))
            .peer("a bridge without rules", Some(floor))
            .peer("docker", Some(docker))
            .aim(aim)
            .because(BRIDGE)
    };
    let least = Aim::AtLeast(0.9, NONE);
    vec![
        row("one stream", "Gbit/s", |f| &f.gigabits, least),
        row("requests on 32 connections", "/s", |f| &f.requests, least),
        row("their 99th percentile", "ms", |f| &f.p99, Aim::AtMost(1.0 / 0.9, NONE)),
        row("new connections", "/s", |f| &f.connections, least),
    ]
}

const NONE: &str = "no container";

/// What keeps a container on a bridge from the speed of no container.
const BRIDGE: &str = "What crosses a bridge in packets of 1500 bytes takes the processor half again as long as what \
                      stays on the loopback interface, whose packets are of 64 KiB, also without a single rule: \
                      see the bridge without rules. Translation and filters add nothing that can be measured.";

impl Place {
    fn new(from: &Host, address: Ipv4Addr, [pages, bytes]: [u16; 2]) -> Place {
        Place { init: from.init(), address, pages, bytes }
    }

    fn measure(&self, figures: &mut Figures) {
        let (requests, p99) = self.requests(Duration::from_secs(2));
        figures.requests.push(requests);
        figures.p99.push(p99);
        figures.gigabits.push(self.gigabits(Duration::from_secs(1)));
        figures.connections.push(self.connections(Duration::from_secs(1)));
    }

    /// A connection to `port`, made in the client's network.
    fn connect(&self, port: u16) -> TcpStream {
        in_network(self.init, || self.connect_here(port))
    }

    fn connect_here(&self, port: u16) -> TcpStream {
        let stream = TcpStream::connect((self.address, port)).expect("connect to the server");
        stream.set_nodelay(true).expect("set an option");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set an option");
        stream
    }

    fn gigabits(&self, time: Duration) -> f64 {
        let mut stream = self.connect(self.bytes);
        let mut buffer = vec![0; 1 << 20];
        let (begin, mut bytes) = (Instant::now(), 0);
        while begin.elapsed() < time {
            bytes += stream.read(&mut buffer).expect("read from the server");
        }
        bytes as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e9
    }

    /// Requests a second, and the milliseconds within which 99 of 100 are answered.
    fn requests(&self, time: Duration) -> (f64, f64) {
        let streams: Vec<TcpStream> = (0..CLIENTS).map(|_| self.connect(self.pages)).collect();
        let begin = Instant::now();
        let ask_all = |mut stream: TcpStream| {
            let mut times = Vec::new();
            while begin.elapsed() < time {
                let asked = Instant::now();
                ask(&mut stream);
                times.push(asked.elapsed().as_secs_f64() * 1e3);
            }
            times
        };
        let mut times: Vec<f64> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                streams.into_iter().map(|stream| scope.spawn(move || ask_all(stream))).collect();
            let results = threads.into_iter().map(|thread| thread.join().expect("a client works"));
            results.flatten().collect()
        });
        let took = begin.elapsed().as_secs_f64();
        times.sort_by(f64::total_cmp);
        let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN);
        (times.len() as f64 / took, p99)
    }

    /// Connections a second, each with one request.
    fn connections(&self, time: Duration) -> f64 {
        let count = std::sync::atomic::AtomicUsize::new(0);
        let begin = Instant::now();
        in_network(self.init, || {
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    // A thread that this one starts stays in its network.
                    scope.spawn(|| {
                        while begin.elapsed() < time {
                            ask(&mut self.connect_here(self.pages));
                            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                    });
                }
            });
        });
        count.into_inner() as f64 / begin.elapsed().as_secs_f64()
    }
}

/// One request and its whole answer.
fn ask(stream: &mut TcpStream) {
    stream.write_all(REQUEST).expect("ask the server");
    let mut buffer = [0; 4096];
    let mut read = 0;
    // The answer ends with the 100 bytes of the page, whose last is a 9.
    while read == 0 || buffer[read - 1] != b'9' {
        match stream.read(&mut buffer[read..]).expect("an answer") {
            0 => panic!("the server closed"),
            n => read += n,
        }
    }
}

/// The server on the host itself.
struct Bare(Child);

impl Bare {
    fn start(host: &Host) -> Result<Bare> {
        let mut c = host.enter(std::env::current_exe()?);
        let child =
            c.arg("bench-serve").stdin(Stdio::null()).spawn().context("start the server")?;
        let bare = Bare(child);
        eventually("the server listens", || host.connect("127.0.0.1:80").ok().map(drop));
        Ok(bare)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // The server is nsenter's child and ends with the host; its waiter goes now.
        self.0.kill().expect("kill an own child");
        self.0.wait().expect("wait for an own child");
    }
}

/// Where the server behind the bridge without rules is.
const FLOOR: Ipv4Addr = Ipv4Addr::new(10, 231, 0, 2);

/// A bridge, and a cable from it into a namespace of its own.
const CABLE: &str = "set -e; mkdir -p /var/run; ip netns add box
ip link add br0 type bridge; ip addr add 10.231.0.1/24 dev br0; ip link set br0 up
ip link add v0 master br0 type veth peer name eth0 netns box; ip link set v0 up
ip -n box addr add 10.231.0.2/24 dev eth0; ip -n box link set eth0 up";

/// The server behind a bridge that nobody has set any rules for, on a host of its own.
struct Floor {
    host: Host,
    server: Child,
}

impl Floor {
    fn start(program: &[u8]) -> Result<Floor> {
        let host = Host::peers();
        must(host.enter("sh").args(["-c", CABLE]));
        let program = host.write("floor/serve", program);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let mut c = host.enter("ip");
        c.args(["netns", "exec", "box"]).arg(program).arg("bench-serve");
        let server = c.stdin(Stdio::null()).spawn().context("start the server")?;
        let place = Floor { host, server };
        eventually("the server listens", || place.host.connect("10.231.0.2:80").ok().map(drop));
        Ok(place)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // As with the server on the host: what is left of it ends with the host.
        self.server.kill().expect("kill an own child");
        self.server.wait().expect("wait for an own child");
    }
}
