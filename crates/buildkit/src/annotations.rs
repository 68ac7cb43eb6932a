//! Annotations that outputs ask for: of manifests, of all or one platform, and of the index over several.

use std::collections::{BTreeMap, HashMap};

use tonic::Status;
use wharf_spec::platform::Platform;

/// What is to be written where.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Annotations {
    manifests: Notes,
    /// Of what an index says of a manifest.
    descriptors: Notes,
    /// Of the index.
    pub(crate) index: BTreeMap<String, String>,
    /// Of what is said of the index.
    pub(crate) index_descriptor: BTreeMap<String, String>,
}

/// For which platform (none is all), key and value.
type Notes = Vec<(Option<String>, String, String)>;

impl Annotations {
    /// Reads the options of an output, as BuildKit's `exptypes.ParseAnnotationKey` does: `annotation.KEY`,
    /// `annotation-index.KEY`, `annotation-manifest[PLATFORM].KEY` and those of descriptors.
    pub(crate) fn read(options: &HashMap<String, String>) -> Result<Annotations, Status> {
        let mut read = Annotations::default();
        // In order, so that equal requests give equal manifests.
        for (option, value) in options.iter().collect::<BTreeMap<_, _>>() {
            let Some((kind, platform, key)) = split(option) else { continue };
            let (key, value) = (key.to_owned(), value.clone());
            match kind {
                "" | "manifest" => {
                    read.manifests.push((platform.map(normal).transpose()?, key, value));
                }
                "manifest-descriptor" => {
                    read.descriptors.push((platform.map(normal).transpose()?, key, value));
                }
                "index" => drop(read.index.insert(key, value)),
                "index-descriptor" => drop(read.index_descriptor.insert(key, value)),
                other => {
                    return Err(Status::unknown(format!(
                        "unrecognized annotation type {other:?} in {option}: use manifest, index, manifest-descriptor or index-descriptor"
                    )));
                }
            }
        }
        Ok(read)
    }

    /// Those of the manifest for a platform.
    pub(crate) fn of(&self, platform: &Platform) -> BTreeMap<String, String> {
        wanted(&self.manifests, platform)
    }

    /// Those of what is said of the manifest for a platform.
    pub(crate) fn of_descriptor(&self, platform: &Platform) -> BTreeMap<String, String> {
        wanted(&self.descriptors, platform)
    }

    /// Refuses what no result has a place for: an `index` that there is not, a platform that was not built.
    pub(crate) fn check(&self, index: bool, platforms: &[Platform]) -> Result<(), Status> {
        if !(index || self.index.is_empty() && self.index_descriptor.is_empty()) {
            return Err(Status::unimplemented(
                "index annotations not supported for single platform export: give --platform several, or annotate the manifest",
            ));
        }
        let built: Vec<String> = platforms.iter().map(ToString::to_string).collect();
        let all = self.manifests.iter().chain(&self.descriptors);
        match all.filter_map(|(p, ..)| p.as_ref()).find(|p| !built.contains(p)) {
            None => Ok(()),
            // BuildKit's words.
            Some(other) => Err(Status::unknown(format!(
                "invalid annotation: no platform {other} found in source: built is {}",
                built.join(", ")
            ))),
        }
    }

    /// Whether an option is one.
    pub(crate) fn is_one(option: &str) -> bool {
        split(option).is_some()
    }
}

fn wanted(notes: &Notes, platform: &Platform) -> BTreeMap<String, String> {
    let platform = platform.to_string();
    let wanted = notes.iter().filter(|(p, ..)| p.as_ref().is_none_or(|p| *p == platform));
    wanted.map(|(_, key, value)| (key.clone(), value.clone())).collect()
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
    fn descriptors_have_their_own() {
        let read = read(&[
            ("annotation-manifest-descriptor[linux/amd64].a", "b"),
            ("annotation-index-descriptor.c", "d"),
        ])
        .unwrap();
        let (amd, arm) = ("linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap());
        assert_eq!((read.of_descriptor(&amd)["a"].as_str(), read.of(&amd).len()), ("b", 0));
        assert!(read.of_descriptor(&arm).is_empty());
        assert_eq!(read.index_descriptor["c"], "d");
        read.check(true, &[amd.clone(), arm.clone()]).unwrap();
        assert!(read.check(false, &[amd]).unwrap_err().message().contains("single platform"));
        assert!(read.check(true, &[arm]).unwrap_err().message().contains("linux/amd64"));
    }

    #[test]
    fn what_is_no_annotation_is_refused() {
        let refused = read(&[("annotation-layer.a", "b")]).unwrap_err();
        assert!(refused.message().contains("use manifest, index"), "{refused}");
        assert!(read(&[("annotation[no platform at all].a", "b")]).is_err());
    }
}
