//! Errors as clients of BuildKit read them: a status with the place in the Dockerfile as its details.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::Message as _;
use prost_types::Any;
use serde_json::{Value, json};
use tonic::{Code, Status};
use wharf_base::error::chain;
use wharf_build::{BuildError, ErrorKind};

use crate::options::OptionError;
use crate::proto::google::rpc;
use crate::proto::pb::SourceInfo;

/// Details are JSON under the names of BuildKit's types.
const SOURCE: &str = "github.com/moby/buildkit/errdefs.Source+json";
const VERTEX: &str = "github.com/moby/buildkit/errdefs.Vertex+json";

/// The status of a failed build. `vertex` is the step that failed.
pub(crate) fn status(error: &BuildError, file: &SourceInfo, vertex: Option<String>) -> Status {
    let mut details = Vec::new();
    if let Some(at) = error.location() {
        details.push(detail(SOURCE, &source(file, at.line, at.last_line)));
    }
    if let Some(digest) = vertex {
        details.push(detail(VERTEX, &json!({ "digest": digest })));
    }
    let code = match error.kind() {
        ErrorKind::Cancelled => Code::Cancelled,
        // Clients show the words alone for this one.
        _ => Code::Unknown,
    };
    with_details(code, text(error), details)
}

/// A status that points at lines of the Dockerfile.
pub(crate) fn at_lines(message: String, file: &SourceInfo, first: usize, last: usize) -> Status {
    with_details(Code::Unknown, message, vec![detail(SOURCE, &source(file, first, last))])
}

/// The status that a client's own error was, as it was sent here.
pub(crate) fn returned(error: rpc::Status) -> Status {
    with_details(Code::from_i32(error.code), error.message, error.details)
}

/// What the history keeps of a status.
pub(crate) fn kept(status: &Status) -> rpc::Status {
    let decoded = rpc::Status::decode(status.details()).unwrap_or_default();
    rpc::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: decoded.details,
    }
}

impl From<OptionError> for Status {
    fn from(error: OptionError) -> Status {
        match error {
            OptionError::Value { .. } => Status::unknown(error.to_string()),
            OptionError::Unsupported(_) => Status::unimplemented(error.to_string()),
        }
    }
}

/// The place is in the details, where clients show it with the lines around it.
pub(crate) fn text(error: &BuildError) -> String {
    match error {
        BuildError::Dockerfile { at, message } => {
            format!("dockerfile parse error on line {}: {message}", at.line)
        }
        BuildError::Step { source, .. } => text(source),
        other => chain(other).to_string(),
    }
}

fn with_details(code: Code, message: String, details: Vec<Any>) -> Status {
    let status = rpc::Status { code: code as i32, message: message.clone(), details };
    Status::with_details(code, message, Bytes::from(status.encode_to_vec()))
}

fn detail(name: &str, value: &Value) -> Any {
    Any { type_url: name.to_owned(), value: value.to_string().into_bytes() }
}

fn source(file: &SourceInfo, first: usize, last: usize) -> Value {
    json!({ "info": info(file), "ranges": [range(first, last)] })
}

/// Go's JSON of the Dockerfile.
pub(crate) fn info(file: &SourceInfo) -> Value {
    json!({
        "filename": file.filename,
        "data": STANDARD.encode(&file.data),
        "language": file.language,
    })
}

/// Go's JSON of lines.
pub(crate) fn range(first: usize, last: usize) -> Value {
    json!({ "start": { "line": first }, "end": { "line": last } })
}

#[cfg(test)]
mod tests {
    use wharf_build::Location;

    use super::*;

    fn file() -> SourceInfo {
        SourceInfo {
            filename: "Dockerfile".into(),
            data: Bytes::from_static(b"FROM scratch\nRUN false\n"),
            language: "Dockerfile".into(),
            ..SourceInfo::default()
        }
    }

    fn step(source: BuildError) -> BuildError {
        let at = Box::new(Location {
            file: "Dockerfile".into(),
            line: 2,
            column: 1,
            last_line: 2,
            text: "RUN false".into(),
        });
        BuildError::Step { at, instruction: "RUN false".into(), source: Box::new(source) }
    }

    #[test]
    fn a_failed_step_says_its_part_and_where() {
        let exit =
            BuildError::Exit { command: "/bin/sh -c false".into(), code: 1, hint: String::new() };
        let status = status(&step(exit), &file(), Some("sha256:aa".into()));
        assert_eq!(status.code(), Code::Unknown);
        let text = "process \"/bin/sh -c false\" did not complete successfully: exit code: 1";
        assert_eq!(status.message(), text);
        let sent = rpc::Status::decode(status.details()).unwrap();
        let source: Value = serde_json::from_slice(&sent.details[0].value).unwrap();
        assert_eq!(sent.details[0].type_url, SOURCE);
        assert_eq!(source["info"]["filename"], "Dockerfile");
        assert_eq!(source["info"]["data"], STANDARD.encode("FROM scratch\nRUN false\n"));
        assert_eq!(source["ranges"][0]["start"]["line"], 2);
        assert_eq!(sent.details[1].value, br#"{"digest":"sha256:aa"}"#);
        assert_eq!(kept(&status), sent);
        let again = returned(sent);
        assert_eq!((again.message(), again.details()), (status.message(), status.details()));
    }

    #[test]
    fn a_cancelled_build_is_told_apart() {
        let status = status(&step(BuildError::Cancelled), &file(), None);
        assert_eq!(status.code(), Code::Cancelled);
    }
}
