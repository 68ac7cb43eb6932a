//! The short form of a port: `[[IP:]HOST:]CONTAINER[/PROTOCOL]`, each port possibly a range.

use crate::compose::node::{Map, Node, Span, Value};

/// One published or exposed port.
#[derive(Debug, PartialEq, Eq)]
struct Port {
    ip: String,
    published: String,
    target: u16,
    protocol: String,
}

/// The long forms: a range becomes one for each port.
pub(super) fn long(spec: &str, span: Span) -> Result<Vec<Map>, String> {
    let text = |t: &str| Node::text(t, span);
    let ports = parse(spec)?;
    Ok(ports
        .into_iter()
        .map(|port| {
            let mut out = Map::new();
            out.insert("mode".into(), text("ingress"));
            out.insert("target".into(), Node::new(Value::Int(port.target.into()), span));
            out.insert("protocol".into(), text(&port.protocol));
            if !port.ip.is_empty() {
                out.insert("host_ip".into(), text(&port.ip));
            }
            if !port.published.is_empty() {
                out.insert("published".into(), text(&port.published));
            }
            out
        })
        .collect())
}

fn parse(spec: &str) -> Result<Vec<Port>, String> {
    let (rest, protocol) = match spec.split_once('/') {
        Some((rest, "")) => (rest, "tcp".to_owned()),
        Some((rest, protocol)) => (rest, protocol.to_lowercase()),
        None => (spec, "tcp".to_owned()),
    };
    let (ip, host, container) = sections(rest);
    if container.is_empty() {
        return Err(format!("no port specified: {spec}<empty>"));
    }
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    let ip = address(ip)?;
    let (first, last) = range(container).ok_or(format!("invalid containerPort: {container}"))?;
    let hosts = match host {
        "" => None,
        host => Some(range(host).ok_or(format!("invalid hostPort: {host}"))?),
    };
    if let Some((low, high)) = hosts
        && high - low != last - first
        && first != last
    {
        return Err(format!(
            "invalid ranges specified for container and host Ports: {container} and {host}"
        ));
    }
    let mut ports: Vec<Port> = (first..=last)
        .map(|target| {
            let published = match hosts {
                None => String::new(),
                // One port and a range: any of the range.
                Some((low, high)) if first == last && low != high => format!("{low}-{high}"),
                Some((low, _)) => (low + (target - first)).to_string(),
            };
            Port { ip: ip.clone(), published, target, protocol: protocol.clone() }
        })
        .collect();
    // The order of the texts, not of the numbers: so does the Compose that hashes were made with.
    ports.sort_by_key(|p| format!("{}/{}", p.target, p.protocol));
    Ok(ports)
}

fn sections(text: &str) -> (&str, &str, &str) {
    match text.rsplit_once(':') {
        None => ("", "", text),
        Some((rest, container)) => match rest.rsplit_once(':') {
            None => ("", rest, container),
            Some((ip, host)) => (ip, host, container),
        },
    }
}

fn address(ip: &str) -> Result<String, String> {
    let bare = ip.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(ip);
    match bare.is_empty() || bare.parse::<std::net::IpAddr>().is_ok() {
        true => Ok(bare.to_owned()),
        false => Err(format!("invalid IP address: {ip}")),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(spec: &str) -> Result<Vec<String>, String> {
        let shown = |p: &Port| format!("{}|{}|{}/{}", p.ip, p.published, p.target, p.protocol);
        parse(spec).map(|list| list.iter().map(shown).collect())
    }

    #[test]
    fn short_forms_are_read() {
        for (spec, expected) in [
            ("80", vec!["||80/tcp"]),
            ("8080:80", vec!["|8080|80/tcp"]),
            ("127.0.0.1:53:53/udp", vec!["127.0.0.1|53|53/udp"]),
            ("127.0.0.1::80", vec!["127.0.0.1||80/tcp"]),
            ("[::1]:80:80", vec!["::1|80|80/tcp"]),
            ("8000-8001:9000-9001", vec!["|8000|9000/tcp", "|8001|9001/tcp"]),
            ("8000-8010:80", vec!["|8000-8010|80/tcp"]),
            ("9-10:9-10", vec!["|10|10/tcp", "|9|9/tcp"]),
        ] {
            assert_eq!(shown(spec).unwrap(), expected, "{spec}");
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for spec in ["", "a:b", "70000", "80/icmp", "1.2.3:80:80", "1-3:1-2", "5-1"] {
            assert!(shown(spec).is_err(), "{spec}");
        }
    }
}
