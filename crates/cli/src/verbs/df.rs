//! `system df`.

use serde_json::Value;

use super::{Outcome, count, items, ps, real, text};
use crate::app::{Call, say, say_line};
use crate::failure::Failure;
use crate::out::{Report, Row};
use crate::parse::{reference, size};

const HEADERS: &[(&str, &str)] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

/// `system df`
pub async fn df(call: Call) -> Outcome {
    let given = &call.given;
    let usage = call.client()?.get("/system/df").await?;
    let format = given.last("format").filter(|f| !f.is_empty()).unwrap_or("table").to_owned();
    if given.on("verbose") {
        return verbose(&usage, &format);
    }
    let format = match format.as_str() {
        "table" => "table {{.Type}}\\t{{.TotalCount}}\\t{{.Active}}\\t{{.Size}}\\t{{.Reclaimable}}".to_owned(),
        "raw" => "type: {{.Type}}\\ntotal: {{.TotalCount}}\\nactive: {{.Active}}\\nsize: {{.Size}}\\nreclaimable: {{.Reclaimable}}\\n".to_owned(),
        _ => format,
    };
    let rows = [images(&usage), containers(&usage), volumes(&usage), cache(&usage)];
    Report { format, headers: HEADERS, kind: "*formatter.diskUsageImagesContext" }.print(&rows)
}

fn row(kind: &str, total: usize, active: usize, bytes: f64, free: f64, percent: bool) -> Row {
    let reclaimable = match percent && bytes > 0.0 {
        true => format!("{} ({}%)", size::human(free), (free * 100.0 / bytes).trunc()),
        false => size::human(free),
    };
    Row::new(vec![
        ("Type", kind.into()),
        ("TotalCount", total.to_string().into()),
        ("Active", active.to_string().into()),
        ("Size", size::human(bytes).into()),
        ("Reclaimable", reclaimable.into()),
    ])
}

fn images(usage: &Value) -> Row {
    let list = items(&usage["Images"]);
    let active = list.iter().filter(|i| count(&i["Containers"]) > 0).count();
    let known = |i: &&Value| {
        count(&i["Containers"]) != 0 && count(&i["Size"]) != -1 && count(&i["SharedSize"]) != -1
    };
    let used: f64 =
        list.iter().filter(known).map(|i| real(&i["Size"]) - real(&i["SharedSize"])).sum();
    let total = real(&usage["LayersSize"]);
    row("Images", list.len(), active, total, total - used, true)
}

fn containers(usage: &Value) -> Row {
    let list = items(&usage["Containers"]);
    let active = |c: &&Value| matches!(text(c, "State"), "running" | "paused" | "restarting");
    let bytes = |c: &Value| real(&c["SizeRw"]);
    let total = list.iter().map(bytes).sum();
    let free = list.iter().filter(|c| !active(c)).map(bytes).sum();
    row("Containers", list.len(), list.iter().filter(active).count(), total, free, true)
}

fn volumes(usage: &Value) -> Row {
    let list = items(&usage["Volumes"]);
    let references = |v: &Value| count(&v["UsageData"]["RefCount"]);
    let bytes = |v: &Value| real(&v["UsageData"]["Size"]).max(0.0);
    let total = list.iter().map(bytes).sum();
    let free = list.iter().filter(|v| references(v) == 0).map(bytes).sum();
    let active = list.iter().filter(|v| references(v) > 0).count();
    row("Local Volumes", list.len(), active, total, free, true)
}

fn cache(usage: &Value) -> Row {
    let list = items(&usage["BuildCache"]);
    let on = |c: &Value, name: &str| c[name].as_bool().unwrap_or(false);
    let own = |c: &&Value| !on(c, "Shared");
    let total: f64 = list.iter().filter(own).map(|c| real(&c["Size"])).sum();
    let used: f64 =
        list.iter().filter(own).filter(|c| on(c, "InUse")).map(|c| real(&c["Size"])).sum();
    let active = list.iter().filter(|c| on(c, "InUse")).count();
    row("Build Cache", list.len(), active, total, total - used, false)
}

fn verbose(usage: &Value, format: &str) -> Outcome {
    let trunc = format == "table";
    let image_rows: Vec<Row> = items(&usage["Images"])
        .iter()
        .map(|i| {
            let name = items(&i["RepoTags"]).first().and_then(Value::as_str);
            let name = name.and_then(|n| reference::parse(n).ok());
            let (repository, tag) = match &name {
                Some(n) => (n.familiar_name(), n.tag.clone().unwrap_or_default()),
                None => ("<none>".to_owned(), "<none>".to_owned()),
            };
            super::images::row(i, [&repository, &tag, ""], trunc)
        })
        .collect();
    let container_rows: Vec<Row> = items(&usage["Containers"])
        .iter()
        .map(|c| {
            let mut c = c.clone();
            c["SizeRootFs"] = 0.into();
            ps::row(&c, trunc)
        })
        .collect();
    let volume_rows: Vec<Row> = items(&usage["Volumes"]).iter().map(super::volume::row).collect();
    if format != "table" {
        return verbose_template(format, image_rows, container_rows, volume_rows);
    }
    let print = |format: &str, headers: &[(&str, &str)], kind, rows: &[Row]| {
        Report { format: format.to_owned(), headers, kind }.print(rows)
    };
    say("Images space usage:\n\n")?;
    print(
        "table {{.Repository}}\\t{{.Tag}}\\t{{.ID}}\\t{{.CreatedSince}}\\t{{.Size}}\\t{{.SharedSize}}\\t{{.UniqueSize}}\\t{{.Containers}}",
        super::images::HEADERS,
        super::images::KIND,
        &image_rows,
    )?;
    say("\nContainers space usage:\n\n")?;
    print(
        "table {{.ID}}\\t{{.Image}}\\t{{.Command}}\\t{{.LocalVolumes}}\\t{{.Size}}\\t{{.RunningFor}}\\t{{.Status}}\\t{{.Names}}",
        ps::HEADERS,
        ps::KIND,
        &container_rows,
    )?;
    say("\nLocal Volumes space usage:\n\n")?;
    print(
        "table {{.Name}}\\t{{.Links}}\\t{{.Size}}",
        super::volume::HEADERS,
        super::volume::KIND,
        &volume_rows,
    )?;
    say_line(format!("\nBuild cache usage: {}\n", size::human(0.0)))?;
    say("CACHE ID   CACHE TYPE   SIZE      CREATED   LAST USED   USAGE     SHARED\n")
}

fn verbose_template(
    format: &str,
    images: Vec<Row>,
    containers: Vec<Row>,
    volumes: Vec<Row>,
) -> Outcome {
    let list =
        |rows: Vec<Row>| rows.into_iter().map(|r| Value::Object(r.columns)).collect::<Value>();
    let data = serde_json::json!({
        "Images": list(images), "Containers": list(containers), "Volumes": list(volumes),
        "BuildCache": [],
    });
    let text = if format == "json" { "{{json .}}" } else { format };
    let shown = crate::out::table::parse(text)?.execute(&data);
    let shown = shown.map_err(|e| Failure::new(e.to_string()))?;
    // docker ends no line here.
    say(if text == "{{json .}}" { crate::out::html_safe(&shown) } else { shown })
}
