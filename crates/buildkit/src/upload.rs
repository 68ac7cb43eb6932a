//! Build contexts that are no directory of the client: what it reads from its standard input, and what is at an address.

use std::path::Path;
use std::sync::Arc;

use tonic::Status;
use wharf_base::error::chain;
use wharf_build::{BuildError, Fetched, GitAddress, Tree};
use wharf_image::{ByteStream, without_password};

use crate::builds::Build;
use crate::kit::BuildKit;
use crate::options::{Options, boolean};
use crate::remote::{self, Remote};
use crate::session::Session;

/// The address of the client's standard input.
pub(crate) const STDIN: &str = "http://buildkit-session";

/// A context that came as a whole.
pub(crate) struct Upload {
    /// All of it, where the Dockerfile is.
    pub(crate) whole: Tree,
    /// The part of it that is the build context.
    pub(crate) context: Tree,
}

/// Brings the context that the options name, if it is no directory.
pub(crate) async fn load(
    kit: &BuildKit,
    build: &Build,
    session: &Arc<Session>,
    options: &mut Options,
) -> Result<Option<Upload>, Status> {
    let Some(url) = options.context.clone() else {
        return match &options.subdir {
            None => Ok(None),
            Some(dir) => Err(Status::unimplemented(format!(
                "contextsubdir {dir:?} is for remote contexts: name the directory itself"
            ))),
        };
    };
    let task = build.journal.task("[internal] load remote build context");
    let load = async {
        let whole = match build.context() {
            Some(tree) => tree,
            None => fetch(kit, session, &url, options).await?,
        };
        let context = match &options.subdir {
            None => whole.clone(),
            Some(dir) => below(&whole, dir)?,
        };
        Ok(Some(Upload { whole, context }))
    };
    let loaded = load.await;
    task.end(loaded)
}

async fn fetch(
    kit: &BuildKit,
    session: &Arc<Session>,
    url: &str,
    options: &mut Options,
) -> Result<Tree, Status> {
    if let Some(path) = url.strip_prefix(STDIN) {
        let upload = remote::upload(session, path).await?;
        return unpack(kit, upload).await;
    }
    if GitAddress::is_one(url) {
        let keep = options.request.args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
        let keep = keep.and_then(|v| boolean(v)).unwrap_or(false);
        return repository(kit, &Remote(session.clone()), url, keep).await;
    }
    match archive(kit, url).await? {
        Fetched::Archive(tree) => Ok(tree),
        Fetched::Dockerfile(tree) => {
            // Whatever name was given.
            options.filename = "Dockerfile".into();
            Ok(tree)
        }
    }
}

/// Fetches what is at a web address.
pub(crate) async fn archive(kit: &BuildKit, url: &str) -> Result<Fetched, Status> {
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        return Err(Status::unimplemented(format!(
            "wharf does not fetch {}: give the address of an archive, a Dockerfile or a repository",
            without_password(url)
        )));
    }
    kit.builder().fetch(url).await.map_err(|e| Status::unknown(chain(&e).to_string()))
}

/// Fetches a repository, or the directory of it that its address names.
pub(crate) async fn repository(
    kit: &BuildKit,
    secrets: &Remote,
    url: &str,
    keep: bool,
) -> Result<Tree, Status> {
    let failed = |e: BuildError| Status::unknown(chain(&e).to_string());
    let address = GitAddress::parse(url).map_err(failed)?;
    kit.builder().repository(&address, keep, secrets).await.map_err(failed)
}

async fn unpack(kit: &BuildKit, body: ByteStream) -> Result<Tree, Status> {
    kit.builder().unpack(body).await.map_err(|e| Status::unknown(chain(&e).to_string()))
}

/// A directory of a tree, none of whose parts is a link.
fn below(tree: &Tree, dir: &str) -> Result<Tree, Status> {
    let mut at = tree.clone();
    for name in Path::new(dir.trim_start_matches('/')).iter() {
        at = at.sub(&name.to_string_lossy()).map_err(|e| Status::unknown(chain(&e).to_string()))?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_tree_is_no_link_out_of_it() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("a/l")).unwrap();
        let tree = Tree::new(dir.path().to_owned(), ()).unwrap();
        assert_eq!(below(&tree, "/a/b").unwrap().path(), dir.path().join("a/b"));
        for path in ["a/l", "..", "a/../..", "none"] {
            assert!(below(&tree, path).is_err(), "{path}");
        }
    }
}
