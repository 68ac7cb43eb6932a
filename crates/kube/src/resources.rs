//! Which resources the API has: names, kinds, verbs and subresources, from `tables/resources.txt`.

use crate::schema::{Schema, TypeId};
use std::sync::OnceLock;

/// A group and version, such as `apps/v1`; the core group is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersion {
    /// The group, empty for core.
    pub group: String,
    /// The version.
    pub version: String,
}

impl GroupVersion {
    /// From its written form.
    pub fn parse(text: &str) -> GroupVersion {
        let (group, version) = text.split_once('/').unwrap_or(("", text));
        GroupVersion { group: group.to_owned(), version: version.to_owned() }
    }
}

impl std::fmt::Display for GroupVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.version)
        } else {
            write!(f, "{}/{}", self.group, self.version)
        }
    }
}

/// A resource: a collection of objects of one kind, or something that can only be posted to.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Group and version.
    pub gv: GroupVersion,
    /// Plural name, as in paths.
    pub plural: &'static str,
    /// Singular name.
    pub singular: String,
    /// Kind of its objects.
    pub kind: &'static str,
    /// Type of its objects.
    pub ty: TypeId,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it, sorted.
    pub verbs: Vec<&'static str>,
    /// Abbreviations.
    pub short: Vec<&'static str>,
    /// Categories, such as `all`.
    pub categories: Vec<&'static str>,
    /// Paths below an object.
    pub subresources: Vec<Subresource>,
}

/// A path below an object, such as `status`.
#[derive(Debug, Clone)]
pub struct Subresource {
    /// Its name.
    pub name: &'static str,
    /// The group and version of its body, where it is not the resource's own.
    pub gv: GroupVersion,
    /// The kind of its body.
    pub kind: &'static str,
    /// The type of its body.
    pub ty: TypeId,
    /// What can be done with it, sorted.
    pub verbs: Vec<&'static str>,
}

impl Resource {
    /// `deployments.apps`, or `pods` for the core group: how errors and authorization name it.
    pub fn qualified(&self) -> String {
        if self.gv.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.gv.group)
        }
    }

    /// Whether its objects are kept, as opposed to answered at once.
    pub fn stored(&self) -> bool {
        self.verbs.contains(&"watch")
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

/// Every built-in resource, in the order of discovery.
pub fn builtin() -> &'static [Resource] {
    static ALL: OnceLock<Vec<Resource>> = OnceLock::new();
    ALL.get_or_init(|| read(include_str!("../tables/resources.txt")))
}

const EVERYTHING: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The tables are part of the program: a mistake in them is a panic that the unit tests see.
fn read(table: &'static str) -> Vec<Resource> {
    let mut out: Vec<Resource> = Vec::new();
    let mut gv = GroupVersion::parse("v1");
    for line in table.lines().filter(|l| !l.starts_with(';')) {
        if let Some(head) = line.strip_prefix('@') {
            gv = GroupVersion::parse(head);
        } else if let Some(sub) = line.strip_prefix(' ') {
            let words: Vec<&str> = sub.split(' ').collect();
            let [name, ty, verbs] = words[..] else { panic!("{line}") };
            if let Some(last) = out.last_mut() {
                let (ty, kind) = known(ty);
                let gv = body_version(ty, &last.gv);
                let verbs = verbs.split(',').collect();
                last.subresources.push(Subresource { name, gv, kind, ty, verbs });
            }
        } else {
            out.push(resource(&gv, line));
        }
    }
    out
}

fn resource(gv: &GroupVersion, line: &'static str) -> Resource {
    let mut words = line.split(' ');
    let mut next = || words.next().unwrap_or_default();
    let (plural, kind, ty, scope, verbs) = (next(), next(), next(), next(), next());
    let (mut short, mut categories) = (Vec::new(), Vec::new());
    for flag in words {
        match flag.split_once('=') {
            Some(("short", names)) => short = names.split(',').collect(),
            Some(("cat", names)) => categories = names.split(',').collect(),
            _ => panic!("{line}"),
        }
    }
    Resource {
        gv: gv.clone(),
        plural,
        singular: kind.to_lowercase(),
        kind,
        ty: known(ty).0,
        namespaced: scope == "ns",
        verbs: if verbs == "*" { EVERYTHING.to_vec() } else { verbs.split(',').collect() },
        short,
        categories,
        subresources: Vec::new(),
    }
}

fn known(name: &str) -> (TypeId, &'static str) {
    let schema = Schema::builtin();
    let id = schema.id(name).unwrap_or_else(|| panic!("no type {name}"));
    (id, schema.ty(id).short())
}

/// Bodies of subresources keep the group of their own package.
fn body_version(ty: TypeId, parent: &GroupVersion) -> GroupVersion {
    match Schema::builtin().ty(ty).name.split_once('.').map_or("", |(p, _)| p) {
        "autoscaling1" => GroupVersion::parse("autoscaling/v1"),
        "policy" => GroupVersion::parse("policy/v1"),
        "authentication" => GroupVersion::parse("authentication.k8s.io/v1"),
        _ => parent.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_the_release() {
        assert_eq!(builtin().len(), 68);
        let subresources: usize = builtin().iter().map(|r| r.subresources.len()).sum();
        assert_eq!(subresources, 45);
    }

    #[test]
    fn a_scale_is_of_another_group() {
        let deployments = builtin().iter().find(|r| r.plural == "deployments").unwrap();
        let scale = deployments.subresource("scale").unwrap();
        assert_eq!((scale.gv.to_string().as_str(), scale.kind), ("autoscaling/v1", "Scale"));
        assert_eq!(deployments.qualified(), "deployments.apps");
        let endpoints = builtin().iter().find(|r| r.plural == "endpoints").unwrap();
        assert_eq!(endpoints.singular, "endpoints");
    }
}
