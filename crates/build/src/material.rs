//! What a build was made of: images, repositories and files, as provenance names them.

use std::collections::BTreeMap;

use wharf_spec::digest::Digest;
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

use crate::job::Job;

/// One source of a build, with what it was just then.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Material {
    /// Its address, without a password; an image's is a package URL.
    pub uri: String,
    /// The hash, and what it gives in hexadecimal digits.
    pub digest: (&'static str, String),
}

impl Material {
    pub(crate) fn repository(address: &str, commit: &str) -> Material {
        let hash = if commit.len() == 64 { "sha256" } else { "sha1" };
        Material { uri: address.to_owned(), digest: (hash, commit.to_owned()) }
    }

    pub(crate) fn file(address: &str, digest: &Digest) -> Material {
        Material { uri: address.to_owned(), digest: named(digest) }
    }

    fn image(name: &Reference, platform: &Platform, digest: &Digest) -> Material {
        Material { uri: package_url(name, platform), digest: named(digest) }
    }
}

fn named(digest: &Digest) -> (&'static str, String) {
    (digest.algorithm().name(), digest.hex().to_owned())
}

/// The package URL of an image (purl-spec, type `docker`), as BuildKit writes it.
pub fn package_url(name: &Reference, platform: &Platform) -> String {
    let mut qualifiers = BTreeMap::from([("platform", platform.to_string())]);
    let mut url = format!("pkg:docker/{}", escaped(&name.familiar_name()));
    match (name.tag(), name.digest()) {
        (None, None) => url.push_str("@latest"),
        (tag, digest) => {
            tag.into_iter().for_each(|t| url.push_str(&format!("@{}", escaped(t))));
            qualifiers.extend(digest.map(|d| ("digest", d.to_string())));
        }
    }
    let pairs = qualifiers.iter().map(|(k, v)| format!("{k}={}", escaped(v).replace('/', "%2F")));
    format!("{url}?{}", pairs.collect::<Vec<_>>().join("&"))
}

/// What names of images may have and URLs may not.
fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('@', "%40").replace('+', "%2B").replace(' ', "%20")
}

impl Job {
    /// A step uses this.
    pub(crate) fn uses(&self, material: Material) {
        self.materials.lock().insert(material);
    }

    /// A step uses the image that is here under `name`. One that has no name but its id came from no address.
    pub(crate) fn uses_image(&self, name: &str, platform: &Platform) {
        let Ok(reference) = Reference::parse(name) else { return };
        if let Ok(image) = self.builder.store().resolve(name)
            && !name.starts_with("sha256:")
        {
            self.uses(Material::image(&reference, platform, &image.manifest().digest));
        }
    }

    pub(crate) fn used(&self) -> Vec<Material> {
        self.materials.lock().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_package_urls() {
        let of = |name: &str| {
            package_url(&Reference::parse(name).unwrap(), &"linux/amd64".parse().unwrap())
        };
        assert_eq!(of("busybox"), "pkg:docker/busybox@latest?platform=linux%2Famd64");
        assert_eq!(
            of("r.example:5000/a/b:1"),
            "pkg:docker/r.example:5000/a/b@1?platform=linux%2Famd64"
        );
        let digest = format!("sha256:{}", "a".repeat(64));
        let pinned = format!("pkg:docker/me/x?digest={digest}&platform=linux%2Famd64");
        assert_eq!(of(&format!("me/x@{digest}")), pinned);
    }

    #[test]
    fn commits_are_of_either_hash() {
        assert_eq!(Material::repository("git://h/x", &"a".repeat(40)).digest.0, "sha1");
        assert_eq!(Material::repository("git://h/x", &"a".repeat(64)).digest.0, "sha256");
    }
}
