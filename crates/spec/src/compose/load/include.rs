//! `include`: other Compose files as a part of this one.

use std::rc::Rc;

use super::volume::join;
use super::{Env, Loader, Scope, Text, dotenv, read_file};
use crate::compose::fault::{Fault, Result};
use crate::compose::node::{Map, Node, Value};

const SECTIONS: [&str; 6] = ["services", "volumes", "networks", "secrets", "configs", "models"];

/// One entry of the list.
struct Entry {
    paths: Vec<String>,
    dir: Option<String>,
    env_files: Vec<String>,
    node: Node,
}

impl Loader<'_> {
    /// Loads what a file includes and adds it to the file's own sections.
    pub(super) fn include_all(
        &mut self,
        root: &mut Node,
        file: &Text,
        scope: &Scope,
    ) -> Result<()> {
        let Some(list) = root.as_map_mut().and_then(|m| m.remove("include")) else {
            return Ok(());
        };
        if list.is_null() {
            return Ok(());
        }
        let Value::List(list) = list.value else {
            return Err(Fault::at(list.span, "`include` must be a list"));
        };
        let mut included = scope.included.clone();
        included.push(file.name.clone());
        for node in list {
            let entry = read(node)?;
            let imported = self.included(&entry, &included, scope)?;
            import(imported, root, &entry.node)?;
        }
        Ok(())
    }

    fn included(&mut self, entry: &Entry, included: &[String], scope: &Scope) -> Result<Node> {
        let mut files = Vec::new();
        for path in &entry.paths {
            if path.contains("://") || path.starts_with("git@") || path.ends_with(".git") {
                let text = format!("include of the remote file {path} is not supported");
                return Err(Fault::at(entry.node.span, text));
            }
            let path = scope.base().absolute(path);
            if files.is_empty() && included.contains(&path) {
                let chain: Vec<&str> =
                    included[1..].iter().chain([&path]).map(String::as_str).collect();
                let text = format!(
                    "include cycle detected:\n{}\n include {}",
                    included[0],
                    chain.join("\n include ")
                );
                return Err(Fault::at(entry.node.span, text));
            }
            let text = read_file(self.files, &path, "included file")
                .map_err(|f| f.or_at(entry.node.span))?;
            files.push(Text { name: path, text });
        }
        let first = files.first().map(|f| f.name.as_str()).unwrap_or_default();
        let dir = match &entry.dir {
            Some(dir) => join(&scope.dir, dir),
            None => first.rsplit_once('/').map_or("", |(dir, _)| dir).to_owned(),
        };
        let mut env = (*scope.env).clone();
        for (name, value) in self.own_env(entry, &dir, scope)? {
            env.entry(name).or_insert(value);
        }
        let inner = Scope { dir, env: Rc::new(env), included: included.to_vec() };
        // Where the files differ in their directory, relative paths cannot be kept.
        let keep_paths = std::mem::take(&mut self.resolution.keep_paths);
        let merged = self.merged(&files, &inner);
        self.resolution.keep_paths = keep_paths;
        merged
    }

    fn own_env(&self, entry: &Entry, dir: &str, scope: &Scope) -> Result<Env> {
        let mut files: Vec<String> =
            entry.env_files.iter().map(|f| scope.base().absolute(f)).collect();
        let usual = join(dir, ".env");
        if files.is_empty() && self.files.is_file(&usual) {
            files.push(usual);
        }
        let mut env = Env::new();
        for file in files {
            let text =
                read_file(self.files, &file, "env file").map_err(|f| f.or_at(entry.node.span))?;
            dotenv::parse(&text, &scope.env, &mut env)
                .map_err(|why| Fault::new(format!("failed to read {file}: {why}")))?;
        }
        Ok(env)
    }
}

fn read(node: Node) -> Result<Entry> {
    let strings = |node: Option<&Node>| -> Vec<String> {
        let Some(node) = node else { return Vec::new() };
        let one = node.as_text().map(str::to_owned);
        let many = node.as_list().unwrap_or_default().iter().filter_map(Node::as_text);
        one.into_iter().chain(many.map(str::to_owned)).collect()
    };
    let entry = match &node.value {
        Value::Text(path) => {
            Entry { paths: vec![path.clone()], dir: None, env_files: Vec::new(), node }
        }
        Value::Map(map) => {
            let known = ["path", "project_directory", "env_file"];
            if let Some((name, odd)) = map.iter().find(|(k, _)| !known.contains(&k.as_str())) {
                let text = format!("include: additional properties '{name}' not allowed");
                return Err(Fault::at(odd.key, text));
            }
            Entry {
                paths: strings(node.get("path")),
                dir: node.get_text("project_directory").map(str::to_owned),
                env_files: strings(node.get("env_file")),
                node,
            }
        }
        _ => return Err(Fault::at(node.span, "include: a path or a mapping is expected")),
    };
    match entry.paths.is_empty() {
        true => Err(Fault::at(entry.node.span, "include: path is missing")),
        false => Ok(entry),
    }
}

fn import(from: Node, root: &mut Node, entry: &Node) -> Result<()> {
    let (Value::Map(mut from), Some(to)) = (from.value, root.as_map_mut()) else { return Ok(()) };
    for section in SECTIONS {
        let Some(Value::Map(new)) = from.remove(section).map(|n| n.value) else { continue };
        let own =
            to.entry(section.to_owned()).or_insert_with(|| entry.with(Value::Map(Map::new())));
        if own.is_null() {
            own.value = Value::Map(Map::new());
        }
        let Some(own) = own.as_map_mut() else { continue };
        for (name, node) in new {
            if own.get(&name).is_some_and(|old| !old.same(&node)) {
                let text = format!("{section}.{name} conflicts with imported resource");
                return Err(Fault::at(own[&name].key, text));
            }
            own.insert(name, node);
        }
    }
    Ok(())
}
