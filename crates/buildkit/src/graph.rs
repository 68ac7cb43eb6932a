//! Results of wharf's own, dressed as build graphs: clients carry them from one build to another unread.

use std::collections::HashMap;

use prost::Message as _;
use tonic::Status;
use wharf_spec::digest::Digest;

use crate::proto::pb::{self, op::Op as Kind};

/// The scheme of a source that is a result.
const SCHEME: &str = "wharf-result://";

/// A graph that stands for the result `id`.
pub(crate) fn of_result(id: &str) -> pb::Definition {
    let source = pb::SourceOp { identifier: format!("{SCHEME}{id}"), ..pb::SourceOp::default() };
    let source = pb::Op { op: Some(Kind::Source(source)), ..pb::Op::default() }.encode_to_vec();
    let digest = Digest::sha256(&source).to_string();
    // Graphs end in an operation that only points at the one that is meant.
    let input = pb::Input { digest: digest.clone(), index: 0 };
    let end = pb::Op { inputs: vec![input], ..pb::Op::default() }.encode_to_vec();
    pb::Definition {
        def: vec![source.into(), end.into()],
        metadata: HashMap::from([(digest, pb::OpMetadata::default())]),
        source: None,
    }
}

/// Which result a graph stands for. Other graphs are refused by what is in them.
pub(crate) fn result(graph: &pb::Definition) -> Result<String, Status> {
    let mut found = None;
    for bytes in &graph.def {
        let op = pb::Op::decode(bytes.clone())
            .map_err(|e| Status::invalid_argument(format!("a build graph cannot be read: {e}")))?;
        let other = match op.op {
            None => continue,
            Some(Kind::Source(source)) => match source.identifier.strip_prefix(SCHEME) {
                Some(id) if found.is_none() => {
                    found = Some(id.to_owned());
                    continue;
                }
                Some(_) => "several results",
                None => return Err(refused(&format!("the source {}", source.identifier))),
            },
            Some(Kind::Exec(_)) => "an exec operation",
            Some(Kind::File(_)) => "a file operation",
            Some(Kind::Build(_)) => "a build operation",
            Some(Kind::Merge(_)) => "a merge operation",
            Some(Kind::Diff(_)) => "a diff operation",
            Some(Kind::Passthrough(_)) => "a passthrough operation",
        };
        return Err(refused(other));
    }
    found.ok_or_else(|| refused("nothing"))
}

fn refused(what: &str) -> Status {
    Status::unimplemented(format!(
        "this is a build graph (LLB) with {what}; wharf builds Dockerfiles and the results of other builds, not graphs: give it a Dockerfile"
    ))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_result_comes_back_from_its_graph() {
        let graph = of_result("abc");
        let wire = pb::Definition::decode(&graph.encode_to_vec()[..]).unwrap();
        assert_eq!(result(&wire).unwrap(), "abc");
        // What a Go client looks up in it: the last operation's input, and that one's metadata.
        let end = pb::Op::decode(graph.def[1].clone()).unwrap();
        assert_eq!(end.inputs[0].digest, Digest::sha256(&graph.def[0]).to_string());
        assert!(graph.metadata.contains_key(&end.inputs[0].digest));
    }

    #[test]
    fn other_graphs_are_refused_by_what_is_in_them() {
        let graph = |op| pb::Definition {
            def: vec![pb::Op { op: Some(op), ..pb::Op::default() }.encode_to_vec().into()],
            ..pb::Definition::default()
        };
        let image = pb::SourceOp { identifier: "docker-image://x".into(), ..Default::default() };
        for (graph, words) in [
            (graph(Kind::Source(image)), "docker-image://x"),
            (graph(Kind::Exec(b"".as_slice().into())), "exec operation"),
            (pb::Definition::default(), "nothing"),
        ] {
            let status = result(&graph).unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented);
            assert!(status.message().contains(words), "{status}");
        }
        let broken = pb::Definition { def: vec![b"\xff".as_slice().into()], ..Default::default() };
        assert_eq!(result(&broken).unwrap_err().code(), Code::InvalidArgument);
    }
}
