//! Trees that clients send: any packets in any order are taken or refused, and touch nothing outside.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::path::Path;
use wharf_buildkit::take_packets;
use wharf_sys::root::Root;

/// What a packet says: kind, path, mode, link target, size.
type Entry<'a> = (u8, &'a str, u32, &'a str, u16);

/// Packets that read, so that their meaning is reached; or the bytes as they are.
fn stream(raw: bool, entries: &[Entry<'_>], bytes: &[u8]) -> Vec<u8> {
    if raw {
        return bytes.to_vec();
    }
    let mut out = Vec::new();
    for (kind, path, mode, link, number) in entries {
        let mut packet = Vec::new();
        // STAT, REQ, DATA, FIN, ERR as fsutil numbers them.
        varint(&mut packet, 1 << 3);
        varint(&mut packet, u64::from(kind % 5));
        if kind % 5 == 0 && !path.is_empty() {
            let mut stat = Vec::new();
            text(&mut stat, 1, path.as_bytes());
            varint(&mut stat, 2 << 3);
            varint(&mut stat, u64::from(*mode));
            varint(&mut stat, 5 << 3);
            varint(&mut stat, u64::from(*number));
            text(&mut stat, 7, link.as_bytes());
            text(&mut packet, 2, &stat);
        }
        varint(&mut packet, 3 << 3);
        varint(&mut packet, u64::from(number % 16));
        if kind % 5 == 2 {
            text(&mut packet, 4, link.as_bytes());
        }
        varint(&mut out, packet.len() as u64);
        out.extend_from_slice(&packet);
    }
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn text(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> =
        fs::read_dir(dir).expect("list").map(|e| e.expect("an entry").file_name()).collect();
    names.sort();
    names
}

fuzz_target!(|input: (bool, Vec<Entry<'_>>, &[u8])| {
    let (raw, entries, bytes) = input;
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let (into, base) = (dir.path().join("into"), dir.path().join("base"));
    for path in [&into, &base] {
        fs::create_dir(path).expect("make a directory");
    }
    fs::write(base.join("a"), "kept").expect("write");
    let open = |path: &Path| Root::open(path).expect("open");
    // Refusals are as good as trees.
    drop(take_packets(&stream(raw, &entries, bytes), open(&into), Some(open(&base))));
    assert_eq!(names(dir.path()), ["base", "into"], "something was made outside");
    assert_eq!(names(&base), ["a"], "the older tree changed");
    assert_eq!(fs::read(base.join("a")).expect("read"), b"kept", "the older tree's file changed");
});
