//! Authentication: certificates, tokens of many kinds, proxies in front, and acting for others.

pub mod jwt;
pub mod oidc;

use crate::api::Api;
use crate::respond::Answer;
use crate::server::Incoming;
use crate::tokens::StaticTokens;
use crate::user::{AUTHENTICATED, UNAUTHENTICATED, User};
use http::{HeaderMap, StatusCode};
use jwt::Keys;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use wharf_kube::status::Fault;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Knows who asks.
pub struct Authenticator {
    /// What service account tokens are signed with.
    pub keys: Keys,
    /// Who issues them, and the audience of those that name none.
    pub issuer: String,
    /// Tokens that a file lists.
    pub listed: StaticTokens,
    /// Who else issues tokens.
    pub oidc: Option<oidc::Oidc>,
    /// The names of the proxies that are believed when they say who asks; none is any with the right certificate.
    pub proxies: Vec<String>,
}

/// The authority of proxies, by its common name, and the mark of a user whose certificate is from it.
pub const FRONT_PROXY: &str = "front-proxy-ca";

/// The user that a client's certificate names: its subject's common name and organizations.
pub fn certificate(der: &[u8]) -> Option<User> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let subject = cert.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    let issuer = cert.issuer().iter_common_name().next().and_then(|n| n.as_str().ok());
    if issuer == Some(FRONT_PROXY) {
        let extra = [(FRONT_PROXY.to_owned(), Vec::new())].into();
        return Some(User { name, extra, ..User::default() });
    }
    let mut user = User::new(name, groups);
    let hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(der));
    let key = "authentication.kubernetes.io/credential-id".to_owned();
    user.extra.insert(key, vec![format!("X509SHA256={hash}")]);
    Some(user)
}

impl Authenticator {
    /// One that knows certificates and the tokens of service accounts.
    pub fn new(keys: Keys, issuer: String) -> Authenticator {
        let (listed, proxies) = (StaticTokens::default(), Vec::new());
        Authenticator { keys, issuer, listed, oidc: None, proxies }
    }

    /// Who makes a request. A credential that is wrong is worse than none.
    pub async fn authenticate(&self, api: &Api, r: &Incoming) -> Result<User, Fault> {
        match &r.certificate {
            Some(proxy) if proxy.extra.contains_key(FRONT_PROXY) => {
                let believed = self.proxies.is_empty() || self.proxies.contains(&proxy.name);
                return fronted(&r.headers).filter(|_| believed).ok_or_else(Fault::unauthorized);
            }
            Some(user) => return Ok(user.clone()),
            None => {}
        }
        let Some(header) = r.header("authorization") else { return Ok(User::anonymous()) };
        match header.split_once(' ') {
            Some((scheme, token))
                if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() =>
            {
                self.token(api, token.trim(), &[])
                    .await
                    .map(|t| t.user)
                    .ok_or_else(Fault::unauthorized)
            }
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("bearer") => Ok(User::anonymous()),
            _ => Ok(User::anonymous()),
        }
    }

    /// Whose token it is; `audiences` are what the asker takes, none for the server itself.
    pub async fn token(&self, api: &Api, token: &str, audiences: &[String]) -> Option<Verified> {
        let of = |user| Some(Verified { user, audiences: audiences.to_vec() });
        if let Some(user) = self.listed.user(token) {
            return of(user.clone());
        }
        if let Some(user) = bootstrap_token(api, token).await {
            return of(user);
        }
        if let Some(oidc) = &self.oidc
            && let Some(user) = oidc.user(token, api.now_seconds()).await
        {
            return of(user);
        }
        let claims = self.keys.verify(token, api.now_seconds())?;
        if claims["iss"] == jwt::LEGACY {
            return of(legacy_account(api, &claims, token).await?);
        }
        if claims["iss"] != json!(self.issuer) {
            return None;
        }
        let own = [self.issuer.clone()];
        let wanted = if audiences.is_empty() { &own[..] } else { audiences };
        let given: Vec<String> = match &claims["aud"] {
            Value::String(s) => vec![s.clone()],
            Value::Array(list) => {
                list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        let shared: Vec<String> = wanted.iter().filter(|a| given.contains(a)).cloned().collect();
        if shared.is_empty() {
            return None;
        }
        let user = service_account(api, &claims).await?;
        Some(Verified { user, audiences: shared })
    }

    /// A token without an end, which is good as long as the Secret that its claims name holds it.
    pub fn legacy(&self, claims: &Value) -> Option<String> {
        let mut claims = claims.clone();
        claims["iss"] = json!(jwt::LEGACY);
        self.keys.sign(&claims)
    }

    /// The documents by which others verify tokens.
    pub fn openid(&self, path: &str) -> Option<Answer> {
        match path {
            "/openid/v1/jwks" => {
                let body = self.keys.jwks().to_string();
                Some(Answer::bytes(StatusCode::OK, "application/jwk-set+json", body))
            }
            _ => {
                let doc = json!({"issuer": self.issuer, "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
                    "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256"]});
                Some(Answer::bytes(StatusCode::OK, "application/json", doc.to_string()))
            }
        }
    }
}

/// The user that a proxy says it asks for.
fn fronted(headers: &HeaderMap) -> Option<User> {
    let texts = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let name = texts("x-remote-user").into_iter().next().filter(|n| !n.is_empty())?;
    let mut user = User::new(name, texts("x-remote-group"));
    user.uid = texts("x-remote-uid").into_iter().next().unwrap_or_default();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) =
            (name.as_str().strip_prefix("x-remote-extra-"), value.to_str())
        {
            let key = crate::request::percent_decode(key).into_owned();
            user.extra.entry(key).or_default().push(value.to_owned());
        }
    }
    Some(user)
}

/// A token that is good, and for whom.
#[derive(Debug)]
pub struct Verified {
    /// Whose it is.
    pub user: User,
    /// The audiences that asker and token share.
    pub audiences: Vec<String>,
}

/// The account of a token, if it and what the token is bound to still exist.
async fn service_account(api: &Api, claims: &Value) -> Option<User> {
    let k = &claims["kubernetes.io"];
    let ns = k["namespace"].as_str()?;
    let name = k["serviceaccount"]["name"].as_str()?;
    let uid = k["serviceaccount"]["uid"].as_str()?;
    let kind = api.kinds.core("serviceaccounts")?;
    let account = api.object(&kind, Some(ns), name).await.ok()??;
    if crate::api::meta(&account, "uid") != uid || crate::api::is_deleting(&account) {
        return None;
    }
    let mut extra = BTreeMap::new();
    for (claim, plural) in [("pod", "pods"), ("secret", "secrets"), ("node", "nodes")] {
        let bound = &k[claim];
        let (Some(name), Some(uid)) = (bound["name"].as_str(), bound["uid"].as_str()) else {
            continue;
        };
        let kind = api.kinds.core(plural)?;
        let object = api.object(&kind, Some(ns), name).await.ok()?;
        match object {
            Some(o) if crate::api::meta(&o, "uid") == uid => {}
            // A node may be gone while its pods are being cleaned up.
            None if claim == "node" => {}
            _ => return None,
        }
        if claim != "secret" {
            let key = |what: &str| format!("authentication.kubernetes.io/{claim}-{what}");
            extra.insert(key("name"), vec![name.to_owned()]);
            extra.insert(key("uid"), vec![uid.to_owned()]);
        }
    }
    if let Some(jti) = claims["jti"].as_str() {
        let key = "authentication.kubernetes.io/credential-id".to_owned();
        extra.insert(key, vec![format!("JTI={jti}")]);
    }
    let mut user = account_user(ns, name);
    user.uid = uid.to_owned();
    user.extra = extra;
    Some(user)
}

/// The account of a token of the old kind: it and the Secret are there, and the Secret holds the token.
async fn legacy_account(api: &Api, claims: &Value, token: &str) -> Option<User> {
    use base64::Engine as _;
    let claim = |name: &str| claims[format!("kubernetes.io/serviceaccount/{name}")].as_str();
    let (ns, name, uid) =
        (claim("namespace")?, claim("service-account.name")?, claim("service-account.uid")?);
    let kind = api.kinds.core("serviceaccounts")?;
    let account = api.object(&kind, Some(ns), name).await.ok()??;
    let kind = api.kinds.core("secrets")?;
    let secret = api.object(&kind, Some(ns), claim("secret.name")?).await.ok()??;
    let held = secret["data"]["token"].as_str()?;
    let held = base64::engine::general_purpose::STANDARD.decode(held).ok()?;
    let lives = crate::api::meta(&account, "uid") == uid
        && !crate::api::is_deleting(&account)
        && !crate::api::is_deleting(&secret)
        && jwt::equal(&held, token.as_bytes());
    lives.then(|| {
        let mut user = account_user(ns, name);
        uid.clone_into(&mut user.uid);
        user
    })
}

/// The identity of a service account.
pub fn account_user(namespace: &str, name: &str) -> User {
    let groups =
        vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    User::new(format!("system:serviceaccount:{namespace}:{name}"), groups)
}

/// The identity of `id.secret`, kept as a Secret in kube-system.
async fn bootstrap_token(api: &Api, token: &str) -> Option<User> {
    let (id, secret) = token.split_once('.')?;
    let lower = |s: &str| s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if id.len() != 6 || secret.len() != 16 || !lower(id) || !lower(secret) {
        return None;
    }
    let kind = api.kinds.core("secrets")?;
    let o =
        api.object(&kind, Some("kube-system"), &format!("bootstrap-token-{id}")).await.ok()??;
    if o["type"] != "bootstrap.kubernetes.io/token" || crate::api::is_deleting(&o) {
        return None;
    }
    let field = |name: &str| {
        use base64::Engine as _;
        let text = o["data"].get(name)?.as_str()?;
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).ok()?).ok()
    };
    let same = jwt::equal(field("token-secret")?.as_bytes(), secret.as_bytes());
    let usable = field("usage-bootstrap-authentication").as_deref() == Some("true");
    let expired = field("expiration").is_some_and(|t| {
        wharf_kube::time::parse_micros(&t).is_none_or(|t| t / 1_000_000 <= api.now_seconds())
    });
    if !same || !usable || expired || field("token-id")? != id {
        return None;
    }
    let mut groups = vec!["system:bootstrappers".to_owned()];
    let more = field("auth-extra-groups").unwrap_or_default();
    groups.extend(
        more.split(',').filter(|g| g.starts_with("system:bootstrappers:")).map(str::to_owned),
    );
    Some(User::new(format!("system:bootstrap:{id}"), groups))
}

/// Whom a request wants to act as.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Impersonation {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
    account: Option<String>,
}

/// Reads the `Impersonate-` headers.
pub fn impersonation(headers: &HeaderMap) -> Result<Option<Impersonation>, Fault> {
    let texts = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let one = |name: &str| texts(name).into_iter().next().unwrap_or_default();
    let mut out = Impersonation {
        name: one("impersonate-user"),
        uid: one("impersonate-uid"),
        groups: texts("impersonate-group"),
        ..Impersonation::default()
    };
    for (name, value) in headers {
        if let (Some(key), Ok(value)) =
            (name.as_str().strip_prefix("impersonate-extra-"), value.to_str())
        {
            let key = crate::request::percent_decode(key).into_owned();
            out.extra.entry(key).or_default().push(value.to_owned());
        }
    }
    if out.name.is_empty() {
        let more = !out.uid.is_empty() || !out.groups.is_empty() || !out.extra.is_empty();
        return if more {
            Err(Fault::internal("requested [Groups, UID or Extra] without impersonating a user"))
        } else {
            Ok(None)
        };
    }
    out.account = out
        .name
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
        .map(|(ns, name)| format!("{ns}/{name}"));
    Ok(Some(out))
}

impl Impersonation {
    /// What the asker must be allowed to impersonate: resource, subresource, name.
    pub fn checks(&self) -> Vec<(&str, &str, &str)> {
        let mut out = vec![match &self.account {
            Some(account) => ("serviceaccounts", "", account.as_str()),
            None => ("users", "", self.name.as_str()),
        }];
        out.extend(self.groups.iter().map(|g| ("groups", "", g.as_str())));
        if !self.uid.is_empty() {
            out.push(("uids", "", &self.uid));
        }
        for (key, values) in &self.extra {
            out.extend(values.iter().map(|v| ("userextras", key.as_str(), v.as_str())));
        }
        out
    }

    /// The user that is acted as.
    pub fn user(self) -> User {
        let mut user = match self.account.as_deref().and_then(|a| a.split_once('/')) {
            Some((ns, name)) if self.groups.is_empty() => account_user(ns, name),
            _ => User { name: self.name, groups: self.groups, ..User::default() },
        };
        if user.name == "system:anonymous" {
            user.add_group(UNAUTHENTICATED);
        } else {
            user.add_group(AUTHENTICATED);
        }
        user.uid = self.uid;
        user.extra = self.extra;
        user
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut out = HeaderMap::new();
        for (k, v) in list {
            out.append(*k, v.parse().unwrap());
        }
        out
    }

    #[test]
    fn impersonation_is_read_from_headers() {
        assert_eq!(impersonation(&headers(&[])).unwrap(), None);
        assert!(impersonation(&headers(&[("impersonate-group", "g")])).is_err());
        let i = impersonation(&headers(&[("impersonate-user", "system:serviceaccount:ns:sa")]))
            .unwrap()
            .unwrap();
        assert_eq!(i.checks(), [("serviceaccounts", "", "ns/sa")]);
        assert!(i.user().is_in("system:serviceaccounts:ns"));
        let i = impersonation(&headers(&[
            ("impersonate-user", "bob"),
            ("impersonate-group", "g"),
            ("impersonate-extra-a%2Fb", "x"),
        ]))
        .unwrap()
        .unwrap();
        assert_eq!(
            i.checks(),
            [("users", "", "bob"), ("groups", "", "g"), ("userextras", "a/b", "x")]
        );
        assert_eq!(i.user().groups, ["g", AUTHENTICATED]);
    }

    #[test]
    fn a_proxy_is_known_by_its_authority_and_says_who_asks() {
        use rcgen::{CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
        let params = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let leaf = |authority: &str| {
            let mut ca = params(authority);
            ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
            let key = KeyPair::generate().unwrap();
            certificate(params("proxy").signed_by(&key, &ca).unwrap().der()).unwrap()
        };
        assert!(leaf(FRONT_PROXY).extra.contains_key(FRONT_PROXY));
        assert!(!leaf("kubernetes").extra.contains_key(FRONT_PROXY));
        let user = fronted(&headers(&[
            ("x-remote-user", "bob"),
            ("x-remote-group", "g"),
            ("x-remote-extra-scopes%2Fa", "x"),
        ]))
        .unwrap();
        assert_eq!((user.name.as_str(), &user.extra["scopes/a"]), ("bob", &vec!["x".to_owned()]));
        assert!(user.is_in("g") && user.is_in(AUTHENTICATED));
        assert!(fronted(&headers(&[("x-remote-group", "system:masters")])).is_none());
    }
}
