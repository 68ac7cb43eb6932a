//! DNS messages on the wire: a question read, an answer written. No I/O.
//!
//! Only what a stub resolver sends is read (RFC 1035 §4: one question, and the EDNS record of RFC 6891); everything
//! else goes to real name servers as it came. Hence no library: the rest of DNS is not needed, and these
//! bytes come from inside containers, so the less there is to parse, the better.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Types of questions.
pub mod kind {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Name of an address.
    pub const PTR: u16 = 12;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Port and host of a service.
    pub const SRV: u16 = 33;
}

/// The class of the Internet.
const IN: u16 = 1;
const OPT: u16 = 41;
const HEADER: usize = 12;
/// The largest UDP message to a client that has no EDNS.
const CLASSIC: usize = 512;
/// The largest UDP message that this resolver takes, and sends to a client that takes more: it never leaves the loopback interface.
const OWN_LIMIT: u16 = 4096;
/// Docker's. Long enough to be cached by those that cache, short enough for a container that moves.
const TTL: u32 = 600;

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of RFC 1035 and 6891")]
pub enum Code {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

/// A question as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is asked about, in lower case, without the final dot. Bytes that no host name has are U+FFFD.
    pub name: String,
    /// One of [`kind`], or another.
    pub kind: u16,
    class: u16,
    id: u16,
    /// The flags that an answer repeats: recursion desired, checking disabled.
    flags: u16,
    /// The question's own bytes, which an answer repeats: some clients vary the case of letters to tell forgeries.
    bytes: Vec<u8>,
    /// What the client says of itself, if it has EDNS.
    edns: Option<Edns>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edns {
    size: u16,
    version: u8,
}

/// Why bytes are not a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Too short for an id, or an answer: not worth an answer, and an answer to an answer may start a loop.
    NotAQuestion,
    /// Broken.
    Malformed(u16),
    /// Something other than a query.
    Operation(u16),
}

/// What an answer says about the name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of RFC 1035 and 2782")]
pub enum Data {
    Address(IpAddr),
    Pointer(String),
    Service { port: u16, target: String },
}

/// How the message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram, whose size the client limits.
    Udp,
    /// On a stream.
    Tcp,
}

impl Question {
    /// Reads a message.
    pub fn read(message: &[u8]) -> Result<Question, Unreadable> {
        const OPCODE: u16 = 0x7800;
        const RESPONSE: u16 = 0x8000;
        const REPEATED: u16 = 0x0110;
        let word = |at: usize| u16_at(message, at).ok_or(Unreadable::NotAQuestion);
        let (id, flags) = (word(0)?, word(2)?);
        let counts = [word(4)?, word(6)?, word(8)?, word(10)?];
        if flags & RESPONSE != 0 {
            return Err(Unreadable::NotAQuestion);
        }
        if flags & OPCODE != 0 {
            return Err(Unreadable::Operation(id));
        }
        let malformed = Unreadable::Malformed(id);
        if counts[0] != 1 {
            return Err(malformed);
        }
        let (name, end) = name_at(message, HEADER).ok_or(malformed)?;
        let kind = u16_at(message, end).ok_or(malformed)?;
        let class = u16_at(message, end + 2).ok_or(malformed)?;
        let end = end + 4;
        let more = counts[1..].iter().map(|c| usize::from(*c)).sum();
        let edns = edns(message, end, more).ok_or(malformed)?;
        let bytes = message[HEADER..end].to_vec();
        Ok(Question { name, kind, class, id, flags: flags & REPEATED, bytes, edns })
    }

    /// Whether the question is about the Internet's names and can be answered here at all.
    pub fn is_internet(&self) -> bool {
        self.class == IN
    }

    /// The code with which the question must be refused whatever it asks, if so.
    pub fn refusal(&self) -> Option<Code> {
        self.edns.filter(|e| e.version > 0).map(|_| Code::BadVers)
    }

    /// The address that a reverse name (`1.0.17.172.in-addr.arpa`) stands for.
    pub fn reverse(&self) -> Option<IpAddr> {
        reverse(&self.name)
    }

    /// An answer. What does not fit into the client's limit is left out, and the answer says so.
    pub fn answer(&self, code: Code, data: &[Data], via: Transport) -> Vec<u8> {
        const TRUNCATED: u16 = 0x0200;
        let limit = self.limit(via);
        let mut out = self.head();
        let opt = self.opt(code);
        let mut count = 0u16;
        let mut truncated = false;
        for d in data {
            let before = out.len();
            write_record(&mut out, d);
            if out.len() + opt.len() > limit {
                out.truncate(before);
                truncated = true;
                break;
            }
            count += 1;
        }
        let flags = self.answer_flags(code) | if truncated { TRUNCATED } else { 0 };
        out[2..4].copy_from_slice(&flags.to_be_bytes());
        out[6..8].copy_from_slice(&count.to_be_bytes());
        out[11] = u8::from(!opt.is_empty());
        out.extend(opt);
        out
    }

    /// Whether `reply`, which came from a name server, answers this question.
    pub fn is_answered_by(&self, reply: &[u8]) -> bool {
        const RESPONSE: u16 = 0x8000;
        let same_question = || {
            let (name, end) = name_at(reply, HEADER)?;
            Some(
                name == self.name
                    && u16_at(reply, end)? == self.kind
                    && u16_at(reply, end + 2)? == self.class,
            )
        };
        u16_at(reply, 0) == Some(self.id)
            && u16_at(reply, 2).is_some_and(|flags| flags & RESPONSE != 0)
            // A server that cannot read the question may leave it out of its refusal.
            && (u16_at(reply, 4) == Some(0) || same_question() == Some(true))
    }

    /// How many bytes a name server may answer with in a datagram.
    pub fn receives(&self) -> usize {
        self.edns.map_or(CLASSIC, |e| usize::from(e.size)).max(CLASSIC)
    }

    fn limit(&self, via: Transport) -> usize {
        match via {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => {
                let asked = self.edns.map_or(CLASSIC, |e| usize::from(e.size));
                asked.clamp(CLASSIC, usize::from(OWN_LIMIT))
            }
        }
    }

    /// Header with one question, and the question.
    fn head(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER];
        out[..2].copy_from_slice(&self.id.to_be_bytes());
        out[5] = 1;
        out.extend_from_slice(&self.bytes);
        out
    }

    fn answer_flags(&self, code: Code) -> u16 {
        const RESPONSE: u16 = 0x8000;
        const AUTHORITATIVE: u16 = 0x0400;
        const RECURSION_AVAILABLE: u16 = 0x0080;
        let authority = if code == Code::NoError { AUTHORITATIVE } else { 0 };
        // The upper bits of a large code are in the EDNS record.
        RESPONSE | authority | self.flags | RECURSION_AVAILABLE | (code as u16 & 0xf)
    }

    /// The EDNS record of an answer; a client without EDNS gets none.
    fn opt(&self, code: Code) -> Vec<u8> {
        if self.edns.is_none() {
            return Vec::new();
        }
        let mut out = vec![0];
        out.extend(OPT.to_be_bytes());
        out.extend(OWN_LIMIT.to_be_bytes());
        out.extend([(code as u16 >> 4).to_be_bytes()[1], 0, 0, 0]);
        out.extend([0, 0]);
        out
    }
}

impl Unreadable {
    /// What to answer, if anything.
    pub fn answer(self) -> Option<Vec<u8>> {
        let (id, code) = match self {
            Unreadable::NotAQuestion => return None,
            Unreadable::Malformed(id) => (id, Code::FormErr),
            Unreadable::Operation(id) => (id, Code::NotImp),
        };
        let [a, b] = id.to_be_bytes();
        Some(vec![a, b, 0x80, code as u8, 0, 0, 0, 0, 0, 0, 0, 0])
    }
}

/// The code of an answer that came from a name server.
pub fn code_of(reply: &[u8]) -> Option<u8> {
    reply.get(3).map(|b| b & 0xf)
}

/// Whether an answer says that it was cut off.
pub fn is_truncated(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|b| b & 0x02 != 0)
}

/// Reads a name at `at`; returns it with the place after it. A name in a question has nothing to point back to, so
/// pointers are refused.
fn name_at(message: &[u8], at: usize) -> Option<(String, usize)> {
    const LONGEST: usize = 255;
    let mut name = String::new();
    let mut at = at;
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1;
        if len == 0 {
            return Some((name, at));
        }
        if len > 63 {
            return None;
        }
        let label = message.get(at..at + len)?;
        at += len;
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|&b| match b {
            b'.' => char::REPLACEMENT_CHARACTER,
            b if b.is_ascii_graphic() => char::from(b.to_ascii_lowercase()),
            _ => char::REPLACEMENT_CHARACTER,
        }));
        if name.chars().count() > LONGEST {
            return None;
        }
    }
}

/// Looks for the EDNS record among the `count` records from `at` on. `None` if they are broken.
fn edns(message: &[u8], at: usize, count: usize) -> Option<Option<Edns>> {
    let mut found = None;
    let mut at = at;
    for _ in 0..count {
        at = after_name(message, at)?;
        let (kind, class) = (u16_at(message, at)?, u16_at(message, at + 2)?);
        let len = usize::from(u16_at(message, at + 8)?);
        if kind == OPT {
            // Two would contradict each other (RFC 6891 §6.1.1).
            if found.is_some() {
                return None;
            }
            found = Some(Edns { size: class, version: message[at + 5] });
        }
        at += 10 + len;
        if at > message.len() {
            return None;
        }
    }
    Some(found)
}

/// Skips a name, which may end in a pointer.
fn after_name(message: &[u8], at: usize) -> Option<usize> {
    let mut at = at;
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            len if len & 0xc0 == 0xc0 => return Some(at + 2),
            len if len < 64 => at += 1 + usize::from(len),
            _ => return None,
        }
    }
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

fn write_record(out: &mut Vec<u8>, data: &Data) {
    /// The owner's name is that of the question, right after the header.
    const POINTER: [u8; 2] = [0xc0, 12];
    let (kind, bytes) = match data {
        Data::Address(IpAddr::V4(ip)) => (kind::A, ip.octets().to_vec()),
        Data::Address(IpAddr::V6(ip)) => (kind::AAAA, ip.octets().to_vec()),
        Data::Pointer(name) => (kind::PTR, encoded(name)),
        Data::Service { port, target } => {
            let mut bytes = vec![0, 0, 0, 0];
            bytes.extend(port.to_be_bytes());
            bytes.extend(encoded(target));
            (kind::SRV, bytes)
        }
    };
    out.extend(POINTER);
    out.extend(kind.to_be_bytes());
    out.extend(IN.to_be_bytes());
    out.extend(TTL.to_be_bytes());
    // A name is at most some 320 bytes long, see `encoded`.
    out.extend(u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
    out.extend(bytes);
}

/// A name as labels. A label of a container's name may be longer than DNS can say; it is cut.
fn encoded(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|l| !l.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        out.push(u8::try_from(label.len()).unwrap_or(63));
        out.extend_from_slice(label);
    }
    out.push(0);
    out
}

fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut parts: Vec<&str> = digits.split('.').collect();
        parts.reverse();
        return parts.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let nibbles = name.strip_suffix(".ip6.arpa")?;
    let mut bits = 0u128;
    let mut count = 0;
    for nibble in nibbles.rsplit('.') {
        let digit = Some(nibble).filter(|n| n.len() == 1)?.chars().next()?.to_digit(16)?;
        bits = bits << 4 | u128::from(digit);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from_bits(bits).into())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A question for tests of other modules.
    pub(crate) fn question(name: &str, kind: u16) -> Question {
        Question::read(&query(name, kind, None)).unwrap()
    }

    /// A query as a stub resolver writes it.
    fn query(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
        let mut out = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
        out.extend(encoded(name));
        out.extend(kind.to_be_bytes());
        out.extend(IN.to_be_bytes());
        if let Some(size) = edns {
            out.extend([0, 0, 41]);
            out.extend(size.to_be_bytes());
            out.extend([0, 0, 0, 0, 0, 0]);
        }
        out
    }

    fn count(answer: &[u8]) -> u16 {
        u16_at(answer, 6).unwrap()
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let q = Question::read(&query("Web.Front", kind::A, None)).unwrap();
        assert_eq!((q.name.as_str(), q.kind, q.is_internet()), ("web.front", kind::A, true));
        let ip = IpAddr::from([172, 18, 0, 2]);
        let out = q.answer(Code::NoError, &[Data::Address(ip)], Transport::Udp);
        assert_eq!(out[..12], [0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert!(out.ends_with(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 2, 88, 0, 4, 172, 18, 0, 2]));
        assert!(out.windows(4).any(|w| w == b"\x03Web"), "the case is repeated");
        assert!(q.is_answered_by(&out));
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said_to_be() {
        let many: Vec<Data> =
            (0..100).map(|i| Data::Address(IpAddr::from([10, 0, 0, i]))).collect();
        for (edns, via, fits) in [
            (None, Transport::Udp, false),
            (Some(512), Transport::Udp, false),
            (Some(100), Transport::Udp, false),
            (Some(4096), Transport::Udp, true),
            (Some(65535), Transport::Udp, true),
            (None, Transport::Tcp, true),
        ] {
            let q = Question::read(&query("web", kind::A, edns)).unwrap();
            let out = q.answer(Code::NoError, &many, via);
            assert_eq!(is_truncated(&out), !fits, "{edns:?} {via:?}");
            assert_eq!(count(&out) == 100, fits);
            assert!(fits || (out.len() <= 512 && count(&out) > 20));
            assert_eq!(out[11], u8::from(edns.is_some()), "EDNS is answered with EDNS");
        }
    }

    #[test]
    fn another_version_of_edns_is_refused_as_such() {
        let mut bytes = query("web", kind::A, Some(1232));
        let at = bytes.len() - 5;
        bytes[at] = 1;
        let q = Question::read(&bytes).unwrap();
        let code = q.refusal().unwrap();
        let out = q.answer(code, &[], Transport::Udp);
        assert_eq!((code_of(&out), out[out.len() - 6]), (Some(0), 1));
    }

    #[test]
    fn reverse_names_are_addresses() {
        let check = |name: &str, want: Option<&str>| {
            assert_eq!(reverse(name), want.map(|w| w.parse().unwrap()), "{name}");
        };
        check("2.0.18.172.in-addr.arpa", Some("172.18.0.2"));
        check("0.18.172.in-addr.arpa", None);
        check("x.0.18.172.in-addr.arpa", None);
        let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        check(v6, Some("fd00::2"));
        check(&v6[2..], None);
    }

    #[test]
    fn what_is_not_a_question_is_refused_or_ignored() {
        let good = query("web", kind::A, None);
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            Question::read(&bytes).unwrap_err().answer().and_then(|a| code_of(&a))
        };
        assert_eq!(refused(&|b| b.truncate(11)), None);
        assert_eq!(refused(&|b| b[2] |= 0x80), None, "an answer");
        assert_eq!(refused(&|b| b[2] |= 0x28), Some(Code::NotImp as u8), "an update");
        assert_eq!(refused(&|b| b.truncate(14)), Some(Code::FormErr as u8));
        assert_eq!(refused(&|b| b[5] = 2), Some(Code::FormErr as u8), "two questions");
        assert_eq!(refused(&|b| b[12] = 0xc0), Some(Code::FormErr as u8), "a pointer");
        assert_eq!(
            refused(&|b| b[11] = 9),
            Some(Code::FormErr as u8),
            "records that are not there"
        );
    }

    #[test]
    fn a_forged_answer_is_not_taken() {
        let q = Question::read(&query("example.org", kind::A, None)).unwrap();
        let real = q.answer(Code::NoError, &[], Transport::Udp);
        let other = Question::read(&query("example.com", kind::A, None)).unwrap();
        assert!(!q.is_answered_by(&other.answer(Code::NoError, &[], Transport::Udp)));
        let mut id = real.clone();
        id[0] ^= 1;
        assert!(!q.is_answered_by(&id));
        assert!(!q.is_answered_by(&query("example.org", kind::A, None)), "a question");
        assert!(q.is_answered_by(&real));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(q) = Question::read(&bytes) {
                let out = q.answer(Code::NoError, &[], Transport::Udp);
                prop_assert!(q.is_answered_by(&out));
            }
        }

        #[test]
        fn names_survive(name in "[a-z0-9_-]{1,63}(\\.[a-z0-9_-]{1,20}){0,3}") {
            let q = Question::read(&query(&name, kind::AAAA, Some(1232))).unwrap();
            prop_assert_eq!(q.name, name);
        }
    }
}
