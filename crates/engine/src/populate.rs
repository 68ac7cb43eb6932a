//! The first use of a volume: it begins with what the image has at its place.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use wharf_sys::root::{Dir, Kind, Metadata, Root};

use crate::error::{EngineError, Result};
use crate::volume::Volumes;

impl Volumes {
    /// Fills an empty volume, or an empty directory `subpath` of it, with what the image has at `destination`: files,
    /// owners, modes. What has anything in it is left as it is, and what is not there is left to the start.
    pub(crate) fn populate(
        &self,
        name: &str,
        subpath: &str,
        layers: &[PathBuf],
        destination: &str,
    ) -> Result<()> {
        let volume = self.data(name);
        let within = |root: Root| root.real_path(Path::new(subpath));
        let data = match subpath {
            "" => volume,
            _ => match Root::open(&volume).and_then(within) {
                Ok(path) if path.is_dir() => path,
                _ => return Ok(()),
            },
        };
        let failed = |e| {
            EngineError::system(format!("fill volume {name} from {destination} of the image"), e)
        };
        let _one_at_a_time = self.filling.lock();
        self.empty_half_filled(name)?;
        let to = Root::open(&data).and_then(|r| r.top()).map_err(failed)?;
        if layers.is_empty() || !to.entries().map_err(failed)?.is_empty() {
            return Ok(());
        }
        let image = crate::view::merged(layers.iter())?;
        let at = Path::new(destination);
        match image.stat(at) {
            Ok(meta) if meta.kind == Kind::Dir => (),
            Ok(_) => {
                return Err(EngineError::invalid(format!(
                    "cannot mount volume over existing file, file exists {destination}"
                )));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed(e)),
        }
        let from = image.dir(at).map_err(failed)?;
        let mark = self.mark(name);
        drop(std::fs::File::create(&mark).map_err(failed)?);
        let mut copy = Copy { root: Root::open(&data).map_err(failed)?, seen: HashMap::new() };
        match copy.tree(&from, &to, Path::new("")) {
            Ok(()) => std::fs::remove_file(&mark).map_err(failed),
            Err(e) => {
                // Half of an image is worse than nothing: whoever uses the volume next fills it anew.
                self.empty_half_filled(name)?;
                Err(failed(e))
            }
        }
    }

    /// Empties a volume whose first fill was cut short by a crash or an error.
    pub(crate) fn empty_half_filled(&self, name: &str) -> Result<()> {
        let mark = self.mark(name);
        if !mark.exists() {
            return Ok(());
        }
        let data = self.data(name);
        let empty = || -> io::Result<()> {
            for entry in std::fs::read_dir(&data)? {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => std::fs::remove_dir_all(entry.path())?,
                    false => std::fs::remove_file(entry.path())?,
                }
            }
            std::fs::remove_file(&mark)
        };
        empty().map_err(|e| EngineError::system(format!("empty half-filled volume {name}"), e))
    }
}

/// One copy of a tree. Hard links inside it stay hard links.
struct Copy {
    root: Root,
    seen: HashMap<(u64, u64), PathBuf>,
}

impl Copy {
    fn tree(&mut self, from: &Dir, to: &Dir, here: &Path) -> io::Result<()> {
        for name in from.entries()? {
            let meta = from.lstat(&name)?;
            self.entry(from, to, &name, &meta, &here.join(&name))?;
        }
        let own = from.metadata()?;
        to.set_own_attributes(own.uid, own.gid, own.mode, own.mtime)
    }

    fn entry(
        &mut self,
        from: &Dir,
        to: &Dir,
        name: &OsStr,
        meta: &Metadata,
        path: &Path,
    ) -> io::Result<()> {
        match meta.kind {
            Kind::Dir => {
                to.make_dir(name, 0o700)?;
                return self.tree(&from.dir(name)?, &to.dir(name)?, path);
            }
            _ if meta.nlink > 1 && self.link(to, name, meta, path)? => return Ok(()),
            Kind::File => {
                let mut copy = to.create(name, 0o600)?;
                io::copy(&mut from.read(name)?, &mut copy)?;
            }
            Kind::Symlink => to.symlink(name, &from.read_link(name)?)?,
            kind => to.make_node(name, kind, meta.mode, meta.device())?,
        }
        to.set_owner(name, meta.uid, meta.gid)?;
        for key in from.xattr_keys(name)? {
            if let Some(value) = from.xattr(name, &key)? {
                to.set_xattr(name, &key, &value)?;
            }
        }
        if meta.kind != Kind::Symlink {
            to.set_mode(name, meta.mode)?;
        }
        to.set_times(name, meta.mtime)
    }

    /// Links to the copy that was made of the same file before.
    fn link(&mut self, to: &Dir, name: &OsStr, meta: &Metadata, path: &Path) -> io::Result<bool> {
        let Some(first) = self.seen.get(&(meta.dev, meta.ino)) else {
            self.seen.insert((meta.dev, meta.ino), path.to_owned());
            return Ok(false);
        };
        let Some((dir, old)) = self.root.parent(first)? else { return Ok(false) };
        to.hard_link(name, &dir, old)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
    use wharf_base::clock::Clock;
    use wharf_base::db::Db;
    use wharf_spec::docker::Map;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test's own files")]
    fn a_volume_is_filled_once() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("db")).unwrap();
        let v = Volumes::open(dir.path(), db, Clock::system()).unwrap();
        v.provide("vol", false, &Map::new(), &Map::new()).unwrap();
        let layer = dir.path().join("layer");
        std::fs::create_dir_all(layer.join("srv/data/sub")).unwrap();
        symlink("/srv/data", layer.join("link")).unwrap();
        std::fs::write(layer.join("srv/data/sub/a"), "hello").unwrap();
        std::fs::hard_link(layer.join("srv/data/sub/a"), layer.join("srv/data/b")).unwrap();
        std::fs::set_permissions(layer.join("srv/data"), PermissionsExt::from_mode(0o1770))
            .unwrap();
        // Through an absolute link of the image, which must lead nowhere else.
        v.populate("vol", "", std::slice::from_ref(&layer), "/link").unwrap();
        let data = v.data("vol");
        assert_eq!(std::fs::read(data.join("sub/a")).unwrap(), b"hello");
        assert_eq!(std::fs::metadata(&data).unwrap().mode() & 0o7777, 0o1770);
        assert_eq!(std::fs::metadata(data.join("b")).unwrap().nlink(), 2);
        std::fs::write(layer.join("srv/data/new"), "").unwrap();
        v.populate("vol", "", std::slice::from_ref(&layer), "/srv/data").unwrap();
        assert!(!data.join("new").exists());
        std::fs::write(v.mark("vol"), "").unwrap();
        v.populate("vol", "", std::slice::from_ref(&layer), "/srv/data").unwrap();
        assert!(data.join("new").exists(), "a fill that was cut short is begun anew");
        std::fs::write(v.mark("vol"), "").unwrap();
        v.collect_garbage().unwrap();
        assert!(std::fs::read_dir(&data).unwrap().next().is_none() && !v.mark("vol").exists());
        v.provide("other", false, &Map::new(), &Map::new()).unwrap();
        assert!(v.populate("other", "", &[layer], "/srv/data/sub/a").is_err());
    }
}
