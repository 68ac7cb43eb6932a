//! Build contexts that are no directory of the client: what it reads from its standard input, and what is at an address.

use std::path::Path;

use futures_util::StreamExt as _;
use tonic::Status;
use wharf_base::error::chain;
use wharf_build::Tree;
use wharf_image::ByteStream;

use crate::builds::Build;
use crate::kit::BuildKit;
use crate::options::Options;
use crate::remote;
use crate::session::Session;

/// The address of the client's standard input.
const STDIN: &str = "http://buildkit-session";
/// The largest file that is taken for a Dockerfile.
const MAX_DOCKERFILE: usize = 16 << 20;

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
    session: &Session,
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
        let whole = fetch(kit, session, &url, options).await?;
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
    session: &Session,
    url: &str,
    options: &mut Options,
) -> Result<Tree, Status> {
    if let Some(path) = url.strip_prefix(STDIN) {
        let upload = remote::upload(session, path).await?;
        return unpack(kit, upload).await;
    }
    if !(url.starts_with("http://") || url.starts_with("https://")) || is_git(url) {
        return Err(Status::unimplemented(format!(
            "wharf does not fetch git repositories itself: clone {} and build the directory",
            without_password(url)
        )));
    }
    let body = kit.images().store().download(url).await.map_err(|e| {
        Status::unknown(format!("cannot fetch {}: {}", without_password(url), chain(&e)))
    })?;
    let mut body = body.peekable();
    let head = std::pin::Pin::new(&mut body).peek().await;
    if matches!(head, Some(Ok(bytes)) if is_archive(bytes)) {
        return unpack(kit, body.boxed()).await;
    }
    // A Dockerfile rather than a context, whatever name was given.
    let mut whole = Vec::new();
    while let Some(bytes) = body.next().await {
        whole.extend_from_slice(&bytes.map_err(|e| Status::unknown(e.to_string()))?);
        if whole.len() > MAX_DOCKERFILE {
            return Err(Status::unknown(format!(
                "what is at {} is neither an archive nor a Dockerfile",
                without_password(url)
            )));
        }
    }
    options.filename = "Dockerfile".into();
    let tree = kit.builder().single_file("Dockerfile", whole).await;
    tree.map_err(|e| Status::unknown(chain(&e).to_string()))
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

fn is_archive(head: &[u8]) -> bool {
    let compressed: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    compressed.iter().any(|magic| head.starts_with(magic))
        || head.get(257..262).is_some_and(|magic| magic == b"ustar")
}

fn is_git(url: &str) -> bool {
    url.split(['#', '?']).next().unwrap_or(url).ends_with(".git")
}

/// An address for people to read.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_and_shown_without_passwords() {
        assert!(is_git("https://x/y.git#v1:sub") && !is_git("https://x/y.tar.gz"));
        assert_eq!(without_password("https://me:secret@x/y?a@b"), "https://x/y?a@b");
        assert_eq!(without_password("git@host:x"), "git@host:x");
        assert!(is_archive(b"\x1f\x8b\x08") && !is_archive(b"FROM scratch"));
    }

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
