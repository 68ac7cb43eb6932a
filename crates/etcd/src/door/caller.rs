//! Who asks: tokens that were given out, and names in certificates.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tonic::{Request, Status};
use wharf_base::sync::Mutex;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Host;
use crate::auth::{AuthError, Caller};
use crate::wire::auth_status;

/// How a member treats users.
#[derive(Clone, Debug)]
pub struct Users {
    /// How long a token is good for after its last use. Default: 5 minutes, as etcd has it.
    pub token_ttl: Duration,
    /// How much work a password's hash is, as a power of two between 4 and 31. Default: 10, as etcd has it.
    pub bcrypt_cost: u32,
}

impl Default for Users {
    fn default() -> Users {
        Users { token_ttl: Duration::from_secs(300), bcrypt_cost: 10 }
    }
}

/// What a request tells about who asks.
#[derive(Clone, Debug, Default)]
pub(super) struct Credentials {
    token: Option<String>,
    /// The name in the certificate, which has been verified.
    common_name: Option<String>,
}

impl Credentials {
    pub(super) fn of<T>(request: &Request<T>) -> Credentials {
        // The second name is that of HTTP, for the JSON gateway.
        let headers = request.metadata();
        let token = headers.get("token").or_else(|| headers.get("authorization"));
        // A token that is no text is one that was not given out.
        let token = token.map(|t| t.to_str().unwrap_or_default());
        let token = token.map(|t| t.strip_prefix("Bearer ").unwrap_or(t).to_owned());
        let chain = request.peer_certs();
        let common_name = chain.as_ref().and_then(|chain| common_name(chain.first()?));
        Credentials { token, common_name }
    }
}

/// The common name in a certificate; empty if it has none.
pub(super) fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut names = certificate.subject().iter_common_name();
    Some(names.next().and_then(|n| n.as_str().ok()).unwrap_or_default().to_owned())
}

impl Host {
    /// Whoever makes a request, and the request.
    pub(super) fn asked<T>(&self, request: Request<T>) -> Result<(Caller, T), Status> {
        let caller = self.caller(&Credentials::of(&request))?;
        Ok((caller, request.into_inner()))
    }

    pub(super) fn caller(&self, credentials: &Credentials) -> Result<Caller, Status> {
        let (name, auth) = match credentials {
            Credentials { token: None, common_name: None } => return Ok(Caller::Nobody),
            Credentials { token: Some(token), .. } => {
                let auth = self.store.auth();
                if !auth.is_enabled() {
                    return Ok(Caller::Nobody);
                }
                let user = self.tokens.user(token, self.store.now());
                (user.ok_or_else(|| auth_status(AuthError::InvalidToken))?, auth)
            }
            Credentials { token: None, common_name: Some(name) } => {
                (Arc::from(&name[..]), self.store.auth())
            }
        };
        Ok(Caller::User { name, revision: auth.revision() })
    }

    /// Refuses a request of somebody who is not root.
    pub(super) fn admin<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let caller = self.caller(&Credentials::of(request))?;
        self.store.auth().admin(&caller).map_err(auth_status)
    }

    /// Refuses a request of nobody, if users are asked for.
    pub(super) fn known<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = self.caller(&Credentials::of(request))?;
        self.store.auth().known(&caller).map_err(auth_status)?;
        Ok(caller)
    }
}

/// Letters of a token.
const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// How many of them it has.
const LENGTH: usize = 16;

/// Tokens that are good, in memory only: after a restart clients sign in again.
pub(super) struct Tokens {
    ttl: Duration,
    given: Mutex<HashMap<String, Token>>,
    next: AtomicU64,
}

struct Token {
    user: Arc<str>,
    end: Instant,
}

impl Tokens {
    pub(super) fn new(ttl: Duration) -> Tokens {
        Tokens { ttl, given: Mutex::default(), next: AtomicU64::new(1) }
    }

    /// Gives out a token.
    pub(super) fn give(&self, user: &str, now: Instant) -> Result<String, Status> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let token = format!("{}.{number}", letters()?);
        let mut given = self.given.lock();
        given.retain(|_, token| token.end > now);
        given.insert(token.clone(), Token { user: user.into(), end: now + self.ttl });
        Ok(token)
    }

    /// Whose token it is. Its time starts anew.
    fn user(&self, token: &str, now: Instant) -> Option<Arc<str>> {
        let mut given = self.given.lock();
        let found = given.get_mut(token).filter(|token| token.end > now)?;
        found.end = now + self.ttl;
        Some(Arc::clone(&found.user))
    }

    /// Takes back the tokens of a user.
    pub(super) fn forget(&self, user: &str) {
        self.given.lock().retain(|_, token| *token.user != *user);
    }

    /// Takes back one token.
    pub(super) fn take_back(&self, token: &str) {
        self.given.lock().remove(token);
    }

    /// Takes back all tokens.
    pub(super) fn clear(&self) {
        self.given.lock().clear();
    }
}

fn letters() -> Result<String, Status> {
    let mut found = String::new();
    while found.len() < LENGTH {
        let mut bytes = [0; LENGTH * 2];
        getrandom::fill(&mut bytes)
            .map_err(|e| Status::internal(format!("etcdserver: no random numbers: {e}")))?;
        // Only as many values as there are letters, times a whole number, so that each is as likely.
        let fair = bytes.iter().filter(|b| usize::from(**b) < LETTERS.len() * 4);
        let more = fair.map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()]));
        found.extend(more.take(LENGTH - found.len()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_end_unless_they_are_used() {
        let tokens = Tokens::new(Duration::from_secs(10));
        let start = wharf_base::clock::Clock::fixed(Duration::ZERO).instant();
        let at = |seconds| start + Duration::from_secs(seconds);
        let token = tokens.give("u", start).unwrap();
        let other = tokens.give("v", start).unwrap();
        assert_ne!(token[..LENGTH], other[..LENGTH]);
        assert_eq!(tokens.user(&token, at(9)).as_deref(), Some("u"));
        assert_eq!(tokens.user(&other, at(10)), None);
        assert_eq!(tokens.user(&token, at(18)).as_deref(), Some("u"));
        tokens.forget("u");
        assert_eq!(tokens.user(&token, at(18)), None);
    }
}
