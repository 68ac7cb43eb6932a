//! Variables in values: `$V`, `${V}`, `${V:-d}`, `${V-d}`, `${V:+r}`, `${V+r}`, `${V:?e}`, `${V?e}`, `$$`.

use std::collections::{BTreeMap, BTreeSet};

use super::Env;
use crate::compose::fault::{Fault, Result};
use crate::compose::node::{Node, Path, Span, Value};

/// Nested defaults go no deeper than this.
const MAX_NESTING: usize = 32;

/// Where variables come from, and what became of those that were asked for.
pub(in crate::compose) struct Variables<'a> {
    env: &'a Env,
    /// Those that nobody has set.
    pub(in crate::compose) unset: BTreeSet<String>,
    /// Those of the text at hand.
    asked: BTreeSet<String>,
    /// Those of each text, by where it is written.
    pub(in crate::compose) used: Used,
}

/// The variables of texts, by where the texts are written.
pub(in crate::compose) type Used = BTreeMap<Span, BTreeSet<String>>;

impl<'a> Variables<'a> {
    pub(in crate::compose) fn new(env: &'a Env) -> Self {
        Self { env, unset: BTreeSet::new(), asked: BTreeSet::new(), used: Used::new() }
    }

    fn find(&mut self, name: &str) -> Option<String> {
        self.asked.insert(name.to_owned());
        self.env.get(name).cloned()
    }
}

/// Why a text cannot be interpolated.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::compose) enum Problem {
    /// It is not in a form that is understood.
    Invalid,
    /// `${V:?why}` and V has no value.
    Required { name: String, why: String },
    /// Defaults within defaults without end.
    Deep,
}

/// Replaces the variables of every value below `node`, and reads texts as numbers and booleans
/// where Compose expects those. Keys stay as they are.
pub(in crate::compose) fn apply(
    node: &mut Node,
    path: Path<'_>,
    variables: &mut Variables<'_>,
) -> Result<()> {
    let span = node.span;
    match &mut node.value {
        Value::Text(text) => {
            let new = substitute(text, variables)
                .map_err(|problem| Fault::at(span, explain(&problem, &path, text)))?;
            let asked = std::mem::take(&mut variables.asked);
            if !asked.is_empty() {
                variables.used.entry(span).or_default().extend(asked);
            }
            node.value = cast(new, &path).map_err(|why| {
                let at = format!("error while interpolating {path}");
                Fault::at(span, format!("{at}: failed to cast to expected type: {why}"))
            })?;
            Ok(())
        }
        Value::Map(map) => {
            map.iter_mut().try_for_each(|(name, child)| apply(child, path.next(name), variables))
        }
        Value::List(list) => {
            list.iter_mut().try_for_each(|child| apply(child, path.next("[]"), variables))
        }
        _ => Ok(()),
    }
}

fn explain(problem: &Problem, path: &Path<'_>, text: &str) -> String {
    match problem {
        Problem::Invalid => format!(
            "invalid interpolation format for {path}.\nYou may need to escape any $ with another $.\n{text}"
        ),
        Problem::Deep => format!("defaults within defaults are too deep in {path}"),
        Problem::Required { name, why } => {
            let missing = format!("required variable {name} is missing a value");
            let why = if why.is_empty() { missing } else { format!("{missing}: {why}") };
            format!("error while interpolating {path}: {why}")
        }
    }
}

/// One text with its variables replaced.
pub(in crate::compose) fn substitute(
    text: &str,
    variables: &mut Variables<'_>,
) -> std::result::Result<String, Problem> {
    replace(text, variables, 0)
}

fn replace(
    text: &str,
    variables: &mut Variables<'_>,
    depth: usize,
) -> std::result::Result<String, Problem> {
    if depth > MAX_NESTING {
        return Err(Problem::Deep);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('{') {
            let end = closing(inner).ok_or(Problem::Invalid)?;
            out.push_str(&braced(&inner[..end], variables, depth)?);
            rest = &inner[end + 1..];
        } else {
            let length = name_length(rest);
            match length {
                0 => out.push('$'),
                _ => out.push_str(&plain(&rest[..length], variables)),
            }
            rest = &rest[length..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn plain(name: &str, variables: &mut Variables<'_>) -> String {
    variables.find(name).unwrap_or_else(|| {
        variables.unset.insert(name.to_owned());
        String::new()
    })
}

/// What stands between the braces.
fn braced(
    inner: &str,
    variables: &mut Variables<'_>,
    depth: usize,
) -> std::result::Result<String, Problem> {
    let (name, rest) = inner.split_at(name_length(inner));
    if name.is_empty() {
        return Err(Problem::Invalid);
    }
    if rest.is_empty() {
        return Ok(plain(name, variables));
    }
    let (strict, rest) = match rest.strip_prefix(':') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let value = variables.find(name);
    let counts = value.as_ref().is_some_and(|v| !strict || !v.is_empty());
    let word = rest.get(1..).unwrap_or_default();
    // The word is read even when it is not used, so that its mistakes are found.
    let word = |variables: &mut Variables<'_>| replace(word, variables, depth + 1);
    match rest.chars().next() {
        Some('-') if counts => Ok(value.unwrap_or_default()),
        Some('-') => word(variables),
        Some('+') if counts => word(variables),
        Some('+') => Ok(value.unwrap_or_default()),
        Some('?') if counts => Ok(value.unwrap_or_default()),
        Some('?') => Err(Problem::Required { name: name.to_owned(), why: word(variables)? }),
        _ => Err(Problem::Invalid),
    }
}

/// The length of a variable's name at the beginning of the text.
fn name_length(text: &str) -> usize {
    match text.bytes().next() {
        Some(b) if b == b'_' || b.is_ascii_alphabetic() => {
            text.bytes().position(|b| b != b'_' && !b.is_ascii_alphanumeric()).unwrap_or(text.len())
        }
        _ => 0,
    }
}

/// Where the brace that was opened before the text closes.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => (),
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

#[derive(Clone, Copy)]
enum Cast {
    Int,
    Float,
    Bool,
}

const CASTS: &[(Cast, &[&str])] = &[
    (
        Cast::Int,
        &[
            "services.*.cpu_count",
            "services.*.cpu_period",
            "services.*.cpu_quota",
            "services.*.cpu_rt_period",
            "services.*.cpu_rt_runtime",
            "services.*.cpu_shares",
            "services.*.deploy.replicas",
            "services.*.deploy.update_config.parallelism",
            "services.*.deploy.rollback_config.parallelism",
            "services.*.deploy.restart_policy.max_attempts",
            "services.*.deploy.placement.max_replicas_per_node",
            "services.*.healthcheck.retries",
            "services.*.oom_score_adj",
            "services.*.pids_limit",
            "services.*.ports.[].target",
            "services.*.scale",
            "services.*.ulimits.*",
            "services.*.ulimits.*.hard",
            "services.*.ulimits.*.soft",
        ],
    ),
    (
        Cast::Float,
        &[
            "services.*.cpu_percent",
            "services.*.cpus",
            "services.*.deploy.update_config.max_failure_ratio",
            "services.*.deploy.rollback_config.max_failure_ratio",
        ],
    ),
    (
        Cast::Bool,
        &[
            "services.*.init",
            "services.*.healthcheck.disable",
            "services.*.oom_kill_disable",
            "services.*.privileged",
            "services.*.read_only",
            "services.*.stdin_open",
            "services.*.tty",
            "services.*.volumes.[].read_only",
            "services.*.volumes.[].volume.nocopy",
            "networks.*.external",
            "networks.*.internal",
            "networks.*.attachable",
            "networks.*.enable_ipv4",
            "networks.*.enable_ipv6",
            "volumes.*.external",
            "secrets.*.external",
            "configs.*.external",
        ],
    ),
];

fn cast(text: String, path: &Path<'_>) -> std::result::Result<Value, String> {
    let kind = CASTS.iter().find(|(_, list)| list.iter().any(|p| path.matches(p)));
    let Some((kind, _)) = kind else { return Ok(Value::Text(text)) };
    match kind {
        Cast::Int => text.parse().map(Value::Int).map_err(|_| format!("{text:?} is not a number")),
        Cast::Float => {
            text.parse().map(Value::Float).map_err(|_| format!("{text:?} is not a number"))
        }
        Cast::Bool => boolean(&text).map(Value::Bool).ok_or(format!("invalid boolean: {text}")),
    }
}

/// A boolean as YAML 1.1 wrote them.
pub(in crate::compose) fn boolean(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "true" | "y" | "yes" | "on" => Some(true),
        "false" | "n" | "no" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: std::result::Result<&str, Problem>) {
        let env = Env::from([("A", "a"), ("EMPTY", "")].map(|(k, v)| (k.into(), v.into())));
        let mut variables = Variables::new(&env);
        let found = substitute(text, &mut variables);
        assert_eq!(found, expected.map(str::to_owned), "{text}");
    }

    #[test]
    fn variables_are_replaced() {
        for (text, expected) in [
            ("$A", "a"),
            ("x${A}y", "xay"),
            ("${NO}", ""),
            ("$NO-", "-"),
            ("${NO-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${EMPTY:-d}", "d"),
            ("${A:-d}", "a"),
            ("${A:+r}", "r"),
            ("${EMPTY:+r}", ""),
            ("${EMPTY+r}", "r"),
            ("${NO:-${A}x}", "ax"),
            ("${NO:-${NO2:-deep}} and ${A}", "deep and a"),
            ("${A:?no}", "a"),
            ("$$A", "$A"),
            ("$${A}", "${A}"),
            ("100% $ 5$", "100% $ 5$"),
            ("$1", "$1"),
            ("${NO:-{\"a\":1}}", "{\"a\":1}"),
            ("${NO:-a:-b}", "a:-b"),
        ] {
            check(text, Ok(expected));
        }
    }

    #[test]
    fn mistakes_are_told() {
        for text in ["${", "${}", "${1}", "${A", "${A!}", "${A:}"] {
            check(text, Err(Problem::Invalid));
        }
        let why = |why: &str| Problem::Required { name: "NO".into(), why: why.into() };
        check("${NO:?set it}", Err(why("set it")));
        check("${NO?}", Err(why("")));
        check(&"${NO:-".repeat(100_000), Err(Problem::Invalid));
        let nested = format!("{}x{}", "${NO:-".repeat(60), "}".repeat(60));
        check(&nested, Err(Problem::Deep));
    }
}
