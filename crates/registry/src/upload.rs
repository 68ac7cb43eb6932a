//! Blobs on their way in: written to a file and hashed as they arrive, resumable across connections and restarts.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedMutexGuard, mpsc};
use wharf_base::clock::Clock;
use wharf_base::db::{Batch, Db, DbError, Durability};
use wharf_base::sync::Mutex;
use wharf_spec::digest::{Algorithm, Digest, Hasher};

use crate::body::{Requested, next};
use crate::fault::{Code, Fault};
use crate::name::{Repository, UploadId};

const UPLOADS: &str = "registry-uploads";
/// Blocks between the connection and the disk.
const DEPTH: usize = 8;
/// How long a request waits for an earlier one on the same upload: the connection of that may be dead already.
const BUSY: Duration = Duration::from_secs(20);

/// All uploads.
pub(crate) struct Uploads {
    dir: PathBuf,
    db: Db,
    clock: Clock,
    all: Mutex<HashMap<UploadId, Arc<Upload>>>,
}

/// One upload.
pub(crate) struct Upload {
    pub(crate) id: UploadId,
    repository: Repository,
    pub(crate) path: PathBuf,
    state: Arc<tokio::sync::Mutex<Progress>>,
    /// Seconds since 1970.
    touched: Mutex<i64>,
}

/// What has arrived.
pub(crate) struct Progress {
    pub(crate) size: u64,
    /// `None` after a restart: then the file is read once more at the end.
    hasher: Option<(Algorithm, Hasher)>,
    /// It was completed or cancelled.
    gone: bool,
}

#[derive(Serialize, Deserialize)]
struct Row {
    repository: String,
    touched: i64,
}

/// The only request at work on an upload.
pub(crate) struct Turn {
    pub(crate) upload: Arc<Upload>,
    pub(crate) progress: OwnedMutexGuard<Progress>,
}

/// A complete file whose digest was verified.
pub(crate) struct Complete {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
}

impl Uploads {
    /// Finds what an earlier run left, and removes files of uploads that nobody knows.
    pub(crate) fn open(root: &Path, db: Db, clock: Clock) -> io::Result<Self> {
        let dir = root.join("uploads");
        wharf_base::fs::private_dir(&dir)?;
        let mut all = HashMap::new();
        for (key, row) in db.scan::<Row>(UPLOADS).map_err(io::Error::other)? {
            let known = UploadId::parse(&key).zip(Repository::parse(&row.repository));
            let Some((id, repository)) = known else { continue };
            let path = dir.join(id.as_str());
            let Ok(meta) = fs::metadata(&path) else { continue };
            let progress = Progress { size: meta.len(), hasher: None, gone: false };
            all.insert(id.clone(), Upload::new(id, repository, path, progress, row.touched));
        }
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(UploadId::parse);
            if !id.is_some_and(|id| all.contains_key(&id)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { dir, db, clock, all: Mutex::new(all) })
    }

    /// Begins an upload.
    pub(crate) fn begin(&self, repository: &Repository, how: Algorithm) -> Result<Turn, Fault> {
        let id = UploadId::random()?;
        let path = self.dir.join(id.as_str());
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let hasher = Some((how, Hasher::new(how)));
        let progress = Progress { size: 0, hasher, gone: false };
        let now = self.now();
        let upload = Upload::new(id.clone(), repository.clone(), path, progress, now);
        self.write_row(&upload, now)?;
        let turn = upload.state.clone().try_lock_owned();
        self.all.lock().insert(id, upload.clone());
        let progress = turn.map_err(|_| Fault::upload_unknown())?;
        Ok(Turn { upload, progress })
    }

    /// The upload, if it belongs to that repository, for one request alone.
    pub(crate) async fn turn(&self, repository: &Repository, id: &UploadId) -> Result<Turn, Fault> {
        let found = self.all.lock().get(id).filter(|u| u.repository == *repository).cloned();
        let upload = found.ok_or_else(Fault::upload_unknown)?;
        let lock = tokio::time::timeout(BUSY, upload.state.clone().lock_owned()).await;
        let progress = lock.map_err(|_| {
            Fault::new(Code::BlobUploadInvalid, "another request is at work on this upload")
                .with_status(http::StatusCode::CONFLICT)
        })?;
        if progress.gone {
            return Err(Fault::upload_unknown());
        }
        *upload.touched.lock() = self.now();
        Ok(Turn { upload, progress })
    }

    /// Forgets an upload. Its file is removed, if it still is where uploads are.
    pub(crate) fn end(&self, mut turn: Turn) -> Result<(), Fault> {
        turn.progress.gone = true;
        self.all.lock().remove(&turn.upload.id);
        let mut batch = Batch::new();
        batch.delete(UPLOADS, turn.upload.id.as_str());
        self.db.write(batch, Durability::Process)?;
        match fs::remove_file(&turn.upload.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Ends every upload that rests since before `then` (seconds since 1970).
    pub(crate) fn expire(&self, then: i64) {
        let old: Vec<Arc<Upload>> =
            self.all.lock().values().filter(|u| *u.touched.lock() <= then).cloned().collect();
        for upload in old {
            // One that is being worked on does not rest.
            let Ok(progress) = upload.state.clone().try_lock_owned() else { continue };
            let id = upload.id.to_string();
            if self.end(Turn { upload, progress }).is_ok() {
                tracing::info!(upload = id, "abandoned upload removed");
            }
        }
    }

    /// When the upload that rests longest was last touched.
    pub(crate) fn oldest(&self) -> Option<i64> {
        self.all.lock().values().map(|u| *u.touched.lock()).min()
    }

    fn now(&self) -> i64 {
        self.clock.unix_nanos() / 1_000_000_000
    }

    fn write_row(&self, upload: &Upload, now: i64) -> Result<(), DbError> {
        let row = Row { repository: upload.repository.to_string(), touched: now };
        let mut batch = Batch::new();
        batch.put(UPLOADS, upload.id.as_str(), &row)?;
        self.db.write(batch, Durability::Process)
    }
}

impl Upload {
    fn new(
        id: UploadId,
        repository: Repository,
        path: PathBuf,
        progress: Progress,
        touched: i64,
    ) -> Arc<Self> {
        let state = Arc::new(tokio::sync::Mutex::new(progress));
        Arc::new(Self { id, repository, path, state, touched: Mutex::new(touched) })
    }
}

impl Turn {
    /// Adds what `body` brings. If it breaks off, what came is kept, and the error says why.
    pub(crate) async fn append(self, body: Requested, stall: Duration) -> (Self, io::Result<()>) {
        self.append_telling(body, stall, |_| ()).await
    }

    /// The same, telling how many bytes there are now.
    pub(crate) async fn append_telling(
        self,
        mut body: Requested,
        stall: Duration,
        tell: impl Fn(u64) + Send + 'static,
    ) -> (Self, io::Result<()>) {
        // Nothing to write: no thread for it.
        let Some(first) = next(&mut body, stall).await else { return (self, Ok(())) };
        let (sender, blocks) = mpsc::channel(DEPTH);
        let Self { upload, progress } = self;
        let path = upload.path.clone();
        // The writer holds the turn, so that it is not given away while it writes, even if the client goes.
        let work = tokio::task::spawn_blocking(move || write(progress, &path, blocks, tell));
        let mut broken = None;
        let mut block = Some(first);
        while let Some(result) = block {
            match result {
                // The writer's own error is the better one.
                Ok(bytes) => {
                    if sender.send(bytes).await.is_err() {
                        break;
                    }
                }
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
            block = next(&mut body, stall).await;
        }
        drop(sender);
        match work.await {
            Ok((progress, written)) => {
                (Self { upload, progress }, written.and(broken.map_or(Ok(()), Err)))
            }
            Err(error) => {
                let progress = upload.state.clone().lock_owned().await;
                (Self { upload, progress }, Err(io::Error::other(error)))
            }
        }
    }

    /// Checks that what arrived has `digest`. Only then may it become a blob.
    pub(crate) async fn verify(&mut self, digest: &Digest) -> Result<Complete, Fault> {
        let algorithm = digest.algorithm();
        let hasher = self.progress.hasher.take().filter(|(how, _)| *how == algorithm);
        let path = self.upload.path.clone();
        let found = match hasher {
            Some((_, hasher)) => hasher.finish(),
            None => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || hash(&path, algorithm)).await??
            }
        };
        if found != *digest {
            let text = format!("what was uploaded has digest {found}, not {digest}");
            let detail = serde_json::json!({ "digest": digest, "found": found });
            return Err(Fault::new(Code::DigestInvalid, text).with_detail(detail));
        }
        Ok(Complete { path, size: self.progress.size })
    }
}

type Written = (OwnedMutexGuard<Progress>, io::Result<()>);

fn write(
    mut progress: OwnedMutexGuard<Progress>,
    path: &Path,
    mut blocks: mpsc::Receiver<Bytes>,
    tell: impl Fn(u64),
) -> Written {
    let result = open_at(path, progress.size).and_then(|mut file| {
        while let Some(bytes) = blocks.blocking_recv() {
            file.write_all(&bytes).inspect_err(|_| {
                // Half a block was not hashed. If even this fails, the digest will not fit.
                drop(file.set_len(progress.size));
            })?;
            if let Some((_, hasher)) = &mut progress.hasher {
                hasher.update(&bytes);
            }
            progress.size += bytes.len() as u64;
            tell(progress.size);
        }
        Ok(())
    });
    (progress, result)
}

fn open_at(path: &Path, size: u64) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    // A restart may have found more than a block that was acknowledged. Not otherwise: ext4 writes a file that was
    // cut to nothing to the disk when it is closed (auto_da_alloc), and whoever closes it waits for all of it.
    if file.metadata()?.len() != size {
        file.set_len(size)?;
    }
    file.seek(SeekFrom::Start(size))?;
    Ok(file)
}

fn hash(path: &Path, algorithm: Algorithm) -> io::Result<Digest> {
    let (mut file, mut hasher) = (File::open(path)?, Hasher::new(algorithm));
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::body::requested;

    fn open(root: &Path) -> Uploads {
        let db = Db::open(&root.join("db")).unwrap();
        Uploads::open(root, db, Clock::fixed(Duration::from_secs(1000))).unwrap()
    }

    fn body(text: &'static str) -> Requested {
        requested(Full::new(Bytes::from_static(text.as_bytes())))
    }

    const STALL: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn an_upload_goes_on_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let repository = Repository::parse("a/b").unwrap();
        let id = {
            let uploads = open(root.path());
            let turn = uploads.begin(&repository, Algorithm::Sha256).unwrap();
            let (turn, written) = turn.append(body("hello "), STALL).await;
            written.unwrap();
            turn.upload.id.clone()
        };
        fs::write(root.path().join("uploads/stray"), "").unwrap();
        let uploads = open(root.path());
        assert!(!root.path().join("uploads/stray").exists());
        let other = Repository::parse("a").unwrap();
        assert!(uploads.turn(&other, &id).await.is_err(), "it belongs to another repository");
        let turn = uploads.turn(&repository, &id).await.unwrap();
        assert_eq!(turn.progress.size, 6);
        let (mut turn, written) = turn.append(body("world"), STALL).await;
        written.unwrap();
        let wrong = turn.verify(&Digest::sha256(b"hello")).await;
        assert_eq!(wrong.err().unwrap().code(), Code::DigestInvalid);
        let complete = turn.verify(&Digest::sha256(b"hello world")).await.unwrap();
        assert_eq!(
            (complete.size, fs::read(complete.path).unwrap()),
            (11, b"hello world".to_vec())
        );
        uploads.end(turn).unwrap();
        assert!(uploads.turn(&repository, &id).await.is_err());
        assert_eq!(fs::read_dir(root.path().join("uploads")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_rests_too_long_goes() {
        let root = tempfile::tempdir().unwrap();
        let uploads = open(root.path());
        let repository = Repository::parse("a").unwrap();
        let busy = uploads.begin(&repository, Algorithm::Sha256).unwrap();
        let idle = uploads.begin(&repository, Algorithm::Sha256).unwrap().upload.id.clone();
        assert_eq!(uploads.oldest(), Some(1000));
        uploads.expire(999);
        assert!(uploads.turn(&repository, &idle).await.is_ok());
        uploads.expire(1000);
        assert!(uploads.turn(&repository, &idle).await.is_err());
        drop(busy);
        assert!(uploads.oldest().is_some(), "work protects");
    }
}
