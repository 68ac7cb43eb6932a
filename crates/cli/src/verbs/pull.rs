//! `pull` and `search`.

use http::Method;
use serde_json::Value;

use super::{Outcome, items, text};
use crate::api::{Client, JsonStream, Payload, url};
use crate::app::{Call, say_line};
use crate::conf::auth;
use crate::failure::Failure;
use crate::out::progress::{Target, show};
use crate::out::{Report, Row, ellipsis};
use crate::parse::reference::{self, Name};

/// `pull NAME[:TAG|@DIGEST]`
pub async fn pull(call: Call) -> Outcome {
    let given = &call.given;
    let all = given.on("all-tags");
    let mut name = reference::parse(&call.args()[0])?;
    if all && (name.tag.is_some() || name.digest.is_some()) {
        return Err("tag can't be used with --all-tags/-a".into());
    }
    if !all {
        if name.tag.is_none() && name.digest.is_none() && !given.on("quiet") {
            say_line("Using default tag: latest")?;
        }
        name = name.with_default_tag();
    }
    let target = if given.on("quiet") { Target::Nowhere } else { Target::Stdout };
    request(&call, call.client()?, &name, given.text("platform"), target).await?;
    say_line(format!("{}{}", name.full_name(), suffix(&name)))
}

fn suffix(name: &Name) -> String {
    match (&name.tag, &name.digest) {
        (_, Some(digest)) => format!("@{digest}"),
        (Some(tag), _) => format!(":{tag}"),
        _ => String::new(),
    }
}

/// Pulls for `run` and `create`: progress goes to standard error.
pub async fn quietly(
    call: &Call,
    client: &Client,
    image: &str,
    platform: &str,
    quiet: bool,
) -> Outcome {
    let name = reference::parse(image)?.with_default_tag();
    let target = if quiet { Target::Nowhere } else { Target::Stderr };
    request(call, client, &name, platform, target).await
}

/// Begins a pull; what comes is its progress.
pub async fn stream(
    call: &Call,
    client: &Client,
    image: &str,
    platform: &str,
) -> Result<JsonStream, Failure> {
    let name = reference::parse(image)?.with_default_tag();
    begin(call, client, &name, platform).await
}

async fn request(
    call: &Call,
    client: &Client,
    name: &Name,
    platform: &str,
    target: Target,
) -> Outcome {
    show(begin(call, client, name, platform).await?, target, |_| ()).await
}

async fn begin(
    call: &Call,
    client: &Client,
    name: &Name,
    platform: &str,
) -> Result<JsonStream, Failure> {
    let header = auth::header(call.session.config(), &name.domain)?;
    let tag = name.digest.as_deref().or(name.tag.as_deref()).unwrap_or_default();
    let query = [
        ("fromImage", name.full_name()),
        ("platform", platform.to_owned()),
        ("tag", tag.to_owned()),
    ];
    let query: Vec<(&str, &str)> = query.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let path = url("/images/create", &query);
    let response =
        client.send(Method::POST, &path, Payload::Empty, &[("X-Registry-Auth", header)]).await?;
    Ok(JsonStream::new(response))
}

/// `search TERM`
pub async fn search(call: Call) -> Outcome {
    let given = &call.given;
    let limit = given.int_or("limit", 0).to_string();
    let filters = crate::api::filters(given.all("filter"));
    let query = [
        ("term", call.args()[0].as_str()),
        ("limit", if limit == "0" { "" } else { &limit }),
        ("filters", &filters),
    ];
    let term = &call.args()[0];
    // A term that begins with a host is asked there, with the credentials for it.
    let host = term.split_once('/').map_or("", |(host, _)| host);
    let domain = if host.contains(['.', ':']) || host == "localhost" { host } else { "docker.io" };
    let auth = [("X-Registry-Auth", auth::header(call.session.config(), domain)?)];
    let path = url("/images/search", &query);
    let found = call.client()?.call_with(Method::GET, &path, Payload::Empty, &auth).await?;
    let full = given.on("no-trunc");
    let row = |hit: &Value| {
        let description = text(hit, "description").replace(['\n', '\r'], " ");
        let official = hit["is_official"].as_bool().unwrap_or(false);
        Row::new(vec![
            ("Name", text(hit, "name").into()),
            ("Description", if full { description } else { ellipsis(&description, 45) }.into()),
            ("StarCount", hit["star_count"].to_string().into()),
            ("IsOfficial", if official { "[OK]" } else { "" }.into()),
            ("IsAutomated", "".into()),
        ])
    };
    let rows: Vec<Row> = items(&found).iter().map(row).collect();
    let format = match given.text("format") {
        "" => "table {{.Name}}\\t{{.Description}}\\t{{.StarCount}}\\t{{.IsOfficial}}",
        format => format,
    };
    let report = Report {
        format: format.to_owned(),
        headers: &[
            ("Name", "NAME"),
            ("Description", "DESCRIPTION"),
            ("StarCount", "STARS"),
            ("IsOfficial", "OFFICIAL"),
            ("IsAutomated", "AUTOMATED"),
        ],
        kind: "*registry.searchContext",
    };
    report.print(&rows)
}
