//! Which objects of a collection a client wants: labels, and the fields that each kind can be asked by.

use crate::api::{Api, Call};
use crate::kinds::Kind;
use crate::objects::Objects;
use serde_json::{Map, Value};
use wharf_etcd::Kv;
use wharf_kube::jsonpath::Path;
use wharf_kube::pick;
use wharf_kube::selector::{Fields, Labels};
use wharf_kube::status::Fault;

/// Both selectors of a request.
#[derive(Debug, Default)]
pub struct Selection {
    labels: Labels,
    fields: Fields,
    /// Where what it asks for lies in a stored object: labels, then each field.
    places: Vec<&'static str>,
}

/// The field of events that says who tells them.
const SOURCE: &str = "source";
/// Where labels lie.
const LABELS: &str = "/metadata/labels";

/// The fields that a kind can be selected by, besides name and namespace: label, then path.
fn selectable(kind: &Kind) -> &'static [(&'static str, &'static str)] {
    match (kind.group(), kind.resource.plural) {
        ("", "pods") => &[
            ("spec.nodeName", "/spec/nodeName"),
            ("spec.restartPolicy", "/spec/restartPolicy"),
            ("spec.schedulerName", "/spec/schedulerName"),
            ("spec.serviceAccountName", "/spec/serviceAccountName"),
            ("spec.hostNetwork", "/spec/hostNetwork"),
            ("status.phase", "/status/phase"),
            ("status.podIP", "/status/podIP"),
            ("status.podIPs", "/status/podIP"),
            ("status.nominatedNodeName", "/status/nominatedNodeName"),
        ],
        ("", "events") => &[
            ("involvedObject.kind", "/involvedObject/kind"),
            ("involvedObject.namespace", "/involvedObject/namespace"),
            ("involvedObject.name", "/involvedObject/name"),
            ("involvedObject.uid", "/involvedObject/uid"),
            ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
            ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
            ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
            ("reason", "/reason"),
            ("reportingComponent", "/reportingComponent"),
            (SOURCE, "/source/component"),
            ("type", "/type"),
        ],
        ("events.k8s.io", "events") => &[
            ("regarding.kind", "/involvedObject/kind"),
            ("regarding.namespace", "/involvedObject/namespace"),
            ("regarding.name", "/involvedObject/name"),
            ("regarding.uid", "/involvedObject/uid"),
            ("regarding.apiVersion", "/involvedObject/apiVersion"),
            ("regarding.resourceVersion", "/involvedObject/resourceVersion"),
            ("regarding.fieldPath", "/involvedObject/fieldPath"),
            ("reason", "/reason"),
            ("reportingController", "/reportingComponent"),
            ("type", "/type"),
        ],
        ("", "nodes") => &[("spec.unschedulable", "/spec/unschedulable")],
        ("", "namespaces") => &[("status.phase", "/status/phase")],
        ("", "secrets") => &[("type", "/type")],
        ("", "services") => &[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")],
        ("", "replicationcontrollers") | ("apps", "replicasets") => {
            &[("status.replicas", "/status/replicas")]
        }
        ("batch", "jobs") => &[("status.successful", "/status/succeeded")],
        ("certificates.k8s.io", _) => &[("spec.signerName", "/spec/signerName")],
        ("resource.k8s.io", "resourceslices") => {
            &[("spec.nodeName", "/spec/nodeName"), ("spec.driver", "/spec/driver")]
        }
        _ => &[],
    }
}

/// What is printed for a field that is not set, where that is not the empty text.
fn unset(label: &str) -> &'static str {
    match label {
        "spec.hostNetwork" | "spec.unschedulable" => "false",
        "status.replicas" | "status.successful" => "0",
        _ => "",
    }
}

impl Selection {
    /// Reads a call's selectors.
    pub fn of(call: &Call<'_>) -> Result<Selection, Fault> {
        let q = call.query;
        let labels = Labels::parse(&q.label_selector)
            .map_err(|e| Fault::bad_request(format!("unable to parse requirement: {e}")))?;
        let fields = Fields::parse(&q.field_selector).map_err(Fault::bad_request_from)?;
        for name in fields.names() {
            let known = matches!(name, "metadata.name" | "metadata.namespace")
                || selectable(call.kind).iter().any(|(label, _)| *label == name)
                || custom(call.kind).iter().any(|(label, _)| label == name);
            if !known {
                return Err(Fault::bad_request(format!("field label not supported: {name}")));
            }
        }
        let fields = match call.name {
            Some(name) => Fields::parse(&format!("metadata.name={name}")).unwrap_or_default(),
            None => fields,
        };
        let places = fields.names().map(|label| place(call.kind, label));
        let places = std::iter::once(LABELS).chain(places).collect();
        Ok(Selection { labels, fields, places })
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether it asks for fields that a definition lets its objects be selected by: they are those of the version
    /// of the request, with its defaults.
    fn reads(&self, kind: &Kind) -> bool {
        kind.custom.is_some()
            && self.fields.names().any(|n| custom(kind).iter().any(|(label, _)| label == n))
    }

    /// Whether a stored object is selected.
    fn matches(&self, objects: &Objects, kind: &Kind, kv: &Kv) -> bool {
        self.is_empty() || self.matches_object(kind, &objects.tree(kv))
    }

    /// The same, where many are looked at and few are asked for again: no tree is made, and none is kept. For what
    /// [`Selection::reads`] no fields of definitions.
    fn picks(&self, kind: &Kind, kv: &Kv) -> bool {
        if self.is_empty() {
            return true;
        }
        // Two places tell it.
        if self.fields.names().any(|name| name == SOURCE) {
            return self.matches_object(kind, &crate::stored::decode(kv));
        }
        let skip = usize::from(self.labels.is_empty());
        let mut found = pick::fields(kv.value(), &self.places[skip..]).into_iter();
        let labels = if skip == 0 { found.next().flatten() } else { None };
        if !self.labels.matches(labels.as_ref().and_then(Value::as_object)) {
            return false;
        }
        self.fields.matches(|label| shown(label, found.next().flatten().as_ref()))
    }

    /// Whether an object, in its stored form, is selected.
    pub fn matches_object(&self, kind: &Kind, object: &Value) -> bool {
        let labels: Option<&Map<String, Value>> = object.pointer(LABELS).and_then(Value::as_object);
        self.labels.matches(labels) && self.fields.matches(|label| field(kind, object, label))
    }
}

impl Api {
    /// Whether a stored object is selected. One that cannot be converted is not.
    pub(crate) async fn selects(&self, selection: &Selection, kind: &Kind, kv: &Kv) -> bool {
        if !selection.reads(kind) {
            return selection.matches(&self.objects, kind, kv);
        }
        let object = self.read_stored(kind, crate::stored::decode(kv)).await;
        object.is_ok_and(|o| selection.matches_object(kind, &o))
    }

    /// Which of many are.
    pub(crate) async fn chosen(
        &self,
        selection: &Selection,
        kind: &Kind,
        kvs: &[Kv],
    ) -> Result<Vec<bool>, Fault> {
        if !selection.reads(kind) {
            return Ok(kvs.iter().map(|kv| selection.picks(kind, kv)).collect());
        }
        let all = self.seen_all(kind, kvs).await?;
        Ok(all.iter().map(|o| selection.matches_object(kind, o)).collect())
    }
}

/// The fields that a definition lets its objects be selected by.
fn custom(kind: &Kind) -> &[(String, Path)] {
    kind.custom.as_ref().map_or(&[], |c| &c.selectable)
}

/// Where a field of a built-in kind lies in a stored object.
fn place(kind: &Kind, label: &str) -> &'static str {
    match label {
        "metadata.name" => "/metadata/name",
        "metadata.namespace" => "/metadata/namespace",
        _ => selectable(kind).iter().find(|(l, _)| *l == label).map_or("", |(_, path)| *path),
    }
}

fn field(kind: &Kind, object: &Value, label: &str) -> String {
    match custom(kind).iter().find(|(l, _)| l == label) {
        Some((_, path)) => shown("", path.find(object).first().copied()),
        None => match shown(label, object.pointer(place(kind, label))) {
            // An event of the newer kind has its source as its controller.
            source if label == SOURCE && source.is_empty() => reporter(object),
            value => value,
        },
    }
}

/// What a field says that has this value.
fn shown(label: &str, value: Option<&Value>) -> String {
    match value {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Null) | None => unset(label).to_owned(),
        Some(v) => v.to_string(),
    }
}

fn reporter(event: &Value) -> String {
    event["reportingComponent"].as_str().unwrap_or_default().to_owned()
}
