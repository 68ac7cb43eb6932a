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
        let cache = cache_rows(usage, trunc);
        return verbose_template(format, image_rows, container_rows, volume_rows, cache);
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
    let list = items(&usage["BuildCache"]);
    let total: f64 = list.iter().map(|c| real(&c["Size"])).sum();
    say_line(format!("\nBuild cache usage: {}\n", size::human(total)))?;
    print(CACHE_TABLE, CACHE_HEADERS, CACHE_KIND, &cache_rows(usage, trunc))
}

const CACHE_TABLE: &str = "table {{.ID}}\\t{{.CacheType}}\\t{{.Size}}\\t{{.CreatedSince}}\\t{{.LastUsedSince}}\\t{{.UsageCount}}\\t{{.Shared}}";
const CACHE_KIND: &str = "*formatter.buildCacheContext";
const CACHE_HEADERS: &[(&str, &str)] = &[
    ("ID", "CACHE ID"),
    ("Parent", "PARENT"),
    ("CacheType", "CACHE TYPE"),
    ("Size", "SIZE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("LastUsedSince", "LAST USED"),
    ("LastUsedAt", "LAST USED AT"),
    ("UsageCount", "USAGE"),
    ("InUse", "IN USE"),
    ("Shared", "SHARED"),
    ("Description", "DESCRIPTION"),
];

fn cache_rows(usage: &Value, trunc: bool) -> Vec<Row> {
    let short = |id: &str| if trunc { id.chars().take(12).collect() } else { id.to_owned() };
    let since = |at: &str| {
        at.parse::<jiff::Timestamp>().map_or_else(|_| String::new(), |t| super::ago(t.as_second()))
    };
    let truth = |v: &Value| v.as_bool().unwrap_or(false).to_string();
    let row = |c: &Value| {
        let mark = if c["InUse"] == true { "*" } else { "" };
        Row::new(vec![
            ("ID", format!("{}{mark}", short(text(c, "ID"))).into()),
            ("Parent", short(text(c, "Parent")).into()),
            ("CacheType", text(c, "Type").into()),
            ("Size", size::human(real(&c["Size"])).into()),
            ("CreatedSince", since(text(c, "CreatedAt")).into()),
            ("CreatedAt", text(c, "CreatedAt").into()),
            ("LastUsedSince", since(text(c, "LastUsedAt")).into()),
            ("LastUsedAt", text(c, "LastUsedAt").into()),
            ("UsageCount", count(&c["UsageCount"]).to_string().into()),
            ("InUse", truth(&c["InUse"]).into()),
            ("Shared", truth(&c["Shared"]).into()),
            ("Description", text(c, "Description").into()),
        ])
    };
    items(&usage["BuildCache"]).iter().map(row).collect()
}

/// `builder du`
pub async fn cache_list(call: Call) -> Outcome {
    let usage = call.client()?.get("/system/df?type=build-cache").await?;
    let format = match (call.given.text("format"), call.given.on("verbose")) {
        ("", true) => {
            "ID:\t{{.ID}}\nParent:\t{{.Parent}}\nType:\t{{.CacheType}}\nDescription:\t{{.Description}}\nSize:\t{{.Size}}\nShared:\t{{.Shared}}\nUsage count:\t{{.UsageCount}}\nLast used:\t{{.LastUsedSince}}\n"
        }
        ("" | "table", false) => CACHE_TABLE,
        (format, _) => format,
    };
    Report { format: format.to_owned(), headers: CACHE_HEADERS, kind: CACHE_KIND }
        .print(&cache_rows(&usage, false))
}

fn verbose_template(
    format: &str,
    images: Vec<Row>,
    containers: Vec<Row>,
    volumes: Vec<Row>,
    cache: Vec<Row>,
) -> Outcome {
    let list =
        |rows: Vec<Row>| rows.into_iter().map(|r| Value::Object(r.columns)).collect::<Value>();
    let cache = list(cache);
    let data = serde_json::json!({
        "Images": list(images), "Containers": list(containers), "Volumes": list(volumes),
        "BuildCache": cache,
    });
    let text = if format == "json" { "{{json .}}" } else { format };
    let shown = crate::out::table::parse(text)?.execute(&data);
    let shown = shown.map_err(|e| Failure::new(e.to_string()))?;
    // docker ends no line here.
    say(if text == "{{json .}}" { crate::out::html_safe(&shown) } else { shown })
}
