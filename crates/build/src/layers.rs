//! Looking into stacks of layers: merged, by path, and for the accounts in them.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use wharf_engine::spec::user::{Accounts, ResolvedUser};
use wharf_image::{ImageStore, Layer};
use wharf_sys::root::{Kind, Root};

use crate::error::BuildError;

/// Links that one path may lead through.
const MAX_LINKS: usize = 40;
/// Bytes of passwd or group that are looked at.
const MAX_ACCOUNTS: u64 = 4 << 20;

/// The files of `layers` (base first), read-only.
pub(crate) fn merged(store: &ImageStore, layers: &[Layer]) -> Result<Root, BuildError> {
    let lowers = store.layer_dirs(layers);
    let open = || match &lowers[..] {
        [one] => Root::open(one),
        _ => wharf_sys::mount::overlay(&lowers, None, None).map(Root::from_fd),
    };
    open().map_err(BuildError::io("mount the files of a stage"))
}

/// `path` with its symlinks replaced, inside `root`; what does not exist stays as it is.
pub(crate) fn resolve(root: &Root, path: &Path) -> io::Result<PathBuf> {
    let mut links = 0;
    let mut done = PathBuf::from("/");
    let mut todo: Vec<PathBuf> = components(path).rev().collect();
    while let Some(part) = todo.pop() {
        if part == Path::new("..") {
            done.pop();
            continue;
        }
        let next = done.join(&part);
        let link = root.lstat(&next).is_ok_and(|m| m.kind == Kind::Symlink);
        if !link {
            done = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(io::Error::other("too many symbolic links"));
        }
        let dir = root.dir(&done)?;
        let target = PathBuf::from(dir.read_link(part.as_os_str())?);
        if target.is_absolute() {
            done = PathBuf::from("/");
        }
        todo.extend(components(&target).rev());
    }
    Ok(done)
}

fn components(path: &Path) -> impl DoubleEndedIterator<Item = PathBuf> {
    path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        _ => None,
    })
}

/// What a path is in a stack of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// A directory: the parts of it, top first.
    Dir(Vec<PathBuf>),
    /// Something else, in one layer.
    File(PathBuf),
}

/// Where `path` (resolved, without links) is in `lowers`, top first.
pub(crate) fn find(lowers: &[PathBuf], path: &Path) -> io::Result<Option<Found>> {
    let mut dirs = Vec::new();
    for lower in lowers {
        match look(lower, path)? {
            Seen::Nothing { hides } => {
                if hides {
                    break;
                }
            }
            Seen::File if dirs.is_empty() => return Ok(Some(Found::File(join(lower, path)))),
            Seen::File => break,
            Seen::Dir { hides } => {
                dirs.push(join(lower, path));
                if hides {
                    break;
                }
            }
        }
    }
    Ok((!dirs.is_empty()).then_some(Found::Dir(dirs)))
}

/// What one layer shows at a path, and whether it hides the layers below there.
enum Seen {
    Nothing { hides: bool },
    Dir { hides: bool },
    File,
}

fn look(lower: &Path, path: &Path) -> io::Result<Seen> {
    let root = Root::open(lower)?;
    let mut dir = root.top()?;
    let mut hides = false;
    let parts: Vec<PathBuf> = components(path).collect();
    for (n, part) in parts.iter().enumerate() {
        let name = part.as_os_str();
        let meta = match dir.lstat(name) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Seen::Nothing { hides }),
            Err(e) => return Err(e),
        };
        if meta.kind != Kind::Dir {
            let last = n + 1 == parts.len();
            let shows = last && !meta.is_whiteout();
            return Ok(if shows { Seen::File } else { Seen::Nothing { hides: true } });
        }
        let opaque = dir.xattr(name, OsStr::new("trusted.overlay.opaque"))?;
        hides |= opaque.is_some_and(|v| v == b"y");
        dir = dir.dir(name)?;
    }
    Ok(Seen::Dir { hides })
}

fn join(lower: &Path, path: &Path) -> PathBuf {
    lower.join(path.strip_prefix("/").unwrap_or(path))
}

/// A user as `USER` gives it.
pub(crate) fn user(root: &Root, spec: &str) -> Result<ResolvedUser, BuildError> {
    Ok(accounts(root)?.resolve(spec, &[])?)
}

/// An owner as `--chown` gives it: a user without a group has the group of its own number.
pub(crate) fn owner(root: &Root, spec: &str) -> Result<(u32, u32), BuildError> {
    let numbers = |s: &str| s.parse::<u32>().ok();
    let (user, group) = spec.split_once(':').map_or((spec, None), |(u, g)| (u, Some(g)));
    // Numbers need no files.
    match (numbers(user), group.map(numbers)) {
        (Some(uid), None) => return Ok((uid, uid)),
        (Some(uid), Some(Some(gid))) => return Ok((uid, gid)),
        _ => {}
    }
    let found = accounts(root)?.resolve(spec, &[])?;
    Ok((found.uid, found.gid))
}

fn accounts(root: &Root) -> Result<Accounts, BuildError> {
    Ok(Accounts { passwd: text(root, "etc/passwd")?, group: text(root, "etc/group")? })
}

/// A small text file; missing is empty.
pub(crate) fn text(root: &Root, path: &str) -> Result<String, BuildError> {
    let failed = || BuildError::io(format!("read /{path} of a stage"));
    let file = match root.read(Path::new(path)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(failed()(e)),
    };
    if !file.metadata().map_err(failed())?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_ACCOUNTS).read_to_end(&mut bytes).map_err(failed())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "fixtures")]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_resolved_inside() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("run/deep")).unwrap();
        fs::create_dir(dir.path().join("var")).unwrap();
        symlink("/run", dir.path().join("var/run")).unwrap();
        symlink("../../../../run/deep", dir.path().join("up")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let at = |p: &str| resolve(&root, Path::new(p)).unwrap();
        assert_eq!(at("/var/run/new/x"), Path::new("/run/new/x"));
        assert_eq!(at("up/y"), Path::new("/run/deep/y"));
        assert_eq!(at("/a/../b"), Path::new("/b"));
        assert!(resolve(&root, Path::new("loop/x")).is_err());
    }

    #[test]
    fn paths_are_found_through_layers() {
        let dir = tempfile::tempdir().unwrap();
        let (top, low) = (dir.path().join("top"), dir.path().join("low"));
        for path in ["top/d", "low/d/e", "top/only"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        fs::write(low.join("d/f"), "f").unwrap();
        let lowers = [top.clone(), low.clone()];
        let at = |p: &str| find(&lowers, Path::new(p)).unwrap();
        assert_eq!(at("/d"), Some(Found::Dir(vec![top.join("d"), low.join("d")])));
        assert_eq!(at("/d/f"), Some(Found::File(low.join("d/f"))));
        assert_eq!(at("/only"), Some(Found::Dir(vec![top.join("only")])));
        assert_eq!(at("/none"), None);
        assert_eq!(at("/d/f/x"), None);
    }

    #[test]
    fn numeric_owners_need_no_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(owner(&root, "5").unwrap(), (5, 5));
        assert_eq!(owner(&root, "5:6").unwrap(), (5, 6));
        assert!(owner(&root, "nobody").is_err());
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/passwd"), "web:x:33:34::/:/bin/sh\n").unwrap();
        fs::write(dir.path().join("etc/group"), "www:x:44:\n").unwrap();
        assert_eq!(owner(&root, "web").unwrap(), (33, 34));
        assert_eq!(owner(&root, "web:www").unwrap(), (33, 44));
    }
}
