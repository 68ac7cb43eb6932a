//! TLS to an engine: docker's three files, with or without verification.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wharf_base::error::chain;

/// Certificates, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who may have signed the engine's certificate.
    pub ca: Option<PathBuf>,
    /// The client's certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Whether the engine's certificate is checked at all.
    pub verify: bool,
}

/// Speaks TLS over a connection.
pub async fn handshake(
    stream: TcpStream,
    host: &str,
    files: &TlsFiles,
) -> Result<TlsStream<TcpStream>, String> {
    let config = config(files)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| e.to_string())
}

fn config(files: &TlsFiles) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match files.verify {
        true => {
            let bundle = files.ca.as_deref().unwrap_or_else(|| wharf_tls::system_bundle());
            builder.with_root_certificates(wharf_tls::authorities(bundle).map_err(|e| said(&e))?)
        }
        // That is what `--tls` without `--tlsverify` asks for.
        false => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(wharf_tls::Anybody(provider))),
    };
    match (&files.cert, &files.key) {
        (Some(cert), Some(key)) if cert.exists() && key.exists() => {
            let key = wharf_tls::private_key(key).map_err(|e| said(&e))?;
            let own = wharf_tls::certificates(cert).map_err(|e| said(&e))?;
            builder.with_client_auth_cert(own, key).map_err(|e| e.to_string())
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn said(error: &wharf_tls::PemError) -> String {
    chain(error).to_string()
}
