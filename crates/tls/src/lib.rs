//! What every side of TLS in wharf needs: PEM files, the machine's authorities, and believing anybody.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Why a PEM file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// It cannot be read, or is not PEM of the kind wanted.
    #[error("read {what} from {path}")]
    File {
        /// Certificate, private key or certificate authority.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// It holds none of what is wanted.
    #[error("{path} holds no {what}")]
    Empty {
        /// Certificate or certificate authority.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// What stands in it as an authority's certificate is none.
    #[error("use the certificate authority {path}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// The certificates of a file, in its order; at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    all("certificate", path)
}

/// The first private key of a file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let failed = |source| PemError::File { what: "private key", path: path.to_owned(), source };
    PrivateKeyDer::from_pem_file(path).map_err(failed)
}

/// The authorities of a file, each of which must be one.
pub fn authorities(path: &Path) -> Result<RootCertStore, PemError> {
    let mut store = RootCertStore::empty();
    for one in all("certificate authority", path)? {
        let failed = |source| PemError::Authority { path: path.to_owned(), source };
        store.add(one).map_err(failed)?;
    }
    Ok(store)
}

/// The file with the authorities that this machine trusts, where its distribution keeps it; where none has one, the
/// place that Debian has for it.
pub fn system_bundle() -> &'static Path {
    const BUNDLES: [&str; 4] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    let there = BUNDLES.iter().map(Path::new).find(|p| p.exists());
    there.unwrap_or(Path::new(BUNDLES[0]))
}

fn all(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let failed = |source| PemError::File { what, path: path.to_owned(), source };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    if found.is_empty() {
        return Err(PemError::Empty { what, path: path.to_owned() });
    }
    Ok(found)
}

/// Believes that any server is who it says it is, for who asks for that by name (`--tls` without `--tlsverify`,
/// `insecure-registries`, `insecureSkipTLSVerify`). The handshake is a real one: the server has the certificate's key.
#[derive(Debug)]
pub struct Anybody(pub Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "files of a test that nobody else reads")]
    fn files_are_named_when_they_are_of_no_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pem");
        let said = |e: PemError| e.to_string().replace(&*path.to_string_lossy(), "x.pem");
        assert_eq!(said(certificates(&path).unwrap_err()), "read certificate from x.pem");
        std::fs::write(&path, "nothing").unwrap();
        assert_eq!(said(certificates(&path).unwrap_err()), "x.pem holds no certificate");
        assert_eq!(said(private_key(&path).unwrap_err()), "read private key from x.pem");
        assert_eq!(said(authorities(&path).unwrap_err()), "x.pem holds no certificate authority");
        let own = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        std::fs::write(&path, own.cert.pem() + &own.signing_key.serialize_pem()).unwrap();
        assert_eq!(certificates(&path).unwrap().len(), 1);
        assert_eq!(authorities(&path).unwrap().len(), 1);
        private_key(&path).unwrap();
        let none = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, none).unwrap();
        assert_eq!(said(authorities(&path).unwrap_err()), "use the certificate authority x.pem");
    }
}
