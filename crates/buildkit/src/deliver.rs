//! What goes back to a client over its session: a stream of bytes for a file, files for a directory.

use std::path::Path;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use wharf_base::error::chain;
use wharf_image::ByteStream;
use wharf_sys::root::Root;

use crate::fsutil::{Sender, TransferError};
use crate::line::Line;
use crate::proto::fsutil::types::Packet;
use crate::proto::moby::filesync::v1::BytesMessage;
use crate::session::Session;

/// Bytes of a stream in one message.
const CHUNK: usize = 1 << 20;
/// Messages between the disk and the connection.
const AHEAD: usize = 16;
/// Says to which of its outputs a client puts what comes.
const WHICH: &str = "buildkit-attachable-exporter-id";

/// Sends a stream to the client's output number `which`; gives how many bytes went.
pub(crate) async fn bytes(
    session: &Session,
    which: usize,
    mut bytes: ByteStream,
) -> Result<u64, Status> {
    let (messages, sent) = mpsc::channel(AHEAD);
    let mut request = Request::new(ReceiverStream::new(sent));
    request.metadata_mut().insert(WHICH, AsciiMetadataValue::from(which));
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
                    return Ok(total);
                }
            }
        }
        drop(messages);
        Ok::<_, Status>(total)
    };
    let (received, sent) = tokio::join!(receiving, sending);
    let total = sent?;
    received.map(|()| total)
}

/// Sends a tree to the client's output number `which`, into `below` if there is that; gives how many bytes went.
pub(crate) async fn files(
    session: &Session,
    which: usize,
    tree: Root,
    below: Option<String>,
) -> Result<u64, Status> {
    session.offers("/moby.filesync.v1.FileSend/DiffCopy")?;
    let (to_line, sent) = mpsc::channel(AHEAD);
    let (to_disk, answers) = mpsc::channel(AHEAD);
    let mut request = Request::new(ReceiverStream::new(sent));
    request.metadata_mut().insert(WHICH, AsciiMetadataValue::from(which));
    let walking = tokio::task::spawn_blocking(move || walk(tree, below, &to_line, answers));
    // Packets travel here on a method whose declared message is another.
    let mut line = tonic::client::Grpc::with_origin(session.line()?.clone(), Line::origin());
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
        (Ok(bytes), None) => Ok(bytes),
        (_, Some(status)) => Err(status),
        (Err(error), None) => Err(Status::unknown(chain(&error).to_string())),
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
