//! Tokens of service accounts: JSON Web Tokens signed with ES256.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Who issues tokens without an end.
pub const LEGACY: &str = "kubernetes/serviceaccount";

/// A key pair that signs and verifies tokens.
pub struct Keys {
    pair: EcdsaKeyPair,
    id: String,
    random: SystemRandom,
}

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the key for service account tokens is no P-256 key")]
pub struct KeyError;

impl Keys {
    /// From PKCS #8.
    pub fn from_der(der: &[u8]) -> Result<Keys, KeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
            .map_err(|_| KeyError)?;
        let id = B64.encode(Sha256::digest(pair.public_key().as_ref()));
        Ok(Keys { pair, id, random })
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Value) -> Option<String> {
        let header = json!({"alg": "ES256", "kid": self.id});
        let text = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
        let signature = self.pair.sign(&self.random, text.as_bytes()).ok()?;
        Some(format!("{text}.{}", B64.encode(signature)))
    }

    /// The claims of a token that this key signed and that is valid at `now`.
    pub fn verify(&self, token: &str, now: i64) -> Option<Value> {
        let (text, signature) = token.rsplit_once('.')?;
        let (header, claims) = text.split_once('.')?;
        let header: Value = serde_json::from_slice(&B64.decode(header).ok()?).ok()?;
        // The algorithm is ours to say, not the token's.
        if header["alg"] != "ES256" {
            return None;
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        key.verify(text.as_bytes(), &B64.decode(signature).ok()?).ok()?;
        let claims: Value = serde_json::from_slice(&B64.decode(claims).ok()?).ok()?;
        let time = |name: &str| claims[name].as_i64();
        // Tokens of the old kind end with the Secret that holds them.
        let endless = claims["iss"] == LEGACY && claims.get("exp").is_none();
        let valid = (endless || time("exp").is_some_and(|t| now < t))
            && time("nbf").is_none_or(|t| now >= t - 10);
        valid.then_some(claims)
    }

    /// The public key as a set.
    pub fn jwks(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        // An uncompressed point: a 4, then both coordinates.
        let (x, y) = point[1..].split_at(32);
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": B64.encode(x), "y": B64.encode(y)}]})
    }
}

/// Compares in a time that does not tell where they differ.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_verify_only_as_they_were_signed() {
        let der =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .unwrap();
        let keys = Keys::from_der(der.as_ref()).unwrap();
        let token = keys.sign(&json!({"sub": "x", "exp": 100})).unwrap();
        assert_eq!(keys.verify(&token, 99).unwrap()["sub"], "x");
        assert!(keys.verify(&token, 100).is_none(), "expired");
        let mut parts: Vec<&str> = token.split('.').collect();
        let forged = B64.encode(r#"{"sub":"root","exp":100}"#);
        parts[1] = &forged;
        assert!(keys.verify(&parts.join("."), 1).is_none());
        let none = B64.encode(r#"{"alg":"none"}"#);
        assert!(keys.verify(&format!("{none}.{forged}."), 1).is_none());
    }
}
