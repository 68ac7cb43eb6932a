//! Where the cache of a build goes besides the engine's own: `--cache-to`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tonic::Status;
use wharf_base::error::chain;
use wharf_build::{CacheScope, Credentials as _};
use wharf_spec::reference::Reference;

use crate::builds::Build;
use crate::kit::BuildKit;
use crate::options::boolean;
use crate::proto::moby::buildkit::v1::SolveRequest;
use crate::remote::Remote;
use crate::solve::Outcome;

/// One place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Export {
    /// Into the image.
    Inline,
    /// To a registry, under a name of its own.
    Registry {
        name: Reference,
        scope: CacheScope,
        /// The build is well without it.
        may_fail: bool,
    },
}

/// The places that a client names; what cannot be is refused by name.
pub(crate) fn exports(request: &SolveRequest) -> Result<Vec<Export>, Status> {
    let cache = request.cache.clone().unwrap_or_default();
    if !cache.export_ref.is_empty() {
        let text = "exporting the cache by reference is not supported by wharf";
        return Err(Status::unimplemented(text));
    }
    let mut exports = Vec::new();
    for entry in &cache.exports {
        let attrs: BTreeMap<_, _> = entry.attrs.iter().collect();
        exports.push(match entry.r#type.as_str() {
            "inline" => Export::Inline,
            "registry" => registry(&attrs)?,
            other => {
                return Err(Status::unimplemented(format!(
                    "wharf exports its build cache with --cache-to type=inline or type=registry, not with type={other}"
                )));
            }
        });
    }
    Ok(exports)
}

fn registry(attrs: &BTreeMap<&String, &String>) -> Result<Export, Status> {
    let (mut name, mut scope, mut may_fail) = (None, CacheScope::default(), false);
    for (key, value) in attrs {
        let wrong = || Status::unknown(format!("invalid value {value:?} for {key} of --cache-to"));
        match key.as_str() {
            "ref" => name = Some(Reference::parse(value).map_err(|_| wrong())?.or_latest()),
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
            _ => {
                return Err(Status::unimplemented(format!(
                    "the option {key}={value} of --cache-to type=registry is not supported by wharf"
                )));
            }
        }
    }
    let name = name.ok_or_else(|| Status::unknown("--cache-to type=registry needs ref=NAME"))?;
    Ok(Export::Registry { name, scope, may_fail })
}

/// Sends the cache of a build that is done to one place.
pub(crate) async fn export(
    kit: &BuildKit,
    build: &Arc<Build>,
    export: &Export,
    outcomes: &[(Option<String>, Arc<Outcome>)],
) -> Result<(), Status> {
    let Export::Registry { name, scope, may_fail } = export else { return Ok(()) };
    let task = build.journal.task("exporting cache to registry");
    let send = async {
        let outcome = match outcomes {
            [] => return Ok(()),
            [(_, outcome)] => outcome,
            _ => {
                return Err(Status::unimplemented(
                    "wharf exports the cache of one platform: give one --platform",
                ));
            }
        };
        let session = kit.sessions().find(&build.request.session).await?;
        let auth = Remote(session).auth(name.domain()).await.map_err(Status::unknown)?;
        let sent = outcome.built.push_cache(name, *scope, &auth).await;
        sent.map(drop).map_err(|e| Status::unknown(chain(&e).to_string()))
    };
    let sent = send.await;
    match task.end(sent) {
        Err(_) if *may_fail => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::moby::buildkit::v1::{CacheOptions, CacheOptionsEntry};

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
        let Export::Registry { name, scope, may_fail } = &found[0] else { panic!("{found:?}") };
        assert_eq!((name.to_string().as_str(), scope.all_stages), ("r.example/c:latest", true));
        assert!(!may_fail && !scope.mounts);
        for (kind, attrs, words) in [
            ("local", &[("dest", "x")][..], "type=local"),
            ("registry", &[], "ref="),
            ("registry", &[("ref", "r.example/c"), ("mode", "all")], "mode"),
            ("registry", &[("ref", "r.example/c"), ("compression", "zstd")], "compression=zstd"),
        ] {
            let refused = read(kind, attrs).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
    }
}
