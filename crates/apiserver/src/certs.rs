//! Certificates: an authority made at the first start, and what it signs.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wharf_base::fs::{Durability, private_dir, write_atomic};
use wharf_base::sync::RwLock;
use wharf_kube::yaml;

/// What the server has in its `pki` directory.
pub struct Pki {
    dir: PathBuf,
    /// Names and addresses of the server.
    alternatives: Vec<SanType>,
    serving: Arc<Serving>,
}

/// The certificate that the server shows, which can be replaced while it runs.
#[derive(Debug, Default)]
struct Serving(RwLock<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().clone()
    }
}

/// A certificate that cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Making one.
    #[error("cannot make the certificate {name}")]
    Make {
        /// Which.
        name: &'static str,
        /// Why it failed.
        source: rcgen::Error,
    },
    /// Reading one.
    #[error("{} holds no certificate or key", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// Why it failed.
        source: rustls::pki_types::pem::Error,
    },
    /// A kubeconfig that is none.
    #[error("the file to merge into is no kubeconfig: {0}")]
    Config(String),
    /// TLS refuses them.
    #[error("the server's certificates are refused")]
    Tls(#[source] rustls::Error),
    /// TLS refuses the authority.
    #[error("the authority's certificate is refused")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// A client or server that gets a certificate.
struct Subject<'a> {
    authority: &'static str,
    file: &'static str,
    name: &'a str,
    organization: &'a str,
    alternatives: Vec<SanType>,
    usage: ExtendedKeyUsagePurpose,
}

/// The authority of those who may speak for others.
const FRONT_PROXY: &str = "front-proxy-ca";
/// What kubeconfigs call this cluster and its administrator.
const CONTEXT: &str = "wharf";
const CONTEXT_USER: &str = "wharf-admin";

/// Seconds that a certificate lasts: a year for those who hold keys, ten for the authority.
const LASTS_DAYS: i64 = 365;
const AUTHORITY_DAYS: i64 = 3650;

impl Pki {
    /// Opens the directory, making what is not there: the authority, the server's own certificate
    /// for `hosts`, the administrator's, and the key of service account tokens.
    pub fn open(dir: &Path, hosts: &[String]) -> Result<Pki, CertError> {
        let file = |action, path: &Path| {
            let path = path.to_owned();
            move |source| CertError::File { action, path, source }
        };
        private_dir(dir).map_err(file("make", dir))?;
        let mut pki =
            Pki { dir: dir.to_owned(), alternatives: Vec::new(), serving: Arc::default() };
        pki.authority("ca", "kubernetes")?;
        pki.authority("front-proxy-ca", "front-proxy-ca")?;
        let fixed = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
            "::1",
            "10.96.0.1",
        ];
        for host in fixed.iter().map(|h| (*h).to_owned()).chain(hosts.iter().cloned()) {
            pki.alternatives.extend(alternative(&host));
        }
        pki.renew()?;
        if !pki.path("sa.key").exists() {
            let key =
                KeyPair::generate().map_err(|source| CertError::Make { name: "sa", source })?;
            pki.write("sa.key", key.serialize_pem().as_bytes())?;
        }
        Ok(pki)
    }

    /// Signs the server's and the administrator's certificates anew; connections that begin from now on see
    /// the new one.
    pub fn renew(&self) -> Result<(), CertError> {
        self.sign(&Subject {
            authority: "ca",
            file: "apiserver",
            name: "kube-apiserver",
            organization: "",
            alternatives: self.alternatives.clone(),
            usage: ExtendedKeyUsagePurpose::ServerAuth,
        })?;
        self.sign(&Subject {
            authority: FRONT_PROXY,
            file: "front-proxy-client",
            name: "front-proxy-client",
            organization: "",
            alternatives: Vec::new(),
            usage: ExtendedKeyUsagePurpose::ClientAuth,
        })?;
        self.sign(&Subject {
            authority: "ca",
            file: "admin",
            name: "kubernetes-admin",
            organization: "system:masters",
            alternatives: Vec::new(),
            usage: ExtendedKeyUsagePurpose::ClientAuth,
        })?;
        let pem = |name: &str| {
            let path = self.path(name);
            move |source| CertError::Pem { path, source }
        };
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_file_iter(self.path("apiserver.crt"))
                .and_then(Iterator::collect)
                .map_err(pem("apiserver.crt"))?;
        let key = PrivateKeyDer::from_pem_file(self.path("apiserver.key"))
            .map_err(pem("apiserver.key"))?;
        let provider = rustls::crypto::ring::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(CertError::Tls)?;
        *self.serving.0.write() = Some(Arc::new(certified));
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CertError> {
        let path = self.path(name);
        let mode = if name.ends_with(".key") { 0o600 } else { 0o644 };
        write_atomic(&path, bytes, mode, Durability::Power).map_err(|source| CertError::File {
            action: "write",
            path,
            source,
        })
    }

    /// The text of a file.
    pub fn read(&self, name: &str) -> Result<String, CertError> {
        let path = self.path(name);
        std::fs::read_to_string(&path).map_err(|source| CertError::File {
            action: "read",
            path,
            source,
        })
    }

    fn authority(&self, file: &'static str, name: &str) -> Result<(), CertError> {
        if self.path(&format!("{file}.crt")).exists() {
            return Ok(());
        }
        let make = |source| CertError::Make { name: file, source };
        let key = KeyPair::generate().map_err(make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        lasting(&mut params, AUTHORITY_DAYS);
        let cert = params.self_signed(&key).map_err(make)?;
        self.write(&format!("{file}.key"), key.serialize_pem().as_bytes())?;
        self.write(&format!("{file}.crt"), cert.pem().as_bytes())
    }

    /// Signs a certificate. The server's and the administrator's are made anew at each start, so that
    /// none grows old in a server that is ever restarted, and new addresses are covered.
    fn sign(&self, s: &Subject<'_>) -> Result<(), CertError> {
        let make = |source| CertError::Make { name: s.file, source };
        let issuer_key =
            KeyPair::from_pem(&self.read(&format!("{}.key", s.authority))?).map_err(make)?;
        let authority = self.read(&format!("{}.crt", s.authority))?;
        let issuer = Issuer::from_ca_cert_pem(&authority, issuer_key).map_err(make)?;
        let key = KeyPair::generate().map_err(make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if !s.organization.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, s.organization);
        }
        params.distinguished_name.push(DnType::CommonName, s.name);
        params.subject_alt_names.clone_from(&s.alternatives);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![s.usage.clone()];
        params.use_authority_key_identifier_extension = true;
        lasting(&mut params, LASTS_DAYS);
        let cert = params.signed_by(&key, &issuer).map_err(make)?;
        self.write(&format!("{}.key", s.file), key.serialize_pem().as_bytes())?;
        self.write(&format!("{}.crt", s.file), cert.pem().as_bytes())
    }

    /// The key of service account tokens, as PKCS #8.
    pub fn token_key(&self) -> Result<Vec<u8>, CertError> {
        let key = KeyPair::from_pem(&self.read("sa.key")?)
            .map_err(|source| CertError::Make { name: "sa", source })?;
        Ok(key.serialize_der())
    }

    /// The certificate and key by which other API servers believe whom this one speaks for.
    pub fn front_proxy(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CertError> {
        let pem = |name: &str| {
            let path = self.path(name);
            move |source| CertError::Pem { path, source }
        };
        let chain = CertificateDer::pem_file_iter(self.path("front-proxy-client.crt"))
            .and_then(Iterator::collect)
            .map_err(pem("front-proxy-client.crt"))?;
        let key = PrivateKeyDer::from_pem_file(self.path("front-proxy-client.key"))
            .map_err(pem("front-proxy-client.key"))?;
        Ok((chain, key))
    }

    /// TLS with the server's certificate; clients may show one of the authority's.
    pub fn tls(&self) -> Result<ServerConfig, CertError> {
        let pem = |name: &str| {
            let path = self.path(name);
            move |source| CertError::Pem { path, source }
        };
        let mut roots = RootCertStore::empty();
        for name in ["ca.crt", "front-proxy-ca.crt"] {
            let authority = CertificateDer::from_pem_file(self.path(name)).map_err(pem(name))?;
            roots.add(authority).map_err(CertError::Tls)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .map_err(CertError::Verifier)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(CertError::Tls)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&self.serving) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// A kubeconfig by which the administrator reaches `server`.
    pub fn kubeconfig(&self, server: &str) -> Result<String, CertError> {
        let config = json!({"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": []});
        Ok(yaml::write(&self.added(config, server)?))
    }

    /// The same added to a kubeconfig that there is, in which it becomes the current context.
    pub fn merged_kubeconfig(&self, text: &str, server: &str) -> Result<String, CertError> {
        let parsed = yaml::parse(text.as_bytes()).map_err(|e| CertError::Config(e.to_string()))?;
        let wrong = !parsed.value.is_null() && parsed.value["kind"] != "Config";
        if wrong {
            return Err(CertError::Config(format!("it is a {}", parsed.value["kind"])));
        }
        let mut config = json!({"apiVersion": "v1", "kind": "Config"});
        if let (Some(to), Some(from)) = (config.as_object_mut(), parsed.value.as_object()) {
            to.extend(from.clone());
        }
        Ok(yaml::write(&self.added(config, server)?))
    }

    fn added(&self, mut config: Value, server: &str) -> Result<Value, CertError> {
        use base64::Engine as _;
        let data = |name: &str| -> Result<String, CertError> {
            Ok(base64::engine::general_purpose::STANDARD.encode(self.read(name)?))
        };
        let entries = [
            (
                "clusters",
                json!({"name": CONTEXT, "cluster": {"server": server,
                "certificate-authority-data": data("ca.crt")?}}),
            ),
            (
                "users",
                json!({"name": CONTEXT_USER, "user": {"client-certificate-data": data("admin.crt")?,
                "client-key-data": data("admin.key")?}}),
            ),
            (
                "contexts",
                json!({"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT_USER}}),
            ),
        ];
        for (list, entry) in entries {
            let mut all = config[list].as_array().cloned().unwrap_or_default();
            all.retain(|e| e["name"] != entry["name"]);
            all.push(entry);
            config[list] = Value::Array(all);
        }
        config["current-context"] = json!(CONTEXT);
        Ok(config)
    }
}

/// The authorities in a PEM file.
pub fn roots(file: &Path) -> Result<RootCertStore, CertError> {
    let wrong = |source| CertError::Pem { path: file.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(wrong)? {
        roots.add(certificate.map_err(wrong)?).map_err(CertError::Tls)?;
    }
    Ok(roots)
}

fn alternative(host: &str) -> Option<SanType> {
    match host.parse::<IpAddr>() {
        Ok(ip) => Some(SanType::IpAddress(ip)),
        Err(_) => host.try_into().ok().map(SanType::DnsName),
    }
}

fn lasting(params: &mut CertificateParams, days: i64) {
    let seconds = wharf_base::clock::Clock::system().unix_nanos() / 1_000_000_000;
    // An hour's grace for clients whose clocks are behind.
    let date = |offset: i64| date_of(seconds + offset);
    params.not_before = date(-3600);
    params.not_after = date(days * 86400);
}

/// The calendar day and the time of day are both given, as certificates need seconds.
fn date_of(seconds: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_once_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), &["example.com".to_owned()]).unwrap();
        let ca = pki.read("ca.crt").unwrap();
        assert!(pki.tls().is_ok());
        let shown = || pki.serving.0.read().as_ref().unwrap().cert.clone();
        let before = shown();
        pki.renew().unwrap();
        assert_ne!(shown(), before);
        let again = Pki::open(dir.path(), &[]).unwrap();
        assert_eq!(again.read("ca.crt").unwrap(), ca);
        let admin = CertificateDer::from_pem_file(dir.path().join("admin.crt")).unwrap();
        let user = crate::authn::certificate(&admin).unwrap();
        assert_eq!(user.name, "kubernetes-admin");
        assert!(user.is_in("system:masters"));
        assert!(crate::authn::jwt::Keys::from_der(&pki.token_key().unwrap()).is_ok());
    }

    #[test]
    fn a_kubeconfig_is_added_to_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), &[]).unwrap();
        let old = "apiVersion: v1\nkind: Config\nclusters:\n- name: other\n  cluster: {server: 'https://x'}\ncurrent-context: other\n";
        let once = pki.merged_kubeconfig(old, "https://127.0.0.1:1").unwrap();
        let twice = pki.merged_kubeconfig(&once, "https://127.0.0.1:2").unwrap();
        let config = yaml::parse(twice.as_bytes()).unwrap().value;
        let names: Vec<&str> = config["clusters"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|c| c["name"].as_str())
            .collect();
        assert_eq!(names, ["other", "wharf"]);
        assert_eq!(config["clusters"][1]["cluster"]["server"], "https://127.0.0.1:2");
        assert_eq!(config["current-context"], "wharf");
        assert!(pki.merged_kubeconfig("kind: Pod", "x").is_err());
        assert!(pki.merged_kubeconfig("", "https://x").unwrap().contains("current-context: wharf"));
    }
}
