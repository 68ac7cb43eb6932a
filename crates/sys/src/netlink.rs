//! Netlink: message encoding, batched requests with the kernel's own error texts, dumps and events.
//!
//! The kernel handles a request inside `send`, so a request costs two short system calls and never
//! sleeps on anything but the kernel's own locks: microseconds to a few milliseconds. There is no async
//! layer for that reason. Only [`Socket::receive`] on a subscribed socket waits, and the caller polls its descriptor.

pub mod conntrack;
pub mod hostport;
pub mod netns;
pub mod route;

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Which kernel subsystem a socket talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes, neighbours, rules.
    Route,
    /// nf_tables and conntrack.
    Netfilter,
}

/// What can go wrong in a netlink exchange.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused a request.
    #[error("{action}{}", extra(.message))]
    Refused {
        /// What was asked, and of what.
        action: String,
        /// The kernel's own words, if it had any.
        message: String,
        /// The error number.
        source: io::Error,
    },
    /// The exchange itself failed.
    #[error("netlink {action}")]
    Io {
        /// Which step.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel's answer makes no sense.
    #[error("netlink: malformed answer to {action}")]
    Malformed {
        /// What was asked.
        action: String,
    },
    /// A message is longer than its length field can say.
    #[error("netlink: request too large: {action}")]
    TooLarge {
        /// What was asked.
        action: String,
    },
}

impl NetlinkError {
    /// The error number with which the kernel refused, if it did.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { source, .. } | NetlinkError::Io { source, .. } => {
                source.raw_os_error()
            }
            _ => None,
        }
    }

    /// There was no such thing.
    pub fn is_absent(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO)
        )
    }

    /// The kernel has no such thing as was asked for.
    pub fn is_unsupported(&self) -> bool {
        self.errno() == Some(libc::EOPNOTSUPP)
    }

    /// Something else has it.
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(libc::EBUSY)
    }

    /// It was there already.
    pub fn is_present(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
}

impl From<NetlinkError> for io::Error {
    fn from(e: NetlinkError) -> io::Error {
        let kind = e
            .errno()
            .map_or(io::ErrorKind::InvalidData, |n| io::Error::from_raw_os_error(n).kind());
        io::Error::new(kind, e)
    }
}

fn extra(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

/// A netlink socket in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    seq: u32,
    buf: Vec<u8>,
}

/// A message as received: its type, flags, sender's port and body.
#[derive(Clone, Debug)]
pub struct Received {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// Sequence number of the request it answers.
    pub seq: u32,
    /// Port of the socket on whose behalf it was sent.
    pub port: u32,
    /// What follows the header.
    pub body: Vec<u8>,
}

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// The kernel's dump chunks are at most 32 KiB.
const RECEIVE: usize = 64 << 10;

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(family: Family) -> io::Result<Socket> {
        Socket::subscribe(family, &[])
    }

    /// Opens a socket that also receives the events of multicast `groups` (numbers, not bits).
    pub fn subscribe(family: Family, groups: &[u32]) -> io::Result<Socket> {
        let protocol = match family {
            // Number 0, which rustix writes as none.
            Family::Route => None,
            Family::Netfilter => Some(rustix::net::netlink::NETFILTER),
        };
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        let own = SocketAddrNetlink::try_from(rustix::net::getsockname(&fd)?)?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            set_option(fd.as_fd(), libc::SOL_NETLINK, option, 1)?;
        }
        // A batch of a thousand elements does not fit in the default 208 KiB. Without the right to go
        // beyond the limit, large batches fail with a clear error.
        for option in [libc::SO_SNDBUFFORCE, libc::SO_RCVBUFFORCE] {
            set_option(fd.as_fd(), libc::SOL_SOCKET, option, 8 << 20).ok();
        }
        for &group in groups {
            let group = c_int::try_from(group).map_err(|_| io::ErrorKind::InvalidInput)?;
            set_option(fd.as_fd(), libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)?;
        }
        Ok(Socket { fd, port: own.pid(), seq: 1, buf: vec![0; RECEIVE] })
    }

    /// The socket's address, with which the kernel marks events that this socket's requests cause.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Sends every request of `batch` in one system call. Requests are independent of one another
    /// (nf_tables transactions apart): the first refusal is returned, the later ones were tried as well.
    pub fn execute(&mut self, batch: Batch) -> Result<(), NetlinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        let sent = self.send(batch)?;
        let mut first = None;
        while let Some(messages) = self.receive_now()? {
            for m in messages.iter().filter(|m| m.kind == NLMSG_ERROR) {
                let failed = sent.failure(m)?;
                first = first.or(failed);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Sends one request and returns the messages that answer it, whether a single one or a dump.
    /// A dump during which the kernel's tables changed is asked for again.
    pub fn query(&mut self, batch: &Batch) -> Result<Vec<Received>, NetlinkError> {
        const TRIES: usize = 8;
        let mut answer = Answer::default();
        for _ in 0..TRIES {
            answer = self.query_once(batch.clone())?;
            if !answer.torn {
                break;
            }
        }
        Ok(answer.messages)
    }

    fn query_once(&mut self, batch: Batch) -> Result<Answer, NetlinkError> {
        let sent = self.send(batch)?;
        let mut answer = Answer::default();
        loop {
            let messages = self.receive().map_err(io_error("receive"))?;
            for m in messages.into_iter().filter(|m| sent.covers(m.seq)) {
                answer.torn |= m.flags & NLM_F_DUMP_INTR != 0;
                match m.kind {
                    NLMSG_ERROR => match sent.failure(&m)? {
                        Some(e) => return Err(e),
                        None => return Ok(answer),
                    },
                    NLMSG_DONE => return Ok(answer),
                    _ => answer.messages.push(m),
                }
            }
        }
    }

    /// Waits for the next datagram and splits it into messages.
    pub fn receive(&mut self) -> io::Result<Vec<Received>> {
        self.receive_with(RecvFlags::empty())
    }

    /// What is in the queue now: `None` when it is empty.
    pub fn receive_now(&mut self) -> Result<Option<Vec<Received>>, NetlinkError> {
        match self.receive_with(RecvFlags::DONTWAIT) {
            Ok(messages) => Ok(Some(messages)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(source) => Err(NetlinkError::Io { action: "receive", source }),
        }
    }

    /// Whether something has come within `patience`.
    fn readable_within(&self, patience: Duration) -> io::Result<bool> {
        let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => (),
                other => return Ok(other? > 0),
            }
        }
    }

    fn receive_with(&mut self, flags: RecvFlags) -> io::Result<Vec<Received>> {
        let (_, len) = loop {
            match rustix::net::recv(&self.fd, &mut self.buf[..], flags | RecvFlags::TRUNC) {
                Err(rustix::io::Errno::INTR) => (),
                other => break other?,
            }
        };
        if len > self.buf.len() {
            return Err(io::Error::other("datagram longer than the kernel's own limit"));
        }
        Ok(split(&self.buf[..len]))
    }

    fn send(&mut self, mut batch: Batch) -> Result<Sent, NetlinkError> {
        // An earlier caller may have stopped reading half-way, after an error.
        while self.receive_now()?.is_some() {}
        if let Some(action) = batch.too_large.take() {
            return Err(NetlinkError::TooLarge { action });
        }
        let first = self.seq;
        self.seq = batch.number(first);
        loop {
            match rustix::net::send(&self.fd, &batch.buf, SendFlags::empty()) {
                Ok(_) => return Ok(Sent { first, actions: batch.actions }),
                Err(rustix::io::Errno::INTR) => (),
                Err(e) => return Err(NetlinkError::Io { action: "send", source: e.into() }),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl std::os::fd::AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[derive(Default)]
struct Answer {
    messages: Vec<Received>,
    torn: bool,
}

struct Sent {
    first: u32,
    actions: Vec<String>,
}

impl Sent {
    fn covers(&self, seq: u32) -> bool {
        usize::try_from(seq.wrapping_sub(self.first)).is_ok_and(|i| i < self.actions.len())
    }

    fn action(&self, seq: u32) -> String {
        usize::try_from(seq.wrapping_sub(self.first))
            .ok()
            .and_then(|i| self.actions.get(i).cloned())
            .unwrap_or_else(|| "netlink request".into())
    }

    /// `None` if the message is an acknowledgement.
    fn failure(&self, m: &Received) -> Result<Option<NetlinkError>, NetlinkError> {
        let action = self.action(m.seq);
        let Some(code) = m.body.first_chunk::<4>() else {
            return Err(NetlinkError::Malformed { action });
        };
        let code = i32::from_ne_bytes(*code);
        if code == 0 {
            return Ok(None);
        }
        let mut message = String::new();
        if m.flags & NLM_F_ACK_TLVS != 0 && m.body.len() > 4 + HEADER {
            for (kind, value) in attributes(&m.body[4 + HEADER..]) {
                if kind == 1 {
                    message = text(value);
                }
            }
        }
        let source = io::Error::from_raw_os_error(-code);
        Ok(Some(NetlinkError::Refused { action, message, source }))
    }
}

/// Requests to send together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    buf: Vec<u8>,
    starts: Vec<usize>,
    actions: Vec<String>,
    too_large: Option<String>,
}

impl Batch {
    /// No requests.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// How many requests.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Adds a message of type `kind` with a fixed `head` and whatever attributes `fill` writes.
    /// `action` says what it does, for errors.
    pub(crate) fn message(
        &mut self,
        action: impl Into<String>,
        (kind, flags): (u16, u16),
        head: &[u8],
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.buf.len();
        let action = action.into();
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.buf.extend_from_slice(&[0; 8]);
        self.buf.extend_from_slice(head);
        pad(&mut self.buf);
        let mut attributes = Attributes { buf: &mut self.buf, overflow: false };
        fill(&mut attributes);
        let overflow = attributes.overflow;
        match u32::try_from(self.buf.len() - start) {
            Ok(len) if !overflow => self.buf[start..start + 4].copy_from_slice(&len.to_ne_bytes()),
            _ => self.too_large = Some(action.clone()),
        }
        self.starts.push(start);
        self.actions.push(action);
    }

    /// Asks for an acknowledgement of the last message only, as nf_tables transactions want.
    pub(crate) fn acknowledge(&mut self, index: usize) {
        if let Some(&start) = self.starts.get(index) {
            let at = start + 6;
            let flags = u16::from_ne_bytes([self.buf[at], self.buf[at + 1]]) | NLM_F_ACK;
            self.buf[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
        }
    }

    /// Appends the requests of `other`.
    pub fn append(&mut self, other: Batch) {
        let shift = self.buf.len();
        self.buf.extend(other.buf);
        self.starts.extend(other.starts.into_iter().map(|s| s + shift));
        self.actions.extend(other.actions);
        self.too_large = self.too_large.take().or(other.too_large);
    }

    /// Bytes that would be sent, for tests and size limits.
    pub fn bytes(&self) -> &[u8] {
        &self.buf
    }

    fn number(&mut self, mut seq: u32) -> u32 {
        for &start in &self.starts {
            self.buf[start + 8..start + 12].copy_from_slice(&seq.to_ne_bytes());
            seq = seq.wrapping_add(1).max(1);
        }
        seq
    }
}

/// Writes attributes at the end of a message.
pub(crate) struct Attributes<'a> {
    buf: &'a mut Vec<u8>,
    overflow: bool,
}

impl Attributes<'_> {
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.buf.extend_from_slice(value);
        self.close(start);
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    pub(crate) fn u16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// Network byte order, as all of netfilter wants it.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn str(&mut self, kind: u16, value: &str) {
        let start = self.open(kind);
        self.buf.extend_from_slice(value.as_bytes());
        self.buf.push(0);
        self.close(start);
    }

    /// Attributes inside an attribute, marked nested.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        const NESTED: u16 = 0x8000;
        self.flat_nest(kind | NESTED, &[], fill);
    }

    /// Attributes after a fixed head inside an attribute, without the mark.
    pub(crate) fn flat_nest(
        &mut self,
        kind: u16,
        head: &[u8],
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.open(kind);
        self.buf.extend_from_slice(head);
        pad(self.buf);
        let mut inner = Attributes { buf: self.buf, overflow: false };
        fill(&mut inner);
        self.overflow |= inner.overflow;
        self.close(start);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 2]);
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        match u16::try_from(self.buf.len() - start) {
            Ok(len) => self.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
        pad(self.buf);
    }
}

/// Walks the attributes in `buf`; stops at the first that is cut off. The nested and byte-order marks are removed.
pub(crate) fn attributes(mut buf: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *buf.first_chunk::<4>()?;
        let (len, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let value = buf.get(4..len)?;
        buf = buf.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & 0x3fff, value))
    })
}

/// The value of the first attribute of `kind`.
pub(crate) fn attribute(buf: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(buf).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

/// A string attribute without its terminator.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

pub(crate) fn u32_of(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

pub(crate) fn io_error(action: &'static str) -> impl FnOnce(io::Error) -> NetlinkError {
    move |source| NetlinkError::Io { action, source }
}

fn pad(buf: &mut Vec<u8>) {
    buf.resize(buf.len().next_multiple_of(4), 0);
}

fn split(mut buf: &[u8]) -> Vec<Received> {
    let mut found = Vec::new();
    while let Some(head) = buf.first_chunk::<HEADER>() {
        let word = |i: usize| u32::from_ne_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        let len = usize::try_from(word(0)).unwrap_or(usize::MAX);
        let Some(body) = buf.get(HEADER..len) else { break };
        found.push(Received {
            kind: u16::from_ne_bytes([head[4], head[5]]),
            flags: u16::from_ne_bytes([head[6], head[7]]),
            seq: word(8),
            port: word(12),
            body: body.to_vec(),
        });
        buf = buf.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn set_option(fd: BorrowedFd<'_>, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<c_int>()).unwrap_or(4);
    // SAFETY: rustix has no netlink options. The pointer and the length describe `value`, which
    // outlives the call, and the kernel only reads it.
    let code = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, std::ptr::from_ref(&value).cast(), len)
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_a_round_trip() {
        let mut batch = Batch::new();
        batch.message("x", (16, 0), &[7; 3], |a| {
            a.u8(1, 9);
            a.nest(2, |n| n.str(3, "eth0"));
        });
        let messages = split(batch.bytes());
        let body = &messages[0].body;
        let found: Vec<_> = attributes(&body[4..]).collect();
        assert_eq!(found[0], (1, &[9u8][..]));
        assert_eq!(text(attribute(found[1].1, 3).unwrap()), "eth0");
    }

    #[test]
    fn cut_off_input_ends_the_walk() {
        let mut batch = Batch::new();
        batch.message("x", (16, 0), &[], |a| a.bytes(1, &[0; 40]));
        for cut in 0..batch.bytes().len() {
            let part = &batch.bytes()[..cut];
            assert!(split(part).is_empty());
            assert!(attributes(part).count() <= cut);
        }
    }

    #[test]
    fn an_oversized_attribute_is_refused() {
        let mut batch = Batch::new();
        batch.message("big", (16, 0), &[], |a| a.nest(1, |n| n.bytes(2, &vec![0; 70_000])));
        assert_eq!(batch.too_large.as_deref(), Some("big"));
    }

    #[test]
    fn refusals_carry_the_kernels_words() {
        let mut socket = Socket::open(Family::Route).unwrap();
        let mut batch = Batch::new();
        batch.delete_link(route::LinkRef::Name("wharf-none"));
        let e = socket.execute(batch).unwrap_err();
        assert!(e.is_absent(), "{e:?}");
        assert_eq!(e.to_string(), "delete interface wharf-none");
    }
}
