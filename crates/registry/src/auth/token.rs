//! Tokens (RFC 7519): our own server's, and the claims of any.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::Htpasswd;
use crate::access::{Grant, Who};

/// How long a token of ours lasts, in seconds.
pub(crate) const LIFETIME: i64 = 300;
/// How long a refresh token lasts, in seconds: until then a client needs no password.
const REFRESH_LIFETIME: i64 = 30 * 24 * 3600;
/// Seconds by which clocks may differ.
const LEEWAY: i64 = 60;

/// Our token server.
#[derive(Debug)]
pub struct Issuer {
    pub(crate) passwords: Htpasswd,
    /// Made when the registry starts: its tokens need not outlive it.
    key: hmac::Key,
}

/// What a token says.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) sub: String,
    pub(crate) aud: Audience,
    pub(crate) exp: i64,
    pub(crate) nbf: i64,
    pub(crate) access: Vec<Grant>,
    /// Of a refresh token: see [`Htpasswd::mark`].
    #[serde(skip_serializing_if = "String::is_empty")]
    mark: String,
}

/// One audience or several.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::One(String::new())
    }
}

impl Audience {
    pub(crate) fn names(&self, service: &str) -> bool {
        match self {
            Self::One(one) => one == service,
            Self::Many(many) => many.iter().any(|one| one == service),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
}

impl Claims {
    /// Reads a token if `verify` accepts its algorithm, key id, signed bytes and signature.
    pub(crate) fn read(
        token: &str,
        verify: impl FnOnce(&str, Option<&str>, &[u8], &[u8]) -> bool,
    ) -> Result<Self, &'static str> {
        const MALFORMED: &str = "the token is malformed";
        let (signed, signature) = token.trim().rsplit_once('.').ok_or(MALFORMED)?;
        let (header, claims) = signed.split_once('.').ok_or(MALFORMED)?;
        let bytes =
            |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| MALFORMED);
        let header: Header = serde_json::from_slice(&bytes(header)?).map_err(|_| MALFORMED)?;
        if !verify(&header.alg, header.kid.as_deref(), signed.as_bytes(), &bytes(signature)?) {
            return Err("the token's signature is not valid");
        }
        serde_json::from_slice(&bytes(claims)?).map_err(|_| MALFORMED)
    }

    /// Whether it is good now.
    pub(crate) fn check(&self, now: i64) -> Result<(), &'static str> {
        if self.exp.saturating_add(LEEWAY) < now {
            return Err("the token has expired");
        }
        if self.nbf.saturating_sub(LEEWAY) > now {
            return Err("the token is not good yet");
        }
        Ok(())
    }
}

impl Issuer {
    pub(super) fn new(passwords: Htpasswd) -> Self {
        let key = passwords.derive("tokens");
        Self { passwords, key }
    }

    /// A token that says who somebody is; empty is anonymous. The registry looks at its rules, not at scopes.
    pub(crate) fn access(&self, user: &str, now: i64) -> String {
        let claims = Claims {
            iss: "access".into(),
            sub: user.to_owned(),
            nbf: now,
            exp: now + LIFETIME,
            ..Claims::default()
        };
        self.sign(&claims)
    }

    /// A token to get access tokens by, until the user's password changes.
    pub(crate) fn refresh(&self, user: &str, now: i64) -> Option<String> {
        Some(self.sign(&Claims {
            iss: "refresh".into(),
            sub: user.to_owned(),
            nbf: now,
            exp: now + REFRESH_LIFETIME,
            mark: self.passwords.mark(user)?,
            ..Claims::default()
        }))
    }

    /// Who an access token is of.
    pub(super) fn verify(&self, token: &str, now: i64) -> Result<Who, &'static str> {
        let claims = self.read(token, "access", now)?;
        Ok(if claims.sub.is_empty() { Who::Anonymous } else { Who::User(claims.sub) })
    }

    /// Whose refresh token it is.
    pub(crate) fn redeem(&self, token: &str, now: i64) -> Result<String, &'static str> {
        let claims = self.read(token, "refresh", now)?;
        match self.passwords.mark(&claims.sub) {
            Some(mark) if mark == claims.mark => Ok(claims.sub),
            _ => Err("the password has changed"),
        }
    }

    fn read(&self, token: &str, kind: &str, now: i64) -> Result<Claims, &'static str> {
        let claims = Claims::read(token, |algorithm, _, signed, signature| {
            algorithm == "HS256" && hmac::verify(&self.key, signed, signature).is_ok()
        })?;
        claims.check(now)?;
        if claims.iss != kind {
            return Err("the token is of another kind");
        }
        Ok(claims)
    }

    fn sign(&self, claims: &Claims) -> String {
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let header = part(br#"{"alg":"HS256","typ":"JWT"}"#);
        let claims = part(&serde_json::to_vec(claims).unwrap_or_default());
        let signed = format!("{header}.{claims}");
        let signature = part(hmac::sign(&self.key, signed.as_bytes()).as_ref());
        format!("{signed}.{signature}")
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use super::*;

    fn issuer() -> (tempfile::TempDir, Issuer) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, format!("ann:{}", bcrypt::hash("one", 4).unwrap())).unwrap();
        let issuer = Issuer::new(Htpasswd::open(&path).unwrap());
        (dir, issuer)
    }

    #[test]
    fn tokens_are_good_for_a_while_and_for_their_purpose() {
        let (_dir, issuer) = issuer();
        let token = issuer.access("ann", 1000);
        assert_eq!(issuer.verify(&token, 1000), Ok(Who::User("ann".into())));
        assert!(issuer.verify(&token, 1000 + LIFETIME + LEEWAY + 1).is_err());
        assert!(issuer.verify(&token, 0).is_err());
        assert!(issuer.redeem(&token, 1000).is_err());
        assert_eq!(issuer.verify(&issuer.access("", 1000), 1000), Ok(Who::Anonymous));
        let refresh = issuer.refresh("ann", 1000).unwrap();
        assert_eq!(issuer.redeem(&refresh, 2000), Ok("ann".into()));
        assert!(issuer.verify(&refresh, 1000).is_err() && issuer.refresh("bob", 0).is_none());
    }

    #[test]
    fn forged_tokens_are_refused() {
        let (_dir, issuer) = issuer();
        let (_other_dir, other) = self::issuer();
        assert!(issuer.verify(&other.access("ann", 1000), 1000).is_err());
        let token = issuer.access("bob", 1000);
        let parts: Vec<&str> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(br#"{"alg":"none"}"#);
        let claims = URL_SAFE_NO_PAD.encode(br#"{"iss":"access","sub":"ann","exp":9999999999}"#);
        for forged in [
            format!("{none}.{claims}."),
            format!("{none}.{claims}.{}", parts[2]),
            format!("{}.{claims}.{}", parts[0], parts[2]),
            String::new(),
            "a.b.c".into(),
            "..".into(),
        ] {
            assert!(issuer.verify(&forged, 1000).is_err(), "{forged}");
        }
    }
}
