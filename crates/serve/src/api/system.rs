//! Ping, version, info, events, disk use and registry logins.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::Stream;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, PRAGMA};
use http::{HeaderValue, StatusCode};
use wharf_engine::EngineError;
use wharf_engine::events::{self, Event, Subscription};
use wharf_engine::filters::{EVENTS, Filters};
use wharf_engine::info::{self, Usage};
use wharf_spec::docker;
use wharf_spec::dockerconfig::AuthConfig;

use super::{Door, versions};
use crate::body::Body;
use crate::call::Call;
use crate::compat;
use crate::fault::Fault;
use crate::reply::{self, Reply};
use crate::version::{ApiVersion, v};

pub(super) async fn ping() -> Result<Reply, Fault> {
    let mut response = reply::text("OK");
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert("Builder-Version", HeaderValue::from_static("2"));
    headers.insert("Swarm", HeaderValue::from_static("inactive"));
    Ok(response)
}

/// As GET, with the length of no body at all: what Go's handlers answer here.
pub(super) async fn ping_head() -> Result<Reply, Fault> {
    let mut response = ping().await?;
    *response.body_mut() = Body::Empty;
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    Ok(response)
}

pub(super) async fn version(door: Arc<Door>) -> Result<Reply, Fault> {
    let (max, min) = versions();
    Ok(reply::ok(&info::version(&max, &min, door.system().experimental)))
}

pub(super) async fn info(door: Arc<Door>, call: Call) -> Result<Reply, Fault> {
    let info = info::info(&door.system(), &door.engine, &door.images).await?;
    Ok(reply::ok(&compat::info(info, call.version)))
}

pub(super) async fn auth(door: Arc<Door>, mut call: Call) -> Result<Reply, Fault> {
    let credentials: AuthConfig = call.json().await?.unwrap_or_default();
    let token = door.images.store().login(&credentials).await.map_err(EngineError::from)?;
    Ok(reply::ok(&docker::AuthResponse { status: "Login Succeeded".into(), identity_token: token }))
}

pub(super) async fn disk_usage(door: Arc<Door>, call: Call) -> Result<Reply, Fault> {
    let types: Vec<_> = call.query.all("type").collect();
    let all = call.version < v(42) || types.is_empty();
    let mut want = Usage { containers: all, images: all, volumes: all, build_cache: all };
    for kind in types.iter().filter(|_| !all) {
        match kind.as_ref() {
            "container" => want.containers = true,
            "image" => want.images = true,
            "volume" => want.volumes = true,
            "build-cache" => want.build_cache = true,
            other => return Err(Fault::invalid(format!("unknown object type: {other}"))),
        }
    }
    let mut usage = info::disk_usage(&door.engine, &door.images, want).await?;
    if usage.build_cache.is_some() {
        let builder = door.builder.clone();
        let list = super::blocking(move || Ok(builder.usage())).await?;
        usage.build_cache = Some(list.iter().map(super::build::usage).collect());
    }
    Ok(reply::ok(&compat::disk_usage(usage, call.version, call.query.truth("verbose"))))
}

pub(super) async fn events(door: Arc<Door>, call: Call) -> Result<Reply, Fault> {
    let filters = call.query.filters(EVENTS)?;
    let (since, until) = (call.query.time("since")?, call.query.time("until")?);
    if let (Some(s), Some(u)) = (since, until)
        && u < s
    {
        return Err(Fault::invalid(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            call.query.text("since"),
            call.query.text("until")
        )));
    }
    let form = Form::choose(call.header(ACCEPT), call.version);
    let subscription = door.engine.events().subscribe(since, until);
    Ok(reply::stream(form.content_type(), lines(subscription, filters, form, call.version)))
}

fn lines(
    subscription: Subscription,
    filters: Filters,
    form: Form,
    version: ApiVersion,
) -> impl Stream<Item = std::io::Result<Bytes>> {
    futures_util::stream::unfold((subscription, filters), move |(mut events, filters)| async move {
        loop {
            let event = events.next().await?;
            if events::passes(&event, &filters) && compat::has_event(&event, version) {
                return Some((Ok(form.encode(&event, version)), (events, filters)));
            }
        }
    })
}

/// How events are separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Lines, called `application/json` before 1.52.
    Json,
    /// Lines, under their newer name.
    Lines,
    /// Lines, under the name that a client may prefer.
    NdJson,
    /// RFC 7464: a record separator before each.
    Sequence,
}

impl Form {
    /// By the `Accept` header, which counts only where it names a form exactly.
    fn choose(accept: &str, version: ApiVersion) -> Form {
        let mut best = (0.0, None);
        for offer in [Form::Lines, Form::NdJson, Form::Sequence] {
            let quality = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let named = parts.next()? == offer.content_type();
                let q =
                    parts.find_map(|p| p.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse().ok());
                q.filter(|_| named)
            });
            let quality = quality.fold(0.0, f32::max);
            if quality > best.0 {
                best = (quality, Some(offer));
            }
        }
        best.1.unwrap_or(if version < v(52) { Form::Json } else { Form::Lines })
    }

    const fn content_type(self) -> &'static str {
        match self {
            Form::Json => "application/json",
            Form::Lines => "application/jsonl",
            Form::NdJson => "application/x-ndjson",
            Form::Sequence => "application/json-seq",
        }
    }

    fn encode(self, event: &Event, version: ApiVersion) -> Bytes {
        let line = reply::line(&compat::event(event, version));
        if self == Form::Sequence {
            return [&[0x1e], line.as_slice()].concat().into();
        }
        line.into()
    }
}

/// The clock for prune filters.
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

/// 201.
pub(super) const CREATED: StatusCode = StatusCode::CREATED;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_forms_follow_version_and_accept() {
        let check = |accept: &str, minor, expected| {
            assert_eq!(Form::choose(accept, v(minor)), expected, "{accept:?} {minor}");
        };
        check("", 51, Form::Json);
        check("", 52, Form::Lines);
        check("*/*, application/*", 52, Form::Lines);
        check("application/json-seq", 51, Form::Sequence);
        check("application/x-ndjson;q=0.5, application/json-seq;q=0.9", 53, Form::Sequence);
        check("application/x-ndjson, application/jsonl", 53, Form::Lines);
        check("application/x-ndjson;q=0", 53, Form::Lines);
    }
}
