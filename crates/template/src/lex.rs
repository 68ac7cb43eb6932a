//! Cuts a template into text and the tokens of its actions.

use std::fmt;

use crate::format::quote;

/// One token and where it starts, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    pub(crate) at: usize,
    pub(crate) line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Open,
    Close,
    Space,
    Field,
    Variable,
    Dot,
    Identifier,
    Keyword,
    Nil,
    Bool,
    Number,
    CharConstant,
    Str,
    RawStr,
    Pipe,
    Declare,
    Assign,
    Comma,
    LeftParen,
    RightParen,
    /// Any other visible character; no grammar accepts it.
    Char,
    End,
}

const KEYWORDS: &[&str] =
    &["block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"];

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::End => f.write_str("EOF"),
            Kind::Keyword | Kind::Nil | Kind::Dot => write!(f, "<{}>", self.text),
            _ if self.text.chars().count() > 10 => {
                let head: String = self.text.chars().take(10).collect();
                write!(f, "{}...", quote(&head))
            }
            _ => f.write_str(&quote(&self.text)),
        }
    }
}

/// The tokens, or the message and line of what cannot be one.
pub(crate) fn lex(text: &str) -> Result<Vec<Token>, (usize, String)> {
    let mut lexer = Lexer { text, at: 0, line: 1, parens: 0, tokens: Vec::new() };
    lexer.run().map_err(|message| (lexer.line, message))?;
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    parens: usize,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn push(&mut self, kind: Kind, length: usize) {
        let text = self.text[self.at..self.at + length].to_owned();
        let newlines = text.matches('\n').count();
        self.tokens.push(Token { kind, text, at: self.at, line: self.line });
        self.line += newlines;
        self.at += length;
    }

    fn skip(&mut self, length: usize) {
        self.line += self.text[self.at..self.at + length].matches('\n').count();
        self.at += length;
    }

    fn run(&mut self) -> Result<(), String> {
        loop {
            let rest = self.rest();
            let Some(open) = rest.find("{{") else {
                if !rest.is_empty() {
                    self.push(Kind::Text, rest.len());
                }
                self.push(Kind::End, 0);
                return Ok(());
            };
            let trims = trims_left(&rest[open + 2..]);
            let text = if trims { rest[..open].trim_end_matches(SPACE) } else { &rest[..open] };
            if !text.is_empty() {
                self.push(Kind::Text, text.len());
            }
            self.skip(open - text.len());
            self.action(trims)?;
        }
    }

    fn action(&mut self, trims: bool) -> Result<(), String> {
        let marker = if trims { 2 } else { 0 };
        if self.rest()[2 + marker..].starts_with("/*") {
            return self.comment(2 + marker);
        }
        self.push(Kind::Open, 2);
        // The space of a left marker stays, as it separates nothing.
        self.skip(marker);
        self.parens = 0;
        loop {
            let rest = self.rest();
            if rest.starts_with("}}") {
                if self.parens > 0 {
                    return Err("unclosed left paren".to_owned());
                }
                self.push(Kind::Close, 2);
                return Ok(());
            }
            if trims_right(rest) {
                if self.parens > 0 {
                    return Err("unclosed left paren".to_owned());
                }
                self.skip(2);
                self.push(Kind::Close, 2);
                self.trim_following();
                return Ok(());
            }
            self.inside(rest)?;
        }
    }

    fn trim_following(&mut self) {
        let rest = self.rest();
        self.skip(rest.len() - rest.trim_start_matches(SPACE).len());
    }

    fn comment(&mut self, start: usize) -> Result<(), String> {
        let Some(end) = self.rest()[start..].find("*/") else {
            return Err("unclosed comment".to_owned());
        };
        self.skip(start + end + 2);
        let rest = self.rest();
        let (length, trims) = match rest {
            r if r.starts_with("}}") => (2, false),
            r if trims_right(r) => (4, true),
            _ => return Err("comment ends before closing delimiter".to_owned()),
        };
        self.skip(length);
        if trims {
            self.trim_following();
        }
        Ok(())
    }

    fn inside(&mut self, rest: &str) -> Result<(), String> {
        let Some(first) = rest.chars().next() else { return Err("unclosed action".to_owned()) };
        let second = rest[first.len_utf8()..].chars().next();
        match first {
            c if SPACE.contains(&c) => {
                let length = rest.len() - rest.trim_start_matches(SPACE).len();
                // The space before a trimming `-}}` belongs to it.
                let length = if trims_right(&rest[length - 1..]) { length - 1 } else { length };
                if length > 0 {
                    self.push(Kind::Space, length);
                }
            }
            '=' => self.push(Kind::Assign, 1),
            ':' if second == Some('=') => self.push(Kind::Declare, 2),
            ':' => return Err("expected :=".to_owned()),
            '|' => self.push(Kind::Pipe, 1),
            ',' => self.push(Kind::Comma, 1),
            '"' => self.quoted(rest, '"', Kind::Str, "unterminated quoted string")?,
            '\'' => {
                self.quoted(rest, '\'', Kind::CharConstant, "unterminated character constant")?
            }
            '`' => match rest[1..].find('`') {
                Some(end) => self.push(Kind::RawStr, end + 2),
                None => return Err("unterminated raw quoted string".to_owned()),
            },
            '$' => self.word(rest, Kind::Variable)?,
            '.' if second.is_some_and(|c| c.is_ascii_digit()) => self.number(rest)?,
            '.' if second.is_some_and(is_word) => self.word(rest, Kind::Field)?,
            '.' => self.dot(second)?,
            '+' | '-' => self.number(rest)?,
            c if c.is_ascii_digit() => self.number(rest)?,
            c if is_word(c) => self.identifier(rest)?,
            '(' => {
                self.push(Kind::LeftParen, 1);
                self.parens += 1;
            }
            ')' if self.parens == 0 => return Err("unexpected right paren".to_owned()),
            ')' => {
                self.push(Kind::RightParen, 1);
                self.parens -= 1;
            }
            c if c.is_ascii_graphic() => self.push(Kind::Char, 1),
            c => return Err(unrecognized(c)),
        }
        Ok(())
    }

    fn dot(&mut self, second: Option<char>) -> Result<(), String> {
        match second {
            Some(c) if !ends_word(&self.rest()[1..], c) => Err(bad_character(c)),
            _ => {
                self.push(Kind::Dot, 1);
                Ok(())
            }
        }
    }

    fn quoted(&mut self, rest: &str, end: char, kind: Kind, open: &str) -> Result<(), String> {
        let mut escaped = false;
        for (at, c) in rest.char_indices().skip(1) {
            match c {
                '\n' => break,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == end => {
                    self.push(kind, at + 1);
                    return Ok(());
                }
                _ => (),
            }
        }
        Err(open.to_owned())
    }

    fn word(&mut self, rest: &str, kind: Kind) -> Result<(), String> {
        let length = 1 + rest[1..].find(|c| !is_word(c)).unwrap_or(rest.len() - 1);
        if let Some(after) =
            rest[length..].chars().next().filter(|c| !ends_word(&rest[length..], *c))
        {
            return Err(bad_character(after));
        }
        self.push(kind, length);
        Ok(())
    }

    fn identifier(&mut self, rest: &str) -> Result<(), String> {
        let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        if let Some(after) =
            rest[length..].chars().next().filter(|c| !ends_word(&rest[length..], *c))
        {
            return Err(bad_character(after));
        }
        let kind = match &rest[..length] {
            "true" | "false" => Kind::Bool,
            "nil" => Kind::Nil,
            word if KEYWORDS.contains(&word) => Kind::Keyword,
            _ => Kind::Identifier,
        };
        self.push(kind, length);
        Ok(())
    }

    fn number(&mut self, rest: &str) -> Result<(), String> {
        let sign = usize::from(rest.starts_with(['+', '-']));
        let mut previous = '0';
        let mut length = sign;
        for c in rest[sign..].chars() {
            let exponent_sign = matches!(c, '+' | '-') && matches!(previous, 'e' | 'E' | 'p' | 'P');
            if !(c.is_ascii_alphanumeric() || c == '.' || c == '_' || exponent_sign) {
                break;
            }
            previous = c;
            length += c.len_utf8();
        }
        let text = &rest[..length];
        if crate::parse::number(text).is_none() {
            let shown = match rest[length..].chars().next().filter(|c| is_word(*c)) {
                Some(c) => format!("{text}{c}"),
                None => text.to_owned(),
            };
            return Err(format!("bad number syntax: {}", quote(&shown)));
        }
        self.push(Kind::Number, length);
        Ok(())
    }
}

const SPACE: &[char] = &[' ', '\t', '\r', '\n'];

fn trims_left(after_open: &str) -> bool {
    let mut chars = after_open.chars();
    chars.next() == Some('-') && chars.next().is_some_and(|c| SPACE.contains(&c))
}

fn trims_right(rest: &str) -> bool {
    rest.starts_with(SPACE) && rest[1..].starts_with("-}}")
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn ends_word(rest: &str, next: char) -> bool {
    SPACE.contains(&next)
        || matches!(next, '.' | ',' | '|' | ':' | ')' | '(' | '=')
        || rest.starts_with("}}")
}

fn bad_character(c: char) -> String {
    format!("bad character {}", code_point(c))
}

fn unrecognized(c: char) -> String {
    format!("unrecognized character in action: {}", code_point(c))
}

fn code_point(c: char) -> String {
    match c.is_control() {
        true => format!("U+{:04X}", u32::from(c)),
        false => format!("U+{:04X} '{c}'", u32::from(c)),
    }
}
