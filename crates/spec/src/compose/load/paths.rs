//! Relative paths, made absolute from the project's directory.

use super::volume::join;
use crate::compose::fault::{Fault, Result};
use crate::compose::node::{Node, Path, Value};

#[derive(Clone, Copy)]
enum Rule {
    /// A path, or a list of paths.
    Path,
    /// A directory, or something with a scheme.
    Context,
    /// The source of a bind mount.
    Mount,
    /// A volume that is a bind mount in disguise.
    Driver,
}

const RULES: &[(Rule, &[&str])] = &[
    (
        Rule::Path,
        &[
            "services.*.build.ssh.*",
            "services.*.env_file.*.path",
            "services.*.label_file.*",
            "services.*.extends.file",
            "services.*.develop.watch.*.path",
            "configs.*.file",
            "secrets.*.file",
        ],
    ),
    (Rule::Context, &["services.*.build.context", "services.*.build.additional_contexts.*"]),
    (Rule::Mount, &["services.*.volumes.*"]),
    (Rule::Driver, &["volumes.*"]),
];

/// What paths are relative to.
#[derive(Clone, Copy)]
pub(in crate::compose) struct Base<'a> {
    pub(in crate::compose) dir: &'a str,
    /// What `~` stands for.
    pub(in crate::compose) home: Option<&'a str>,
}

impl Base<'_> {
    pub(in crate::compose) fn absolute(&self, path: &str) -> String {
        if path.is_empty() {
            return String::new();
        }
        match (path.strip_prefix('~'), self.home) {
            (Some(rest), Some(home)) => join(home, rest.trim_start_matches('/')),
            _ if is_windows(path) => path.to_owned(),
            _ => join(self.dir, path),
        }
    }
}

/// Resolves what is below `node`.
pub(in crate::compose) fn resolve(node: &mut Node, path: Path<'_>, base: Base<'_>) -> Result<()> {
    let rule = RULES.iter().find(|(_, list)| list.iter().any(|p| path.matches(p)));
    if let Some((rule, _)) = rule {
        return special(*rule, node, base);
    }
    match &mut node.value {
        Value::Map(map) => {
            map.iter_mut().try_for_each(|(name, child)| resolve(child, path.next(name), base))
        }
        Value::List(list) => {
            list.iter_mut().try_for_each(|child| resolve(child, path.next("[]"), base))
        }
        _ => Ok(()),
    }
}

fn special(rule: Rule, node: &mut Node, base: Base<'_>) -> Result<()> {
    let span = node.span;
    match (rule, &mut node.value) {
        (Rule::Path, Value::Text(text)) => *text = base.absolute(text),
        (Rule::Context, Value::Text(text)) if is_remote(text) => (),
        (Rule::Context, Value::Text(text)) => *text = base.absolute(text),
        (Rule::Mount, Value::Map(map)) => {
            if map.get("type").and_then(Node::as_text) != Some("bind") {
                return Ok(());
            }
            match map.get_mut("source").map(|s| &mut s.value) {
                Some(Value::Text(source)) => *source = base.absolute(source),
                _ => {
                    let why =
                        "invalid mount config for type \"bind\": field Source must not be empty";
                    return Err(Fault::at(span, why));
                }
            }
        }
        (Rule::Driver, Value::Map(map)) => {
            let local = map.get("driver").and_then(Node::as_text) == Some("local");
            let options = map.get_mut("driver_opts").and_then(Node::as_map_mut);
            let Some(options) = options.filter(|_| local) else { return Ok(()) };
            let bind = options.get("o").and_then(Node::as_text) == Some("bind");
            if let Some(Value::Text(device)) = options.get_mut("device").map(|d| &mut d.value)
                && bind
            {
                *device = base.absolute(device);
            }
        }
        _ => (),
    }
    Ok(())
}

/// A build context that is not a directory of this machine.
fn is_remote(context: &str) -> bool {
    context.contains("://")
        || ["service:", "github.com/", "git@"].iter().any(|p| context.starts_with(p))
}

fn is_windows(path: &str) -> bool {
    let bytes = path.as_bytes();
    path.starts_with("\\\\")
        || matches!(bytes, [drive, b':', b'\\' | b'/', ..] if drive.is_ascii_alphabetic())
}
