//! `docker cp`: what is at a path of a container, out of it as a tar and into it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, oneshot};
use wharf_spec::docker;
use wharf_sys::root::{Kind, Metadata, Root};

use crate::confined::Purpose;
use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::options::{ArchivePut, ByteReader, ByteStream};
use crate::pipe::{ChunkReader, ChunkWriter};
use crate::tar_in::{Owner, Unpack};
use crate::tar_out;

/// Chunks on the way between the copying thread and the client.
const IN_FLIGHT: usize = 8;

impl Inner {
    pub(crate) async fn archive_stat(
        self: &Arc<Self>,
        name: &str,
        path: &str,
    ) -> Result<docker::PathStat> {
        let c = self.find(name)?;
        let (name, path) = (name.to_owned(), path.to_owned());
        let look = move |root: &Root| stat(root, &path, &name);
        self.blocking(move |inner| inner.confined(&c, Purpose::Read, look)).await
    }

    pub(crate) async fn archive_get(
        self: &Arc<Self>,
        name: &str,
        path: &str,
    ) -> Result<(docker::PathStat, ByteStream)> {
        let c = self.find(name)?;
        let (told, tells) = oneshot::channel();
        let (chunks, mut source) = mpsc::channel(IN_FLIGHT);
        let (inner, of) = (self.clone(), c.clone());
        let (name, from) = (name.to_owned(), path.to_owned());
        self.tasks.spawn_blocking(move || {
            let mut told = Some(told);
            let work = |root: &Root| {
                let found = stat(root, &from, &name)?;
                if let Some(told) = told.take() {
                    drop(told.send(Ok(found)));
                }
                let mut out = ChunkWriter::new(chunks);
                match tar_out::write(root, &absolute(&from), &mut out) {
                    Ok(()) => out.finish(),
                    Err(e) => out.fail(e),
                }
                Ok(())
            };
            if let Err(e) = inner.confined(&of, Purpose::Read, work)
                && let Some(told) = told.take()
            {
                drop(told.send(Err(e)));
            }
        });
        let gone = |_| EngineError::system("copy from the container", "the copying thread ended");
        let found = tells.await.map_err(gone)??;
        self.emit(&c.record(), "archive-path", &[("path", path)]);
        let body = stream::poll_fn(move |cx| source.poll_recv(cx)).boxed();
        Ok((found, body))
    }

    pub(crate) async fn archive_put(
        self: &Arc<Self>,
        name: &str,
        path: &str,
        options: ArchivePut,
        archive: ByteReader,
    ) -> Result<()> {
        let c = self.find(name)?;
        // A container that does not run must not start on top of the same layer meanwhile.
        let turn = c.turn.lock().await;
        let (sink, chunks) = mpsc::channel(IN_FLIGHT);
        let (of, name, to) = (c.clone(), name.to_owned(), path.to_owned());
        let unpack = self.blocking(move |inner| {
            let owner = inner.owner(&of, options)?;
            inner.confined(&of, Purpose::Write, |root| {
                let target = directory(root, &to, &name)?;
                Unpack { root, target, owner, strict: options.no_overwrite_dir_non_dir }
                    .run(ChunkReader::new(chunks))
            })
        });
        let (result, ()) = tokio::join!(unpack, feed(archive, sink));
        drop(turn);
        result?;
        self.emit(&c.record(), "extract-to-dir", &[("path", path)]);
        Ok(())
    }

    fn owner(&self, c: &Container, options: ArchivePut) -> Result<Owner> {
        let record = c.record();
        if !options.copy_uid_gid || record.config.user.is_empty() {
            return Ok(Owner::AsArchived);
        }
        let user = self.user(&record, &record.config.user)?;
        Ok(Owner::Fixed { uid: user.uid, gid: user.gid })
    }
}

/// Hands the client's bytes to the copying thread until either ends.
async fn feed(mut archive: ByteReader, sink: mpsc::Sender<io::Result<bytes::Bytes>>) {
    loop {
        let mut chunk = bytes::BytesMut::with_capacity(64 << 10);
        let read = match archive.read_buf(&mut chunk).await {
            Ok(0) => return,
            Ok(_) => Ok(chunk.freeze()),
            Err(e) => Err(e),
        };
        let failed = read.is_err();
        if sink.send(read).await.is_err() || failed {
            return;
        }
    }
}

/// The path as the container sees it. A trailing `/` or `/.` stays, because it means "what the link points to", and `/.`
/// "what is in it": the root itself is `/`, what is in it `/.`.
fn absolute(path: &str) -> PathBuf {
    let clean = crate::mount::clean_path(&format!("/{path}"));
    let bare = path.trim_end_matches('/');
    let inside = path.is_empty() || bare == "." || bare.ends_with("/.");
    match (clean.as_str(), inside) {
        ("/", true) => "/.".into(),
        (_, true) => format!("{clean}/.").into(),
        (root @ "/", false) => root.into(),
        (_, false) if path.ends_with('/') => format!("{clean}/").into(),
        (_, false) => clean.into(),
    }
}

/// `container` is what the client called it.
fn looked(path: &str, container: &str) -> impl FnOnce(io::Error) -> EngineError {
    let missing = format!("Could not find the file {path} in container {container}");
    let path = path.to_owned();
    move |e| match e.kind() {
        io::ErrorKind::NotFound => EngineError::not_found(missing),
        io::ErrorKind::NotADirectory => {
            EngineError::invalid(format!("{path}: not a directory")).because(e)
        }
        _ => EngineError::invalid(format!("cannot look at {path} in the container")).because(e),
    }
}

fn stat(root: &Root, path: &str, container: &str) -> Result<docker::PathStat> {
    let at = absolute(path);
    let text = at.to_string_lossy();
    let inside = text.ends_with("/.");
    let found = if inside || text.ends_with('/') { root.stat(&at) } else { root.lstat(&at) };
    let meta = found.map_err(looked(path, container))?;
    let link_target = match meta.kind {
        Kind::Symlink => resolved_link(root, &at),
        _ => String::new(),
    };
    let name = match inside {
        true => OsStr::new("."),
        false => at.file_name().unwrap_or(OsStr::new("/")),
    };
    let name = name.to_string_lossy().into_owned();
    let nanos = meta.mtime.seconds * 1_000_000_000 + i64::from(meta.mtime.nanos);
    Ok(docker::PathStat {
        name,
        size: i64::try_from(meta.size).unwrap_or(i64::MAX),
        mode: go_mode(&meta),
        mtime: docker::rfc3339(nanos),
        link_target,
    })
}

/// Where a link leads, as an absolute path of the container.
fn resolved_link(root: &Root, at: &Path) -> String {
    let target = || -> io::Result<PathBuf> {
        let Some((dir, name)) = root.parent(at)? else { return Ok(at.to_owned()) };
        let target = PathBuf::from(dir.read_link(name)?);
        let base = at.parent().unwrap_or(Path::new("/"));
        Ok(base.join(target))
    };
    target().map(|p| crate::mount::clean_path(&p.to_string_lossy())).unwrap_or_default()
}

/// The bits of Go's `os.FileMode`.
pub(crate) fn go_mode(meta: &Metadata) -> u32 {
    let kind = match meta.kind {
        Kind::File => 0,
        Kind::Dir => 1 << 31,
        Kind::Symlink => 1 << 27,
        Kind::BlockDevice => 1 << 26,
        Kind::CharDevice => 1 << 26 | 1 << 21,
        Kind::Fifo => 1 << 25,
        Kind::Socket => 1 << 24,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let bits = special.iter().filter(|(posix, _)| meta.mode & posix != 0).map(|(_, go)| go);
    bits.fold(kind | (meta.mode & 0o777), |all, bit| all | bit)
}

/// The existing directory that an archive goes into.
fn directory(root: &Root, path: &str, container: &str) -> Result<PathBuf> {
    let at = absolute(path);
    let meta = root.stat(&at).map_err(looked(path, container))?;
    match meta.kind {
        Kind::Dir => Ok(at),
        _ => Err(EngineError::invalid("extraction point is not a directory")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_keep_what_their_end_means() {
        for (path, expected) in [
            ("", "/."),
            ("/", "/"),
            ("//", "/"),
            (".", "/."),
            ("/./", "/."),
            ("/..", "/"),
            ("a/b", "/a/b"),
            ("/a/../../b", "/b"),
            ("/a/", "/a/"),
            ("/a/.", "/a/."),
            ("a/./", "/a/."),
            ("/a.", "/a."),
        ] {
            assert_eq!(absolute(path).as_os_str(), expected, "{path}");
        }
    }
}
