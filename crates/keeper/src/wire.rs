//! Packing messages into packets; what is long travels as a memory file.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::Serialize;
use serde::de::DeserializeOwned;
use wharf_sys::{channel, scratch};

use crate::protocol::VERSION;

/// Longest message that is a packet itself.
const INLINE: usize = 4096;
/// Longest message at all. Linux lets a program have 2 MiB of arguments and environment.
const LONGEST: usize = 16 << 20;

/// The first byte of a packet.
const HERE: u8 = 0;
const IN_FILE: u8 = 1;

/// A message as it came.
#[derive(Debug)]
pub(crate) enum Packet<T> {
    /// Understood, with its descriptors.
    Message(T, Vec<OwnedFd>),
    /// A packet without a body.
    Empty,
    /// The peer speaks a version that is not understood.
    Foreign {
        /// Its version.
        version: u8,
    },
    /// The peer has gone.
    Closed,
}

/// Sends `message` with `fds`.
pub(crate) fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = postcard::to_extend(message, vec![HERE, VERSION]).map_err(io::Error::other)?;
    if body.len() <= INLINE {
        return channel::send(socket, &body, fds);
    }
    let file = scratch::memory_file("wharf-message", &body[2..])?;
    let mut all = Vec::with_capacity(fds.len() + 1);
    all.push(file.as_fd());
    all.extend_from_slice(fds);
    channel::send(socket, &[IN_FILE, VERSION], &all)
}

/// Sends the packet that [`Packet::Empty`] stands for.
pub(crate) fn send_empty(socket: impl AsFd) -> io::Result<()> {
    channel::send(socket, &[HERE], &[])
}

/// Receives one message.
pub(crate) fn recv<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Packet<T>> {
    let mut body = [0; INLINE];
    let mut got = channel::recv(socket, &mut body)?;
    if got.truncated {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a packet lost bytes or descriptors",
        ));
    }
    match &body[..got.len] {
        [] => Ok(Packet::Closed),
        [_] => Ok(Packet::Empty),
        [HERE, version, body @ ..] => Ok(decode(*version, body, got.fds)),
        [IN_FILE, version, ..] if !got.fds.is_empty() => {
            let (memory, len) = scratch::read_file(got.fds.remove(0), LONGEST)?;
            Ok(decode(*version, &memory[..len], got.fds))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a packet of no known kind")),
    }
}

/// A message of another version may still be one that both know: only what cannot be read is foreign.
fn decode<T: DeserializeOwned>(version: u8, body: &[u8], fds: Vec<OwnedFd>) -> Packet<T> {
    match postcard::from_bytes(body) {
        Ok(message) => Packet::Message(message, fds),
        Err(_) => Packet::Foreign { version },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Reply, Request};

    fn round_trip(reply: &Reply) -> Packet<Reply> {
        let (a, b) = channel::pair().unwrap();
        send(&a, reply, &[]).unwrap();
        recv(&b).unwrap()
    }

    #[test]
    fn short_and_long_messages_arrive() {
        for len in [0, 10, INLINE - 10, INLINE, 3_000_000] {
            let reply = Reply::Refused("x".repeat(len));
            let Packet::Message(got, fds) = round_trip(&reply) else { panic!("{len}") };
            assert_eq!(got, reply);
            assert!(fds.is_empty());
        }
    }

    #[test]
    fn descriptors_of_a_long_message_keep_their_order() {
        let (a, b) = channel::pair().unwrap();
        let file = scratch::memory_file("t", b"content").unwrap();
        send(&a, &Reply::Refused("x".repeat(9000)), &[file.as_fd()]).unwrap();
        let Packet::Message(_, mut fds) = recv::<Reply>(&b).unwrap() else { panic!() };
        let (memory, len) = scratch::read_file(fds.remove(0), 100).unwrap();
        assert_eq!(&memory[..len], b"content");
    }

    #[test]
    fn requests_of_the_future_are_foreign_not_fatal() {
        let (a, b) = channel::pair().unwrap();
        channel::send(&a, &[HERE, 9, 120, 1, 2], &[]).unwrap();
        let Packet::Foreign { version: 9 } = recv::<Request>(&b).unwrap() else { panic!() };
        drop(a);
        assert!(matches!(recv::<Request>(&b).unwrap(), Packet::Closed));
    }
}
