//! Annotations that outputs ask for: of manifests, of all or one platform, and of the index over several.

use std::collections::{BTreeMap, HashMap};

use tonic::Status;
use wharf_spec::platform::Platform;

/// What is to be written where.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Annotations {
    /// Of manifests: for which platform (none is all), key and value.
    manifests: Vec<(Option<String>, String, String)>,
    /// Of the index.
    pub(crate) index: BTreeMap<String, String>,
}

impl Annotations {
    /// Reads the options of an output, as BuildKit's `exptypes.ParseAnnotationKey` does: `annotation.KEY`,
    /// `annotation-index.KEY`, `annotation-manifest[PLATFORM].KEY`. Annotations of descriptors are refused.
    pub(crate) fn read(options: &HashMap<String, String>) -> Result<Annotations, Status> {
        let mut read = Annotations::default();
        // In order, so that equal requests give equal manifests.
        for (option, value) in options.iter().collect::<BTreeMap<_, _>>() {
            let Some((kind, platform, key)) = split(option) else { continue };
            match kind {
                "" | "manifest" => {
                    let platform = platform.map(normal).transpose()?;
                    read.manifests.push((platform, key.to_owned(), value.clone()));
                }
                "index" => drop(read.index.insert(key.to_owned(), value.clone())),
                other => {
                    return Err(Status::unimplemented(format!(
                        "annotations of type {other} ({option}) are not supported by wharf; it annotates manifests and indexes"
                    )));
                }
            }
        }
        Ok(read)
    }

    /// Those of the manifest for a platform.
    pub(crate) fn of(&self, platform: &Platform) -> BTreeMap<String, String> {
        let platform = platform.to_string();
        let wanted =
            self.manifests.iter().filter(|(p, ..)| p.as_ref().is_none_or(|p| *p == platform));
        wanted.map(|(_, key, value)| (key.clone(), value.clone())).collect()
    }

    /// Whether an option is one.
    pub(crate) fn is_one(option: &str) -> bool {
        split(option).is_some()
    }
}

/// The kind, the platform and the key of an annotation.
fn split(option: &str) -> Option<(&str, Option<&str>, &str)> {
    let rest = option.strip_prefix("annotation")?;
    let (kind, rest) = match rest.strip_prefix('-') {
        Some(rest) => rest.split_at(rest.find(['[', '.'])?),
        None => ("", rest),
    };
    let (platform, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(platform, rest)| (Some(platform), rest))?,
        None => (None, rest),
    };
    Some((kind, platform, rest.strip_prefix('.')?))
}

fn normal(text: &str) -> Result<String, Status> {
    let wrong = |e| Status::unknown(format!("invalid platform {text:?} of an annotation: {e}"));
    text.parse::<Platform>().map(|p| p.to_string()).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<Annotations, Status> {
        Annotations::read(&options.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
    }

    #[test]
    fn annotations_are_told_apart() {
        let read = read(&[
            ("annotation.org.example", "all"),
            ("annotation-manifest[linux/arm64].which", "arm"),
            ("annotation-index.list", "yes"),
            ("name", "x"),
        ])
        .unwrap();
        let of =
            |platform: &str| read.of(&platform.parse().unwrap()).into_keys().collect::<Vec<_>>();
        assert_eq!(of("linux/amd64"), ["org.example"]);
        assert_eq!(of("linux/arm64"), ["org.example", "which"]);
        assert_eq!(read.index["list"], "yes");
        assert!(Annotations::is_one("annotation.a") && !Annotations::is_one("annotations"));
    }

    #[test]
    fn those_of_descriptors_are_refused() {
        let refused = read(&[("annotation-manifest-descriptor.a", "b")]).unwrap_err();
        assert!(refused.message().contains("manifest-descriptor"), "{refused}");
        assert!(read(&[("annotation[no platform at all].a", "b")]).is_err());
    }
}
