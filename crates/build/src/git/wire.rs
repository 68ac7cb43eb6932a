//! Git's protocol version 2 as bytes: packet lines, what is asked and what is answered (gitprotocol-v2(5)). No I/O.

use super::GitError;
use super::object::{Format, Id};

/// Longest packet, its length included (gitprotocol-common(5)).
const LONGEST: usize = 65520;
/// References that an answer may have.
const MAX_REFERENCES: usize = 1_000_000;

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Packet {
    Data(Vec<u8>),
    /// The end of a section.
    Delimiter,
    /// The end of a message.
    Flush,
}

/// Splits a stream of bytes into packets.
#[derive(Default)]
pub(super) struct Packets {
    bytes: Vec<u8>,
    at: usize,
}

impl Packets {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next packet, if all of it is there.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, GitError> {
        let rest = &self.bytes[self.at..];
        let Some(head) = rest.get(..4) else { return Ok(None) };
        let length = std::str::from_utf8(head).ok().and_then(|h| usize::from_str_radix(h, 16).ok());
        let packet = match length {
            Some(0) => Packet::Flush,
            Some(1) => Packet::Delimiter,
            // The end of a connection that stays open: of no meaning here.
            Some(2) => Packet::Flush,
            Some(length @ 4..=LONGEST) => match rest.get(4..length) {
                None => return Ok(None),
                Some(data) => {
                    let data = data.to_vec();
                    self.at += length;
                    return match data.strip_prefix(b"ERR ") {
                        Some(text) => Err(GitError::Refused(said(text))),
                        None => Ok(Some(Packet::Data(data))),
                    };
                }
            },
            _ => return Err(GitError::Protocol("a malformed packet".into())),
        };
        self.at += 4;
        Ok(Some(packet))
    }
}

/// What a server says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Greeting {
    lines: Vec<String>,
}

impl Greeting {
    /// Reads the whole answer to `info/refs`.
    pub(super) fn parse(answer: &[u8]) -> Result<Format, GitError> {
        let mut packets = Packets::default();
        packets.feed(answer);
        let mut out = Greeting::default();
        while let Some(packet) = packets.next()? {
            out.take(&packet);
        }
        out.end()
    }

    /// Takes one packet of a greeting; true if it is the last where the connection stays open.
    pub(super) fn take(&mut self, packet: &Packet) -> bool {
        let Packet::Data(line) = packet else { return *packet == Packet::Flush };
        let line = said(line);
        // Smart HTTP's own heading, which newer servers leave out.
        if !line.starts_with("# service=") {
            self.lines.push(line);
        }
        false
    }

    /// What names the objects of the repository, if the server speaks our protocol.
    pub(super) fn end(self) -> Result<Format, GitError> {
        if self.lines.first().is_none_or(|l| l != "version 2") {
            return Err(GitError::Protocol("an older protocol than git's version 2".into()));
        }
        let Some(name) = self.lines.iter().find_map(|l| l.strip_prefix("object-format=")) else {
            return Ok(Format::Sha1);
        };
        Format::parse(name).ok_or_else(|| {
            GitError::Protocol(format!("a repository of {name} objects, which wharf does not read"))
        })
    }
}

/// Asks a git daemon at `host` for the service (gitprotocol-pack(5)).
pub(super) fn ask_service(path: &str, host: &str) -> Vec<u8> {
    let text = format!("git-upload-pack {path}\0host={host}\0\0version=2\0");
    format!("{:04x}{text}", text.len() + 4).into_bytes()
}

/// Begins a command. What names the objects is said only where it is not SHA-1: older servers know nothing else.
fn command(name: &str, format: Format) -> Vec<u8> {
    let mut out = Vec::new();
    line(&mut out, &format!("command={name}"));
    if format != Format::Sha1 {
        line(&mut out, &format!("object-format={}", format.name()));
    }
    out
}

/// Asks which commits `names` are.
pub(super) fn ask_references(format: Format, names: &[String]) -> Vec<u8> {
    let mut out = command("ls-refs", format);
    out.extend_from_slice(b"0001");
    line(&mut out, "peel");
    line(&mut out, "symrefs");
    for name in names {
        line(&mut out, &format!("ref-prefix {name}"));
    }
    out.extend_from_slice(b"0000");
    out
}

/// Asks for the objects of `id` alone, without its history.
pub(super) fn ask_objects(id: &Id) -> Vec<u8> {
    let mut out = command("fetch", id.format);
    out.extend_from_slice(b"0001");
    for text in ["ofs-delta", "no-progress", "deepen 1"] {
        line(&mut out, text);
    }
    line(&mut out, &format!("want {id}"));
    line(&mut out, "done");
    out.extend_from_slice(b"0000");
    out
}

fn line(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(format!("{:04x}{text}\n", text.len() + 5).as_bytes());
}

/// A name and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) name: String,
    /// The commit, also of an annotated tag.
    pub(super) commit: Id,
    /// What a symbolic reference points to.
    pub(super) target: Option<String>,
}

/// Reads the answer to [`ask_references`].
pub(super) fn references(answer: &[u8]) -> Result<Vec<Reference>, GitError> {
    let mut packets = Packets::default();
    packets.feed(answer);
    let mut out = Vec::new();
    while let Some(packet) = packets.next()? {
        let Packet::Data(line) = packet else { break };
        let line = said(&line);
        let mut words = line.split(' ');
        let (id, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        // A branch without a commit.
        if id == "unborn" {
            continue;
        }
        let wrong = || GitError::Protocol(format!("a malformed reference: {line:?}"));
        let mut one =
            Reference { name: name.into(), commit: Id::parse(id).ok_or_else(wrong)?, target: None };
        for word in words {
            if let Some(peeled) = word.strip_prefix("peeled:") {
                one.commit = Id::parse(peeled).ok_or_else(wrong)?;
            } else if let Some(target) = word.strip_prefix("symref-target:") {
                one.target = Some(target.into());
            }
        }
        out.push(one);
        if out.len() > MAX_REFERENCES {
            return Err(GitError::Protocol(format!("more than {MAX_REFERENCES} references")));
        }
    }
    Ok(out)
}

/// Takes the pack out of the answer to [`ask_objects`], piece by piece.
#[derive(Default)]
pub(super) struct Unwrap {
    packets: Packets,
    in_pack: bool,
}

impl Unwrap {
    /// The parts of the pack in `bytes`.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, GitError> {
        self.packets.feed(bytes);
        let mut out = Vec::new();
        while let Some(packet) = self.packets.next()? {
            let Packet::Data(mut data) = packet else { continue };
            if !self.in_pack {
                self.in_pack = data == b"packfile\n";
                continue;
            }
            if data.is_empty() {
                continue;
            }
            match data.remove(0) {
                1 => out.push(data),
                2 => {}
                3 => return Err(GitError::Refused(said(&data))),
                n => return Err(GitError::Protocol(format!("something on side band {n}"))),
            }
        }
        Ok(out)
    }
}

/// A line as text, short and without control characters: it goes into messages.
fn said(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim_end().chars().filter(|c| !c.is_control()).take(4096).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn packets(lines: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for text in lines {
            match *text {
                "flush" => out.extend_from_slice(b"0000"),
                "delimiter" => out.extend_from_slice(b"0001"),
                text => line(&mut out, text),
            }
        }
        out
    }

    #[test]
    fn greetings_are_of_version_2() {
        let new =
            packets(&["# service=git-upload-pack", "flush", "version 2", "fetch=shallow", "flush"]);
        assert_eq!(Greeting::parse(&new).unwrap(), Format::Sha1);
        let old = packets(&[&format!("{ID} HEAD"), "flush"]);
        assert!(Greeting::parse(&old).unwrap_err().to_string().contains("older protocol"));
        let long = packets(&["version 2", "object-format=sha256", "flush"]);
        assert_eq!(Greeting::parse(&long).unwrap(), Format::Sha256);
        let other = packets(&["version 2", "object-format=sha512", "flush"]);
        assert!(Greeting::parse(&other).unwrap_err().to_string().contains("sha512"));
        assert!(Greeting::parse(b"<html>").is_err());
    }

    #[test]
    fn daemons_are_asked_for_the_service() {
        let asked = ask_service("/x.git", "h:1");
        assert_eq!(asked, b"002fgit-upload-pack /x.git\0host=h:1\0\0version=2\0");
        let text = |format| String::from_utf8(ask_references(format, &["HEAD".into()])).unwrap();
        assert!(!text(Format::Sha1).contains("object-format"));
        assert!(
            text(Format::Sha256).contains("0019object-format=sha256"),
            "{}",
            text(Format::Sha256)
        );
    }

    #[test]
    fn references_are_peeled() {
        let peeled = ID.replace('0', "f");
        let answer = packets(&[
            &format!("{ID} HEAD symref-target:refs/heads/main"),
            &format!("{ID} refs/tags/v1 peeled:{peeled}"),
            "unborn HEAD symref-target:refs/heads/x",
            "flush",
        ]);
        let found = references(&answer).unwrap();
        assert_eq!(found[0].target.as_deref(), Some("refs/heads/main"));
        assert_eq!(found[1].commit.to_string(), peeled);
        assert_eq!(found.len(), 2);
        assert!(references(&packets(&["nonsense"])).is_err());
    }

    #[test]
    fn packs_come_out_of_any_pieces() {
        let mut answer =
            packets(&["shallow-info", &format!("shallow {ID}"), "delimiter", "packfile"]);
        for (band, text) in [(1u8, "PACK"), (2, "counting"), (1, "rest")] {
            answer.extend_from_slice(format!("{:04x}", text.len() + 5).as_bytes());
            answer.push(band);
            answer.extend_from_slice(text.as_bytes());
        }
        for size in [1, 3, 7, answer.len()] {
            let mut unwrap = Unwrap::default();
            let parts: Vec<u8> =
                answer.chunks(size).flat_map(|c| unwrap.feed(c).unwrap()).flatten().collect();
            assert_eq!(parts, b"PACKrest");
        }
        let mut unwrap = Unwrap::default();
        assert!(
            matches!(unwrap.feed(b"000fERR no such"), Err(GitError::Refused(t)) if t == "no such")
        );
        assert!(Unwrap::default().feed(b"zzzz").is_err());
    }
}
