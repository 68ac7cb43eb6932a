//! Who somebody is: passwords in an htpasswd file, tokens of our own server, tokens of another's.

mod htpasswd;
mod key;
mod token;

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

pub use htpasswd::{Htpasswd, HtpasswdError, htpasswd_line};
pub use key::KeyError;
pub(crate) use key::Keys;
pub use token::Issuer;
pub(crate) use token::{Claims, LIFETIME};

use crate::access::{Verb, Who};
use crate::fault::{Code, Fault};
use crate::name::Repository;

/// How clients say who they are.
#[derive(Debug, Clone, Default)]
pub enum Auth {
    /// Not at all.
    #[default]
    None,
    /// With a name and a password in every request.
    Basic(Arc<Htpasswd>),
    /// With a short-lived token that they get at `/token`, where anonymous is an answer too: the only way in which docker
    /// pulls without a login from a registry that asks for one to push.
    Token(Arc<Issuer>),
    /// With a token of a server elsewhere.
    Foreign(Arc<Foreign>),
}

/// Another's token server.
#[derive(Debug)]
pub struct Foreign {
    /// Where clients get tokens.
    pub realm: String,
    /// What this registry is called there.
    pub service: String,
    /// Who issues them.
    pub issuer: String,
    keys: Keys,
}

impl Auth {
    /// Passwords from an htpasswd file, with bcrypt hashes. It is read again when it changes.
    pub fn basic(file: &Path) -> Result<Self, HtpasswdError> {
        Ok(Self::Basic(Arc::new(Htpasswd::open(file)?)))
    }

    /// The same passwords, given in exchange for tokens. Those of an earlier run of the registry are good for nothing.
    pub fn token(file: &Path) -> Result<Self, HtpasswdError> {
        let issuer = Issuer::new(Htpasswd::open(file)?);
        Ok(Self::Token(Arc::new(issuer)))
    }

    /// Tokens of the server at `realm`, signed with one of the keys in `file`: a JWK set, public keys or certificates.
    pub fn foreign(
        realm: &str,
        service: &str,
        issuer: &str,
        file: &Path,
    ) -> Result<Self, KeyError> {
        let keys = Keys::read(file)?;
        let (realm, service, issuer) = (realm.to_owned(), service.to_owned(), issuer.to_owned());
        Ok(Self::Foreign(Arc::new(Foreign { realm, service, issuer, keys })))
    }

    /// Who sends these headers. `now` is in seconds since 1970.
    pub(crate) async fn identify(&self, headers: &HeaderMap, now: i64) -> Result<Who, Fault> {
        let given = headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let given = given.and_then(|text| text.split_once(' '));
        let scheme = given.map(|(scheme, _)| scheme.to_ascii_lowercase());
        let refused = || Fault::new(Code::Unauthorized, "authentication required");
        match (self, scheme.as_deref(), given) {
            (Self::None, ..) => Ok(Who::Anyone),
            (Self::Basic(passwords), Some("basic"), Some((_, value))) => {
                let (user, password) = basic(value).ok_or_else(refused)?;
                passwords
                    .check(&user, &password)
                    .await?
                    .then_some(Who::User(user))
                    .ok_or_else(|| Fault::new(Code::Unauthorized, "user name or password is wrong"))
            }
            (Self::Token(issuer), Some("bearer"), Some((_, value))) => {
                issuer.verify(value, now).map_err(|why| Fault::new(Code::Unauthorized, why))
            }
            (Self::Foreign(foreign), Some("bearer"), Some((_, value))) => {
                foreign.verify(value, now).map_err(|why| Fault::new(Code::Unauthorized, why))
            }
            _ => Ok(Who::Anonymous),
        }
    }

    /// What to answer somebody who must say who it is. `base` is how the client reaches this registry.
    pub(crate) fn challenge(&self, base: &str, wanted: Option<(&Repository, Verb)>) -> HeaderMap {
        let scope = wanted.map_or_else(String::new, |(repository, verb)| {
            format!(",scope=\"repository:{repository}:{}\"", verb.scope())
        });
        let text = match self {
            Self::None => return HeaderMap::new(),
            Self::Basic(_) => "Basic realm=\"wharf registry\"".to_owned(),
            Self::Token(_) => {
                format!("Bearer realm=\"{base}/token\",service=\"{}\"{scope}", host(base))
            }
            Self::Foreign(f) => {
                format!("Bearer realm=\"{}\",service=\"{}\"{scope}", f.realm, f.service)
            }
        };
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(WWW_AUTHENTICATE, value);
        }
        headers
    }
}

impl Foreign {
    fn verify(&self, token: &str, now: i64) -> Result<Who, &'static str> {
        let claims = Claims::read(token, |algorithm, kid, signed, signature| {
            self.keys.verify(algorithm, kid, signed, signature)
        })?;
        claims.check(now)?;
        if claims.iss != self.issuer {
            return Err("the token is of another issuer");
        }
        if !claims.aud.names(&self.service) {
            return Err("the token is for another service");
        }
        Ok(Who::Granted(claims.access))
    }
}

/// `https://host:port` without what is before the host.
pub(crate) fn host(base: &str) -> &str {
    base.split_once("://").map_or(base, |(_, host)| host)
}

/// User and password of a `Basic` value.
pub(crate) fn basic(value: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}
