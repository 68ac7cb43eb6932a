//! `.env` files: `KEY=value` lines with quotes, comments, `export` and variables.

use super::Env;
use super::interpolate::{Problem, Variables, substitute};

/// Reads an env file. `outer` answers for variables and wins over what the file itself sets.
pub fn parse(text: &str, outer: &Env, out: &mut Env) -> Result<(), String> {
    let mut parser = Parser { rest: text.strip_prefix('\u{feff}').unwrap_or(text), line: 1 };
    while let Some((key, inherited)) = parser.key()? {
        if inherited {
            if let Some(value) = outer.get(&key) {
                out.insert(key, value.clone());
            }
            continue;
        }
        let value = parser.value(outer, out)?;
        out.insert(key, value);
    }
    Ok(())
}

/// Lines `KEY=value` taken as they are, as `format: raw` wants them.
pub(in crate::compose) fn parse_raw(text: &str, out: &mut Env) {
    for line in text.lines().map(str::trim_start).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some((key, value)) = line.split_once('=') {
            out.insert(key.to_owned(), value.to_owned());
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
}

impl Parser<'_> {
    /// The next key, and whether it stands alone and so takes its value from outside.
    fn key(&mut self) -> Result<Option<(String, bool)>, String> {
        self.skip();
        if self.rest.is_empty() {
            return Ok(None);
        }
        if let Some(after) = self.rest.strip_prefix("export")
            && after.starts_with(is_space)
        {
            self.rest = after.trim_start_matches(is_space);
        }
        let stop = |c: char| matches!(c, '=' | ':' | '\n');
        let end = self.rest.find(stop).unwrap_or(self.rest.len());
        let (found, after) = self.rest.split_at(end);
        let odd = |c: &char| !is_space(*c) && !c.is_alphanumeric() && !"_.-[]".contains(*c);
        if let Some(odd) = found.chars().find(odd) {
            let line = self.rest.lines().next().unwrap_or_default();
            return Err(format!(
                "line {}: unexpected character {:?} in variable name {line:?}",
                self.line,
                odd.to_string()
            ));
        }
        let alone = !after.starts_with(['=', ':']);
        let key = found.trim_end().to_owned();
        if key.contains(' ') {
            return Err(format!("line {}: key cannot contain a space", self.line));
        }
        self.line += usize::from(after.starts_with('\n'));
        self.rest = after.get(1..).unwrap_or_default().trim_start_matches(is_space);
        Ok(Some((key, alone)))
    }

    /// Blank lines and comments.
    fn skip(&mut self) {
        loop {
            let trimmed = self.rest.trim_start();
            self.line += self.rest[..self.rest.len() - trimmed.len()].matches('\n').count();
            self.rest = trimmed;
            if !trimmed.starts_with('#') {
                return;
            }
            self.rest = trimmed.find('\n').map_or("", |end| &trimmed[end..]);
        }
    }

    fn value(&mut self, outer: &Env, inner: &Env) -> Result<String, String> {
        if let Some(quote @ ('"' | '\'')) = self.rest.chars().next() {
            return self.quoted(quote, outer, inner);
        }
        let (value, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        let value = value.split(" #").next().unwrap_or_default().trim_end();
        self.rest = rest;
        self.line += 1;
        expand(value, outer, inner, self.line - 1)
    }

    fn quoted(&mut self, quote: char, outer: &Env, inner: &Env) -> Result<String, String> {
        let (first, start) = (self.line, self.rest);
        let mut value = String::new();
        let mut escaped = false;
        for (at, c) in start.char_indices().skip(1) {
            self.line += usize::from(c == '\n');
            if c == quote && !escaped {
                self.rest = &start[at + 1..];
                return match quote {
                    '"' => expand(&unescape(&value), outer, inner, first),
                    _ => Ok(value),
                };
            }
            if c == '\\' && !escaped {
                escaped = true;
                continue;
            }
            if escaped && c != quote {
                value.push('\\');
            }
            escaped = false;
            value.push(c);
        }
        let shown = start.lines().next().unwrap_or_default();
        Err(format!("line {first}: unterminated quoted value {shown}"))
    }
}

fn expand(value: &str, outer: &Env, inner: &Env, line: usize) -> Result<String, String> {
    if !value.contains('$') {
        return Ok(value.to_owned());
    }
    let mut env = inner.clone();
    env.extend(outer.iter().map(|(k, v)| (k.clone(), v.clone())));
    let mut variables = Variables::new(&env);
    substitute(value, &mut variables).map_err(|problem| match problem {
        Problem::Required { name, why } if why.is_empty() => {
            format!("line {line}: required variable {name} is missing a value")
        }
        Problem::Required { name, why } => {
            format!("line {line}: required variable {name} is missing a value: {why}")
        }
        Problem::Invalid | Problem::Deep => format!("line {line}: invalid template: {value:?}"),
    })
}

/// The shell's escapes; `\$` becomes the `$$` that interpolation leaves alone.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (new, used) = match after.chars().next() {
            Some('$') => ("$$".to_owned(), 1),
            Some('a') => ("\x07".to_owned(), 1),
            Some('b') => ("\x08".to_owned(), 1),
            Some('f') => ("\x0c".to_owned(), 1),
            Some('n') => ("\n".to_owned(), 1),
            Some('r') => ("\r".to_owned(), 1),
            Some('t') => ("\t".to_owned(), 1),
            Some('v') => ("\x0b".to_owned(), 1),
            Some(c @ ('"' | '\\')) => (c.to_string(), 1),
            Some('0') => octal(after),
            _ => ("\\".to_owned(), 0),
        };
        out.push_str(&new);
        rest = &after[used..];
    }
    out.push_str(rest);
    out
}

/// `\0` and three octal digits; anything less stays as it is.
fn octal(after: &str) -> (String, usize) {
    let digits = after[1..].bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
    let byte = (digits == 3).then(|| u8::from_str_radix(&after[1..4], 8).ok()).flatten();
    match byte {
        Some(byte) => (char::from(byte).to_string(), 4),
        None => ("\\0".to_owned(), 1),
    }
}

/// Spaces that do not end a line.
fn is_space(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ' | '\u{85}' | '\u{a0}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Env, String> {
        let outer = Env::from([("OUT".to_owned(), "outer".to_owned())]);
        let mut env = Env::new();
        parse(text, &outer, &mut env).map(|()| env)
    }

    #[test]
    fn values_are_read() {
        for (text, expected) in [
            ("K=v", "v"),
            ("  # c\n\nexport K = v # c", "v"),
            ("K: v", "v"),
            ("K=a#b", "a#b"),
            ("K='a $OUT \\n'", "a $OUT \\n"),
            ("K=\"a $OUT\\n\"", "a outer\n"),
            ("K=\"two\nlines\"", "two\nlines"),
            ("K=\"q\\\"q\"", "q\"q"),
            ("K=\\$x", "\\"),
            ("K=\"\\$x\"", "$x"),
            ("K=${NO:-d}", "d"),
            ("B=1\nK=$B$B", "11"),
            ("K=", ""),
            ("K=\nL=x", ""),
            ("K=\r\n", ""),
        ] {
            let env = read(text).unwrap();
            assert_eq!(env.get("K").map(String::as_str), Some(expected), "{text}");
        }
        assert_eq!(read("OUT").unwrap()["OUT"], "outer");
        assert!(read("NOT_SET\n").unwrap().is_empty());
    }

    #[test]
    fn mistakes_name_their_line() {
        assert!(read("A=1\nB$=2").unwrap_err().starts_with("line 2: unexpected character \"$\""));
        assert!(read("A='x").unwrap_err().contains("unterminated"));
        assert!(read("A B=1").unwrap_err().contains("space"));
    }
}
