//! Blobs in directories of the client, over its session: layouts and caches that are written there and read from there.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::ReaderStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status};
use wharf_base::error::chain;
use wharf_build::Blobs;
use wharf_image::{ByteStream, Image, ImageStore};
use wharf_spec::digest::Digest;
use wharf_spec::image::Descriptor;

use crate::proto::containerd::services::content::v1::{
    ReadContentRequest, WriteAction, WriteContentRequest,
};
use crate::session::Session;

/// Says which directory of a client is meant.
const WHICH: &str = "buildkit-attachable-store-id";
/// Bytes of a blob in one message; a client written in Go takes 4 MiB.
const CHUNK: usize = 1 << 20;
/// Messages between the disk and the connection.
const AHEAD: usize = 4;

/// One directory of a client.
#[derive(Clone)]
pub(crate) struct Directory {
    session: Arc<Session>,
    /// As the client calls it.
    id: AsciiMetadataValue,
}

impl Directory {
    /// The directory `id` of a client; `Unimplemented` if it offers none.
    pub(crate) fn new(session: Arc<Session>, id: &str) -> Result<Directory, Status> {
        session.content()?;
        let wrong = |_| {
            Status::invalid_argument(format!(
                "the path {id:?} cannot be sent: use a directory whose path is plain ASCII"
            ))
        };
        Ok(Directory { session, id: AsciiMetadataValue::try_from(id).map_err(wrong)? })
    }

    /// Puts everything there that an image is made of, its manifest last; gives how many bytes went.
    pub(crate) async fn put_image(&self, store: &ImageStore, image: &Image) -> Result<u64, Status> {
        let _held = store.lease(image).map_err(failed)?;
        let layers = image.layers().iter().map(|l| &l.blob);
        let mut total = 0;
        for digest in layers.chain([image.id(), &image.manifest().digest]) {
            total += self.put_blob(store, digest).await?;
        }
        Ok(total)
    }

    /// Puts a blob of the store there, which somebody holds; gives how many bytes went.
    pub(crate) async fn put_blob(
        &self,
        store: &ImageStore,
        digest: &Digest,
    ) -> Result<u64, Status> {
        let file = store.content().file(digest).map_err(failed)?;
        let size = file.metadata().map_or(0, |m| m.len());
        let bytes = ReaderStream::with_capacity(tokio::fs::File::from_std(file), CHUNK);
        let is_new = self.put(digest, size, Box::pin(bytes)).await?;
        Ok(if is_new { size } else { 0 })
    }

    /// Puts a document there.
    pub(crate) async fn put_bytes(&self, of: &Descriptor, bytes: Vec<u8>) -> Result<(), Status> {
        let bytes = futures_util::stream::iter([Ok(Bytes::from(bytes))]);
        self.put(&of.digest, of.size, Box::pin(bytes)).await.map(drop)
    }

    /// Puts a blob there; false if it was there already.
    async fn put(&self, digest: &Digest, size: u64, bytes: ByteStream) -> Result<bool, Status> {
        let (messages, sent) = mpsc::channel(AHEAD);
        let total = i64::try_from(size).unwrap_or(i64::MAX);
        let begin = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: digest.to_string(),
            total,
            expected: digest.to_string(),
            ..WriteContentRequest::default()
        };
        let end = WriteContentRequest { action: WriteAction::Commit.into(), ..begin.clone() };
        // There is room for the first of them.
        drop(messages.send(begin).await);
        let answers = self.session.content()?.write(self.about(ReceiverStream::new(sent))).await;
        let mut answers = match answers {
            Err(status) if status.code() == Code::AlreadyExists => return Ok(false),
            answers => answers?.into_inner(),
        };
        match answers.message().await {
            Err(status) if status.code() == Code::AlreadyExists => return Ok(false),
            other => drop(other?),
        }
        let answering = async {
            let mut committed = false;
            while let Some(answer) = answers.message().await? {
                committed |= answer.action() == WriteAction::Commit;
            }
            Ok::<_, Status>(committed)
        };
        let (committed, ()) = tokio::try_join!(answering, feed(bytes, messages, end))?;
        match committed {
            true => Ok(true),
            false => Err(Status::aborted(format!("the client did not keep the blob {digest}"))),
        }
    }

    fn about<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(WHICH, self.id.clone());
        request
    }
}

fn failed(e: wharf_image::StoreError) -> Status {
    Status::unknown(chain(&e).to_string())
}

/// Sends a blob from its beginning, also where a part of it had arrived before, and `end`.
async fn feed(
    mut bytes: ByteStream,
    messages: mpsc::Sender<WriteContentRequest>,
    mut end: WriteContentRequest,
) -> Result<(), Status> {
    while let Some(block) = bytes.next().await {
        let mut block: Bytes = block.map_err(|e| Status::internal(e.to_string()))?;
        while !block.is_empty() {
            let data = block.split_to(block.len().min(CHUNK));
            let (offset, length) = (end.offset, data.len());
            let action = WriteAction::Write.into();
            let message = WriteContentRequest { action, offset, data, ..Default::default() };
            if messages.send(message).await.is_err() {
                // The answers say why.
                return Ok(());
            }
            end.offset += i64::try_from(length).unwrap_or(0);
        }
    }
    drop(messages.send(end).await);
    Ok(())
}

impl Blobs for Directory {
    fn read<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<ByteStream, String>> {
        Box::pin(async move {
            let request =
                ReadContentRequest { digest: digest.to_string(), ..ReadContentRequest::default() };
            let text = |status: Status| status.message().to_owned();
            let mut client = self.session.content().map_err(text)?;
            let answers = client.read(self.about(request)).await.map_err(text)?.into_inner();
            let bytes: ByteStream = Box::pin(answers.map(|message| match message {
                Ok(message) => Ok(message.data),
                Err(status) => Err(std::io::Error::other(status.message().to_owned())),
            }));
            Ok(bytes)
        })
    }
}
