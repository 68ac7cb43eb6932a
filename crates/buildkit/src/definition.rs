//! The files that say what to build: the Dockerfile and the ignore files.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tonic::{Code, Status};
use wharf_build::{Tree, Want, read_small};
use wharf_spec::dockerfile::ignore::Ignore;
use wharf_sys::root::Root;

use crate::contexts::{Contexts, Snapshot};
use crate::journal::{Journal, Part};
use crate::proto::pb;
use crate::remote::{self, broken};
use crate::session::Session;

/// The ignore file of a context, and the end of the name of one beside a Dockerfile.
const IGNORE: &str = ".dockerignore";
/// The largest Dockerfile or ignore file.
const MAX_FILE: u64 = 8 << 20;

/// Where the files are.
pub(crate) struct Place<'a> {
    pub(crate) session: &'a Session,
    /// The session's name for the directory.
    pub(crate) dir: &'a str,
    pub(crate) contexts: &'a Contexts,
    pub(crate) journal: &'a Arc<Journal>,
}

/// A Dockerfile, and the ignore file beside it.
pub(crate) async fn dockerfile(
    place: &Place<'_>,
    name: &str,
) -> Result<(pb::SourceInfo, Option<Vec<u8>>), Status> {
    let task = place.journal.task(format!("[internal] load build definition from {name}"));
    let beside = format!("{name}{IGNORE}");
    let lower = lower_case(name);
    let read = async {
        let follow = [name.to_owned(), beside.clone()].into_iter().chain(lower.clone()).collect();
        let tell = |bytes, done| task.part(Part::transferring("dockerfile", bytes, done));
        let files = take(place, Want { follow, ..Want::default() }, tell).await?;
        let mut found = read(&files, name)?;
        if let (None, Some(lower)) = (&found, &lower) {
            found = read(&files, lower)?;
        }
        let missing =
            || format!("failed to read dockerfile: open {name}: no such file or directory");
        let data = found.ok_or_else(|| Status::unknown(missing()))?;
        Ok((data, read(&files, &beside)?.map(Vec::from)))
    };
    let made = read.await.map(|(data, ignore)| {
        let (filename, language) = (name.to_owned(), "Dockerfile".to_owned());
        let info = pb::SourceInfo { filename, data, language, definition: None };
        // Warnings point into it.
        place.journal.define(&task, info.clone());
        (info, ignore)
    });
    task.end(made)
}

/// The same from a tree that came as a whole.
pub(crate) fn in_tree(
    journal: &Arc<Journal>,
    tree: &Tree,
    name: &str,
) -> Result<(pb::SourceInfo, Option<Vec<u8>>), Status> {
    let task = journal.task(format!("[internal] load build definition from {name}"));
    let read = |path: &str| read_small(tree, path).map_err(|e| Status::unknown(e.to_string()));
    let made = read(name).and_then(|data| {
        let missing = format!("failed to read dockerfile: open {name}: no such file or directory");
        let data = data.ok_or_else(|| Status::unknown(missing))?;
        let (filename, language) = (name.to_owned(), "Dockerfile".to_owned());
        let info = pb::SourceInfo { filename, data: data.into(), language, definition: None };
        journal.define(&task, info.clone());
        Ok((info, read(&format!("{name}{IGNORE}"))?))
    });
    task.end(made)
}

/// The ignore file of the build context, if it has one.
pub(crate) async fn ignore_file(place: &Place<'_>) -> Result<Option<Vec<u8>>, Status> {
    let task = place.journal.task(format!("[internal] load {IGNORE}"));
    let tell = |bytes, done| task.part(Part::transferring("context", bytes, done));
    let found = match ignore(place, tell).await {
        // Who builds from nothing but a Dockerfile serves no context.
        Err(status) if status.code() == Code::NotFound => Ok(None),
        found => found,
    };
    task.end(found)
}

/// The patterns of a named context's ignore file.
pub(crate) async fn ignore_patterns(place: &Place<'_>, name: &str) -> Result<Vec<String>, Status> {
    let task = place.journal.task(format!("[context {name}] load {IGNORE}"));
    let tell = |bytes, done| task.part(Part::transferring(name, bytes, done));
    let read = async {
        let Some(data) = ignore(place, tell).await? else { return Ok(Vec::new()) };
        let ignore = Ignore::parse(&String::from_utf8_lossy(&data))
            .map_err(|e| Status::unknown(format!("failed parsing {IGNORE}: {e}")))?;
        Ok(ignore.patterns().map(str::to_owned).collect())
    };
    let read = read.await;
    task.end(read)
}

async fn ignore(place: &Place<'_>, tell: impl Fn(u64, bool)) -> Result<Option<Vec<u8>>, Status> {
    let want = Want { follow: vec![IGNORE.to_owned()], ..Want::default() };
    let files = take(place, want, tell).await?;
    Ok(read(&files, IGNORE)?.map(Vec::from))
}

/// Some files of a directory, in one of their own that goes when it is dropped.
async fn take(
    place: &Place<'_>,
    want: Want,
    tell: impl Fn(u64, bool),
) -> Result<Arc<Snapshot>, Status> {
    let snapshot = Arc::new(place.contexts.begin(None).map_err(broken("make a directory"))?);
    remote::receive(place.session, place.dir, &want, &snapshot, tell).await?;
    Ok(snapshot)
}

fn read(files: &Snapshot, name: &str) -> Result<Option<Bytes>, Status> {
    let failed = |e| broken("read a file that the client sent")(e);
    let mut data = Vec::new();
    let file = match Root::open(files.path()).map_err(failed)?.read(Path::new(name)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    file.take(MAX_FILE + 1).read_to_end(&mut data).map_err(failed)?;
    if data.len() as u64 > MAX_FILE {
        return Err(Status::unknown(format!("{name} is larger than {} MiB", MAX_FILE >> 20)));
    }
    Ok(Some(data.into()))
}

/// The other spelling of the usual name.
fn lower_case(name: &str) -> Option<String> {
    let (dir, file) = name.rsplit_once('/').map_or(("", name), |(d, f)| (d, f));
    (file == "Dockerfile").then(|| match dir {
        "" => "dockerfile".to_owned(),
        dir => format!("{dir}/dockerfile"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_name_may_be_in_lower_case() {
        assert_eq!(lower_case("Dockerfile").as_deref(), Some("dockerfile"));
        assert_eq!(lower_case("a/Dockerfile").as_deref(), Some("a/dockerfile"));
        assert_eq!(lower_case("Containerfile"), None);
    }
}
