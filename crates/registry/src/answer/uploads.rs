//! Uploads: begun, mounted, filled piece by piece, asked about, completed, given up.

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderName, LOCATION, RANGE};
use http::{Method, Response, StatusCode};
use wharf_spec::digest::{Algorithm, Digest};

use super::{Answer, Call, Inner, OFFER, created, empty, put_text};
use crate::access::Verb;
use crate::body::Body;
use crate::fault::{Code, Fault};
use crate::name::{Repository, UploadId};
use crate::range::piece;
use crate::upload::Turn;

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

impl Inner {
    /// `POST`: mounts, takes a whole blob, or begins a session.
    pub(super) async fn begin_upload(&self, name: &Repository, call: Call) -> Answer {
        if let Some(text) = call.query.get("mount") {
            let digest = parse_digest(text)?;
            if let Some(answer) = self.mount(name, &digest, &call)? {
                return Ok(answer);
            }
        }
        let whole = call.query.get("digest").map(parse_digest).transpose()?;
        let how = match call.query.get("digest-algorithm") {
            None => whole.as_ref().map_or(Algorithm::Sha256, Digest::algorithm),
            Some("sha256") => Algorithm::Sha256,
            Some("sha512") => Algorithm::Sha512,
            Some(other) => {
                let text = format!("unsupported digest algorithm: {other:?}");
                return Err(Fault::new(Code::DigestInvalid, text));
            }
        };
        let turn = self.uploads.begin(name, how)?;
        self.stirred.notify_one();
        match whole {
            Some(digest) => self.complete(name, turn, &digest, call).await,
            None => Ok(in_progress(name, &turn, StatusCode::ACCEPTED)),
        }
    }

    /// Takes a blob from where it is already: `None` if it is nowhere that this client may look.
    fn mount(
        &self,
        name: &Repository,
        digest: &Digest,
        call: &Call,
    ) -> Result<Option<Response<Body>>, Fault> {
        let content = &self.shelves.content;
        let visible = |from: &Repository| self.may(&call.who, Verb::Pull, from);
        let offered = call.header(OFFER).is_some_and(|token| content.is_offered(token, digest));
        let found = offered
            || match call.query.get("from").map(Repository::parse) {
                Some(Some(from)) => {
                    visible(&from) && content.linked(&from.owner(), digest).is_some()
                }
                Some(None) => {
                    return Err(Fault::new(Code::NameInvalid, "invalid repository name in from"));
                }
                None => self.shelves.holder(digest, visible).is_some(),
            };
        if !found || content.link(&name.owner(), digest)?.is_none() {
            return Ok(None);
        }
        content.renew(&name.owner(), digest)?;
        self.stirred.notify_one();
        Ok(Some(created(&blob_location(name, digest), digest)))
    }

    pub(super) async fn upload(&self, name: &Repository, id: &UploadId, call: Call) -> Answer {
        let turn = self.uploads.turn(name, id).await?;
        match call.method {
            Method::PATCH => self.receive(name, turn, call).await,
            Method::PUT => {
                let digest = call.query.get("digest").ok_or_else(|| {
                    Fault::new(Code::DigestInvalid, "the digest parameter is missing")
                })?;
                let digest = parse_digest(digest)?;
                self.complete(name, turn, &digest, call).await
            }
            Method::DELETE => {
                self.uploads.end(turn)?;
                Ok(empty(StatusCode::NO_CONTENT))
            }
            _ => Ok(in_progress(name, &turn, StatusCode::NO_CONTENT)),
        }
    }

    /// `PATCH`: one more piece.
    async fn receive(&self, name: &Repository, turn: Turn, call: Call) -> Answer {
        check_piece(&turn, &call).map_err(|fault| located(fault, name, &turn))?;
        let turn = self.append(turn, call).await?;
        Ok(in_progress(name, &turn, StatusCode::ACCEPTED))
    }

    /// `PUT`, or `POST` with a digest: the last piece, if there is one, and the digest of the whole.
    async fn complete(&self, name: &Repository, turn: Turn, digest: &Digest, call: Call) -> Answer {
        check_piece(&turn, &call).map_err(|fault| located(fault, name, &turn))?;
        let mut turn = self.append(turn, call).await?;
        let complete = match turn.verify(digest).await {
            Ok(complete) => complete,
            Err(fault) => {
                // What has another digest will never have this one.
                self.uploads.end(turn)?;
                return Err(fault);
            }
        };
        self.shelves.content.adopt(&name.owner(), &complete.path, digest, complete.size)?;
        self.uploads.end(turn)?;
        self.stirred.notify_one();
        Ok(created(&blob_location(name, digest), digest))
    }

    async fn append(&self, turn: Turn, call: Call) -> Result<Turn, Fault> {
        let (turn, written) = turn.append(call.body, self.settings.stall).await;
        match written {
            Ok(()) => Ok(turn),
            Err(error) if is_clients(&error) => {
                let text =
                    format!("the upload was interrupted: {error}; ask for its state and go on");
                Err(Fault::new(Code::BlobUploadInvalid, text))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether the connection broke rather than the disk.
fn is_clients(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::TimedOut || error.raw_os_error().is_none()
}

/// A piece must follow what is there, and be as long as it says.
fn check_piece(turn: &Turn, call: &Call) -> Result<(), Fault> {
    let Some(text) = call.header(CONTENT_RANGE) else { return Ok(()) };
    let invalid = |why: String| {
        Fault::new(Code::BlobUploadInvalid, why).with_status(StatusCode::RANGE_NOT_SATISFIABLE)
    };
    let (first, length) =
        piece(text).ok_or_else(|| invalid(format!("malformed Content-Range {text:?}")))?;
    if first != turn.progress.size {
        return Err(invalid(format!(
            "the upload has {} bytes, the piece begins at {first}",
            turn.progress.size
        )));
    }
    let announced = call.header(CONTENT_LENGTH).and_then(|l| l.parse::<u64>().ok());
    match announced {
        Some(announced) if announced != length => {
            let text = format!("Content-Range is of {length} bytes, Content-Length of {announced}");
            Err(Fault::new(Code::SizeInvalid, text))
        }
        _ => Ok(()),
    }
}

/// Where the client is to go on.
fn located(fault: Fault, name: &Repository, turn: &Turn) -> Fault {
    let headers = in_progress(name, turn, StatusCode::ACCEPTED).into_parts().0.headers;
    headers.into_iter().fold(fault, |fault, (header, value)| match header {
        Some(header) => fault.with_header(header, value),
        None => fault,
    })
}

fn in_progress(name: &Repository, turn: &Turn, status: StatusCode) -> Response<Body> {
    let mut response = empty(status);
    let headers = response.headers_mut();
    let id = &turn.upload.id;
    put_text(headers, LOCATION, &format!("/v2/{name}/blobs/uploads/{id}"));
    // Of nothing this is `0-0`, as it has always been, and as clients read it.
    put_text(headers, RANGE, &format!("0-{}", turn.progress.size.saturating_sub(1)));
    put_text(headers, UPLOAD_ID, id.as_str());
    response
}

fn blob_location(name: &Repository, digest: &Digest) -> String {
    format!("/v2/{name}/blobs/{digest}")
}

fn parse_digest(text: &str) -> Result<Digest, Fault> {
    text.parse().map_err(|e| Fault::new(Code::DigestInvalid, format!("{e}")))
}
