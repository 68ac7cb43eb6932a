//! A container's file system with its volumes, entered for one piece of work and left without a trace.
//!
//! A running container's own tree is used. For one that does not run, a thread leaves the host's mount
//! namespace, puts overlay and volumes together where nobody else sees them, works, and ends, which takes
//! the mounts away. Lookups are confined to the tree by the kernel ([`Root`]); nothing is executed in it.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wharf_sys::mount::{self, Attr, Fs, Upper, attr, propagation};
use wharf_sys::process::{NEWNS, unshare};
use wharf_sys::root::Root;

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::record::Record;
use crate::spec::mounts::{HostMount, Source};

/// What a tree is entered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Reading. The container may be started meanwhile, so its own layer must not be mounted for writing.
    Read,
    /// Writing. The caller holds the turn of a container that does not run.
    Write,
}

impl Inner {
    /// Runs `work` on the tree of `c`. Blocks.
    pub(crate) fn confined<T: Send>(
        self: &Arc<Self>,
        c: &Container,
        purpose: Purpose,
        work: impl FnOnce(&Root) -> Result<T> + Send,
    ) -> Result<T> {
        if let Some(run) = c.state().run() {
            let root = Root::open(format!("/proc/{}/root", run.pid).as_ref())
                .map_err(|e| EngineError::conflict("the container has just ended").because(e))?;
            // The number may belong to another process by now.
            if c.state().run() == Some(run) {
                return work(&root);
            }
        }
        let record = c.record();
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                let root = self.assemble(&record, purpose)?;
                work(&root)
            });
            entered.join().unwrap_or_else(|_| {
                Err(EngineError::system("copy in a container", "the copying thread panicked"))
            })
        })
    }

    /// Called in a thread of its own, which ends after the work.
    fn assemble(&self, record: &Record, purpose: Purpose) -> Result<Root> {
        let failed = |what: &str| {
            let what = format!("look into container {}: {what}", record.id.short());
            move |e: std::io::Error| EngineError::system(what, e)
        };
        let stage = self.config.exec_root.join("stage");
        wharf_base::fs::private_dir(&stage).map_err(failed("make a place to mount on"))?;
        // unshare of the mount namespace implies that of the working directory.
        unshare(NEWNS).map_err(failed("leave the host's mounts"))?;
        let private = Attr { propagation: propagation::PRIVATE, ..Attr::default() };
        mount::set_attr_at(c"/", true, private).map_err(failed("make mounts private"))?;
        let overlay = match purpose {
            Purpose::Write => self.writable(record),
            Purpose::Read => self.readable(record, &stage),
        };
        let overlay = overlay.map_err(failed("mount its layers"))?;
        let on = File::open(&stage).map_err(failed("open the place to mount on"))?;
        mount::attach(&overlay, on).map_err(failed("attach its layers"))?;
        let root = Root::open(&stage).map_err(failed("open its root"))?;
        if purpose == Purpose::Read {
            furnish(&root).map_err(failed("furnish it"))?;
        }
        for m in self.host_mounts_quietly(record) {
            attach(&root, &m).map_err(failed(&format!("mount {}", m.destination)))?;
        }
        if record.host.readonly_rootfs {
            set_read_only(&overlay, false).map_err(failed("make its root read-only"))?;
        }
        Ok(root)
    }

    fn writable(&self, record: &Record) -> std::io::Result<std::os::fd::OwnedFd> {
        let dir = self.dir(&record.id);
        let lowers = self.lowers(record).map_err(|e| std::io::Error::other(e.message()))?;
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        let volatile = record.host.auto_remove;
        mount::overlay(&lowers, Some(Upper { dir: &upper, work: &work, volatile }), None)
    }

    /// All of the container's layers as they are, with an empty one in memory above them, which takes the
    /// mount points that the image does not have.
    fn readable(&self, record: &Record, stage: &Path) -> std::io::Result<std::os::fd::OwnedFd> {
        let memory = Fs::open("tmpfs")?;
        memory.set("source", "tmpfs")?;
        memory.set("mode", "0700")?;
        mount::attach(&memory.mount(0)?, File::open(stage)?)?;
        let (upper, work) = (stage.join("upper"), stage.join("work"));
        std::fs::create_dir(&upper)?;
        std::fs::create_dir(&work)?;
        let own = self.dir(&record.id).join("upper");
        // The root directory of the merged tree is that of the top layer.
        let top = std::fs::metadata(&own)?;
        std::fs::set_permissions(&upper, top.permissions())?;
        let lowers = self.lowers(record).map_err(|e| std::io::Error::other(e.message()))?;
        let all: Vec<_> = std::iter::once(own).chain(lowers).collect();
        mount::overlay(&all, Some(Upper { dir: &upper, work: &work, volatile: true }), None)
    }

    /// What of the container's mounts has content that outlives it. A source that is gone is left out.
    fn host_mounts_quietly(&self, record: &Record) -> Vec<HostMount> {
        let mut out = self.host_mounts(record).unwrap_or_default();
        out.retain(|m| matches!(&m.source, Source::Path { path, .. } if path.exists()));
        out.sort_by_key(|m| m.destination.matches('/').count());
        out
    }
}

/// What a start makes where an image lacks it. With Docker it is there, empty, from the creation on.
fn furnish(root: &Root) -> std::io::Result<()> {
    for dir in ["/dev/pts", "/dev/shm", "/proc", "/sys"] {
        if root.lstat(Path::new(dir)).is_err() {
            root.make_dirs(Path::new(dir), 0o755)?;
        }
    }
    let files = [
        "/.dockerenv",
        "/dev/console",
        "/etc/hostname",
        "/etc/hosts",
        "/etc/mtab",
        "/etc/resolv.conf",
    ];
    for path in files.map(Path::new) {
        // A directory of it may be a link that leads nowhere; then the start cannot make it either.
        let Some((dir, name)) = path.parent().zip(path.file_name()) else { continue };
        if root.lstat(path).is_err()
            && let Ok(dir) = root.make_dirs(dir, 0o755)
        {
            match name.as_encoded_bytes() {
                b"mtab" => dir.symlink(name, "/proc/mounts".as_ref())?,
                _ => drop(dir.create(name, 0o755)?),
            }
        }
    }
    Ok(())
}

fn attach(root: &Root, m: &HostMount) -> std::io::Result<()> {
    let Source::Path { path, recursive } = &m.source else { return Ok(()) };
    let tree = mount::clone_tree(wharf_sys::fs::CWD, path, *recursive)?;
    if !m.access.is_write() {
        set_read_only(&tree, true)?;
    }
    let at = Path::new(&m.destination);
    let target = target(root, at, path.is_dir())?;
    mount::attach(tree, target)
}

/// The mount point, made if the image does not have it, as the runtime does at the start.
fn target(root: &Root, at: &Path, dir: bool) -> std::io::Result<std::os::fd::OwnedFd> {
    use wharf_sys::fs::{OFlags, open_in_root};
    if dir {
        root.make_dirs(at, 0o755)?;
    } else if root.stat(at).is_err() {
        let parent: PathBuf = at.parent().map(Path::to_owned).unwrap_or_default();
        let parent = root.make_dirs(&parent, 0o755)?;
        if let Some(name) = at.file_name() {
            parent.create(name, 0o644)?;
        }
    }
    open_in_root(root.as_fd(), at, OFlags::PATH | OFlags::CLOEXEC)
}

fn set_read_only(mount: &std::os::fd::OwnedFd, recursive: bool) -> std::io::Result<()> {
    mount::set_attr(mount, recursive, Attr { set: attr::RDONLY, ..Attr::default() })
}
