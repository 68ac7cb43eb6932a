//! The client's `~/.docker/config.json` and the credentials that travel to an engine.
//!
//! Pure types. Running a credential helper is the command line's business.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::de::MapAccess;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::docker::Fields;
use crate::docker::go;

/// The key under which credentials for Docker Hub are kept.
pub const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Credentials for one registry, as in `X-Registry-Auth`.
#[derive(Clone, PartialEq, Eq, Default, Serialize)]
pub struct AuthConfig {
    /// User name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Password or access token.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password: String,
    /// `base64(user:password)`, the form of the file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth: String,
    /// The registry.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serveraddress: String,
    /// A refresh token for the token server.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identitytoken: String,
    /// A bearer token to send as it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub registrytoken: String,
}

impl Fields for AuthConfig {
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error> {
        let field = match key.to_ascii_lowercase().as_str() {
            "username" => &mut self.username,
            "password" => &mut self.password,
            "auth" => &mut self.auth,
            "serveraddress" => &mut self.serveraddress,
            "identitytoken" => &mut self.identitytoken,
            "registrytoken" => &mut self.registrytoken,
            _ => return Ok(false),
        };
        go::read(map, field)
    }
}

impl<'de> Deserialize<'de> for AuthConfig {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<AuthConfig, D::Error> {
        go::object(d)
    }
}

/// Secrets stay out of logs.
impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("serveraddress", &self.serveraddress)
            .finish_non_exhaustive()
    }
}

impl AuthConfig {
    /// Whether there is nothing to authenticate with.
    pub fn is_anonymous(&self) -> bool {
        self.username.is_empty()
            && self.auth.is_empty()
            && self.identitytoken.is_empty()
            && self.registrytoken.is_empty()
    }

    /// User name and password, from their own fields or from `auth`.
    pub fn basic(&self) -> Option<(String, String)> {
        if !self.username.is_empty() {
            return Some((self.username.clone(), self.password.clone()));
        }
        let decoded = STANDARD.decode(self.auth.trim_end_matches('\0')).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (user, password) = text.split_once(':')?;
        Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
    }

    /// Reads the value of an `X-Registry-Auth` header. Docker ignores what does not decode
    /// on pull; so the caller gets `None` and goes on without credentials.
    pub fn from_header(value: &str) -> Option<Self> {
        let bytes =
            URL_SAFE.decode(padded(value)).or_else(|_| STANDARD.decode(padded(value))).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// The value of an `X-Registry-Auth` header.
    pub fn to_header(&self) -> String {
        URL_SAFE.encode(serde_json::to_vec(self).unwrap_or_default())
    }
}

fn padded(text: &str) -> String {
    let bare = text.trim_end_matches('=');
    format!("{bare}{}", "=".repeat((4 - bare.len() % 4) % 4))
}

/// `~/.docker/config.json`. Unknown keys are kept for writing it back.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigFile {
    /// Credentials by registry.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub auths: BTreeMap<String, AuthConfig>,
    /// Helper for all registries: `docker-credential-<name>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creds_store: Option<String>,
    /// Helper by registry.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cred_helpers: BTreeMap<String, String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Where credentials for a registry are to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials<'a> {
    /// In the file.
    Inline(AuthConfig),
    /// Ask `docker-credential-<helper> get` with `server` on its standard input.
    Helper {
        /// Name without the `docker-credential-` prefix.
        helper: &'a str,
        /// What to ask for.
        server: String,
    },
    /// Nowhere.
    Anonymous,
}

impl ConfigFile {
    /// Where credentials for the registry `domain` (of a [`crate::reference::Reference`]) are.
    pub fn credentials(&self, domain: &str) -> Credentials<'_> {
        let key = auth_key(domain);
        if let Some(helper) = self.cred_helpers.get(domain).or_else(|| self.cred_helpers.get(&key))
        {
            return Credentials::Helper { helper, server: key };
        }
        if let Some(helper) = self.creds_store.as_deref().filter(|h| !h.is_empty()) {
            return Credentials::Helper { helper, server: key };
        }
        let found = self.auths.get(&key).or_else(|| {
            self.auths.iter().find(|(k, _)| host_of(k) == host_of(&key)).map(|(_, auth)| auth)
        });
        match found {
            Some(auth) if !auth.is_anonymous() => {
                let mut auth = auth.clone();
                if let Some((username, password)) = auth.basic() {
                    (auth.username, auth.password) = (username, password);
                    auth.auth.clear();
                }
                auth.serveraddress = key;
                Credentials::Inline(auth)
            }
            _ => Credentials::Anonymous,
        }
    }
}

/// The key of a registry in `auths`: itself, but Docker Hub has a URL of old.
pub fn auth_key(domain: &str) -> String {
    match domain {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB_KEY.to_owned(),
        other => other.to_owned(),
    }
}

fn host_of(key: &str) -> &str {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    bare.split('/').next().unwrap_or(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> ConfigFile {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn keys_are_known_in_any_case() {
        let auth: AuthConfig = serde_json::from_str(
            r#"{"Username":"u","PASSWORD":null,"ServerAddress":"r.io","email":"e"}"#,
        )
        .unwrap();
        let wanted = AuthConfig {
            username: "u".into(),
            serveraddress: "r.io".into(),
            ..AuthConfig::default()
        };
        assert!(auth == wanted);
    }

    #[test]
    fn credentials_come_from_file_or_helper() {
        let config = file(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6cHc6eA=="},"https://r.io/v2/":{"username":"u","password":"p"},
                "empty.io":{}}, "credHelpers":{"gcr.io":"gcloud"}, "psFormat":"x"}"#,
        );
        let Credentials::Inline(hub) = config.credentials("docker.io") else { panic!() };
        assert_eq!((hub.username.as_str(), hub.password.as_str()), ("me", "pw:x"));
        assert_eq!(hub.serveraddress, HUB_KEY);
        assert!(matches!(config.credentials("r.io"), Credentials::Inline(a) if a.username == "u"));
        assert_eq!(config.credentials("empty.io"), Credentials::Anonymous);
        assert_eq!(
            config.credentials("gcr.io"),
            Credentials::Helper { helper: "gcloud", server: "gcr.io".into() }
        );
        assert_eq!(config.other["psFormat"], "x");
    }

    #[test]
    fn the_header_form_reads_what_clients_send() {
        assert_eq!(AuthConfig::from_header("e30="), Some(AuthConfig::default()));
        assert_eq!(AuthConfig::from_header("e30"), Some(AuthConfig::default()));
        assert_eq!(AuthConfig::from_header("!!"), None);
        let auth =
            AuthConfig { username: "u\u{ff}".into(), password: "p?>".into(), ..Default::default() };
        assert_eq!(AuthConfig::from_header(&auth.to_header()), Some(auth.clone()));
        assert!(!format!("{auth:?}").contains("p?>"));
    }
}
