//! What becomes of a result: an image of the store, or files and archives that go back to the client.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use wharf_base::error::chain;
use wharf_build::Built;
use wharf_image::{ByteStream, Image};
use wharf_spec::reference::Reference;
use wharf_sys::root::Root;

use crate::builds::Build;
use crate::fsutil::{Sender, TransferError};
use crate::journal::{Part, Task};
use crate::kit::BuildKit;
use crate::line::Line;
use crate::options::boolean;
use crate::proto::fsutil::types::Packet;
use crate::proto::moby::buildkit::v1::Exporter;
use crate::proto::moby::filesync::v1::BytesMessage;
use crate::session::Session;
use crate::solve::Outcome;

/// Bytes of an archive in one message.
const CHUNK: usize = 1 << 20;
/// Messages between the disk and the connection.
const AHEAD: usize = 16;
/// Says to which of its outputs a client puts what comes.
const WHICH: &str = "buildkit-attachable-exporter-id";

type Answer = HashMap<String, String>;
type Outcomes = [(Option<String>, Arc<Outcome>)];

/// Exports results in every way that was asked for.
pub(crate) async fn export(
    kit: &BuildKit,
    build: &Arc<Build>,
    outcomes: &Outcomes,
) -> Result<Answer, Status> {
    let mut answer = Answer::new();
    for (which, exporter) in exporters(build).iter().enumerate() {
        let output = Output { kit, build, which, attrs: &exporter.attrs };
        answer.extend(match exporter.r#type.as_str() {
            "moby" | "image" => output.image(outcomes).await?,
            "oci" | "docker" => output.archive(&exporter.r#type, outcomes).await?,
            "local" => output.files(outcomes).await?,
            "tar" => output.tar(outcomes).await?,
            other => {
                return Err(Status::unimplemented(format!(
                    "exporter {other:?} could not be found"
                )));
            }
        });
    }
    Ok(answer)
}

/// Refuses outputs that cannot be, before anything is built.
pub(crate) fn check(build: &Build) -> Result<(), Status> {
    for exporter in exporters(build) {
        let known: &[&str] = match exporter.r#type.as_str() {
            "moby" | "image" => {
                &["name", "push", "unpack", "store", "name-canonical", "dangling-name-prefix"]
            }
            "oci" | "docker" => &["name", "tar", "context", "dest"],
            "local" => &["platform-split", "dest", "mode"],
            "tar" => &["platform-split", "dest"],
            _ => continue,
        };
        for (key, value) in &exporter.attrs {
            if !known.contains(&key.as_str()) && !is_ours(key, value) {
                return Err(Status::unimplemented(format!(
                    "the option {key}={value} of the {} output is not supported by wharf",
                    exporter.r#type
                )));
            }
        }
    }
    Ok(())
}

/// Whether an option asks for what wharf does anyway.
fn is_ours(key: &str, value: &str) -> bool {
    match key {
        // Compose 2.26 asks for the image in the engine's store, where it goes anyway.
        "load" => boolean(value) == Some(true),
        "compression" => ["", "uncompressed"].contains(&value),
        "oci-mediatypes" | "rewrite-timestamp" | "prefer-image-digest" => {
            boolean(value) == Some(true)
        }
        "force-compression" | "push-by-digest" | "registry.insecure" | "oci-artifact" => {
            boolean(value) == Some(false)
        }
        _ => false,
    }
}

/// The exporters of a build, also of clients that know only one.
fn exporters(build: &Build) -> Vec<Exporter> {
    let request = &build.request;
    if request.exporters.is_empty() && !request.exporter.is_empty() {
        let (r#type, attrs) = (request.exporter.clone(), request.exporter_attrs.clone());
        return vec![Exporter { r#type, attrs }];
    }
    request.exporters.clone()
}

struct Output<'a> {
    kit: &'a BuildKit,
    build: &'a Arc<Build>,
    /// Its place among the client's outputs.
    which: usize,
    attrs: &'a HashMap<String, String>,
}

impl Output<'_> {
    fn names(&self) -> Result<Vec<Reference>, Status> {
        let texts = self.attrs.get("name").map_or("", String::as_str).split(',');
        let parse = |text: &str| {
            let name = Reference::parse(text)
                .map_err(|e| Status::unknown(format!("invalid image name {text:?}: {e}")))?;
            Ok(name.or_latest())
        };
        texts.filter(|t| !t.is_empty()).map(parse).collect()
    }

    async fn session(&self) -> Result<Arc<Session>, Status> {
        self.kit.sessions().find(&self.build.request.session).await
    }

    fn flag(&self, key: &str) -> bool {
        self.attrs.get(key).and_then(|v| boolean(v)).unwrap_or(false)
    }

    /// An image of the store.
    async fn image(&self, outcomes: &Outcomes) -> Result<Answer, Status> {
        let Some(outcome) = single(outcomes)? else { return Ok(Answer::new()) };
        let names = self.names()?;
        let push = self.flag("push");
        let task = self.build.journal.task("exporting to image");
        let image = task_end(task, self.stored(outcome, &names, Some(())).await, |image, task| {
            task.part(Part::word(format!("writing image {}", image.id())));
            for name in &names {
                task.part(Part::word(format!("naming to {name}")));
            }
        })?;
        let mut answer = answer(&image, &names);
        if push {
            for name in &names {
                let digest = self.kit.push(self.build, self.session().await?, name).await?;
                answer.insert("containerimage.digest".to_owned(), digest);
            }
        }
        Ok(answer)
    }

    /// The result as an image of the store. `shown`: people hear of it.
    async fn stored(
        &self,
        outcome: &Outcome,
        names: &[Reference],
        shown: Option<()>,
    ) -> Result<Image, Status> {
        let (built, names) = (outcome.built.clone(), names.to_vec());
        let stored = names.clone();
        let image = blocking(move || built.store(&stored).map_err(failed)).await?;
        if shown.is_some() {
            let id = image.id().to_string();
            for name in &names {
                self.kit.images().tell("tag", &id, &name.familiar(), Some(&image));
            }
        }
        Ok(image)
    }

    /// A tar of an image, in docker's and OCI's layout at once.
    async fn archive(&self, kind: &str, outcomes: &Outcomes) -> Result<Answer, Status> {
        if self.attrs.get("tar").and_then(|v| boolean(v)) == Some(false) {
            let text =
                format!("--output type={kind},tar=false is not supported by wharf: use a tar");
            return Err(Status::unimplemented(text));
        }
        let Some(outcome) = single(outcomes)? else { return Ok(Answer::new()) };
        let names = self.names()?;
        let task = self.build.journal.task(format!("exporting to {kind} image format"));
        let send = async {
            let store = self.kit.images().store().clone();
            let image = self.stored(outcome, &[], None).await?;
            let tar = store.archive(&image, &names).map_err(|e| failed(e.into()))?;
            self.send(tar, &task, "sending tarball").await?;
            Ok(answer(&image, &names))
        };
        let sent = send.await;
        task.end(sent)
    }

    /// A tar of the files.
    async fn tar(&self, outcomes: &Outcomes) -> Result<Answer, Status> {
        let Some(outcome) = single(outcomes)? else { return Ok(Answer::new()) };
        let task = self.build.journal.task("exporting to client tarball");
        let send = async {
            let tar = outcome.built.tar().map_err(failed)?;
            self.send(tar, &task, "sending tarball").await
        };
        let sent = send.await;
        task.end(sent).map(|()| Answer::new())
    }

    /// The files themselves, in a directory of the client; a directory each for several platforms.
    async fn files(&self, outcomes: &Outcomes) -> Result<Answer, Status> {
        let split = match self.attrs.get("platform-split").and_then(|v| boolean(v)) {
            Some(split) => split,
            None => outcomes.iter().any(|(name, _)| name.is_some()),
        };
        let task = self.build.journal.task("exporting to client directory");
        let send = async {
            for (name, outcome) in outcomes {
                let below = name.as_deref().filter(|_| split).map(|n| n.replace('/', "_"));
                self.copy(&outcome.built, below, &task).await?;
            }
            Ok(Answer::new())
        };
        let sent = send.await;
        task.end(sent)
    }

    /// Sends a stream of bytes to the client's file.
    async fn send(&self, mut bytes: ByteStream, task: &Task, what: &str) -> Result<(), Status> {
        let session = self.session().await?;
        let (messages, sent) = mpsc::channel(AHEAD);
        let mut request = Request::new(ReceiverStream::new(sent));
        let which = AsciiMetadataValue::from(self.which);
        request.metadata_mut().insert(WHICH, which);
        let mut client = session.file_send()?;
        let receiving = async {
            let mut answers = client.diff_copy(request).await?.into_inner();
            // The client says nothing but how it ended.
            while answers.message().await?.is_some() {}
            Ok::<_, Status>(())
        };
        let sending = async {
            let mut total = 0;
            while let Some(block) = bytes.next().await {
                let mut block: Bytes = block.map_err(|e| Status::internal(e.to_string()))?;
                total += block.len() as u64;
                while !block.is_empty() {
                    let data = block.split_to(block.len().min(CHUNK));
                    if messages.send(BytesMessage { data }).await.is_err() {
                        return Ok(());
                    }
                }
            }
            let part =
                Part { id: what.into(), name: what.into(), current: total, total, done: true };
            task.part(part);
            drop(messages);
            Ok::<_, Status>(())
        };
        let (received, sent) = tokio::join!(receiving, sending);
        sent.and(received)
    }

    /// Sends files to the client's directory, `below` a directory in it.
    async fn copy(&self, built: &Built, below: Option<String>, task: &Task) -> Result<(), Status> {
        let tree = built.tree().map_err(failed)?;
        let session = self.session().await?;
        session.offers("/moby.filesync.v1.FileSend/DiffCopy")?;
        let (to_line, sent) = mpsc::channel(AHEAD);
        let (to_disk, answers) = mpsc::channel(AHEAD);
        let mut request = Request::new(ReceiverStream::new(sent));
        request.metadata_mut().insert(WHICH, AsciiMetadataValue::from(self.which));
        let walking = tokio::task::spawn_blocking(move || walk(tree, below, &to_line, answers));
        // Packets travel here on a method whose declared message is another.
        let mut line = tonic::client::Grpc::with_origin(session.line().clone(), Line::origin());
        line.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let path = PathAndQuery::from_static("/moby.filesync.v1.FileSend/DiffCopy");
        let codec = ProstCodec::<Packet, Packet>::default();
        let mut packets = line.streaming(request, path, codec).await?.into_inner();
        let mut broken = None;
        loop {
            match packets.message().await {
                Ok(Some(packet)) => {
                    if to_disk.send(packet).await.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(status) => {
                    broken = Some(status);
                    break;
                }
            }
        }
        drop(to_disk);
        let walked = walking.await.map_err(|e| Status::internal(e.to_string()))?;
        match (walked, broken) {
            (Ok(bytes), None) => {
                let what = "copying files";
                let (id, name) = (what.to_owned(), what.to_owned());
                task.part(Part { id, name, current: bytes, total: bytes, done: true });
                Ok(())
            }
            (_, Some(status)) => Err(status),
            (Err(error), None) => Err(Status::unknown(chain(&error).to_string())),
        }
    }
}

/// The disk's side of sending files; gives the bytes that went.
fn walk(
    tree: Root,
    below: Option<String>,
    out: &mpsc::Sender<Packet>,
    mut answers: mpsc::Receiver<Packet>,
) -> Result<u64, TransferError> {
    let failed = |source| TransferError::Io { action: "read", path: "/".into(), source };
    let mut sender = Sender::new(tree, below.as_deref().map(Path::new)).map_err(failed)?;
    let mut bytes = 0;
    loop {
        while let Ok(packet) = answers.try_recv() {
            sender.take(&packet)?;
        }
        let packet = match sender.next()? {
            Some(packet) => packet,
            None => match answers.blocking_recv() {
                Some(packet) => {
                    sender.take(&packet)?;
                    continue;
                }
                // Whoever closed the line has said why.
                None => return Ok(bytes),
            },
        };
        bytes += prost::Message::encoded_len(&packet) as u64;
        if out.blocking_send(packet).is_err() || sender.ended() {
            return Ok(bytes);
        }
    }
}

/// The one result that an image or an archive is made of.
fn single(outcomes: &Outcomes) -> Result<Option<&Outcome>, Status> {
    match outcomes {
        [] => Ok(None),
        [(_, outcome)] => Ok(Some(outcome)),
        _ => Err(Status::unimplemented(
            "wharf makes images of one platform: give one --platform, or use --output type=local",
        )),
    }
}

/// What clients read about an image. Without a push nothing but its id names it.
fn answer(image: &Image, names: &[Reference]) -> Answer {
    let id = image.id().to_string();
    let mut answer = Answer::from([
        ("containerimage.config.digest".to_owned(), id.clone()),
        ("containerimage.digest".to_owned(), id),
    ]);
    if !names.is_empty() {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        answer.insert("image.name".to_owned(), names.join(","));
    }
    answer
}

fn task_end<T>(
    task: Task,
    result: Result<T, Status>,
    tell: impl FnOnce(&T, &Task),
) -> Result<T, Status> {
    if let Ok(value) = &result {
        tell(value, &task);
    }
    task.end(result)
}

fn failed(error: wharf_build::BuildError) -> Status {
    Status::unknown(chain(&error).to_string())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Status::internal(e.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_change_nothing_pass() {
        for (key, value) in [
            ("compression", "uncompressed"),
            ("oci-mediatypes", "true"),
            ("prefer-image-digest", "true"),
            ("push-by-digest", "false"),
        ] {
            assert!(is_ours(key, value), "{key}={value}");
        }
        for (key, value) in
            [("compression", "zstd"), ("annotation.a", "b"), ("oci-mediatypes", "false")]
        {
            assert!(!is_ours(key, value), "{key}={value}");
        }
    }
}
