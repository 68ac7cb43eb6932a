//! The key sequence that leaves a container running: parsed, and matched against what is typed.

use crate::error::{EngineError, Result};

/// Bytes that together detach a client. Empty means that nothing detaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q`; the empty string means that default.
    pub fn parse(text: &str) -> Result<DetachKeys> {
        if text.is_empty() {
            return Ok(DetachKeys::default());
        }
        text.split(',').map(key).collect::<Result<_>>().map(DetachKeys)
    }
}

impl Default for DetachKeys {
    fn default() -> DetachKeys {
        DetachKeys(vec![0x10, 0x11])
    }
}

fn key(name: &str) -> Result<u8> {
    let unknown = || EngineError::invalid(format!("Unknown character: '{name}'"));
    match (name.strip_prefix("ctrl-"), name.as_bytes()) {
        (Some(rest), _) => match rest.as_bytes() {
            [c @ b'a'..=b'z'] => Ok(c - b'a' + 1),
            [b'@'] => Ok(0),
            [b'['] => Ok(27),
            [b'\\'] => Ok(28),
            [b']'] => Ok(29),
            [b'^'] => Ok(30),
            [b'_'] => Ok(31),
            _ => Err(unknown()),
        },
        (None, [c]) if c.is_ascii() => Ok(*c),
        (None, b"DEL") => Ok(127),
        _ => Err(unknown()),
    }
}

/// Watches input for the sequence. Bytes that may begin it are held back until that is decided.
#[derive(Clone, Debug)]
pub struct Detector {
    keys: Vec<u8>,
    matched: usize,
}

/// What one chunk of input comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// Hand these bytes on (possibly none: a sequence has begun).
    Pass(Vec<u8>),
    /// The sequence is complete: hand these on, then detach. The rest of the chunk is dropped.
    Detach(Vec<u8>),
}

impl Detector {
    /// A detector at the beginning of the sequence.
    pub fn new(keys: &DetachKeys) -> Detector {
        Detector { keys: keys.0.clone(), matched: 0 }
    }

    /// Takes the next chunk.
    pub fn feed(&mut self, chunk: &[u8]) -> Typed {
        if self.keys.is_empty() {
            return Typed::Pass(chunk.to_vec());
        }
        let mut out = Vec::with_capacity(chunk.len() + self.matched);
        for &byte in chunk {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return Typed::Detach(out);
                }
                continue;
            }
            self.mismatch(byte, &mut out);
        }
        Typed::Pass(out)
    }

    /// What was held back, for the end of input.
    pub fn finish(self) -> Vec<u8> {
        self.keys[..self.matched].to_vec()
    }

    /// `held + byte` is no prefix of the sequence: release bytes until what is left is one again.
    fn mismatch(&mut self, byte: u8, out: &mut Vec<u8>) {
        let mut held = self.keys[..self.matched].to_vec();
        held.push(byte);
        let keep = (0..held.len())
            .map(|skip| held.len() - skip)
            .find(|&n| n <= self.keys.len() && held[held.len() - n..] == self.keys[..n])
            .unwrap_or(0);
        out.extend_from_slice(&held[..held.len() - keep]);
        self.matched = keep;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(keys: &str, chunks: &[&[u8]], expected: &[u8], detached: bool) {
        let mut d = Detector::new(&DetachKeys::parse(keys).unwrap());
        let (mut out, mut gone) = (Vec::new(), false);
        for chunk in chunks {
            match d.feed(chunk) {
                Typed::Pass(bytes) => out.extend(bytes),
                Typed::Detach(bytes) => {
                    out.extend(bytes);
                    gone = true;
                    break;
                }
            }
        }
        if !gone {
            out.extend(d.finish());
        }
        assert_eq!((out.as_slice(), gone), (expected, detached));
    }

    #[test]
    fn detaches_on_the_sequence_only() {
        check("", &[b"ls\r"], b"ls\r", false);
        check("", &[b"a\x10\x11b"], b"a", true);
        check("", &[b"a\x10", b"\x11"], b"a", true);
        check("", &[b"a\x10", b"b"], b"a\x10b", false);
        check("", &[b"\x10"], b"\x10", false);
    }

    #[test]
    fn repeated_first_key_still_counts() {
        check("", &[b"\x10\x10\x11"], b"\x10", true);
        check("a,a,b", &[b"aaab"], b"a", true);
        check("a,b,a,c", &[b"ababac"], b"ab", true);
    }

    #[test]
    fn reads_every_spelling() {
        for (text, bytes) in
            [("ctrl-a", vec![1]), ("ctrl-@,x", vec![0, b'x']), ("ctrl-],DEL", vec![29, 127])]
        {
            assert_eq!(DetachKeys::parse(text).unwrap().0, bytes);
        }
        for bad in ["ctrl-", "ctrl-A1", "xy", "a,,b", "é"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
    }
}
