//! `extends`: a service that starts from another one, of this file or of another.

use super::{Loader, Scope, canonical, legacy, merge, paths, read_file, remove, unique};
use crate::compose::fault::{Fault, Result};
use crate::compose::node::{Map, Node, Path, Value};
use crate::compose::yaml;

/// A service and the file that it is in.
type Link = (String, String);

/// The services of another file, and what that file resets in what it extends.
struct Foreign {
    services: Map,
    removed: Vec<Vec<String>>,
}

impl Loader<'_> {
    /// Replaces `extends` in every service by what it stands for.
    pub(super) fn extend_all(
        &mut self,
        root: &mut Node,
        file: &str,
        scope: &Scope,
        removed: &[Vec<String>],
    ) -> Result<()> {
        let Some(services) = root.as_map_mut().and_then(|m| m.get_mut("services")) else {
            return Ok(());
        };
        let span = services.span;
        let Some(map) = services.as_map_mut() else {
            return Err(Fault::at(span, "services must be a mapping"));
        };
        let all = map.clone();
        for (name, service) in map.iter_mut() {
            if service.get("extends").is_some() {
                let foreign = Foreign { services: all.clone(), removed: removed.to_vec() };
                *service = self.extended(name, &foreign, file, scope, &mut Vec::new())?;
            }
        }
        Ok(())
    }

    fn extended(
        &mut self,
        name: &str,
        from: &Foreign,
        file: &str,
        scope: &Scope,
        chain: &mut Vec<Link>,
    ) -> Result<Node> {
        let Some(service) = from.services.get(name) else {
            return Err(Fault::new(format!("no such service: {name}")));
        };
        let Some(extends) = service.get("extends") else { return Ok(service.clone()) };
        if service.as_map().is_none() {
            return Err(Fault::at(service.span, format!("services.{name} must be a mapping")));
        }
        let link = (name.to_owned(), file.to_owned());
        if chain.contains(&link) {
            return Err(Fault::at(extends.key, cycle(chain, &link)));
        }
        chain.push(link);
        let base = match extends.as_text() {
            Some(base) => base,
            None => extends.get_text("service").ok_or_else(|| {
                Fault::at(extends.span, format!("extends.{name}.service is required"))
            })?,
        };
        let source = match extends.get_text("file") {
            None if from.services.contains_key(base) => {
                self.extended(base, from, file, scope, chain)?
            }
            None => {
                let text =
                    format!("cannot extend service {name:?} in {file}: service {base:?} not found");
                return Err(Fault::at(extends.span, text));
            }
            Some(path) => {
                let path = scope.base().absolute(path);
                let foreign = self.foreign(&path, extends, scope)?;
                if !foreign.services.contains_key(base) {
                    let text = format!(
                        "cannot extend service {name:?} in {file}: service {base:?} not found in {path}"
                    );
                    return Err(Fault::at(extends.span, text));
                }
                self.extended(base, &foreign, &path, scope, chain)?
            }
        };
        let mut service = service.clone();
        if let Some(map) = service.as_map_mut() {
            map.remove("extends");
        }
        if source.is_null() {
            return Ok(service);
        }
        combine(name, source, service, &from.removed)
    }

    /// The services of another file, its paths resolved from where it lies.
    fn foreign(&mut self, path: &str, extends: &Node, scope: &Scope) -> Result<Foreign> {
        let text =
            read_file(self.files, path, "extended file").map_err(|f| f.or_at(extends.span))?;
        let mark = self.sources.add(path, &text);
        let mut all = Map::new();
        let mut removed = Vec::new();
        for document in yaml::parse(mark, &text)? {
            let mut root = document.root;
            if legacy::is(&root) {
                legacy::modernize(&mut root)?;
            }
            if !self.resolution.keep_variables {
                self.interpolate(&mut root, Path::ROOT, &scope.env)?;
            }
            unique::enforce(&mut root, Path::ROOT)?;
            canonical::apply(&mut root, Path::ROOT, self.resolution.keep_variables)?;
            let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
            let base = paths::Base { dir, ..scope.base() };
            paths::resolve(&mut root, Path::ROOT, base)?;
            if let Value::Map(mut map) = root.value
                && let Some(Value::Map(services)) = map.remove("services").map(|s| s.value)
            {
                all.extend(services);
            }
            removed.extend(document.removed);
        }
        match all.is_empty() {
            true => {
                let text = format!("cannot extend from {path}: no services section");
                Err(Fault::at(extends.span, text))
            }
            false => Ok(Foreign { services: all, removed }),
        }
    }
}

/// Merges a service over the one that it extends.
fn combine(name: &str, source: Node, service: Node, removed: &[Vec<String>]) -> Result<Node> {
    // What the service resets is looked for under its own name.
    let span = service.span;
    let key = service.key;
    let services = Node::new(Value::Map(Map::from([(name.to_owned(), source)])), span);
    let mut whole = Node::new(Value::Map(Map::from([("services".to_owned(), services)])), span);
    remove(&mut whole, &mut Vec::new(), removed);
    let services = whole.as_map_mut().and_then(|m| m.remove("services"));
    let source = services.and_then(|mut s| s.as_map_mut().and_then(|m| m.remove(name)));
    let Some(mut source) = source else { return Ok(service) };
    merge::merge(&mut source, service, Path::ROOT.next("services").next(name))?;
    Ok(Node { span, key, ..source })
}

fn cycle(chain: &[Link], link: &Link) -> String {
    let mut lines = vec!["Circular reference:".to_owned()];
    for (at, (service, file)) in chain.iter().chain([link]).enumerate() {
        let verb = if at == 0 { "" } else { "extends " };
        lines.push(format!("  {verb}{service} in {file}"));
    }
    lines.join("\n")
}
