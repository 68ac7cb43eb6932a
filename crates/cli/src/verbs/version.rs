//! `version`.

use serde_json::{Value, json};

use super::{Outcome, items, text};
use crate::api::API_VERSION;
use crate::app::{Call, say, say_line};
use crate::conf::context;
use crate::failure::Failure;
use crate::out::table::{self, align};

/// `version`
pub async fn version(call: Call) -> Outcome {
    let format = call.given.text("format");
    let template = match format {
        "" => None,
        "json" => Some(table::parse("{{json .}}")?),
        text => Some(table::parse(text).map_err(|f| f.with_status(64))?),
    };
    let client = call.client()?;
    let server = client.get("/version").await;
    let own = own(&call, Some(client.version()));
    let answer = server.as_ref().ok();
    match template {
        Some(template) => {
            let data = json!({"Client": own, "Server": answer.map(dated)});
            // JSON shows the fields by one name, Go's templates by another.
            let data = if table::is_json(format) { data } else { with_names(data) };
            say_line(template.execute(&data).map_err(table::parsing)?)?;
        }
        None => say(align(&plain(&own, answer), 20, 1))?,
    }
    server.map(drop).map_err(Failure::from)
}

/// The name that Go's templates use beside the one of the JSON.
fn with_names(mut data: Value) -> Value {
    for side in ["Client", "Server"] {
        if data[side].is_object() {
            data[side]["APIVersion"] = data[side]["ApiVersion"].clone();
        }
    }
    data
}

/// The answer with the build times of its components as C prints them.
fn dated(server: &Value) -> Value {
    let mut server = server.clone();
    for component in server["Components"].as_array_mut().into_iter().flatten() {
        if let Some(Value::String(time)) = component["Details"].get_mut("BuildTime") {
            *time = built(time);
        }
    }
    server
}

/// What wharf says of itself, in docker's order.
pub fn own(call: &Call, asked: Option<String>) -> Value {
    let mut own = json!({"Version": env!("CARGO_PKG_VERSION")});
    if let Some(version) = asked {
        own["ApiVersion"] = version.into();
    }
    for (name, value) in [
        ("DefaultAPIVersion", API_VERSION),
        ("GitCommit", "unknown"),
        ("GoVersion", "none"),
        ("Os", "linux"),
        ("Arch", arch()),
        ("BuildTime", "unknown"),
        ("Context", &context::current(&call.session)),
    ] {
        own[name] = value.into();
    }
    own
}

/// The processor as Go names it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn plain(client: &Value, server: Option<&Value>) -> String {
    let of = |name: &str| text(client, name);
    let mut out = format!(
        "Client:\n Version:\t{}\n API version:\t{}\n Go version:\t{}\n Git commit:\t{}\n Built:\t{}\n OS/Arch:\t{}/{}\n Context:\t{}\n",
        of("Version"),
        of("ApiVersion"),
        of("GoVersion"),
        of("GitCommit"),
        of("BuildTime"),
        of("Os"),
        of("Arch"),
        of("Context")
    );
    let Some(server) = server else { return out };
    let platform = text(&server["Platform"], "Name");
    let space = if platform.is_empty() { "" } else { " " };
    out.push_str(&format!("\nServer:{space}{platform}\n"));
    for component in items(&server["Components"]) {
        out.push_str(&format!(" {}:\n", text(component, "Name")));
        out.push_str(&format!("  Version:\t{}\n", text(component, "Version")));
        let details = &component["Details"];
        let detail = |name: &str| text(details, name);
        if text(component, "Name") == "Engine" {
            out.push_str(&format!(
                "  API version:\t{} (minimum version {})\n  Go version:\t{}\n  Git commit:\t{}\n  Built:\t{}\n  OS/Arch:\t{}/{}\n  Experimental:\t{}\n",
                detail("ApiVersion"),
                detail("MinAPIVersion"),
                detail("GoVersion"),
                detail("GitCommit"),
                built(detail("BuildTime")),
                detail("Os"),
                detail("Arch"),
                detail("Experimental")
            ));
            continue;
        }
        let mut names: Vec<&String> =
            details.as_object().map(|d| d.keys().collect()).unwrap_or_default();
        names.sort();
        for name in names {
            out.push_str(&format!("  {name}:\t{}\n", detail(name)));
        }
    }
    out
}

/// A build time as C prints it.
fn built(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(at) => {
            let utc = at.to_zoned(jiff::tz::TimeZone::UTC);
            utc.strftime("%a %b %e %H:%M:%S %Y").to_string()
        }
        Err(_) => time.to_owned(),
    }
}
