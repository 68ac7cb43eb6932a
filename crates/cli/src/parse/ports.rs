//! `-p` and `--expose` in all their forms.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

/// What `-p` and `--expose` amount to: exposed ports and bindings, by `port/protocol`.
#[derive(Debug, Default, PartialEq)]
pub struct Ports {
    /// `ExposedPorts` of the container.
    pub exposed: Map<String, Value>,
    /// `PortBindings` of the host.
    pub bindings: Map<String, Value>,
}

/// Reads all publications, then all exposures.
pub fn parse(publish: &[String], expose: &[String]) -> Result<Ports, String> {
    let mut ports = Ports::default();
    for text in publish {
        ports.publish(&standard_form(text)?)?;
    }
    for text in expose {
        ports.expose(text)?;
    }
    Ok(ports)
}

/// `target=80,published=8080,protocol=tcp` as `8080:80/tcp`.
fn standard_form(text: &str) -> Result<String, String> {
    if !text.contains('=') {
        return Ok(text.to_owned());
    }
    let (mut published, mut target, mut protocol) = ("", "", "tcp");
    for param in text.split(',') {
        match param.split_once('=') {
            Some(("published", value)) => published = value,
            Some(("target", value)) => target = value,
            Some(("protocol", value)) => protocol = value,
            Some((key, _)) if !key.is_empty() => (),
            _ => {
                return Err(format!(
                    "invalid publish opts format (should be name=value but got '{param}')"
                ));
            }
        }
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

impl Ports {
    fn publish(&mut self, text: &str) -> Result<(), String> {
        let (ip, host, container) = split(text);
        let ip = bare_address(ip)?;
        let (container, protocol) = split_protocol(container);
        if container.is_empty() {
            return Err(format!("no port specified: {text}<empty>"));
        }
        let (first, last) =
            range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
        let (host_first, host_last) = match host {
            "" => (0, 0),
            host => range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?,
        };
        if !host.is_empty() && last - first != host_last - host_first && first != last {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            ));
        }
        let lower = protocol.to_ascii_lowercase();
        if !matches!(lower.as_str(), "tcp" | "udp" | "sctp") {
            return Err(format!("invalid proto: {protocol}"));
        }
        for port in first..=last {
            let name = format!("{port}/{lower}");
            let host_port = match host {
                "" => String::new(),
                _ if first == last && host_first != host_last => {
                    format!("{host_first}-{host_last}")
                }
                _ => (host_first + (port - first)).to_string(),
            };
            self.exposed.insert(name.clone(), json!({}));
            let binding = json!({"HostIp": ip, "HostPort": host_port});
            match self.bindings.entry(name).or_insert_with(|| json!([])) {
                Value::Array(list) => list.push(binding),
                other => *other = json!([binding]),
            }
        }
        Ok(())
    }

    fn expose(&mut self, text: &str) -> Result<(), String> {
        if text.contains(':') {
            return Err(format!("invalid port format for --expose: {text}"));
        }
        let (port, protocol) = split_protocol(text);
        let (first, last) = range(port).ok_or_else(|| {
            let why = match port {
                "" => "empty string specified for ports.".to_owned(),
                port => {
                    format!("strconv.ParseUint: parsing {}: invalid syntax", super::quote(port))
                }
            };
            format!("invalid range format for --expose: {text}, error: {why}")
        })?;
        for port in first..=last {
            self.exposed.entry(format!("{port}/{protocol}")).or_insert_with(|| json!({}));
        }
        Ok(())
    }
}

fn split(text: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = text.rsplit_once(':') else { return ("", "", text) };
    match rest.rsplit_once(':') {
        Some((ip, host)) => (ip, host, container),
        None => ("", rest, container),
    }
}

fn bare_address(ip: &str) -> Result<&str, String> {
    let bare = match ip.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(|| {
            format!("invalid IP address {ip}: address {ip}: missing ']' in address")
        })?,
        None => ip,
    };
    match bare.is_empty() || bare.parse::<IpAddr>().is_ok() {
        true => Ok(bare),
        false => Err(format!("invalid IP address: {bare}")),
    }
}

fn split_protocol(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((port, "")) | Some((port @ "", _)) => (port, "tcp"),
        Some((port, protocol)) => (port, protocol),
        None => (text, "tcp"),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    // Rust's parser allows a plus sign, Go's does not.
    let number = |s: &str| s.parse().ok().filter(|_| !s.starts_with('+'));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Ports, String> {
        parse(&[text.to_owned()], &[])
    }

    #[test]
    fn publications_become_bindings() {
        let check = |text: &str, want: Value| {
            assert_eq!(Value::from(one(text).unwrap().bindings), want, "{text}");
        };
        check("80", json!({"80/tcp": [{"HostIp": "", "HostPort": ""}]}));
        check("8080:80/udp", json!({"80/udp": [{"HostIp": "", "HostPort": "8080"}]}));
        check("127.0.0.1::80", json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}));
        check("[::1]:1:2", json!({"2/tcp": [{"HostIp": "::1", "HostPort": "1"}]}));
        check("8000-8010:80", json!({"80/tcp": [{"HostIp": "", "HostPort": "8000-8010"}]}));
        check(
            "1-2:3-4",
            json!({"3/tcp": [{"HostIp": "", "HostPort": "1"}], "4/tcp": [{"HostIp": "", "HostPort": "2"}]}),
        );
        check("target=80,published=81", json!({"80/tcp": [{"HostIp": "", "HostPort": "81"}]}));
    }

    #[test]
    fn mistakes_have_dockers_words() {
        let check = |text: &str, want: &str| assert_eq!(one(text).unwrap_err(), want, "{text}");
        check("x", "invalid containerPort: x");
        check("x:80", "invalid hostPort: x");
        check("1:", "no port specified: 1:<empty>");
        check("1.2.3:1:1", "invalid IP address: 1.2.3");
        check("80/zz", "invalid proto: zz");
        check("1-3:4-5", "invalid ranges specified for container and host Ports: 4-5 and 1-3");
        check("99999", "invalid containerPort: 99999");
    }

    #[test]
    fn exposures_add_ports_without_bindings() {
        let ports = parse(&[], &["80-81/udp".to_owned()]).unwrap();
        assert_eq!(ports.exposed.keys().collect::<Vec<_>>(), ["80/udp", "81/udp"]);
        assert!(ports.bindings.is_empty());
        assert!(parse(&[], &["1:2".to_owned()]).is_err());
    }
}
