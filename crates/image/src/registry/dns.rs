//! Name resolution without the C library: /etc/hosts, then the servers of /etc/resolv.conf.
//!
//! A static binary cannot call getaddrinfo: it would load NSS plug-ins of another C library. Files are read at
//! each lookup, so a change counts at once.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const DNS_PORT: u16 = 53;

/// What /etc/resolv.conf says, bounded as resolv.conf(5) bounds it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Config {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: usize,
}

/// The addresses of `host`, IPv4 first: more registries are reachable by it.
pub(super) async fn resolve(host: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let listed = in_hosts(&hosts, host);
    if !listed.is_empty() {
        return Ok(listed);
    }
    if host == "localhost" || host.ends_with(".localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let config = Config::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    lookup(host, &config).await
}

async fn lookup(host: &str, config: &Config) -> io::Result<Vec<IpAddr>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("no such host: {host}"));
    for name in candidates(host, config) {
        let (v4, v6) = tokio::join!(query(&name, TYPE_A, config), query(&name, TYPE_AAAA, config));
        let mut found = Vec::new();
        for answer in [v4, v6] {
            match answer {
                Ok(addresses) => found.extend(addresses),
                Err(error) if error.kind() != io::ErrorKind::NotFound => last = error,
                Err(_) => {}
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(last)
}

/// The names to ask for, in order: with enough dots as it is first, otherwise with the search domains first.
fn candidates(host: &str, config: &Config) -> Vec<String> {
    if let Some(absolute) = host.strip_suffix('.') {
        return vec![absolute.to_owned()];
    }
    let searched = config.search.iter().map(|domain| format!("{host}.{domain}"));
    if host.matches('.').count() >= config.ndots {
        return std::iter::once(host.to_owned()).chain(searched).collect();
    }
    searched.chain(std::iter::once(host.to_owned())).collect()
}

/// Asks the servers in turn; an answer of "no such name" is an answer.
async fn query(name: &str, kind: u16, config: &Config) -> io::Result<Vec<IpAddr>> {
    let mut last = io::Error::new(io::ErrorKind::TimedOut, "no name server answered");
    for _ in 0..config.attempts {
        for server in &config.servers {
            match timeout(config.timeout, ask(name, kind, *server)).await {
                Ok(Ok(answer)) => return answer.result(name),
                Ok(Err(error)) => last = error,
                Err(_) => {
                    let text = format!("name server {server} did not answer");
                    last = io::Error::new(io::ErrorKind::TimedOut, text);
                }
            }
        }
    }
    Err(last)
}

async fn ask(name: &str, kind: u16, server: SocketAddr) -> io::Result<Answer> {
    let id = query_id();
    let question = encode(name, kind, id)?;
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    // Connected: the kernel drops what others send.
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let n = socket.recv(&mut buffer).await?;
        match decode(&buffer[..n], &question) {
            Some(answer) if answer.truncated => return ask_tcp(&question, server).await,
            Some(answer) if answer.code == 2 || answer.code == 5 => {
                return Err(io::Error::other(format!("name server {server} refused")));
            }
            Some(answer) => return Ok(answer),
            // Not for us: a late or forged packet.
            None => {}
        }
    }
}

async fn ask_tcp(question: &[u8], server: SocketAddr) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).unwrap_or(u16::MAX);
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(question).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await?;
    decode(&buffer, question).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Unpredictable, so that answers are hard to forge.
fn query_id() -> u16 {
    use std::hash::{BuildHasher as _, RandomState};
    let hash = RandomState::new().hash_one(0_u8).to_ne_bytes();
    u16::from_ne_bytes([hash[0], hash[1]])
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    code: u8,
    truncated: bool,
    addresses: Vec<IpAddr>,
}

impl Answer {
    fn result(self, name: &str) -> io::Result<Vec<IpAddr>> {
        if self.addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no such host: {name}")));
        }
        Ok(self.addresses)
    }
}

fn encode(name: &str, kind: u16, id: u16) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&id.to_be_bytes());
    // Recursion desired; one question.
    out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n));
        out.push(length.ok_or(io::ErrorKind::InvalidInput)?);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    if out.len() > 12 + 255 + 4 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(out)
}

/// Reads an answer to `question`; `None` if it is none.
fn decode(packet: &[u8], question: &[u8]) -> Option<Answer> {
    if packet.len() < 12 || packet[..2] != question[..2] || packet[2] & 0x80 == 0 {
        return None;
    }
    let asked = &question[12..];
    let echoed = packet.get(12..12 + asked.len())?;
    if !echoed.eq_ignore_ascii_case(asked) {
        return None;
    }
    let count = u16::from_be_bytes([packet[6], packet[7]]);
    let mut answer =
        Answer { code: packet[3] & 0xf, truncated: packet[2] & 2 != 0, addresses: Vec::new() };
    let wanted = &asked[asked.len() - 4..asked.len() - 2];
    let mut at = 12 + asked.len();
    for _ in 0..count {
        at = skip_name(packet, at)?;
        let head = packet.get(at..at + 10)?;
        let length = usize::from(u16::from_be_bytes([head[8], head[9]]));
        let data = packet.get(at + 10..at + 10 + length)?;
        // Aliases come along with the addresses they lead to; only the addresses matter.
        if &head[..2] == wanted {
            if let Ok(v4) = <[u8; 4]>::try_from(data) {
                answer.addresses.push(v4.into());
            } else if let Ok(v6) = <[u8; 16]>::try_from(data) {
                answer.addresses.push(v6.into());
            }
        }
        at += 10 + length;
    }
    Some(answer)
}

/// The position after a name: labels up to a zero or a pointer.
fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

impl Config {
    fn parse(text: &str) -> Self {
        let mut config = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().map(|a| a.split('%').next().unwrap_or(a));
                    if let Some(address) = address.and_then(|a| a.parse::<IpAddr>().ok()) {
                        config.servers.push((address, DNS_PORT).into());
                    }
                }
                Some("search" | "domain") => {
                    config.search = words
                        .map(|d| d.trim_matches('.').to_owned())
                        .filter(|d| !d.is_empty())
                        .collect();
                }
                Some("options") => words.for_each(|option| config.option(option)),
                _ => {}
            }
        }
        if config.servers.is_empty() {
            config.servers.push((Ipv4Addr::LOCALHOST, DNS_PORT).into());
        }
        config.servers.truncate(3);
        config.search.truncate(6);
        config
    }

    fn option(&mut self, option: &str) {
        let Some((key, value)) = option.split_once(':') else { return };
        let Ok(value) = value.parse::<u64>() else { return };
        match key {
            "ndots" => self.ndots = usize::try_from(value.min(15)).unwrap_or(15),
            "timeout" => self.timeout = Duration::from_secs(value.clamp(1, 30)),
            "attempts" => self.attempts = usize::try_from(value.clamp(1, 5)).unwrap_or(5),
            _ => {}
        }
    }
}

fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else { continue };
        if words.any(|name| name.eq_ignore_ascii_case(host)) {
            found.push(address);
        }
    }
    found.sort_by_key(IpAddr::is_ipv6);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(server: SocketAddr) -> Config {
        let mut config = Config::parse("search a.example b.example\noptions ndots:2 attempts:2");
        config.servers = vec![server];
        config.timeout = Duration::from_millis(300);
        config
    }

    #[test]
    fn the_files_are_read_as_the_manual_says() {
        let parsed = Config::parse(
            "# x\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nsearch x. y\noptions timeout:99 ndots:3 rotate\n",
        );
        assert_eq!(parsed.servers.len(), 2);
        assert_eq!(
            (parsed.search.as_slice(), parsed.ndots),
            (&["x".to_owned(), "y".to_owned()][..], 3)
        );
        assert_eq!(parsed.timeout, Duration::from_secs(30));
        assert_eq!(Config::parse("").servers, ["127.0.0.1:53".parse().unwrap()]);
        let hosts = "127.0.0.1 localhost\n::1 reg # other\n10.1.1.1\treg REG2\nbad line\n";
        assert_eq!(
            in_hosts(hosts, "Reg"),
            ["10.1.1.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]
        );
    }

    #[test]
    fn search_domains_depend_on_dots() {
        let config = config("127.0.0.1:1".parse().unwrap());
        assert_eq!(candidates("reg", &config), ["reg.a.example", "reg.b.example", "reg"]);
        assert_eq!(candidates("r.e.g", &config)[0], "r.e.g");
        assert_eq!(candidates("reg.", &config), ["reg"]);
    }

    /// Answers A questions for `reg.b.example` with 10.9.8.7 after dropping the first packet.
    async fn server(socket: UdpSocket) {
        let mut buffer = [0; 512];
        let mut dropped = false;
        loop {
            let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
            if !std::mem::replace(&mut dropped, true) {
                continue;
            }
            let mut answer = buffer[..n].to_vec();
            answer[2] |= 0x80;
            let is_a = answer[n - 3] == 1;
            if is_a && answer[12..].starts_with(b"\x03reg\x01b") {
                answer[7] = 1;
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 9, 8, 7]);
            } else {
                answer[3] |= 3;
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_lost_packet_is_asked_again() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let config = config(socket.local_addr().unwrap());
        let serving = tokio::spawn(server(socket));
        let found = lookup("reg", &config).await.unwrap();
        assert_eq!(found, ["10.9.8.7".parse::<IpAddr>().unwrap()]);
        let error = lookup("nosuch", &config).await.unwrap_err();
        assert!(error.to_string().contains("no such host"), "{error}");
        serving.abort();
    }

    #[test]
    fn odd_packets_are_no_answers() {
        let question = encode("a.b", TYPE_A, 7).unwrap();
        for n in 0..question.len() {
            assert_eq!(decode(&question[..n], &question), None);
        }
        let mut answer = question.clone();
        answer[2] |= 0x80;
        answer[7] = 200;
        assert_eq!(decode(&answer, &question), None);
        assert!(encode(&"x".repeat(64), TYPE_A, 0).is_err());
        assert!(encode("a..b", TYPE_A, 0).is_err());
    }
}
