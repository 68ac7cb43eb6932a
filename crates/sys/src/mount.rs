//! Mounts by descriptor: the new mount API, attributes, identity-mapped views.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use crate::process::check;

/// Mount attribute bits, as `mount_setattr` takes them.
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    /// Set-user-id bits have no effect.
    pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
    /// Device files cannot be opened.
    pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
    /// Programs cannot be run.
    pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
    /// The bits that choose how access times are kept.
    pub const ATIME: u64 = 0x70;
    /// Access times are never updated.
    pub const NOATIME: u64 = 0x10;
    /// Access times are always updated.
    pub const STRICTATIME: u64 = 0x20;
    /// Directory access times are never updated.
    pub const NODIRATIME: u64 = 0x80;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x0020_0000;
    /// Owners are seen through a user namespace.
    pub const IDMAP: u64 = 0x0010_0000;
}

/// Propagation types, as `mount_setattr` takes them.
pub mod propagation {
    /// Mounts pass both ways.
    pub const SHARED: u64 = libc::MS_SHARED;
    /// Mounts pass in only.
    pub const SLAVE: u64 = libc::MS_SLAVE;
    /// Mounts do not pass.
    pub const PRIVATE: u64 = libc::MS_PRIVATE;
    /// Mounts do not pass, and it cannot be bind-mounted.
    pub const UNBINDABLE: u64 = libc::MS_UNBINDABLE;
}

/// A change of mount attributes: `clear` first, then `set`; a `propagation` of 0 leaves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
    /// The new propagation type.
    pub propagation: u64,
}

/// The longest string that fsconfig(2) takes as a value.
const LONGEST: usize = 255;

/// A file system being configured.
#[derive(Debug)]
pub struct Fs {
    fd: OwnedFd,
    /// An overlay's lower layers, top first, as long as they are not named to the kernel.
    lowers: Option<Vec<OwnedFd>>,
    /// Directories that the kernel was told of by their descriptors.
    named: Vec<OwnedFd>,
}

impl Fs {
    /// Begins a new instance of a file system type.
    pub fn open(kind: &str) -> io::Result<Self> {
        let fd = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        Ok(Self { fd, lowers: None, named: Vec::new() })
    }

    /// Sets a string option.
    pub fn set(&self, key: &str, value: impl rustix::path::Arg) -> io::Result<()> {
        Ok(rustix::mount::fsconfig_set_string(self.fd.as_fd(), key, value)?)
    }

    /// Sets an option to a directory, whose path may be longer than a value: then it is named by a descriptor.
    pub fn set_dir(&mut self, key: &str, dir: &Path) -> io::Result<()> {
        if dir.as_os_str().len() <= LONGEST {
            return self.set(key, dir);
        }
        let fd = open_dir(dir)?;
        self.set(key, format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        self.named.push(fd); // Kernels before 6.5 look at the name only when they mount.
        Ok(())
    }

    /// Names the lower layers of an overlay, top first.
    ///
    /// From Linux 6.7 on, one by one, whatever their number and names. Before, all in one string that must not be
    /// longer than 255 bytes, so [`Fs::mount`] calls them by the numbers of their descriptors. That kernel takes any
    /// option and refuses it only when it mounts, so its version decides and not its answer.
    pub fn set_lowers<'a>(&mut self, lowers: impl Iterator<Item = &'a Path>) -> io::Result<()> {
        if crate::host::kernel_version() >= (6, 7) {
            return lowers.into_iter().try_for_each(|lower| self.set_dir("lowerdir+", lower));
        }
        self.keep_lowers(lowers)
    }

    fn keep_lowers<'a>(&mut self, lowers: impl Iterator<Item = &'a Path>) -> io::Result<()> {
        self.lowers = Some(lowers.map(open_dir).collect::<io::Result<_>>()?);
        Ok(())
    }

    /// Sets an option without a value.
    pub fn flag(&self, key: &str) -> io::Result<()> {
        Ok(rustix::mount::fsconfig_set_flag(self.fd.as_fd(), key)?)
    }

    /// Sets an option to a descriptor.
    pub fn set_fd(&self, key: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(rustix::mount::fsconfig_set_fd(self.fd.as_fd(), key, fd)?)
    }

    /// Makes the instance and a detached mount of it.
    pub fn mount(&self, attrs: u64) -> io::Result<OwnedFd> {
        match &self.lowers {
            Some(lowers) => self.create_on(lowers)?,
            None => rustix::mount::fsconfig_create(self.fd.as_fd())?,
        }
        let flags = MountAttrFlags::from_bits_retain(u32::try_from(attrs).unwrap_or(0));
        Ok(rustix::mount::fsmount(self.fd.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
    }

    /// Names the lower layers as files of `/proc/self/fd`, which is the working directory meanwhile: of this process
    /// if it has one thread, and else of a thread that has a working directory of its own.
    fn create_on(&self, lowers: &[OwnedFd]) -> io::Result<()> {
        let names: Vec<String> = lowers.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        let names = names.join(":");
        if names.len() > LONGEST {
            let text = format!(
                "{} layers are more than this kernel can stack: Linux 6.7 can",
                lowers.len()
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let create = || -> io::Result<()> {
            self.set("lowerdir", names.as_str())?;
            Ok(rustix::mount::fsconfig_create(self.fd.as_fd())?)
        };
        if crate::process::is_single_threaded() {
            let here = open_dir(Path::new("."))?;
            rustix::process::chdir("/proc/self/fd")?;
            let created = create();
            rustix::process::fchdir(here)?;
            return created;
        }
        std::thread::scope(|scope| {
            let aside = scope.spawn(|| {
                crate::process::unshare(libc::CLONE_FS as u64)?;
                rustix::process::chdir("/proc/self/fd")?;
                create()
            });
            aside.join().unwrap_or_else(|_| Err(io::Error::other("panic while mounting")))
        })
    }

    /// What the kernel has said about this instance, for error texts.
    pub fn log(&self) -> String {
        let mut text = String::new();
        let mut line = [0u8; 512];
        while let Ok(n) = rustix::io::read(&self.fd, &mut line) {
            if n < 3 {
                break;
            }
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(String::from_utf8_lossy(&line[2..n]).trim_end());
        }
        text
    }
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// What takes the changes to an overlay.
#[derive(Clone, Copy, Debug)]
pub struct Upper<'a> {
    /// The directory that they are found in.
    pub dir: &'a Path,
    /// A directory for the kernel on the same file system, empty at first.
    pub work: &'a Path,
    /// The changes need not outlive a crash of the machine: nothing inside is synced, whoever asks. Without it, the last
    /// unmount writes the whole file system of `dir` to its disk before the processes inside are seen to end.
    pub volatile: bool,
}

/// A detached overlay of `lowers`, top first: no mount table shows it, and it goes with its last descriptor. With an
/// `upper` it can be written to; without, it needs two lowers. `label` is the SELinux context of all files.
pub fn overlay(
    lowers: &[PathBuf],
    upper: Option<Upper<'_>>,
    label: Option<&str>,
) -> io::Result<OwnedFd> {
    let mut fs = Fs::open("overlay")?;
    let mut set = || {
        fs.set("source", "overlay")?;
        fs.set_lowers(lowers.iter().map(PathBuf::as_path))?;
        if let Some(upper) = &upper {
            set_upper(&mut fs, upper)?;
        }
        label.map_or(Ok(()), |label| fs.set("context", label))
    };
    set().and_then(|()| fs.mount(0)).map_err(|e| match fs.log() {
        log if log.is_empty() => e,
        log => io::Error::new(e.kind(), log),
    })
}

fn set_upper(fs: &mut Fs, upper: &Upper<'_>) -> io::Result<()> {
    if upper.volatile {
        // The kernel refuses what an earlier volatile mount wrote to, since it cannot know that no crash came between.
        match std::fs::remove_dir_all(upper.work.join("work/incompat")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => fs.flag("volatile")?,
        }
    }
    fs.set_dir("upperdir", upper.dir)?;
    fs.set_dir("workdir", upper.work)?;
    // Where the kernel's default is to use them: a layer must not need its neighbours' attributes, and
    // a mount that is on its way out must not keep the next one away.
    ["redirect_dir", "metacopy", "index"].iter().try_for_each(|key| fs.set(key, "off"))
}

/// A detached copy of the mount a path is on, rooted at the path.
pub fn clone_tree(dir: impl AsFd, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(dir, path, flags)?)
}

/// Attaches a detached mount on what `target` refers to.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, "", target, "", flags)?)
}

/// Changes attributes of the mount that `mount` is the root of; `recursive` covers what is below.
pub fn set_attr(mount: impl AsFd, recursive: bool, change: Attr) -> io::Result<()> {
    setattr(mount.as_fd(), c"", recursive, change, 0)
}

/// As [`set_attr`], by a path of this process.
pub fn set_attr_at(path: &CStr, recursive: bool, change: Attr) -> io::Result<()> {
    setattr(rustix::fs::CWD, path, recursive, change, 0)
}

/// Shows the owners of a detached mount through a user namespace.
pub fn set_idmap(mount: impl AsFd, recursive: bool, userns: BorrowedFd<'_>) -> io::Result<()> {
    let change = Attr { set: attr::IDMAP, ..Attr::default() };
    setattr(mount.as_fd(), c"", recursive, change, u64::try_from(userns.as_raw_fd()).unwrap_or(0))
}

/// Detaches what is mounted at a path, now from sight and later from use.
pub fn detach(path: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

fn setattr(
    dir: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    change: Attr,
    userns: u64,
) -> io::Result<()> {
    let args = libc::mount_attr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: userns,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { 0x8000 } else { 0 };
    // SAFETY: `path` ends in null and `args` is of the size given; rustix lacks this call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const args,
            std::mem::size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kernels before 6.7 need it; later ones take it as well.
    #[test]
    fn many_layers_with_long_names_are_stacked_by_number() {
        let scratch = std::env::temp_dir().join(format!("wharf-lowers-{}", std::process::id()));
        let layers: Vec<PathBuf> =
            (0..40).map(|n| scratch.join(format!("{n:0>200}:a\\b"))).collect();
        for (n, layer) in layers.iter().enumerate() {
            std::fs::create_dir_all(layer).unwrap();
            std::os::unix::fs::symlink(n.to_string(), layer.join("top")).unwrap();
            std::fs::create_dir(layer.join(format!("only-{n}"))).unwrap();
        }
        let here = std::env::current_dir().unwrap();
        let mut fs = Fs::open("overlay").unwrap();
        fs.keep_lowers(layers.iter().map(PathBuf::as_path)).unwrap();
        let mount = fs.mount(attr::RDONLY).unwrap();
        let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        assert_eq!(std::fs::read_link(root.join("top")).unwrap(), Path::new("0"));
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 41);
        assert_eq!(std::env::current_dir().unwrap(), here);
        drop(mount);
        std::fs::remove_dir_all(&scratch).unwrap();
    }

    #[test]
    fn directories_may_have_names_longer_than_an_option() {
        let scratch = std::env::temp_dir().join(format!("wharf-deep-{}", std::process::id()));
        let deep = scratch.join("d".repeat(200)).join("e".repeat(200));
        let (lower, dir, work) = (deep.join("lower"), deep.join("upper"), deep.join("work"));
        for made in [&lower, &dir, &work] {
            std::fs::create_dir_all(made).unwrap();
        }
        std::fs::create_dir(lower.join("below")).unwrap();
        let upper = Upper { dir: &dir, work: &work, volatile: false };
        let mount = overlay(&[lower], Some(upper), None).unwrap();
        let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        assert!(root.join("below").is_dir());
        std::fs::create_dir(root.join("above")).unwrap();
        assert!(dir.join("above").is_dir());
        drop(mount);
        std::fs::remove_dir_all(&scratch).unwrap();
    }
}
