//! YAML text to nodes: scalars as Go's YAML resolves them, aliases, merge keys, Compose's own tags.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::fault::{Fault, Result};
use super::node::{Map, Node, Span, Tag, Value};

/// No honest project has more nodes than this once its aliases are expanded; a bomb does.
const MAX_NODES: usize = 200_000;

/// Nor is one nested deeper.
const MAX_DEPTH: usize = 64;

/// One document: its tree, and the paths that it wants removed from what comes before it.
pub(super) struct Document {
    pub(super) root: Node,
    pub(super) removed: Vec<Vec<String>>,
}

/// Reads every document of a text. Empty documents are left out.
pub(super) fn parse(file: u32, text: &str) -> Result<Vec<Document>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder { file, ..Builder::default() };
    for event in Parser::new_from_str(text) {
        let (event, span) = event
            .map_err(|e| Fault::at(builder.span(e.marker()), format!("yaml: {}", e.info())))?;
        builder.take(event, span.start)?;
    }
    Ok(builder.documents)
}

#[derive(Default)]
struct Builder {
    file: u32,
    documents: Vec<Document>,
    open: Vec<Open>,
    anchors: HashMap<usize, Kept>,
    nodes: usize,
}

/// An anchored node and how much an alias for it costs.
struct Kept {
    node: Node,
    nodes: usize,
    depth: usize,
}

/// A collection whose end has not come yet.
struct Open {
    span: Span,
    tag: Tag,
    anchor: usize,
    /// How many nodes there were before it.
    before: usize,
    /// The depth of the deepest child.
    depth: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Map, merges: Vec<Node>, key: Option<(String, Span, bool)> },
}

impl Builder {
    fn span(&self, at: &Marker) -> Span {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Span { file: self.file, line: number(at.line()), column: number(at.col() + 1) }
    }

    fn take(&mut self, event: Event<'_>, at: Marker) -> Result<()> {
        let span = self.span(&at);
        match event {
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, span)?;
                let own = tag.as_deref().map(|t| (t.handle.as_str(), t.suffix.as_str()));
                let core = own.filter(|(handle, _)| *handle != "!").map(|(_, suffix)| suffix);
                let plain = style == ScalarStyle::Plain && core.is_none_or(|t| t != "str");
                // A mapping's key is a string whatever it looks like: `80:` is the key "80".
                let value = match plain {
                    true => resolve(&text),
                    false => Value::Text(text.clone().into_owned()),
                };
                let node = Node { tag: own_tag(own, span)?, ..Node::new(value, span) };
                let merge = plain && text == "<<";
                self.place(node, anchor, 0, Some((text.into_owned(), merge)))
            }
            Event::SequenceStart(anchor, tag) => {
                let own = tag.as_deref().map(|t| (t.handle.as_str(), t.suffix.as_str()));
                self.begin(span, own_tag(own, span)?, anchor, Content::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                let own = tag.as_deref().map(|t| (t.handle.as_str(), t.suffix.as_str()));
                let content = Content::Map { entries: Map::new(), merges: Vec::new(), key: None };
                self.begin(span, own_tag(own, span)?, anchor, content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<()> {
        self.nodes += nodes;
        match self.nodes > MAX_NODES {
            true => Err(Fault::at(
                span,
                format!("the file grows to more than {MAX_NODES} values; its aliases multiply"),
            )),
            false => Ok(()),
        }
    }

    fn begin(&mut self, span: Span, tag: Tag, anchor: usize, content: Content) -> Result<()> {
        self.count(1, span)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(span));
        }
        if let Some(Open { content: Content::Map { key: None, .. }, .. }) = self.open.last() {
            return Err(Fault::at(span, "a mapping's key must be a string"));
        }
        self.open.push(Open { span, tag, anchor, before: self.nodes - 1, depth: 0, content });
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.content {
            Content::List(list) => Value::List(list),
            Content::Map { mut entries, merges, .. } => {
                for merged in &merges {
                    merge_key(&mut entries, merged)?;
                }
                Value::Map(entries)
            }
        };
        let node = Node { tag: open.tag, ..Node::new(value, open.span) };
        if open.anchor > 0 {
            let nodes = self.nodes - open.before;
            let kept = Kept { node: node.clone(), nodes, depth: open.depth + 1 };
            self.anchors.insert(open.anchor, kept);
        }
        self.place(node, 0, open.depth + 1, None)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<()> {
        let Some(kept) = self.anchors.get(&anchor) else {
            return Err(Fault::at(span, "an alias refers to a value that contains it"));
        };
        let (nodes, depth) = (kept.nodes, kept.depth);
        let node = Node { key: span, ..kept.node.clone() };
        self.count(nodes, span)?;
        if self.open.len() + depth > MAX_DEPTH {
            return Err(too_deep(span));
        }
        let key = node.as_text().map(|t| (t.to_owned(), false));
        self.place(node, 0, depth, key)
    }

    /// Puts a finished node where it belongs. `key` is what it would be as a mapping's key.
    fn place(
        &mut self,
        node: Node,
        anchor: usize,
        depth: usize,
        key: Option<(String, bool)>,
    ) -> Result<()> {
        if anchor > 0 {
            let kept = Kept { node: node.clone(), nodes: 1, depth: 0 };
            self.anchors.insert(anchor, kept);
        }
        let Some(open) = self.open.last_mut() else {
            return self.finish(node);
        };
        open.depth = open.depth.max(depth);
        match &mut open.content {
            Content::List(list) => list.push(node),
            Content::Map { entries, merges, key: waiting } => match waiting.take() {
                None => {
                    let Some((name, merge)) = key else {
                        return Err(Fault::at(node.span, "a mapping's key must be a string"));
                    };
                    *waiting = Some((name, node.span, merge));
                }
                Some((_, _, true)) => merges.push(node),
                Some((name, at, false)) => {
                    if let Some(first) = entries.get(&name) {
                        let line = first.key.line;
                        let text = format!("mapping key {name:?} already defined at line {line}");
                        return Err(Fault::at(at, text));
                    }
                    entries.insert(name, Node { key: at, ..node });
                }
            },
        }
        Ok(())
    }

    fn finish(&mut self, mut root: Node) -> Result<()> {
        self.nodes = 0;
        if root.is_null() {
            return Ok(());
        }
        if root.as_map().is_none() {
            return Err(Fault::at(root.span, "top-level object must be a mapping"));
        }
        let mut removed = Vec::new();
        collect(&mut root, &mut Vec::new(), &mut removed);
        self.documents.push(Document { root, removed });
        Ok(())
    }
}

fn too_deep(span: Span) -> Fault {
    Fault::at(span, format!("nested more than {MAX_DEPTH} levels deep"))
}

fn own_tag(tag: Option<(&str, &str)>, span: Span) -> Result<Tag> {
    match tag {
        Some(("!", "reset")) => Ok(Tag::Reset),
        Some(("!", "override")) => Ok(Tag::Override),
        // The non-specific tag, and YAML's own.
        None | Some(("" | "!", "")) | Some(("tag:yaml.org,2002:", _)) => Ok(Tag::None),
        Some((handle, suffix)) => Err(Fault::at(
            span,
            format!("unknown tag {handle}{suffix}; Compose has !reset and !override"),
        )),
    }
}

/// `<<: *base`: what the mapping does not say itself comes from the base.
fn merge_key(entries: &mut Map, merged: &Node) -> Result<()> {
    match &merged.value {
        Value::Map(base) => {
            for (name, node) in base {
                if !entries.contains_key(name) {
                    entries.insert(name.clone(), node.clone());
                }
            }
            Ok(())
        }
        Value::List(list) if list.iter().all(|n| n.as_map().is_some()) => {
            list.iter().try_for_each(|n| merge_key(entries, n))
        }
        _ => Err(Fault::at(merged.span, "map merge requires map or sequence of maps as the value")),
    }
}

/// Takes out what is tagged `!reset` and notes the paths that merging must clear first.
fn collect(node: &mut Node, path: &mut Vec<String>, removed: &mut Vec<Vec<String>>) {
    if node.tag == Tag::Override {
        removed.push(path.clone());
        return;
    }
    match &mut node.value {
        Value::Map(map) => {
            map.retain(|name, child| {
                path.push(name.clone());
                let reset = child.tag == Tag::Reset;
                match reset {
                    true => removed.push(path.clone()),
                    false => collect(child, path, removed),
                }
                path.pop();
                !reset
            });
        }
        Value::List(list) => {
            list.retain(|child| child.tag != Tag::Reset);
            for child in list {
                path.push("[]".to_owned());
                collect(child, path, removed);
                path.pop();
            }
        }
        _ => (),
    }
}

/// What an unquoted scalar is, by the rules of Go's yaml.v3: YAML 1.2 with octal `0644`, and
/// `yes`, `no`, `on` and `off` are text.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Value::Float(f64::INFINITY);
        }
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => (),
    }
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    if !numeric {
        return Value::Text(text.to_owned());
    }
    let plain = text.replace('_', "");
    if let Some(number) = integer(&plain) {
        return Value::Int(number);
    }
    if is_decimal(&plain)
        && let Ok(number) = plain.parse()
    {
        return Value::Float(number);
    }
    Value::Text(text.to_owned())
}

fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_decimal(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let mantissa = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && digits(fraction),
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => !mantissa.is_empty() && digits(mantissa),
    };
    let exponent = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    mantissa && exponent
}
