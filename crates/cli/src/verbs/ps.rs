//! `ps`: the list of containers.

use serde_json::Value;

use super::{Outcome, ago, count, items, joined_labels, list_format, real, text};
use crate::api::{filters, url};
use crate::app::{Call, warn};
use crate::out::{Report, Row, ellipsis, short_id};
use crate::parse::{quote, reference, size, time};

/// The headers of container columns.
pub const HEADERS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

/// The Go type that messages about columns name.
pub const KIND: &str = "*formatter.ContainerContext";

const TABLE: &str = "table {{.ID}}\\t{{.Image}}\\t{{.Command}}\\t{{.RunningFor}}\\t{{.Status}}\\t{{.Ports}}\\t{{.Names}}";

/// `ps [OPTIONS]`
pub async fn ps(call: Call) -> Outcome {
    let given = &call.given;
    if given.on("quiet") && given.changed("format") {
        warn("WARNING: Ignoring custom format, because both --format and --quiet are set.");
    }
    let format = format_of(&call);
    // The whole row as JSON has the size in it, though docker's word `json` alone does not ask for it.
    let mentions_size = format == "{{json .}}"
        || wharf_template::Template::parse(&format).is_ok_and(|t| t.mentions("Size"));
    let latest = given.on("latest");
    let last = if latest { 1 } else { given.int_or("last", -1) };
    let bit = |on: bool| if on { "1" } else { "" };
    let limit = if last > 0 { last.to_string() } else { String::new() };
    let filters = filters(given.all("filter"));
    let query = [
        ("all", bit(given.on("all"))),
        ("filters", &filters),
        ("limit", &limit),
        ("size", bit(given.on("size") || mentions_size)),
    ];
    let list = call.client()?.get(&url("/containers/json", &query)).await?;
    let full = given.on("no-trunc");
    let rows: Vec<Row> = items(&list).iter().map(|c| row(c, !full)).collect();
    Report { format, headers: HEADERS, kind: KIND }.print(&rows)
}

fn format_of(call: &Call) -> String {
    let sized = call.given.on("size");
    match list_format(call, "psFormat").as_str() {
        _ if call.given.on("quiet") => "{{.ID}}".to_owned(),
        "table" if sized => format!("{TABLE}\\t{{{{.Size}}}}"),
        "table" => TABLE.to_owned(),
        "raw" => format!(
            "container_id: {{{{.ID}}}}\nimage: {{{{.Image}}}}\ncommand: {{{{.Command}}}}\ncreated_at: {{{{.CreatedAt}}}}\nstate: {{{{- pad .State 1 0}}}}\nstatus: {{{{- pad .Status 1 0}}}}\nnames: {{{{.Names}}}}\nlabels: {{{{- pad .Labels 1 0}}}}\nports: {{{{- pad .Ports 1 0}}}}\n{}",
            if sized { "size: {{.Size}}\n" } else { "" }
        ),
        format => format.to_owned(),
    }
}

/// The columns of one container.
pub fn row(container: &Value, trunc: bool) -> Row {
    let created = count(&container["Created"]);
    let id = text(container, "Id");
    let command = text(container, "Command");
    let command = if trunc { ellipsis(command, 20) } else { command.to_owned() };
    let mounts = items(&container["Mounts"]);
    let local = mounts.iter().filter(|m| text(m, "Driver") == "local").count();
    Row::new(vec![
        ("ID", if trunc { short_id(id) } else { id.to_owned() }.into()),
        ("Names", names(container, trunc).into()),
        ("Image", image(container, trunc).into()),
        ("Command", quote(&command).into()),
        ("CreatedAt", time::go_string(time::from_unix(created)).into()),
        ("RunningFor", ago(created).into()),
        ("Ports", ports(&container["Ports"]).into()),
        ("State", text(container, "State").into()),
        ("Status", text(container, "Status").into()),
        ("Size", sizes(container).into()),
        ("Labels", joined_labels(&container["Labels"]).into()),
        ("Mounts", mount_names(mounts, trunc).into()),
        ("LocalVolumes", local.to_string().into()),
        ("Networks", networks(container).into()),
        ("Platform", container["ImageManifestDescriptor"]["platform"].clone()),
    ])
    .labels(&container["Labels"])
}

fn names(container: &Value, trunc: bool) -> String {
    let names: Vec<&str> =
        items(&container["Names"]).iter().filter_map(|n| n.as_str()?.strip_prefix('/')).collect();
    match names.iter().find(|n| trunc && !n.contains('/')) {
        Some(own) => (*own).to_owned(),
        None => names.join(","),
    }
}

fn image(container: &Value, trunc: bool) -> String {
    let name = text(container, "Image");
    if name.is_empty() {
        return "<no image>".to_owned();
    }
    if !trunc {
        return name.to_owned();
    }
    let id = short_id(text(container, "ImageID"));
    if id == short_id(name) {
        return id;
    }
    match reference::parse(name) {
        Ok(mut parsed) => {
            parsed.digest = None;
            parsed.familiar()
        }
        Err(_) => name.to_owned(),
    }
}

fn sizes(container: &Value) -> String {
    let own = size::decimal(real(&container["SizeRw"]), 3);
    match real(&container["SizeRootFs"]) {
        total if total > 0.0 => format!("{own} (virtual {})", size::decimal(total, 3)),
        _ => own,
    }
}

fn mount_names(mounts: &[Value], trunc: bool) -> String {
    let name = |m: &Value| {
        let name = match text(m, "Name") {
            "" => text(m, "Source"),
            name => name,
        };
        if trunc { ellipsis(name, 15) } else { name.to_owned() }
    };
    mounts.iter().map(name).collect::<Vec<_>>().join(",")
}

fn networks(container: &Value) -> String {
    let map = container["NetworkSettings"]["Networks"].as_object();
    map.map(|m| m.keys().cloned().collect::<Vec<_>>().join(",")).unwrap_or_default()
}

/// `0.0.0.0:80->80/tcp, 90-91/udp`: neighbouring ports are one range.
pub fn ports(list: &Value) -> String {
    let mut ports: Vec<(u64, &str, u64, &str)> = items(list)
        .iter()
        .map(|p| {
            let number = |name: &str| p[name].as_u64().unwrap_or(0);
            (number("PrivatePort"), text(p, "IP"), number("PublicPort"), text(p, "Type"))
        })
        .collect();
    ports.sort_unstable();
    let join = |ip: &str, port: &str| match ip.contains(':') {
        true => format!("[{ip}]:{port}"),
        false => format!("{ip}:{port}"),
    };
    let shown = |(ip, kind): (&str, &str), first: u64, last: u64| {
        let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
        match ip {
            "" => format!("{range}/{kind}"),
            ip => format!("{}->{range}/{kind}", join(ip, &range)),
        }
    };
    let (mut done, mut mapped) = (Vec::new(), Vec::new());
    let mut groups: Vec<((&str, &str), u64, u64)> = Vec::new();
    for (private, ip, public, kind) in ports {
        if !ip.is_empty() && public != private {
            mapped.push(format!("{}->{private}/{kind}", join(ip, &public.to_string())));
            continue;
        }
        match groups.iter_mut().find(|(key, ..)| *key == (ip, kind)) {
            None => groups.push(((ip, kind), private, private)),
            Some((_, _, last)) if private == *last + 1 => *last = private,
            Some((key, first, last)) => {
                done.push(shown(*key, *first, *last));
                (*first, *last) = (private, private);
            }
        }
    }
    done.extend(groups.into_iter().map(|(key, first, last)| shown(key, first, last)));
    done.extend(mapped);
    done.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_grouped() {
        let port = |ip: &str, private: u16, public: u16| json!({"IP": ip, "PrivatePort": private, "PublicPort": public, "Type": "tcp"});
        let bare = |private: u16| json!({"PrivatePort": private, "Type": "tcp"});
        assert_eq!(ports(&json!([bare(80), bare(81), bare(90)])), "80-81/tcp, 90/tcp");
        assert_eq!(
            ports(&json!([port("0.0.0.0", 80, 91), port("::", 80, 91)])),
            "0.0.0.0:91->80/tcp, [::]:91->80/tcp"
        );
        assert_eq!(
            ports(&json!([port("0.0.0.0", 80, 80), port("0.0.0.0", 81, 81)])),
            "0.0.0.0:80-81->80-81/tcp"
        );
        assert_eq!(ports(&Value::Null), "");
    }
}
