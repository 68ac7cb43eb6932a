//! A registry that a test controls: serves fixture images over HTTP, and misbehaves on request.

use crate::image::{Image, digest};
use crate::namespace::in_network;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read as _, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One wrong turn that the registry takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Closes the connection in the middle of a blob, once per blob.
    Cut,
    /// Sends bytes that do not match their digest.
    Corrupt,
    /// Answers 503 once per blob.
    Busy,
    /// Answers 429 once per blob, and says to come back in a second.
    TooMany,
    /// Ends within a chunk, once per blob.
    CutChunk,
    /// Stops sending in the middle, once per blob of some size, and keeps the connection.
    Stall,
    /// Sends a byte more than the blob has, and says so.
    Longer,
    /// Sends a byte less than the blob has, and says so.
    Shorter,
    /// Sends clients that want a blob to another registry.
    Elsewhere(SocketAddr),
}

/// A blob that is smaller than this never stalls: one pause is enough for a test.
const SOME_SIZE: usize = 4096;

/// A running registry; ends with the host.
pub struct Registry {
    /// `127.0.0.1:PORT` in the network it listens in.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

struct Shelf {
    /// `name/manifests/reference` → manifest, and `name/blobs/digest` → blob.
    things: HashMap<String, Thing>,
    fault: Option<Fault>,
    faulted: Mutex<Vec<String>>,
    seen: Arc<Mutex<Vec<String>>>,
}

/// What is served under one path.
#[derive(Clone)]
struct Thing {
    kind: &'static str,
    digest: String,
    body: Vec<u8>,
}

impl Registry {
    /// Serves `images`, in the network of process `init`.
    pub fn serve(init: u32, images: &[&Image], fault: Option<Fault>) -> Registry {
        let listener = in_network(init, || TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::default();
        let shelf = Shelf {
            things: things(images),
            fault,
            faulted: Mutex::default(),
            seen: Arc::clone(&seen),
        };
        let shelf = Arc::new(shelf);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shelf = Arc::clone(&shelf);
                std::thread::spawn(move || shelf.talk(&stream));
            }
        });
        Registry { address, seen }
    }

    /// The requests so far: `METHOD PATH [RANGE]`.
    pub fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn things(images: &[&Image]) -> HashMap<String, Thing> {
    let mut all = HashMap::new();
    for image in images {
        let (name, tag) = image.name.split_once(':').unwrap();
        let body = image.manifest();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = Thing { kind, digest: digest(&body), body };
        all.insert(format!("{name}/manifests/{}", manifest.digest), manifest.clone());
        all.insert(format!("{name}/manifests/{tag}"), manifest);
        for (digest, body) in image.blobs() {
            let kind = "application/octet-stream";
            all.insert(format!("{name}/blobs/{digest}"), Thing { kind, digest, body });
        }
    }
    all
}

impl Shelf {
    fn talk(&self, stream: &TcpStream) -> Option<()> {
        let mut from = BufReader::new(stream);
        loop {
            let mut first = String::new();
            from.read_line(&mut first).ok().filter(|n| *n > 0)?;
            let mut range = String::new();
            loop {
                let mut line = String::new();
                from.read_line(&mut line).ok()?;
                match line.trim_end().split_once(':') {
                    None => break,
                    Some((n, v)) if n.eq_ignore_ascii_case("range") => range = v.trim().to_owned(),
                    Some(_) => (),
                }
            }
            let mut words = first.split(' ');
            let (method, path) = (words.next()?, words.next()?);
            let seen = format!("{method} {path} {range}");
            self.seen.lock().unwrap().push(seen.trim_end().to_owned());
            self.answer(stream, method, path, &range)?;
        }
    }

    fn answer(&self, mut to: &TcpStream, method: &str, path: &str, range: &str) -> Option<()> {
        let key = path.strip_prefix("/v2/")?;
        if key.is_empty() {
            return to.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").ok();
        }
        let Some(Thing { kind, digest, body }) = self.things.get(key) else {
            let (code, what) = match key.contains("/manifests/") {
                true => ("MANIFEST_UNKNOWN", "manifest unknown"),
                false => ("BLOB_UNKNOWN", "blob unknown to registry"),
            };
            let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{what}"}}]}}"#);
            let head = format!(
                "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            return to.write_all((head + &body).as_bytes()).ok();
        };
        let fault = self.fault.filter(|f| key.contains("/blobs/") && self.due(*f, key, body.len()));
        if let Some(refusal) = fault.and_then(|f| refusal(f, path)) {
            let head = format!("HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n");
            return to.write_all(head.as_bytes()).ok();
        }
        let start = range.strip_prefix("bytes=").and_then(|r| r.split('-').next()?.parse().ok());
        let start: usize = start.unwrap_or(0).min(body.len());
        let status = if range.is_empty() { "200 OK" } else { "206 Partial Content" };
        let mut head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n");
        head.push_str(&format!("Docker-Content-Digest: {digest}\r\n"));
        let length = match fault {
            Some(Fault::CutChunk) => "Transfer-Encoding: chunked".to_owned(),
            Some(Fault::Longer) => format!("Content-Length: {}", body.len() - start + 1),
            Some(Fault::Shorter) => {
                format!("Content-Length: {}", (body.len() - start).saturating_sub(1))
            }
            _ => format!("Content-Length: {}", body.len() - start),
        };
        head.push_str(&format!("{length}\r\n"));
        if !range.is_empty() {
            let (last, all) = (body.len() - 1, body.len());
            head.push_str(&format!("Content-Range: bytes {start}-{last}/{all}\r\n"));
        }
        head.push_str("\r\n");
        to.write_all(head.as_bytes()).ok()?;
        if method == "HEAD" {
            return Some(());
        }
        self.send(to, &body[start..], fault)
    }

    fn send(&self, mut to: &TcpStream, body: &[u8], fault: Option<Fault>) -> Option<()> {
        match fault {
            Some(Fault::Cut) => {
                to.write_all(&body[..body.len() / 2]).ok()?;
                to.shutdown(std::net::Shutdown::Both).ok()?;
                None
            }
            Some(Fault::Corrupt) => {
                let mut wrong = body.to_vec();
                if let Some(byte) = wrong.last_mut() {
                    *byte ^= 1;
                }
                to.write_all(&wrong).ok()
            }
            Some(Fault::CutChunk) => {
                let (half, rest) = body.split_at(body.len() / 2);
                to.write_all(format!("{:x}\r\n", half.len()).as_bytes()).ok()?;
                to.write_all(half).ok()?;
                to.write_all(format!("\r\n{:x}\r\n", rest.len()).as_bytes()).ok()?;
                to.write_all(&rest[..rest.len() / 2]).ok()?;
                to.shutdown(std::net::Shutdown::Both).ok()?;
                None
            }
            Some(Fault::Stall) => {
                to.write_all(&body[..body.len() / 2]).ok()?;
                // Until the client gives up and closes.
                let end = to.read(&mut [0]);
                end.ok().filter(|n| *n > 0).map(drop)
            }
            Some(Fault::Longer) => to.write_all(&[body, b"x"].concat()).ok(),
            Some(Fault::Shorter) => to.write_all(&body[..body.len().saturating_sub(1)]).ok(),
            Some(Fault::Busy | Fault::TooMany | Fault::Elsewhere(_)) | None => {
                to.write_all(body).ok()
            }
        }
    }

    /// Whether this request for a blob of that size is to fail: always if that is what the fault is about, else the first
    /// for its blob.
    fn due(&self, fault: Fault, key: &str, size: usize) -> bool {
        if fault == Fault::Stall && size < SOME_SIZE {
            return false;
        }
        let mut faulted = self.faulted.lock().unwrap();
        let first = !faulted.iter().any(|k| k == key);
        if first {
            faulted.push(key.to_owned());
        }
        let always = [Fault::Corrupt, Fault::Longer, Fault::Shorter];
        first || always.contains(&fault) || matches!(fault, Fault::Elsewhere(_))
    }
}

/// Status and headers in place of the blob at `path`.
fn refusal(fault: Fault, path: &str) -> Option<String> {
    match fault {
        Fault::Busy => Some("503 Service Unavailable".to_owned()),
        Fault::TooMany => Some("429 Too Many Requests\r\nRetry-After: 1".to_owned()),
        Fault::Elsewhere(address) => {
            Some(format!("307 Temporary Redirect\r\nLocation: http://{address}{path}"))
        }
        _ => None,
    }
}
