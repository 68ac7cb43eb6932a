//! `images`, `history`, `tag` and `rmi`.

use serde_json::Value;

use super::{Outcome, ago, count, items, list_format, real, text};
use crate::api::{filters, image_path, url};
use crate::app::{Call, prog, say_line, warn};
use crate::failure::Failure;
use crate::out::{Report, Row, ellipsis, short_id};
use crate::parse::{quote, reference, size, time};

/// The headers of image columns.
pub const HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

/// The Go type that messages about columns name.
pub const KIND: &str = "*formatter.imageContext";

/// `images [OPTIONS] [REPOSITORY[:TAG]]`
pub async fn images(call: Call) -> Outcome {
    let given = &call.given;
    let mut wanted = given.all("filter").to_vec();
    wanted.extend(call.args().first().map(|name| format!("reference={name}")));
    let wanted = filters(&wanted);
    if given.on("tree") {
        return super::image_tree::tree(&call, &wanted).await;
    }
    let all = if given.on("all") { "1" } else { "" };
    let digests = given.on("digests");
    let path = url("/images/json", &[("all", all), ("filters", &wanted)]);
    let list = call.client()?.get(&path).await?;
    let format = format_of(&call, digests);
    let needs_digest = digests || format.contains("{{.Digest}}");
    let full = given.on("no-trunc");
    let mut rows = Vec::new();
    for image in items(&list) {
        for (repository, tag, digest) in names(image, needs_digest, digests) {
            let mut row = row(image, [&repository, &tag, &digest], !full);
            // Only `system df` counts them.
            row.columns.insert("Containers".to_owned(), "N/A".into());
            rows.push(row);
        }
    }
    Report { format, headers: HEADERS, kind: KIND }.print(&rows)?;
    match call.args().first() {
        Some(name) if rows.is_empty() && call.path == "images" => hint(name),
        _ => (),
    }
    Ok(())
}

fn hint(name: &str) {
    const VERBS: &[&str] = &[
        "build", "history", "import", "inspect", "list", "load", "ls", "prune", "pull", "push",
        "rm", "save", "tag",
    ];
    if VERBS.contains(&name) {
        let prog = prog();
        warn(format!(
            "\nNo images found matching {}: did you mean \"{prog} image {name}\"?",
            quote(name)
        ));
    }
}

fn format_of(call: &Call, digests: bool) -> String {
    const SINCE: &str = "{{if .CreatedSince }}{{.CreatedSince}}{{else}}N/A{{end}}";
    let quiet = call.given.on("quiet");
    match list_format(call, "imagesFormat").as_str() {
        "table" if quiet => "{{.ID}}".to_owned(),
        "table" if digests => format!(
            "table {{{{.Repository}}}}\\t{{{{.Tag}}}}\\t{{{{.Digest}}}}\\t{{{{.ID}}}}\\t{SINCE}\\t{{{{.Size}}}}"
        ),
        "table" => format!(
            "table {{{{.Repository}}}}\\t{{{{.Tag}}}}\\t{{{{.ID}}}}\\t{SINCE}\\t{{{{.Size}}}}"
        ),
        "raw" if quiet => "image_id: {{.ID}}".to_owned(),
        "raw" => format!(
            "repository: {{{{.Repository}}}}\ntag: {{{{.Tag}}}}\n{}image_id: {{{{.ID}}}}\ncreated_at: {{{{.CreatedAt}}}}\nvirtual_size: {{{{.Size}}}}\n",
            if digests { "digest: {{.Digest}}\n" } else { "" }
        ),
        format if format.starts_with("table") && digests && !format.contains("{{.Digest}}") => {
            format!("{format}\\t{{{{.Digest}}}}")
        }
        format => format.to_owned(),
    }
}

/// The rows of one image: a repository, tag and digest each.
fn names(image: &Value, needs_digest: bool, digests: bool) -> Vec<(String, String, String)> {
    let none = || "<none>".to_owned();
    let strings = |field: &str| {
        items(&image[field]).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let (tags, by_digest) = (strings("RepoTags"), strings("RepoDigests"));
    let dangling = (tags.is_empty() && by_digest.is_empty())
        || (tags == ["<none>:<none>"] && by_digest == ["<none>@<none>"]);
    if dangling {
        return vec![(none(), none(), none())];
    }
    let digests_of: Vec<(String, String)> = by_digest
        .iter()
        .filter_map(|d| reference::parse(d).ok())
        .filter_map(|n| Some((n.familiar_name(), n.digest?)))
        .collect();
    let mut rows = Vec::new();
    let mut tagged = Vec::new();
    for name in tags.iter().filter_map(|t| reference::parse(t).ok()) {
        let repository = name.familiar_name();
        let Some(tag) = name.tag else { continue };
        let own: Vec<&String> =
            digests_of.iter().filter(|(r, _)| *r == repository).map(|(_, d)| d).collect();
        match needs_digest && !own.is_empty() {
            true => {
                rows.extend(own.iter().map(|d| (repository.clone(), tag.clone(), (*d).clone())))
            }
            false => rows.push((repository.clone(), tag, none())),
        }
        tagged.push(repository);
    }
    let untagged = digests_of.into_iter().filter(|(r, _)| !tagged.contains(r));
    rows.extend(untagged.map(|(r, d)| (r, none(), if digests { d } else { String::new() })));
    rows
}

/// The columns of one image under one name.
pub fn row(image: &Value, [repository, tag, digest]: [&str; 3], trunc: bool) -> Row {
    let created = count(&image["Created"]);
    let id = text(image, "Id");
    let total = real(&image["Size"]);
    let shared = real(&image["SharedSize"]);
    let or_unknown = |known: bool, bytes: f64| match known {
        true => size::human(bytes),
        false => "N/A".to_owned(),
    };
    let containers = match count(&image["Containers"]) {
        -1 => "N/A".to_owned(),
        n => n.to_string(),
    };
    Row::new(vec![
        ("ID", if trunc { short_id(id) } else { id.to_owned() }.into()),
        ("Repository", repository.into()),
        ("Tag", tag.into()),
        ("Digest", digest.into()),
        ("CreatedSince", ago(created).into()),
        ("CreatedAt", time::go_string(time::from_unix(created)).into()),
        ("Size", size::decimal(total, 3).into()),
        ("VirtualSize", size::human(total).into()),
        ("SharedSize", or_unknown(shared >= 0.0, shared).into()),
        ("UniqueSize", or_unknown(shared >= 0.0 && total >= 0.0, total - shared).into()),
        ("Containers", containers.into()),
    ])
}

/// `history IMAGE`
pub async fn history(call: Call) -> Outcome {
    let given = &call.given;
    let platform = platform_json(given.text("platform"))?;
    let path = format!("/images/{}/history", image_path(&call.args()[0]));
    let list = call.client()?.get(&url(&path, &[("platform", &platform)])).await?;
    let human = given.on_or("human", true);
    let trunc = !given.on("no-trunc");
    let format = match list_format(&call, "").as_str() {
        "table" if given.on("quiet") => "{{.ID}}".to_owned(),
        "table" if human => {
            "table {{.ID}}\\t{{.CreatedSince}}\\t{{.CreatedBy}}\\t{{.Size}}\\t{{.Comment}}"
                .to_owned()
        }
        "table" => {
            "table {{.ID}}\\t{{.CreatedAt}}\\t{{.CreatedBy}}\\t{{.Size}}\\t{{.Comment}}".to_owned()
        }
        format => format.to_owned(),
    };
    let headers = &[
        ("ID", "IMAGE"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedSince", "CREATED"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ];
    let rows: Vec<Row> = items(&list).iter().map(|h| history_row(h, human, trunc)).collect();
    Report { format, headers, kind: "*image.historyContext" }.print(&rows)
}

fn history_row(layer: &Value, human: bool, trunc: bool) -> Row {
    let created = count(&layer["Created"]);
    let at = time::rfc3339_local(time::from_unix(created), 0);
    let by = text(layer, "CreatedBy").replace('\t', " ");
    let id = text(layer, "Id");
    let bytes = count(&layer["Size"]);
    let since = if human { ago(created) } else { at.clone() };
    Row::new(vec![
        ("ID", if trunc { short_id(id) } else { id.to_owned() }.into()),
        ("CreatedAt", at.into()),
        ("CreatedSince", since.into()),
        ("CreatedBy", if trunc { ellipsis(&by, 45) } else { by }.into()),
        (
            "Size",
            if human { size::decimal(real(&layer["Size"]), 3) } else { bytes.to_string() }.into(),
        ),
        ("Comment", text(layer, "Comment").into()),
    ])
}

/// `os/arch[/variant]` as the API's JSON; empty stays empty.
pub fn platform_json(platform: &str) -> Result<String, Failure> {
    if platform.is_empty() {
        return Ok(String::new());
    }
    let mut parts = platform.split('/');
    let (os, arch, variant) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let arch = arch.filter(|_| parts.next().is_none() && !os.is_empty());
    let arch = match arch {
        Some("x86_64" | "x86-64") => "amd64",
        Some("aarch64") => "arm64",
        Some(arch) if !arch.is_empty() => arch,
        _ => {
            return Err(Failure::new(format!(
                "invalid platform {}: write it as os/arch or os/arch/variant",
                quote(platform)
            )));
        }
    };
    let mut json = serde_json::json!({"architecture": arch, "os": os});
    if let Some(variant) = variant {
        json["variant"] = variant.into();
    }
    Ok(json.to_string())
}

/// `tag SOURCE TARGET`
pub async fn tag(call: Call) -> Outcome {
    let target = reference::parse(&call.args()[1]).map_err(|e| {
        Failure::new(format!(
            "Error parsing reference: {} is not a valid repository/tag: {e}",
            quote(&call.args()[1])
        ))
    })?;
    if target.digest.is_some() {
        return Err("refusing to create a tag with a digest reference".into());
    }
    let target = target.with_default_tag();
    let path = format!("/images/{}/tag", image_path(&call.args()[0]));
    let query = [("repo", target.full_name()), ("tag", target.tag.unwrap_or_default())];
    let path = url(&path, &[("repo", &query[0].1), ("tag", &query[1].1)]);
    call.client()?.post(&path, crate::api::Payload::Empty).await?;
    Ok(())
}

/// `rmi IMAGE...`
pub async fn rmi(call: Call) -> Outcome {
    let given = &call.given;
    let client = call.client()?;
    let force = given.on("force");
    let mut query = vec![
        ("force", if force { "1".to_owned() } else { String::new() }),
        ("noprune", if given.on("no-prune") { "1".to_owned() } else { String::new() }),
    ];
    for platform in given.all("platform") {
        query.push(("platforms", platform_json(platform)?));
    }
    let query: Vec<(&str, &str)> = query.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let mut failures = Vec::new();
    let mut fatal = false;
    for image in call.args() {
        match client.delete(&url(&format!("/images/{}", image_path(image)), &query)).await {
            Ok(done) => {
                for item in items(&done) {
                    match item["Deleted"].as_str() {
                        Some(id) if !id.is_empty() => say_line(format!("Deleted: {id}"))?,
                        _ => say_line(format!("Untagged: {}", text(item, "Untagged")))?,
                    }
                }
            }
            Err(error) => {
                fatal |= !error.is_not_found();
                failures.push(Failure::from(error));
            }
        }
    }
    match Failure::join(failures) {
        Err(failure) if force && !fatal => {
            warn(failure.text);
            Ok(())
        }
        result => result,
    }
}
