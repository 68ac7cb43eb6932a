//! Log files that a crash tore or somebody edited: reading ends, and never panics.
#![no_main]
use libfuzzer_sys::fuzz_target;
use wharf_keeper::log::{LogFormat, LogQuery, LogReader, LogRender};

fuzz_target!(|input: (u8, Option<i64>, Option<i64>, Option<u64>, &[u8])| {
    let (choice, since, until, tail, bytes) = input;
    let format = if choice & 1 == 0 { LogFormat::JsonFile } else { LogFormat::Local };
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let path = dir.path().join("log");
    std::fs::write(&path, bytes).expect("write the log");
    let query = LogQuery { stdout: choice & 2 == 0, stderr: choice & 4 == 0, since, until, tail };
    let Ok(mut reader) = LogReader::open(path, format, query) else { return };
    let how =
        LogRender { framed: choice & 8 == 0, timestamps: choice & 16 == 0, details: choice & 32 == 0 };
    let mut out = Vec::new();
    for _ in 0..=bytes.len() {
        out.clear();
        match reader.fill(&mut out, 1024, how) {
            Ok(wharf_keeper::log::Progress::More) => (),
            _ => return,
        }
    }
    panic!("reading {} bytes does not end", bytes.len());
});
