//! Reaching servers beside this one: webhooks and other API servers, by URL or by service.

use crate::api::Api;
use crate::stored;
use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde_json::Value;
use std::sync::Arc;
use tokio::net::TcpStream;
use wharf_etcd::{KeyRange, Range};

/// A server that was not reached, or did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// The address makes no sense.
    #[error("the address {0:?} is not one of an HTTPS server")]
    Address(String),
    /// The service is not there.
    #[error("service {0:?} not found")]
    NoService(String),
    /// The service has no such port.
    #[error("no service port {port} found for service {service:?}")]
    NoPort {
        /// `name`.
        service: String,
        /// The port.
        port: i64,
    },
    /// Nothing is behind the service.
    #[error("no endpoints available for service {0:?}")]
    NoEndpoints(String),
    /// The store failed.
    #[error("the service cannot be looked up")]
    Store(#[source] wharf_etcd::StoreError),
    /// The certificates make no sense.
    #[error("the certificates to trust cannot be read")]
    Roots,
    /// TLS refuses what it was given.
    #[error("the client's certificate is refused")]
    Tls(#[source] rustls::Error),
    /// Nobody listens.
    #[error("dial tcp {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The other side is not who it should be, or speaks no TLS.
    #[error("tls: {0}")]
    Handshake(std::io::Error),
    /// HTTP failed.
    #[error("the exchange broke off: {0}")]
    Http(hyper::Error),
    /// The answer is too long or broke off.
    #[error("the answer cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// It took too long.
    #[error("context deadline exceeded")]
    Late,
}

/// Where a server is, and how it is known.
#[derive(Debug, Clone)]
pub struct Place {
    /// What is dialled.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The name that its certificate must have.
    pub name: String,
    /// The path, with its slash.
    pub path: String,
}

/// Whom to trust, and as whom to speak.
#[derive(Default)]
pub struct Trust {
    /// Certificates of authorities, as PEM; empty means those of this machine.
    pub roots: Vec<u8>,
    /// Whether anybody is believed.
    pub anybody: bool,
    /// This side's certificate and key, where the other wants one.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Place {
    /// Reads `https://host[:port][/path]`.
    pub fn url(url: &str) -> Result<Place, ReachError> {
        let bad = || ReachError::Address(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        if uri.scheme_str() != Some("https") {
            return Err(bad());
        }
        let host = uri.host().ok_or_else(bad)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Ok(Place { name: host.clone(), host, port: uri.port_u16().unwrap_or(443), path })
    }

    /// The host and port, as HTTP names them.
    pub fn authority(&self) -> String {
        if self.port == 443 { self.name.clone() } else { format!("{}:{}", self.name, self.port) }
    }
}

impl Trust {
    /// The authorities of a `caBundle`.
    pub fn bundle(bundle: &Value) -> Result<Trust, ReachError> {
        let text = bundle.as_str().unwrap_or_default();
        let roots = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|_| ReachError::Roots)?;
        Ok(Trust { roots, ..Trust::default() })
    }

    /// What is wrong with a `caBundle` from which no certificate can be read, in Go's words. An empty one is sound.
    pub fn flaw(bundle: &Value) -> Option<&'static str> {
        let Ok(trust) = Trust::bundle(bundle) else {
            return Some("unable to load root certificates: unable to parse bytes as PEM block");
        };
        if trust.roots.is_empty() {
            return None;
        }
        let mut read = 0;
        for c in CertificateDer::pem_slice_iter(&trust.roots).filter_map(Result::ok) {
            if x509_parser::parse_x509_certificate(&c).is_ok() {
                return None;
            }
            read += 1;
        }
        Some(match read {
            0 => "unable to load root certificates: unable to parse bytes as PEM block",
            _ => "unable to load root certificates: failed to parse certificate",
        })
    }

    fn config(self) -> Result<ClientConfig, ReachError> {
        let builder = ClientConfig::builder();
        let provider = Arc::clone(builder.crypto_provider());
        let verifier: Arc<dyn ServerCertVerifier> = if self.anybody {
            Arc::new(wharf_tls::Anybody(provider))
        } else {
            let authorities = WebPkiServerVerifier::builder_with_provider(
                Arc::new(roots(&self.roots)?),
                provider,
            );
            let authorities = authorities.build().map_err(|_| ReachError::Roots)?;
            let itself = CertificateDer::pem_slice_iter(&self.roots);
            Arc::new(Known { authorities, itself: itself.filter_map(Result::ok).collect() })
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        match self.identity {
            Some((chain, key)) => {
                builder.with_client_auth_cert(chain, key).map_err(ReachError::Tls)
            }
            None => Ok(builder.with_no_client_auth()),
        }
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, ReachError> {
    let mut store = RootCertStore::empty();
    if pem.is_empty() {
        let read = CertificateDer::pem_file_iter(wharf_tls::system_bundle()).ok();
        store.add_parsable_certificates(read.into_iter().flatten().filter_map(Result::ok));
        return Ok(store);
    }
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| ReachError::Roots)?;
        store.add(certificate).map_err(|_| ReachError::Roots)?;
    }
    if store.is_empty() { Err(ReachError::Roots) } else { Ok(store) }
}

/// Believes servers whom authorities vouch for, and those whose own certificate is among the authorities': many programs
/// put their server's certificate into a `caBundle`, which the reference server takes as Go does.
#[derive(Debug)]
struct Known {
    authorities: Arc<WebPkiServerVerifier>,
    itself: Vec<CertificateDer<'static>>,
}

/// Judges a certificate that is believed for what it is by its names and its time.
fn is_of(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    let bad = || rustls::Error::from(rustls::CertificateError::BadEncoding);
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| bad())?;
    let at = i64::try_from(now.as_secs()).map_err(|_| bad())?;
    let validity = parsed.validity();
    if at < validity.not_before.timestamp() {
        return Err(rustls::CertificateError::NotValidYet.into());
    }
    if at > validity.not_after.timestamp() {
        return Err(rustls::CertificateError::Expired.into());
    }
    Ok(())
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.itself.contains(end_entity) {
            is_of(end_entity, server_name, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.authorities.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// Sends a request and returns as soon as the answer's head is there. Dropping the answer ends the connection.
pub async fn exchange(
    place: &Place,
    trust: Trust,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, ReachError> {
    let address = format!("{}:{}", place.host, place.port);
    let stream = TcpStream::connect((place.host.as_str(), place.port))
        .await
        .map_err(|source| ReachError::Connect { address, source })?;
    let name = ServerName::try_from(place.name.clone())
        .map_err(|_| ReachError::Address(place.name.clone()))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(trust.config()?));
    let tls = connector.connect(name, stream).await.map_err(ReachError::Handshake)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(ReachError::Http)?;
    // Ends when the answer was read or is dropped.
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!(error = %e, "a connection to another server ended early");
        }
    });
    sender.send_request(request).await.map_err(ReachError::Http)
}

/// The most bytes that a whole answer may have.
const ANSWER: usize = 16 << 20;

/// Reads an answer to its end.
pub async fn whole(
    answer: Response<Incoming>,
) -> Result<(http::response::Parts, Bytes), ReachError> {
    let (parts, body) = answer.into_parts();
    let all = Limited::new(body, ANSWER).collect().await.map_err(ReachError::Body)?;
    Ok((parts, all.to_bytes()))
}

/// Where a service's server is: one of its ready endpoints. The certificate must be the service's.
pub async fn service(api: &Api, service: &Value, default_port: i64) -> Result<Place, ReachError> {
    let text = |key: &str| service[key].as_str().unwrap_or_default();
    let (ns, name) = (text("namespace"), text("name"));
    let port = service["port"].as_i64().unwrap_or(default_port);
    let key = format!("/registry/services/{ns}/{name}");
    let found = read(api, Range::new(KeyRange::key(key.into_bytes()))).await?;
    let object = found.into_iter().next().ok_or_else(|| ReachError::NoService(name.to_owned()))?;
    let known = format!("{name}.{ns}.svc");
    let path = text("path");
    let path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
    if object["spec"]["type"] == "ExternalName" {
        let host = object["spec"]["externalName"].as_str().unwrap_or_default().to_owned();
        let port = u16::try_from(port).unwrap_or(443);
        return Ok(Place { host, port, name: known, path });
    }
    let ports = object["spec"]["ports"].as_array().into_iter().flatten();
    let wanted = ports.clone().find(|p| p["port"].as_i64() == Some(port));
    let Some(wanted) = wanted else {
        return Err(ReachError::NoPort { service: name.to_owned(), port });
    };
    let port_name = wanted["name"].as_str().unwrap_or_default();
    let (host, port) = endpoint(api, ns, name, port_name)
        .await?
        .ok_or_else(|| ReachError::NoEndpoints(name.to_owned()))?;
    Ok(Place { host, port, name: known, path })
}

async fn read(api: &Api, range: Range) -> Result<Vec<Value>, ReachError> {
    let reply = api.store.range(range).await.map_err(ReachError::Store)?;
    Ok(reply.kvs.iter().map(stored::decode).collect())
}

/// A ready address behind a service's port: from its slices, or else from its `Endpoints`.
async fn endpoint(
    api: &Api,
    ns: &str,
    service: &str,
    port: &str,
) -> Result<Option<(String, u16)>, ReachError> {
    let named = |p: &&Value| p["name"].as_str().unwrap_or_default() == port;
    let number = |p: &Value| p["port"].as_u64().and_then(|n| u16::try_from(n).ok());
    let prefix = format!("/registry/discovery.k8s.io/endpointslices/{ns}/");
    let mut all = Vec::new();
    for slice in read(api, Range::new(KeyRange::prefix(prefix))).await? {
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != service {
            continue;
        }
        let ports = slice["ports"].as_array().into_iter().flatten();
        let Some(port) = ports.clone().find(named).and_then(number) else { continue };
        let ready = |e: &&Value| e["conditions"]["ready"] != Value::Bool(false);
        for e in slice["endpoints"].as_array().into_iter().flatten().filter(ready) {
            let addresses = e["addresses"].as_array().into_iter().flatten();
            all.extend(addresses.filter_map(Value::as_str).map(|a| (a.to_owned(), port)));
        }
    }
    let key = format!("/registry/endpoints/{ns}/{service}");
    for endpoints in read(api, Range::new(KeyRange::key(key.into_bytes()))).await? {
        for subset in endpoints["subsets"].as_array().into_iter().flatten() {
            let ports = subset["ports"].as_array().into_iter().flatten();
            let Some(port) = ports.clone().find(named).and_then(number) else { continue };
            let addresses = subset["addresses"].as_array().into_iter().flatten();
            all.extend(addresses.filter_map(|a| a["ip"].as_str()).map(|a| (a.to_owned(), port)));
        }
    }
    let mut at = [0u8; 8];
    crate::random::fill(&mut at);
    let count = u64::try_from(all.len()).unwrap_or(u64::MAX).max(1);
    let at = usize::try_from(u64::from_le_bytes(at) % count).unwrap_or(0);
    Ok(all.into_iter().nth(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let p = Place::url("https://[::1]:8443/x/y").unwrap();
        assert_eq!((p.host.as_str(), p.port, p.path.as_str()), ("::1", 8443, "/x/y"));
        assert_eq!(Place::url("https://h").unwrap().port, 443);
        assert!(Place::url("http://h").is_err());
    }
}
