//! `network create`, `ls`, `rm`, `connect`, `disconnect`, and wharf's own `attach` and `detach`.

use serde_json::{Map, Value, json};

use super::{Outcome, items, joined_labels, list_format, text};
use crate::api::{Payload, filters, segment, url};
use crate::app::{Call, say_line, warn};
use crate::failure::Failure;
use crate::out::{Report, Row, short_id};
use crate::parse::{self, files, time};

const HEADERS: &[(&str, &str)] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

/// `network ls`
pub async fn ls(call: Call) -> Outcome {
    let given = &call.given;
    let path = url("/networks", &[("filters", &filters(given.all("filter")))]);
    let found = call.client()?.get(&path).await?;
    let format = match list_format(&call, "networksFormat").as_str() {
        "table" if given.on("quiet") => "{{.ID}}".to_owned(),
        "table" => "table {{.ID}}\\t{{.Name}}\\t{{.Driver}}\\t{{.Scope}}".to_owned(),
        "raw" if given.on("quiet") => "network_id: {{.ID}}".to_owned(),
        "raw" => {
            "network_id: {{.ID}}\\nname: {{.Name}}\\ndriver: {{.Driver}}\\nscope: {{.Scope}}\\n"
                .to_owned()
        }
        format => format.to_owned(),
    };
    let trunc = !given.on("no-trunc");
    let mut list: Vec<&Value> = items(&found).iter().collect();
    list.sort_by(|a, b| super::volume::natural(text(a, "Name"), text(b, "Name")));
    let rows: Vec<Row> = list.into_iter().map(|n| row(n, trunc)).collect();
    Report { format, headers: HEADERS, kind: "*network.networkContext" }.print(&rows)
}

fn row(network: &Value, trunc: bool) -> Row {
    let id = text(network, "Id");
    let bit = |name: &str| network[name].as_bool().unwrap_or(false).to_string();
    let created = text(network, "Created").parse().map_or_else(|_| String::new(), time::go_string);
    Row::new(vec![
        ("ID", if trunc { short_id(id) } else { id.to_owned() }.into()),
        ("Name", text(network, "Name").into()),
        ("Driver", text(network, "Driver").into()),
        ("Scope", text(network, "Scope").into()),
        ("IPv4", bit("EnableIPv4").into()),
        ("IPv6", bit("EnableIPv6").into()),
        ("Internal", bit("Internal").into()),
        ("Labels", joined_labels(&network["Labels"]).into()),
        ("CreatedAt", created.into()),
    ])
    .labels(&network["Labels"])
}

/// `network create NETWORK`
pub async fn create(call: Call) -> Outcome {
    let given = &call.given;
    let labels = files::read(&[], given.all("label"), |_| None)?;
    let from = given.text("config-from");
    let mut body = json!({
        "Name": call.args()[0],
        "Driver": given.last("driver").unwrap_or("bridge"),
        "Scope": given.text("scope"),
        "IPAM": {
            "Driver": given.last("ipam-driver").unwrap_or("default"),
            "Options": parse::pairs(given.all("ipam-opt")),
            "Config": ipam(&call)?,
        },
        "Internal": given.on("internal"),
        "Attachable": given.on("attachable"),
        "Ingress": given.on("ingress"),
        "ConfigOnly": given.on("config-only"),
        "ConfigFrom": if from.is_empty() { Value::Null } else { json!({"Network": from}) },
        "Options": parse::pairs(given.all("opt")),
        "Labels": parse::pairs(&labels),
    });
    for (flag, name) in [("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")] {
        if given.changed(flag) {
            body[name] = given.on(flag).into();
        }
    }
    let made = call.client()?.post("/networks/create", Payload::Json(body)).await?;
    if !text(&made, "Warning").is_empty() {
        warn(format!("WARNING: {}", text(&made, "Warning")));
    }
    say_line(text(&made, "Id"))
}

/// One entry for each subnet, with the range, gateway and other addresses that lie in it.
fn ipam(call: &Call) -> Result<Vec<Value>, Failure> {
    let given = &call.given;
    let subnets = given.all("subnet");
    let (ranges, gateways) = (given.all("ip-range"), given.all("gateway"));
    if subnets.len() < ranges.len() || subnets.len() < gateways.len() {
        return Err("every ip-range or gateway must have a corresponding subnet".into());
    }
    let mut entries: Vec<(Subnet, Map<String, Value>)> = Vec::new();
    for text in subnets {
        let subnet = Subnet::parse(text)
            .ok_or_else(|| Failure::new(format!("invalid CIDR address: {text}")))?;
        if entries.iter().any(|(other, _)| other.overlaps(subnet)) {
            return Err("multiple overlapping subnet configuration is not supported".into());
        }
        entries.push((subnet, Map::from_iter([("Subnet".to_owned(), text.as_str().into())])));
    }
    let mut put = |address: &str, what: &str, set: &dyn Fn(&mut Map<String, Value>) -> Outcome| {
        let first = address.split('/').next().unwrap_or_default().parse().ok();
        let entry = entries.iter_mut().find(|(s, _)| first.is_some_and(|ip| s.contains(ip)));
        match entry {
            Some((_, entry)) => set(entry),
            None => Err(Failure::new(format!("no matching subnet for {what} {address}"))),
        }
    };
    let once = |name: &'static str, value: &str| {
        let value = Value::from(value);
        move |entry: &mut Map<String, Value>| match entry.insert(name.to_owned(), value.clone()) {
            None => Ok(()),
            Some(_) => Err(Failure::new(format!(
                "cannot configure multiple values of {name} on the same subnet"
            ))),
        }
    };
    for range in ranges {
        put(range, "range", &once("IPRange", range))?;
    }
    for gateway in gateways {
        put(gateway, "gateway", &once("Gateway", gateway))?;
    }
    for pair in given.all("aux-address") {
        let (name, address) = pair.split_once('=').unwrap_or((pair, ""));
        put(address, "aux-address", &|entry| {
            let aux = entry.entry("AuxiliaryAddresses").or_insert_with(|| json!({}));
            aux[name] = address.into();
            Ok(())
        })?;
    }
    Ok(entries.into_iter().map(|(_, entry)| entry.into()).collect())
}

/// A range of addresses, as numbers.
#[derive(Clone, Copy)]
struct Subnet {
    v6: bool,
    first: u128,
    mask: u128,
}

impl Subnet {
    fn parse(text: &str) -> Option<Self> {
        let (ip, length) = text.split_once('/')?;
        let ip: std::net::IpAddr = ip.parse().ok()?;
        let length: u32 = length.parse().ok()?;
        let bits: u32 = if ip.is_ipv6() { 128 } else { 32 };
        let host = bits.checked_sub(length)?;
        let mask = if host == 128 { 0 } else { u128::MAX << host };
        Some(Self { v6: ip.is_ipv6(), first: number(ip) & mask, mask })
    }

    fn contains(self, ip: std::net::IpAddr) -> bool {
        self.v6 == ip.is_ipv6() && number(ip) & self.mask == self.first
    }

    fn overlaps(self, other: Self) -> bool {
        let wider = self.mask & other.mask;
        self.v6 == other.v6 && self.first & wider == other.first & wider
    }
}

fn number(ip: std::net::IpAddr) -> u128 {
    match ip {
        std::net::IpAddr::V4(ip) => u128::from(u32::from(ip)),
        std::net::IpAddr::V6(ip) => u128::from(ip),
    }
}

/// `network rm NETWORK...`
pub async fn rm(call: Call) -> Outcome {
    let client = call.client()?;
    let force = call.given.on("force");
    let mut failed = false;
    for name in call.args() {
        match client.delete(&format!("/networks/{}", segment(name))).await {
            Ok(_) => say_line(name)?,
            Err(error) if force && error.is_not_found() => (),
            Err(error) => {
                warn(error.to_string());
                failed = true;
            }
        }
    }
    if failed { Err(Failure::silent(1)) } else { Ok(()) }
}

/// `network connect NETWORK CONTAINER`
pub async fn connect(call: Call) -> Outcome {
    let given = &call.given;
    let attachment = parse::network::Attachment {
        target: call.args()[0].clone(),
        aliases: given.all("alias").to_vec(),
        links: given.all("link").to_vec(),
        ip: given.text("ip").to_owned(),
        ip6: given.text("ip6").to_owned(),
        link_local: given.all("link-local-ip").to_vec(),
        driver_opts: parse::pairs(given.all("driver-opt")),
        mac: String::new(),
        gateway_priority: given.int_or("gw-priority", 0),
    };
    let body = json!({"Container": call.args()[1], "EndpointConfig": attachment.endpoint()?});
    let path = format!("/networks/{}/connect", segment(&call.args()[0]));
    call.client()?.post(&path, Payload::Json(body)).await?;
    Ok(())
}

/// `network disconnect NETWORK CONTAINER`
pub async fn disconnect(call: Call) -> Outcome {
    let body = json!({"Container": call.args()[1], "Force": call.given.on("force")});
    let path = format!("/networks/{}/disconnect", segment(&call.args()[0]));
    call.client()?.post(&path, Payload::Json(body)).await?;
    Ok(())
}

/// `network attach CONTAINER`
pub async fn attach(call: Call) -> Outcome {
    let body = interface(&call);
    let path = format!("/containers/{}/interfaces", segment(&call.args()[0]));
    let made = call.client()?.post(&path, Payload::Json(body)).await?;
    say_line(text(&made, "Name"))
}

fn interface(call: &Call) -> Value {
    let given = &call.given;
    let number = |flag: &str| given.last(flag).and_then(|n| n.parse::<u16>().ok()).unwrap_or(0);
    let (mut addresses, mut gateways) = (Vec::new(), given.all("gateway").to_vec());
    for ip in given.all("ip") {
        let (address, gateway) = ip.split_once('@').unwrap_or((ip, ""));
        addresses.push(address.to_owned());
        gateways.extend(Some(gateway.to_owned()).filter(|g| !g.is_empty()));
    }
    let route = |text: &String| {
        let (destination, via) = text.split_once('=').unwrap_or((text, ""));
        json!({"Destination": destination, "Via": via})
    };
    json!({
        "Bridge": given.text("bridge"),
        "Physical": given.text("interface"),
        "Parent": given.text("parent"),
        "Mode": given.text("mode"),
        "Name": given.text("ifname"),
        "MacAddress": given.text("mac-address"),
        "Mtu": number("mtu"),
        "Vlan": number("vlan"),
        "Addresses": addresses,
        "Gateways": gateways,
        "Routes": given.all("route").iter().map(route).collect::<Vec<_>>(),
    })
}

/// `network detach CONTAINER INTERFACE`
pub async fn detach(call: Call) -> Outcome {
    let path = format!("/containers/{}/interfaces", segment(&call.args()[0]));
    let path = url(&path, &[("name", &call.args()[1])]);
    call.client()?.delete(&path).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_know_what_lies_in_them() {
        let net = Subnet::parse("10.1.0.0/16").unwrap();
        assert!(net.contains("10.1.2.3".parse().unwrap()));
        assert!(!net.contains("10.2.2.3".parse().unwrap()));
        assert!(net.overlaps(Subnet::parse("10.1.5.0/24").unwrap()));
        assert!(!net.overlaps(Subnet::parse("fd00::/64").unwrap()));
        assert!(Subnet::parse("fd00::/129").is_none());
        assert!(Subnet::parse("0.0.0.0/0").unwrap().contains("1.1.1.1".parse().unwrap()));
    }
}
