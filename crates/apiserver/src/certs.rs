//! Certificates: an authority made at the first start, and what it signs.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wharf_base::fs::{Durability, private_dir, write_atomic};

/// What the server has in its `pki` directory.
pub struct Pki {
    dir: PathBuf,
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
        let pki = Pki { dir: dir.to_owned() };
        pki.authority("ca", "kubernetes")?;
        pki.authority("front-proxy-ca", "front-proxy-ca")?;
        let mut alternatives: Vec<SanType> = Vec::new();
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
            alternatives.extend(alternative(&host));
        }
        pki.sign(&Subject {
            authority: "ca",
            file: "apiserver",
            name: "kube-apiserver",
            organization: "",
            alternatives,
            usage: ExtendedKeyUsagePurpose::ServerAuth,
        })?;
        pki.sign(&Subject {
            authority: "ca",
            file: "admin",
            name: "kubernetes-admin",
            organization: "system:masters",
            alternatives: Vec::new(),
            usage: ExtendedKeyUsagePurpose::ClientAuth,
        })?;
        pki.sign(&Subject {
            authority: FRONT_PROXY,
            file: "front-proxy-client",
            name: "front-proxy-client",
            organization: "",
            alternatives: Vec::new(),
            usage: ExtendedKeyUsagePurpose::ClientAuth,
        })?;
        if !pki.path("sa.key").exists() {
            let key =
                KeyPair::generate().map_err(|source| CertError::Make { name: "sa", source })?;
            pki.write("sa.key", key.serialize_pem().as_bytes())?;
        }
        Ok(pki)
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
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_file_iter(self.path("apiserver.crt"))
                .and_then(Iterator::collect)
                .map_err(pem("apiserver.crt"))?;
        let key = PrivateKeyDer::from_pem_file(self.path("apiserver.key"))
            .map_err(pem("apiserver.key"))?;
        let authority =
            CertificateDer::from_pem_file(self.path("ca.crt")).map_err(pem("ca.crt"))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority).map_err(CertError::Tls)?;
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
            .with_single_cert(chain, key)
            .map_err(CertError::Tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// A kubeconfig by which the administrator reaches `server`.
    pub fn kubeconfig(&self, server: &str) -> Result<String, CertError> {
        use base64::Engine as _;
        let data = |name: &str| -> Result<String, CertError> {
            Ok(base64::engine::general_purpose::STANDARD.encode(self.read(name)?))
        };
        Ok(format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: wharf\n  cluster:\n    server: {server}\n    certificate-authority-data: {}\nusers:\n- name: wharf-admin\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\ncontexts:\n- name: wharf\n  context:\n    cluster: wharf\n    user: wharf-admin\ncurrent-context: wharf\n",
            data("ca.crt")?,
            data("admin.crt")?,
            data("admin.key")?
        ))
    }
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
        let again = Pki::open(dir.path(), &[]).unwrap();
        assert_eq!(again.read("ca.crt").unwrap(), ca);
        let admin = CertificateDer::from_pem_file(dir.path().join("admin.crt")).unwrap();
        let user = crate::authn::certificate(&admin).unwrap();
        assert_eq!(user.name, "kubernetes-admin");
        assert!(user.is_in("system:masters"));
        assert!(crate::authn::jwt::Keys::from_der(&pki.token_key().unwrap()).is_ok());
    }
}
