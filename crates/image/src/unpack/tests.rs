use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::*;

/// A tar written by hand, so that it can be wrong.
#[derive(Default, Clone)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn raw(mut self, name: &str, kind: u8, link: &str, mode: u32, body: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len().min(100)]
            .copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(mode);
        header.set_size(body.len() as u64);
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.as_mut_bytes()[156] = kind;
        if kind == b'3' {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, body: &[u8]) -> Self {
        self.raw(name, b'0', "", 0o644, body)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.raw(name, b'5', "", 0o755, b"")
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.raw(name, b'2', target, 0o777, b"")
    }

    fn hard(self, name: &str, target: &str) -> Self {
        self.raw(name, b'1', target, 0o644, b"")
    }

    fn pax(self, key: &str, value: &[u8]) -> Self {
        let mut length = key.len() + value.len() + 3;
        length += length.to_string().len();
        if length.to_string().len() + key.len() + value.len() + 3 != length {
            length += 1;
        }
        let mut body = format!("{length} {key}=").into_bytes();
        body.extend_from_slice(value);
        body.push(b'\n');
        assert_eq!(body.len(), length);
        self.raw("pax", b'x', "", 0o644, &body)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub(crate) fn how() -> How {
    How { threads: 2, limits: UnpackLimits { keep_free: 0, ..UnpackLimits::default() } }
}

struct World {
    _dir: tempfile::TempDir,
    root: PathBuf,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b/root");
        fs::create_dir_all(&root).unwrap();
        Self { _dir: dir, root }
    }

    fn unpack(&self, tar: &[u8]) -> Result<Unpacked, UnpackError> {
        unpack(tar, &self.root, &how())
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap()
    }

    /// Everything outside the root: only the two directories above it.
    fn assert_nothing_escaped(&self) {
        let above = self.root.parent().unwrap();
        let names = |p: &Path| fs::read_dir(p).unwrap().count();
        assert_eq!(names(above), 1);
        assert_eq!(names(above.parent().unwrap()), 1);
        assert!(!Path::new("/wharf-escaped").exists());
    }
}

fn ok(tar: Tar) -> World {
    let world = World::new();
    let bytes = tar.end();
    let unpacked = world.unpack(&bytes).unwrap();
    assert_eq!(unpacked.diff_id, Digest::sha256(&bytes));
    world.assert_nothing_escaped();
    world
}

fn refused(tar: Tar) -> UnpackError {
    let world = World::new();
    let error = world.unpack(&tar.end()).unwrap_err();
    world.assert_nothing_escaped();
    error
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../wharf-escaped", "a/../../wharf-escaped", "/../wharf-escaped", "..", "a/../.."]
    {
        let error = refused(Tar::default().file(name, b"x"));
        assert!(matches!(error, UnpackError::Escape(_)), "{name}: {error}");
    }
    let error = refused(Tar::default().pax("path", b"../../wharf-escaped").file("fine", b"x"));
    assert!(matches!(error, UnpackError::Escape(_)));
    let error = refused(Tar::default().raw("././@LongLink", b'L', "", 0, b"../x\0").file("f", b""));
    assert!(matches!(error, UnpackError::Escape(_)));
}

#[test]
fn absolute_and_dotted_names_land_inside() {
    let world = ok(Tar::default().file("/wharf-escaped", b"1").file("./a/./b//../c", b"2"));
    assert_eq!(world.text("wharf-escaped"), "1");
    assert_eq!(world.text("a/c"), "2");
}

#[test]
fn symlinks_do_not_lead_files_out() {
    for target in ["/", "../../..", "/../../../..", "../../../../../../../.."] {
        let world = ok(Tar::default().link("out", target).file("out/wharf-escaped", b"x"));
        assert_eq!(world.text("wharf-escaped"), "x", "{target}");
    }
    let error = refused(Tar::default().link("out", "/nowhere").file("out/x", b""));
    assert!(matches!(error, UnpackError::File { .. }));
    let chain = Tar::default().link("a", "b").link("b", "c").link("c", "/").file("a/f", b"x");
    assert_eq!(ok(chain).text("f"), "x");
    let ring = Tar::default().link("a", "b").link("b", "a").file("a/f", b"x");
    assert!(matches!(refused(ring), UnpackError::File { .. }));
}

#[test]
fn a_file_over_a_symlink_replaces_the_symlink() {
    let world = ok(Tar::default().file("kept", b"1").link("l", "kept").file("l", b"2"));
    assert_eq!((world.text("kept"), world.text("l")), ("1".into(), "2".into()));
    assert!(fs::symlink_metadata(world.root.join("l")).unwrap().is_file());
}

#[test]
fn hard_links_stay_inside() {
    let error = refused(Tar::default().hard("l", "../../../etc/passwd"));
    assert!(matches!(error, UnpackError::Escape(_)));
    let error = refused(Tar::default().hard("l", "/etc/passwd"));
    assert!(matches!(error, UnpackError::File { action: "link", .. } | UnpackError::File { .. }));
    let through = Tar::default().link("out", "/etc").hard("l", "out/passwd");
    assert!(matches!(refused(through), UnpackError::File { .. }));
    let world = ok(Tar::default().file("f", b"x").hard("d/l", "/f").link("s", "f").hard("t", "s"));
    let ino = |p| fs::symlink_metadata(world.root.join(p)).unwrap().ino();
    assert_eq!(ino("f"), ino("d/l"));
    assert_eq!(ino("s"), ino("t"));
}

#[test]
fn later_entries_win() {
    let world = ok(Tar::default().file("x", b"first").file("x", b"second"));
    assert_eq!(world.text("x"), "second");
    let world = ok(Tar::default().dir("d").file("d/f", b"1").file("d", b"now a file"));
    assert_eq!(world.text("d"), "now a file");
    let world = ok(Tar::default().file("d", b"a file").dir("d").file("d/f", b"2"));
    assert_eq!(world.text("d/f"), "2");
    let world = ok(Tar::default().dir("real").dir("d").link("d", "real").file("d/f", b"3"));
    assert_eq!(world.text("real/f"), "3");
    // Two ways to one name, through a symlink.
    let world = ok(Tar::default().dir("r").link("l", "r").file("l/f", b"4").file("r/f", b"5"));
    assert_eq!(world.text("r/f"), "5");
    let world = ok(Tar::default().file("f", b"old").hard("h", "f").file("f", b"new"));
    assert_eq!((world.text("h"), world.text("f")), ("old".into(), "new".into()));
    let world = ok(Tar::default().file("f", b"x").hard("h", "f").hard("h", "f"));
    assert_eq!(world.text("h"), "x");
    let world = ok(Tar::default().dir("d").raw("d", b'5', "", 0o2700, b""));
    assert_eq!(fs::metadata(world.root.join("d")).unwrap().mode() & 0o7777, 0o2700);
}

fn is_whiteout(path: &Path) -> bool {
    let meta = fs::symlink_metadata(path).unwrap();
    meta.file_type().is_char_device() && meta.rdev() == 0
}

fn is_opaque(world: &World, path: &str) -> bool {
    let root = Root::open(&world.root).unwrap();
    let key = OsStr::new("trusted.overlay.opaque");
    root.top().unwrap().xattr(OsStr::new(path), key).unwrap().is_some_and(|v| v == b"y")
}

#[test]
fn whiteouts_become_what_overlayfs_reads() {
    let world =
        ok(Tar::default().file("d/.wh.gone", b"").file(".wh.top", b"").file("o/.wh..wh..opq", b""));
    assert!(is_whiteout(&world.root.join("d/gone")));
    assert!(is_whiteout(&world.root.join("top")));
    assert!(is_opaque(&world, "o"));
    assert!(!world.root.join("o/.wh..wh..opq").exists());
    assert!(!ok(Tar::default().file(".wh..wh.plnk", b"")).root.join(".wh..wh.plnk").exists());
    for name in [".wh...", ".wh..", "d/.wh...", ".wh."] {
        assert!(
            matches!(refused(Tar::default().file(name, b"")), UnpackError::Escape(_)),
            "{name}"
        );
    }
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let world = ok(Tar::default().file("f", b"mine").file(".wh.f", b""));
    assert_eq!(world.text("f"), "mine");
    let world = ok(Tar::default().file(".wh.f", b"").file("f", b"mine"));
    assert_eq!(world.text("f"), "mine");
    for tar in [
        Tar::default().file(".wh.d", b"").dir("d").file("d/f", b"mine"),
        Tar::default().dir("d").file("d/f", b"mine").file(".wh.d", b""),
        Tar::default().file(".wh.d", b"").file("d/f", b"mine"),
    ] {
        let world = ok(tar);
        assert_eq!(world.text("d/f"), "mine");
        assert!(is_opaque(&world, "d"));
    }
}

#[test]
fn attributes_arrive() {
    let world = ok(Tar::default()
        .raw("suid", b'0', "", 0o4755, b"x")
        .raw("sticky", b'5', "", 0o1777, b"")
        .raw("null", b'3', "", 0o666, b"")
        .raw("pipe", b'6', "", 0o622, b"")
        .pax("mtime", b"1234567890.123456789")
        .pax("uid", b"70000")
        .pax("SCHILY.xattr.user.k", b"v\0w")
        .pax("SCHILY.xattr.trusted.overlay.redirect", b"/etc")
        .file("rich", b"x"));
    let meta = |p: &str| fs::symlink_metadata(world.root.join(p)).unwrap();
    assert_eq!(meta("suid").permissions().mode() & 0o7777, 0o4755);
    assert_eq!(meta("sticky").permissions().mode() & 0o7777, 0o1777);
    assert_eq!(meta("null").permissions().mode() & 0o7777, 0o666);
    assert_eq!(meta("null").rdev(), 0x103);
    assert!(meta("pipe").file_type().is_fifo());
    assert_eq!(meta("pipe").permissions().mode() & 0o7777, 0o622);
    assert_eq!((meta("rich").mtime(), meta("rich").mtime_nsec()), (1_234_567_890, 123_456_789));
    assert_eq!(meta("rich").uid(), 70000);
    let top = Root::open(&world.root).unwrap().top().unwrap();
    let xattr = |key: &str| top.xattr(OsStr::new("rich"), OsStr::new(key)).unwrap();
    assert_eq!(xattr("user.k").unwrap(), b"v\0w");
    assert_eq!(xattr("trusted.overlay.redirect"), None);
}

#[test]
fn file_capabilities_survive_a_change_of_owner() {
    // cap_net_bind_service=ep, version 2.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let world = ok(Tar::default()
        .pax("uid", b"5")
        .pax("SCHILY.xattr.security.capability", &capability)
        .file("bin", b"x"));
    let top = Root::open(&world.root).unwrap().top().unwrap();
    let found = top.xattr(OsStr::new("bin"), OsStr::new("security.capability")).unwrap();
    assert_eq!(found.unwrap(), capability);
}

#[test]
fn long_names_and_deep_trees_fit() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let world = ok(Tar::default().pax("path", long.as_bytes()).file("short", b"x"));
    assert_eq!(world.text(&long), "x");
    let deep = "d/".repeat(1500) + "f";
    let world = ok(Tar::default().pax("path", deep.as_bytes()).file("s", b"x"));
    assert!(world.root.join("d/d/d").is_dir());
    let longer = "d/".repeat(3000) + "f";
    assert!(matches!(
        refused(Tar::default().pax("path", longer.as_bytes()).file("s", b"x")),
        UnpackError::File { .. }
    ));
}

#[test]
fn bounds_hold() {
    let limits = |bytes, entries, keep_free| How {
        threads: 1,
        limits: UnpackLimits { bytes, entries, keep_free },
    };
    let world = World::new();
    let tar = Tar::default().file("a", &[0; 600]).file("b", &[0; 600]).end();
    let error = unpack(&tar[..], &world.root, &limits(1000, 10, 0)).unwrap_err();
    assert!(matches!(error, UnpackError::Limit { what: "bytes", .. }));
    let world = World::new();
    let error = unpack(&tar[..], &world.root, &limits(10_000, 1, 0)).unwrap_err();
    assert!(matches!(error, UnpackError::Limit { what: "entries", .. }));
    let world = World::new();
    let error = unpack(&tar[..], &world.root, &limits(10_000, 10, u64::MAX)).unwrap_err();
    assert!(matches!(error, UnpackError::Space { .. }));
}

#[test]
fn a_header_that_declares_a_huge_file_is_refused_before_it_is_read() {
    let mut header = tar::Header::new_gnu();
    header.set_path("bomb").unwrap();
    header.set_size(1 << 60);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(&[0; 512]);
    let error = World::new().unpack(&bytes).unwrap_err();
    assert!(matches!(error, UnpackError::Limit { what: "bytes", .. }), "{error}");
}

#[test]
fn broken_archives_are_named_as_such() {
    let whole = Tar::default().file("f", &[7; 5000]).end();
    for cut in [100, 512, 600, 3000] {
        let error = World::new().unpack(&whole[..cut]).unwrap_err();
        assert!(matches!(error, UnpackError::Truncated(_)), "{cut}: {error}");
    }
    assert!(matches!(
        World::new().unpack(&[b'x'; 2048]).unwrap_err(),
        UnpackError::Header { at: 0, .. }
    ));
    let mut lone = Tar::default().file("a", b"1").0;
    lone.extend_from_slice(&[0; 512]);
    lone.extend(Tar::default().file("hidden", b"2").end());
    assert!(matches!(World::new().unpack(&lone).unwrap_err(), UnpackError::Header { .. }));
    assert!(matches!(refused(Tar::default().raw("x", b'Q', "", 0, b"")), UnpackError::Kind { .. }));
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&whole).unwrap();
    let gz = gz.finish().unwrap();
    let error = World::new().unpack(&gz[..gz.len() / 2]).unwrap_err();
    assert!(matches!(error, UnpackError::Read(_) | UnpackError::Truncated(_)), "{error}");
    World::new().unpack(b"").unwrap();
}

#[test]
fn compression_is_recognised_by_content() {
    let plain = Tar::default().file("f", &[7; 100_000]).end();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&plain).unwrap();
    let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bz.write_all(&plain).unwrap();
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    xz.write_all(&plain).unwrap();
    let zstd = zstd::encode_all(&plain[..], 3).unwrap();
    for packed in [gz.finish().unwrap(), zstd, bz.finish().unwrap(), xz.finish().unwrap()] {
        let world = World::new();
        assert_eq!(world.unpack(&packed).unwrap().diff_id, Digest::sha256(&plain));
        assert_eq!(fs::metadata(world.root.join("f")).unwrap().len(), 100_000);
    }
}

#[expect(clippy::disallowed_methods, reason = "the oracle is a program")]
fn gnu_tar(args: &[&str]) {
    let out = std::process::Command::new("tar").args(args).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Path, kind and mode, owner, size, time, content, link target, for every node.
fn listing(root: &Path) -> Vec<String> {
    fn walk(dir: &Path, root: &Path, out: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let what = if meta.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if meta.is_file() {
                Digest::sha256(&fs::read(&path).unwrap()).to_string()
            } else {
                String::new()
            };
            let size = if meta.is_dir() { 0 } else { meta.len() };
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            out.push(format!(
                "{} {:o} {}:{} {size} {links} {}.{:09} {what}",
                path.strip_prefix(root).unwrap().display(),
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec()
            ));
            if meta.is_dir() {
                walk(&path, root, out);
            }
        }
    }
    let mut out = Vec::new();
    walk(root, root, &mut out);
    out.sort();
    out
}

fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("etc/deep/er")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    for n in 0..300 {
        fs::create_dir_all(root.join(format!("many/{}", n % 7))).unwrap();
        let size = [0, 1, 511, 512, 513, 70_000][n % 6];
        let body = vec![u8::try_from(n % 251).unwrap(); size];
        fs::File::create(root.join(format!("many/{}/{n}", n % 7)))
            .unwrap()
            .write_all(&body)
            .unwrap();
    }
    fs::File::create(root.join("large")).unwrap().write_all(&vec![9; 3_000_001]).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(50_000_000).unwrap();
    for at in [0_u64, 10_000_000, 40_000_000] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", at).unwrap();
    }
    std::os::unix::fs::symlink("../large", root.join("etc/link")).unwrap();
    std::os::unix::fs::symlink("x".repeat(150), root.join("etc/longlink")).unwrap();
    fs::hard_link(root.join("large"), root.join("etc/deep/er/hard")).unwrap();
    let long = root.join("n".repeat(120)).join("m".repeat(120));
    fs::create_dir_all(&long).unwrap();
    fs::File::create(long.join("ümläut\n")).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o3751)).unwrap();
    fs::set_permissions(root.join("many/0/0"), fs::Permissions::from_mode(0o6511)).unwrap();
    std::os::unix::fs::chown(root.join("many/1"), Some(12), Some(34)).unwrap();
    std::os::unix::fs::chown(root.join("many/1/1"), Some(3_000_000), Some(34)).unwrap();
}

#[test]
fn trees_come_out_as_gnu_tar_makes_them() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    make_tree(&source);
    let formats: &[&[&str]] = &[
        &["--format=gnu"],
        &["--format=pax"],
        &["--format=gnu", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
    ];
    for (n, format) in formats.iter().enumerate() {
        let archive = dir.path().join("a.tar");
        let (archive_text, source_text) = (archive.to_str().unwrap(), source.to_str().unwrap());
        let mut args = vec!["--create", "--file", archive_text, "--directory", source_text];
        args.extend_from_slice(format);
        args.push(".");
        gnu_tar(&args);
        let (theirs, ours) = (dir.path().join(format!("t{n}")), dir.path().join(format!("o{n}")));
        fs::create_dir(&theirs).unwrap();
        fs::create_dir(&ours).unwrap();
        gnu_tar(&["-xpf", archive_text, "-C", theirs.to_str().unwrap(), "--same-owner"]);
        unpack(fs::File::open(&archive).unwrap(), &ours, &how()).unwrap();
        let (theirs, ours) = (listing(&theirs), listing(&ours));
        for (a, b) in theirs.iter().zip(&ours) {
            assert_eq!(a, b, "{format:?}");
        }
        assert_eq!(theirs.len(), ours.len(), "{format:?}");
        if format.contains(&"--sparse") {
            let blocks = fs::metadata(dir.path().join(format!("o{n}/sparse"))).unwrap().blocks();
            assert!(blocks * 512 < 10_000_000, "{format:?} filled the holes");
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    /// Whatever is done to the bytes: no panic, no hang, nothing outside.
    #[test]
    fn mangled_archives_never_get_out(
        flips in proptest::collection::vec((0_usize..8192, 0_u8..=255), 1..6),
        cut in 0_usize..9000,
    ) {
        let mut bytes = Tar::default()
            .dir("d").file("d/f", &[1; 700]).link("l", "/").hard("h", "d/f")
            .pax("path", b"long/name").file("x", b"y").file("l/z", b"1").file(".wh.q", b"").end();
        for (at, value) in flips {
            let n = bytes.len();
            bytes[at % n] = value;
        }
        // Repair checksums so that the flips reach the parser.
        for block in bytes.chunks_exact_mut(512) {
            if &block[257..262] == b"ustar" {
                let mut header = tar::Header::new_ustar();
                header.as_mut_bytes().copy_from_slice(block);
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        bytes.truncate(cut.max(1));
        let world = World::new();
        drop(world.unpack(&bytes));
        world.assert_nothing_escaped();
    }
}
