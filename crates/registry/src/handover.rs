//! Answers that the kernel sends: a head, and behind it a part of a file that does not pass through this process.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, SystemTime};

use http::header::{CONNECTION, DATE};
use http::{Request, Response, Version};
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;

use crate::body::{Body, Part};

/// How long a client may take nothing of an answer.
const STALL: Duration = Duration::from_secs(300);

/// One such answer.
pub(crate) struct Handover {
    head: Vec<u8>,
    part: Part,
    last: bool,
}

/// Whether the client wants no other answer on this connection.
pub(crate) fn is_last<B>(request: &Request<B>) -> bool {
    let mut words = request
        .headers()
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or_default().split(',').map(str::trim));
    request.version() != Version::HTTP_11 || words.any(|word| word.eq_ignore_ascii_case("close"))
}

impl Handover {
    /// The answer `response`, whose body is `part`; `last` of its connection.
    pub(crate) fn new(response: &Response<Body>, part: Part, last: bool, now: SystemTime) -> Self {
        let status = response.status();
        let reason = status.canonical_reason().unwrap_or_default();
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
        let mut put = |name: &str, value: &[u8]| {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        };
        for (name, value) in response.headers() {
            put(name.as_str(), value.as_bytes());
        }
        put(DATE.as_str(), httpdate::fmt_http_date(now).as_bytes());
        if last {
            put(CONNECTION.as_str(), b"close");
        }
        head.extend_from_slice(b"\r\n");
        Handover { head, part, last }
    }

    /// Sends it; whether the connection goes on. Dropped meanwhile, the connection breaks.
    pub(crate) async fn send(self, socket: &mut OwnedWriteHalf) -> io::Result<bool> {
        let Handover { head, part, last } = self;
        socket.write_all(&head).await?;
        let own = TcpStream::from(socket.as_ref().as_fd().try_clone_to_owned()?);
        let mut guard = Breaking(Some(own.try_clone()?));
        let sent = tokio::task::spawn_blocking(move || {
            wharf_sys::socket::send_file(&own, &part.file, part.from, part.to, STALL)
        });
        sent.await??;
        guard.0 = None;
        Ok(!last)
    }
}

/// Breaks a connection whose answer is not complete, so that the thread which sends it ends.
struct Breaking(Option<TcpStream>);

impl Drop for Breaking {
    fn drop(&mut self) {
        if let Some(socket) = self.0.take() {
            // It may be broken already.
            drop(socket.shutdown(Shutdown::Both));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_request_of_a_connection_is_known() {
        let request = |version, connection: &str| {
            let request = Request::builder().version(version).header(CONNECTION, connection);
            is_last(&request.body(()).unwrap())
        };
        assert!(!request(Version::HTTP_11, "keep-alive"));
        assert!(request(Version::HTTP_11, "TE, Close"));
        assert!(request(Version::HTTP_10, "keep-alive"));
    }
}
