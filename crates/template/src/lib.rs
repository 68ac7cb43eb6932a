//! Go text/template over JSON values, as docker's --format flags use it.
#![forbid(unsafe_code)]

mod eval;
mod format;
mod funcs;
mod lex;
mod parse;
mod value;

pub use eval::{Env, Method, Missing, Print};
pub use format::{format_g, inner, quote};
pub use parse::ParseError;

use std::collections::HashMap;

use serde_json::Value;

/// A parsed template and the templates that it defines.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    root: Vec<parse::Node>,
    defined: HashMap<String, Vec<parse::Node>>,
}

/// Why executing a template failed, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExecError(pub(crate) String);

impl Template {
    /// Parses a template with Go's builtin functions and docker's: `json`, `split`, `join`,
    /// `title`, `lower`, `upper`, `pad` and `truncate`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parse::parse(text)
    }

    /// Executes with Go's rule for missing keys of a map: `<no value>`.
    pub fn execute(&self, data: &Value) -> Result<String, ExecError> {
        self.execute_in(data, &Env::default())
    }

    /// Executes with rules of one's own for missing keys, methods and functions.
    pub fn execute_in(&self, data: &Value, env: &Env<'_>) -> Result<String, ExecError> {
        eval::execute(self, data, env)
    }

    /// Whether the template mentions a field of the data's root by this name.
    pub fn mentions(&self, field: &str) -> bool {
        let whole = |c: char| !(c.is_alphanumeric() || c == '_');
        self.text
            .match_indices(&format!(".{field}"))
            .any(|(at, found)| self.text[at + found.len()..].chars().next().is_none_or(whole))
    }
}

#[cfg(test)]
mod tests;
