//! Names of engines: addresses, /etc/hosts, then one question to the configured name servers.
//!
//! A static binary cannot use the C library's resolver, which loads plug-ins.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;

/// Every address of a name, in the order to try.
pub async fn lookup(host: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut found = in_hosts(&hosts, host);
    if found.is_empty() && host == "localhost" {
        found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    if found.is_empty() {
        let conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        for server in servers(&conf) {
            for kind in [Kind::A, Kind::Aaaa] {
                found.extend(ask(server, host, kind).await.unwrap_or_default());
            }
            if !found.is_empty() {
                break;
            }
        }
    }
    match found.is_empty() {
        true => Err(format!("lookup {host}: no such host")),
        false => Ok(found),
    }
}

fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(|l| l.split('#').next().unwrap_or_default());
    let words = lines.map(|l| l.split_whitespace().collect::<Vec<_>>());
    let named = |w: &Vec<&str>| w.iter().skip(1).any(|n| n.eq_ignore_ascii_case(host));
    words.filter(named).filter_map(|w| w[0].parse().ok()).collect()
}

fn servers(conf: &str) -> Vec<SocketAddr> {
    let mut list: Vec<SocketAddr> = conf
        .lines()
        .filter_map(|l| l.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .collect();
    if list.is_empty() {
        list.push((Ipv4Addr::LOCALHOST, 53).into());
    }
    list
}

#[derive(Clone, Copy)]
enum Kind {
    A = 1,
    Aaaa = 28,
}

/// How long a name server may take.
const PATIENCE: Duration = Duration::from_secs(3);

async fn ask(server: SocketAddr, host: &str, kind: Kind) -> std::io::Result<Vec<IpAddr>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    // Connected, so that only this server's answers are read.
    socket.connect(server).await?;
    let id = socket.local_addr()?.port().rotate_left(5) ^ 0x5a5a;
    socket.send(&question(id, host, kind)).await?;
    let mut answer = [0; 1500];
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await??;
    Ok(addresses(&answer[..length], id).unwrap_or_default())
}

fn question(id: u16, host: &str, kind: Kind) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in host.trim_end_matches('.').split('.') {
        let bytes = &label.as_bytes()[..label.len().min(63)];
        out.push(u8::try_from(bytes.len()).unwrap_or(63));
        out.extend_from_slice(bytes);
    }
    out.extend([0, 0, kind as u8, 0, 1]);
    out
}

/// The addresses in an answer; `None` when it is cut short or is not ours.
fn addresses(answer: &[u8], id: u16) -> Option<Vec<IpAddr>> {
    let short = |at: usize| Some(u16::from_be_bytes([*answer.get(at)?, *answer.get(at + 1)?]));
    if short(0)? != id || short(4)? != 1 {
        return None;
    }
    let mut at = skip_name(answer, 12)? + 4;
    let mut found = Vec::new();
    for _ in 0..short(6)? {
        at = skip_name(answer, at)?;
        let (kind, length) = (short(at)?, usize::from(short(at + 8)?));
        let data = answer.get(at + 10..at + 10 + length)?;
        match kind {
            1 => found.push(<[u8; 4]>::try_from(data).ok()?.into()),
            28 => found.push(<[u8; 16]>::try_from(data).ok()?.into()),
            _ => (),
        }
        at += 10 + length;
    }
    Some(found)
}

fn skip_name(answer: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *answer.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_files_are_read() {
        let text = "127.0.0.1 localhost # x\n::1 localhost\n10.0.0.1 a b\n";
        assert_eq!(in_hosts(text, "B"), [IpAddr::from([10, 0, 0, 1])]);
        assert_eq!(in_hosts(text, "localhost").len(), 2);
    }

    #[test]
    fn answers_are_read_and_rubbish_is_not() {
        let mut answer = question(7, "a.b", Kind::A);
        answer[2] = 0x81;
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4]);
        assert_eq!(addresses(&answer, 7).unwrap(), [IpAddr::from([1, 2, 3, 4])]);
        assert_eq!(addresses(&answer, 8), None);
        for cut in 0..answer.len() {
            assert!(addresses(&answer[..cut], 7).is_none_or(|a| a.is_empty()));
        }
    }
}
