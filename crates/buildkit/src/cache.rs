//! Where the cache of a build goes besides the engine's own: `--cache-to`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tonic::Status;
use wharf_base::error::chain;
use wharf_build::{CacheParts, CacheScope, Credentials as _};
use wharf_image::Repack;
use wharf_spec::reference::Reference;

use crate::builds::Build;
use crate::content::Directory;
use crate::export::packing;
use crate::kit::BuildKit;
use crate::options::boolean;
use crate::proto::moby::buildkit::v1::{CacheOptionsEntry, SolveRequest};
use crate::remote::Remote;
use crate::solve::Outcome;

/// What clients read to learn which list of cache was written.
const WRITTEN: &str = "cache.manifest";

/// One place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Export {
    /// Into the image.
    Inline,
    /// To where it has a name or a directory of its own.
    To {
        place: Place,
        scope: CacheScope,
        /// The build is well without it.
        may_fail: bool,
    },
}

/// Where a cache of its own is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Registry(Reference),
    /// A directory of the client, by its path there.
    Local(String),
}

/// The places that a client names; what cannot be is refused by name.
pub(crate) fn exports(request: &SolveRequest) -> Result<Vec<Export>, Status> {
    let cache = request.cache.clone().unwrap_or_default();
    if !cache.export_ref.is_empty() {
        let text = "exporting the cache by reference is not supported by wharf: use --cache-to type=registry,ref=NAME";
        return Err(Status::unimplemented(text));
    }
    let mut exports = Vec::new();
    for entry in &cache.exports {
        exports.push(match entry.r#type.as_str() {
            "inline" => inline(entry)?,
            "registry" | "local" => own(entry)?,
            other => {
                return Err(Status::unimplemented(format!(
                    "wharf exports its build cache with --cache-to type=inline, type=registry or type=local, not with type={other}"
                )));
            }
        });
    }
    one_list(&exports)?;
    Ok(exports)
}

/// The answer to a client has room for one list, which it then names in every directory.
fn one_list(exports: &[Export]) -> Result<(), Status> {
    let mut scopes = exports.iter().filter_map(|e| match e {
        Export::To { place: Place::Local(_), scope, .. } => Some(scope),
        _ => None,
    });
    let first = scopes.next();
    match scopes.all(|s| Some(s) == first) {
        true => Ok(()),
        false => Err(Status::unimplemented(
            "several --cache-to type=local of one build need the same mode, mounts and compression: build twice for different ones",
        )),
    }
}

fn inline(entry: &CacheOptionsEntry) -> Result<Export, Status> {
    for (key, value) in entry.attrs.iter().collect::<BTreeMap<_, _>>() {
        match key.as_str() {
            // An inline cache is of the result's own steps, as BuildKit's.
            "mode" if value == "min" || value == "max" => {}
            _ if Repack::OPTIONS.contains(&key.as_str()) => {
                return Err(Status::unimplemented(format!(
                    "the option {key}={value} of --cache-to type=inline: an inline cache has no layers but those of its image: give {key} to --output"
                )));
            }
            _ => return Err(unknown(key, value, "inline", "leave it out")),
        }
    }
    Ok(Export::Inline)
}

fn unknown(key: &str, value: &str, kind: &str, what_to_do: &str) -> Status {
    let text = format!(
        "the option {key}={value} of --cache-to type={kind} is not supported by wharf: {what_to_do}"
    );
    Status::unimplemented(text)
}

fn own(entry: &CacheOptionsEntry) -> Result<Export, Status> {
    let kind = entry.r#type.as_str();
    let is_local = kind == "local";
    let repack = packing(&entry.attrs, "--cache-to")?;
    let (mut place, mut may_fail) = (None, false);
    let mut scope = CacheScope { repack, ..CacheScope::default() };
    for (key, value) in entry.attrs.iter().collect::<BTreeMap<_, _>>() {
        let wrong = || Status::unknown(format!("invalid value {value:?} for {key} of --cache-to"));
        match key.as_str() {
            "ref" if !is_local => {
                let name = Reference::parse(value).map_err(|_| wrong())?;
                place = Some(Place::Registry(name.or_latest()));
            }
            "dest" if is_local => place = Some(Place::Local(value.clone())),
            // The client's own business.
            "tag" | "reset" if is_local => {}
            "mode" => {
                scope.all_stages = match value.as_str() {
                    "min" => false,
                    "max" => true,
                    _ => return Err(wrong()),
                }
            }
            "mounts" => scope.mounts = boolean(value).ok_or_else(wrong)?,
            "ignore-error" => may_fail = boolean(value).ok_or_else(wrong)?,
            // What is done anyway.
            "oci-mediatypes" if boolean(value) == Some(true) => {}
            "image-manifest" if boolean(value) == Some(false) => {}
            _ if Repack::OPTIONS.contains(&key.as_str()) => {}
            "image-manifest" => {
                let text = "leave it out: a cache of wharf is an index of image manifests, which every registry takes";
                return Err(unknown(key, value, kind, text));
            }
            _ => {
                let text = "leave it out; known are mode, mounts, ignore-error and compression";
                return Err(unknown(key, value, kind, text));
            }
        }
    }
    let missing = if is_local { "dest=DIRECTORY" } else { "ref=NAME" };
    let missing = || Status::unknown(format!("--cache-to type={kind} needs {missing}"));
    Ok(Export::To { place: place.ok_or_else(missing)?, scope, may_fail })
}

/// Sends the cache of a build that is done to one place; gives what clients read about it.
pub(crate) async fn export(
    kit: &BuildKit,
    build: &Arc<Build>,
    export: &Export,
    outcomes: &[(Option<String>, Arc<Outcome>)],
) -> Result<HashMap<String, String>, Status> {
    let Export::To { place, scope, may_fail } = export else { return Ok(HashMap::new()) };
    let task = build.journal.task(match place {
        Place::Registry(_) => "exporting cache to registry",
        Place::Local(_) => "exporting cache to client directory",
    });
    let send = async {
        let Some(parts) = all_parts(outcomes, *scope).await? else { return Ok(HashMap::new()) };
        let session = kit.sessions().find(&build.request.session).await?;
        match place {
            Place::Registry(name) => {
                let auth = Remote(session).auth(name.domain()).await.map_err(Status::unknown)?;
                let sent = parts.push(name, &auth).await;
                sent.map_err(|e| Status::unknown(chain(&e).to_string()))?;
                Ok(HashMap::new())
            }
            Place::Local(dir) => {
                let directory = Directory::new(session, &format!("local:{dir}"))?;
                local(kit, &directory, &parts).await
            }
        }
    };
    let sent = send.await;
    match task.end(sent) {
        Err(_) if *may_fail => Ok(HashMap::new()),
        other => other,
    }
}

/// The cache of all platforms; `None` without a result.
async fn all_parts(
    outcomes: &[(Option<String>, Arc<Outcome>)],
    scope: CacheScope,
) -> Result<Option<CacheParts>, Status> {
    let mut all: Option<CacheParts> = None;
    for (_, outcome) in outcomes {
        let parts = outcome.built.cache_parts(scope).await;
        let parts = parts.map_err(|e| Status::unknown(chain(&e).to_string()))?;
        match &mut all {
            None => all = Some(parts),
            Some(all) => all.extend(parts),
        }
    }
    Ok(all)
}

/// Writes blobs and a list of them; the client puts the list into the directory's `index.json` by itself.
async fn local(
    kit: &BuildKit,
    directory: &Directory,
    parts: &CacheParts,
) -> Result<HashMap<String, String>, Status> {
    for image in parts.images() {
        directory.put_image(kit.images().store(), image).await?;
    }
    let (list, bytes) = parts.list();
    directory.put_bytes(&list, bytes).await?;
    let list = serde_json::to_string(&list).map_err(|e| Status::internal(e.to_string()))?;
    Ok(HashMap::from([(WRITTEN.to_owned(), list)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::moby::buildkit::v1::CacheOptions;

    fn read(kind: &str, attrs: &[(&str, &str)]) -> Result<Vec<Export>, String> {
        let attrs = attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let exports = vec![CacheOptionsEntry { r#type: kind.into(), attrs }];
        let cache = Some(CacheOptions { exports, ..CacheOptions::default() });
        let request = SolveRequest { cache, ..SolveRequest::default() };
        exports_of(&request)
    }

    fn exports_of(request: &SolveRequest) -> Result<Vec<Export>, String> {
        super::exports(request).map_err(|s| s.message().to_owned())
    }

    #[test]
    fn places_are_read_and_others_refused_by_name() {
        assert_eq!(read("inline", &[]), Ok(vec![Export::Inline]));
        let found = read("registry", &[("ref", "r.example/c"), ("mode", "max")]).unwrap();
        let Export::To { place: Place::Registry(name), scope, may_fail } = &found[0] else {
            panic!("{found:?}")
        };
        assert_eq!((name.to_string().as_str(), scope.all_stages), ("r.example/c:latest", true));
        assert!(!may_fail && !scope.mounts && scope.repack.is_none());
        let packed = read("local", &[("dest", "x"), ("compression", "zstd"), ("tag", "a")]);
        let Export::To { place: Place::Local(dir), scope, .. } = &packed.unwrap()[0] else {
            panic!("no directory")
        };
        assert!(dir == "x" && scope.repack.is_some());
        let name = ("ref", "r.example/c");
        for (kind, attrs, words) in [
            ("local", &[][..], "needs dest="),
            ("local", &[name], "ref=r.example/c"),
            ("gha", &[], "type=inline, type=registry or type=local"),
            ("registry", &[], "ref="),
            ("registry", &[name, ("mode", "all")], "mode"),
            ("registry", &[name, ("compression", "lzma")], "use uncompressed, gzip or zstd"),
            ("registry", &[name, ("image-manifest", "true")], "leave it out"),
            ("inline", &[("compression", "zstd")], "give compression to --output"),
        ] {
            let refused = read(kind, attrs).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn directories_of_one_build_get_the_same_cache() {
        let entry = |dest: &str, mode: &str| CacheOptionsEntry {
            r#type: "local".into(),
            attrs: [("dest", dest), ("mode", mode)].map(|(k, v)| (k.into(), v.into())).into(),
        };
        let of = |second: &str| {
            let exports = vec![entry("a", "max"), entry("b", second)];
            let cache = Some(CacheOptions { exports, ..CacheOptions::default() });
            exports_of(&SolveRequest { cache, ..SolveRequest::default() })
        };
        assert_eq!(of("max").unwrap().len(), 2);
        assert!(of("min").unwrap_err().contains("build twice"));
        let cache = Some(CacheOptions { export_ref: "x".into(), ..CacheOptions::default() });
        let by_reference = exports_of(&SolveRequest { cache, ..SolveRequest::default() });
        assert!(by_reference.unwrap_err().contains("use --cache-to type=registry"));
    }
}
