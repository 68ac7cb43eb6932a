//! The verbs, one file for each kind of work.

pub mod archive;
pub mod attach;
pub mod build;
mod build_cache;
mod build_context;
mod build_output;
mod build_upload;
mod build_view;
pub mod builder;
pub mod commit;
pub mod completion;
pub mod compose;
pub mod context;
pub mod cp;
pub mod create_options;
pub mod df;
pub mod dial;
pub mod events;
pub mod exec;
mod image_tree;
pub mod images;
pub mod info;
pub mod inspect;
pub mod lifecycle;
pub mod login;
pub mod logs;
pub mod network;
pub mod port;
pub mod prune;
pub mod ps;
pub mod pull;
pub mod push;
pub mod run;
pub mod start;
pub mod stats;
mod unpack;
pub mod update;
pub mod version;
pub mod volume;

use serde_json::Value;

use crate::app::Call;

/// What every verb returns.
pub type Outcome = Result<(), crate::failure::Failure>;

/// The format of a list: the flag, else the configuration, else a table.
pub fn list_format(call: &Call, configured: &str) -> String {
    let quiet = call.given.on("quiet");
    match (call.given.text("format"), configured) {
        ("", "") => "table".to_owned(),
        ("", name) if !quiet => match call.session.config().text(name) {
            "" => "table".to_owned(),
            format => format.to_owned(),
        },
        ("", _) => "table".to_owned(),
        (format, _) => format.to_owned(),
    }
}

/// `k=v` pairs of an object, sorted and joined by commas.
pub fn joined_labels(labels: &Value) -> String {
    let Some(map) = labels.as_object() else { return String::new() };
    let mut pairs: Vec<String> =
        map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    pairs.sort();
    pairs.join(",")
}

/// An age such as `3 minutes ago`.
pub fn ago(created: i64) -> String {
    let now = jiff::Timestamp::now().as_second();
    format!("{} ago", crate::parse::duration::human(now - created))
}

/// A string inside a value, or empty.
pub fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

/// The elements of a list; none when it is null.
pub fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A number as docker counts: missing is zero.
pub fn count(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// A number for arithmetic: missing is zero.
pub fn real(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}
