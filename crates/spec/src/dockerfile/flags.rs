//! `--name=value` in front of an instruction's arguments.

use super::DockerfileError;
use super::lines::Logical;
use super::nearest::hint;

/// One flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flag {
    pub(crate) name: String,
    /// `None` without `=`.
    pub(crate) value: Option<String>,
    /// Its offset in the logical line.
    pub(crate) at: usize,
}

/// An instruction's flags, checked against those it knows.
#[derive(Debug)]
pub(crate) struct Flags<'a> {
    line: &'a Logical,
    list: Vec<Flag>,
}

/// Takes the flags off `line` from `start` on. Returns them and where the arguments begin.
pub(crate) fn split<'a>(line: &'a Logical, start: usize, escape: char) -> (Flags<'a>, usize) {
    let text = &line.text;
    let mut list = Vec::new();
    let mut at = start;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let rest = &text[at..];
        if !rest.starts_with("--") {
            break;
        }
        let (word, length) = word(rest, escape);
        if word == "--" {
            at += length;
            break;
        }
        let body = &word[2..];
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (body.to_owned(), None),
        };
        list.push(Flag { name, value, at });
        at += length;
    }
    at += text[at..].len() - text[at..].trim_start().len();
    (Flags { line, list }, at)
}

/// The first word, its quotes taken away, and its length in bytes as written.
fn word(text: &str, escape: char) -> (String, usize) {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (out, i),
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(q) if c == q => quote = None,
            _ if c == escape && quote != Some('\'') => {
                // The escape stays in front of `$`, which is expanded later.
                if let Some((_, next)) = chars.next() {
                    if next == '$' {
                        out.push(c);
                    }
                    out.push(next);
                }
            }
            _ => out.push(c),
        }
    }
    (out, text.len())
}

impl Flags<'_> {
    /// Refuses flags that are not in `known`, and those given twice that are not in `repeatable`.
    pub(crate) fn check(&self, known: &[&str], repeatable: &[&str]) -> Result<(), DockerfileError> {
        for (n, flag) in self.list.iter().enumerate() {
            if !known.contains(&flag.name.as_str()) {
                let hint = hint(&flag.name, known.iter().copied());
                return Err(self.error(flag, format!("unknown flag: --{}{hint}", flag.name)));
            }
            let again = self.list[..n].iter().any(|f| f.name == flag.name);
            if again && !repeatable.contains(&flag.name.as_str()) {
                return Err(self.error(flag, format!("duplicate flag specified: --{}", flag.name)));
            }
        }
        Ok(())
    }

    /// The value of a flag that needs one.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, DockerfileError> {
        let Some(flag) = self.list.iter().find(|f| f.name == name) else { return Ok(None) };
        self.value(flag).map(Some)
    }

    /// All values of a flag that may be repeated.
    pub(crate) fn all(&self, name: &str) -> Result<Vec<(String, &Flag)>, DockerfileError> {
        let list = self.list.iter().filter(|f| f.name == name);
        list.map(|f| Ok((self.value(f)?, f))).collect()
    }

    /// A flag that is on by its name alone.
    pub(crate) fn truth(&self, name: &str) -> Result<Option<bool>, DockerfileError> {
        let Some(flag) = self.list.iter().find(|f| f.name == name) else { return Ok(None) };
        match flag.value.as_deref() {
            None => Ok(Some(true)),
            Some(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "t" => Ok(Some(true)),
                "false" | "0" | "f" => Ok(Some(false)),
                _ => {
                    let text = format!("expecting boolean value for flag --{name}, not: {text}");
                    Err(self.error(flag, text))
                }
            },
        }
    }

    pub(crate) fn error(&self, flag: &Flag, message: String) -> DockerfileError {
        let mut e = DockerfileError::new(self.line.place(flag.at), message);
        e.last_line = self.line.last_line;
        e
    }

    fn value(&self, flag: &Flag) -> Result<String, DockerfileError> {
        flag.value
            .clone()
            .ok_or_else(|| self.error(flag, format!("missing a value on flag: --{}", flag.name)))
    }
}
