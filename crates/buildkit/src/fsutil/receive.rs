//! Taking a tree: packets in, files on disk and packets out. No network here.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use wharf_sys::root::{
    Dir, Kind, Root, set_file_mode, set_file_owner, set_file_times, set_file_xattr,
};

use super::entry::{Entry, Node};
use super::{TransferError, fin, request};
use crate::proto::fsutil::types::Packet;
use crate::proto::fsutil::types::packet::PacketType;

/// Entries that one tree may have.
const MAX_ENTRIES: u32 = 4_000_000;

/// Writes what comes into a directory of its own.
///
/// What is there already stays as it is: it came earlier in the same build, whose files must not change under it.
pub(crate) struct Receiver {
    into: Root,
    /// An older tree of the same origin. Files that look the same are taken from there.
    base: Option<Root>,
    order: Order,
    /// Number of the next entry.
    next: u32,
    /// Files asked for and not complete.
    pending: HashMap<u32, Pending>,
    /// Other names of files, made when the files are here: path and target.
    links: Vec<(PathBuf, PathBuf)>,
    dirs: Vec<Entry>,
    stage: Stage,
    here: Cursor,
    there: Cursor,
}

/// How far the exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Entries come, and bytes of files.
    Entries,
    /// Bytes of files come.
    Files,
    /// FIN is sent.
    Ending,
    Ended,
}

struct Pending {
    entry: Entry,
    /// Open since the first bytes, so that thousands of wishes do not hold thousands of descriptors.
    file: Option<File>,
}

/// What to do after a packet.
#[derive(Debug)]
pub(crate) enum Step {
    /// Send these and take the next.
    Go(Vec<Packet>),
    /// The tree is complete.
    Done,
}

impl Receiver {
    /// Into `into`, sparing what `base` has.
    pub(crate) fn new(into: Root, base: Option<Root>) -> Receiver {
        Receiver {
            into,
            base,
            order: Order::default(),
            next: 0,
            pending: HashMap::new(),
            links: Vec::new(),
            dirs: Vec::new(),
            stage: Stage::Entries,
            here: Cursor::default(),
            there: Cursor::default(),
        }
    }

    /// Takes the next packet. After an error nothing more may come.
    pub(crate) fn take(&mut self, packet: Packet) -> Result<Step, TransferError> {
        let kind = PacketType::try_from(packet.r#type)
            .map_err(|_| protocol(format!("unknown packet type {}", packet.r#type)))?;
        let out = match (kind, self.stage) {
            (PacketType::PacketErr, _) => {
                return Err(TransferError::Peer(String::from_utf8_lossy(&packet.data).into()));
            }
            (PacketType::PacketStat, Stage::Entries) => self.stat(packet)?,
            (PacketType::PacketData, Stage::Entries | Stage::Files) => self.data(packet)?,
            (PacketType::PacketFin, Stage::Ending) => {
                self.stage = Stage::Ended;
                return Ok(Step::Done);
            }
            (kind, stage) => {
                return Err(protocol(format!("{} while {stage:?}", kind.as_str_name())));
            }
        };
        Ok(Step::Go(out))
    }

    fn stat(&mut self, packet: Packet) -> Result<Vec<Packet>, TransferError> {
        let Some(stat) = packet.stat else {
            self.stage = Stage::Files;
            return self.end_if_complete();
        };
        let id = self.next;
        self.next += 1;
        if id >= MAX_ENTRIES {
            return Err(protocol(format!("more than {MAX_ENTRIES} entries")));
        }
        let entry = Entry::read(stat)?;
        self.order.check(&entry)?;
        if !self.place(&entry)? {
            return Ok(Vec::new());
        }
        self.pending.insert(id, Pending { entry, file: None });
        Ok(vec![request(id)])
    }

    /// Makes the entry; whether its bytes must be asked for.
    fn place(&mut self, entry: &Entry) -> Result<bool, TransferError> {
        let failed = |action| TransferError::io(action, &entry.path);
        let (dir, name) = self.here.at(&self.into, &entry.path).map_err(failed("open"))?;
        if dir.lstat(name).is_ok() {
            return Ok(false);
        }
        match &entry.node {
            Node::File { .. } => {
                if let Some(base) = &self.base
                    && let Ok((old, _)) = self.there.at(base, &entry.path)
                    && old.lstat(name).is_ok_and(|found| entry.is_like(&found))
                    && dir.hard_link(name, old, name).is_ok()
                {
                    return Ok(false);
                }
                return Ok(true);
            }
            Node::HardLink(to) => self.links.push((entry.path.clone(), to.clone())),
            Node::Dir => {
                dir.make_dir(name, 0o700).map_err(failed("create"))?;
                self.dirs.push(entry.clone());
            }
            Node::Symlink(target) => {
                dir.symlink(name, target.as_ref()).map_err(failed("create"))?;
                dir.set_owner(name, entry.uid, entry.gid).map_err(failed("change"))?;
                dir.set_times(name, entry.mtime).map_err(failed("change"))?;
            }
            Node::Special(kind, device) => {
                dir.make_node(name, *kind, 0o600, *device).map_err(failed("create"))?;
                dir.set_owner(name, entry.uid, entry.gid).map_err(failed("change"))?;
                dir.set_mode(name, entry.mode).map_err(failed("change"))?;
                dir.set_times(name, entry.mtime).map_err(failed("change"))?;
            }
        }
        Ok(false)
    }

    fn data(&mut self, packet: Packet) -> Result<Vec<Packet>, TransferError> {
        let Some(pending) = self.pending.get_mut(&packet.id) else {
            return Err(protocol(format!("bytes of file {}, which was not asked for", packet.id)));
        };
        let path = &pending.entry.path;
        let file = match &mut pending.file {
            Some(file) => file,
            None => {
                let open = self.here.at(&self.into, path);
                let open = open.and_then(|(dir, name)| dir.create(name, 0o600));
                pending.file.insert(open.map_err(TransferError::io("create", path))?)
            }
        };
        if !packet.data.is_empty() {
            file.write_all(&packet.data).map_err(TransferError::io("write", path))?;
            return Ok(Vec::new());
        }
        finish(file, &pending.entry).map_err(TransferError::io("change", path))?;
        self.pending.remove(&packet.id);
        self.end_if_complete()
    }

    fn end_if_complete(&mut self) -> Result<Vec<Packet>, TransferError> {
        if self.stage != Stage::Files || !self.pending.is_empty() {
            return Ok(Vec::new());
        }
        for (path, target) in std::mem::take(&mut self.links) {
            self.link(&path, &target).map_err(TransferError::io("link", &path))?;
        }
        // A directory's time last: what is made in it changes it.
        for entry in std::mem::take(&mut self.dirs).iter().rev() {
            let dir = self.into.dir_without_symlinks(&entry.path);
            let set = dir.and_then(|dir| finish_dir(&dir, entry));
            set.map_err(TransferError::io("change", &entry.path))?;
        }
        self.stage = Stage::Ending;
        Ok(vec![fin()])
    }

    fn link(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        let mut old = Cursor::default();
        let (old, old_name) = old.at(&self.into, target)?;
        if old.lstat(old_name)?.kind != Kind::File {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (dir, name) = self.here.at(&self.into, path)?;
        dir.hard_link(name, old, old_name)
    }
}

fn protocol(text: impl Into<String>) -> TransferError {
    TransferError::Protocol(text.into())
}

fn finish(file: &File, entry: &Entry) -> io::Result<()> {
    set_file_owner(file, entry.uid, entry.gid)?;
    set_file_mode(file, entry.mode)?;
    for (key, value) in &entry.xattrs {
        set_file_xattr(file, key.as_ref(), value)?;
    }
    set_file_times(file, entry.mtime)
}

fn finish_dir(dir: &Dir, entry: &Entry) -> io::Result<()> {
    for (key, value) in &entry.xattrs {
        dir.set_own_xattr(key.as_ref(), value)?;
    }
    dir.set_own_attributes(entry.uid, entry.gid, entry.mode, entry.mtime)
}

/// Entries come in order, each after its directory: so a path is never reached through a link.
#[derive(Default)]
struct Order {
    last: PathBuf,
    /// The directories that the last entry is in, and itself if it is one.
    open: Vec<PathBuf>,
}

impl Order {
    fn check(&mut self, entry: &Entry) -> Result<(), TransferError> {
        let path = &entry.path;
        if *path <= self.last {
            return Err(protocol(format!("{} is out of order", path.display())));
        }
        while self.open.last().is_some_and(|dir| !path.starts_with(dir)) {
            self.open.pop();
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent != self.open.last().map_or(Path::new(""), PathBuf::as_path) {
            return Err(protocol(format!("{} comes before its directory", path.display())));
        }
        if entry.node == Node::Dir {
            self.open.push(path.clone());
        }
        self.last.clone_from(path);
        Ok(())
    }
}

/// The directory used last, held open: entries of one directory come one after another.
#[derive(Default)]
struct Cursor(Option<(PathBuf, Dir)>);

impl Cursor {
    /// The directory that `path` is in, reached without symlinks, and the name in it.
    fn at<'a>(&'a mut self, root: &Root, path: &'a Path) -> io::Result<(&'a Dir, &'a OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let held = match self.0.take() {
            Some(held) if held.0 == parent => held,
            _ => (parent.to_owned(), root.dir_without_symlinks(parent)?),
        };
        Ok((&self.0.insert(held).1, name))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::fsutil::{data, error, stat_packet};
    use crate::proto::fsutil::types::Stat;

    const DIR: u32 = 1 << 31 | 0o755;
    const LINK: u32 = 1 << 27 | 0o777;

    fn entry(path: &str, mode: u32, size: i64, link: &str) -> Packet {
        let (path, linkname) = (path.to_owned(), link.to_owned());
        let mod_time = 1_500_000_000_000_000_007;
        stat_packet(Some(Stat { path, mode, size, linkname, mod_time, ..Stat::default() }))
    }

    fn feed(receiver: &mut Receiver, packets: Vec<Packet>) -> Result<Vec<Packet>, TransferError> {
        let mut out = Vec::new();
        for packet in packets {
            match receiver.take(packet)? {
                Step::Go(more) => out.extend(more),
                Step::Done => return Ok(out),
            }
        }
        Ok(out)
    }

    fn receiver(into: &Path, base: Option<&Path>) -> Receiver {
        Receiver::new(Root::open(into).unwrap(), base.map(|b| Root::open(b).unwrap()))
    }

    fn tree() -> Vec<Packet> {
        vec![
            entry("a", DIR, 0, ""),
            entry("a/empty", 0o600, 0, ""),
            entry("a/run.sh", 0o755, 5, ""),
            entry("b", LINK, 0, "a/run.sh"),
            entry("c", 0o755, 5, "a/run.sh"),
            stat_packet(None),
        ]
    }

    fn whole(into: &Path) -> Vec<u32> {
        let mut receiver = receiver(into, None);
        let wishes = feed(&mut receiver, tree()).unwrap();
        let bytes = |id, text: &'static str| data(id, Bytes::from_static(text.as_bytes()));
        let rest =
            vec![bytes(2, "he"), data(1, Bytes::new()), bytes(2, "llo"), data(2, Bytes::new())];
        assert_eq!(feed(&mut receiver, rest).unwrap(), [fin()]);
        assert_eq!(feed(&mut receiver, vec![fin()]).unwrap(), []);
        wishes.iter().map(|w| w.id).collect()
    }

    #[test]
    fn files_directories_and_links_arrive() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(whole(dir.path()), [1, 2]);
        let at = |name: &str| dir.path().join(name);
        assert_eq!(fs::read_to_string(at("a/run.sh")).unwrap(), "hello");
        assert_eq!(fs::read_link(at("b")).unwrap(), Path::new("a/run.sh"));
        let root = Root::open(dir.path()).unwrap();
        let [file, link] = ["a/run.sh", "c"].map(|p| root.lstat(Path::new(p)).unwrap());
        assert_eq!((file.ino, file.mode), (link.ino, 0o755));
        assert_eq!((file.mtime.seconds, file.mtime.nanos), (1_500_000_000, 7));
        assert_eq!(root.lstat(Path::new("a")).unwrap().mtime, file.mtime);
        assert_eq!(fs::read(at("a/empty")).unwrap(), b"");
    }

    #[test]
    fn what_an_older_tree_has_is_not_asked_for() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        whole(old.path());
        let mut receiver = receiver(new.path(), Some(old.path()));
        let mut packets = tree();
        packets[2] = entry("a/run.sh", 0o755, 6, "");
        let out = feed(&mut receiver, packets).unwrap();
        assert_eq!(out, [request(2)]);
        assert!(new.path().join("a/empty").exists());
    }

    #[test]
    fn what_came_earlier_in_the_build_stays() {
        let dir = tempfile::tempdir().unwrap();
        whole(dir.path());
        let mut receiver = receiver(dir.path(), None);
        let mut packets = tree();
        packets[2] = entry("a/run.sh", 0o755, 6, "");
        packets.insert(5, entry("d", 0o644, 1, ""));
        assert_eq!(feed(&mut receiver, packets).unwrap(), [request(5)]);
    }

    #[test]
    fn nothing_escapes() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().to_str().unwrap();
        for packets in [
            vec![entry("l", LINK, 0, target), entry("l/x", 0o644, 1, "")],
            vec![entry("a/x", 0o644, 1, "")],
            vec![entry("b", DIR, 0, ""), entry("a", DIR, 0, "")],
            vec![entry("a", DIR, 0, ""), entry("a", LINK, 0, target)],
            vec![entry("../x", 0o644, 1, "")],
            vec![entry("h", 0o644, 1, "../../etc/passwd"), stat_packet(None)],
            vec![entry("l", LINK, 0, target), entry("m", 0o644, 0, "l"), stat_packet(None)],
            vec![entry("m", 0o644, 0, "nothing"), stat_packet(None)],
            vec![data(7, Bytes::from_static(b"x"))],
            vec![stat_packet(None), entry("late", 0o644, 1, "")],
            vec![fin()],
            vec![Packet { r#type: 9, ..Packet::default() }],
        ] {
            let dir = tempfile::tempdir().unwrap();
            let shown = format!("{packets:?}");
            assert!(feed(&mut receiver(dir.path(), None), packets).is_err(), "{shown}");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_became_a_link_is_not_followed() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), dir.path().join("a")).unwrap();
        let packets = vec![entry("a", DIR, 0, ""), entry("a/x", 0o644, 1, "")];
        assert!(feed(&mut receiver(dir.path(), None), packets).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_peer_s_error_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let failed = feed(&mut receiver(dir.path(), None), vec![error("no access".into())]);
        assert_eq!(failed.unwrap_err().to_string(), "no access");
    }
    /// Any packet, of few names, so that they meet.
    fn packets() -> impl Strategy<Value = Packet> {
        let path = proptest::sample::select(vec!["a", "a/b", "a/b/c", "b", "b/c", "..", "a/../b"]);
        let link = proptest::sample::select(vec!["", "a", "/", "../..", "b", "a/b"]);
        let mode = proptest::sample::select(vec![0o644, DIR, LINK, 1 << 25, 1 << 24, 1 << 19]);
        let stat = (path, mode, link).prop_map(|(path, mode, link)| entry(path, mode, 4, link));
        let bytes = (0..8u32, any::<bool>())
            .prop_map(|(id, last)| data(id, Bytes::from_static(if last { b"" } else { b"four" })));
        prop_oneof![6 => stat, 6 => bytes, 1 => Just(stat_packet(None)), 1 => Just(fin())]
    }

    proptest! {
        #[test]
        fn nothing_outside_is_touched_whatever_comes(all in proptest::collection::vec(packets(), 0..24)) {
            let dir = tempfile::tempdir().unwrap();
            let (into, base) = (dir.path().join("into"), dir.path().join("base"));
            fs::create_dir(&into).unwrap();
            fs::create_dir(&base).unwrap();
            fs::write(base.join("a"), "kept").unwrap();
            // A refusal is as good as a tree.
            drop(feed(&mut receiver(&into, Some(&base)), all));
            prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
            prop_assert_eq!(fs::read(base.join("a")).unwrap(), b"kept");
        }
    }
}
