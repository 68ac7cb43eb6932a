//! A build context on its way to the engine: whole, or only what the engine has not kept.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Method, Response};
use hyper::body::Incoming;
use wharf_spec::listing::Listed;

use super::build_context::Context;
use crate::api::{ApiError, Client, Payload, url};
use crate::failure::Failure;

/// What the engine answers when a context is not as it was listed.
const CONFLICT: u16 = 409;

/// A build that failed, and where.
pub(super) struct Broken {
    pub(super) failure: Failure,
    pub(super) place: Option<(usize, usize)>,
    /// What the engine refused it with.
    pub(super) status: Option<u16>,
}

impl From<ApiError> for Broken {
    fn from(e: ApiError) -> Broken {
        Broken { status: e.status(), failure: e.into(), place: None }
    }
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Broken {
        Broken { failure, place: None, status: None }
    }
}

/// Sends a context: of a large one that the engine has kept only what is new.
pub(super) async fn upload(
    client: &Client,
    query: &[(&str, &str)],
    headers: &[(&'static str, String)],
    context: Context,
    always: Vec<String>,
) -> Result<Response<Incoming>, Broken> {
    let context = Arc::new(context);
    let looking = {
        let context = context.clone();
        let always = move || context.list(&always.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(always)
    };
    let list = Arc::new(looking.await.map_err(|e| Failure::new(e.to_string()))??);
    if let Some(key) = context.key(&list) {
        let text = serde_json::to_vec(&*list).map_err(|e| Failure::new(e.to_string()))?;
        if let Some(missing) = missing(client, &key, text.clone()).await {
            let query = [query, &[("kept", key.as_str())][..]].concat();
            let packing = Packing {
                context: context.clone(),
                list: list.clone(),
                part: Some((text, missing)),
            };
            match packing.send(client, &url("/build", &query), headers).await {
                // It changed on its way, or another build has taken what was kept.
                Err(Broken { status: Some(CONFLICT), .. }) => {}
                other => return other,
            }
        }
    }
    Packing { context, list, part: None }.send(client, &url("/build", query), headers).await
}

/// Places of the listed files that the engine has not kept; `None` if it keeps nothing for us.
async fn missing(client: &Client, key: &str, list: Vec<u8>) -> Option<Vec<usize>> {
    let path = url("/build/context", &[("key", key)]);
    let payload = Payload::Stream(Box::pin(std::io::Cursor::new(list)), "application/json");
    let answer = client.call(Method::POST, &path, payload).await.ok()?;
    serde_json::from_value(answer).ok()
}

/// A context on its way.
struct Packing {
    context: Arc<Context>,
    list: Arc<Vec<Listed>>,
    /// The list as JSON and the places of what is sent, if it is not all.
    part: Option<(Vec<u8>, Vec<usize>)>,
}

impl Packing {
    async fn send(
        self,
        client: &Client,
        path: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Response<Incoming>, Broken> {
        let (reader, writer) = tokio::io::duplex(1 << 20);
        let refused = Arc::new(AtomicBool::new(false));
        let to = tokio_util::io::SyncIoBridge::new(writer);
        let writer = Pipe { to, refused: refused.clone() };
        let packing = tokio::task::spawn_blocking(move || {
            let mut writer = std::io::BufWriter::with_capacity(256 << 10, writer);
            let Packing { context, list, part } = self;
            let places = match &part {
                None => None,
                Some((text, places)) => {
                    writer.write_all(text)?;
                    writer.write_all(b"\n")?;
                    Some(places.as_slice())
                }
            };
            context.pack(writer, &list, places)
        });
        let payload = Payload::Stream(Box::pin(reader), "application/x-tar");
        let sent = client.send(Method::POST, path, payload, headers).await;
        // What could not be read is the better reason for a broken upload, unless the engine did not want the rest.
        let conflict = sent.as_ref().err().and_then(ApiError::status) == Some(CONFLICT);
        if !conflict
            && (sent.is_err() || packing.is_finished())
            && let Ok(Err(failure)) = packing.await
            && !refused.load(Ordering::Relaxed)
        {
            return Err(Broken { failure, place: None, status: None });
        }
        Ok(sent?)
    }
}

/// Knows whether its other end went away before everything was written.
struct Pipe<W> {
    to: W,
    refused: Arc<AtomicBool>,
}

impl<W: Write> Write for Pipe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes).inspect_err(|_| self.refused.store(true, Ordering::Relaxed))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush().inspect_err(|_| self.refused.store(true, Ordering::Relaxed))
    }
}
