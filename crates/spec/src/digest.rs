//! Content digests: `algorithm:hex`, the names of blobs, manifests, configs and layers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256, Sha512};

/// A registered digest algorithm (OCI image-spec, descriptor.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, 64 hex digits.
    Sha256,
    /// SHA-512, 128 hex digits.
    Sha512,
}

impl Algorithm {
    /// The name as written before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hex digits a digest of this algorithm has.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A validated digest. The hex part is always lower case and of full length,
/// so it is safe as a file name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` in front or no digits behind.
    #[error("invalid checksum digest format: {0:?}")]
    Format(String),
    /// An algorithm that wharf does not verify.
    #[error("unsupported digest algorithm: {0:?}")]
    Algorithm(String),
    /// Digits missing or too many.
    #[error("invalid checksum digest length: {0:?}")]
    Length(String),
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::from_sha256(&Sha256::digest(bytes))
    }

    /// Wraps the output of a SHA-256 computation. A slice of another length is
    /// a programming error and hashes to a digest that matches nothing.
    pub fn from_sha256(output: &[u8]) -> Self {
        Self { algorithm: Algorithm::Sha256, hex: hex::encode(output).into() }
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The lower-case hex digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first 12 hex digits, as people see ids.
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }

    /// Whether `bytes` have this digest.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(bytes);
        hasher.finish() == *self
    }
}

/// Computes a digest piece by piece.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// A hasher that has seen nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of everything added.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => Digest::from_sha256(&state.finalize()),
            State::Sha512(state) => {
                Digest { algorithm: Algorithm::Sha512, hex: hex::encode(state.finalize()).into() }
            }
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let format = || DigestError::Format(text.to_owned());
        let (name, hex) = text.split_once(':').ok_or_else(format)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ if is_algorithm_name(name) => return Err(DigestError::Algorithm(name.to_owned())),
            _ => return Err(format()),
        };
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(format());
        }
        if hex.len() != algorithm.hex_len() {
            return Err(DigestError::Length(text.to_owned()));
        }
        Ok(Self { algorithm, hex: hex.into() })
    }
}

/// `[a-z0-9]+([+._-][a-z0-9]+)*`
fn is_algorithm_name(name: &str) -> bool {
    let word = |w: &str| !w.is_empty() && w.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'z'));
    name.split(['+', '.', '_', '-']).all(word)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_empty_string_has_its_known_digest() {
        assert_eq!(Digest::sha256(b"").to_string(), EMPTY);
        assert!(EMPTY.parse::<Digest>().unwrap().matches(b""));
        assert!(!EMPTY.parse::<Digest>().unwrap().matches(b"x"));
    }

    #[test]
    fn sha512_is_verified_too() {
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"abc");
        let digest = hasher.finish();
        assert_eq!(digest.hex().len(), 128);
        assert!(digest.to_string().parse::<Digest>().unwrap().matches(b"abc"));
    }

    #[test]
    fn only_full_lower_case_digests_parse() {
        let bad = |text: &str| text.parse::<Digest>().unwrap_err();
        assert!(matches!(bad("sha256"), DigestError::Format(_)));
        assert!(matches!(bad("sha256:"), DigestError::Length(_)));
        assert!(matches!(bad("sha256:ab"), DigestError::Length(_)));
        assert!(matches!(bad("md5:d41d8cd98f00b204e9800998ecf8427e"), DigestError::Algorithm(_)));
        assert!(matches!(bad(&EMPTY.to_uppercase()), DigestError::Format(_)));
        assert!(matches!(bad(&EMPTY.replace('e', "E")), DigestError::Format(_)));
        assert!(matches!(bad("sha256:../../../../etc/passwd"), DigestError::Format(_)));
        assert!(matches!(bad("-:00"), DigestError::Format(_)));
    }
}
