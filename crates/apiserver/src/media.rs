//! Media types: what a body is written in, and in which form a client wants its answer.

use wharf_kube::status::Fault;

/// The notations of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notation {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Protobuf in its envelope.
    Protobuf,
}

/// What objects are turned into before they are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum View {
    /// Nothing.
    #[default]
    Whole,
    /// A `Table`.
    Table,
    /// Only `metadata`.
    Metadata,
    /// Discovery in one document, in this version.
    Discovery(&'static str),
}

/// The answer that was negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accept {
    /// Its notation.
    pub notation: Notation,
    /// Its form.
    pub view: View,
    /// The client did not ask for anything in particular but is a person's tool.
    pub stream: bool,
}

const READ: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const WRITTEN: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
const WRITTEN_CUSTOM: &str = "application/json, application/yaml, application/json;stream=watch";
const STREAMED: &str =
    "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
const STREAMED_CUSTOM: &str = "application/json;stream=watch";

/// The media type without parameters, in lower case.
pub fn essence(text: &str) -> String {
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// What a request's body is written in. No type at all is JSON.
pub fn body(content_type: Option<&str>) -> Result<Notation, Fault> {
    match essence(content_type.unwrap_or_default()).as_str() {
        "" | "application/json" => Ok(Notation::Json),
        "application/yaml" => Ok(Notation::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Notation::Protobuf),
        _ => Err(Fault::media_type(READ)),
    }
}

/// The first clause of an `Accept` header that can be served. `tables` and `protobuf` say what the kind can do.
pub fn accept(header: Option<&str>, tables: bool, protobuf: bool) -> Result<Accept, Fault> {
    let header = header.unwrap_or_default();
    if header.trim().is_empty() {
        return Ok(Accept { notation: Notation::Json, view: View::Whole, stream: false });
    }
    let mut clauses: Vec<(i32, Clause<'_>)> = header.split(',').filter_map(Clause::read).collect();
    // Stable: equal weights keep the client's order.
    clauses.sort_by_key(|(q, _)| -q);
    clauses
        .iter()
        .filter(|(q, _)| *q > 0)
        .find_map(|(_, c)| c.serve(tables, protobuf))
        .ok_or_else(|| Fault::not_acceptable(if protobuf { WRITTEN } else { WRITTEN_CUSTOM }))
}

/// Refuses to write a stream in a notation that has no frames: what the client likes best decides, as for one answer.
pub fn streams(accept: Accept, protobuf: bool) -> Result<(), Fault> {
    if accept.notation == Notation::Yaml {
        return Err(Fault::only_accepted(if protobuf { STREAMED } else { STREAMED_CUSTOM }));
    }
    Ok(())
}

struct Clause<'a> {
    essence: String,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    fn read(text: &'a str) -> Option<(i32, Clause<'a>)> {
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next()?.to_ascii_lowercase();
        let parameters: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
        let q = parameters.iter().find(|(k, _)| *k == "q").map_or("1", |(_, v)| v);
        let thousandths = q.parse::<f64>().map_or(1000.0, |q| q.clamp(0.0, 1.0) * 1000.0);
        #[allow(clippy::cast_possible_truncation, reason = "0 to 1000")]
        Some((thousandths as i32, Clause { essence, parameters }))
    }

    fn parameter(&self, key: &str) -> &'a str {
        self.parameters.iter().find(|(k, _)| *k == key).map_or("", |(_, v)| *v)
    }

    fn serve(&self, tables: bool, protobuf: bool) -> Option<Accept> {
        let notation = match self.essence.as_str() {
            "application/json" | "*/*" | "application/*" => Notation::Json,
            "application/yaml" => Notation::Yaml,
            "application/vnd.kubernetes.protobuf" if protobuf => Notation::Protobuf,
            _ => return None,
        };
        let (group, version) = (self.parameter("g"), self.parameter("v"));
        let meta = group == "meta.k8s.io" && matches!(version, "v1" | "v1beta1");
        let view = match self.parameter("as") {
            "" => View::Whole,
            "Table" if meta && tables => View::Table,
            "PartialObjectMetadata" | "PartialObjectMetadataList" if meta && tables => {
                View::Metadata
            }
            "APIGroupDiscoveryList" if group == "apidiscovery.k8s.io" => match version {
                "v2" => View::Discovery("v2"),
                "v2beta1" => View::Discovery("v2beta1"),
                _ => return None,
            },
            _ => return None,
        };
        Some(Accept { notation, view, stream: self.parameter("stream") == "watch" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, notation: Notation, view: View) {
        let a = accept(Some(header), true, true).unwrap();
        assert_eq!((a.notation, a.view), (notation, view), "{header}");
    }

    #[test]
    fn the_first_clause_that_can_be_served_wins() {
        check("", Notation::Json, View::Whole);
        check("*/*", Notation::Json, View::Whole);
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Notation::Json,
            View::Table,
        );
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            Notation::Protobuf,
            View::Whole,
        );
        check("application/xml, application/yaml", Notation::Yaml, View::Whole);
        check("application/json;q=0.5, application/yaml;q=0.9", Notation::Yaml, View::Whole);
        check(
            "application/json;as=Nothing;g=x;v=v1, application/json",
            Notation::Json,
            View::Whole,
        );
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_what_can() {
        let f = accept(Some("application/xml"), true, true).unwrap_err();
        assert_eq!(f.code, 406);
        assert!(f.message.ends_with("application/vnd.kubernetes.protobuf;stream=watch"));
        assert!(accept(Some("application/json;as=Table;v=v1;g=meta.k8s.io"), false, true).is_err());
        assert!(accept(Some("application/vnd.kubernetes.protobuf"), true, false).is_err());
        assert_eq!(body(Some("application/xml")).unwrap_err().code, 415);
        assert_eq!(body(Some("application/json; charset=utf-8")), Ok(Notation::Json));
    }
}
