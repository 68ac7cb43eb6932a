//! Network namespaces of containers: making them ahead of need, and working inside them.
//!
//! A namespace is kept by descriptors alone: this daemon's, the keeper's, and the processes that run in
//! it. A file to which it is bound would need a mount that someone must undo after a crash, and unmounting is slow;
//! a descriptor needs nothing. After `kill -9` of the daemon the container holds its namespace, and the next
//! daemon takes it back from `/proc/<pid>/ns/net`; when container and daemon are both gone, so is the namespace with its interfaces.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;
use wharf_base::sync::Mutex;
use wharf_sys::netlink::route::{LinkChange, LinkRef};
use wharf_sys::netlink::{Batch, Family, Socket, netns};

use crate::dns::{Rules, Sockets};

/// A network namespace, with a socket for its interfaces, addresses and routes.
#[derive(Debug)]
pub(crate) struct Namespace {
    fd: OwnedFd,
    route: Mutex<Socket>,
    /// Made with the namespace, where it costs no container's start anything.
    resolver: Mutex<Option<Sockets>>,
}

/// Docker's defaults for a namespace of a container; IPv6 is off until a network has it, and no
/// neighbour configures it by router advertisements (CVE-2020-13401).
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
];

impl Namespace {
    /// Makes a namespace: loopback up, default sysctls set.
    pub(crate) fn create() -> io::Result<Namespace> {
        // `unshare` moves the thread that calls it, so a thread is spent on it.
        on_own_thread(|| {
            netns::unshare()?;
            let mut route = Socket::open(Family::Route)?;
            let mut batch = Batch::new();
            let up = LinkChange { up: Some(true), ..LinkChange::default() };
            batch.change_link(LinkRef::Name("lo"), &up);
            route.execute(batch)?;
            for (name, value) in SYSCTLS {
                write_if_there(name, value)?;
            }
            let resolver = Mutex::new(Some(Sockets::open(Rules::Fresh)?));
            Ok(Namespace { fd: netns::current()?, route: Mutex::new(route), resolver })
        })
    }

    /// Takes over a namespace that a container already runs in.
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<Namespace> {
        let route = netns::within(fd.as_fd(), || Socket::open(Family::Route))??;
        Ok(Namespace { fd, route: Mutex::new(route), resolver: Mutex::default() })
    }

    /// The namespace, for `setns`.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The socket inside.
    pub(crate) fn route(&self) -> &Mutex<Socket> {
        &self.route
    }

    /// The sockets of the resolver, if they were made ahead and not taken yet.
    pub(crate) fn take_resolver(&self) -> Option<Sockets> {
        self.resolver.lock().take()
    }

    /// Writes sysctls inside. Names of families that the kernel lacks are an error.
    pub(crate) fn write_sysctls(&self, pairs: &[(String, String)]) -> io::Result<()> {
        if pairs.is_empty() {
            return Ok(());
        }
        netns::within(self.fd(), || {
            pairs.iter().try_for_each(|(name, value)| {
                netns::write_sysctl(name, value).map_err(|e| {
                    io::Error::new(e.kind(), format!("{}: {e}", name.replace('/', ".")))
                })
            })
        })?
    }
}

/// A few namespaces made ahead, while containers are being started one after the other.
///
/// Empty until the first container, and empty again some seconds after the last, so an idle engine
/// holds nothing.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    ready: Mutex<Ready>,
    taken: Notify,
}

#[derive(Debug, Default)]
struct Ready {
    spare: Vec<Arc<Namespace>>,
    kept: bool,
}

/// What the caller should do to keep the pool going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upkeep {
    /// Nothing: someone is at it.
    None,
    /// Run [`Pool::keep`].
    Start,
}

impl Pool {
    const SPARE: usize = 3;

    /// A spare namespace, or a new one.
    pub(crate) fn take(&self) -> io::Result<(Arc<Namespace>, Upkeep)> {
        let (spare, upkeep) = {
            let mut ready = self.ready.lock();
            let kept = std::mem::replace(&mut ready.kept, true);
            (ready.spare.pop(), if kept { Upkeep::None } else { Upkeep::Start })
        };
        self.taken.notify_one();
        match spare {
            Some(ns) => Ok((ns, upkeep)),
            None => Ok((Arc::new(Namespace::create()?), upkeep)),
        }
    }

    /// Keeps spares until none has been taken for `idle`. Blocks other work of its thread no longer
    /// than a namespace takes to make.
    pub(crate) async fn keep(self: Arc<Pool>, idle: Duration) {
        loop {
            let pool = self.clone();
            tokio::task::spawn_blocking(move || pool.refill()).await.ok();
            if tokio::time::timeout(idle, self.taken.notified()).await.is_err() {
                break;
            }
        }
        let gone = {
            let mut ready = self.ready.lock();
            ready.kept = false;
            std::mem::take(&mut ready.spare)
        };
        drop(gone);
    }

    fn refill(&self) {
        while self.ready.lock().spare.len() < Self::SPARE {
            // Whoever needs a namespace and cannot get one reports why.
            let Ok(ns) = Namespace::create() else { return };
            self.ready.lock().spare.push(Arc::new(ns));
        }
    }
}

fn write_if_there(name: &str, value: &str) -> io::Result<()> {
    match netns::write_sysctl(name, value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn on_own_thread<T: Send + 'static>(
    f: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    const STACK: usize = 64 << 10;
    let worker = thread::Builder::new().name("netns".into()).stack_size(STACK).spawn(f)?;
    worker.join().unwrap_or_else(|_| Err(io::Error::other("panic while making a namespace")))
}
