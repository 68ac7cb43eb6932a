//! What `kubectl explain` says: descriptions of types and fields in our own words.

use crate::schema::{Field, Ty, Type};

/// Words for fields that mean the same wherever they stand.
const FIELDS: &[(&str, &str)] = &[
    ("metadata", "Name, labels, owners and history of the object."),
    ("spec", "What is wanted."),
    ("status", "What is, as far as it is known. Written by the system."),
    ("name", "The name."),
    ("namespace", "The namespace."),
    ("labels", "Keys and values by which objects are selected."),
    ("annotations", "Keys and values that tools attach; nothing is selected by them."),
    ("replicas", "How many there are to be."),
    ("selector", "Which objects this is about, by their labels."),
    ("template", "What each new object is made from."),
    ("conditions", "What is currently true of the object, each with its reason."),
    ("image", "The image, by name and tag or digest."),
    ("containers", "The programs of the pod, which run side by side."),
    ("initContainers", "Programs that run one after the other before the others start."),
    ("volumes", "Storage that containers can mount."),
    ("env", "Environment variables."),
    ("ports", "Ports that are open."),
    ("resources", "What is asked for and what is allowed at most, of CPU, memory and storage."),
    ("type", "Which kind of this it is."),
    ("reason", "One word for why."),
    ("message", "A sentence for people."),
    ("observedGeneration", "The generation of the object that this status is about."),
    ("resourceVersion", "The version of the object; it changes with every write."),
    ("uid", "An id that no other object ever has."),
    ("creationTimestamp", "When the object was created."),
    ("deletionTimestamp", "When the object is to be gone. Set by the server."),
    ("finalizers", "Who must let go before the object is removed."),
    ("ownerReferences", "What this object belongs to; when all owners are gone, so is it."),
    ("managedFields", "Who wrote which field, for server-side apply."),
    ("generateName", "A prefix for a name that the server completes."),
    ("generation", "How often what is wanted has changed."),
    ("data", "Keys and their values."),
    ("strategy", "How old pods are replaced by new ones."),
    ("nodeSelector", "Labels that a node must have."),
    ("tolerations", "Taints of nodes that do not keep the pod away."),
    ("affinity", "Where the pod wants to be, near what and away from what."),
    ("restartPolicy", "When containers that end are started again."),
    ("serviceAccountName", "The account as which the pod reaches the API."),
    ("livenessProbe", "How to tell whether the container must be restarted."),
    ("readinessProbe", "How to tell whether the container can serve."),
    ("startupProbe", "How to tell whether the container has started."),
];

/// A field's description.
pub fn of_field(f: &Field) -> String {
    if let Some((_, text)) = FIELDS.iter().find(|(n, _)| *n == f.name) {
        return (*text).to_owned();
    }
    let what = match &f.ty {
        Ty::List(_) => "The list of",
        Ty::Map(_) => "The map of",
        Ty::Bool => "Whether",
        _ => "The",
    };
    format!("{what} {}.", words(f.name))
}

/// A type's description.
pub fn of_type(t: &Type) -> String {
    let name = words(t.short());
    if t.kind {
        format!("An object of kind {}.", t.short())
    } else {
        format!("The form of a {name}.")
    }
}

/// `maxUnavailable` as `max unavailable`.
fn words(name: &str) -> String {
    let mut out = String::new();
    let mut upper_before = true;
    for c in name.chars() {
        if c.is_ascii_uppercase() && !upper_before {
            out.push(' ');
        }
        upper_before = c.is_ascii_uppercase();
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_words() {
        assert_eq!(words("maxUnavailable"), "max unavailable");
        assert_eq!(words("PodSpec"), "pod spec");
        assert_eq!(words("clusterIP"), "cluster ip");
    }
}
