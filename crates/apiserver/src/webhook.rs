//! Asking a webhook: one review goes out as JSON, one comes back.

use crate::api::Api;
use crate::reach::{Place, ReachError, Trust, exchange, service, whole};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use std::time::Duration;

/// A webhook that gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// It was not reached.
    #[error("failed to call webhook: Post {url:?}: {source}")]
    Reach {
        /// Whom.
        url: String,
        /// Why.
        source: ReachError,
    },
    /// It answered with an error.
    #[error("the server responded with the status code {0} but did not return more information")]
    Status(u16),
    /// It answered with something that is no JSON.
    #[error("the server's answer is no JSON")]
    Answer(#[source] serde_json::Error),
    /// The request cannot be made.
    #[error("the webhook's address makes no request")]
    Request(#[source] http::Error),
}

/// Sends a review to the webhook that a `clientConfig` names, and reads the answer.
pub async fn call(
    api: &Api,
    config: &Value,
    review: &Value,
    patience: Duration,
) -> Result<Value, WebhookError> {
    let url = match config["url"].as_str() {
        Some(url) => url.to_owned(),
        None => {
            let s = &config["service"];
            let text = |key: &str| s[key].as_str().unwrap_or_default();
            let (port, path) = (s["port"].as_i64().unwrap_or(443), text("path"));
            format!("https://{}.{}.svc:{port}{path}", text("name"), text("namespace"))
        }
    };
    let failed = |source| WebhookError::Reach {
        url: format!("{url}?timeout={}s", patience.as_secs()),
        source,
    };
    let attempt = async {
        let mut place = match config["url"].as_str() {
            Some(url) => Place::url(url).map_err(&failed)?,
            None => service(api, &config["service"], 443).await.map_err(&failed)?,
        };
        place.path = clean(&place.path);
        let mark = if place.path.contains('?') { '&' } else { '?' };
        place.path = format!("{}{mark}timeout={}s", place.path, patience.as_secs());
        let request = Request::post(&place.path)
            .header("host", place.authority())
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .header("user-agent", "wharf-apiserver")
            .body(Full::new(Bytes::from(review.to_string())))
            .map_err(WebhookError::Request)?;
        let trust = Trust::bundle(&config["caBundle"]).map_err(&failed)?;
        let answer = exchange(&place, trust, request).await.map_err(&failed)?;
        let (head, body) = whole(answer).await.map_err(&failed)?;
        if !head.status.is_success() {
            return Err(WebhookError::Status(head.status.as_u16()));
        }
        serde_json::from_slice(&body).map_err(WebhookError::Answer)
    };
    match tokio::time::timeout(patience, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(failed(ReachError::Late)),
    }
}

/// A path without empty parts, as the reference server's client makes it: Go's servers redirect others.
fn clean(path: &str) -> String {
    let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let query = query.map_or(String::new(), |q| format!("?{q}"));
    format!("/{}{query}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_no_empty_parts() {
        for (path, expected) in
            [("//a", "/a"), ("/a//b/", "/a/b"), ("/", "/"), ("", "/"), ("/a?x=//", "/a?x=//")]
        {
            assert_eq!(clean(path), expected);
        }
    }
}
