//! `port`, `top` and `diff`.

use serde_json::Value;

use super::{Outcome, items, text};
use crate::api::{segment, url};
use crate::app::{Call, say, say_line};
use crate::failure::Failure;
use crate::out::table::align;

/// `port CONTAINER [PRIVATE_PORT[/PROTO]]`
pub async fn port(call: Call) -> Outcome {
    let name = &call.args()[0];
    let found = call.client()?.get(&format!("/containers/{}/json", segment(name))).await?;
    let ports = &found["NetworkSettings"]["Ports"];
    let bindings = |list: &Value| -> Vec<String> {
        items(list).iter().map(|b| address(text(b, "HostIp"), text(b, "HostPort"))).collect()
    };
    if let Some(wanted) = call.args().get(1) {
        let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
        if number.parse::<u16>().is_err() {
            return Err(Failure::new(format!("Error: invalid port ({number}): invalid syntax")));
        }
        let list = bindings(&ports[&format!("{number}/{protocol}")]);
        if list.is_empty() {
            return Err(Failure::new(format!(
                "Error: No public port '{wanted}' published for {name}"
            )));
        }
        return say_line(list.join("\n"));
    }
    let mut lines: Vec<(u16, String)> = Vec::new();
    for (port, list) in ports.as_object().into_iter().flatten() {
        let number = port.split('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        lines.extend(bindings(list).into_iter().map(|b| (number, format!("{port} -> {b}"))));
    }
    lines.sort_by_key(|(number, _)| *number);
    lines.into_iter().try_for_each(|(_, line)| say_line(line))
}

fn address(ip: &str, port: &str) -> String {
    match ip.contains(':') {
        true => format!("[{ip}]:{port}"),
        false => format!("{ip}:{port}"),
    }
}

/// `top CONTAINER [ps OPTIONS]`
pub async fn top(call: Call) -> Outcome {
    let path = format!("/containers/{}/top", segment(&call.args()[0]));
    let options = call.args()[1..].join(" ");
    let found = call.client()?.get(&url(&path, &[("ps_args", &options)])).await?;
    let line = |row: &Value| {
        let cells: Vec<&str> = items(row).iter().filter_map(Value::as_str).collect();
        format!("{}\n", cells.join("\t"))
    };
    let body: String = items(&found["Processes"]).iter().map(line).collect();
    say(align(&format!("{}{body}", line(&found["Titles"])), 20, 3))
}

/// `diff CONTAINER`
pub async fn diff(call: Call) -> Outcome {
    let path = format!("/containers/{}/changes", segment(&call.args()[0]));
    let found = call.client()?.get(&path).await?;
    for change in items(&found) {
        let kind = match change["Kind"].as_i64() {
            Some(1) => 'A',
            Some(2) => 'D',
            _ => 'C',
        };
        say_line(format!("{kind} {}", text(change, "Path")))?;
    }
    Ok(())
}
