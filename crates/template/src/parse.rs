//! Turns tokens into the tree that is executed.

use std::collections::HashMap;

use crate::Template;
use crate::format::quote;
use crate::funcs;
use crate::lex::{Kind, Token, lex};

/// Why a template cannot be parsed, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template: :{line}: {message}")]
pub struct ParseError {
    line: usize,
    message: String,
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Text(String),
    Action(Pipe),
    If(Branch),
    With(Branch),
    Range(Branch),
    Template { at: usize, name: String, pipe: Option<Pipe> },
    Break,
    Continue,
}

#[derive(Clone, Debug)]
pub(crate) struct Branch {
    pub(crate) pipe: Pipe,
    pub(crate) body: Vec<Node>,
    pub(crate) otherwise: Vec<Node>,
}

#[derive(Clone, Debug)]
pub(crate) struct Pipe {
    pub(crate) at: usize,
    pub(crate) variables: Vec<String>,
    pub(crate) assigns: bool,
    pub(crate) commands: Vec<Command>,
    pub(crate) text: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) words: Vec<Word>,
}

#[derive(Clone, Debug)]
pub(crate) struct Word {
    pub(crate) at: usize,
    pub(crate) text: String,
    pub(crate) kind: WordKind,
}

#[derive(Clone, Debug)]
pub(crate) enum WordKind {
    Dot,
    Nil,
    Bool(bool),
    Number(Number),
    Str(String),
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Function(String),
    Pipe(Box<Pipe>),
    Chain(Box<Word>, Vec<String>),
}

impl WordKind {
    /// The name of the field that the word ends in.
    pub(crate) fn field(&self) -> Option<&str> {
        match self {
            Self::Field(names) | Self::Variable(_, names) | Self::Chain(_, names) => {
                names.last().map(String::as_str)
            }
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Int(i64),
    Float(f64),
    /// Fits 64 bits without a sign, but not Go's int.
    TooBig,
}

/// Deeper nesting than people write is refused, so that no input can exhaust the stack.
const MAX_DEPTH: usize = 64;

pub(crate) fn parse(text: &str) -> Result<Template, ParseError> {
    let tokens = lex(text).map_err(|(line, message)| ParseError { line, message })?;
    let mut parser = Parser {
        tokens,
        next: 0,
        depth: 0,
        loops: 0,
        variables: vec!["$".to_owned()],
        defined: HashMap::new(),
    };
    let (root, end) = parser.list(true)?;
    if let Some(end) = end {
        return Err(parser.error_at(&end, format!("unexpected {{{{{}}}}}", end.text)));
    }
    Ok(Template { text: text.to_owned(), root, defined: parser.defined })
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
    loops: usize,
    variables: Vec<String>,
    defined: HashMap<String, Vec<Node>>,
}

type Parsed<T> = Result<T, ParseError>;

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next = (self.next + 1).min(self.tokens.len());
        token
    }

    fn skip_space(&mut self) {
        while self.peek().kind == Kind::Space {
            self.next += 1;
        }
    }

    fn take_solid(&mut self) -> Token {
        self.skip_space();
        self.take()
    }

    fn peek_solid(&mut self) -> &Token {
        self.skip_space();
        self.peek()
    }

    fn error_at(&self, token: &Token, message: impl Into<String>) -> ParseError {
        ParseError { line: token.line, message: message.into() }
    }

    fn unexpected(&self, token: &Token, context: &str) -> ParseError {
        self.error_at(token, format!("unexpected {token} in {context}"))
    }

    fn expect(&mut self, kind: Kind, context: &str) -> Parsed<Token> {
        let token = self.take_solid();
        if token.kind == kind { Ok(token) } else { Err(self.unexpected(&token, context)) }
    }

    fn enter(&mut self) -> Parsed<()> {
        self.depth += 1;
        match self.depth > MAX_DEPTH {
            true => Err(self.error_at(self.peek(), "template is nested too deeply")),
            false => Ok(()),
        }
    }

    /// Nodes up to `end` or `else`, which is returned; or up to the end of the text.
    fn list(&mut self, top: bool) -> Parsed<(Vec<Node>, Option<Token>)> {
        self.enter()?;
        let mut nodes = Vec::new();
        let closing = loop {
            let token = self.take();
            match token.kind {
                Kind::End if top => break None,
                Kind::End => return Err(self.error_at(&token, "unexpected EOF")),
                Kind::Text => nodes.push(Node::Text(token.text)),
                Kind::Open => {
                    let word = self.peek_solid().clone();
                    if word.kind == Kind::Keyword && matches!(word.text.as_str(), "end" | "else") {
                        self.take_solid();
                        break Some(word);
                    }
                    nodes.extend(self.action(top)?);
                }
                _ => return Err(self.unexpected(&token, "input")),
            }
        };
        self.depth -= 1;
        Ok((nodes, closing))
    }

    fn action(&mut self, top: bool) -> Parsed<Option<Node>> {
        let word = self.peek_solid().clone();
        if word.kind != Kind::Keyword {
            let pipe = self.pipeline("command", Kind::Close)?;
            return Ok(Some(Node::Action(pipe)));
        }
        self.take_solid();
        match word.text.as_str() {
            "if" => self.branch("if").map(|b| Some(Node::If(b))),
            "with" => self.branch("with").map(|b| Some(Node::With(b))),
            "range" => self.branch("range").map(|b| Some(Node::Range(b))),
            "template" => self.template().map(Some),
            "block" => self.block().map(Some),
            "define" if top && self.depth == 1 => self.define().map(|()| None),
            "break" | "continue" if self.loops == 0 => {
                Err(self.error_at(&word, format!("{{{{{}}}}} outside {{{{range}}}}", word.text)))
            }
            "break" => self.expect(Kind::Close, "{{break}}").map(|_| Some(Node::Break)),
            "continue" => self.expect(Kind::Close, "{{continue}}").map(|_| Some(Node::Continue)),
            _ => Err(self.error_at(&word, format!("unexpected {word} in command"))),
        }
    }

    fn branch(&mut self, context: &'static str) -> Parsed<Branch> {
        let mark = self.variables.len();
        let pipe = self.pipeline(context, Kind::Close)?;
        let looping = usize::from(context == "range");
        self.loops += looping;
        let (body, closing) = self.list(false)?;
        self.loops -= looping;
        let mut otherwise = Vec::new();
        let mut closed = false;
        if let Some(word) = closing.filter(|t| t.text == "else") {
            let next = self.peek_solid().clone();
            let chained = next.kind == Kind::Keyword
                && next.text == context
                && matches!(context, "if" | "with");
            if chained {
                self.take_solid();
                self.enter()?;
                let inner = self.branch(context)?;
                self.depth -= 1;
                otherwise.push(if context == "if" { Node::If(inner) } else { Node::With(inner) });
                closed = true;
            } else {
                self.expect(Kind::Close, "else")?;
                let (list, end) = self.list(false)?;
                otherwise = list;
                if end.is_some_and(|t| t.text == "else") {
                    return Err(self.error_at(&word, "expected end; found {{else}}"));
                }
            }
        }
        if !closed {
            self.expect(Kind::Close, "end")?;
        }
        self.variables.truncate(mark);
        Ok(Branch { pipe, body, otherwise })
    }

    fn name(&mut self, context: &str) -> Parsed<(usize, String)> {
        let token = self.take_solid();
        match token.kind {
            Kind::Str | Kind::RawStr => unquote(&token.text)
                .map(|name| (token.at, name))
                .ok_or_else(|| self.error_at(&token, "invalid syntax".to_owned())),
            _ => Err(self.unexpected(&token, context)),
        }
    }

    fn optional_pipe(&mut self, context: &'static str) -> Parsed<Option<Pipe>> {
        if self.peek_solid().kind == Kind::Close {
            self.take_solid();
            return Ok(None);
        }
        self.pipeline(context, Kind::Close).map(Some)
    }

    fn template(&mut self) -> Parsed<Node> {
        let (at, name) = self.name("template clause")?;
        let pipe = self.optional_pipe("template clause")?;
        Ok(Node::Template { at, name, pipe })
    }

    fn block(&mut self) -> Parsed<Node> {
        let (at, name) = self.name("block clause")?;
        let pipe = self.pipeline("block clause", Kind::Close)?;
        self.body_of(&name, "{{block}}")?;
        Ok(Node::Template { at, name, pipe: Some(pipe) })
    }

    fn define(&mut self) -> Parsed<()> {
        let (_, name) = self.name("define clause")?;
        self.expect(Kind::Close, "define clause")?;
        self.body_of(&name, "define clause")
    }

    fn body_of(&mut self, name: &str, context: &str) -> Parsed<()> {
        let outer = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let (body, end) = self.list(false)?;
        self.variables = outer;
        match end {
            Some(end) if end.text == "end" => self.expect(Kind::Close, "end")?,
            Some(end) => return Err(self.unexpected(&end, context)),
            None => return Err(self.unexpected(&self.peek().clone(), context)),
        };
        let blank = |n: &Node| matches!(n, Node::Text(t) if t.trim().is_empty());
        let empty = body.iter().all(blank);
        match self.defined.get(name) {
            // An empty body never replaces another, and may always be replaced.
            Some(old) if !empty && !old.iter().all(blank) => {
                let message = format!("multiple definition of template {}", quote(name));
                return Err(self.error_at(self.peek(), message));
            }
            Some(_) if empty => (),
            _ => {
                self.defined.insert(name.to_owned(), body);
            }
        }
        Ok(())
    }

    fn pipeline(&mut self, context: &'static str, end: Kind) -> Parsed<Pipe> {
        self.enter()?;
        let first = self.peek_solid().clone();
        let start = self.next;
        let (variables, assigns) = self.declaration(context)?;
        let mut commands = Vec::new();
        loop {
            let token = self.peek_solid().clone();
            match token.kind {
                kind if kind == end => {
                    let text = self.source(start);
                    self.take_solid();
                    self.check_pipeline(&commands, context, &token)?;
                    self.depth -= 1;
                    return Ok(Pipe { at: first.at, variables, assigns, commands, text });
                }
                Kind::Bool
                | Kind::CharConstant
                | Kind::Dot
                | Kind::Field
                | Kind::Identifier
                | Kind::Number
                | Kind::Nil
                | Kind::RawStr
                | Kind::Str
                | Kind::Variable
                | Kind::LeftParen => commands.push(self.command()?),
                _ => return Err(self.unexpected(&token, context)),
            }
        }
    }

    /// The text of the tokens since `start`, as errors show it.
    fn source(&self, start: usize) -> String {
        self.tokens[start..self.next]
            .iter()
            .map(|t| t.text.as_str())
            .collect::<String>()
            .trim()
            .to_owned()
    }

    fn check_pipeline(&self, commands: &[Command], context: &str, token: &Token) -> Parsed<()> {
        if commands.is_empty() {
            return Err(self.error_at(token, format!("missing value for {context}")));
        }
        for (index, command) in commands.iter().enumerate().skip(1) {
            let word = &command.words[0];
            let constant = matches!(
                word.kind,
                WordKind::Bool(_)
                    | WordKind::Dot
                    | WordKind::Nil
                    | WordKind::Number(_)
                    | WordKind::Str(_)
            );
            if constant {
                let message = format!("non executable command in pipeline stage {}", index + 1);
                return Err(self.error_at(token, message));
            }
        }
        Ok(())
    }

    /// `$x :=`, `$x =`, and in a range `$i, $x :=`.
    fn declaration(&mut self, context: &str) -> Parsed<(Vec<String>, bool)> {
        let start = self.next;
        let mut names = Vec::new();
        loop {
            let token = self.peek_solid().clone();
            if token.kind != Kind::Variable {
                break;
            }
            self.take_solid();
            let after = self.peek_solid().clone();
            match after.kind {
                Kind::Assign | Kind::Declare => {
                    self.take_solid();
                    names.push(token.text);
                    let assigns = after.kind == Kind::Assign;
                    if assigns {
                        self.check_known(&names, &after)?;
                    } else {
                        self.variables.extend(names.iter().cloned());
                    }
                    return Ok((names, assigns));
                }
                Kind::Comma if context == "range" && names.len() < 2 => {
                    self.take_solid();
                    names.push(token.text);
                    let next = self.peek_solid().clone();
                    if next.kind != Kind::Variable {
                        return Err(self.error_at(&next, "range can only initialize variables"));
                    }
                    if names.len() == 2 {
                        return Err(self.error_at(&next, "too many declarations in range"));
                    }
                }
                Kind::Comma => {
                    return Err(
                        self.error_at(&after, format!("too many declarations in {context}"))
                    );
                }
                _ => break,
            }
        }
        self.next = start;
        Ok((Vec::new(), false))
    }

    fn check_known(&self, names: &[String], token: &Token) -> Parsed<()> {
        match names.iter().find(|n| !self.variables.contains(n)) {
            Some(name) => Err(self.error_at(token, format!("undefined variable {}", quote(name)))),
            None => Ok(()),
        }
    }

    fn command(&mut self) -> Parsed<Command> {
        let mut words = Vec::new();
        loop {
            self.skip_space();
            if let Some(word) = self.operand()? {
                words.push(word);
            }
            let token = self.peek().clone();
            match token.kind {
                Kind::Space => {
                    self.take();
                    continue;
                }
                Kind::Pipe => {
                    self.take();
                    let next = self.peek_solid().clone();
                    // Go accepts a pipe with nothing after it.
                    if matches!(next.kind, Kind::Close | Kind::RightParen) {
                        break;
                    }
                }
                Kind::Close | Kind::RightParen => (),
                _ => return Err(self.unexpected(&token, "operand")),
            }
            break;
        }
        match words.is_empty() {
            true => Err(self.error_at(&self.peek().clone(), "empty command")),
            false => Ok(Command { words }),
        }
    }

    fn operand(&mut self) -> Parsed<Option<Word>> {
        let Some(mut word) = self.term()? else { return Ok(None) };
        if self.peek().kind != Kind::Field {
            return Ok(Some(word));
        }
        let term = word.text.clone();
        let at = self.peek().at;
        let mut fields = Vec::new();
        while self.peek().kind == Kind::Field {
            let token = self.take();
            word.text.push_str(&token.text);
            fields.push(token.text[1..].to_owned());
        }
        // Go places a chain where its second link begins.
        let kind = match word.kind {
            WordKind::Field(mut names) => {
                names.extend(fields);
                WordKind::Field(names)
            }
            WordKind::Variable(name, _) => WordKind::Variable(name, fields),
            WordKind::Bool(_)
            | WordKind::Str(_)
            | WordKind::Number(_)
            | WordKind::Nil
            | WordKind::Dot => {
                let message = format!("unexpected . after term {}", quote(&term));
                return Err(self.error_at(self.peek(), message));
            }
            kind => {
                let inner = Word { at: word.at, text: word.text.clone(), kind };
                WordKind::Chain(Box::new(inner), fields)
            }
        };
        Ok(Some(Word { at, text: word.text, kind }))
    }

    fn term(&mut self) -> Parsed<Option<Word>> {
        let token = self.peek_solid().clone();
        let kind = match token.kind {
            Kind::Dot => WordKind::Dot,
            Kind::Nil => WordKind::Nil,
            Kind::Bool => WordKind::Bool(token.text == "true"),
            Kind::Field => WordKind::Field(vec![token.text[1..].to_owned()]),
            Kind::Number => match number(&token.text) {
                Some(number) => WordKind::Number(number),
                None => {
                    return Err(
                        self.error_at(&token, format!("bad number syntax: {}", quote(&token.text)))
                    );
                }
            },
            Kind::CharConstant => match char_constant(&token.text) {
                Some(code) => WordKind::Number(Number::Int(i64::from(code))),
                None => {
                    return Err(self.error_at(
                        &token,
                        format!("malformed character constant: {}", token.text),
                    ));
                }
            },
            Kind::Str | Kind::RawStr => match unquote(&token.text) {
                Some(text) => WordKind::Str(text),
                None => return Err(self.error_at(&token, "invalid syntax")),
            },
            Kind::Variable if !self.variables.contains(&token.text) => {
                let message = format!("undefined variable {}", quote(&token.text));
                return Err(self.error_at(&token, message));
            }
            Kind::Variable => WordKind::Variable(token.text.clone(), Vec::new()),
            Kind::Identifier if !funcs::exists(&token.text) => {
                let message = format!("function {} not defined", quote(&token.text));
                return Err(self.error_at(&token, message));
            }
            Kind::Identifier => WordKind::Function(token.text.clone()),
            Kind::LeftParen => {
                self.take_solid();
                let pipe = self.pipeline("parenthesized pipeline", Kind::RightParen)?;
                let text = format!("({})", pipe.text);
                return Ok(Some(Word { at: token.at, text, kind: WordKind::Pipe(Box::new(pipe)) }));
            }
            _ => return Ok(None),
        };
        self.take_solid();
        Ok(Some(Word { at: token.at, text: token.text, kind }))
    }
}

/// Go's number syntax: decimal, hexadecimal, octal, binary, floats, underscores.
pub(crate) fn number(text: &str) -> Option<Number> {
    let (negative, body) = match text.strip_prefix(['+', '-']) {
        Some(body) => (text.starts_with('-'), body),
        None => (false, text),
    };
    let plain = body.replace('_', "");
    let lower = plain.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', rest @ ..] if !rest.is_empty() && rest.iter().all(u8::is_ascii_digit) => {
            (8, &lower[1..])
        }
        _ => (10, lower.as_str()),
    };
    if !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)) {
        return Some(match i128::from_str_radix(digits, radix) {
            Ok(value) => {
                let value = if negative { -value } else { value };
                i64::try_from(value).map_or(Number::TooBig, Number::Int)
            }
            Err(_) => Number::TooBig,
        });
    }
    let floats = radix == 10
        && lower.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && lower.contains(|c: char| c.is_ascii_digit());
    let value: f64 = if floats { lower.parse().ok()? } else { return None };
    value.is_finite().then_some(Number::Float(if negative { -value } else { value }))
}

fn char_constant(text: &str) -> Option<u32> {
    let inner = unescape(text.strip_prefix('\'')?.strip_suffix('\'')?, '\'')?;
    let mut chars = inner.chars();
    let code = u32::from(chars.next()?);
    chars.next().is_none().then_some(code)
}

fn unquote(text: &str) -> Option<String> {
    if let Some(raw) = text.strip_prefix('`') {
        return Some(raw.strip_suffix('`')?.replace('\r', ""));
    }
    unescape(text.strip_prefix('"')?.strip_suffix('"')?, '"')
}

fn unescape(text: &str, end: char) -> Option<String> {
    let mut out = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escape = chars.next()?;
        let mut digits = |count: usize, radix: u32| {
            let mut value: u32 = 0;
            for _ in 0..count {
                value = value.checked_mul(radix)?.checked_add(chars.next()?.to_digit(radix)?)?;
            }
            Some(value)
        };
        match escape {
            'x' => out.push(u8::try_from(digits(2, 16)?).ok()?),
            'u' => push_char(&mut out, char::from_u32(digits(4, 16)?)?),
            'U' => push_char(&mut out, char::from_u32(digits(8, 16)?)?),
            first @ '0'..='7' => {
                let rest = digits(2, 8)?;
                out.push(u8::try_from(first.to_digit(8)? * 64 + rest).ok()?);
            }
            other => out.push(simple_escape(other, end)?),
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

fn push_char(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn simple_escape(c: char, end: char) -> Option<u8> {
    Some(match c {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' => b'\\',
        c if c == end => u8::try_from(c).ok()?,
        _ => return None,
    })
}
