//! The file system of a container, mounted from inside its mount namespace, every target by
//! descriptor.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use wharf_sys::fs::{self, AtFlags, FileType, Mode, OFlags};
use wharf_sys::mount::{self, Attr, Fs, attr, propagation};
use wharf_sys::{errno, process};

use crate::cgroup::Cgroup;
use crate::failure::Failure;
use crate::plan::{DeviceKind, DevicePlan, MountKind, MountPlan, Pivot, Root, Rootfs};
use crate::tree::{self, Want};

/// Detached mounts that the creating process has opened, because the container's user may not:
/// the root, then sources by the index of their mount.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) root: Option<OwnedFd>,
    pub(crate) binds: Vec<(usize, OwnedFd)>,
    /// Nodes of `/dev` where `mknod` is not allowed.
    pub(crate) nodes: Vec<(usize, OwnedFd)>,
}

/// What is needed of the world around while mounting.
pub(crate) struct Mounter<'a> {
    pub(crate) plan: &'a Rootfs,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) cgroup_ns: bool,
    pub(crate) sources: Sources,
    /// Called before the first look at the container's cgroup, which is made meanwhile.
    pub(crate) before_cgroup: &'a mut dyn FnMut() -> Result<(), Failure>,
}

/// A root with everything mounted, not yet `/`.
pub(crate) struct Mounted {
    pub(crate) root: OwnedFd,
    /// The container's procfs, by the descriptor of its own making.
    pub(crate) proc: Option<OwnedFd>,
    /// The container's devpts, likewise.
    pub(crate) devpts: Option<OwnedFd>,
    null: OwnedFd,
}

impl Mounter<'_> {
    /// Mounts everything.
    pub(crate) fn mount(mut self) -> Result<Mounted, Failure> {
        self.leave_host_propagation()?;
        let null = host_null()?;
        let root = self.mount_root()?;
        let mut mounted = Mounted { root, proc: None, devpts: None, null };
        for (index, item) in self.plan.mounts.iter().enumerate() {
            self.mount_one(index, item, &mut mounted)?;
        }
        if self.plan.own_dev {
            self.fill_dev(&mounted)?;
        }
        Ok(mounted)
    }

    fn leave_host_propagation(&self) -> Result<(), Failure> {
        let change = Attr { propagation: self.plan.propagation, ..Attr::default() };
        mount::set_attr_at(c"/", true, change)
            .map_err(|e| Failure::step("set propagation of /", &e))?;
        if self.plan.propagation != propagation::SHARED {
            return Ok(());
        }
        // What is attached to a shared mount appears on the host: the mount that will carry the
        // root must not be shared.
        let carrier =
            self.plan.attach_at.ancestors().find(|dir| fs::is_mount_root(dir).unwrap_or(false));
        let path = cstring(carrier.unwrap_or(Path::new("/")))?;
        let private = Attr { propagation: propagation::PRIVATE, ..Attr::default() };
        mount::set_attr_at(&path, false, private)
            .map_err(|e| Failure::step("make the mount around the root private", &e))
    }

    fn mount_root(&mut self) -> Result<OwnedFd, Failure> {
        let root = match self.sources.root.take() {
            Some(root) => root,
            None => open_root(&self.plan.root, self.plan.label.as_deref())?,
        };
        let doing = || format!("mount rootfs at {}", self.plan.attach_at.display());
        let private = Attr { propagation: propagation::PRIVATE, ..Attr::default() };
        mount::set_attr(&root, false, private).map_err(|e| Failure::step(doing(), &e))?;
        let at = fs::openat(
            fs::CWD,
            &self.plan.attach_at,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| Failure::step(doing(), &e.into()))?;
        mount::attach(&root, &at).map_err(|e| Failure::step(doing(), &e))?;
        Ok(root)
    }

    fn mount_one(
        &mut self,
        index: usize,
        item: &MountPlan,
        mounted: &mut Mounted,
    ) -> Result<(), Failure> {
        let root = mounted.root.as_fd();
        match &item.kind {
            MountKind::Bind { source, recursive, .. } => {
                let given = self.sources.binds.iter().position(|(i, _)| *i == index);
                let tree = match given {
                    Some(at) => self.sources.binds.swap_remove(at).1,
                    None => open_bind(source, *recursive)?,
                };
                bind(root, item, tree, source)
            }
            MountKind::Fs { kind, source, options, copy_up } => {
                let inherited = covered_mode(root, item, kind, options);
                let target = fs_target(root, item, kind)?;
                // Its nodes are made first, and it is made read-only after that ([`Mounted::restrict`]).
                let keep = if is_dev(item) { attr::RDONLY } else { 0 };
                let attrs = item.attr.set & !keep;
                let label = self.plan.label.as_deref();
                let options: Vec<_> = options.iter().cloned().chain(inherited).collect();
                let made = new_fs(kind, source.as_deref(), &options, label, attrs)
                    .map_err(|e| step(item, kind, &e))?;
                if *copy_up {
                    copy_up_tree(root, &item.target, &made)
                        .map_err(|e| step(item, "tmpcopyup", &e))?;
                }
                attach(item, kind, &made, &target)?;
                match kind.as_str() {
                    "proc" if item.target == Path::new("/proc") => mounted.proc = Some(made),
                    "devpts" => mounted.devpts = Some(made),
                    _ => (),
                }
                Ok(())
            }
            MountKind::Cgroup => {
                (self.before_cgroup)()?;
                self.mount_cgroup(root, item)
            }
        }
    }

    fn mount_cgroup(&self, root: BorrowedFd<'_>, item: &MountPlan) -> Result<(), Failure> {
        let fail = |e: &io::Error| step(item, "cgroup", e);
        let target = tree::find_or_make(root, &item.target, Want::Dir).map_err(|e| fail(&e))?;
        match self.cgroup {
            Cgroup::V2(group) => {
                let tree = if self.cgroup_ns {
                    new_fs("cgroup2", None, &[], None, item.attr.set)
                } else {
                    mount::clone_tree(fs::CWD, group.dir(), false)
                };
                let tree = tree.map_err(|e| fail(&e))?;
                attach(item, "cgroup2", &tree, &target)
            }
            Cgroup::V1(trees) => {
                let options = [("mode".to_owned(), Some("755".to_owned()))];
                let flags = attr::NOSUID | attr::NODEV | attr::NOEXEC;
                let dir =
                    new_fs("tmpfs", Some("tmpfs"), &options, self.plan.label.as_deref(), flags)
                        .map_err(|e| fail(&e))?;
                for tree in trees.iter() {
                    self.mount_v1(&dir, tree, item).map_err(|e| fail(&e))?;
                }
                attach(item, "tmpfs", &dir, &target)
            }
        }
    }

    /// One v1 tree inside the not yet attached `/sys/fs/cgroup`.
    fn mount_v1(
        &self,
        dir: &OwnedFd,
        tree: &crate::cgroup::V1Tree,
        item: &MountPlan,
    ) -> io::Result<()> {
        fs::mkdirat(dir, tree.name.as_str(), Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let point = fs::openat(dir, tree.name.as_str(), flags, Mode::empty())?;
        let attrs = item.attr.set | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        let mounted = if self.cgroup_ns {
            // A new view of the tree, whose root is the root of the cgroup namespace.
            let options: Vec<(String, Option<String>)> = tree
                .controllers
                .iter()
                .map(|c| match c.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (c.clone(), None),
                })
                .collect();
            new_fs("cgroup", Some("cgroup"), &options, None, attrs)?
        } else {
            let copy = mount::clone_tree(fs::CWD, &tree.dir, false)?;
            let change =
                Attr { set: attrs, clear: item.attr.clear, propagation: propagation::PRIVATE };
            mount::set_attr(&copy, false, change)?;
            copy
        };
        mount::attach(&mounted, &point)?;
        // Programs look for each controller of a joint tree by its own name.
        for name in
            tree.controllers.iter().filter(|name| **name != tree.name && tree.controllers.len() > 1)
        {
            fs::symlinkat(tree.name.as_str(), dir, name.as_str())?;
        }
        Ok(())
    }

    fn fill_dev(&self, mounted: &Mounted) -> Result<(), Failure> {
        let dev = tree::plain_dir(mounted.root.as_fd(), Path::new("/dev"))
            .map_err(|e| Failure::step("open /dev of the container", &e))?;
        let old = process::umask(Mode::empty());
        for (index, device) in self.plan.devices.iter().enumerate() {
            self.make_device(index, device, mounted.root.as_fd(), &dev).map_err(|e| {
                Failure::step(format!("create device node {}", device.path.display()), &e)
            })?;
        }
        process::umask(old);
        let links = [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ];
        for (name, target) in links {
            link(&dev, name, target)?;
        }
        // Old kernels have it, and only then does it show anything.
        if Path::new("/proc/kcore").exists() {
            link(&dev, "core", "/proc/kcore")?;
        }
        if mounted.devpts.is_some() {
            replace_link(&dev, "ptmx", "pts/ptmx")?;
        }
        Ok(())
    }

    fn make_device(
        &self,
        index: usize,
        device: &DevicePlan,
        root: BorrowedFd<'_>,
        dev: &OwnedFd,
    ) -> io::Result<()> {
        if device.path == Path::new("/dev/ptmx") {
            // The container's own devpts gives it.
            return Ok(());
        }
        let inside = device.path.strip_prefix("/dev").ok().filter(|p| p.components().count() == 1);
        let (parent, name) = tree::split(&device.path)?;
        let made;
        let dir = match inside {
            Some(_) => dev,
            None => {
                made = tree::find_or_make(root, parent, Want::Dir)?;
                &made
            }
        };
        if let Some((_, node)) = self.sources.nodes.iter().find(|(i, _)| *i == index) {
            let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            drop(fs::openat(dir, name, flags, Mode::from_raw_mode(0o666))?);
            let point = fs::openat(
                dir,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            return mount::attach(node, &point);
        }
        let kind = match device.kind {
            DeviceKind::Char => FileType::CharacterDevice,
            DeviceKind::Block => FileType::BlockDevice,
            DeviceKind::Fifo => FileType::Fifo,
        };
        match fs::make_node(dir, name, kind, device.mode, device.number) {
            Err(e) if e.raw_os_error() == Some(errno::EXIST) => {
                // An image's own /dev without a tmpfs over it: the node must be the one asked for.
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let there = fs::openat(dir, name, flags, Mode::empty())?;
                let (major, minor) = device.number;
                return match device.kind {
                    DeviceKind::Char if !fs::is_char_device(there.as_fd(), major, minor)? => Err(e),
                    _ => Ok(()),
                };
            }
            other => other?,
        }
        match device.owner {
            (0, 0) => Ok(()),
            (uid, gid) => fs::chown_nofollow(dir, name, uid, gid),
        }
    }
}

impl Mounted {
    /// Puts a terminal on `/dev/console`, by descriptor: no path of the image or of `/dev/pts` is
    /// followed on the way (CVE-2025-52565).
    pub(crate) fn mount_console(&self, terminal: &OwnedFd) -> Result<(), Failure> {
        let fail = |e: &io::Error| Failure::step("mount the terminal at /dev/console", e);
        let dev = tree::plain_dir(self.root.as_fd(), Path::new("/dev")).map_err(|e| fail(&e))?;
        let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
        drop(
            fs::openat(&dev, "console", flags, Mode::from_raw_mode(0o620))
                .map_err(|e| fail(&e.into()))?,
        );
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let point =
            fs::openat(&dev, "console", flags, Mode::empty()).map_err(|e| fail(&e.into()))?;
        let tree = mount::clone_tree(terminal, Path::new(""), false).map_err(|e| fail(&e))?;
        mount::attach(&tree, &point).map_err(|e| fail(&e))
    }

    /// Opens a new terminal of the container's own devpts; the master side.
    pub(crate) fn open_terminal(&self) -> Result<OwnedFd, Failure> {
        let fail = |e: &io::Error| Failure::step("open a terminal in the container's /dev/pts", e);
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        if let Some(devpts) = &self.devpts {
            return fs::openat(devpts, "ptmx", flags, Mode::empty()).map_err(|e| fail(&e.into()));
        }
        open_ptmx(self.root.as_fd()).map_err(|e| fail(&e))
    }

    /// Hides paths and makes paths read-only.
    pub(crate) fn restrict(&self, plan: &Rootfs) -> Result<(), Failure> {
        for path in &plan.readonly_paths {
            self.make_readonly(path)
                .map_err(|e| Failure::step(format!("make {} read-only", path.display()), &e))?;
        }
        let readonly = |m: &MountPlan| is_dev(m) && m.attr.set & attr::RDONLY != 0;
        if plan.mounts.iter().any(readonly) {
            self.close_dev().map_err(|e| Failure::step("make /dev read-only", &e))?;
        }
        let mut empty = None;
        let first = |(n, path): &(usize, &PathBuf)| !plan.masked[..*n].contains(path);
        for (_, path) in plan.masked.iter().enumerate().filter(first) {
            self.mask(path, &mut empty)
                .map_err(|e| Failure::step(format!("mask {}", path.display()), &e))?;
        }
        Ok(())
    }

    fn close_dev(&self) -> io::Result<()> {
        let dev = tree::plain_dir(self.root.as_fd(), Path::new("/dev"))?;
        mount::set_attr(&dev, false, Attr { set: attr::RDONLY, ..Attr::default() })
    }

    fn make_readonly(&self, path: &Path) -> io::Result<()> {
        let Some(target) = self.optional(path)? else { return Ok(()) };
        let copy = mount::clone_tree(&target, Path::new(""), true)?;
        mount::set_attr(&copy, true, Attr { set: attr::RDONLY, ..Attr::default() })?;
        mount::attach(&copy, &target)
    }

    /// A directory is covered by an empty read-only tmpfs, one for all; a file by the host's null
    /// device, so that nothing of the image can stand in for it (CVE-2025-31133).
    fn mask(&self, path: &Path, empty: &mut Option<OwnedFd>) -> io::Result<()> {
        let Some(target) = self.optional(path)? else { return Ok(()) };
        let is_dir = FileType::from_raw_mode(fs::fstat(&target)?.st_mode) == FileType::Directory;
        if !is_dir {
            let copy = mount::clone_tree(&self.null, Path::new(""), false)?;
            return mount::attach(&copy, &target);
        }
        let copy = match empty {
            Some(first) => mount::clone_tree(&*first, Path::new(""), false)?,
            None => {
                let options = [("nr_blocks", "1"), ("nr_inodes", "1"), ("mode", "755")]
                    .map(|(k, v)| (k.to_owned(), Some(v.to_owned())));
                let made = new_fs("tmpfs", Some("tmpfs"), &options, None, attr::RDONLY)?;
                mount::attach(&made, &target)?;
                *empty = Some(made);
                return Ok(());
            }
        };
        mount::attach(&copy, &target)
    }

    fn optional(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        match tree::find(self.root.as_fd(), path) {
            Err(e) if [errno::NOENT, errno::NOTDIR].map(Some).contains(&e.raw_os_error()) => {
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Makes the root `/` and forgets the host's tree.
    pub(crate) fn enter(&self, plan: &Rootfs) -> Result<(), Failure> {
        let fail = |what: &str| {
            let what = what.to_owned();
            move |e: io::Error| Failure::step(what, &e)
        };
        if plan.readonly {
            let change = Attr { set: attr::RDONLY, ..Attr::default() };
            mount::set_attr(&self.root, false, change).map_err(fail("make the root read-only"))?;
        }
        process::fchdir(&self.root).map_err(|e| fail("enter the root")(e.into()))?;
        match plan.pivot {
            Pivot::Root => {
                let old = fs::openat(fs::CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|e| fail("open /")(e.into()))?;
                process::pivot_root(".", ".").map_err(|e| fail("pivot_root")(e.into()))?;
                if plan.propagation == propagation::SHARED {
                    // Or the unmount below would be passed on to the host.
                    let slave = Attr { propagation: propagation::SLAVE, ..Attr::default() };
                    mount::set_attr(&old, true, slave)
                        .map_err(fail("cut propagation to the host"))?;
                }
                mount::detach(Path::new(".")).map_err(fail("unmount the host's tree"))?;
            }
            Pivot::Chroot => {
                let here = fs::openat(fs::CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|e| fail("open /")(e.into()))?;
                mount::attach(&self.root, &here).map_err(fail("move the root to /"))?;
                process::chroot(".").map_err(|e| fail("chroot")(e.into()))?;
            }
        }
        process::chdir("/").map_err(|e| fail("chdir to /")(e.into()))?;
        self.set_root_propagation(plan)
    }

    fn set_root_propagation(&self, plan: &Rootfs) -> Result<(), Failure> {
        if plan.propagation == propagation::PRIVATE {
            return Ok(());
        }
        let change = Attr { propagation: plan.propagation, ..Attr::default() };
        mount::set_attr_at(c"/", false, change)
            .map_err(|e| Failure::step("set the root's propagation", &e))
    }
}

/// The root as a detached mount.
pub(crate) fn open_root(root: &Root, label: Option<&str>) -> Result<OwnedFd, Failure> {
    match root {
        Root::Dir(path) => mount::clone_tree(fs::CWD, path, true)
            .map_err(|e| Failure::step(format!("open rootfs {}", path.display()), &e)),
        Root::Overlay { lowers, upper, work, volatile } => {
            let upper = mount::Upper { dir: upper, work, volatile: *volatile };
            mount::overlay(lowers, Some(upper), label)
                .map_err(|e| Failure::step(format!("mount overlay on {}", upper.dir.display()), &e))
        }
    }
}

/// A bind mount's source as a detached mount.
pub(crate) fn open_bind(source: &Path, recursive: bool) -> Result<OwnedFd, Failure> {
    mount::clone_tree(fs::CWD, source, recursive)
        .map_err(|e| Failure::step(format!("open bind mount source {}", source.display()), &e))
}

/// The host's `/dev/null`, checked to be it.
fn host_null() -> Result<OwnedFd, Failure> {
    let fail = |e: &io::Error| Failure::step("open /dev/null", e);
    let null = fs::openat(fs::CWD, "/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| fail(&e.into()))?;
    match fs::is_char_device(null.as_fd(), 1, 3).map_err(|e| fail(&e))? {
        true => Ok(null),
        false => {
            Err(Failure::Refused { what: "/dev/null of the host is not the null device".into() })
        }
    }
}

/// `/dev/ptmx` of a container without a devpts of ours, checked to be the terminal multiplexer.
pub(crate) fn open_ptmx(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
    let path = tree::find(root, Path::new("/dev/ptmx"))?;
    if !fs::is_char_device(path.as_fd(), 5, 2)? {
        return Err(io::Error::other("/dev/ptmx is not a terminal multiplexer"));
    }
    fs::open_in_root(root, "/dev/ptmx", flags)
}

fn bind(
    root: BorrowedFd<'_>,
    item: &MountPlan,
    tree: OwnedFd,
    source: &Path,
) -> Result<(), Failure> {
    let what = source.display().to_string();
    let fail = |e: &io::Error| step(item, &what, e);
    let mode = fs::fstat(&tree).map_err(|e| fail(&e.into()))?.st_mode;
    let want =
        if FileType::from_raw_mode(mode) == FileType::Directory { Want::Dir } else { Want::File };
    let target = tree::find_or_make(root, &item.target, want).map_err(|e| fail(&e))?;
    refuse_inside_proc(item, &target)?;
    attach(item, &what, &tree, &target)
}

/// A link in the image may lead a target into procfs that the plan did not see there.
fn refuse_inside_proc(item: &MountPlan, target: &OwnedFd) -> Result<(), Failure> {
    let planned = item.target.starts_with("/proc");
    match fs::fs_magic(target.as_fd()) {
        Ok(fs::PROC_MAGIC) if !planned => Err(Failure::Refused {
            what: format!(
                "mount at {}: the path leads into /proc, where nothing may be mounted",
                item.target.display()
            ),
        }),
        Ok(_) => Ok(()),
        Err(e) => Err(step(item, "statfs", &e)),
    }
}

/// Sets a detached mount's attributes and puts it in its place.
fn attach(item: &MountPlan, what: &str, tree: &OwnedFd, target: &OwnedFd) -> Result<(), Failure> {
    let fail = |e: &io::Error| step(item, what, e);
    let (mut all, mut own): (Attr, Attr) = (item.recursive_attr.into(), item.attr.into());
    if !matches!(item.kind, MountKind::Bind { .. }) {
        // A new mount got its attributes when it was made, and is private.
        own = Attr::default();
    }
    match item.propagation {
        Some((kind, true)) => all.propagation = kind,
        Some((kind, false)) => own.propagation = kind,
        None => (),
    }
    if all != Attr::default() {
        mount::set_attr(tree, true, all).map_err(|e| fail(&e))?;
    }
    if own != Attr::default() {
        mount::set_attr(tree, false, own).map_err(|e| fail(&e))?;
    }
    mount::attach(tree, target).map_err(|e| fail(&e))
}

fn fs_target(root: BorrowedFd<'_>, item: &MountPlan, kind: &str) -> Result<OwnedFd, Failure> {
    let special = [Path::new("/proc"), Path::new("/sys"), Path::new("/dev")];
    if special.contains(&item.target.as_path()) {
        return tree::plain_dir(root, &item.target).map_err(|e| {
            if e.raw_os_error() == Some(errno::NOTDIR) {
                let what = format!(
                    "filesystem {kind:?} must be mounted on ordinary directory, and {} of the image is none",
                    item.target.display()
                );
                Failure::Refused { what }
            } else {
                step(item, kind, &e)
            }
        });
    }
    let target =
        tree::find_or_make(root, &item.target, Want::Dir).map_err(|e| step(item, kind, &e))?;
    refuse_inside_proc(item, &target)?;
    Ok(target)
}

/// The file system that becomes `/dev`.
fn is_dev(item: &MountPlan) -> bool {
    item.target == Path::new("/dev") && matches!(item.kind, MountKind::Fs { .. })
}

/// A tmpfs without a mode of its own has that of the directory that it covers, as with runc; one that covers none has the
/// kernel's, 1777.
fn covered_mode(
    root: BorrowedFd<'_>,
    item: &MountPlan,
    kind: &str,
    options: &[(String, Option<String>)],
) -> Option<(String, Option<String>)> {
    if kind != "tmpfs" || options.iter().any(|(key, _)| key == "mode") {
        return None;
    }
    let covered = tree::find(root, &item.target).and_then(|dir| Ok(fs::fstat(dir)?)).ok()?;
    let mode = covered.st_mode;
    let is_dir = FileType::from_raw_mode(mode) == FileType::Directory;
    is_dir.then(|| ("mode".to_owned(), Some(format!("{:o}", mode & 0o7777))))
}

/// A new file system as a detached mount.
pub(crate) fn new_fs(
    kind: &str,
    source: Option<&str>,
    options: &[(String, Option<String>)],
    label: Option<&str>,
    attrs: u64,
) -> io::Result<OwnedFd> {
    let mut fs = Fs::open(kind)?;
    if let Some(source) = source.filter(|s| !s.is_empty()) {
        fs.set("source", source)?;
    }
    let mut lowers = Vec::new();
    for (key, value) in options {
        let text = value.as_deref().unwrap_or_default();
        match key.as_str() {
            "lowerdir" if kind == "overlay" => lowers.extend(lower_dirs(text)),
            "lowerdir+" if kind == "overlay" => lowers.push(text.into()),
            "upperdir" | "workdir" if kind == "overlay" => {
                fs.set_dir(key, Path::new(text)).map_err(|e| explain(e, &fs, key))?;
            }
            _ => set_option(&fs, key, value.as_deref()).map_err(|e| explain(e, &fs, key))?,
        }
    }
    if !lowers.is_empty() {
        let all = lowers.iter().map(PathBuf::as_path);
        fs.set_lowers(all).map_err(|e| explain(e, &fs, "lowerdir"))?;
    }
    if let Some(label) = label.filter(|_| matches!(kind, "tmpfs" | "mqueue")) {
        fs.set("context", label)?;
    }
    fs.mount(attrs).map_err(|e| explain(e, &fs, kind))
}

fn set_option(fs: &Fs, key: &str, value: Option<&str>) -> io::Result<()> {
    match value {
        Some(value) => fs.set(key, value),
        None => fs.flag(key),
    }
}

/// The directories in the value of `lowerdir`: apart by colons; a backslash makes the next character an ordinary one.
fn lower_dirs(value: &str) -> Vec<PathBuf> {
    let (mut all, mut one) = (Vec::new(), String::new());
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => one.extend(characters.next()),
            ':' => all.push(std::mem::take(&mut one).into()),
            c => one.push(c),
        }
    }
    all.push(one.into());
    all
}

/// The kernel says in words what is wrong with an option.
fn explain(error: io::Error, fs: &Fs, _key: &str) -> io::Error {
    let log = fs.log();
    if !log.is_empty() {
        tracing::debug!(%log, "mount refused");
    }
    error
}

/// Copies what the image has at a path into the new tmpfs that is to cover it.
fn copy_up_tree(root: BorrowedFd<'_>, path: &Path, into: &OwnedFd) -> io::Result<()> {
    match fs::open_in_root(root, path, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(from) => {
            let old = process::umask(Mode::empty());
            let copied = crate::copy::tree(&from, into);
            process::umask(old);
            copied
        }
        Err(e) if e.raw_os_error() == Some(errno::NOENT) => Ok(()),
        Err(e) => Err(e),
    }
}

fn link(dev: &OwnedFd, name: &str, target: &str) -> Result<(), Failure> {
    match fs::symlinkat(target, dev, name) {
        Err(e) if e.raw_os_error() != errno::EXIST => {
            Err(Failure::step(format!("link /dev/{name}"), &e.into()))
        }
        _ => Ok(()),
    }
}

fn replace_link(dev: &OwnedFd, name: &str, target: &str) -> Result<(), Failure> {
    match fs::unlinkat(dev, name, AtFlags::empty()) {
        Err(e) if e.raw_os_error() != errno::NOENT => {
            Err(Failure::step(format!("replace /dev/{name}"), &e.into()))
        }
        _ => link(dev, name, target),
    }
}

fn step(item: &MountPlan, what: &str, error: &io::Error) -> Failure {
    Failure::step(
        format!("error mounting {what:?} to rootfs at {:?}", item.target.display()),
        error,
    )
}

fn cstring(path: &Path) -> Result<CString, Failure> {
    CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| Failure::Refused { what: "a path holds a null byte".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_directories_are_apart_by_colons() {
        for (value, expected) in
            [("/a", &["/a"][..]), ("/a:/b", &["/a", "/b"]), (r"/a\:b:/c\\d", &["/a:b", r"/c\d"])]
        {
            let found = lower_dirs(value);
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(found, expected, "{value}");
        }
    }
}
