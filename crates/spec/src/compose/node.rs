//! A YAML tree in which every node knows where it was written.

use std::collections::BTreeMap;
use std::fmt;

/// A position: which text, which line, which column; the last two count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub(super) file: u32,
    pub(super) line: u32,
    pub(super) column: u32,
}

/// What Compose's own tags ask for when this file is merged over another, and where else a value
/// comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tag {
    #[default]
    None,
    /// `!reset`: the attribute goes back to unset.
    Reset,
    /// `!override`: the value replaces the earlier one instead of being merged.
    Override,
    /// Nobody has written it: it is what the specification says where nothing is written.
    Implied,
    /// The value of the variable that the key names.
    Around,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it begins.
    pub(super) span: Span,
    /// Where its key begins, when it is the value of a mapping.
    pub(super) key: Span,
    pub(super) tag: Tag,
}

/// What a node is. Numbers are those that Go's YAML reads.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`, `~`, or nothing.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping; Compose gives no meaning to its order.
    Map(Map),
}

/// The entries of a mapping.
pub type Map = BTreeMap<String, Node>;

impl Node {
    pub(super) fn new(value: Value, span: Span) -> Self {
        Self { value, span, key: span, tag: Tag::None }
    }

    /// A node in place of this one, with its position.
    pub(super) fn with(&self, value: Value) -> Self {
        Self { value, span: self.span, key: self.key, tag: Tag::None }
    }

    pub(super) fn text(text: impl Into<String>, span: Span) -> Self {
        Self::new(Value::Text(text.into()), span)
    }

    /// The same node as one that nobody has written.
    pub(super) fn implied(self) -> Self {
        Self { tag: Tag::Implied, ..self }
    }

    /// The entries, if it is a mapping.
    pub fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub(super) fn as_map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The elements, if it is a sequence.
    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    /// The text, if it is text.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The value under a key of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_map()?.get(key)
    }

    /// The text under a key of a mapping.
    pub(super) fn get_text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_text()
    }

    /// Whether both say the same, wherever they say it.
    pub(super) fn same(&self, other: &Node) -> bool {
        match (&self.value, &other.value) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::List(a), Value::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
            }
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len()
                    && a.iter().zip(b).all(|((ka, a), (kb, b))| ka == kb && a.same(b))
            }
            _ => false,
        }
    }

    /// The scalar as Go's `fmt.Sprint` prints it; `None` for lists and mappings.
    pub(super) fn printed(&self) -> Option<String> {
        Some(match &self.value {
            Value::Null => "<nil>".to_owned(),
            Value::Bool(b) => b.to_string(),
            Value::Int(n) => n.to_string(),
            Value::Float(n) => super::out::number::shown(*n),
            Value::Text(text) => text.clone(),
            Value::List(_) | Value::Map(_) => return None,
        })
    }

    /// What kind of thing it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Int(_) | Value::Float(_) => "number",
            Value::Text(_) => "string",
            Value::List(_) => "list",
            Value::Map(_) => "mapping",
        }
    }
}

/// Where a node stands in the tree: a list that lives on the stack of whoever walks it.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    name: &'a str,
}

impl<'a> Path<'a> {
    /// The root.
    pub(super) const ROOT: Path<'static> = Path { parent: None, name: "" };

    /// The path of a child; elements of lists are called `[]`.
    pub(super) fn next(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), name }
    }

    /// Whether the path fits a dotted pattern, in which `*` is any name.
    pub(super) fn matches(&self, pattern: &str) -> bool {
        let mut at = self;
        for part in pattern.rsplit('.') {
            let Some(parent) = at.parent else { return false };
            if part != "*" && part != at.name {
                return false;
            }
            at = parent;
        }
        at.parent.is_none()
    }

    /// The names from the root.
    pub(super) fn names(&self) -> Vec<&'a str> {
        let mut names = Vec::new();
        let (mut name, mut at) = (self.name, self.parent);
        while let Some(parent) = at {
            names.push(name);
            (name, at) = (parent.name, parent.parent);
        }
        names.reverse();
        names
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join("."))
    }
}
