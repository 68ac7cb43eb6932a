//! Where each value of a project comes from.

use std::collections::BTreeMap;

use super::{CONTENT, Env, Loaded};
use crate::compose::node::{Node, Tag, Value};

/// For each service the variables that env files gave it, with the file.
pub(super) type FromFiles = BTreeMap<String, Env>;

/// One value and its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where the value stands in the project, such as `services.web.image`.
    pub path: String,
    /// The value as one line.
    pub value: String,
    /// Who says so.
    pub source: Source,
    /// The variables that were replaced in it.
    pub variables: Vec<String>,
}

/// Who says what a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A place in a Compose file.
    Place {
        /// The file.
        file: String,
        /// From 1.
        line: u32,
        /// From 1, in characters.
        column: u32,
    },
    /// Nobody: it is the specification's default, or follows from something else.
    Default,
    /// An `env_file`.
    EnvFile(String),
}

impl Loaded {
    /// All values of the project, in the order of their paths, each with its source.
    pub fn origins(&self) -> Vec<Origin> {
        let mut out = Vec::new();
        self.below(&self.tree, String::new(), &mut out);
        for (service, variables) in &self.from_files {
            let Some(found) = self.project.services.get(service) else { continue };
            for (name, file) in variables {
                let value = found.environment.0.get(name).cloned().flatten().unwrap_or_default();
                out.push(Origin {
                    path: format!("services.{service}.environment.{name}"),
                    value: shown(&value),
                    source: Source::EnvFile(file.clone()),
                    variables: Vec::new(),
                });
            }
        }
        // Profiles and the choice of services have decided what remains.
        let kept = |path: &str| match path.strip_prefix("services.") {
            None => true,
            Some(rest) => self.project.services.keys().any(|name| {
                rest.strip_prefix(name.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('.'))
            }),
        };
        out.retain(|o| kept(&o.path));
        out.sort_by(|a, b| a.path.cmp(&b.path));
        out
    }

    fn below(&self, node: &Node, path: String, out: &mut Vec<Origin>) {
        let next = |name: &str| match path.is_empty() {
            true => name.to_owned(),
            false => format!("{path}.{name}"),
        };
        match &node.value {
            Value::Map(map) if !map.is_empty() => {
                for (name, child) in map.iter().filter(|(name, _)| *name != CONTENT) {
                    self.below(child, next(name), out);
                }
            }
            Value::List(list) if !list.is_empty() => {
                for (at, child) in list.iter().enumerate() {
                    match (pairs(&path), child.as_text().and_then(|t| t.split_once('='))) {
                        (true, Some((name, value))) => {
                            out.push(self.origin(child, next(name), value.to_owned()));
                        }
                        _ => self.below(child, format!("{path}[{at}]"), out),
                    }
                }
            }
            Value::Map(_) => out.push(self.origin(node, path, "{}".to_owned())),
            Value::List(_) => out.push(self.origin(node, path, "[]".to_owned())),
            _ => {
                let value = match node.is_null() {
                    true => "null".to_owned(),
                    false => node.printed().unwrap_or_default(),
                };
                out.push(self.origin(node, path, value));
            }
        }
    }

    fn origin(&self, node: &Node, path: String, value: String) -> Origin {
        let span = node.span;
        let written = node.tag != Tag::Implied && span.line > 0;
        let source = match self.sources.name(span).filter(|_| written) {
            Some(file) => {
                Source::Place { file: file.to_owned(), line: span.line, column: span.column }
            }
            None => Source::Default,
        };
        let used = self.used.get(&span).filter(|_| written);
        let mut variables: Vec<String> = used.into_iter().flatten().cloned().collect();
        if node.tag == Tag::Around {
            variables.extend(path.rsplit('.').next().map(str::to_owned));
        }
        Origin { path, value: shown(&value), source, variables }
    }
}

/// Whether the elements of a list are `name=value`.
fn pairs(path: &str) -> bool {
    ["environment", "labels", "args"].iter().any(|e| path.rsplit('.').next() == Some(e))
}

fn shown(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\n', "\\n")
}
