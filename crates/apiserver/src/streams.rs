//! Streams into pods and through the server: what policies and webhooks are told of them, and why none begins.

use crate::api::Call;
use crate::hooks;
use crate::respond::Answer;
use crate::server::{Incoming, Server};
use crate::stored;
use serde_json::{Map, Value, json};
use wharf_kube::status::Fault;

/// Answers a request for a stream. Whoever judges requests is asked first; then it takes a node that runs the pod.
pub(crate) async fn serve(server: &Server, r: &Incoming, call: &Call<'_>) -> Result<Answer, Fault> {
    let sub = call.subresource.unwrap_or_default();
    // A log is read, which is none of their business.
    if sub != "log" {
        if call.query.dry_run {
            return Err(Fault::bad_request("dryRun is not supported"));
        }
        let mut options = options(r, call, sub);
        hooks::below(&server.api, call, "CONNECT", &mut options).await?;
    }
    if sub == "proxy" {
        return Err(no_proxy(call));
    }
    let name = call.name()?;
    let pod = stored::decode(&server.api.get(call, name).await?);
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(Fault::bad_request(format!("pod {name} does not have a host assigned")));
    }
    Err(Fault::internal(format!("node {node} of pod {name} serves no {sub}")))
}

fn no_proxy(call: &Call<'_>) -> Fault {
    let name = call.name.unwrap_or_default();
    match call.kind.resource.plural {
        "services" => Fault::unavailable(format!("no endpoints available for service {name:?}")),
        plural => Fault::unavailable(format!("no route to the {plural} {name:?} from this server")),
    }
}

/// What a query asks of a stream, as the object that stands for it (`PodExecOptions` and its kin).
fn options(r: &Incoming, call: &Call<'_>, sub: &str) -> Value {
    let (kind, fields): (&str, &[&str]) = match (call.kind.resource.plural, sub) {
        (_, "exec") => {
            ("PodExecOptions", &["stdin", "stdout", "stderr", "tty", "container", "command"])
        }
        (_, "attach") => ("PodAttachOptions", &["stdin", "stdout", "stderr", "tty", "container"]),
        (_, "portforward") => ("PodPortForwardOptions", &["ports"]),
        ("services", _) => ("ServiceProxyOptions", &[]),
        ("nodes", _) => ("NodeProxyOptions", &[]),
        _ => ("PodProxyOptions", &[]),
    };
    let mut out = Map::new();
    out.insert("kind".to_owned(), json!(kind));
    out.insert("apiVersion".to_owned(), json!("v1"));
    let query = crate::request::pairs(&r.query);
    for field in fields {
        let mut given =
            query.iter().filter(|(k, _)| k == field).map(|(_, v)| v.as_str()).peekable();
        if given.peek().is_none() {
            continue;
        }
        let value = match *field {
            "command" => given.map(Value::from).collect(),
            "ports" => {
                let all = given.flat_map(|v| v.split(','));
                all.filter_map(|p| p.parse::<i32>().ok()).map(Value::from).collect()
            }
            "container" => json!(given.next()),
            _ => match given.next() {
                Some("0" | "false") | None => continue,
                Some(_) => json!(true),
            },
        };
        out.insert((*field).to_owned(), value);
    }
    if sub == "proxy" {
        out.insert("path".to_owned(), json!(behind(&r.path, call.namespace.is_some())));
    }
    Value::Object(out)
}

/// The part of a path that is for whoever is behind the proxy.
fn behind(path: &str, namespaced: bool) -> String {
    // api v1 [namespaces NAMESPACE] PLURAL NAME proxy
    let own = if namespaced { 7 } else { 5 };
    let rest: Vec<&str> = path.trim_start_matches('/').splitn(own + 1, '/').skip(own).collect();
    rest.first().map(|r| format!("/{r}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_proxy_is_cut_out_of_the_path() {
        let of = |path: &str| behind(path, path.contains("namespaces"));
        assert_eq!(of("/api/v1/namespaces/proxy/services/proxy/proxy/a/b"), "/a/b");
        assert_eq!(of("/api/v1/namespaces/n/pods/p/proxy/"), "/");
        assert_eq!(of("/api/v1/nodes/n/proxy/metrics/cadvisor"), "/metrics/cadvisor");
        assert_eq!(of("/api/v1/nodes/n/proxy"), "");
    }
}
