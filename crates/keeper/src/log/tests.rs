//! Writer and reader against each other, in both formats.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use super::file::squeeze_for_test;
use super::writer::{LONGEST_TEXT, LogWriter};
use super::*;

const FORMATS: [LogFormat; 2] = [LogFormat::JsonFile, LogFormat::Local];

fn config(dir: &Path, format: LogFormat) -> LogConfig {
    LogConfig {
        format,
        path: dir.join("log"),
        max_size: 0,
        max_files: 1,
        compress: false,
        attrs: Vec::new(),
        mode: LogMode::Blocking,
    }
}

fn reader(config: &LogConfig, query: LogQuery) -> LogReader {
    LogReader::open(config.path.clone(), config.format, query).unwrap()
}

fn rest(reader: &mut LogReader) -> String {
    let mut out = Vec::new();
    while reader.fill(&mut out, usize::MAX, LogRender::default()).unwrap() == Progress::More {}
    String::from_utf8(out).unwrap()
}

fn all(config: &LogConfig, query: LogQuery) -> String {
    rest(&mut reader(config, query))
}

fn tail(n: u64) -> LogQuery {
    LogQuery { tail: Some(n), ..LogQuery::default() }
}

fn in_both(test: impl Fn(&Path, LogConfig)) {
    for format in FORMATS {
        let dir = tempfile::tempdir().unwrap();
        test(dir.path(), config(dir.path(), format));
    }
}

#[test]
fn lines_come_back_however_they_were_read() {
    let text = "one\n\ntwo with \"quotes\" and ü\nunfinished";
    in_both(|_, config| {
        for step in [1, 2, 3, 7, 100] {
            drop(fs::remove_file(&config.path));
            let mut writer = LogWriter::open(&config).unwrap();
            for part in text.as_bytes().chunks(step) {
                writer.write(Stream::Stdout, part, 5);
            }
            assert_eq!(all(&config, LogQuery::default()), &text[..text.rfind('\n').unwrap() + 1]);
            writer.finish(Stream::Stdout, 6);
            assert_eq!(all(&config, LogQuery::default()), text, "{step}");
        }
    });
}

#[test]
fn long_lines_become_pieces_of_one_time() {
    in_both(|_, config| {
        let text = format!("{}\nnext\n", "ü".repeat(LONGEST_TEXT * 2));
        for step in [1000, LONGEST_TEXT, 1 << 20] {
            drop(fs::remove_file(&config.path));
            let mut writer = LogWriter::open(&config).unwrap();
            for part in text.as_bytes().chunks(step) {
                writer.write(Stream::Stderr, part, 5);
            }
            assert_eq!(all(&config, LogQuery::default()), text);
            let mut reader = reader(&config, LogQuery::default());
            let mut entries = Vec::new();
            while let Some(entry) = reader.next_entry().unwrap() {
                entries.push(entry);
            }
            let lens: Vec<usize> = entries.iter().map(|e| e.text.len()).collect();
            assert_eq!(lens, [16384, 16384, 16384, 16384, 1, 5]);
            assert!(entries[..5].iter().all(|e| e.at == 5 && e.stream == Stream::Stderr));
            assert_eq!(entries[5].at, 6);
        }
    });
}

#[test]
fn streams_and_times_are_selected() {
    in_both(|_, config| {
        let mut writer = LogWriter::open(&config).unwrap();
        for n in 1..=6 {
            let stream = if n % 2 == 0 { Stream::Stderr } else { Stream::Stdout };
            writer.write(stream, format!("{n}\n").as_bytes(), n * 10);
        }
        let base = LogQuery::default();
        let check = |query, want: &str| assert_eq!(all(&config, query), want);
        check(LogQuery { stdout: false, ..base }, "2\n4\n6\n");
        check(LogQuery { since: Some(40), ..base }, "4\n5\n6\n");
        check(LogQuery { until: Some(30), ..base }, "1\n2\n3\n");
        check(LogQuery { since: Some(15), until: Some(45), stderr: false, ..base }, "3\n");
        check(LogQuery { tail: Some(3), stdout: false, ..base }, "4\n6\n");
        check(tail(0), "");
        check(tail(1), "6\n");
        check(tail(100), "1\n2\n3\n4\n5\n6\n");
    });
}

#[test]
fn rotation_keeps_so_many_files_and_tails_reach_across_them() {
    in_both(|dir, mut config| {
        (config.max_size, config.max_files) = (500, 4);
        let mut writer = LogWriter::open(&config).unwrap();
        for n in 0..100 {
            writer.write(Stream::Stdout, format!("line {n}\n").as_bytes(), n);
        }
        assert_eq!(fs::read_dir(dir).unwrap().count(), 4);
        let got = all(&config, LogQuery::default());
        let first: usize = got.lines().next().unwrap()[5..].parse().unwrap();
        let want: String = (first..100).map(|n| format!("line {n}\n")).collect();
        assert!(first > 0 && got == want, "{got}");
        for _ in 0..3 {
            for n in 0..=(100 - first) {
                let want: String = (100 - n..100).map(|n| format!("line {n}\n")).collect();
                assert_eq!(all(&config, tail(n as u64)), want);
            }
            // The same with the two oldest compressed, one after the other.
            let plain = (1..4).rev().find(|n| dir.join(format!("log.{n}")).exists()).unwrap();
            squeeze_for_test(&config.path, plain, config.format);
            assert_eq!(all(&config, LogQuery::default()), want);
        }
    });
}

#[test]
fn a_reader_follows_through_rotation() {
    in_both(|_, mut config| {
        (config.max_size, config.max_files) = (1000, 3);
        let mut writer = LogWriter::open(&config).unwrap();
        let mut reader = reader(&config, LogQuery::default());
        for n in 0..300 {
            let line = format!("line {n}\n");
            writer.write(Stream::Stdout, line.as_bytes(), n);
            // Sometimes a file behind, sometimes in the middle of one.
            if n % 7 == 0 || n == 299 {
                let want: String = (if n == 299 { 295 } else { (n - 6).max(0) }..=n)
                    .map(|n| format!("line {n}\n"))
                    .collect();
                assert_eq!(rest(&mut reader), want);
            }
        }
    });
}

#[test]
fn a_reader_finds_its_place_when_its_file_was_compressed_or_deleted() {
    in_both(|_, mut config| {
        // Some 14 records in a file of either format.
        config.max_size = if config.format == LogFormat::Local { 500 } else { 1000 };
        config.max_files = 3;
        let mut writer = LogWriter::open(&config).unwrap();
        let mut reader = reader(&config, LogQuery::default());
        let mut n = 0;
        let mut put = |writer: &mut LogWriter, count: i64| {
            for _ in 0..count {
                writer.write(Stream::Stdout, format!("line {n}\n").as_bytes(), n);
                n += 1;
            }
        };
        put(&mut writer, 5);
        assert_eq!(rest(&mut reader).lines().count(), 5);
        put(&mut writer, 15);
        squeeze_for_test(&config.path, 1, config.format);
        let want: String = (5..20).map(|n| format!("line {n}\n")).collect();
        assert_eq!(rest(&mut reader), want);
        put(&mut writer, 200);
        let got = rest(&mut reader);
        assert!(got.ends_with("line 219\n"), "{got}");
        let numbers: Vec<i64> = got.lines().map(|l| l[5..].parse().unwrap()).collect();
        // What was deleted before it was read is lost; the rest is there once and in order.
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    });
}

#[test]
fn a_record_that_a_crash_tore_is_dropped() {
    in_both(|_, config| {
        let mut writer = LogWriter::open(&config).unwrap();
        writer.write(Stream::Stdout, b"whole\nlost\n", 1);
        let len = fs::metadata(&config.path).unwrap().len();
        for cut in 1..20 {
            fs::OpenOptions::new()
                .write(true)
                .open(&config.path)
                .unwrap()
                .set_len(len - cut)
                .unwrap();
            assert_eq!(all(&config, LogQuery::default()), "whole\n");
            assert_eq!(
                all(&config, tail(1)),
                if config.format == LogFormat::JsonFile { "whole\n" } else { "" }
            );
            let mut writer = LogWriter::open(&config).unwrap();
            assert_eq!(all(&config, tail(1)), "whole\n");
            writer.write(Stream::Stdout, b"lost\n", 2);
            assert_eq!(all(&config, LogQuery::default()), "whole\nlost\n");
        }
    });
}

#[test]
fn damage_does_not_hide_other_files() {
    in_both(|_, mut config| {
        (config.max_size, config.max_files) = (200, 2);
        let mut writer = LogWriter::open(&config).unwrap();
        for n in 0..4 {
            writer.write(Stream::Stdout, format!("{}{n}\n", "x".repeat(150)).as_bytes(), n);
        }
        let old = config.path.with_file_name("log.1");
        OpenOptions::new().append(true).open(old).unwrap().write_all(&[0; 5000]).unwrap();
        assert!(all(&config, LogQuery::default()).ends_with("x3\n"));
    });
}

#[test]
fn records_are_rendered_for_clients() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), LogFormat::JsonFile);
    config.attrs = vec![("z".into(), "a b/ü".into()), ("a".into(), "1,2=3".into())];
    let mut writer = LogWriter::open(&config).unwrap();
    writer.write(Stream::Stderr, b"hi\n", 1_500_000_000);
    let how = LogRender { framed: true, timestamps: true, details: true };
    let mut out = Vec::new();
    reader(&config, LogQuery::default()).fill(&mut out, usize::MAX, how).unwrap();
    let text = b"1970-01-01T00:00:01.500000000Z a=1%2C2%3D3,z=a+b%2F%C3%BC hi\n";
    assert_eq!(out[..8], [2, 0, 0, 0, 0, 0, 0, u8::try_from(text.len()).unwrap()]);
    assert_eq!(&out[8..], text, "{}", String::from_utf8_lossy(&out));
}

#[test]
fn a_missing_log_is_empty_and_may_appear() {
    in_both(|_, config| {
        let mut reader = reader(&config, LogQuery::default());
        assert_eq!(rest(&mut reader), "");
        LogWriter::open(&config).unwrap().write(Stream::Stdout, b"now\n", 1);
        assert_eq!(rest(&mut reader), "now\n");
    });
}

#[test]
fn a_full_disk_costs_lines_but_tears_none() {
    in_both(|_, config| {
        // A limit on file size stands in for a full disk: the kernel writes a part and then refuses.
        let mut writer = LogWriter::open(&config).unwrap();
        writer.write(Stream::Stdout, b"first\n", 1);
        fs::remove_file(&config.path).unwrap();
        std::os::unix::fs::symlink("/dev/full", &config.path).unwrap();
        let mut full = LogWriter::open(&config).unwrap();
        full.write(Stream::Stdout, b"a\nb\n", 2);
        assert_eq!(full.trouble().lost, 2);
        assert!(full.trouble().error.as_ref().unwrap().contains("No space left"));
    });
}

#[test]
fn none_keeps_nothing_and_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), LogFormat::None);
    LogWriter::open(&config).unwrap().write(Stream::Stdout, b"x\n", 1);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let e = LogReader::open(config.path, config.format, LogQuery::default()).unwrap_err();
    assert_eq!(e.to_string(), "configured logging driver does not support reading");
}
