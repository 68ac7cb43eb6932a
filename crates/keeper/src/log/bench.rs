//! How fast logs are written and read. Prints; `cargo xtask bench` compares whole containers with Docker's.

use std::fs::File;
use std::io::{Read as _, Write as _};

use wharf_base::clock::Clock;
use wharf_sys::scratch;

use super::writer::LogWriter;
use super::*;

const LINES: usize = 2_000_000;

#[test]
#[ignore = "a measurement: run it with --release --ignored --nocapture"]
fn throughput() {
    for format in [LogFormat::JsonFile, LogFormat::Local] {
        for block in [32 << 10, 64 << 10, 128 << 10, 256 << 10] {
            measure(format, block);
        }
    }
}

fn measure(format: LogFormat, block: usize) {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig {
        format,
        path: dir.path().join("log"),
        max_size: 20 << 20,
        max_files: 100,
        compress: false,
        attrs: Vec::new(),
        mode: LogMode::Blocking,
    };
    let mut writer = LogWriter::open(&config).unwrap();
    let (read, write) = scratch::pipe().unwrap();
    scratch::grow_pipe(&write, 1 << 20).unwrap();
    let clock = Clock::system();
    let start = clock.instant();
    let container = std::thread::spawn(move || {
        let line = format!("{}\n", "x".repeat(99)).repeat(640);
        let mut write = File::from(write);
        for _ in 0..LINES / 640 {
            write.write_all(line.as_bytes()).unwrap();
        }
    });
    let mut buffer = vec![0; block];
    let mut read = File::from(read);
    let mut total = 0;
    loop {
        let n = read.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        total += n;
        writer.write(Stream::Stdout, &buffer[..n], clock.unix_nanos());
    }
    container.join().unwrap();
    let wrote = rate(total, (clock.instant() - start).as_secs_f64());
    let start = clock.instant();
    let mut reader = LogReader::open(config.path.clone(), format, LogQuery::default()).unwrap();
    let (mut out, mut got) = (Vec::new(), 0);
    let how = LogRender { framed: true, ..LogRender::default() };
    loop {
        let progress = reader.fill(&mut out, 256 << 10, how).unwrap();
        got += out.len();
        out.clear();
        if progress != Progress::More {
            break;
        }
    }
    assert_eq!(got, total + total / 100 * 8);
    let read = rate(total, (clock.instant() - start).as_secs_f64());
    println!("{format:?}, {} KiB blocks: wrote {wrote} MB/s, read {read} MB/s", block >> 10);
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate for people"
)]
fn rate(bytes: usize, seconds: f64) -> u64 {
    (bytes as f64 / 1e6 / seconds) as u64
}
