//! Executes a parsed template against data.

use serde_json::{Number, Value};

use crate::format::{self, quote};
use crate::parse::{self, Branch, Command, Node, Pipe, Word, WordKind};
use crate::value::{Shape, Val, sorted};
use crate::{ExecError, Template, funcs};

/// What asking an object for a key that it lacks gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// `<no value>`, as for Go's maps.
    NoValue,
    /// An error, as with `missingkey=error`; but open maps still give no value.
    Error,
    /// An error that names this Go type, as for Go's structures.
    Field(&'static str),
}

/// A method of the data's root, by name and arguments; `None` when there is no such method.
pub type Method<'a> = &'a dyn Fn(&str, &[Value]) -> Option<Result<Value, String>>;

/// How the value of a field prints, by the field's name; `None` to print it as any other.
pub type Print<'a> = &'a dyn Fn(&str, &Value) -> Option<String>;

/// The rules of one execution.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    /// What missing keys give.
    pub missing: Missing,
    /// Fields whose objects are maps with arbitrary keys, where others are structures.
    pub open_maps: &'a [&'a str],
    /// Fields of structures that JSON leaves out when they are empty: missing, they are nil.
    pub optional: &'a [&'a str],
    /// How values print that are no mere maps to Go.
    pub print: Option<Print<'a>>,
    /// Methods of the root that take arguments, such as `.Label "x"`.
    pub method: Option<Method<'a>>,
    /// Whether docker's functions leave their argument alone, as for table headers.
    pub headers: bool,
}

impl Default for Env<'_> {
    fn default() -> Self {
        Self {
            missing: Missing::NoValue,
            open_maps: &[],
            optional: &[],
            print: None,
            method: None,
            headers: false,
        }
    }
}

/// Templates that call themselves deeper than this are refused.
const MAX_CALLS: usize = 100;
/// Steps after which an execution is refused: no input can run for long.
const MAX_STEPS: usize = 5_000_000;

pub(crate) fn execute(
    template: &Template,
    data: &Value,
    env: &Env<'_>,
) -> Result<String, ExecError> {
    let shape = if env.missing == Missing::NoValue { Shape::Map } else { Shape::Struct };
    let mut state = State {
        template,
        env,
        name: String::new(),
        variables: vec![("$".to_owned(), Val::Ref(data, shape))],
        out: String::new(),
        calls: 0,
        steps: 0,
    };
    state.walk(&Val::Ref(data, shape), &template.root)?;
    Ok(state.out)
}

struct State<'t, 'd> {
    template: &'t Template,
    env: &'t Env<'t>,
    name: String,
    variables: Vec<(String, Val<'d>)>,
    out: String,
    calls: usize,
    steps: usize,
}

/// What a list of nodes asks of the loop around it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

type Done<T> = Result<T, ExecError>;

impl<'d> State<'_, 'd> {
    fn fail<T>(&self, at: usize, context: &str, message: impl AsRef<str>) -> Done<T> {
        let before = &self.template.text[..at];
        let line = before.matches('\n').count() + 1;
        let column = at - before.rfind('\n').map_or(0, |n| n + 1);
        let mut shown: String = context.chars().take(20).collect();
        if shown.len() < context.len() {
            shown.push_str("...");
        }
        Err(ExecError(format!(
            "template: :{line}:{column}: executing {} at <{shown}>: {}",
            quote(&self.name),
            message.as_ref()
        )))
    }

    fn walk(&mut self, dot: &Val<'d>, nodes: &[Node]) -> Done<Flow> {
        for node in nodes {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(ExecError("template: : too many steps".to_owned()));
            }
            let flow = self.node(dot, node)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn node(&mut self, dot: &Val<'d>, node: &Node) -> Done<Flow> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipe) => {
                let value = self.pipeline(dot, pipe)?;
                if pipe.variables.is_empty() {
                    let text = self.shown(pipe, value.json());
                    self.out.push_str(&text);
                }
            }
            Node::If(branch) | Node::With(branch) => {
                let mark = self.variables.len();
                let value = self.pipeline(dot, &branch.pipe)?;
                let inner = if matches!(node, Node::With(_)) { value.clone() } else { dot.clone() };
                let flow = match value.is_true() {
                    true => self.walk(&inner, &branch.body),
                    false => self.walk(dot, &branch.otherwise),
                };
                self.variables.truncate(mark);
                return flow;
            }
            Node::Range(branch) => return self.range(dot, branch),
            Node::Template { at, name, pipe } => {
                self.call_template(dot, *at, name, pipe.as_ref())?
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn shown(&self, pipe: &Pipe, value: Option<&Value>) -> String {
        let field = match pipe.commands.as_slice() {
            [Command { words }] => match words.as_slice() {
                [word] => word.kind.field(),
                _ => None,
            },
            _ => None,
        };
        let own = || self.env.print?(field?, value?);
        own().unwrap_or_else(|| format::print(value))
    }

    fn range(&mut self, dot: &Val<'d>, branch: &Branch) -> Done<Flow> {
        let mark = self.variables.len();
        let value = self.pipeline(dot, &branch.pipe)?;
        let items = self.items(&value, &branch.pipe)?;
        let flow = match items.is_empty() {
            true => self.walk(dot, &branch.otherwise)?,
            false => self.iterate(items, branch)?,
        };
        self.variables.truncate(mark);
        Ok(flow)
    }

    fn iterate(&mut self, items: Vec<(Value, Val<'d>)>, branch: &Branch) -> Done<Flow> {
        let mark = self.variables.len();
        for (index, item) in items {
            let names = &branch.pipe.variables;
            let values = match names.len() {
                0 => vec![],
                1 => vec![item.clone()],
                _ => vec![Val::Own(index), item.clone()],
            };
            for (name, value) in names.iter().zip(values) {
                self.set(name, value, branch.pipe.assigns);
            }
            let flow = self.walk(&item, &branch.body)?;
            self.variables.truncate(mark);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn set(&mut self, name: &str, value: Val<'d>, assigns: bool) {
        let known = self.variables.iter_mut().rev().find(|(n, _)| n == name);
        match known.filter(|_| assigns) {
            Some(slot) => slot.1 = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }

    fn items(&self, value: &Val<'d>, pipe: &Pipe) -> Done<Vec<(Value, Val<'d>)>> {
        let shape = value.shape();
        let items = match value {
            Val::Absent => vec![],
            Val::Ref(Value::Array(list), _) => {
                list.iter().enumerate().map(|(i, v)| (i.into(), Val::Ref(v, shape))).collect()
            }
            // The values of a map are structures, or strings.
            Val::Ref(Value::Object(map), _) => sorted(map)
                .into_iter()
                .map(|(k, v)| (k.as_str().into(), Val::Ref(v, self.inner_shape())))
                .collect(),
            Val::Own(Value::Array(list)) => {
                list.iter().cloned().enumerate().map(|(i, v)| (i.into(), Val::Own(v))).collect()
            }
            Val::Own(Value::Object(map)) => sorted(map)
                .into_iter()
                .map(|(k, v)| (k.as_str().into(), Val::Own(v.clone())))
                .collect(),
            Val::Ref(Value::Null, _) | Val::Own(Value::Null) => vec![],
            Val::Ref(Value::Number(n), _) | Val::Own(Value::Number(n)) if n.is_i64() => {
                let count = n.as_i64().unwrap_or(0).clamp(0, 1_000_000);
                (0..count).map(|i| (i.into(), Val::Own(i.into()))).collect()
            }
            other => {
                let message = format!("range can't iterate over {}", format::print(other.json()));
                let first = pipe.commands.first().map(|c| &c.words[0]);
                let (at, text) = first.map_or((pipe.at, &pipe.text), |w| (w.at, &w.text));
                return self.fail(at, text, message);
            }
        };
        Ok(items)
    }

    fn inner_shape(&self) -> Shape {
        if self.env.missing == Missing::NoValue { Shape::Map } else { Shape::Struct }
    }

    fn call_template(
        &mut self,
        dot: &Val<'d>,
        at: usize,
        name: &str,
        pipe: Option<&Pipe>,
    ) -> Done<()> {
        let context = format!("{{{{template {}}}}}", quote(name));
        let template = self.template;
        let Some(body) = template.defined.get(name) else {
            return self.fail(at, &context, format!("template {} not defined", quote(name)));
        };
        if self.calls == MAX_CALLS {
            let message = format!("exceeded maximum template depth ({MAX_CALLS})");
            return self.fail(at, &context, message);
        }
        let data = match pipe {
            Some(pipe) => self.pipeline(dot, pipe)?,
            None => Val::Absent,
        };
        let outer = std::mem::replace(&mut self.variables, vec![("$".to_owned(), data.clone())]);
        let outer_name = std::mem::replace(&mut self.name, name.to_owned());
        self.calls += 1;
        self.walk(&data, body)?;
        self.calls -= 1;
        self.variables = outer;
        self.name = outer_name;
        Ok(())
    }

    fn pipeline(&mut self, dot: &Val<'d>, pipe: &Pipe) -> Done<Val<'d>> {
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(dot, command, value)?);
        }
        let value = value.unwrap_or(Val::Absent);
        // A range sets its own variables, once for each item.
        if pipe.variables.len() == 1 {
            self.set(&pipe.variables[0], value.clone(), pipe.assigns);
        }
        Ok(value)
    }

    fn command(
        &mut self,
        dot: &Val<'d>,
        command: &Command,
        last: Option<Val<'d>>,
    ) -> Done<Val<'d>> {
        let first = &command.words[0];
        let has_args = command.words.len() > 1 || last.is_some();
        match &first.kind {
            WordKind::Function(name) => self.call(dot, name, command, last),
            WordKind::Field(names) if has_args => {
                let args = self.arguments(dot, &command.words[1..], last)?;
                self.method(dot, first, names, &args)
            }
            WordKind::Field(_)
            | WordKind::Chain(..)
            | WordKind::Variable(..)
            | WordKind::Pipe(_)
                if !has_args =>
            {
                self.word(dot, first)
            }
            WordKind::Nil => self.fail(first.at, "nil", "nil is not a command"),
            _ if has_args => {
                let message = format!("can't give argument to non-function {}", first.text);
                self.fail(first.at, &first.text, message)
            }
            _ => self.word(dot, first),
        }
    }

    fn arguments(
        &mut self,
        dot: &Val<'d>,
        words: &[Word],
        last: Option<Val<'d>>,
    ) -> Done<Vec<Val<'d>>> {
        let mut args = Vec::with_capacity(words.len() + 1);
        for word in words {
            args.push(self.word(dot, word)?);
        }
        args.extend(last);
        Ok(args)
    }

    fn method(
        &mut self,
        dot: &Val<'d>,
        word: &Word,
        names: &[String],
        args: &[Val<'d>],
    ) -> Done<Val<'d>> {
        let plain: Vec<Value> =
            args.iter().map(|a| a.json().cloned().unwrap_or(Value::Null)).collect();
        if let (Some(method), [name]) = (self.env.method, names)
            && let Some(result) = method(name, &plain)
        {
            return match result {
                Ok(value) => Ok(Val::Own(value)),
                Err(why) => self.fail(word.at, &word.text, format!("error calling {name}: {why}")),
            };
        }
        let value = self.fields(dot.clone(), word, names)?;
        let name = names.last().map_or("", String::as_str);
        let message = match value {
            Val::Absent => format!("{name} is not a method but has arguments"),
            _ => format!("{name} has arguments but cannot be invoked as function"),
        };
        self.fail(word.at, &word.text, message)
    }

    fn word(&mut self, dot: &Val<'d>, word: &Word) -> Done<Val<'d>> {
        match &word.kind {
            WordKind::Dot => Ok(dot.clone()),
            WordKind::Nil => Ok(Val::Own(Value::Null)),
            WordKind::Bool(b) => Ok(Val::Own((*b).into())),
            WordKind::Number(n) => self.number(word, *n),
            WordKind::Str(text) => Ok(Val::Own(text.as_str().into())),
            WordKind::Field(names) => self.fields(dot.clone(), word, names),
            WordKind::Variable(name, names) => {
                let found = self.variables.iter().rev().find(|(n, _)| n == name);
                match found.map(|(_, value)| value.clone()) {
                    Some(value) => self.fields(value, word, names),
                    None => self.fail(word.at, &word.text, format!("undefined variable: {name}")),
                }
            }
            WordKind::Pipe(pipe) => self.pipeline(dot, pipe),
            WordKind::Chain(inner, names) => {
                let value = self.word(dot, inner)?;
                self.fields(value, word, names)
            }
            WordKind::Function(name) => {
                let command = Command { words: vec![word.clone()] };
                self.call(dot, name, &command, None)
            }
        }
    }

    fn number(&self, word: &Word, number: parse::Number) -> Done<Val<'d>> {
        match number {
            parse::Number::Int(n) => Ok(Val::Own(n.into())),
            parse::Number::Float(f) => {
                Ok(Val::Own(Number::from_f64(f).map_or(Value::Null, Value::Number)))
            }
            parse::Number::TooBig => {
                self.fail(word.at, &word.text, format!("{} overflows int", word.text))
            }
        }
    }

    fn fields(&self, mut value: Val<'d>, word: &Word, names: &[String]) -> Done<Val<'d>> {
        for name in names {
            value = self.field(value, word, name)?;
        }
        Ok(value)
    }

    fn field(&self, value: Val<'d>, word: &Word, name: &str) -> Done<Val<'d>> {
        let open = self.env.open_maps.contains(&name) || self.env.missing == Missing::NoValue;
        let inner = if open { Shape::Map } else { Shape::Struct };
        let found = match &value {
            Val::Ref(Value::Object(map), _) => map.get(name).map(|v| Val::Ref(v, inner)),
            Val::Own(Value::Object(map)) => map.get(name).cloned().map(Val::Own),
            Val::Absent | Val::Ref(Value::Null, _) | Val::Own(Value::Null) => {
                let message = match value.shape() {
                    Shape::Map if !matches!(value, Val::Absent) => return Ok(Val::Absent),
                    _ => format!("nil pointer evaluating interface {{}}.{name}"),
                };
                return self.fail(word.at, &word.text, message);
            }
            other => {
                let message = format!("can't evaluate field {name} in type {}", other.type_name());
                return self.fail(word.at, &word.text, message);
            }
        };
        if let Some(found) = found {
            return Ok(found);
        }
        match (self.env.missing, value.shape()) {
            (_, Shape::Map) | (Missing::NoValue, _) => Ok(Val::Absent),
            (_, Shape::Struct) if self.env.optional.contains(&name) => Ok(Val::Own(Value::Null)),
            (Missing::Error, Shape::Struct) => {
                let message = format!("map has no entry for key {}", quote(name));
                self.fail(word.at, &word.text, message)
            }
            (Missing::Field(kind), Shape::Struct) => {
                let message = format!("can't evaluate field {name} in type {kind}");
                self.fail(word.at, &word.text, message)
            }
        }
    }

    fn call(
        &mut self,
        dot: &Val<'d>,
        name: &str,
        command: &Command,
        last: Option<Val<'d>>,
    ) -> Done<Val<'d>> {
        let words = &command.words;
        if matches!(name, "and" | "or") {
            return self.short_circuit(dot, name, command, last);
        }
        let args = self.arguments(dot, &words[1..], last)?;
        let given = args.clone();
        funcs::call(name, args, self.env.headers)
            .or_else(|error| self.call_failed(name, words, &given, error))
    }

    fn call_failed<T>(
        &self,
        name: &str,
        words: &[Word],
        args: &[Val<'d>],
        error: funcs::Error,
    ) -> Done<T> {
        let at = words[0].at;
        match error {
            funcs::Error::Usage(message) => self.fail(at, name, message),
            funcs::Error::Call(why) => {
                let text: Vec<&str> = words.iter().map(|w| w.text.as_str()).collect();
                self.fail(at, &text.join(" "), format!("error calling {name}: {why}"))
            }
            funcs::Error::Type(want) => {
                // The first argument of another type is the one that was refused.
                let of_type = |a: &Val<'_>| a.type_name() == want;
                let index = args.iter().position(|a| !of_type(a)).unwrap_or(0);
                let word = words.get(index + 1).unwrap_or(&words[0]);
                let message = match (&word.kind, args.get(index).map(Val::type_name)) {
                    (WordKind::Number(_) | WordKind::Str(_) | WordKind::Bool(_), _) => {
                        format!("expected {want}; found {}", word.text)
                    }
                    (_, Some("<nil>") | None) => format!("invalid value; expected {want}"),
                    (_, Some(got)) => format!("wrong type for value; expected {want}; got {got}"),
                };
                self.fail(word.at, &word.text, message)
            }
        }
    }

    fn short_circuit(
        &mut self,
        dot: &Val<'d>,
        name: &str,
        command: &Command,
        last: Option<Val<'d>>,
    ) -> Done<Val<'d>> {
        let first = &command.words[0];
        let mut value = None;
        for word in &command.words[1..] {
            let next = self.word(dot, word)?;
            if next.is_true() == (name == "or") {
                return Ok(next);
            }
            value = Some(next);
        }
        match last.or(value) {
            Some(value) => Ok(value),
            None => {
                let message = format!("wrong number of args for {name}: want at least 1 got 0");
                self.fail(first.at, name, message)
            }
        }
    }
}
