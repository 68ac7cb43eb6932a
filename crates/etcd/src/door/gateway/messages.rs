//! Between JSON and the frames of gRPC, message by message.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::value::RawValue;
use tonic::Status;
use tonic::body::Body;

/// Bytes of a request in JSON: what gRPC takes, in base64, and something for the names of fields.
const LIMIT: usize = 4 << 20;

/// Bytes before each message: whether it is compressed, and how long it is.
const HEADER: usize = 5;

/// Requests as a client sends them: JSON values one behind the other.
pub(super) struct Requests {
    body: Body,
    kind: MessageDescriptor,
    read: Vec<u8>,
    ended: bool,
}

impl Requests {
    pub(super) fn new(body: Body, kind: MessageDescriptor) -> Requests {
        Requests { body, kind, read: Vec::new(), ended: false }
    }

    /// The one request of a call; nothing stands for an empty one.
    pub(super) async fn only(mut self) -> Result<Bytes, Status> {
        while !self.ended {
            self.more().await?;
        }
        match self.next().await? {
            Some(frame) => Ok(frame),
            None => Ok(frame(&DynamicMessage::new(self.kind))),
        }
    }

    /// The next request, as a frame.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let mut values = serde_json::Deserializer::from_slice(&self.read).into_iter();
            let found: Option<serde_json::Result<Box<RawValue>>> = values.next();
            let used = values.byte_offset();
            match found {
                Some(Ok(text)) => {
                    let message = self.parse(&text)?;
                    self.read.drain(..used);
                    return Ok(Some(frame(&message)));
                }
                None if self.ended => return Ok(None),
                Some(Err(e)) if self.ended || !e.is_eof() => return Err(invalid(&e)),
                None | Some(Err(_)) => self.more().await?,
            }
        }
    }

    fn parse(&self, text: &RawValue) -> Result<DynamicMessage, Status> {
        let mut json = serde_json::Deserializer::from_str(text.get());
        // As etcd does: clients are newer than servers at times.
        let lenient = DeserializeOptions::new().deny_unknown_fields(false);
        DynamicMessage::deserialize_with_options(self.kind.clone(), &mut json, &lenient)
            .map_err(|e| invalid(&e))
    }

    async fn more(&mut self) -> Result<(), Status> {
        match self.body.frame().await {
            None => self.ended = true,
            Some(part) => {
                if let Ok(data) = part?.into_data() {
                    self.read.extend_from_slice(&data);
                }
            }
        }
        match self.read.len() > LIMIT {
            true => Err(Status::resource_exhausted("etcdserver: request is too large")),
            false => Ok(()),
        }
    }
}

fn invalid(error: &serde_json::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

fn frame(message: &DynamicMessage) -> Bytes {
    let len = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEADER + len);
    frame.put_u8(0);
    // Requests are far shorter than the number is large.
    frame.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    frame.put_slice(&message.encode_to_vec());
    frame.freeze()
}

/// Answers as gRPC sends them, to be had as JSON.
pub(super) struct Answers {
    body: Body,
    kind: MessageDescriptor,
    read: BytesMut,
}

impl Answers {
    pub(super) fn new(body: Body, kind: MessageDescriptor) -> Answers {
        Answers { body, kind, read: BytesMut::new() }
    }

    /// The next answer, or the status that ended them.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Status> {
        loop {
            if let Some(message) = self.take() {
                return self.show(message).map(Some);
            }
            let Some(part) = self.body.frame().await else { return Ok(None) };
            match part?.into_data() {
                Ok(data) => self.read.extend_from_slice(&data),
                Err(part) => {
                    if let Ok(trailers) = part.into_trailers() {
                        ended(&trailers)?;
                    }
                }
            }
        }
    }

    /// The next message that has been read whole.
    fn take(&mut self) -> Option<BytesMut> {
        let mut header = self.read.get(1..HEADER)?;
        let len = usize::try_from(header.get_u32()).ok()?;
        if self.read.len() < HEADER + len {
            return None;
        }
        self.read.advance(HEADER);
        Some(self.read.split_to(len))
    }

    fn show(&self, message: BytesMut) -> Result<Vec<u8>, Status> {
        let failed = |e: &dyn std::error::Error| Status::internal(format!("show an answer: {e}"));
        let message = DynamicMessage::decode(self.kind.clone(), message).map_err(|e| failed(&e))?;
        let options = SerializeOptions::new().use_proto_field_name(true);
        let mut json = serde_json::Serializer::new(Vec::new());
        message.serialize_with_options(&mut json, &options).map_err(|e| failed(&e))?;
        Ok(json.into_inner())
    }
}

/// The status in headers or trailers, unless all is well.
pub(super) fn ended(headers: &http::HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != tonic::Code::Ok => Err(status),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::door::gateway::table;

    fn requests(json: &str) -> Requests {
        let kind = table::method("/kv/put").unwrap().input();
        Requests::new(Body::new(Full::new(Bytes::from(json.to_owned()))), kind)
    }

    #[tokio::test]
    async fn requests_follow_each_other() {
        let mut some = requests(r#" {"key":"YQ=="}{"key":"Yg==","lease":"7"} "#);
        assert_eq!(some.next().await.unwrap().unwrap(), &b"\0\0\0\0\x03\x0a\x01a"[..]);
        assert_eq!(some.next().await.unwrap().unwrap(), &b"\0\0\0\0\x05\x0a\x01b\x18\x07"[..]);
        assert_eq!(some.next().await.unwrap(), None);
        assert_eq!(requests("").only().await.unwrap(), &b"\0\0\0\0\0"[..]);
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused() {
        for json in ["{", "[1]", r#"{"key":5}"#, r#"{"key":"!"}"#, r#"{"lease":"x"}"#] {
            let status = requests(json).only().await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{json}");
        }
        let large = format!(r#"{{"value":"{}"}}"#, "A".repeat(LIMIT));
        let status = requests(&large).only().await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    }
}
