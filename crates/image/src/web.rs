//! Requests to web servers that are no registries: what `ADD` fetches, and repositories.

use std::io;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Uri};
use http_body_util::BodyExt as _;

use crate::ImageStore;
use crate::archive::ByteStream;
use crate::registry::RegistryError;

/// One request. Without a body it is a `GET`, with one a `POST`.
#[derive(Clone, Default)]
pub struct WebRequest {
    /// An `http` or `https` address; without a scheme it is `http`, as in Docker.
    pub address: String,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// The header `Authorization`: it stays with the origin it is meant for when a redirect leads elsewhere.
    pub authorization: Option<String>,
    /// What is posted.
    pub body: Option<Bytes>,
}

/// An answer: of success, or that nothing has changed.
pub struct WebAnswer {
    headers: HeaderMap,
    /// What was asked for is as the request's conditions say (304); there is no body.
    pub unchanged: bool,
    /// The body. A transfer that stalls ends with an error.
    pub body: ByteStream,
}

impl WebAnswer {
    /// A header that is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl ImageStore {
    /// Asks a web server, through the proxies and with the authorities that registries are asked with. What it refuses
    /// is an error. The address may hold a name and a password: no error repeats them.
    pub async fn web(&self, request: WebRequest) -> Result<WebAnswer, RegistryError> {
        let text = match request.address.contains("://") {
            true => request.address.clone(),
            false => format!("http://{}", request.address),
        };
        let mut request = request;
        request.authorization = request.authorization.or_else(|| credentials(&text));
        let uri: Uri = without_password(&text)
            .parse()
            .ok()
            .filter(|u: &Uri| matches!(u.scheme_str(), Some("http" | "https")))
            .ok_or_else(|| RegistryError::Setting { what: without_password(&request.address) })?;
        let response = self.0.registries.web(uri, request).await?;
        let (head, body) = response.into_parts();
        let unchanged = head.status == http::StatusCode::NOT_MODIFIED;
        let patience = self.0.settings.registries.stall;
        let chunks =
            futures_util::stream::unfold(Some(body.into_data_stream()), move |body| async move {
                let mut body = body?;
                match tokio::time::timeout(patience, body.next()).await {
                    Ok(None) => None,
                    Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
                    Ok(Some(Err(e))) => Some((Err(io::Error::other(e)), None)),
                    Err(_) => {
                        let text = format!("no byte arrived for {} s", patience.as_secs());
                        Some((Err(io::Error::new(io::ErrorKind::TimedOut, text)), None))
                    }
                }
            });
        Ok(WebAnswer { headers: head.headers, unchanged, body: Box::pin(chunks) })
    }

    /// Downloads what is at an address.
    pub async fn download(&self, address: &str) -> Result<ByteStream, RegistryError> {
        let request = WebRequest { address: address.to_owned(), ..WebRequest::default() };
        Ok(self.web(request).await?.body)
    }
}

/// An address as it may be shown.
pub fn without_password(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => address.to_owned(),
    }
}

/// `Authorization` for the name and the password in an address.
fn credentials(address: &str) -> Option<String> {
    let (_, rest) = address.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (user, _) = rest[..end].rsplit_once('@')?;
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let mut pair = decoded(name);
    pair.push(b':');
    pair.extend(decoded(password));
    Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

/// Percent-encoding undone; what is none stays.
fn decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).filter(|_| *first == b'%');
        let byte = hex.and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_password("https://u:p@h/x?a=b@c"), "https://h/x?a=b@c");
        assert_eq!(without_password("https://u:p@q@h"), "https://h");
        assert_eq!(without_password("https://h/x@y"), "https://h/x@y");
        assert_eq!(without_password("git@h:x"), "git@h:x");
    }

    #[test]
    fn passwords_become_a_header() {
        assert_eq!(credentials("http://u:p%40q@h/x@y").as_deref(), Some("Basic dTpwQHE="));
        assert_eq!(credentials("http://h/x@y"), None);
        assert_eq!(decoded("100%"), b"100%");
    }
}
