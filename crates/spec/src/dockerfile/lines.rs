//! From bytes to logical lines: directives, comments, continuations, heredocs.

use super::expand::{Lexer, Quotes};
use super::{DockerfileError, Place};

/// A whole instruction, its continuation lines joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logical {
    /// Joined text, without blanks at its start.
    pub(crate) text: String,
    /// Where pieces of `text` come from: offset in it, and place in the file; sorted.
    pub(crate) pieces: Vec<(usize, Place)>,
    /// Documents that follow it.
    pub(crate) heredocs: Vec<Heredoc>,
    /// Its last line, counted from 1.
    pub(crate) last_line: usize,
    /// Empty lines were skipped inside it.
    pub(crate) has_empty_continuation: bool,
    /// The comment lines directly above it, without `#`.
    pub(crate) comments: Vec<String>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heredoc {
    /// Its delimiter, which is its name where a file is made of it.
    pub(crate) name: String,
    /// As between its delimiters.
    pub(crate) content: String,
    /// Whether variables in it are expanded: its delimiter is not quoted.
    pub(crate) expand: bool,
    /// `<<-`: tabs at the start of lines go.
    pub(crate) chomp: bool,
}

/// Parser directives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Directives {
    /// `# syntax=`, with its place.
    pub(crate) syntax: Option<(String, usize)>,
    /// `# escape=`; the default is a backslash.
    pub(crate) escape: Option<char>,
    /// `# check=`.
    pub(crate) check: Option<String>,
}

impl Directives {
    /// The escape character in force.
    pub(crate) fn escape_char(&self) -> char {
        self.escape.unwrap_or('\\')
    }
}

impl Logical {
    /// Where byte `offset` of the text is in the file.
    pub(crate) fn place(&self, offset: usize) -> Place {
        let found = self.pieces.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        let Some((start, place)) = self.pieces.get(found) else { return Place::default() };
        let part = self.text.get(*start..offset.min(self.text.len())).unwrap_or_default();
        Place { line: place.line, column: place.column + part.chars().count() }
    }
}

/// Reads directives and logical lines.
pub(crate) fn read(text: &str) -> Result<(Directives, Vec<Logical>), DockerfileError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let directives = directives(&lines)?;
    let mut reader = Reader { lines, next: 0, escape: directives.escape_char() };
    let mut all = Vec::new();
    while let Some(logical) = reader.logical()? {
        all.push(logical);
    }
    Ok((directives, all))
}

/// Only before the first comment, empty line or instruction; each once.
fn directives(lines: &[&str]) -> Result<Directives, DockerfileError> {
    let mut found = Directives::default();
    for (n, line) in lines.iter().enumerate() {
        let line = line.trim();
        // A script's first line, so that a Dockerfile can be executed.
        if n == 0 && line.starts_with("#!") {
            continue;
        }
        let Some((key, value)) = directive(line) else { break };
        let at = Place { line: n + 1, column: 1 };
        let twice = |taken: bool| match taken {
            true => Err(DockerfileError::new(
                at,
                format!("only one {key} parser directive can be used"),
            )),
            false => Ok(()),
        };
        match key.as_str() {
            "syntax" => {
                twice(found.syntax.is_some())?;
                found.syntax = Some((value.to_owned(), n + 1));
            }
            "check" => {
                twice(found.check.is_some())?;
                found.check = Some(value.to_owned());
            }
            "escape" => {
                twice(found.escape.is_some())?;
                found.escape = match value {
                    "\\" => Some('\\'),
                    "`" => Some('`'),
                    _ => {
                        let text = format!("invalid escape token '{value}' does not match ` or \\");
                        return Err(DockerfileError::new(at, text));
                    }
                };
            }
            // Any other comment ends the directives.
            _ => break,
        }
    }
    Ok(found)
}

fn directive(line: &str) -> Option<(String, &str)> {
    let rest = line.strip_prefix('#')?.trim_start();
    let (key, value) = rest.split_once('=')?;
    let key = key.trim_end();
    let word = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.bytes().all(|b| b.is_ascii_alphanumeric());
    (word && !value.trim().is_empty()).then(|| (key.to_ascii_lowercase(), value.trim()))
}

struct Reader<'a> {
    lines: Vec<&'a str>,
    next: usize,
    escape: char,
}

impl Reader<'_> {
    fn take(&mut self) -> Option<(usize, &str)> {
        let line = self.lines.get(self.next)?;
        self.next += 1;
        Some((self.next, line))
    }

    fn logical(&mut self) -> Result<Option<Logical>, DockerfileError> {
        let escape = self.escape;
        let mut comments = Vec::new();
        let (mut out, mut open) = loop {
            let Some((number, line)) = self.take() else { return Ok(None) };
            let line = line.trim_end_matches(['\n', '\r']);
            let bare = line.trim_start();
            if let Some(comment) = bare.strip_prefix('#') {
                comments.push(comment.trim().to_owned());
                continue;
            }
            let (body, open) = continued(bare, escape);
            if body.is_empty() && !open {
                comments.clear();
                continue;
            }
            let column = line.chars().count() - bare.chars().count() + 1;
            let out = Logical {
                text: body.to_owned(),
                pieces: vec![(0, Place { line: number, column })],
                heredocs: Vec::new(),
                last_line: number,
                has_empty_continuation: false,
                comments: std::mem::take(&mut comments),
            };
            break (out, open);
        };
        while open {
            let Some((number, line)) = self.take() else { break };
            let line = line.trim_end_matches(['\n', '\r']);
            if line.trim_start().starts_with('#') {
                continue;
            }
            if line.trim().is_empty() {
                out.has_empty_continuation = true;
                continue;
            }
            let body;
            (body, open) = continued(line, escape);
            out.pieces.push((out.text.len(), Place { line: number, column: 1 }));
            out.text.push_str(body);
            out.last_line = number;
        }
        out.text.truncate(out.text.trim_end().len());
        if out.text.is_empty() {
            return self.logical();
        }
        self.heredocs(&mut out)?;
        Ok(Some(out))
    }

    fn heredocs(&mut self, out: &mut Logical) -> Result<(), DockerfileError> {
        if !out.text.contains("<<") || !may_have_heredocs(&out.text) {
            return Ok(());
        }
        for (name, expand, chomp) in announced(&out.text, self.escape) {
            let mut content = String::new();
            loop {
                let Some((number, line)) = self.take() else {
                    let mut e = DockerfileError::new(
                        out.place(0),
                        format!("unterminated heredoc: no line consists of {name} alone"),
                    );
                    e.last_line = out.last_line;
                    return Err(e);
                };
                let bare = line.trim_end_matches(['\n', '\r']);
                let end = if chomp { bare.trim_start_matches('\t') } else { bare };
                if end == name {
                    out.last_line = number;
                    break;
                }
                content.push_str(line);
            }
            out.heredocs.push(Heredoc { name, content, expand, chomp });
        }
        Ok(())
    }
}

/// The line without its continuation mark, and whether it had one. A doubled escape is none.
fn continued(line: &str, escape: char) -> (&str, bool) {
    let bare = line.trim_end_matches([' ', '\t']);
    match bare.strip_suffix(escape) {
        Some(body) if !body.ends_with(escape) => (body, true),
        _ => (line, false),
    }
}

/// Only these instructions take them, also behind ONBUILD; one in JSON form does not.
fn may_have_heredocs(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let mut first = words.next().unwrap_or_default();
    if first.eq_ignore_ascii_case("ONBUILD") {
        first = words.next().unwrap_or_default();
    }
    let takes = ["ADD", "COPY", "RUN"].iter().any(|i| first.eq_ignore_ascii_case(i));
    let json = words.find(|w| !w.starts_with("--")).is_some_and(|w| w.starts_with('['));
    takes && !(json && text.trim_end().ends_with(']'))
}

/// The heredocs that a line announces: name, whether it expands, whether tabs go.
fn announced(text: &str, escape: char) -> Vec<(String, bool, bool)> {
    let words = Lexer::new(escape).quotes(Quotes::Raw).raw_words(text).unwrap_or_default();
    words.iter().filter_map(|w| heredoc_word(w)).collect()
}

/// `<<EOF`, `<<-"EOF"`, `3<<EOF`: name, whether it expands, whether tabs go.
pub(crate) fn heredoc_word(word: &str) -> Option<(String, bool, bool)> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (rest, chomp) = match rest.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let plain = Lexer::new('\\').raw_words(rest).ok()?;
    let [name] = &plain[..] else { return None };
    let raw = Lexer::new('\\').quotes(Quotes::Raw).raw_words(rest).ok()?;
    (!name.is_empty()).then(|| (name.clone(), raw.first() == Some(name), chomp))
}

/// Takes the tabs at the start of lines away, for `<<-`.
pub(crate) fn chomp(content: &str) -> String {
    content.split_inclusive('\n').map(|l| l.trim_start_matches('\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn texts(input: &str, expected: &[&str]) {
        let (_, lines) = read(input).unwrap();
        let got: Vec<&str> = lines.iter().map(|l| l.text.as_str()).collect();
        assert_eq!(got, expected, "{input:?}");
    }

    #[test]
    fn continuations_are_joined_and_comments_inside_go() {
        texts("FROM a\nRUN x \\\n  # no\n\n  y \\ \n z\n", &["FROM a", "RUN x   y  z"]);
        texts("RUN a \\\\\nCMD b", &["RUN a \\\\", "CMD b"]);
        texts("# escape=`\nRUN dir c:\\`\n x\n", &["RUN dir c:\\ x"]);
        texts("  RUN x\r\n\r\nCMD y\r\n", &["RUN x", "CMD y"]);
        texts("RUN x \\", &["RUN x"]);
        texts("\\\n\\\n", &[]);
    }

    #[test]
    fn places_point_into_the_file() {
        let (_, lines) = read("FROM a\n  RUN äx \\\n   y\n").unwrap();
        let run = &lines[1];
        assert_eq!(run.place(0), Place { line: 2, column: 3 });
        assert_eq!(run.place(run.text.find('x').unwrap()), Place { line: 2, column: 8 });
        assert_eq!(run.place(run.text.find('y').unwrap()), Place { line: 3, column: 4 });
        assert!(!run.has_empty_continuation && run.last_line == 3);
    }

    #[test]
    fn directives_come_first_and_once() {
        let (d, _) =
            read("#!/bin/x\n# syntax = docker/dockerfile:1\n# escape=`\n# check=skip=all\nFROM a")
                .unwrap();
        assert_eq!(d.syntax, Some(("docker/dockerfile:1".into(), 2)));
        assert_eq!((d.escape_char(), d.check.as_deref()), ('`', Some("skip=all")));
        assert_eq!(read("# hello\n# escape=`\nFROM a").unwrap().0, Directives::default());
        assert_eq!(read("\n# escape=`\nFROM a").unwrap().0, Directives::default());
        assert!(read("# escape=x\nFROM a").is_err());
        assert_eq!(read("# escape=`\n# escape=`\n").unwrap_err().at.line, 2);
    }

    #[test]
    fn heredocs_end_at_their_names() {
        let (_, lines) = read("RUN <<-E 3<<'F' cat\n\ta\n\tE\n$b\nF\nCMD x").unwrap();
        let docs = &lines[0].heredocs;
        assert_eq!(
            (docs[0].content.as_str(), docs[0].expand, docs[0].chomp),
            ("\ta\n", true, true)
        );
        assert_eq!((docs[1].content.as_str(), docs[1].expand), ("$b\n", false));
        assert_eq!((lines[0].last_line, lines.len()), (5, 2));
        assert_eq!(chomp(&docs[0].content), "a\n");
        assert_eq!(read("FROM x\nRUN <<E\na\n").unwrap_err().at.line, 2);
        assert!(read("ENV A=<<E\nENV B=1").is_ok_and(|(_, l)| l.len() == 2));
        assert!(read("RUN [\"<<E\"]\nCMD x").is_ok_and(|(_, l)| l.len() == 2));
        assert!(read("RUN cat <<<word\nCMD x").is_ok_and(|(_, l)| l.len() == 2));
    }
}
