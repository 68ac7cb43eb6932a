//! Giving a tree: its entries at once, the bytes of files as they are asked for. No network here.

use std::collections::{HashMap, VecDeque};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use wharf_sys::root::{Dir, Kind, Root};

use super::{TransferError, data, entry, fin, stat_packet};
use crate::proto::fsutil::types::packet::PacketType;
use crate::proto::fsutil::types::{Packet, Stat};

/// Bytes of a file in one packet.
const CHUNK: usize = 128 << 10;

/// Sends a tree. Blocks on the disk.
pub(crate) struct Sender {
    tree: Root,
    /// The directory of the other side that the tree is put into.
    below: PathBuf,
    /// Its entry, which comes first.
    first: Option<Stat>,
    /// Directories being walked, each with the names that are left, the next one last.
    walk: Vec<(PathBuf, Dir, Vec<std::ffi::OsString>)>,
    /// Regular files by the number of their entry.
    files: HashMap<u32, PathBuf>,
    next: u32,
    /// First names of files that have several.
    links: HashMap<(u64, u64), String>,
    wanted: VecDeque<u32>,
    open: Option<(u32, std::fs::File)>,
    walked: bool,
    ended: bool,
}

impl Sender {
    /// Of everything in `tree`, put into the directory `below` of the other side.
    pub(crate) fn new(tree: Root, below: Option<&Path>) -> std::io::Result<Sender> {
        let top = tree.top()?;
        let names = sorted(&top)?;
        let own = top.metadata()?;
        Ok(Sender {
            tree,
            below: below.map(PathBuf::from).unwrap_or_default(),
            first: below.map(|below| entry::stat(below, &own, None)),
            walk: vec![(PathBuf::new(), top, names)],
            files: HashMap::new(),
            next: 0,
            links: HashMap::new(),
            wanted: VecDeque::new(),
            open: None,
            walked: false,
            ended: false,
        })
    }

    /// What the other side says.
    pub(crate) fn take(&mut self, packet: &Packet) -> Result<(), TransferError> {
        match PacketType::try_from(packet.r#type) {
            Ok(PacketType::PacketReq) if self.files.contains_key(&packet.id) => {
                self.wanted.push_back(packet.id);
                Ok(())
            }
            Ok(PacketType::PacketFin) => {
                self.ended = true;
                Ok(())
            }
            Ok(PacketType::PacketErr) => {
                Err(TransferError::Peer(String::from_utf8_lossy(&packet.data).into()))
            }
            _ => Err(TransferError::Protocol(format!("unexpected packet {packet:?}"))),
        }
    }

    /// The next packet; `None` while there is nothing to say before the other side speaks.
    pub(crate) fn next(&mut self) -> Result<Option<Packet>, TransferError> {
        if self.ended {
            return Ok(Some(fin()));
        }
        if !self.walked {
            let stat = self.stat()?;
            self.walked = stat.is_none();
            return Ok(Some(stat_packet(stat)));
        }
        self.bytes()
    }

    /// Whether FIN has come, after which `next` gives the last packet.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    fn stat(&mut self) -> Result<Option<Stat>, TransferError> {
        if let Some(first) = self.first.take() {
            self.next += 1;
            return Ok(Some(first));
        }
        loop {
            let Some((path, dir, names)) = self.walk.last_mut() else { return Ok(None) };
            let Some(name) = names.pop() else {
                self.walk.pop();
                continue;
            };
            let path = path.join(&name);
            let failed = |e| TransferError::io("read", &path)(e);
            let found = dir.lstat(&name).map_err(failed)?;
            let mut link = None;
            match found.kind {
                // Nobody listens on a socket that lies in an image.
                Kind::Socket => continue,
                Kind::Symlink => {
                    let target = dir.read_link(&name).map_err(failed)?;
                    link = Some(target.to_string_lossy().into_owned());
                }
                Kind::File => {
                    let text = self.below.join(&path).to_string_lossy().into_owned();
                    link = (found.nlink > 1)
                        .then(|| self.links.entry((found.dev, found.ino)).or_insert(text.clone()))
                        .filter(|first| **first != text)
                        .cloned();
                }
                Kind::Dir => {
                    let below = dir.dir(&name).map_err(failed)?;
                    let names = sorted(&below).map_err(failed)?;
                    self.walk.push((path.clone(), below, names));
                }
                Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => (),
            }
            if found.kind == Kind::File {
                self.files.insert(self.next, path.clone());
            }
            self.next += 1;
            return Ok(Some(entry::stat(&self.below.join(&path), &found, link)));
        }
    }

    fn bytes(&mut self) -> Result<Option<Packet>, TransferError> {
        let (id, mut file) = match self.open.take() {
            Some(open) => open,
            None => {
                let Some(id) = self.wanted.pop_front() else { return Ok(None) };
                let path = self.files.get(&id).map_or(Path::new(""), PathBuf::as_path);
                (id, self.tree.read(path).map_err(TransferError::io("open", path))?)
            }
        };
        let mut chunk = vec![0; CHUNK];
        let n = file.read(&mut chunk).map_err(|e| {
            TransferError::io("read", self.files.get(&id).map_or(Path::new(""), PathBuf::as_path))(
                e,
            )
        })?;
        chunk.truncate(n);
        if n > 0 {
            self.open = Some((id, file));
        }
        Ok(Some(data(id, Bytes::from(chunk))))
    }
}

/// The names in a directory, last first.
fn sorted(dir: &Dir) -> std::io::Result<Vec<std::ffi::OsString>> {
    let mut names = dir.entries()?;
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::fsutil::{Receiver, Step};

    #[test]
    fn a_tree_passes_through_sender_and_receiver() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| from.path().join(name);
        fs::create_dir_all(at("b/deep")).unwrap();
        fs::write(at("b/deep/file"), vec![7; CHUNK * 2 + 5]).unwrap();
        fs::write(at("b-after"), "x").unwrap();
        fs::hard_link(at("b-after"), at("c")).unwrap();
        std::os::unix::fs::symlink("b", at("l")).unwrap();
        let mut sender =
            Sender::new(Root::open(from.path()).unwrap(), Some(Path::new("linux_amd64"))).unwrap();
        let mut receiver = Receiver::new(Root::open(to.path()).unwrap(), None);
        let done = loop {
            let Some(packet) = sender.next().unwrap() else { break false };
            match receiver.take(packet).unwrap() {
                Step::Done => break true,
                Step::Go(answers) => answers.iter().for_each(|a| sender.take(a).unwrap()),
            }
        };
        assert!(done);
        let to = to.path().join("linux_amd64");
        let arrived = |name: &str| fs::read(to.join(name)).unwrap();
        assert_eq!(arrived("b/deep/file"), vec![7; CHUNK * 2 + 5]);
        assert_eq!(arrived("c"), b"x");
        assert_eq!(fs::read_link(to.join("l")).unwrap(), Path::new("b"));
    }

    #[test]
    fn only_files_may_be_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut sender = Sender::new(Root::open(dir.path()).unwrap(), None).unwrap();
        assert!(sender.take(&crate::fsutil::request(0)).is_err());
    }
}
