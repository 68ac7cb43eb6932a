//! Files into and out of containers, as tar archives.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use wharf_engine::options::ArchivePut;
use wharf_spec::docker;

use super::containers::headless;
use super::{Door, complete};
use crate::call::Call;
use crate::coding::Coding;
use crate::fault::Fault;
use crate::query::Query;
use crate::reply::{self, Reply};

pub(super) async fn stat(door: &Door, name: &str, call: &Call) -> Result<Reply, Fault> {
    let stat = door.engine.archive_stat(name, &path(&call.query)?).await?;
    let mut response = headless();
    describe(response.headers_mut(), &stat);
    Ok(response)
}

pub(super) async fn fetch(door: &Door, name: &str, call: &Call) -> Result<Reply, Fault> {
    let (stat, tar) = door.engine.archive_get(name, &path(&call.query)?).await?;
    let coding = Coding::choose(call.header(ACCEPT_ENCODING));
    let mut response = reply::stream("application/x-tar", coding.apply(tar));
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Some(name) = coding.name() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    describe(headers, &stat);
    Ok(response)
}

pub(super) async fn put(door: Arc<Door>, name: String, call: Call) -> Result<Reply, Fault> {
    let path = path(&call.query)?;
    let options = ArchivePut {
        no_overwrite_dir_non_dir: call.query.truth("noOverwriteDirNonDir"),
        copy_uid_gid: call.query.truth("copyUIDGID"),
    };
    let archive = call.into_reader();
    complete(async move { door.engine.archive_put(&name, &path, options, archive).await }).await?;
    Ok(reply::status(StatusCode::OK))
}

fn path(query: &Query) -> Result<String, Fault> {
    query.some("path").ok_or_else(|| Fault::invalid("bad parameter: path cannot be empty"))
}

fn describe(headers: &mut HeaderMap, stat: &docker::PathStat) {
    let mut json = reply::line(stat);
    json.pop();
    // Base64 is always a legal header value.
    if let Ok(value) = HeaderValue::try_from(BASE64_STANDARD.encode(json)) {
        headers.insert("X-Docker-Container-Path-Stat", value);
    }
}
