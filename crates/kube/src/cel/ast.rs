//! What an expression consists of.

use super::value::Val;

/// A part of an expression, and where it begins in the text.
#[derive(Debug, Clone)]
pub struct Node {
    pub(super) expr: Expr,
    pub(super) at: usize,
    /// Levels of parts, itself included.
    pub(super) height: u16,
}

/// The kinds of parts.
#[derive(Debug, Clone)]
pub(super) enum Expr {
    Literal(Val<'static>),
    /// A variable; with a dot before it never one of a macro.
    Name(String),
    /// `x.f`; `x.?f` when optional.
    Field {
        of: Box<Node>,
        name: String,
        optional: bool,
    },
    /// `has(x.f)`.
    Has {
        of: Box<Node>,
        name: String,
    },
    /// `x[i]`; `x[?i]` when optional.
    Index {
        of: Box<Node>,
        by: Box<Node>,
        optional: bool,
    },
    /// `f(x)`, `x.f(y)`.
    Call {
        on: Option<Box<Node>>,
        name: String,
        args: Vec<Node>,
    },
    Unary(Unary, Box<Node>),
    Binary(Binary, Box<Node>, Box<Node>),
    Choice(Box<Node>, Box<Node>, Box<Node>),
    /// Elements; whether each is optional.
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    /// `Name{field: value}`.
    Object {
        name: String,
        fields: Vec<(String, Node, bool)>,
    },
    /// A macro over the elements of a list, or the keys of a map.
    Each(Box<Each>),
    /// `cel.bind(x, value, body)`, `o.optMap(x, body)`, `o.optFlatMap(x, body)`.
    Bind {
        how: Bind,
        name: String,
        value: Box<Node>,
        body: Box<Node>,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Each {
    pub(super) kind: EachKind,
    pub(super) over: Node,
    /// The element; or index and element, key and value.
    pub(super) names: Vec<String>,
    /// What is asked or made of each; before it, for some, which ones.
    pub(super) filter: Option<Node>,
    pub(super) body: Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EachKind {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    TransformList,
    TransformMap,
    TransformMapEntry,
    SortBy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bind {
    Plain,
    Optional,
    OptionalFlat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unary {
    Not,
    Minus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Or,
    And,
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

impl Binary {
    /// The name of the operator in messages.
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Binary::Or => "_||_",
            Binary::And => "_&&_",
            Binary::Equal => "_==_",
            Binary::Unequal => "_!=_",
            Binary::Less => "_<_",
            Binary::LessEqual => "_<=_",
            Binary::Greater => "_>_",
            Binary::GreaterEqual => "_>=_",
            Binary::In => "@in",
            Binary::Add => "_+_",
            Binary::Subtract => "_-_",
            Binary::Multiply => "_*_",
            Binary::Divide => "_/_",
            Binary::Modulo => "_%_",
        }
    }
}

impl Node {
    /// The parts of this part.
    pub(super) fn parts(&self) -> Vec<&Node> {
        match &self.expr {
            Expr::Literal(_) | Expr::Name(_) => Vec::new(),
            Expr::Field { of, .. } | Expr::Has { of, .. } => vec![of],
            Expr::Index { of, by, .. } => vec![of, by],
            Expr::Call { on, args, .. } => on.iter().map(|n| &**n).chain(args).collect(),
            Expr::Unary(_, a) => vec![a],
            Expr::Binary(_, a, b) => vec![a, b],
            Expr::Choice(a, b, c) => vec![a, b, c],
            Expr::List(l) => l.iter().map(|(n, _)| n).collect(),
            Expr::Map(m) => m.iter().flat_map(|(k, v, _)| [k, v]).collect(),
            Expr::Object { fields, .. } => fields.iter().map(|(_, n, _)| n).collect(),
            Expr::Each(e) => [&e.over].into_iter().chain(&e.filter).chain([&e.body]).collect(),
            Expr::Bind { value, body, .. } => vec![value, body],
        }
    }

    /// Whether a variable occurs in it.
    pub(super) fn names(&self, variable: &str) -> bool {
        matches!(&self.expr, Expr::Name(n) if n.trim_start_matches('.') == variable)
            || self.parts().into_iter().any(|p| p.names(variable))
    }
}
