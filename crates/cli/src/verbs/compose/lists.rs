//! The verbs that only show something: `ps`, `ls`, `images`, `top`, `port`, `volumes`, `stats`, `version`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use wharf_compose::labels;
use wharf_compose::observe::{self, label};
use wharf_spec::docker::ContainerSummary;

use super::{check_services, containers, pick, project_or_name};
use crate::api::{filters, image_path, segment, url};
use crate::app::{Call, say, say_line};
use crate::failure::Failure;
use crate::out::table::align;
use crate::out::{Report, Row, ellipsis, short_id};
use crate::parse::{quote, size};
use crate::verbs::{Outcome, ago, items, ps, text};

/// `compose ps [SERVICE...]`
pub async fn ps(call: Call) -> Outcome {
    let given = &call.given;
    let (project, name) = project_or_name(&call)?;
    let engine = super::engine(&call)?;
    let mut found = containers(&engine, &name, call.args(), given.on("all")).await?;
    check_services(project.as_ref(), &found, call.args())?;
    let mut states: Vec<String> = given.all("status").to_vec();
    for filter in given.all("filter") {
        match filter.split_once('=') {
            Some(("status", state)) => states.push(state.to_owned()),
            Some(("source", _)) => {
                return Err("filter \"source\" is not supported".into());
            }
            _ => return Err(Failure::new(format!("unknown filter {filter}"))),
        }
    }
    let live =
        |c: &ContainerSummary| matches!(c.state.as_str(), "running" | "paused" | "restarting");
    match states.is_empty() {
        true => found.retain(|c| given.on("all") || live(c)),
        false => found.retain(|c| states.contains(&c.state)),
    }
    if let (Some(project), false) = (&project, given.on_or("orphans", true)) {
        found.retain(|c| project.services.contains_key(label(c, labels::SERVICE)));
    }
    if given.on("quiet") {
        return found.iter().try_for_each(|c| say_line(&c.id));
    }
    if given.on("services") {
        let names: BTreeSet<&str> = found.iter().map(|c| label(c, labels::SERVICE)).collect();
        return names.into_iter().try_for_each(say_line);
    }
    let full = given.on("no-trunc");
    let format = match given.text("format") {
        "" | "table" => {
            "table {{.Name}}\\t{{.Image}}\\t{{.Command}}\\t{{.Service}}\\t{{.RunningFor}}\\t{{.Status}}\\t{{.Ports}}"
        }
        format => format,
    };
    let rows: Vec<Row> = found.iter().map(|c| row(c, &name, full)).collect();
    let report = Report {
        format: format.to_owned(),
        headers: &[
            ("ID", "CONTAINER ID"),
            ("Name", "NAME"),
            ("Names", "NAMES"),
            ("Image", "IMAGE"),
            ("Command", "COMMAND"),
            ("Service", "SERVICE"),
            ("RunningFor", "CREATED"),
            ("CreatedAt", "CREATED AT"),
            ("State", "STATE"),
            ("Status", "STATUS"),
            ("Health", "HEALTH"),
            ("ExitCode", "EXIT CODE"),
            ("Ports", "PORTS"),
            ("Project", "PROJECT"),
        ],
        kind: "*formatter.ContainerContext",
    };
    report.print(&rows)
}

fn row(c: &ContainerSummary, project: &str, full: bool) -> Row {
    let ports: Vec<Value> =
        serde_json::to_value(&c.ports).map(|v| items(&v).to_vec()).unwrap_or_default();
    let mut published: Vec<_> = c.ports.iter().collect();
    published.sort_by_key(|p| (&p.ip, p.private_port, p.public_port, &p.kind));
    let publishers: Vec<Value> = published
        .into_iter()
        .map(|p| {
            json!({"URL": p.ip, "TargetPort": p.private_port, "PublishedPort": p.public_port, "Protocol": p.kind})
        })
        .collect();
    let command = if full { c.command.clone() } else { ellipsis(&c.command, 20) };
    let between = |open: &str, close: &str| {
        let (_, rest) = c.status.split_once(open)?;
        Some(rest.split_once(close)?.0.to_owned())
    };
    let health = match between("(", ")") {
        Some(h) if matches!(h.as_str(), "healthy" | "unhealthy") => h,
        Some(h) if h == "health: starting" => "starting".to_owned(),
        _ => String::new(),
    };
    let code: i64 = between("Exited (", ")").and_then(|c| c.parse().ok()).unwrap_or(0);
    let labels: Vec<String> = c.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let networks: Vec<&str> = c.network_settings.networks.keys().map(String::as_str).collect();
    let mounts: Vec<&str> = c
        .mounts
        .iter()
        .map(|m| if m.name.is_empty() { m.source.as_str() } else { m.name.as_str() })
        .collect();
    Row::new(vec![
        ("ID", if full { c.id.clone() } else { short_id(&c.id) }.into()),
        ("Name", observe::name(c).into()),
        ("Names", observe::name(c).into()),
        ("Image", c.image.clone().into()),
        ("Command", quote(&command).into()),
        ("Service", label(c, labels::SERVICE).into()),
        ("Project", project.into()),
        ("RunningFor", ago(c.created).into()),
        (
            "CreatedAt",
            crate::parse::time::go_string(crate::parse::time::from_unix(c.created)).into(),
        ),
        ("Created", c.created.into()),
        ("State", c.state.clone().into()),
        ("Status", c.status.clone().into()),
        ("Health", health.into()),
        ("ExitCode", code.into()),
        ("Ports", ps::ports(&ports.into()).into()),
        ("Publishers", publishers.into()),
        ("Labels", labels.join(",").into()),
        ("Networks", networks.join(",").into()),
        ("Mounts", mounts.join(",").into()),
        (
            "LocalVolumes",
            c.mounts.iter().filter(|m| m.driver == "local").count().to_string().into(),
        ),
        ("Size", "0B".into()),
    ])
    .labels(&json!(c.labels))
}

/// `compose ls`
pub async fn ls(call: Call) -> Outcome {
    let given = &call.given;
    let wanted = filters(&[format!("label={}", labels::PROJECT)]);
    let query = [("all", if given.on("all") { "1" } else { "" }), ("filters", wanted.as_str())];
    let list = call.client()?.get(&url("/containers/json", &query)).await?;
    let mut projects: BTreeMap<String, (BTreeMap<String, usize>, BTreeSet<String>)> =
        BTreeMap::new();
    for container in items(&list) {
        let labels = &container["Labels"];
        let entry = projects.entry(text(labels, labels::PROJECT).to_owned()).or_default();
        *entry.0.entry(text(container, "State").to_owned()).or_default() += 1;
        entry.1.insert(text(labels, labels::CONFIG_FILES).to_owned());
    }
    for filter in given.all("filter") {
        match filter.split_once('=') {
            Some(("name", part)) => projects.retain(|name, _| name.contains(part)),
            _ => return Err(Failure::new(format!("unknown filter {filter}"))),
        }
    }
    if given.on("quiet") {
        return projects.keys().try_for_each(say_line);
    }
    let shown: Vec<(String, String, String)> = projects
        .into_iter()
        .map(|(name, (states, files))| {
            let states = states.into_iter().map(|(s, n)| format!("{s}({n})"));
            let files: Vec<String> = files.into_iter().filter(|f| !f.is_empty()).collect();
            let files = if files.is_empty() { "N/A".to_owned() } else { files.join(",") };
            (name, states.collect::<Vec<_>>().join(", "), files)
        })
        .collect();
    match given.text("format") {
        "json" => {
            let all: Vec<Value> = shown
                .iter()
                .map(|(n, s, f)| json!({"Name": n, "Status": s, "ConfigFiles": f}))
                .collect();
            say_line(Value::from(all).to_string())
        }
        "" | "table" => {
            let mut out = "NAME\tSTATUS\tCONFIG FILES\n".to_owned();
            shown.iter().for_each(|(n, s, f)| out.push_str(&format!("{n}\t{s}\t{f}\n")));
            say(align(&out, 20, 4))
        }
        other => Err(Failure::new(format!("unsupported format {other:?}"))),
    }
}

/// `compose images [SERVICE...]`
pub async fn images(call: Call) -> Outcome {
    let given = &call.given;
    let (project, name) = project_or_name(&call)?;
    let engine = super::engine(&call)?;
    let found = containers(&engine, &name, call.args(), false).await?;
    check_services(project.as_ref(), &found, call.args())?;
    if given.on("quiet") {
        let ids: BTreeSet<String> =
            found.iter().map(|c| c.image_id.trim_start_matches("sha256:").to_owned()).collect();
        return ids.into_iter().try_for_each(say_line);
    }
    let mut table = "CONTAINER\tREPOSITORY\tTAG\tPLATFORM\tIMAGE ID\tSIZE\tCREATED\n".to_owned();
    let mut all = Vec::new();
    for container in &found {
        let path = format!("/images/{}/json", image_path(&container.image_id));
        let image = call.client()?.get(&path).await?;
        let parsed = crate::parse::reference::parse(&container.image).ok();
        let repository = parsed.as_ref().map(|p| p.familiar_name()).unwrap_or_default();
        let tag = parsed.and_then(|p| p.with_default_tag().tag).unwrap_or_default();
        let platform = format!("{}/{}", text(&image, "Os"), text(&image, "Architecture"));
        let bytes = crate::verbs::real(&image["Size"]);
        let created: Option<jiff::Timestamp> = text(&image, "Created").parse().ok();
        let age = created.map(|t| ago(t.as_second())).unwrap_or_else(|| "N/A".to_owned());
        let id = short_id(&container.image_id);
        let container = observe::name(container);
        let shown = size::decimal(bytes, 3);
        table.push_str(&format!(
            "{container}\t{repository}\t{tag}\t{platform}\t{id}\t{shown}\t{age}\n"
        ));
        all.push(json!({
            "ID": text(&image, "Id"), "ContainerName": container, "Repository": repository,
            "Tag": tag, "Platform": platform, "Size": bytes,
        }));
    }
    match given.text("format") {
        "json" => say_line(Value::from(all).to_string()),
        "" | "table" => say(align(&table, 20, 4)),
        other => Err(Failure::new(format!("unsupported format {other:?}"))),
    }
}

/// `compose top [SERVICE...]`
pub async fn top(call: Call) -> Outcome {
    let (project, name) = project_or_name(&call)?;
    let engine = super::engine(&call)?;
    let found = containers(&engine, &name, call.args(), false).await?;
    check_services(project.as_ref(), &found, call.args())?;
    let mut titles = vec!["SERVICE".to_owned(), "#".to_owned()];
    let mut lines = Vec::new();
    for container in found.iter().filter(|c| c.state == "running") {
        let path = format!("/containers/{}/top", segment(&container.id));
        let answer = call.client()?.get(&path).await?;
        let own: Vec<String> =
            items(&answer["Titles"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if titles.len() == 2 {
            titles.extend(own);
        }
        for process in items(&answer["Processes"]) {
            let mut line = vec![
                label(container, labels::SERVICE).to_owned(),
                observe::number(container).to_string(),
            ];
            line.extend(items(process).iter().filter_map(Value::as_str).map(str::to_owned));
            lines.push(line.join("\t"));
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    say(align(&format!("{}\n{}\n", titles.join("\t"), lines.join("\n")), 4, 2))
}

/// `compose port SERVICE PRIVATE_PORT`
pub async fn port(call: Call) -> Outcome {
    let given = &call.given;
    let (_, name) = project_or_name(&call)?;
    let engine = super::engine(&call)?;
    let (service, wanted) = (&call.args()[0], &call.args()[1]);
    let container = pick(&engine, &name, service, given.int_or("index", 0)).await?;
    let (port, protocol) = match wanted.split_once('/') {
        Some((port, protocol)) => (port, protocol),
        None => (wanted.as_str(), given.last("protocol").unwrap_or("tcp")),
    };
    let number: u16 = port.parse().map_err(|_| Failure::new(format!("invalid port: {port}")))?;
    let found = container
        .ports
        .iter()
        .find(|p| p.private_port == number && p.kind == protocol && p.public_port != 0);
    match found {
        Some(p) if p.ip.contains(':') => say_line(format!("[{}]:{}", p.ip, p.public_port)),
        Some(p) => say_line(format!("{}:{}", p.ip, p.public_port)),
        None => Err(Failure::new(format!(
            "no port {number}/{protocol} for container {}",
            observe::name(&container)
        ))),
    }
}

/// `compose volumes [SERVICE...]`
pub async fn volumes(call: Call) -> Outcome {
    let given = &call.given;
    let (project, name) = project_or_name(&call)?;
    let engine = super::engine(&call)?;
    let found = containers(&engine, &name, call.args(), true).await?;
    check_services(project.as_ref(), &found, call.args())?;
    let used: BTreeSet<&str> =
        found.iter().flat_map(|c| c.mounts.iter().map(|m| m.name.as_str())).collect();
    let wanted = filters(&[format!("label={}={name}", labels::PROJECT)]);
    let list = call.client()?.get(&url("/volumes", &[("filters", &wanted)])).await?;
    let rows: Vec<Row> = items(&list["Volumes"])
        .iter()
        .filter(|v| call.args().is_empty() || used.contains(text(v, "Name")))
        .map(crate::verbs::volume::row)
        .collect();
    let format = match given.text("format") {
        _ if given.on("quiet") => "{{.Name}}",
        "" | "table" => "table {{.Driver}}\\t{{.Name}}",
        format => format,
    };
    let report = Report {
        format: format.to_owned(),
        headers: &[("Driver", "DRIVER"), ("Name", "VOLUME NAME"), ("Mountpoint", "MOUNTPOINT")],
        kind: "*formatter.volumeContext",
    };
    report.print(&rows)
}

/// `compose version`
pub async fn version(call: Call) -> Outcome {
    let version = labels::COMPOSE_VERSION;
    let given = &call.given;
    match given.text("format") {
        _ if given.on("short") => say_line(version),
        "json" => say_line(json!({"version": format!("v{version}")}).to_string()),
        "" | "pretty" => say_line(format!(
            "Docker Compose version v{version} (wharf {})",
            env!("CARGO_PKG_VERSION")
        )),
        other => Err(Failure::new(format!("unsupported format {other:?}"))),
    }
}
