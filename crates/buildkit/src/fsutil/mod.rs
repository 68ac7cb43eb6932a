//! The file transfer protocol of sessions: entries in order, wishes by number, bytes.
//!
//! One side walks a tree and sends a STAT for every entry, then an empty one. The other asks with REQ for the
//! files that it wants, by their place among the STATs, and gets their bytes in DATA packets, an empty one at the
//! end of each file. When it has all, it sends FIN and gets a FIN. ERR ends everything.

mod entry;
mod receive;
mod send;

pub(crate) use entry::stat;
pub(crate) use receive::{Receiver, Step};
pub(crate) use send::Sender;

use prost::Message as _;
use wharf_sys::root::Root;

use crate::proto::fsutil::types::packet::PacketType;
use crate::proto::fsutil::types::{Packet, Stat};

/// What is wrong with what the other side sent, or with the disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    /// The other side gave up.
    #[error("{0}")]
    Peer(String),
    /// It broke the rules.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The disk failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl TransferError {
    fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |source| TransferError::Io { action, path, source }
    }
}

/// An entry, or the end of the entries.
pub(crate) fn stat_packet(stat: Option<Stat>) -> Packet {
    Packet { r#type: PacketType::PacketStat.into(), stat, ..Packet::default() }
}

/// The wish for a file's bytes.
fn request(id: u32) -> Packet {
    Packet { r#type: PacketType::PacketReq.into(), id, ..Packet::default() }
}

/// Bytes of a file; none is its end.
fn data(id: u32, data: bytes::Bytes) -> Packet {
    Packet { r#type: PacketType::PacketData.into(), id, data, ..Packet::default() }
}

/// All is said.
fn fin() -> Packet {
    Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() }
}

/// Giving up, and why.
pub(crate) fn error(text: String) -> Packet {
    Packet { r#type: PacketType::PacketErr.into(), data: text.into(), ..Packet::default() }
}

/// Takes a tree that comes as packets one after another, each after its length as a varint, into a directory; files that
/// look the same are taken from `base`. Says whether the tree is complete. For tests with any bytes.
pub fn take_packets(mut bytes: &[u8], into: Root, base: Option<Root>) -> Result<bool, String> {
    let mut receiver = Receiver::new(into, base);
    while !bytes.is_empty() {
        let packet = Packet::decode_length_delimited(&mut bytes).map_err(|e| e.to_string())?;
        let step = receiver.take(packet);
        match step.map_err(|e| wharf_base::error::chain(&e).to_string())? {
            Step::Go(_) => {}
            Step::Done => return Ok(true),
        }
    }
    Ok(false)
}
