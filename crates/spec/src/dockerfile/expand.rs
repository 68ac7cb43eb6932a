//! Shell-like words: quotes, escapes and variables, as the Dockerfile reference defines them.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

/// Nesting of `${a:-${b:-…}}` beyond which a word is refused.
const MAX_DEPTH: usize = 64;
/// Characters that one word may expand to.
const MAX_EXPANDED: usize = 16 << 20;

/// Why a word is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// A quote is not closed.
    #[error("unexpected end of statement while looking for matching {0}-quote")]
    Quote(&'static str),
    /// A `${` is not closed.
    #[error("syntax error: missing '{missing}' in substitution")]
    Open {
        /// What is missing.
        missing: char,
    },
    /// An operator that does not exist.
    #[error("unsupported modifier ({0}) in substitution")]
    Modifier(String),
    /// `${name:?message}` of a variable that is not set.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The message.
        message: String,
    },
    /// Too deep or too long.
    #[error("substitution is nested too deeply or expands to too much")]
    TooMuch,
}

/// What happens to quotes and escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quotes {
    /// They do their work and go.
    #[default]
    Process,
    /// They do their work and stay.
    Raw,
    /// Quotes are letters, as in a here-document. Escapes work in front of every character, as BuildKit reads it.
    Literal,
}

/// Where values come from.
pub trait Variables {
    /// The value of `name`; `None` if it is not set.
    fn value(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Variables for F {
    fn value(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// A word with its variables replaced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The result.
    pub text: String,
    /// Variables that had a value and were used.
    pub used: BTreeSet<String>,
    /// Variables that were asked for without a value or default.
    pub unset: BTreeSet<String>,
}

/// How words are read.
#[derive(Debug, Clone, Copy)]
pub struct Lexer {
    escape: char,
    quotes: Quotes,
}

impl Lexer {
    /// With this escape character.
    pub fn new(escape: char) -> Lexer {
        Lexer { escape, quotes: Quotes::Process }
    }

    /// The same with another treatment of quotes.
    #[must_use]
    pub fn quotes(mut self, quotes: Quotes) -> Lexer {
        self.quotes = quotes;
        self
    }

    /// The words of a text, apart by blanks outside quotes, with their quotes and variables as they are.
    pub fn split(&self, text: &str) -> Vec<String> {
        super::form::words(text, self.escape)
    }

    /// One word: blanks do not split it.
    pub fn word(&self, text: &str, variables: &dyn Variables) -> Result<Expanded, ExpandError> {
        let mut reader = Reader::new(self, text, Some(variables));
        reader.run(None, false)?;
        let Reader { result, used, unset, .. } = reader;
        Ok(Expanded { text: result, used, unset })
    }

    /// Words, split at blanks outside quotes, also at those that a variable brings.
    pub fn words(
        &self,
        text: &str,
        variables: &dyn Variables,
    ) -> Result<(Vec<String>, Expanded), ExpandError> {
        let mut reader = Reader::new(self, text, Some(variables));
        reader.run(None, false)?;
        reader.words.flush();
        let Reader { result, used, unset, words, .. } = reader;
        Ok((words.done, Expanded { text: result, used, unset }))
    }

    /// Words without variables: `$x` stays.
    pub(crate) fn raw_words(&self, text: &str) -> Result<Vec<String>, ExpandError> {
        let mut reader = Reader::new(self, text, None);
        reader.run(None, false)?;
        reader.words.flush();
        Ok(reader.words.done)
    }
}

/// Words in the making.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
    in_word: bool,
}

impl Words {
    fn char(&mut self, c: char) {
        if c.is_whitespace() {
            self.flush();
        } else {
            self.raw(c);
        }
    }

    fn raw(&mut self, c: char) {
        self.in_word = true;
        self.current.push(c);
    }

    fn begin(&mut self) {
        self.in_word = true;
    }

    fn flush(&mut self) {
        if std::mem::take(&mut self.in_word) {
            self.done.push(std::mem::take(&mut self.current));
        }
    }
}

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    variables: Option<&'a dyn Variables>,
    escape: char,
    raw: bool,
    literal: bool,
    depth: usize,
    result: String,
    words: Words,
    used: BTreeSet<String>,
    unset: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn new(lexer: &Lexer, text: &'a str, variables: Option<&'a dyn Variables>) -> Reader<'a> {
        Reader {
            chars: text.chars().peekable(),
            variables,
            escape: lexer.escape,
            raw: lexer.quotes == Quotes::Raw,
            literal: lexer.quotes == Quotes::Literal,
            depth: 0,
            result: String::new(),
            words: Words::default(),
            used: BTreeSet::new(),
            unset: BTreeSet::new(),
        }
    }

    /// Reads to the end, or to `stop`, which is consumed. With `raw_escapes` escapes stay for a pattern.
    fn run(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(), ExpandError> {
        while let Some(c) = self.chars.next() {
            if Some(c) == stop {
                return Ok(());
            }
            if self.result.len() > MAX_EXPANDED {
                return Err(ExpandError::TooMuch);
            }
            match c {
                '\'' if !self.literal => self.single_quoted()?,
                '"' if !self.literal => self.double_quoted()?,
                '$' if self.variables.is_some() => {
                    let value = self.dollar()?;
                    self.result.push_str(&value);
                    value.chars().for_each(|c| self.words.char(c));
                }
                c if c == self.escape => {
                    if self.raw || raw_escapes {
                        self.put(c);
                    }
                    // A lone escape at the end goes.
                    if let Some(next) = self.chars.next() {
                        self.put(next);
                    }
                }
                c => {
                    self.result.push(c);
                    self.words.char(c);
                }
            }
        }
        match stop {
            Some(missing) => Err(ExpandError::Open { missing }),
            None => Ok(()),
        }
    }

    fn put(&mut self, c: char) {
        self.result.push(c);
        self.words.raw(c);
    }

    fn single_quoted(&mut self) -> Result<(), ExpandError> {
        self.words.begin();
        if self.raw {
            self.put('\'');
        }
        loop {
            match self.chars.next() {
                None => return Err(ExpandError::Quote("single")),
                Some('\'') => break,
                Some(c) => self.put(c),
            }
        }
        if self.raw {
            self.put('\'');
        }
        Ok(())
    }

    fn double_quoted(&mut self) -> Result<(), ExpandError> {
        self.words.begin();
        if self.raw {
            self.put('"');
        }
        loop {
            match self.chars.next() {
                None => return Err(ExpandError::Quote("double")),
                Some('"') => break,
                Some('$') if self.variables.is_some() => {
                    let value = self.dollar()?;
                    value.chars().for_each(|c| self.put(c));
                }
                Some(c) if c == self.escape => {
                    let special = |n: &char| matches!(n, '"' | '$') || *n == self.escape;
                    match self.chars.peek().copied().filter(special) {
                        Some(next) => {
                            self.chars.next();
                            if self.raw {
                                self.put(c);
                            }
                            self.put(next);
                        }
                        None => self.put(c),
                    }
                }
                Some(c) => self.put(c),
            }
        }
        if self.raw {
            self.put('"');
        }
        Ok(())
    }

    /// What is after `$`.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        if self.chars.peek() != Some(&'{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(self.plain(&name));
        }
        self.chars.next();
        if matches!(self.chars.peek(), None | Some('}')) {
            return Err(ExpandError::Modifier("empty name".into()));
        }
        let name = self.name();
        let Some(op) = self.chars.next() else { return Err(ExpandError::Open { missing: '}' }) };
        match op {
            '}' => Ok(self.plain(&name)),
            ':' => match self.chars.next() {
                Some(op @ ('-' | '+' | '?')) => self.default(&name, op, true),
                other => Err(ExpandError::Modifier(format!(":{}", other.unwrap_or(' ')))),
            },
            '-' | '+' | '?' => self.default(&name, op, false),
            '#' | '%' => self.trim(&name, op),
            '/' => self.replace(&name),
            other => Err(ExpandError::Modifier(other.to_string())),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(&c) = self.chars.peek() {
            let positional = name.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty();
            let fits = match (name.is_empty(), positional) {
                (true, _) if matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                    self.chars.next();
                    return c.to_string();
                }
                (false, true) => c.is_ascii_digit(),
                _ => c.is_alphanumeric() || c == '_',
            };
            if !fits {
                break;
            }
            name.push(c);
            self.chars.next();
        }
        name
    }

    fn look_up(&mut self, name: &str) -> Option<String> {
        let value = self.variables.and_then(|v| v.value(name));
        if value.is_some() {
            self.used.insert(name.to_owned());
        }
        value
    }

    fn plain(&mut self, name: &str) -> String {
        self.look_up(name).unwrap_or_else(|| {
            self.unset.insert(name.to_owned());
            String::new()
        })
    }

    /// The word up to `stop`, itself expanded.
    fn inner(&mut self, stop: char, raw_escapes: bool) -> Result<String, ExpandError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ExpandError::TooMuch);
        }
        // The word must not be split while it is only an operand.
        let (result, words) = (std::mem::take(&mut self.result), std::mem::take(&mut self.words));
        let ran = self.run(Some(stop), raw_escapes);
        let word = std::mem::replace(&mut self.result, result);
        self.words = words;
        self.depth -= 1;
        ran.map(|()| word)
    }

    fn default(
        &mut self,
        name: &str,
        op: char,
        null_is_unset: bool,
    ) -> Result<String, ExpandError> {
        let word = self.inner('}', false)?;
        let value = self.look_up(name);
        let set = value.as_ref().is_some_and(|v| !(null_is_unset && v.is_empty()));
        match op {
            '-' if set => Ok(value.unwrap_or_default()),
            '-' => Ok(word),
            '+' if set => Ok(word),
            '+' => Ok(String::new()),
            _ if set => Ok(value.unwrap_or_default()),
            _ => {
                let state = if value.is_some() { "empty" } else { "unset" };
                let message =
                    if word.is_empty() { format!("is not allowed to be {state}") } else { word };
                Err(ExpandError::Required { name: name.to_owned(), message })
            }
        }
    }

    fn trim(&mut self, name: &str, op: char) -> Result<String, ExpandError> {
        let greedy = self.chars.peek() == Some(&op);
        if greedy {
            self.chars.next();
        }
        let pattern = self.inner('}', true)?;
        let value = self.plain(name);
        let cuts: Vec<usize> = boundaries(&value);
        let fits = |cut: &usize| match op {
            '#' => glob(&pattern, &value[..*cut]),
            _ => glob(&pattern, &value[*cut..]),
        };
        // The longest prefix is the last cut, the longest suffix the first.
        let hit = if greedy == (op == '#') {
            cuts.iter().rev().find(|c| fits(c))
        } else {
            cuts.iter().find(|c| fits(c))
        };
        Ok(match (hit, op) {
            (Some(cut), '#') => value[*cut..].to_owned(),
            (Some(cut), _) => value[..*cut].to_owned(),
            (None, _) => value,
        })
    }

    fn replace(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.chars.peek() == Some(&'/');
        if all {
            self.chars.next();
        }
        let pattern = self.inner('/', true)?;
        let replacement = self.inner('}', true)?;
        let value = self.plain(name);
        let cuts = boundaries(&value);
        let (mut out, mut at, mut done) = (String::new(), 0, false);
        while at < value.len() {
            let longest = |from: usize| {
                cuts.iter()
                    .rev()
                    .find(|to| **to > from && glob(&pattern, &value[from..**to]))
                    .copied()
            };
            match longest(at).filter(|_| !done) {
                Some(end) => {
                    out.push_str(&replacement);
                    at = end;
                    done = !all;
                }
                None => {
                    let c = value[at..].chars().next().unwrap_or_default();
                    out.push(c);
                    at += c.len_utf8();
                }
            }
        }
        Ok(out)
    }
}

fn boundaries(text: &str) -> Vec<usize> {
    text.char_indices().map(|(i, _)| i).chain([text.len()]).collect()
}

/// A shell pattern of `*`, `?` and escaped characters against all of `text`.
fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some('?') => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            Some('\\') if pattern.get(p + 1) == Some(&text[t]) => {
                (p, t) = (p + 2, t + 1);
                continue;
            }
            Some(c) if *c == text[t] && *c != '\\' => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            _ => {}
        }
        // Go back to the last star and let it take one more.
        let Some((sp, st)) = star else { return false };
        star = Some((sp, st + 1));
        (p, t) = (sp + 1, st + 1);
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str) -> Option<String> {
        let value = match name {
            "a" => "one",
            "path" => "/usr/local/lib.tar.gz",
            "blank" => "x y",
            "empty" => "",
            _ => return None,
        };
        Some(value.into())
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let got = Lexer::new('\\').word(text, &variables).map(|e| e.text);
        assert_eq!(got.unwrap_or_else(|e| format!("error: {e}")), expected, "{text}");
    }

    #[test]
    fn operators() {
        check("$a-${a}", "one-one");
        check("${b:-two}${empty:-three}${empty-four}${b-five}", "twothreefive");
        check("${a:+set}${b:+set}${empty:+set}${empty+set}", "setset");
        check("${a:?no}", "one");
        check("${b:?gone}", "error: b: gone");
        check("${b?}", "error: b: is not allowed to be unset");
        check("${empty:?}", "error: empty: is not allowed to be empty");
        check("${b:-${c:-$a}}", "one");
        check("${path#*/}", "usr/local/lib.tar.gz");
        check("${path##*/}", "lib.tar.gz");
        check("${path%.*}", "/usr/local/lib.tar");
        check("${path%%.*}", "/usr/local/lib");
        check("${path/l/L}", "/usr/Local/lib.tar.gz");
        check("${path//l/L}", "/usr/LocaL/Lib.tar.gz");
        check("${path//\\//_}", "_usr_local_lib.tar.gz");
        check("${path/?sr*/x}", "/x");
    }

    #[test]
    fn quotes_and_escapes() {
        check("'$a' \"$a\" \\$a", "$a one $a");
        check("\"a\\\"b\\$c\\d\"", "a\"b$c\\d");
        check("$", "$");
        check("a$ b", "a$ b");
        check("$1x", "x");
        check("end\\", "end");
        check(
            "'open",
            "error: unexpected end of statement while looking for matching single-quote",
        );
        check("${a", "error: syntax error: missing '}' in substitution");
        check("${a:!}", "error: unsupported modifier (:!) in substitution");
        check("${}", "error: unsupported modifier (empty name) in substitution");
    }

    #[test]
    fn documents_know_variables_and_no_quotes() {
        let lexer = Lexer::new('\\').quotes(Quotes::Literal);
        let got = lexer.word("it's \"$a\" \\$a \\n \\\n\\\\ ${b:-x}", &variables).unwrap().text;
        assert_eq!(got, "it's \"one\" $a n \n\\ x");
    }

    #[test]
    fn words_split_outside_quotes_and_inside_values() {
        let (words, seen) =
            Lexer::new('\\').words("p '$a q' $blank \"$blank\" ''$none", &variables).unwrap();
        assert_eq!(words, ["p", "$a q", "x", "y", "x y", ""]);
        assert!(seen.used.contains("blank") && seen.unset.contains("none"));
    }

    #[test]
    fn nesting_has_a_limit() {
        let deep = "${x:-".repeat(1000);
        assert_eq!(Lexer::new('\\').word(&deep, &variables), Err(ExpandError::TooMuch));
    }
}
