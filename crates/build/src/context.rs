//! Where the files of a build come from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use wharf_sys::root::Root;

/// A source of files: the build context, or a named one.
///
/// An implementation over a network fetches lazily and may give more than was asked for, never less. Calls
/// come concurrently from stages that run in parallel. Every tree of one context shows the same snapshot of a
/// file: what was given once does not change under its readers.
pub trait Context: Send + Sync {
    /// A directory that holds what `want` selects, as far as it exists.
    fn fetch<'a>(&'a self, want: &'a Want) -> BoxFuture<'a, Result<Tree, ContextError>>;
}

/// Which files are needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Want {
    /// Paths or patterns relative to the context's root (Go's `filepath.Match`, and `**`); with a directory comes
    /// everything below it. Empty: everything.
    pub include: Vec<String>,
    /// `.dockerignore` patterns; the last that matches wins, `!` takes back.
    pub exclude: Vec<String>,
    /// Paths whose symbolic links are wanted together with what they point to, inside the context.
    pub follow: Vec<String>,
}

/// Files in a directory of this host. Clones share it; the directory may go when the last clone is dropped.
#[derive(Clone)]
pub struct Tree(Arc<Held>);

struct Held {
    path: PathBuf,
    root: Root,
    _guard: Box<dyn Send + Sync>,
}

/// Files could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The client, or whoever has the files, gave an error.
    #[error("{0}")]
    Source(String),
    /// They could not be stored here.
    #[error("cannot {action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Tree {
    /// The files below `path`. `guard` is dropped with the last clone: a temporary directory, a lease, a lock.
    pub fn new(path: PathBuf, guard: impl Send + Sync + 'static) -> std::io::Result<Tree> {
        let root = Root::open(&path)?;
        Ok(Tree(Arc::new(Held { path, root, _guard: Box::new(guard) })))
    }

    /// The same of a directory that is open already.
    pub(crate) fn opened(path: PathBuf, root: Root, guard: impl Send + Sync + 'static) -> Tree {
        Tree(Arc::new(Held { path, root, _guard: Box::new(guard) }))
    }

    /// The directory `name` of it, which must be one itself. It keeps the whole.
    pub fn sub(&self, name: &str) -> Result<Tree, ContextError> {
        let path = self.path().join(name);
        let failed = |source| ContextError::Io { action: "open", path: path.clone(), source };
        // A link would lead out of what the client sent.
        let dir = self.root().top().and_then(|top| top.dir(name.as_ref())).map_err(failed)?;
        Ok(Tree(Arc::new(Held {
            path: path.clone(),
            root: Root::from_fd(dir.into()),
            _guard: Box::new(self.clone()),
        })))
    }

    /// Where it is on this host.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// For look-ups that never leave it.
    pub fn root(&self) -> &Root {
        &self.0.root
    }
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tree").field(&self.0.path).finish()
    }
}

/// A context without files, as when a Dockerfile comes alone.
#[derive(Debug, Clone, Copy)]
pub struct Empty;

impl Context for Empty {
    fn fetch<'a>(&'a self, _want: &'a Want) -> BoxFuture<'a, Result<Tree, ContextError>> {
        Box::pin(async {
            Err(ContextError::Source(
                "this build has no context: nothing can be copied from it".into(),
            ))
        })
    }
}

/// A directory of this host, taken as it is.
impl Context for Tree {
    fn fetch<'a>(&'a self, _want: &'a Want) -> BoxFuture<'a, Result<Tree, ContextError>> {
        Box::pin(async { Ok(self.clone()) })
    }
}
