//! `volume create`, `ls`, `rm` and `update`.

use serde_json::{Value, json};

use super::{Outcome, count, items, joined_labels, list_format, real, text};
use crate::api::{Payload, filters, segment, url};
use crate::app::{Call, say_line, warn};
use crate::failure::Failure;
use crate::out::{Report, Row};
use crate::parse::{files, pairs, size};

/// The headers of volume columns.
pub const HEADERS: &[(&str, &str)] = &[
    ("Name", "VOLUME NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("Availability", "AVAILABILITY"),
    ("Group", "GROUP"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
    ("Status", "STATUS"),
];

/// The Go type that messages about columns name.
pub const KIND: &str = "*formatter.volumeContext";

const CLUSTER: &[&str] = &[
    "availability",
    "group",
    "limit-bytes",
    "required-bytes",
    "scope",
    "secret",
    "sharing",
    "topology-preferred",
    "topology-required",
    "type",
];

/// `volume create [VOLUME]`
pub async fn create(call: Call) -> Outcome {
    let given = &call.given;
    if let Some(flag) = CLUSTER.iter().find(|f| given.changed(f)) {
        return Err(Failure::new(format!(
            "--{flag} is for cluster volumes, which wharf does not implement"
        )));
    }
    let argument = call.args().first().map_or("", String::as_str);
    let name = match (given.text("name"), argument) {
        ("", argument) => argument,
        (_, argument) if !argument.is_empty() => {
            return Err("conflicting options: cannot specify a volume-name through both --name and as a positional arg".into());
        }
        (name, _) => name,
    };
    let labels = files::read(&[], given.all("label"), |_| None)?;
    let body = json!({
        "Name": name, "Driver": given.last("driver").unwrap_or("local"),
        "DriverOpts": pairs(given.all("opt")), "Labels": pairs(&labels),
    });
    let made = call.client()?.post("/volumes/create", Payload::Json(body)).await?;
    say_line(text(&made, "Name"))
}

/// `volume ls`
pub async fn ls(call: Call) -> Outcome {
    let given = &call.given;
    if given.on("cluster") {
        return Err("--cluster: wharf does not implement cluster volumes".into());
    }
    let path = url("/volumes", &[("filters", &filters(given.all("filter")))]);
    let found = call.client()?.get(&path).await?;
    let format = match list_format(&call, "volumesFormat").as_str() {
        "table" if given.on("quiet") => "{{.Name}}".to_owned(),
        "table" => "table {{.Driver}}\\t{{.Name}}".to_owned(),
        "raw" if given.on("quiet") => "name: {{.Name}}".to_owned(),
        "raw" => "name: {{.Name}}\\ndriver: {{.Driver}}\\n".to_owned(),
        format => format.to_owned(),
    };
    let mut list: Vec<&Value> = items(&found["Volumes"]).iter().collect();
    list.sort_by(|a, b| natural(text(a, "Name"), text(b, "Name")));
    let rows: Vec<Row> = list.into_iter().map(row).collect();
    Report { format, headers: HEADERS, kind: KIND }.print(&rows)
}

/// Names with numbers in the order of the numbers: `a2` before `a10`.
pub fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let parts = |s: &str| -> Vec<(bool, u128, String)> {
        let mut out: Vec<(bool, String)> = Vec::new();
        for c in s.chars() {
            let digit = c.is_ascii_digit();
            match out.last_mut() {
                Some((kind, text)) if *kind == digit => text.push(c),
                _ => out.push((digit, c.to_string())),
            }
        }
        out.into_iter().map(|(d, t)| (!d, t.parse().unwrap_or(0), t)).collect()
    };
    parts(a).cmp(&parts(b))
}

/// The columns of one volume.
pub fn row(volume: &Value) -> Row {
    let usage = &volume["UsageData"];
    let known = |text: String| if usage.is_null() { "N/A".to_owned() } else { text };
    Row::new(vec![
        ("Name", text(volume, "Name").into()),
        ("Driver", text(volume, "Driver").into()),
        ("Scope", text(volume, "Scope").into()),
        ("Availability", "N/A".into()),
        ("Group", "N/A".into()),
        ("Status", "N/A".into()),
        ("Mountpoint", text(volume, "Mountpoint").into()),
        ("Labels", joined_labels(&volume["Labels"]).into()),
        ("Links", known(count(&usage["RefCount"]).to_string()).into()),
        ("Size", known(size::human(real(&usage["Size"]))).into()),
    ])
    .labels(&volume["Labels"])
}

/// `volume rm VOLUME...`
pub async fn rm(call: Call) -> Outcome {
    let force = call.given.on("force");
    let query = [("force", if force { "1" } else { "" })];
    let client = call.client()?;
    let mut failures = Vec::new();
    for name in call.args() {
        match client.delete(&url(&format!("/volumes/{}", segment(name)), &query)).await {
            Ok(_) => say_line(name)?,
            Err(error) if force && error.is_not_found() => warn(error.to_string()),
            Err(error) => failures.push(error.into()),
        }
    }
    Failure::join(failures)
}

/// `volume update VOLUME`
pub async fn update(_: Call) -> Outcome {
    Err("Can only update cluster volumes".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sort_as_numbers() {
        let mut names = ["a10", "b", "a2", "10", "9"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["9", "10", "a2", "a10", "b"]);
    }
}
