//! `--network NAME` and `--network name=…,alias=…,ip=…`.

use serde_json::{Map, Value};

/// One attachment as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// The network's name or id, or a mode such as `host`.
    pub target: String,
    /// Names for the container on that network.
    pub aliases: Vec<String>,
    /// Options for the driver.
    pub driver_opts: Map<String, Value>,
    /// Links to other containers.
    pub links: Vec<String>,
    /// A fixed IPv4 address.
    pub ip: String,
    /// A fixed IPv6 address.
    pub ip6: String,
    /// Link-local addresses.
    pub link_local: Vec<String>,
    /// A fixed hardware address.
    pub mac: String,
    /// Which network gives the default route.
    pub gateway_priority: i64,
}

/// Reads either form.
pub fn parse(text: &str) -> Result<Attachment, String> {
    let mut attachment = Attachment::default();
    if !is_long(text) {
        text.clone_into(&mut attachment.target);
        return Ok(attachment);
    }
    for field in super::csv(text)? {
        let lower = field.to_lowercase();
        let Some((key, value)) = lower.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(format!("invalid field {field}"));
        };
        attachment.set(key.trim(), value.trim())?;
    }
    match attachment.target.is_empty() {
        true => Err("network name/id is not specified".to_owned()),
        false => Ok(attachment),
    }
}

/// docker's test: a word, `=`, a word, anywhere.
fn is_long(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices('=').any(|(at, _)| {
        text[..at].chars().next_back().is_some_and(word)
            && text[at + 1..].chars().next().is_some_and(word)
    })
}

impl Attachment {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "name" => value.clone_into(&mut self.target),
            "alias" => self.aliases.push(value.to_owned()),
            "ip" => value.clone_into(&mut self.ip),
            "ip6" => value.clone_into(&mut self.ip6),
            "mac-address" => value.clone_into(&mut self.mac),
            "link-local-ip" => self.link_local.push(value.to_owned()),
            "driver-opt" => {
                let (key, value) = value
                    .split_once('=')
                    .filter(|(key, _)| !key.is_empty())
                    .ok_or("invalid key value pair format in driver options")?;
                self.driver_opts.insert(key.trim().to_owned(), value.trim().into());
            }
            "gw-priority" => {
                self.gateway_priority = value
                    .parse()
                    .map_err(|_| format!("invalid gw-priority ({value}): invalid syntax"))?;
            }
            _ => return Err(format!("invalid field key {key}")),
        }
        Ok(())
    }

    /// Whether it names a network that a user made, rather than a mode.
    pub fn is_user_defined(&self) -> bool {
        is_user_defined(&self.target)
    }

    /// The endpoint as the API takes it; every field, as docker sends it.
    pub fn endpoint(&self) -> Result<Value, String> {
        if self.target.trim().is_empty() {
            return Err("no name set for network".to_owned());
        }
        if !self.is_user_defined() {
            if !self.aliases.is_empty() {
                return Err(
                    "network-scoped aliases are only supported for user-defined networks".into()
                );
            }
            if !self.links.is_empty() {
                return Err("links are only supported for user-defined networks".into());
            }
        }
        if !self.mac.is_empty() && !is_mac(&self.mac) {
            return Err(format!("{} is not a valid mac address", self.mac));
        }
        let list = |v: &[String]| if v.is_empty() { Value::Null } else { v.into() };
        let ipam = match self.ip.is_empty() && self.ip6.is_empty() && self.link_local.is_empty() {
            true => Value::Null,
            false => self.ipam(),
        };
        let options = match self.driver_opts.is_empty() {
            true => Value::Null,
            false => self.driver_opts.clone().into(),
        };
        Ok(serde_json::json!({
            "IPAMConfig": ipam, "Links": list(&self.links), "Aliases": list(&self.aliases),
            "MacAddress": self.mac, "DriverOpts": options, "GwPriority": self.gateway_priority,
            "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0,
            "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": null,
        }))
    }

    fn ipam(&self) -> Value {
        let mut ipam = Map::new();
        for (name, value) in [("IPv4Address", &self.ip), ("IPv6Address", &self.ip6)] {
            if !value.is_empty() {
                ipam.insert(name.to_owned(), value.as_str().into());
            }
        }
        if !self.link_local.is_empty() {
            ipam.insert("LinkLocalIPs".to_owned(), self.link_local.clone().into());
        }
        ipam.into()
    }

    /// Whether nothing but the name was given.
    pub fn is_plain(&self) -> bool {
        *self == Self { target: self.target.clone(), ..Self::default() }
    }
}

/// Whether a network mode names a network that a user made.
pub fn is_user_defined(mode: &str) -> bool {
    !matches!(mode, "default" | "bridge" | "host" | "none") && !mode.starts_with("container:")
}

/// Six, eight or twenty bytes in hexadecimal.
pub fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.trim().split([':', '-']).collect();
    matches!(parts.len(), 6 | 8 | 20)
        && parts.iter().all(|p| p.len() == 2 && p.chars().all(|c| c.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        assert_eq!(parse("host").unwrap().target, "host");
        assert_eq!(parse("container:abc").unwrap().target, "container:abc");
        let long = parse("name=net,alias=a,alias=b,ip=10.0.0.2,driver-opt=k=v").unwrap();
        assert_eq!((long.target.as_str(), long.aliases.len()), ("net", 2));
        assert_eq!(long.endpoint().unwrap()["IPAMConfig"]["IPv4Address"], "10.0.0.2");
        assert_eq!(parse("name=a,x=y").unwrap_err(), "invalid field key x");
        assert_eq!(parse("alias=y").unwrap_err(), "network name/id is not specified");
    }

    #[test]
    fn aliases_need_a_network_of_ones_own() {
        let bridge = Attachment { aliases: vec!["a".into()], ..parse("bridge").unwrap() };
        assert!(bridge.endpoint().unwrap_err().contains("only supported for user-defined"));
    }

    #[test]
    fn hardware_addresses_are_checked() {
        assert!(is_mac("92:d0:c6:0a:29:33"));
        assert!(!is_mac("92:d0:c6:0a:29"));
        assert!(!is_mac("92:d0:c6:0a:29:zz"));
    }
}
