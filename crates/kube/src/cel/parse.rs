//! From the text of an expression to its parts.

use super::CompileError;
use super::ast::{Binary, Bind, Each, EachKind, Expr, Node, Unary};
use super::lex::{Token, show, tokens};
use super::value::Val;
use std::borrow::Cow;
use std::sync::Arc;

/// The longest expression, in bytes.
const LONGEST: usize = 100_000;
/// How deep brackets may lie in each other, and parts in each other.
const DEEPEST: usize = 50;
const HIGHEST: u16 = 150;

/// Reads an expression.
pub(super) fn expression(source: &str) -> Result<Node, CompileError> {
    if source.len() > LONGEST {
        let why = format!(
            "expression code point size exceeds limit: size: {}, limit {LONGEST}",
            source.len()
        );
        return Err(CompileError::new(source, 0, why));
    }
    let tokens = tokens(source)?;
    let mut p = Parser { source, tokens, next: 0, depth: 0 };
    let root = p.ternary()?;
    match p.peek() {
        Token::End => Ok(root),
        t => Err(p.error(format!("Syntax error: mismatched input {} expecting <EOF>", show(t)))),
    }
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<(Token, usize)>,
    next: usize,
    depth: usize,
}

/// Words that are no names.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

type Parsed = Result<Node, CompileError>;

impl Parser<'_> {
    /// A part over its own parts, which may lie so deep: who walks it does so on a stack.
    fn node(&self, expr: Expr, at: usize) -> Parsed {
        let mut node = Node { expr, at, height: 0 };
        node.height = 1 + node.parts().iter().map(|p| p.height).max().unwrap_or(0);
        if node.height > HIGHEST {
            let why = format!("expression recursion limit exceeded: {HIGHEST}");
            return Err(CompileError::new(self.source, at, why));
        }
        Ok(node)
    }

    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |(t, _)| t)
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.source.len(), |(_, at)| *at)
    }

    fn error(&self, why: impl Into<String>) -> CompileError {
        CompileError::new(self.source, self.at(), why)
    }

    fn eat(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(s) if *s == symbol);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<(), CompileError> {
        if self.eat(symbol) {
            Ok(())
        } else {
            Err(self.error(format!(
                "Syntax error: mismatched input {} expecting '{symbol}'",
                show(self.peek())
            )))
        }
    }

    fn enter(&mut self) -> Result<(), CompileError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.error(format!("expression recursion limit exceeded: {DEEPEST}")));
        }
        Ok(())
    }

    fn ternary(&mut self) -> Parsed {
        self.enter()?;
        let at = self.at();
        let condition = self.binary(0)?;
        let node = if self.eat("?") {
            let yes = self.binary(0)?;
            self.expect(":")?;
            let no = self.ternary()?;
            self.node(Expr::Choice(Box::new(condition), Box::new(yes), Box::new(no)), at)?
        } else {
            condition
        };
        self.depth -= 1;
        Ok(node)
    }

    /// The operator that comes next, and how tightly it binds.
    fn operator(&self) -> Option<(Binary, u8)> {
        let symbol = match self.peek() {
            Token::Symbol(s) => *s,
            Token::Name(n) if n == "in" => "in",
            _ => return None,
        };
        Some(match symbol {
            "||" => (Binary::Or, 0),
            "&&" => (Binary::And, 1),
            "==" => (Binary::Equal, 2),
            "!=" => (Binary::Unequal, 2),
            "<" => (Binary::Less, 2),
            "<=" => (Binary::LessEqual, 2),
            ">" => (Binary::Greater, 2),
            ">=" => (Binary::GreaterEqual, 2),
            "in" => (Binary::In, 2),
            "+" => (Binary::Add, 3),
            "-" => (Binary::Subtract, 3),
            "*" => (Binary::Multiply, 4),
            "/" => (Binary::Divide, 4),
            "%" => (Binary::Modulo, 4),
            _ => return None,
        })
    }

    /// Operators that bind at least so tightly.
    fn binary(&mut self, least: u8) -> Parsed {
        let mut left = self.unary()?;
        while let Some((op, level)) = self.operator().filter(|(_, level)| *level >= least) {
            let at = self.at();
            self.next += 1;
            let right = self.binary(level + 1)?;
            left = self.node(Expr::Binary(op, Box::new(left), Box::new(right)), at)?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed {
        let at = self.at();
        let op = match self.peek() {
            Token::Symbol("!") => Unary::Not,
            Token::Symbol("-") => Unary::Minus,
            _ => return self.member(),
        };
        self.enter()?;
        self.next += 1;
        // The sign is part of a number that stands right behind it, and of nothing in brackets.
        let number = matches!(self.peek(), Token::Int(_) | Token::Double(_));
        let of = self.unary()?;
        self.depth -= 1;
        let (inner, height) = (of.at, of.height);
        let expr = match (op, of.expr) {
            (Unary::Minus, Expr::Literal(Val::Int(n))) if number => {
                Expr::Literal(Val::Int(n.wrapping_neg()))
            }
            (Unary::Minus, Expr::Literal(Val::Double(n))) if number => {
                Expr::Literal(Val::Double(-n))
            }
            (op, expr) => Expr::Unary(op, Box::new(Node { expr, at: inner, height })),
        };
        self.node(expr, at)
    }

    fn member(&mut self) -> Parsed {
        let mut node = self.primary()?;
        loop {
            let at = self.at();
            if self.eat(".") {
                let name = self.name()?;
                if self.eat("(") {
                    let args = self.list(")")?;
                    node = self.call(Some(node), name, args, at)?;
                } else if *self.peek() == Token::Symbol("{") && is_path(&node) {
                    let path = format!("{}.{name}", path(&node));
                    node = self.object(path, at)?;
                } else {
                    node =
                        self.node(Expr::Field { of: Box::new(node), name, optional: false }, at)?;
                }
            } else if self.eat(".?") {
                let name = self.name()?;
                node = self.node(Expr::Field { of: Box::new(node), name, optional: true }, at)?;
            } else if self.eat("[") || self.eat("[?") {
                let optional = self.tokens[self.next - 1].0 == Token::Symbol("[?");
                let by = Box::new(self.ternary()?);
                self.expect("]")?;
                node = self.node(Expr::Index { of: Box::new(node), by, optional }, at)?;
            } else {
                return Ok(node);
            }
        }
    }

    fn name(&mut self) -> Result<String, CompileError> {
        match self.peek().clone() {
            Token::Name(n) => {
                self.next += 1;
                Ok(n)
            }
            t => Err(self.error(format!(
                "Syntax error: mismatched input {} expecting IDENTIFIER",
                show(&t)
            ))),
        }
    }

    fn list(&mut self, end: &str) -> Result<Vec<Node>, CompileError> {
        let mut out = Vec::new();
        while !self.eat(end) {
            out.push(self.ternary()?);
            if !self.eat(",") {
                self.expect(end)?;
                break;
            }
        }
        Ok(out)
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at();
        let token = self.peek().clone();
        self.next += 1;
        let literal = |v| Ok(Node { expr: Expr::Literal(v), at, height: 1 });
        match token {
            Token::Int(n) => literal(Val::Int(n)),
            Token::Uint(n) => literal(Val::Uint(n)),
            Token::Double(n) => literal(Val::Double(n)),
            Token::Text(s) => literal(Val::Str(Cow::Owned(s))),
            Token::Bytes(b) => literal(Val::Bytes(Arc::from(b))),
            Token::Symbol("(") => {
                let inner = self.ternary()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Symbol("[" | "[?") => {
                let first = token == Token::Symbol("[?");
                self.elements(at, first)
            }
            Token::Symbol("{") => self.entries(at),
            Token::Symbol(".") => {
                let name = self.name()?;
                match self.named(name, at)? {
                    // The dot leaves out the variables of macros.
                    Node { expr: Expr::Name(n), at, .. } => {
                        self.node(Expr::Name(format!(".{n}")), at)
                    }
                    node => Ok(node),
                }
            }
            Token::Name(n) => match n.as_str() {
                "true" => literal(Val::Bool(true)),
                "false" => literal(Val::Bool(false)),
                "null" => literal(Val::Null),
                n if RESERVED.contains(&n) || n == "in" => {
                    self.next -= 1;
                    Err(self.error(format!("reserved identifier: {n}")))
                }
                _ => self.named(n, at),
            },
            t => {
                self.next -= 1;
                Err(self.error(format!("Syntax error: mismatched input {}", show(&t))))
            }
        }
    }

    fn named(&mut self, name: String, at: usize) -> Parsed {
        if self.eat("(") {
            let args = self.list(")")?;
            return self.call(None, name, args, at);
        }
        let is_type = name.starts_with(|c: char| c.is_ascii_uppercase());
        if is_type && *self.peek() == Token::Symbol("{") {
            return self.object(name, at);
        }
        self.node(Expr::Name(name), at)
    }

    fn elements(&mut self, at: usize, mut optional: bool) -> Parsed {
        let mut out = Vec::new();
        while optional || !self.eat("]") {
            optional |= self.eat("?");
            out.push((self.ternary()?, optional));
            optional = false;
            if !self.eat(",") {
                self.expect("]")?;
                break;
            }
        }
        self.node(Expr::List(out), at)
    }

    fn entries(&mut self, at: usize) -> Parsed {
        let mut out = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let key = self.ternary()?;
            self.expect(":")?;
            out.push((key, self.ternary()?, optional));
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        self.node(Expr::Map(out), at)
    }

    fn object(&mut self, name: String, at: usize) -> Parsed {
        self.expect("{")?;
        let mut fields = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let field = self.name()?;
            self.expect(":")?;
            fields.push((field, self.ternary()?, optional));
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        self.node(Expr::Object { name, fields }, at)
    }

    /// A call, or the macro that it spells.
    fn call(&mut self, on: Option<Node>, name: String, mut args: Vec<Node>, at: usize) -> Parsed {
        match (on, name.as_str(), args.len()) {
            (None, "has", 1) => match args.remove(0).expr {
                Expr::Field { of, name, optional: false } => self.node(Expr::Has { of, name }, at),
                _ => Err(CompileError::new(self.source, at, "invalid argument to has() macro")),
            },
            (Some(target), "bind", 3) if is_name(&target, "cel") => {
                let (name, body) = (self.variable(&args[0])?, args.remove(2));
                let value = Box::new(args.remove(1));
                self.node(Expr::Bind { how: Bind::Plain, name, value, body: Box::new(body) }, at)
            }
            (Some(target), "optMap" | "optFlatMap", 2) => {
                let how = if name == "optMap" { Bind::Optional } else { Bind::OptionalFlat };
                let (name, body) = (self.variable(&args[0])?, args.remove(1));
                self.node(
                    Expr::Bind { how, name, value: Box::new(target), body: Box::new(body) },
                    at,
                )
            }
            (Some(over), macro_name, n @ 2..=4) if each(macro_name, n).is_some() => {
                let (kind, variables, filtered) =
                    each(macro_name, n).unwrap_or((EachKind::All, 1, false));
                let names: Result<Vec<String>, _> =
                    args[..variables].iter().map(|a| self.variable(a)).collect();
                let names = names?;
                let mut rest = args.split_off(variables).into_iter();
                let filter = if filtered { rest.next() } else { None };
                let Some(body) = rest.next() else {
                    return Err(self.error("the macro has no body"));
                };
                self.node(Expr::Each(Box::new(Each { kind, over, names, filter, body })), at)
            }
            (on, _, _) => self.node(Expr::Call { on: on.map(Box::new), name, args }, at),
        }
    }

    fn variable(&self, node: &Node) -> Result<String, CompileError> {
        match &node.expr {
            Expr::Name(n) => Ok(n.clone()),
            _ => Err(CompileError::new(self.source, node.at, "argument must be a simple name")),
        }
    }
}

/// The macro with this name and so many arguments: kind, number of variables, whether a filter comes first.
fn each(name: &str, args: usize) -> Option<(EachKind, usize, bool)> {
    Some(match (name, args) {
        ("all", 2) => (EachKind::All, 1, false),
        ("exists", 2) => (EachKind::Exists, 1, false),
        ("exists_one" | "existsOne", 2) => (EachKind::ExistsOne, 1, false),
        ("map", 2) => (EachKind::Map, 1, false),
        ("map", 3) => (EachKind::Map, 1, true),
        ("filter", 2) => (EachKind::Filter, 1, false),
        ("sortBy", 2) => (EachKind::SortBy, 1, false),
        ("all", 3) => (EachKind::All, 2, false),
        ("exists", 3) => (EachKind::Exists, 2, false),
        ("exists_one" | "existsOne", 3) => (EachKind::ExistsOne, 2, false),
        ("transformList", 3) => (EachKind::TransformList, 2, false),
        ("transformList", 4) => (EachKind::TransformList, 2, true),
        ("transformMap", 3) => (EachKind::TransformMap, 2, false),
        ("transformMap", 4) => (EachKind::TransformMap, 2, true),
        ("transformMapEntry", 3) => (EachKind::TransformMapEntry, 2, false),
        ("transformMapEntry", 4) => (EachKind::TransformMapEntry, 2, true),
        _ => return None,
    })
}

fn is_name(node: &Node, name: &str) -> bool {
    matches!(&node.expr, Expr::Name(n) if n == name)
}

/// Whether a part is a dotted path of names, as that of a type is.
fn is_path(node: &Node) -> bool {
    match &node.expr {
        Expr::Name(n) => n.starts_with(|c: char| c.is_ascii_uppercase()),
        Expr::Field { of, optional: false, .. } => is_path(of),
        _ => false,
    }
}

fn path(node: &Node) -> String {
    match &node.expr {
        Expr::Name(n) => n.clone(),
        Expr::Field { of, name, .. } => format!("{}.{name}", path(of)),
        _ => String::new(),
    }
}
