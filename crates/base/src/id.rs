//! The 64-hex-digit ids that containers, networks, execs and volumes carry.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// 256 random bits, written as 64 lower-case hex digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

/// A string that is not an [`Id`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an id: want 64 hex digits")]
pub struct IdError(String);

impl Id {
    /// A new id. Its first 12 digits are never all decimal, so that a short id is not taken for a number.
    ///
    /// # Panics
    /// If the kernel gives no entropy, which leaves no safe way to go on.
    #[allow(clippy::expect_used, reason = "no entropy: see Panics")]
    pub fn random() -> Id {
        loop {
            let mut bytes = [0u8; 32];
            getrandom::fill(&mut bytes).expect("the kernel has entropy");
            let hex = hex::encode(bytes);
            if hex[..12].bytes().any(|b| b.is_ascii_alphabetic()) {
                return Id(hex);
            }
        }
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, as people see ids.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl FromStr for Id {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Id, IdError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if s.len() == 64 && s.bytes().all(hex) { Ok(Id(s.into())) } else { Err(IdError(s.into())) }
    }
}

impl TryFrom<String> for Id {
    type Error = IdError;

    fn try_from(s: String) -> Result<Id, IdError> {
        s.parse()
    }
}

impl From<Id> for String {
    fn from(id: Id) -> String {
        id.0
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints_and_nothing_else() {
        let id = Id::random();
        assert_eq!(id.to_string().parse::<Id>().unwrap(), id);
        for bad in ["", "abc", &"g".repeat(64), &"A".repeat(64), &"a".repeat(65)] {
            bad.parse::<Id>().unwrap_err();
        }
    }
}
