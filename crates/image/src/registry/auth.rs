//! Challenges and tokens: what `WWW-Authenticate` asks for, and how to get it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, StatusCode, header};
use serde::Deserialize;
use wharf_base::sync::Mutex;

use super::{Ask, Payload, RegistryError, Remote, failure, read};

/// Largest answer of a token server.
const TOKEN_MAX: usize = 1 << 20;
/// How long a token lasts when its server does not say (distribution's token specification).
const LIFETIME: u64 = 60;

/// Tokens obtained so far.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<Key, Token>>);

/// Address, repository, user: a token for one is nobody else's.
type Key = (String, String, String);

struct Token {
    authorization: String,
    until: Instant,
}

/// One parsed challenge.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    refresh_token: String,
    expires_in: Option<u64>,
}

impl Tokens {
    /// The `Authorization` that worked before and still lasts.
    pub(super) fn known(&self, remote: &Remote<'_>) -> Option<String> {
        if !remote.auth.registrytoken.is_empty() {
            return Some(format!("Bearer {}", remote.auth.registrytoken));
        }
        let now = remote.client.settings.clock.instant();
        let tokens = self.0.lock();
        tokens.get(&key(remote)).filter(|t| t.until > now).map(|t| t.authorization.clone())
    }

    /// Answers a challenge. `None` if nothing we have does.
    pub(super) async fn obtain(
        &self,
        remote: &Remote<'_>,
        challenges: &[String],
    ) -> Result<Option<String>, RegistryError> {
        let Some(granted) = ask_for(remote, challenges).await? else { return Ok(None) };
        let Granted { authorization, lifetime, .. } = granted;
        // A little before its end, so that it does not end on the way.
        let lifetime = Duration::from_secs(lifetime.saturating_sub(5).max(1));
        let until = remote.client.settings.clock.instant() + lifetime;
        let token = Token { authorization: authorization.clone(), until };
        self.0.lock().insert(key(remote), token);
        Ok(Some(authorization))
    }

    /// As [`Tokens::obtain`] for a login, whose answer is not kept: the password may be wrong.
    pub(super) async fn log_in(
        &self,
        remote: &Remote<'_>,
        challenges: &[String],
    ) -> Result<Option<Granted>, RegistryError> {
        ask_for(remote, challenges).await
    }
}

/// What answers a challenge.
pub(super) struct Granted {
    pub(super) authorization: String,
    /// To send in place of the password from now on; empty if there is none.
    pub(super) identity: String,
    /// Seconds.
    lifetime: u64,
}

async fn ask_for(
    remote: &Remote<'_>,
    challenges: &[String],
) -> Result<Option<Granted>, RegistryError> {
    let challenges: Vec<Challenge> = challenges.iter().flat_map(|c| parse(c)).collect();
    let named = |name: &str| challenges.iter().find(|c| c.scheme.eq_ignore_ascii_case(name));
    if let Some(bearer) = named("bearer") {
        return fetch(remote, &bearer.parameters).await.map(Some);
    }
    let (Some(_), Some((user, password))) = (named("basic"), remote.auth.basic()) else {
        return Ok(None);
    };
    let authorization = basic(&user, &password);
    Ok(Some(Granted { authorization, identity: String::new(), lifetime: 3600 }))
}

fn key(remote: &Remote<'_>) -> Key {
    let user = format!("{}\0{}", remote.auth.username, remote.auth.identitytoken);
    (remote.endpoint.base().to_owned(), remote.repository.clone(), user)
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Asks the token server: by GET, or with an identity token by POST (OAuth2).
async fn fetch(
    remote: &Remote<'_>,
    parameters: &HashMap<String, String>,
) -> Result<Granted, RegistryError> {
    let host = remote.host();
    let wrong = |what: &str| RegistryError::Protocol { host: host.clone(), what: what.into() };
    let realm = parameters.get("realm").ok_or_else(|| wrong("with a challenge without realm"))?;
    if !realm.starts_with("https://") && !realm.starts_with("http://") {
        return Err(wrong("with a realm that is no address"));
    }
    let service = parameters.get("service").map_or("", String::as_str);
    // A login is about no repository, and wants a token that lasts.
    let login = remote.repository.is_empty();
    let default = match login {
        true => String::new(),
        false => format!("repository:{}:pull", remote.repository),
    };
    let scope = parameters.get("scope").map_or(default.as_str(), String::as_str);
    let offline = if login && !remote.auth.is_anonymous() { "true" } else { "" };
    let client = if offline.is_empty() { "" } else { "wharf" };
    let account = remote.auth.basic().map(|(user, _)| user).unwrap_or_default();
    let account = if login { account.as_str() } else { "" };
    // One parameter per scope by GET; one list by POST (distribution's token and OAuth2 specifications).
    let scopes = scope.split_ascii_whitespace().map(|one| ("scope", one));
    let ask = if remote.auth.identitytoken.is_empty() {
        let query: Vec<_> = [("service", service)]
            .into_iter()
            .chain(scopes)
            .chain([("account", account), ("offline_token", offline), ("client_id", client)])
            .collect();
        let mark = if realm.contains('?') { '&' } else { '?' };
        let mut ask = Ask::new(Method::GET, &format!("{realm}{mark}{}", encode(&query)))?;
        ask.authorization = remote.auth.basic().map(|(user, password)| basic(&user, &password));
        ask
    } else {
        let fields = [
            ("service", service),
            ("scope", scope),
            ("grant_type", "refresh_token"),
            ("client_id", "wharf"),
            ("refresh_token", &remote.auth.identitytoken),
        ];
        let form = "application/x-www-form-urlencoded";
        let mut ask = Ask::new(Method::POST, realm)?.header(header::CONTENT_TYPE, form);
        ask.body = Payload::Whole(Bytes::from(encode(&fields)));
        ask
    };
    let response = remote.client.send(&ask).await?;
    if response.status() == StatusCode::UNAUTHORIZED {
        return Err(failure(&host, response).await);
    }
    let stall = remote.client.settings.registries.stall;
    let bytes = read(&host, response, TOKEN_MAX, stall).await?;
    let answer: Answer =
        serde_json::from_slice(&bytes).map_err(|_| wrong("with a malformed token"))?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() || token.contains(|c: char| c.is_control()) {
        return Err(wrong("with a malformed token"));
    }
    Ok(Granted {
        authorization: format!("Bearer {token}"),
        identity: answer.refresh_token,
        lifetime: answer.expires_in.unwrap_or(LIFETIME).max(LIFETIME),
    })
}

/// `key=value&…`, percent-encoded.
pub(crate) fn encode(fields: &[(&str, &str)]) -> String {
    let quote = |text: &str| -> String {
        text.bytes()
            .map(|b| match b {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    char::from(b).to_string()
                }
                _ => format!("%{b:02X}"),
            })
            .collect()
    };
    let pairs: Vec<String> = fields
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={}", quote(value)))
        .collect();
    pairs.join("&")
}

/// Splits a `WWW-Authenticate` value: `Scheme key="value", key=value, Scheme …`.
fn parse(text: &str) -> Vec<Challenge> {
    let mut all: Vec<Challenge> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = value_of(value);
            if let Some(challenge) = all.last_mut() {
                challenge.parameters.insert(word.to_ascii_lowercase(), value);
            }
            rest = after;
        } else {
            if !word.is_empty() {
                all.push(Challenge { scheme: word.to_owned(), parameters: HashMap::new() });
            }
            rest = after;
        }
        rest = rest.trim_start_matches([' ', ',']);
    }
    all
}

fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_taken_apart() {
        let all = parse(
            r#"Bearer realm="https://a/t",service="s, t",scope="repository:x:pull,push", Basic realm=r"#,
        );
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].parameters["scope"], "repository:x:pull,push");
        assert_eq!(all[0].parameters["service"], "s, t");
        assert_eq!((all[1].scheme.as_str(), all[1].parameters["realm"].as_str()), ("Basic", "r"));
        assert!(parse("").is_empty());
        assert_eq!(parse("Negotiate").len(), 1);
        parse("=,=\"");
    }

    #[test]
    fn fields_are_quoted() {
        assert_eq!(encode(&[("a", "x y:z"), ("b", "")]), "a=x%20y%3Az");
    }
}
