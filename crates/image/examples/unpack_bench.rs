//! Times import and load of a tar against `tar -xf` of it, in the same run, three times.
//!
//! `cargo run -p wharf-image --example unpack_bench --release -- FILE.tar`
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a bench prints, runs a peer and may stop"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use wharf_base::db::Db;
use wharf_image::{ByteStream, ImageStore, ImportOptions, LoadOptions, Settings};
use wharf_spec::reference::Reference;

fn main() {
    let tar = PathBuf::from(std::env::args().nth(1).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for round in 0..3 {
        let dir = tempfile::tempdir_in(tar.parent().unwrap()).unwrap();
        let theirs = untar(&tar, dir.path());
        let (import, load) = runtime.block_on(ours(&tar, dir.path()));
        let ratio = |t: Duration| t.as_secs_f64() / theirs.as_secs_f64();
        println!(
            "round {round}: tar {theirs:.2?}, import {import:.2?} ({:.2}), load {load:.2?} ({:.2})",
            ratio(import),
            ratio(load)
        );
    }
}

fn untar(tar: &Path, dir: &Path) -> Duration {
    let out = dir.join("tar");
    std::fs::create_dir(&out).unwrap();
    let start = Instant::now();
    let mut command = std::process::Command::new("tar");
    assert!(command.arg("-xf").arg(tar).arg("-C").arg(&out).status().unwrap().success());
    start.elapsed()
}

async fn ours(tar: &Path, dir: &Path) -> (Duration, Duration) {
    let store = open(dir, "a");
    let start = Instant::now();
    let name = Some(Reference::parse("bench").unwrap());
    let options = ImportOptions { name, ..ImportOptions::default() };
    store.import(read(tar), options).await.unwrap();
    let import = start.elapsed();
    let archive = dir.join("saved.tar");
    let mut saved = store.save(&["bench".to_owned()]).unwrap();
    let mut file = tokio::fs::File::create(&archive).await.unwrap();
    while let Some(piece) = saved.next().await {
        tokio::io::AsyncWriteExt::write_all(&mut file, &piece.unwrap()).await.unwrap();
    }
    let other = open(dir, "b");
    let start = Instant::now();
    other.load(read(&archive), LoadOptions::default()).await.unwrap();
    (import, start.elapsed())
}

fn open(dir: &Path, name: &str) -> ImageStore {
    let db = Db::open(&dir.join(name).join("db")).unwrap();
    ImageStore::open(&dir.join(name), db, Settings::default()).unwrap()
}

fn read(path: &Path) -> ByteStream {
    let file = std::fs::File::open(path).unwrap();
    let pieces = futures_util::stream::unfold(tokio::fs::File::from_std(file), |mut file| async {
        let mut buffer = bytes::BytesMut::with_capacity(256 << 10);
        match tokio::io::AsyncReadExt::read_buf(&mut file, &mut buffer).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(Bytes::from(buffer)), file)),
            Err(error) => Some((Err(error), file)),
        }
    });
    Box::pin(pieces)
}
