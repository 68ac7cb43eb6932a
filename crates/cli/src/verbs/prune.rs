//! The prunes: what is unused goes, after a question.

use std::io::BufRead;

use serde_json::Value;

use super::{Outcome, items, real, text};
use crate::api::{Client, Payload, filters, url};
use crate::app::{Call, say, say_line};
use crate::failure::Failure;
use crate::parse::size;

/// Asks; anything but yes is no.
fn confirm(question: &str) -> Result<bool, Failure> {
    say(format!("{question} [y/N] "))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// A no is an answer and not a failure: docker says nothing more and exits with 0.
fn permitted(call: &Call, warning: &str) -> Result<bool, Failure> {
    match call.given.on("force") {
        true => Ok(true),
        false => confirm(&format!("WARNING! {warning}\nAre you sure you want to continue?")),
    }
}

fn report(pruned: Pruned, reclaimed: bool) -> Outcome {
    if !pruned.text.is_empty() {
        say_line(&pruned.text)?;
    }
    match reclaimed {
        true => say_line(format!("Total reclaimed space: {}", size::human(pruned.bytes))),
        false => Ok(()),
    }
}

/// What went: a text for people, and bytes.
struct Pruned {
    text: String,
    bytes: f64,
}

fn listed(answer: &Value, field: &str, title: &str) -> Pruned {
    let ids: Vec<String> =
        items(&answer[field]).iter().filter_map(|i| Some(format!("{}\n", i.as_str()?))).collect();
    let text = if ids.is_empty() { String::new() } else { format!("{title}:\n{}", ids.concat()) };
    let bytes = if ids.is_empty() { 0.0 } else { real(&answer["SpaceReclaimed"]) };
    Pruned { text, bytes }
}

async fn prune_containers(client: &Client, wanted: &[String]) -> Result<Pruned, Failure> {
    let path = url("/containers/prune", &[("filters", &filters(wanted))]);
    let answer = client.post(&path, Payload::Empty).await?;
    Ok(listed(&answer, "ContainersDeleted", "Deleted Containers"))
}

async fn prune_images(client: &Client, wanted: &[String], all: bool) -> Result<Pruned, Failure> {
    let mut wanted = wanted.to_vec();
    wanted.push(format!("dangling={}", if all { "false" } else { "true" }));
    let path = url("/images/prune", &[("filters", &filters(&wanted))]);
    let answer = client.post(&path, Payload::Empty).await?;
    let lines: Vec<String> = items(&answer["ImagesDeleted"])
        .iter()
        .map(|i| match text(i, "Untagged") {
            "" => format!("deleted: {}\n", text(i, "Deleted")),
            name => format!("untagged: {name}\n"),
        })
        .collect();
    let text = if lines.is_empty() {
        String::new()
    } else {
        format!("Deleted Images:\n{}", lines.concat())
    };
    let bytes = if lines.is_empty() { 0.0 } else { real(&answer["SpaceReclaimed"]) };
    Ok(Pruned { text, bytes })
}

async fn prune_volumes(client: &Client, wanted: &[String]) -> Result<Pruned, Failure> {
    let path = url("/volumes/prune", &[("filters", &filters(wanted))]);
    let answer = client.post(&path, Payload::Empty).await?;
    Ok(listed(&answer, "VolumesDeleted", "Deleted Volumes"))
}

async fn prune_networks(client: &Client, wanted: &[String]) -> Result<Pruned, Failure> {
    let path = url("/networks/prune", &[("filters", &filters(wanted))]);
    let answer = client.post(&path, Payload::Empty).await?;
    Ok(listed(&answer, "NetworksDeleted", "Deleted Networks"))
}

/// The filters of the flags and of the configuration.
fn wanted(call: &Call) -> Vec<String> {
    let mut list = call.given.all("filter").to_vec();
    let configured = items(&call.session.config().json["pruneFilters"]);
    list.extend(configured.iter().filter_map(Value::as_str).map(str::to_owned));
    list
}

/// `container prune`
pub async fn containers(call: Call) -> Outcome {
    if !permitted(&call, "This will remove all stopped containers.")? {
        return Ok(());
    }
    report(prune_containers(call.client()?, &wanted(&call)).await?, true)
}

/// `image prune`
pub async fn images(call: Call) -> Outcome {
    let all = call.given.on("all");
    let warning = match all {
        true => "This will remove all images without at least one container associated to them.",
        false => "This will remove all dangling images.",
    };
    if !permitted(&call, warning)? {
        return Ok(());
    }
    report(prune_images(call.client()?, &wanted(&call), all).await?, true)
}

/// `volume prune`
pub async fn volumes(call: Call) -> Outcome {
    let all = call.given.on("all");
    let mut list = wanted(&call);
    let filtered = list.iter().any(|f| f.starts_with("all="));
    if all && filtered {
        return Err("conflicting options: cannot specify both --all and --filter all=1".into());
    }
    let warning = match all || filtered {
        true => "This will remove all local volumes not used by at least one container.",
        false => "This will remove anonymous local volumes not used by at least one container.",
    };
    if all {
        list.push("all=true".to_owned());
    }
    if !permitted(&call, warning)? {
        return Ok(());
    }
    report(prune_volumes(call.client()?, &list).await?, true)
}

/// `network prune`
pub async fn networks(call: Call) -> Outcome {
    let warning = "This will remove all custom networks not used by at least one container.";
    if !permitted(&call, warning)? {
        return Ok(());
    }
    report(prune_networks(call.client()?, &wanted(&call)).await?, false)
}

async fn prune_cache(
    client: &Client,
    wanted: &[String],
    all: bool,
    sizes: &[(&str, String)],
) -> Result<Pruned, Failure> {
    // Cache has no labels.
    let wanted: Vec<String> = wanted.iter().filter(|f| !f.starts_with("label")).cloned().collect();
    let filters = filters(&wanted);
    let mut query = vec![("all", if all { "1" } else { "" }), ("filters", filters.as_str())];
    query.extend(sizes.iter().map(|(k, v)| (*k, v.as_str())));
    let answer = client.post(&url("/build/prune", &query), Payload::Empty).await?;
    let mut pruned = listed(&answer, "CachesDeleted", "Deleted build cache objects");
    pruned.bytes = real(&answer["SpaceReclaimed"]);
    Ok(pruned)
}

/// `builder prune`
pub async fn cache(call: Call) -> Outcome {
    let all = call.given.on("all");
    let warning = match all {
        true => "This will remove all build cache.",
        false => "This will remove all dangling build cache.",
    };
    if !permitted(&call, warning)? {
        return Ok(());
    }
    let sizes = ["keep-storage", "reserved-space", "max-used-space", "min-free-space"];
    let given = sizes.iter().filter(|s| call.given.changed(s));
    let given: Vec<(&str, String)> = given.map(|s| (*s, call.given.bytes(s).to_string())).collect();
    report(prune_cache(call.client()?, call.given.all("filter"), all, &given).await?, true)
}

/// `system prune`
pub async fn system(call: Call) -> Outcome {
    let given = &call.given;
    let (all, volumes) = (given.on("all"), given.on("volumes"));
    let list = wanted(&call);
    if volumes && list.iter().any(|f| f.starts_with("until=")) {
        return Err("ERROR: The \"until\" filter is not supported with \"--volumes\"".into());
    }
    if !permitted(&call, &system_warning(all, volumes, &list))? {
        return Ok(());
    }
    let client = call.client()?;
    let mut bytes = 0.0;
    let mut done =
        vec![prune_containers(client, &list).await?, prune_networks(client, &list).await?];
    if volumes {
        done.push(prune_volumes(client, &list).await?);
    }
    done.push(prune_images(client, &list, all).await?);
    done.push(prune_cache(client, &list, all, &[]).await?);
    for pruned in done {
        bytes += pruned.bytes;
        report(pruned, false)?;
    }
    say_line(format!("Total reclaimed space: {}", size::human(bytes)))
}

fn system_warning(all: bool, volumes: bool, filters: &[String]) -> String {
    let mut lines =
        vec!["all stopped containers", "all networks not used by at least one container"];
    if volumes {
        lines.push("all anonymous volumes not used by at least one container");
    }
    lines.push(match all {
        true => "all images without at least one container associated to them",
        false => "all dangling images",
    });
    lines.push(if all { "all build cache" } else { "unused build cache" });
    let list = |lines: &[&str]| lines.iter().map(|l| format!("\n  - {l}")).collect::<String>();
    let mut text = format!("This will remove:{}\n", list(&lines));
    if !filters.is_empty() {
        let mut sorted: Vec<&str> = filters.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        text.push_str(&format!("\n  Items to be pruned will be filtered with:{}\n", list(&sorted)));
    }
    text
}
