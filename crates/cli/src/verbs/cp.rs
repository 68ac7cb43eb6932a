//! `cp`: files between a container and here, as tar streams.

use std::io::{IsTerminal, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::Value;
use tokio::io::AsyncRead;

use super::unpack::{Place, unpack};
use super::{Outcome, text};
use crate::api::{ApiError, Client, Payload, next, segment, url};
use crate::app::{Call, say, warn};
use crate::failure::{Failure, os_text};
use crate::out::copying::Copying;
use crate::parse::{absolute, clean_path, size};

/// `cp [OPTIONS] SRC DEST`
pub async fn cp(call: Call) -> Outcome {
    let (source, target) = (call.args()[0].as_str(), call.args()[1].as_str());
    if source.is_empty() {
        return Err("source can not be empty".into());
    }
    if target.is_empty() {
        return Err("destination can not be empty".into());
    }
    match (split(source), split(target)) {
        ((Some(container), path), (None, local)) => from(&call, container, path, local).await,
        ((None, local), (Some(container), path)) => into(&call, container, local, path).await,
        ((Some(_), _), (Some(_), _)) => Err("copying between containers is not supported".into()),
        ((None, _), (None, _)) => Err("must specify at least one container source".into()),
    }
}

/// `container:path`, where a path here may contain a colon after a slash or a dot.
fn split(text: &str) -> (Option<&str>, &str) {
    if text.starts_with('/') {
        return (None, text);
    }
    match text.split_once(':') {
        Some((name, path)) if !name.starts_with('.') => (Some(name), path),
        _ => (None, text),
    }
}

/// What the engine says about a path.
struct Stat {
    directory: bool,
    link: Option<String>,
}

async fn stat(client: &Client, container: &str, path: &str) -> Result<Stat, ApiError> {
    let url = url(&format!("/containers/{}/archive", segment(container)), &[("path", path)]);
    let response = client.send(Method::HEAD, &url, Payload::Empty, &[]).await.map_err(|error| {
        // A HEAD has no body to explain itself.
        match error.status() {
            Some(404) => ApiError::Daemon {
                status: 404,
                message: format!("Could not find the file {path} in container {container}"),
            },
            _ => error,
        }
    })?;
    Ok(read_stat(response.headers()))
}

fn read_stat(headers: &http::HeaderMap) -> Stat {
    const DIRECTORY: u64 = 1 << 31;
    const SYMLINK: u64 = 1 << 27;
    let header = headers.get("x-docker-container-path-stat");
    let json = header.and_then(|h| STANDARD.decode(h).ok());
    let stat: Value = json.and_then(|j| serde_json::from_slice(&j).ok()).unwrap_or_default();
    let mode = stat["mode"].as_u64().unwrap_or(0);
    Stat {
        directory: mode & DIRECTORY != 0,
        link: (mode & SYMLINK != 0).then(|| text(&stat, "linkTarget").to_owned()),
    }
}

async fn from(call: &Call, container: &str, source: &str, local: &str) -> Outcome {
    let client = call.client()?;
    let mut path = rooted(source);
    if call.given.on("follow-link")
        && let Ok(Stat { link: Some(link), .. }) = stat(client, container, &path).await
    {
        path = if link.starts_with('/') { link } else { format!("{}/{link}", parent(&path)) };
    }
    let address = url(&format!("/containers/{}/archive", segment(container)), &[("path", &path)]);
    if local == "-" {
        if std::io::stdout().is_terminal() {
            return Err(
                "cowardly refusing to copy to a terminal. Redirect to a file or pipe".into()
            );
        }
        let response = client.send(Method::GET, &address, Payload::Empty, &[]).await?;
        let mut body = response.into_body();
        while let Some(bytes) = next(&mut body).await? {
            say(&bytes)?;
        }
        return Ok(());
    }
    check_parent(local)?;
    let response = client.send(Method::GET, &address, Payload::Empty, &[]).await?;
    let stat = read_stat(response.headers());
    let contents = source.ends_with("/.") || source == ".";
    let place = choose(call, local, &stat, contents)?;
    let (sender, receiver) = tokio::sync::mpsc::channel::<bytes::Bytes>(16);
    let unpacking = tokio::task::spawn_blocking(move || unpack(Pipe::new(receiver), &place));
    let copying = Copying::start("Copying from container - ", call.given.on("quiet"));
    let count = copying.count();
    let mut body = response.into_body();
    while let Some(bytes) = next(&mut body).await? {
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if sender.send(bytes).await.is_err() {
            // The unpacker has failed and says why below.
            break;
        }
    }
    drop(sender);
    let unpacked = unpacking.await;
    drop(copying);
    let bytes = unpacked.map_err(|e| Failure::new(format!("unpacking stopped: {e}")))??;
    announce(call, bytes, local);
    Ok(())
}

fn announce(call: &Call, bytes: u64, to: &str) {
    if !call.given.on("quiet") && std::io::stderr().is_terminal() {
        #[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
        warn(format!("Successfully copied {} to {to}", size::human(bytes as f64)));
    }
}

fn rooted(path: &str) -> String {
    let clean = clean_path(&format!("/{path}"));
    match path.ends_with("/.") || (path.ends_with('/') && clean != "/") {
        true => format!(
            "{}/{}",
            clean.trim_end_matches('/'),
            if path.ends_with('.') { "." } else { "" }
        ),
        false => clean,
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn check_parent(local: &str) -> Outcome {
    let path = absolute(local);
    let dir = parent(&path);
    match dir.is_empty() || Path::new(dir).is_dir() {
        true => Ok(()),
        false => Err(Failure::new(format!(
            "invalid output path: directory {} does not exist",
            crate::parse::quote(dir)
        ))),
    }
}

/// Where a copy out of a container ends up.
fn choose(call: &Call, local: &str, stat: &Stat, contents: bool) -> Result<Place, Failure> {
    let keep_owner = call.given.on("archive");
    let path = PathBuf::from(absolute(local));
    if path.is_dir() {
        let rename = (contents && stat.directory).then(String::new);
        return Ok(Place { directory: path, rename, keep_owner });
    }
    if path.exists() && stat.directory {
        return Err("cannot copy directory".into());
    }
    if local.ends_with('/') && !stat.directory {
        return Err("no such directory".into());
    }
    let rename = path.file_name().map(|n| n.to_string_lossy().into_owned());
    let directory = path.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
    Ok(Place { directory, rename, keep_owner })
}

/// Bytes from the connection for a reader that blocks.
struct Pipe {
    receiver: tokio::sync::mpsc::Receiver<bytes::Bytes>,
    current: bytes::Bytes,
}

impl Pipe {
    fn new(receiver: tokio::sync::mpsc::Receiver<bytes::Bytes>) -> Self {
        Self { receiver, current: bytes::Bytes::new() }
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(bytes) => self.current = bytes,
                None => return Ok(0),
            }
        }
        let length = self.current.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

/// A writer that blocks, for the connection.
struct Sender {
    to: tokio::sync::mpsc::Sender<bytes::Bytes>,
    sent: Arc<AtomicU64>,
}

impl std::io::Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let sent = self.to.blocking_send(bytes::Bytes::copy_from_slice(bytes));
        sent.map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn into(call: &Call, container: &str, local: &str, target: &str) -> Outcome {
    let client = call.client()?;
    let mut path = rooted(target);
    let found = stat(client, container, path.trim_end_matches("/.")).await;
    if let Ok(Stat { link: Some(link), .. }) = &found {
        path =
            if link.starts_with('/') { link.clone() } else { format!("{}/{link}", parent(&path)) };
    }
    let directory = match &found {
        Ok(stat) if stat.link.is_some() => {
            stat_or_none(client, container, &path).await.is_some_and(|s| s.directory)
        }
        Ok(stat) => stat.directory,
        Err(ApiError::Daemon { .. }) => false,
        Err(_) => return found.map(drop).map_err(Into::into),
    };
    if local == "-" {
        if found.is_ok() && !directory {
            return Err(Failure::new(format!(
                "destination \"{container}:{target}\" must be a directory"
            )));
        }
        return put(call, client, container, &path, Box::pin(tokio::io::stdin())).await;
    }
    let mut source = PathBuf::from(absolute(local));
    if call.given.on("follow-link") {
        source = source.canonicalize().unwrap_or(source);
    }
    let meta = std::fs::symlink_metadata(&source)
        .map_err(|e| Failure::new(format!("lstat {}: {}", source.display(), os_text(&e))))?;
    let contents = local.ends_with("/.") || local == ".";
    let own_name = source.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let (dir, name) = match (found.is_ok(), directory) {
        (true, true) if contents => (path, String::new()),
        (true, true) => (path, own_name),
        (true, false) if meta.is_dir() => return Err("cannot copy directory".into()),
        (false, _) if target.ends_with('/') && !meta.is_dir() => {
            return Err("no such directory".into());
        }
        _ => {
            let clean = path.trim_end_matches("/.").trim_end_matches('/').to_owned();
            let name = clean.rsplit('/').next().unwrap_or_default().to_owned();
            let dir = parent(&clean);
            (if dir.is_empty() { "/".to_owned() } else { dir.to_owned() }, name)
        }
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    let keep_owner = call.given.on("archive");
    let copying = Copying::start("Copying to container - ", call.given.on("quiet"));
    let counted = Sender { to: sender, sent: copying.count() };
    let packing = tokio::task::spawn_blocking(move || {
        let writer = std::io::BufWriter::with_capacity(128 << 10, counted);
        pack(writer, &source, &name, keep_owner)
    });
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece: Option<bytes::Bytes> = receiver.recv().await;
        piece.map(|piece| (Ok::<_, std::io::Error>(piece), receiver))
    });
    let reader = tokio_util::io::StreamReader::new(Box::pin(pieces));
    let sent = put(call, client, container, &dir, Box::pin(reader)).await;
    let packed = packing.await;
    drop(copying);
    let packed = packed.map_err(|e| Failure::new(format!("packing stopped: {e}")))?;
    sent?;
    announce(call, packed?, &format!("{container}:{target}"));
    Ok(())
}

async fn stat_or_none(client: &Client, container: &str, path: &str) -> Option<Stat> {
    stat(client, container, path).await.ok()
}

async fn put(
    call: &Call,
    client: &Client,
    container: &str,
    directory: &str,
    input: Pin<Box<dyn AsyncRead + Send>>,
) -> Outcome {
    let keep = if call.given.on("archive") { "true" } else { "" };
    let query = [("copyUIDGID", keep), ("noOverwriteDirNonDir", "true"), ("path", directory)];
    let path = url(&format!("/containers/{}/archive", segment(container)), &query);
    client.call(Method::PUT, &path, Payload::Stream(input, "application/x-tar")).await?;
    Ok(())
}

/// Packs a file or directory under a name; empty for the directory's contents.
fn pack(
    writer: impl std::io::Write,
    source: &Path,
    name: &str,
    keep_owner: bool,
) -> Result<u64, Failure> {
    let mut builder = tar::Builder::new(writer);
    builder.follow_symlinks(false);
    let mut total = 0;
    let mut rest = vec![(source.to_owned(), PathBuf::from(name))];
    while let Some((path, inside)) = rest.pop() {
        let failed = |e: std::io::Error| {
            Failure::new(format!("cannot read {}: {}", path.display(), os_text(&e)))
        };
        let meta = std::fs::symlink_metadata(&path).map_err(failed)?;
        if meta.is_dir() {
            for entry in std::fs::read_dir(&path).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                rest.push((entry.path(), inside.join(entry.file_name())));
            }
        }
        if !inside.as_os_str().is_empty() {
            total += append(&mut builder, &path, &inside, &meta, keep_owner).map_err(failed)?;
        }
    }
    let flushed = builder.into_inner().and_then(|mut writer| writer.flush());
    flushed.map_err(|e| Failure::new(format!("cannot send: {}", os_text(&e))))?;
    Ok(total)
}

fn append(
    builder: &mut tar::Builder<impl std::io::Write>,
    path: &Path,
    inside: &Path,
    meta: &std::fs::Metadata,
    keep_owner: bool,
) -> std::io::Result<u64> {
    let mut header = tar::Header::new_gnu();
    header.set_metadata(meta);
    if !keep_owner {
        // Whoever copies, root owns it there.
        header.set_uid(0);
        header.set_gid(0);
    }
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    if meta.is_symlink() {
        builder.append_link(&mut header, inside, std::fs::read_link(path)?)?;
        return Ok(0);
    }
    if meta.is_file() {
        let file = std::fs::File::open(path)?;
        // A file that grows meanwhile must not break the archive.
        builder.append_data(&mut header, inside, file.take(meta.len()))?;
        return Ok(meta.len());
    }
    if meta.is_dir() {
        builder.append_data(&mut header, inside, std::io::empty())?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_from_paths() {
        assert_eq!(split("web:/a"), (Some("web"), "/a"));
        assert_eq!(split("/a:b"), (None, "/a:b"));
        assert_eq!(split("./a:b"), (None, "./a:b"));
        assert_eq!(split("-"), (None, "-"));
    }

    #[test]
    fn paths_in_containers_start_at_their_root() {
        assert_eq!(rooted("a/../b"), "/b");
        assert_eq!(rooted("/etc/."), "/etc/.");
        assert_eq!(rooted(""), "/");
    }
}
