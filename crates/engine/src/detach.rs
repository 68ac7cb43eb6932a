//! The key sequence that leaves a container running, as people write it. The keeper watches for it.

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

    /// The bytes as they are typed.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
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

#[cfg(test)]
mod tests {
    use super::*;

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
