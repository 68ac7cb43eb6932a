//! What a build asks of its client, over the client's session.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::{Code, Request, Status};
use wharf_base::error::chain;
use wharf_build::{Context, ContextError, Credentials, Secrets, Ssh, Tree, Want};
use wharf_image::ByteStream;
use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::dockerfile::ignore;
use wharf_sys::root::Root;

use crate::contexts::Snapshot;
use crate::fsutil::{self, Receiver, Step, TransferError};
use crate::journal::{Journal, Part};
use crate::proto::fsutil::types::Packet;
use crate::proto::moby::buildkit::secrets::v1::GetSecretRequest;
use crate::proto::moby::filesync::v1::CredentialsRequest;
use crate::proto::moby::sshforward::v1::{BytesMessage, CheckAgentRequest};
use crate::proto::moby::upload::v1::BytesMessage as UploadMessage;
use crate::session::Session;

/// Packets between the connection and the disk.
const AHEAD: usize = 256;
/// How often progress of a transfer is told.
const TELL: Duration = Duration::from_millis(100);
/// Bytes of an agent's connection in one message.
const CHUNK: usize = 32 << 10;

/// A directory of the client as a context.
pub(crate) struct SessionContext {
    pub(crate) session: Arc<Session>,
    /// Its name in the session.
    pub(crate) dir: String,
    /// What the vertex of a transfer is called, and what it brings.
    pub(crate) vertex: String,
    pub(crate) what: String,
    /// Patterns of the directory's own ignore file, for one that is not the build context.
    pub(crate) exclude: Vec<String>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) snapshot: Arc<Snapshot>,
    /// One transfer at a time: the second of two that overlap finds what the first one brought.
    pub(crate) state: tokio::sync::Mutex<Transfers>,
}

/// What was transferred.
#[derive(Default)]
pub(crate) struct Transfers {
    done: Vec<Want>,
    failed: Option<String>,
}

impl Transfers {
    /// Whether `want` is here.
    fn has(&self, want: &Want) -> bool {
        let covers = |done: &Want| {
            let all = done.include.is_empty() && done.follow.is_empty();
            done == want || (all && done.exclude == want.exclude)
        };
        self.done.iter().any(covers)
    }
}

impl SessionContext {
    async fn bring(&self, want: &Want) -> Result<(), String> {
        let want = &as_sent(want, &self.exclude);
        let mut state = self.state.lock().await;
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        if state.has(want) {
            return Ok(());
        }
        // Whoever drops this future leaves half a tree.
        self.snapshot.set_whole(false);
        let task = self.journal.task(&self.vertex);
        let tell = |bytes, done| task.part(Part::transferring(&self.what, bytes, done));
        let received = receive(&self.session, &self.dir, want, &self.snapshot, tell).await;
        match task.end(received) {
            Ok(_) => {
                self.snapshot.set_whole(true);
                state.done.push(want.clone());
                Ok(())
            }
            Err(status) => {
                let text = status.message().to_owned();
                state.failed = Some(text.clone());
                Err(text)
            }
        }
    }
}

impl Context for SessionContext {
    fn fetch<'a>(&'a self, want: &'a Want) -> BoxFuture<'a, Result<Tree, ContextError>> {
        Box::pin(async move {
            self.bring(want).await.map_err(ContextError::Source)?;
            let path = self.snapshot.path().to_owned();
            Tree::new(path.clone(), self.snapshot.clone()).map_err(|source| ContextError::Io {
                action: "open",
                path,
                source,
            })
        })
    }
}

/// Takes what `want` selects of the session's directory `dir`; gives the bytes that came.
pub(crate) async fn receive(
    session: &Session,
    dir: &str,
    want: &Want,
    snapshot: &Arc<Snapshot>,
    tell: impl Fn(u64, bool),
) -> Result<u64, Status> {
    let (wishes, asked) = mpsc::unbounded_channel();
    let mut request = Request::new(UnboundedReceiverStream::new(asked));
    describe(request.metadata_mut(), dir, want)?;
    let mut packets = session.file_sync()?.diff_copy(request).await?.into_inner();
    let (to_disk, from_line) = mpsc::channel(AHEAD);
    let writing = tokio::task::spawn_blocking({
        let snapshot = snapshot.clone();
        move || write(&snapshot, from_line, &wishes)
    });
    let (mut bytes, mut told) = (0, tokio::time::Instant::now());
    let mut broken = None;
    while let Some(packet) = packets.next().await {
        match packet {
            Ok(packet) => {
                bytes += prost::Message::encoded_len(&packet) as u64;
                if told.elapsed() >= TELL {
                    tell(bytes, false);
                    told = tokio::time::Instant::now();
                }
                // The writer has said why it stopped.
                if to_disk.send(packet).await.is_err() {
                    break;
                }
            }
            Err(status) => {
                broken = Some(status);
                break;
            }
        }
    }
    drop(to_disk);
    let written = writing.await.map_err(|e| Status::internal(e.to_string()))?;
    match (written, broken) {
        (Ok(true), _) => tell(bytes, true),
        (Ok(false), Some(status)) => return Err(status),
        (Ok(false), None) => return Err(Status::aborted("the client ended the transfer early")),
        (Err(error), _) => return Err(Status::unknown(chain(&error).to_string())),
    }
    Ok(bytes)
}

/// The status of a disk that failed.
pub(crate) fn broken(action: &'static str) -> impl Fn(std::io::Error) -> Status {
    move |e| Status::internal(format!("cannot {action}: {e}"))
}

/// The disk's side of a transfer: whether the tree is complete.
fn write(
    snapshot: &Snapshot,
    mut packets: mpsc::Receiver<Packet>,
    wishes: &mpsc::UnboundedSender<Packet>,
) -> Result<bool, TransferError> {
    let open = |path: &std::path::Path| {
        let failed =
            |source| TransferError::Io { action: "open", path: path.display().to_string(), source };
        Root::open(path).map_err(failed)
    };
    let base = snapshot.base().map(open).transpose()?;
    let mut receiver = Receiver::new(open(snapshot.path())?, base);
    while let Some(packet) = packets.blocking_recv() {
        match receiver.take(packet) {
            Ok(Step::Go(more)) => {
                for wish in more {
                    // A closed line shows in the packets.
                    drop(wishes.send(wish));
                }
            }
            Ok(Step::Done) => return Ok(true),
            Err(error) => {
                drop(wishes.send(fsutil::error(chain(&error).to_string())));
                return Err(error);
            }
        }
    }
    Ok(false)
}

/// What is asked of the client: plain paths, or everything; `exclude` are the directory's own patterns.
fn as_sent(want: &Want, exclude: &[String]) -> Want {
    let plain = |paths: &[String]| paths.iter().map(|p| ignore::clean(p)).collect::<Vec<_>>();
    let (mut include, mut follow) = (plain(&want.include), plain(&want.follow));
    if include.iter().chain(&follow).any(|p| p.is_empty() || p == ".") {
        // To the client that would be a pattern which no file fits.
        include.clear();
        follow.clear();
    }
    Want { include, follow, exclude: [exclude, &want.exclude].concat() }
}

/// The request's metadata.
fn describe(metadata: &mut MetadataMap, dir: &str, want: &Want) -> Result<(), Status> {
    let dir = [dir.to_owned()];
    for (key, values) in [
        ("dir-name", &dir[..]),
        ("include-patterns", &want.include),
        ("exclude-patterns", &want.exclude),
        ("followpaths", &want.follow),
    ] {
        let encode = values.iter().any(|v| !v.bytes().all(|b| (0x20..0x7f).contains(&b)));
        for value in values {
            let value = if encode { escaped(value) } else { value.clone() };
            let wrong = |_| Status::invalid_argument(format!("{key} {value:?} cannot be sent"));
            metadata.append(key, AsciiMetadataValue::try_from(value.as_str()).map_err(wrong)?);
        }
        if encode {
            let name = format!("{key}-encoded");
            let wrong = |_| Status::internal("metadata key");
            let name = AsciiMetadataKey::from_bytes(name.as_bytes()).map_err(wrong)?;
            metadata.insert(name, AsciiMetadataValue::from_static("1"));
        }
    }
    Ok(())
}

/// Go's `url.QueryEscape`.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(b));
            }
            b' ' => out.push('+'),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// A stream of bytes that the client has on its standard input.
pub(crate) async fn upload(session: &Session, path: &str) -> Result<ByteStream, Status> {
    // The client is asked nothing more than to begin.
    let mut request = Request::new(futures_util::stream::empty::<UploadMessage>());
    let path = AsciiMetadataValue::try_from(path);
    let path = path.map_err(|_| Status::invalid_argument("the upload's path cannot be sent"))?;
    request.metadata_mut().insert("urlpath", path);
    let answers = session.upload()?.pull(request).await?.into_inner();
    Ok(Box::pin(answers.map(|m| match m {
        Ok(message) => Ok(message.data),
        Err(status) => Err(std::io::Error::other(status.message().to_owned())),
    })))
}

/// Secrets, ssh agents and registry logins of a client.
#[derive(Clone)]
pub(crate) struct Remote(pub(crate) Arc<Session>);

impl Secrets for Remote {
    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, String>> {
        Box::pin(async move {
            let ask = async {
                let request = GetSecretRequest { id: id.to_owned(), ..GetSecretRequest::default() };
                self.0.secrets()?.get_secret(request).await
            };
            match ask.await {
                Ok(answer) => Ok(Some(answer.into_inner().data.to_vec())),
                Err(s) if is_none(&s) => Ok(None),
                Err(status) => Err(status.message().to_owned()),
            }
        })
    }
}

impl Ssh for Remote {
    fn has<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool, String>> {
        Box::pin(async move {
            let ask =
                async { self.0.ssh()?.check_agent(CheckAgentRequest { id: id.to_owned() }).await };
            match ask.await {
                Ok(_) => Ok(true),
                // The client does not say it more precisely: `unset ssh forward key`.
                Err(s) if is_none(&s) || s.code() == Code::Unknown => Ok(false),
                Err(status) => Err(status.message().to_owned()),
            }
        })
    }

    fn serve<'a>(&'a self, id: &'a str, stream: UnixStream) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move { forward(&self.0, id, stream).await })
    }
}

impl Credentials for Remote {
    fn auth<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<AuthConfig, String>> {
        Box::pin(async move {
            if let Some(login) = self.0.login(host) {
                return Ok(login.clone());
            }
            // The client knows Docker Hub by the name of its registry.
            let host = if host == "docker.io" { "registry-1.docker.io" } else { host };
            let ask = async {
                self.0.auth()?.credentials(CredentialsRequest { host: host.to_owned() }).await
            };
            let answer = match ask.await {
                Ok(answer) => answer.into_inner(),
                Err(s) if is_none(&s) => return Ok(AuthConfig::default()),
                Err(status) => return Err(status.message().to_owned()),
            };
            let mut auth = AuthConfig { serveraddress: host.to_owned(), ..AuthConfig::default() };
            match answer.username.is_empty() {
                true => auth.identitytoken = answer.secret,
                false => (auth.username, auth.password) = (answer.username, answer.secret),
            }
            Ok(auth)
        })
    }
}

/// The client has none of that.
fn is_none(status: &Status) -> bool {
    matches!(status.code(), Code::NotFound | Code::Unimplemented)
}

/// Carries one connection to an agent of the client.
async fn forward(session: &Session, id: &str, stream: UnixStream) -> Result<(), String> {
    let text = |status: Status| status.message().to_owned();
    let (mut from, mut to) = stream.into_split();
    let (send, sent) = mpsc::channel(4);
    let mut request = Request::new(ReceiverStream::new(sent));
    let id = AsciiMetadataValue::try_from(id).map_err(|e| e.to_string())?;
    request.metadata_mut().insert("buildkit.ssh.id", id);
    let mut client = session.ssh().map_err(text)?;
    let asking = async move {
        let mut chunk = vec![0; CHUNK];
        while let Ok(n @ 1..) = from.read(&mut chunk).await {
            let data = Bytes::copy_from_slice(&chunk[..n]);
            if send.send(BytesMessage { data }).await.is_err() {
                break;
            }
        }
    };
    // Go's server sends headers with the first answer, which an agent gives only when it was asked something.
    let answering = async {
        let mut answers = client.forward_agent(request).await.map_err(text)?.into_inner();
        while let Some(message) = answers.message().await.map_err(text)? {
            // The program in the container is free to go away.
            if to.write_all(&message.data).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let mut answering = pin!(answering);
    // The agent's end is the end, whatever the program still has to say: it waits for that.
    tokio::select! {
        answered = &mut answering => answered,
        () = asking => answering.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(want: &Want) -> http::HeaderMap {
        let mut metadata = MetadataMap::new();
        describe(&mut metadata, "context", want).unwrap();
        metadata.into_headers()
    }

    #[test]
    fn patterns_travel_as_they_are_or_escaped() {
        let want = Want {
            include: vec!["src/**".into(), "a b".into()],
            exclude: vec!["ä b".into(), "x".into()],
            ..Want::default()
        };
        let headers = metadata(&want);
        assert_eq!(headers["dir-name"], "context");
        let all: Vec<_> = headers.get_all("include-patterns").iter().collect();
        assert_eq!(all, ["src/**", "a b"]);
        let all: Vec<_> = headers.get_all("exclude-patterns").iter().collect();
        assert_eq!(all, ["%C3%A4+b", "x"]);
        assert_eq!(headers["exclude-patterns-encoded"], "1");
        assert!(!headers.contains_key("include-patterns-encoded"));
    }

    #[test]
    fn paths_are_sent_plain_and_the_root_means_everything() {
        let sent = |paths: &[&str]| {
            let include: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
            let want = Want { follow: include.clone(), include, exclude: vec!["b".into()] };
            let sent = as_sent(&want, &["a".to_owned()]);
            assert_eq!(sent.exclude, ["a", "b"]);
            assert_eq!(sent.include, sent.follow);
            sent.include
        };
        assert_eq!(sent(&["/src/", "./a/*.txt"]), ["src", "a/*.txt"]);
        for root in [".", "/", "./", "", "a/.."] {
            assert_eq!(sent(&["src", root]), [""; 0], "{root:?}");
        }
    }

    #[test]
    fn what_is_here_is_not_transferred_again() {
        let want = |include: &[&str], exclude: &[&str]| Want {
            include: include.iter().map(|s| (*s).to_owned()).collect(),
            exclude: exclude.iter().map(|s| (*s).to_owned()).collect(),
            ..Want::default()
        };
        let some = Transfers { done: vec![want(&["a"], &["x"])], failed: None };
        assert!(some.has(&want(&["a"], &["x"])));
        assert!(!some.has(&want(&["b"], &["x"])));
        let all = Transfers { done: vec![want(&[], &["x"])], failed: None };
        assert!(all.has(&want(&["b"], &["x"])));
        assert!(!all.has(&want(&["b"], &[])));
    }
}
