//! JSONPath as printer columns and scale paths use it: fields, indexes, wildcards, filters.

use serde_json::Value;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    steps: Vec<Step>,
}

/// A path that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is an invalid JSON path: {0}")]
pub struct PathError(String);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    Deep,
    Filter(Vec<Step>, Op, Operand),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Exists,
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Literal(Value),
    Path(Vec<Step>),
}

/// Values that a path may find; a recursive path can find all of a document many times over.
const MOST: usize = 10_000;

impl Path {
    /// Reads `.spec.a[0].b`, with or without braces and a leading `$`.
    pub fn parse(text: &str) -> Result<Path, PathError> {
        let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let inner = inner.strip_prefix('$').unwrap_or(inner);
        let mut parser = Parser { rest: inner };
        let steps = parser.steps(false)?;
        if steps.is_empty() {
            return Err(PathError("it names nothing".to_owned()));
        }
        Ok(Path { steps })
    }

    /// Every value that the path finds, in order.
    pub fn find<'a>(&self, v: &'a Value) -> Vec<&'a Value> {
        follow(&self.steps, v)
    }

    /// The path as plain fields, where it is nothing else.
    pub fn fields(&self) -> Option<Vec<&str>> {
        self.steps
            .iter()
            .map(|s| if let Step::Field(f) = s { Some(f.as_str()) } else { None })
            .collect()
    }
}

fn follow<'a>(steps: &[Step], v: &'a Value) -> Vec<&'a Value> {
    let mut now = vec![v];
    for step in steps {
        let mut next = Vec::new();
        for v in now {
            step.apply(v, &mut next);
            if next.len() > MOST {
                next.truncate(MOST);
                break;
            }
        }
        now = next;
    }
    now
}

impl Step {
    fn apply<'a>(&self, v: &'a Value, out: &mut Vec<&'a Value>) {
        match (self, v) {
            (Step::Field(name), Value::Object(m)) => out.extend(m.get(name)),
            (Step::Index(i), Value::Array(a)) => out.extend(at(a.len(), *i).and_then(|i| a.get(i))),
            (Step::Slice(from, to), Value::Array(a)) => {
                let from = from.map_or(Some(0), |i| at(a.len(), i)).unwrap_or(a.len());
                let to = to.map_or(a.len(), |i| at(a.len(), i).unwrap_or(a.len()));
                out.extend(a.get(from..to.max(from)).into_iter().flatten());
            }
            (Step::All, Value::Array(a)) => out.extend(a),
            (Step::All, Value::Object(m)) => out.extend(m.values()),
            (Step::Deep, v) => deep(v, out),
            (Step::Filter(left, op, right), Value::Array(a)) => {
                out.extend(a.iter().filter(|v| passes(v, left, *op, right)));
            }
            _ => {}
        }
    }
}

/// The position that an index means; negative ones count from the end.
fn at(len: usize, i: i64) -> Option<usize> {
    if i >= 0 { usize::try_from(i).ok() } else { len.checked_sub(usize::try_from(-i).ok()?) }
}

fn deep<'a>(v: &'a Value, out: &mut Vec<&'a Value>) {
    if out.len() > MOST {
        return;
    }
    out.push(v);
    match v {
        Value::Array(a) => a.iter().for_each(|v| deep(v, out)),
        Value::Object(m) => m.values().for_each(|v| deep(v, out)),
        _ => {}
    }
}

fn passes(v: &Value, left: &[Step], op: Op, right: &Operand) -> bool {
    let Some(a) = follow(left, v).into_iter().next() else { return false };
    let b = match right {
        Operand::Literal(b) => Some(b),
        Operand::Path(steps) => follow(steps, v).into_iter().next(),
    };
    if op == Op::Exists {
        return true;
    }
    let Some(b) = b else { return false };
    let order = match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    match op {
        Op::Equal => a == b || order == Some(std::cmp::Ordering::Equal),
        Op::Unequal => a != b,
        Op::Less => order.is_some_and(std::cmp::Ordering::is_lt),
        Op::LessEqual => order.is_some_and(std::cmp::Ordering::is_le),
        Op::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
        Op::GreaterEqual => order.is_some_and(std::cmp::Ordering::is_ge),
        Op::Exists => true,
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn error<T>(&self, why: &str) -> Result<T, PathError> {
        Err(PathError(format!("{why} at {:?}", self.rest)))
    }

    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Steps up to the end, or inside a filter up to what cannot be one.
    fn steps(&mut self, inside: bool) -> Result<Vec<Step>, PathError> {
        let mut out = Vec::new();
        while !self.rest.is_empty() {
            if self.eat("..") {
                out.push(Step::Deep);
                if self.rest.starts_with('[') {
                    continue;
                }
                out.push(self.name()?);
            } else if self.eat(".") {
                if self.rest.starts_with('[') {
                    continue;
                }
                out.push(self.name()?);
            } else if self.eat("[") {
                out.push(self.bracket()?);
            } else if inside {
                break;
            } else {
                return self.error("expected . or [");
            }
        }
        Ok(out)
    }

    fn name(&mut self) -> Result<Step, PathError> {
        if self.eat("*") {
            return Ok(Step::All);
        }
        let mut name = String::new();
        let mut chars = self.rest.char_indices().peekable();
        let mut end = self.rest.len();
        while let Some((i, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, c)) => name.push(c),
                    None => return self.error("nothing follows the escape"),
                },
                '.' | '[' | ' ' | '=' | '!' | '<' | '>' | ')' => {
                    end = i;
                    break;
                }
                c => name.push(c),
            }
        }
        self.rest = &self.rest[end..];
        if name.is_empty() { self.error("expected a name") } else { Ok(Step::Field(name)) }
    }

    fn bracket(&mut self) -> Result<Step, PathError> {
        let step = if self.eat("*") {
            Step::All
        } else if self.eat("?(@") {
            let left = self.steps(true)?;
            self.space();
            let (op, right) = self.comparison()?;
            self.space();
            if !self.eat(")") {
                return self.error("expected )");
            }
            Step::Filter(left, op, right)
        } else if self.rest.starts_with(['\'', '"']) {
            Step::Field(self.quoted()?)
        } else {
            self.index()?
        };
        if self.eat("]") { Ok(step) } else { self.error("expected ]") }
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn comparison(&mut self) -> Result<(Op, Operand), PathError> {
        const OPS: [(&str, Op); 6] = [
            ("==", Op::Equal),
            ("!=", Op::Unequal),
            ("<=", Op::LessEqual),
            (">=", Op::GreaterEqual),
            ("<", Op::Less),
            (">", Op::Greater),
        ];
        let Some((_, op)) = OPS.iter().find(|(text, _)| self.eat(text)) else {
            return Ok((Op::Exists, Operand::Literal(Value::Null)));
        };
        self.space();
        let right = if self.eat("@") {
            Operand::Path(self.steps(true)?)
        } else if self.rest.starts_with(['\'', '"']) {
            Operand::Literal(Value::String(self.quoted()?))
        } else {
            let end = self.rest.find([')', ' ']).unwrap_or(self.rest.len());
            let word = &self.rest[..end];
            let literal = serde_json::from_str(word);
            self.rest = &self.rest[end..];
            match literal {
                Ok(v @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => Operand::Literal(v),
                _ => return self.error("expected a number, a text or a path"),
            }
        };
        Ok((*op, right))
    }

    fn quoted(&mut self) -> Result<String, PathError> {
        let mut chars = self.rest.char_indices();
        let Some((_, quote)) = chars.next() else { return self.error("expected a text") };
        let (mut out, mut escaped) = (String::new(), false);
        for (i, c) in chars {
            match c {
                _ if escaped => {
                    out.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                c if c == quote => {
                    self.rest = &self.rest[i + c.len_utf8()..];
                    return Ok(out);
                }
                c => out.push(c),
            }
        }
        self.error("the text does not end")
    }

    fn index(&mut self) -> Result<Step, PathError> {
        let end = self.rest.find(']').unwrap_or(self.rest.len());
        let word = &self.rest[..end];
        let number = |t: &str| t.trim().parse::<i64>().ok();
        let optional = |t: &str| if t.trim().is_empty() { Some(None) } else { number(t).map(Some) };
        let step = match word.split_once(':') {
            Some((a, b)) => optional(a).zip(optional(b)).map(|(a, b)| Step::Slice(a, b)),
            None => number(word).map(Step::Index),
        };
        match step {
            Some(step) => {
                self.rest = &self.rest[end..];
                Ok(step)
            }
            None => self.error("expected an index"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(path: &str, expected: &[Value]) {
        let doc = json!({"a": {"b.c": 1, "list": [{"type": "Ready", "status": "True", "n": 3}, {"type": "Old", "status": "False", "n": 5}]}});
        let found: Vec<Value> =
            Path::parse(path).unwrap().find(&doc).into_iter().cloned().collect();
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn paths_find_what_they_name() {
        check(".a['b.c']", &[json!(1)]);
        check(r".a.b\.c", &[json!(1)]);
        check(".a.list[0].type", &[json!("Ready")]);
        check(".a.list[-1].type", &[json!("Old")]);
        check(".a.list[*].n", &[json!(3), json!(5)]);
        check(".a.list[?(@.type==\"Ready\")].status", &[json!("True")]);
        check(".a.list[?(@.n > 3)].type", &[json!("Old")]);
        check("{.a.list[0:1].n}", &[json!(3)]);
        check("..status", &[json!("True"), json!("False")]);
        check(".missing.x", &[]);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for bad in ["", "a", ".a[", ".a[x]", ".a[?(@.b==)]", "."] {
            assert!(Path::parse(bad).is_err(), "{bad}");
        }
    }
}
