//! Looking into a container's file system from outside, without running anything in it.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wharf_base::sync::Mutex;
use wharf_sys::mount::Fs;
use wharf_sys::root::Root;

use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::preflight;
use crate::record::Record;
use crate::spec::user::{Accounts, MAX_FILE, ResolvedUser};

/// Account files of images whose containers have not changed them, by image id.
#[derive(Debug, Default)]
pub(crate) struct AccountCache(Mutex<HashMap<String, Arc<Accounts>>>);

/// Images whose accounts are kept.
const CACHED: usize = 64;

impl Inner {
    /// Who `spec` names in the container's own passwd and group files.
    pub(crate) fn user(&self, record: &Record, spec: &str) -> Result<ResolvedUser> {
        let add = record.host.group_add.as_deref().unwrap_or_default();
        self.accounts_of(record)?.resolve(spec, add)
    }

    /// The files come out of the layers; they are read again only where the container has an `/etc` of its own.
    fn accounts_of(&self, record: &Record) -> Result<Arc<Accounts>> {
        let changed = self.dir(&record.id).join("upper/etc").symlink_metadata().is_ok();
        if !changed && let Some(found) = self.accounts.0.lock().get(&record.image) {
            return Ok(found.clone());
        }
        let root = self.look(record)?;
        let accounts = Arc::new(Accounts {
            passwd: text(&root, "etc/passwd")?,
            group: text(&root, "etc/group")?,
        });
        if !changed {
            let mut cache = self.accounts.0.lock();
            if cache.len() >= CACHED {
                cache.clear();
            }
            cache.insert(record.image.clone(), accounts.clone());
        }
        Ok(accounts)
    }

    /// The file system of a container that does not run, read-only. It has no place in any mount
    /// namespace and goes when it is dropped.
    pub(crate) fn look(&self, record: &Record) -> Result<Root> {
        let upper = self.dir(&record.id).join("upper");
        let lowers = self.lowers(record)?;
        merged(std::iter::once(&upper).chain(&lowers))
    }

    /// Why the container's program cannot run, if its file system tells.
    pub(crate) fn preflight(&self, record: &Record) -> Option<String> {
        let root = self.look(record).ok()?;
        let exists = |path: &str| root.stat(Path::new(path)).is_ok();
        let (program, _) = record.command();
        let path =
            preflight::candidates(&program, &record.config).into_iter().find(|p| exists(p))?;
        let mut head = Vec::new();
        let file = root.read(Path::new(&path)).ok()?;
        file.take(preflight::HEAD).read_to_end(&mut head).ok()?;
        preflight::diagnose(&path, &head, &exists)
    }
}

/// A read-only stack of directories, top first, as a tree.
pub(crate) fn merged<'a>(layers: impl Iterator<Item = &'a PathBuf>) -> Result<Root> {
    let layers: Vec<&PathBuf> = layers.collect();
    let failed = |e| EngineError::system("look into the container's layers", e);
    match layers.as_slice() {
        [one] => Root::open(one).map_err(failed),
        many => overlay(many).map(Root::from_fd).map_err(failed),
    }
}

fn overlay(layers: &[&PathBuf]) -> io::Result<OwnedFd> {
    let mut fs = Fs::open("overlay")?;
    fs.set("source", "overlay")?;
    fs.set_lowers(layers.iter().map(|l| l.as_path()))?;
    fs.mount(wharf_sys::mount::attr::RDONLY | wharf_sys::mount::attr::NODEV)
}

/// A small text file of the tree; missing is empty, larger than any real one is refused.
fn text(root: &Root, path: &str) -> Result<String> {
    let failed = |e| EngineError::system(format!("read /{path} of the container"), e);
    let file = match root.read(Path::new(path)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(failed(e)),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(EngineError::invalid(format!(
            "/{path} of the container is larger than {MAX_FILE} bytes and is not read"
        )));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
