//! `events`.

use http::Method;
use jiff::Timestamp;
use serde_json::Value;

use super::{Outcome, text};
use crate::api::{JsonStream, Payload, filters, url};
use crate::app::{Call, say_line};
use crate::failure::Failure;
use crate::out::table;
use crate::parse::time;

/// `events`
pub async fn events(call: Call) -> Outcome {
    let given = &call.given;
    let template = match given.text("format") {
        "" => None,
        "json" => Some(table::parse("{{json .}}")?),
        text => Some(table::parse(text).map_err(|f| f.with_status(64))?),
    };
    let moment = |flag: &str| match given.text(flag) {
        "" => Ok(String::new()),
        text => time::api(text, Timestamp::now()),
    };
    let (since, until) = (moment("since")?, moment("until")?);
    let wanted = filters(given.all("filter"));
    let path = url("/events", &[("filters", &wanted), ("since", &since), ("until", &until)]);
    let response = call.client()?.send(Method::GET, &path, Payload::Empty, &[]).await?;
    let mut stream = JsonStream::new(response);
    while let Some(event) = stream.next().await? {
        match &template {
            None => say_line(line(&event))?,
            Some(template) => {
                let shown = template.execute(&with_names(&event));
                say_line(shown.map_err(|e| Failure::new(e.to_string()))?)?;
            }
        }
    }
    Ok(())
}

/// The names that docker's templates know beside those of the JSON.
fn with_names(event: &Value) -> Value {
    let mut event = event.clone();
    for (go, json) in [
        ("Time", "time"),
        ("TimeNano", "timeNano"),
        ("Scope", "scope"),
        ("Status", "status"),
        ("From", "from"),
    ] {
        if let Some(value) = event.get(json).cloned() {
            event[go] = value;
        }
    }
    event
}

fn line(event: &Value) -> String {
    let nanos = event["timeNano"].as_i64().filter(|n| *n != 0);
    let at = match nanos {
        Some(nanos) => {
            Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
        }
        None => time::from_unix(event["time"].as_i64().unwrap_or(0)),
    };
    let actor = &event["Actor"];
    let mut attributes: Vec<String> = actor["Attributes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    attributes.sort();
    let attributes = match attributes.is_empty() {
        true => String::new(),
        false => format!(" ({})", attributes.join(", ")),
    };
    format!(
        "{} {} {} {}{attributes}",
        time::rfc3339_local(at, 9),
        text(event, "Type"),
        text(event, "Action"),
        text(actor, "ID")
    )
}
