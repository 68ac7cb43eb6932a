//! Public keys of another's token server: as a JWK set, as PEM keys or certificates.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;

/// Keys that a token may be signed with.
#[derive(Debug)]
pub(crate) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Modulus and exponent.
    Rsa(Vec<u8>, Vec<u8>),
    /// A point of P-256, uncompressed.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Why a file holds no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error("read keys from {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing in it is a key.
    #[error(
        "{path} has no public key that is known here (RSA, P-256 or Ed25519, as JWK set or PEM)"
    )]
    Empty {
        /// Which file.
        path: PathBuf,
    },
}

impl Keys {
    pub(super) fn read(path: &Path) -> Result<Self, KeyError> {
        let text = fs::read_to_string(path)
            .map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
        let keys = if text.trim_start().starts_with('{') { jwk_set(&text) } else { pem(&text) };
        match keys.is_empty() {
            true => Err(KeyError::Empty { path: path.to_owned() }),
            false => Ok(Self(keys)),
        }
    }

    /// Whether one of the keys made the signature. The algorithm must be the key's: a token does not choose it.
    pub(crate) fn verify(
        &self,
        algorithm: &str,
        id: Option<&str>,
        signed: &[u8],
        signature: &[u8],
    ) -> bool {
        let named =
            self.0.iter().filter(|key| key.id.is_none() || id.is_none() || key.id.as_deref() == id);
        named.into_iter().any(|key| key.kind.verify(algorithm, signed, signature))
    }
}

impl Kind {
    fn verify(&self, algorithm: &str, signed: &[u8], signature: &[u8]) -> bool {
        let done = match (self, algorithm) {
            (Self::Rsa(n, e), _) => {
                let how = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(how, signed, signature)
            }
            (Self::P256(point), "ES256") => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(signed, signature)
            }
            (Self::Ed25519(key), "EdDSA") => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(signed, signature)
            }
            _ => return false,
        };
        done.is_ok()
    }
}

fn jwk_set(text: &str) -> Vec<Key> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Jwk>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Jwk {
        kty: String,
        kid: Option<String>,
        crv: String,
        n: String,
        e: String,
        x: String,
        y: String,
    }
    let Ok(set) = serde_json::from_str::<Set>(text) else { return Vec::new() };
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
    let kind = |jwk: &Jwk| {
        Some(match (jwk.kty.as_str(), jwk.crv.as_str()) {
            ("RSA", _) => Kind::Rsa(bytes(&jwk.n)?, bytes(&jwk.e)?),
            ("EC", "P-256") => Kind::P256([vec![4], bytes(&jwk.x)?, bytes(&jwk.y)?].concat()),
            ("OKP", "Ed25519") => Kind::Ed25519(bytes(&jwk.x)?),
            _ => return None,
        })
    };
    set.keys.into_iter().filter_map(|jwk| Some(Key { kind: kind(&jwk)?, id: jwk.kid })).collect()
}

fn pem(text: &str) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut rest = text;
    while let Some((_, begun)) = rest.split_once("-----BEGIN ") {
        let Some((label, body)) = begun.split_once("-----") else { break };
        let Some((body, after)) = body.split_once("-----END ") else { break };
        rest = after;
        let base64: String = body.chars().filter(|c| !c.is_whitespace()).collect();
        let Ok(der) = STANDARD.decode(base64) else { continue };
        let kind = match label {
            "PUBLIC KEY" => der::public_key(&der),
            "CERTIFICATE" => der::certificate(&der).and_then(der::public_key),
            _ => None,
        };
        keys.extend(kind.map(|kind| Key { id: None, kind }));
    }
    keys
}

/// The little of X.690 that leads to a public key.
mod der {
    use super::Kind;

    const INTEGER: u8 = 0x02;
    const BITS: u8 = 0x03;
    const OID: u8 = 0x06;
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    /// 1.2.840.113549.1.1.1
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    /// 1.2.840.10045.2.1
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    /// 1.2.840.10045.3.1.7
    const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    /// 1.3.101.112
    const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

    /// The first value: tag, content, and what follows.
    fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
        let (&tag, rest) = bytes.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (digits.iter().fold(0, |sum, d| sum << 8 | usize::from(*d)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        Some((tag, content, rest))
    }

    fn take(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
        split(bytes).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
    }

    /// A `SubjectPublicKeyInfo`.
    pub(super) fn public_key(der: &[u8]) -> Option<Kind> {
        let (info, _) = take(der, SEQUENCE)?;
        let (algorithm, rest) = take(info, SEQUENCE)?;
        let (oid, parameters) = take(algorithm, OID)?;
        let (bits, _) = take(rest, BITS)?;
        // The first byte counts unused bits: none in a key.
        let key = bits.strip_prefix(&[0])?;
        match oid {
            RSA => {
                let (pair, _) = take(key, SEQUENCE)?;
                let (n, rest) = take(pair, INTEGER)?;
                let (e, _) = take(rest, INTEGER)?;
                let bare = |n: &[u8]| n.strip_prefix(&[0]).unwrap_or(n).to_vec();
                Some(Kind::Rsa(bare(n), bare(e)))
            }
            EC => (take(parameters, OID)?.0 == P256).then(|| Kind::P256(key.to_vec())),
            ED25519 => Some(Kind::Ed25519(key.to_vec())),
            _ => None,
        }
    }

    /// The `SubjectPublicKeyInfo` of a certificate.
    pub(super) fn certificate(der: &[u8]) -> Option<&[u8]> {
        let (certificate, _) = take(der, SEQUENCE)?;
        let (mut body, _) = take(certificate, SEQUENCE)?;
        if let Some((_, rest)) = take(body, VERSION) {
            body = rest;
        }
        // Serial number, signature algorithm, issuer, validity, subject.
        for _ in 0..5 {
            (_, _, body) = split(body)?;
        }
        Some(body)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    };

    use super::*;

    fn keys(text: &str) -> Result<Keys, KeyError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        Keys::read(file.path())
    }

    #[test]
    fn keys_of_a_jwk_set_verify() {
        let random = SystemRandom::new();
        let document = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let set = format!(
            r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"k","x":"{x}"}},{{"kty":"oct"}}]}}"#
        );
        let keys = keys(&set).unwrap();
        let signature = pair.sign(b"signed");
        assert!(keys.verify("EdDSA", Some("k"), b"signed", signature.as_ref()));
        assert!(keys.verify("EdDSA", None, b"signed", signature.as_ref()));
        assert!(!keys.verify("EdDSA", Some("j"), b"signed", signature.as_ref()));
        assert!(!keys.verify("EdDSA", None, b"other", signature.as_ref()));
        assert!(!keys.verify("HS256", None, b"signed", signature.as_ref()));
        assert!(!keys.verify("none", None, b"signed", b""));
    }

    #[test]
    fn keys_in_pem_verify() {
        let random = SystemRandom::new();
        let how = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(how, document.as_ref(), &random).unwrap();
        let head: &[u8] = &[
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
            0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let der = [head, pair.public_key().as_ref()].concat();
        let text = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(der)
        );
        let signature = pair.sign(&random, b"signed").unwrap();
        assert!(keys(&text).unwrap().verify("ES256", Some("any"), b"signed", signature.as_ref()));
        assert!(matches!(keys("nothing"), Err(KeyError::Empty { .. })));
        let cut = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n";
        assert!(keys(cut).is_err());
    }
}
