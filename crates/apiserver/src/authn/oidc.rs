//! Tokens of an OpenID Connect issuer, verified with the keys that it publishes.

use crate::user::User;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use ring::signature as sig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use wharf_base::sync::Mutex;

/// What is believed of an issuer, as the reference server's `--oidc-` flags say it.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Its URL, which begins with `https`.
    pub issuer: String,
    /// The audience that tokens must be for.
    pub client_id: String,
    /// The claim that names the user. Default: `sub`.
    pub username_claim: String,
    /// What names begin with; `-` is nothing. Default: the issuer and `#`, unless the claim is `email`.
    pub username_prefix: Option<String>,
    /// The claim that lists groups; empty for none.
    pub groups_claim: String,
    /// What groups begin with.
    pub groups_prefix: String,
    /// Claims that tokens must have, with these values.
    pub required: Vec<(String, String)>,
}

/// An issuer.
pub struct Oidc {
    settings: Settings,
    tls: Arc<rustls::ClientConfig>,
    keys: Mutex<Kept>,
    /// Held while the issuer is asked, so that who comes meanwhile waits for its answer.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Kept {
    keys: Arc<Vec<Key>>,
    /// When they were asked for last.
    asked: Option<tokio::time::Instant>,
}

struct Key {
    id: String,
    public: Public,
}

enum Public {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
}

/// Why an issuer's keys cannot be had.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0:?} is no https URL")]
    Url(String),
    #[error("cannot connect to {host}")]
    Connect { host: String, source: std::io::Error },
    #[error("the exchange failed")]
    Http(#[from] hyper::Error),
    #[error("the answer has status {0}")]
    Status(u16),
    #[error("the answer is too long or was cut off")]
    Body,
    #[error("the answer is no JSON")]
    Json(#[from] serde_json::Error),
    #[error("it took too long")]
    Slow,
    #[error("it says that it is {0:?}")]
    Issuer(String),
}

/// How long one question may take, and how soon an issuer is asked again.
const PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_secs(10);
/// The longest document that is read (1 MiB).
const LONGEST: usize = 1 << 20;

impl Oidc {
    /// An issuer that is trusted by the certificates in `roots`.
    pub fn new(settings: Settings, roots: rustls::RootCertStore) -> Result<Oidc, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (keys, asking) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Oidc { settings, tls: Arc::new(tls), keys, asking })
    }

    /// Whose token it is, if it is one of this issuer's and good at `now`.
    pub async fn user(&self, token: &str, now: i64) -> Option<User> {
        let (text, signature) = token.rsplit_once('.')?;
        let (header, claims) = text.split_once('.')?;
        let claims: Value = serde_json::from_slice(&B64.decode(claims).ok()?).ok()?;
        // Nobody else's tokens make this server ask the issuer.
        if claims["iss"] != self.settings.issuer.as_str() {
            return None;
        }
        let header: Value = serde_json::from_slice(&B64.decode(header).ok()?).ok()?;
        let signature = B64.decode(signature).ok()?;
        let id = header["kid"].as_str().unwrap_or_default();
        let algorithm = header["alg"].as_str().unwrap_or_default();
        let keys = self.keys_with(id).await;
        let mut fitting = keys.iter().filter(|k| k.id == id || id.is_empty());
        fitting.find(|k| k.public.verifies(algorithm, text.as_bytes(), &signature))?;
        self.read(&claims, now)
    }

    /// The user of claims whose signature is good.
    fn read(&self, claims: &Value, now: i64) -> Option<User> {
        let s = &self.settings;
        let audience = match &claims["aud"] {
            Value::String(a) => *a == s.client_id,
            Value::Array(list) => list.iter().any(|a| *a == s.client_id.as_str()),
            _ => false,
        };
        let valid = claims["exp"].as_i64().is_some_and(|t| now < t)
            && claims["nbf"].as_i64().is_none_or(|t| now >= t - 300);
        let required = s.required.iter().all(|(k, v)| claims[k] == v.as_str());
        if !audience || !valid || !required {
            return None;
        }
        let claim = if s.username_claim.is_empty() { "sub" } else { &s.username_claim };
        let name = claims[claim].as_str().filter(|n| !n.is_empty())?;
        if claim == "email" && claims.get("email_verified").is_some_and(|v| *v != true) {
            return None;
        }
        let prefix = match s.username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
            None if claim == "email" => String::new(),
            None => format!("{}#", s.issuer),
        };
        let groups = match claims.get(&s.groups_claim) {
            Some(Value::String(g)) => vec![g.as_str()],
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let groups = groups.iter().map(|g| format!("{}{g}", s.groups_prefix)).collect();
        Some(User::new(format!("{prefix}{name}"), groups))
    }

    /// The issuer's keys, asked for again where `id` is not among them.
    async fn keys_with(&self, id: &str) -> Arc<Vec<Key>> {
        let known = |kept: &Kept| kept.keys.iter().any(|k| k.id == id);
        {
            let kept = self.keys.lock();
            if known(&kept) {
                return Arc::clone(&kept.keys);
            }
        }
        let _turn = self.asking.lock().await;
        {
            let mut kept = self.keys.lock();
            if known(&kept) || kept.asked.is_some_and(|t| t.elapsed() < AGAIN) {
                return Arc::clone(&kept.keys);
            }
            kept.asked = Some(tokio::time::Instant::now());
        }
        match self.fetch_keys().await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                self.keys.lock().keys = Arc::clone(&keys);
                keys
            }
            Err(e) => {
                let error = wharf_base::error::chain(&e);
                tracing::warn!(issuer = %self.settings.issuer, %error, "the keys of the issuer cannot be read");
                Arc::clone(&self.keys.lock().keys)
            }
        }
    }

    async fn fetch_keys(&self) -> Result<Vec<Key>, FetchError> {
        let issuer = self.settings.issuer.trim_end_matches('/');
        let document = self.fetch(&format!("{issuer}/.well-known/openid-configuration")).await?;
        let says = document["issuer"].as_str().unwrap_or_default();
        if says != self.settings.issuer {
            return Err(FetchError::Issuer(says.to_owned()));
        }
        let set = self.fetch(document["jwks_uri"].as_str().unwrap_or_default()).await?;
        Ok(set["keys"].as_array().into_iter().flatten().filter_map(Key::read).collect())
    }

    async fn fetch(&self, url: &str) -> Result<Value, FetchError> {
        tokio::time::timeout(PATIENCE, self.exchange(url)).await.map_err(|_| FetchError::Slow)?
    }

    async fn exchange(&self, url: &str) -> Result<Value, FetchError> {
        let wrong = || FetchError::Url(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| wrong())?;
        let authority =
            uri.authority().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(wrong)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let failed = |source| FetchError::Connect { host: host.clone(), source };
        let port = authority.port_u16().unwrap_or(443);
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(failed)?;
        let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
        let tls = connector.connect(name, stream).await.map_err(failed)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        // It ends with the exchange, because the answer is read to its end or dropped.
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "a connection to an issuer ended early");
            }
        });
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let request = http::Request::get(path)
            .header("host", authority.as_str())
            .header("accept", "application/json")
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|_| wrong())?;
        let answer = sender.send_request(request).await?;
        if !answer.status().is_success() {
            return Err(FetchError::Status(answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), LONGEST).collect().await;
        Ok(serde_json::from_slice(&body.map_err(|_| FetchError::Body)?.to_bytes())?)
    }
}

impl Key {
    fn read(v: &Value) -> Option<Key> {
        let bytes = |k: &str| B64.decode(v[k].as_str()?.trim_end_matches('=')).ok();
        let point = || Some([&[4][..], &bytes("x")?, &bytes("y")?].concat());
        let public = match (v["kty"].as_str()?, v["crv"].as_str()) {
            ("RSA", _) => Public::Rsa { n: bytes("n")?, e: bytes("e")? },
            ("EC", Some("P-256")) => Public::P256(point()?),
            ("EC", Some("P-384")) => Public::P384(point()?),
            _ => return None,
        };
        Some(Key { id: v["kid"].as_str().unwrap_or_default().to_owned(), public })
    }
}

impl Public {
    /// The key says which algorithms there are, so that a token cannot choose another kind.
    fn verifies(&self, algorithm: &str, text: &[u8], signature: &[u8]) -> bool {
        let rsa: Option<&sig::RsaParameters> = match algorithm {
            "RS256" => Some(&sig::RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Some(&sig::RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Some(&sig::RSA_PKCS1_2048_8192_SHA512),
            "PS256" => Some(&sig::RSA_PSS_2048_8192_SHA256),
            "PS384" => Some(&sig::RSA_PSS_2048_8192_SHA384),
            "PS512" => Some(&sig::RSA_PSS_2048_8192_SHA512),
            _ => None,
        };
        match (self, rsa, algorithm) {
            (Public::Rsa { n, e }, Some(rsa), _) => {
                sig::RsaPublicKeyComponents { n, e }.verify(rsa, text, signature).is_ok()
            }
            (Public::P256(point), _, "ES256") => {
                sig::UnparsedPublicKey::new(&sig::ECDSA_P256_SHA256_FIXED, point)
                    .verify(text, signature)
                    .is_ok()
            }
            (Public::P384(point), _, "ES384") => {
                sig::UnparsedPublicKey::new(&sig::ECDSA_P384_SHA384_FIXED, point)
                    .verify(text, signature)
                    .is_ok()
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::jwt::Keys;
    use serde_json::json;

    fn issuer(settings: Settings) -> (Oidc, Keys) {
        let pkcs8 = sig::EcdsaKeyPair::generate_pkcs8(
            &sig::ECDSA_P256_SHA256_FIXED_SIGNING,
            &ring::rand::SystemRandom::new(),
        )
        .unwrap();
        let keys = Keys::from_der(pkcs8.as_ref()).unwrap();
        let oidc = Oidc::new(settings, rustls::RootCertStore::empty()).unwrap();
        let set = keys.jwks();
        let read = set["keys"].as_array().unwrap().iter().filter_map(Key::read).collect();
        *oidc.keys.lock() = Kept { keys: Arc::new(read), asked: Some(tokio::time::Instant::now()) };
        (oidc, keys)
    }

    #[tokio::test]
    async fn tokens_name_users_as_the_settings_say() {
        let settings = Settings {
            issuer: "https://id.example".to_owned(),
            client_id: "wharf".to_owned(),
            groups_claim: "groups".to_owned(),
            groups_prefix: "oidc:".to_owned(),
            required: vec![("hd".to_owned(), "example".to_owned())],
            ..Settings::default()
        };
        let (oidc, keys) = issuer(settings);
        let claims = json!({"iss": "https://id.example", "aud": ["wharf"], "sub": "bob", "exp": 100,
            "groups": ["devs"], "hd": "example"});
        let user = oidc.user(&keys.sign(&claims).unwrap(), 50).await.unwrap();
        assert_eq!(user.name, "https://id.example#bob");
        assert!(user.is_in("oidc:devs") && user.is_in("system:authenticated"));
        assert!(oidc.user(&keys.sign(&claims).unwrap(), 100).await.is_none(), "expired");
        for (key, value) in [
            ("aud", json!("other")),
            ("iss", json!("https://x")),
            ("hd", json!("")),
            ("sub", json!("")),
        ] {
            let mut wrong = claims.clone();
            wrong[key] = value;
            assert!(oidc.user(&keys.sign(&wrong).unwrap(), 50).await.is_none(), "{key}");
        }
        let (_, others) = issuer(Settings::default());
        assert!(oidc.user(&others.sign(&claims).unwrap(), 50).await.is_none(), "another's key");
    }
}
