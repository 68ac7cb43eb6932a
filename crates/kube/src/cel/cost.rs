//! What an expression may cost at most, known before anything runs: the limits of a schema bound it.
//!
//! Which rules a definition may have depends on these numbers, so they are those of the reference server: of cel-go's
//! `checker/cost.go` (v0.26), with the estimates of the server's own libraries (`pkg/cel/library/cost.go`).

mod calls;
mod decl;
mod span;

use super::ast::{Binary, Bind, Each, EachKind, Expr, Node, Unary};
use super::infer::Known;
use super::value::Val;
use calls::Called;
use decl::{Decl, Ty};
use serde_json::Value;
use span::Span;

/// How often values of a schema can be in one object, where no limit above it says how often.
pub(crate) fn times(schema: &Value) -> u64 {
    Decl::Schema(schema).times()
}

/// The most units that an expression over `own` may cost. `optional` says that the old value may be missing.
pub(super) fn estimate(root: &Node, own: &Known<'_>, optional: bool) -> u64 {
    let root_decl = match own {
        Known::Schema(s) => Some(Decl::Schema(s)),
        Known::Resource(s) => Some(Decl::Resource(s)),
        _ => None,
    };
    let mut walk = Walk { own: root_decl, optional, local: Vec::new() };
    walk.part(root).cost.max
}

/// What creating a value costs.
const LIST: u64 = 10;
const MAP: u64 = 30;
const OBJECT: u64 = 40;

/// The way from a variable to a value.
#[derive(Debug, Clone, Copy)]
enum Path<'a> {
    /// It did not come from a variable.
    None,
    /// It leads to nothing that is declared.
    Lost,
    At(Decl<'a>),
}

/// What is known of the elements of a list or map that an expression made.
#[derive(Debug, Clone, Copy)]
struct Entry {
    list: bool,
    key: Span,
    value: Span,
}

impl Entry {
    fn union(self, other: Entry) -> Entry {
        let (key, value) = (self.key.union(other.key), self.value.union(other.value));
        Entry { list: self.list, key, value }
    }
}

/// A part of an expression: what it costs, and what comes out of it.
#[derive(Debug, Clone)]
struct Part<'a> {
    cost: Span,
    ty: Ty<'a>,
    path: Path<'a>,
    size: Option<Span>,
    entry: Option<Entry>,
}

impl<'a> Part<'a> {
    fn new(cost: Span, ty: Ty<'a>) -> Part<'a> {
        let size = ty.is_scalar().then_some(Span::of(1));
        Part { cost, ty, path: Path::None, size, entry: None }
    }

    /// The same at the end of a path, which says how large it can be.
    fn at(mut self, path: Path<'a>) -> Part<'a> {
        self.path = path;
        if let Path::At(decl) = path {
            self.size = Some(Span { min: 0, max: decl.most() });
        }
        self
    }

    fn sized(mut self, size: Option<Span>) -> Part<'a> {
        self.size = size.or(self.size);
        self
    }

    fn size(&self) -> Span {
        self.size.unwrap_or(Span::ANY)
    }

    fn is_list(&self) -> bool {
        match self.entry {
            Some(e) => e.list,
            None => matches!(self.ty, Ty::List(_)),
        }
    }
}

struct Walk<'a> {
    own: Option<Decl<'a>>,
    optional: bool,
    local: Vec<(String, Part<'a>)>,
}

impl<'a> Walk<'a> {
    fn part(&mut self, n: &Node) -> Part<'a> {
        match &n.expr {
            Expr::Literal(v) => literal(v),
            Expr::Name(name) => self.name(name),
            Expr::Field { of, name, optional } => {
                let of = self.part(of);
                self.field(of, name, *optional)
            }
            // A question whether something is there costs nothing of its own.
            Expr::Has { of, .. } => Part::new(self.part(of).cost, Ty::Bool),
            Expr::Index { of, by, optional } => {
                let (of, by) = (self.part(of), self.part(by));
                self.index(&of, &by, *optional)
            }
            Expr::Call { on, name, args } => self.call(on.as_deref(), name, args),
            Expr::Unary(op, of) => {
                let of = self.part(of);
                let ty = if *op == Unary::Not { Ty::Bool } else { of.ty };
                Part::new(of.cost.plus(Span::of(1)), ty)
            }
            Expr::Binary(op, a, b) => {
                let (a, b) = (self.part(a), self.part(b));
                calls::binary(*op, &a, &b)
            }
            Expr::Choice(c, a, b) => {
                let c = self.part(c);
                let (a, b) = (self.part(a), self.part(b));
                choice(c.cost, a, b)
            }
            Expr::List(items) => {
                let parts: Vec<Part<'a>> = items.iter().map(|(n, _)| self.part(n)).collect();
                list(&parts)
            }
            Expr::Map(entries) => self.map(entries),
            Expr::Object { fields, .. } => {
                let parts = fields.iter().map(|(_, n, _)| self.part(n).cost);
                Part::new(parts.fold(Span::of(OBJECT), Span::plus), Ty::Dyn)
            }
            Expr::Each(e) => self.each(e),
            Expr::Bind { how, name, value, body } => self.bind(*how, name, value, body),
        }
    }

    /// Where a variable leads. Names that are no variables of a rule are taken for its root, as the reference server
    /// takes them.
    fn root(&self) -> Path<'a> {
        self.own.map_or(Path::Lost, Path::At)
    }

    fn name(&self, name: &str) -> Part<'a> {
        if let Some((_, known)) = self.local.iter().rev().find(|(n, _)| n == name) {
            return Part { cost: Span::of(1), ..known.clone() };
        }
        let of = self.own.and_then(Decl::ty).unwrap_or(Ty::Dyn);
        let ty = match name.trim_start_matches('.') {
            "self" => of,
            "oldSelf" if self.optional => Ty::Optional(Box::new(of)),
            "oldSelf" => of,
            _ => Ty::Dyn,
        };
        Part::new(Span::of(1), ty).at(self.root())
    }

    fn field(&self, of: Part<'a>, name: &str, optional: bool) -> Part<'a> {
        let found = |ty: &Ty<'a>| match ty {
            Ty::Object(decl) => decl.field(name).and_then(Decl::ty).unwrap_or(Ty::Dyn),
            Ty::Map(value) => (**value).clone(),
            _ => Ty::Dyn,
        };
        if let Ty::Optional(inner) = &of.ty {
            let ty = Ty::Optional(Box::new(found(inner)));
            let own = Span::of(u64::from(optional));
            return Part::new(of.cost.plus(own), ty);
        }
        let ty = found(&of.ty);
        if optional {
            return Part::new(of.cost.plus(Span::of(1)), Ty::Optional(Box::new(ty)));
        }
        let own = u64::from(matches!(of.ty, Ty::Map(_) | Ty::Object(_)));
        let path = match of.path {
            Path::At(decl) => decl.field(name).map_or(Path::Lost, Path::At),
            path => path,
        };
        Part::new(of.cost.plus(Span::of(own)), ty).at(path)
    }

    fn index(&self, of: &Part<'a>, by: &Part<'a>, optional: bool) -> Part<'a> {
        let cost = of.cost.plus(by.cost).plus(Span::of(1));
        let element = |ty: &Ty<'a>| match ty {
            Ty::List(t) | Ty::Map(t) => (**t).clone(),
            _ => Ty::Dyn,
        };
        if let Ty::Optional(inner) = &of.ty {
            return Part::new(cost, Ty::Optional(Box::new(element(inner))));
        }
        if optional {
            return Part::new(cost, Ty::Optional(Box::new(element(&of.ty))));
        }
        let part = Part::new(cost, element(&of.ty)).at(self.below(of));
        part.sized(of.entry.map(|e| e.value))
    }

    /// The path of the elements of something. Of what came from no variable they are taken for the root.
    fn below(&self, of: &Part<'a>) -> Path<'a> {
        match of.path {
            Path::None => self.root(),
            Path::Lost => Path::Lost,
            Path::At(decl) => decl.element().map_or(Path::Lost, Path::At),
        }
    }

    fn call(&mut self, on: Option<&Node>, name: &str, args: &[Node]) -> Part<'a> {
        let space = on.and_then(|n| super::eval::namespace(n, name));
        let target = match (on, space) {
            (Some(n), None) => Some(self.part(n)),
            _ => None,
        };
        let parts: Vec<Part<'a>> = args.iter().map(|a| self.part(a)).collect();
        if let ("dyn", None, [one]) = (name, &target, &parts[..]) {
            let part = one.clone();
            return Part {
                cost: one.cost.plus(Span::of(1)),
                ty: Ty::Dyn,
                path: Path::None,
                ..part
            };
        }
        let limit = args.get(1).and_then(|n| match &n.expr {
            Expr::Literal(Val::Int(n)) => u64::try_from(*n).ok(),
            _ => None,
        });
        let full = space.map_or_else(|| name.to_owned(), |s| format!("{s}.{name}"));
        let called = Called { name: &full, target: target.as_ref(), args: &parts, limit };
        let given = target.iter().chain(&parts).map(|p| p.cost).fold(Span::of(0), Span::plus);
        let (own, size) = called.cost(self);
        Part::new(given.plus(own), called.ty()).sized(size)
    }

    fn map(&mut self, entries: &[(Node, Node, bool)]) -> Part<'a> {
        let (mut cost, mut found) = (Span::of(MAP), None::<Entry>);
        let mut value_ty = None;
        for (k, v, _) in entries {
            let (k, v) = (self.part(k), self.part(v));
            cost = cost.plus(k.cost).plus(v.cost);
            let entry = Entry { list: false, key: k.size(), value: v.size() };
            found = Some(found.map_or(entry, |f| f.union(entry)));
            value_ty = Some(v.ty);
        }
        let none = Entry { list: false, key: Span::of(0), value: Span::of(0) };
        let part = Part::new(cost, Ty::Map(Box::new(value_ty.unwrap_or(Ty::Dyn))));
        let size = Span::of(u64::try_from(entries.len()).unwrap_or(u64::MAX));
        Part { entry: Some(found.unwrap_or(none)), ..part.sized(Some(size)) }
    }

    /// Names what a macro goes over, for the time of `inner`.
    fn with<T>(&mut self, e: &Each, over: &Part<'a>, inner: impl FnOnce(&mut Self) -> T) -> T {
        let depth = self.local.len();
        let list = over.is_list();
        let value = match &over.ty {
            Ty::List(t) | Ty::Map(t) => (**t).clone(),
            _ => Ty::Dyn,
        };
        let (own, at) = (over.entry, self.below(over));
        let values = Part::new(Span::of(1), value).sized(own.map(|e| e.value)).at(at);
        let at = match over.path {
            Path::None => self.root(),
            Path::Lost => Path::Lost,
            Path::At(_) if list => Path::Lost,
            Path::At(decl) => decl.key().map_or(Path::Lost, Path::At),
        };
        let key = if list { Ty::Int } else { Ty::Str };
        let keys = Part::new(Span::of(1), key).sized(own.map(|e| e.key)).at(at);
        match e.names.as_slice() {
            [one] => self.local.push((one.clone(), if list { values } else { keys })),
            [a, b] => self.local.extend([(a.clone(), keys), (b.clone(), values)]),
            _ => {}
        }
        let out = inner(self);
        self.local.truncate(depth);
        out
    }

    /// A macro, as the loop that it stands for.
    fn each(&mut self, e: &Each) -> Part<'a> {
        let over = self.part(&e.over);
        let (body, filter, item) = self.with(e, &over, |w| {
            let item = e.names.first().map(|n| w.name(n));
            (w.part(&e.body), e.filter.as_ref().map(|f| w.part(f)), item)
        });
        let one = Span::of(1);
        // The accumulator and what is appended to it, or the accumulator alone where a filter says no.
        let chosen = |step: Span| filter.as_ref().map_or(step, |f| f.cost.plus(step.union(one)));
        let appended = |cost: Span| cost.plus(Span::of(LIST + 2));
        let (before, step, after) = match e.kind {
            EachKind::All => (0, one.upto(one.plus(body.cost)).plus(Span::of(2)), one),
            EachKind::Exists => (0, one.upto(one.plus(body.cost)).plus(Span::of(3)), one),
            EachKind::ExistsOne => (0, body.cost.plus(Span { min: 1, max: 2 }), Span::of(2)),
            EachKind::Map | EachKind::TransformList => (LIST, chosen(appended(body.cost)), one),
            EachKind::Filter => (LIST, body.cost.plus(appended(one).union(one)), one),
            EachKind::TransformMap => (MAP, chosen(body.cost.plus(Span::of(3))), one),
            EachKind::TransformMapEntry => (MAP, chosen(body.cost.plus(Span::of(2))), one),
            // The pairs of keys and elements are made by `map` over a variable, and then sorted.
            EachKind::SortBy => (2 * LIST + 4, appended(body.cost), one),
        };
        let count = over.size();
        let cost = over.cost.plus(Span::of(before)).plus(after).plus(count.times(step));
        let made = |value: &Part<'a>, list: bool| {
            let value = Span { min: 0, ..value.size() };
            Some(Entry { list, key: Span::of(u64::from(list)), value })
        };
        match e.kind {
            EachKind::All | EachKind::Exists | EachKind::ExistsOne => Part::new(cost, Ty::Bool),
            EachKind::Map | EachKind::TransformList => {
                let part = Part::new(cost, Ty::List(Box::new(body.ty.clone())));
                Part { entry: made(&body, true), ..part.sized(Some(count)) }
            }
            EachKind::Filter | EachKind::SortBy => {
                let item = item.unwrap_or_else(|| Part::new(one, Ty::Dyn));
                let part = Part::new(cost, Ty::List(Box::new(item.ty.clone())));
                Part { entry: made(&item, true), ..part.sized(Some(count)) }
            }
            EachKind::TransformMapEntry => Part::new(cost, body.ty).sized(Some(count)),
            EachKind::TransformMap => {
                Part::new(cost, Ty::Map(Box::new(body.ty))).sized(Some(count))
            }
        }
    }

    fn bind(&mut self, how: Bind, name: &str, value: &Node, body: &Node) -> Part<'a> {
        let value = self.part(value);
        let inner = match (&how, &value.ty) {
            (Bind::Plain, _) => value.clone(),
            (_, Ty::Optional(t)) => Part::new(Span::of(1), (**t).clone()),
            _ => Part::new(Span::of(1), Ty::Dyn),
        };
        self.local.push((name.to_owned(), inner));
        let body = self.part(body);
        self.local.pop();
        let bound = |value: Span| value.plus(body.cost).plus(Span::of(LIST));
        if how == Bind::Plain {
            return Part { cost: bound(value.cost), ..body };
        }
        // `o.hasValue() ? optional.of(cel.bind(x, o.value(), body)) : optional.none()`
        let asked = value.cost.plus(Span::of(1));
        let flat = how == Bind::OptionalFlat;
        let yes = bound(asked).plus(Span::of(u64::from(!flat)));
        let ty = if flat { body.ty } else { Ty::Optional(Box::new(body.ty)) };
        Part::new(asked.plus(yes.union(Span::of(1))), ty)
    }
}

fn literal<'a>(v: &Val<'_>) -> Part<'a> {
    let length = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let (ty, size) = match v {
        Val::Null => (Ty::Null, 1),
        Val::Bool(_) => (Ty::Bool, 1),
        Val::Int(_) => (Ty::Int, 1),
        Val::Uint(_) => (Ty::Uint, 1),
        Val::Double(_) => (Ty::Double, 1),
        Val::Str(s) => (Ty::Str, length(s.chars().count())),
        Val::Bytes(b) => (Ty::Bytes, length(b.len())),
        _ => return Part::new(Span::of(0), Ty::Dyn),
    };
    Part::new(Span::of(0), ty).sized(Some(Span::of(size)))
}

fn list<'a>(parts: &[Part<'a>]) -> Part<'a> {
    let cost = parts.iter().map(|p| p.cost).fold(Span::of(LIST), Span::plus);
    let value = parts.iter().map(Part::size).reduce(Span::union).unwrap_or(Span::of(0));
    let ty = parts.first().map_or(Ty::Dyn, |p| p.ty.clone());
    let size = Span::of(u64::try_from(parts.len()).unwrap_or(u64::MAX));
    let part = Part::new(cost, Ty::List(Box::new(ty))).sized(Some(size));
    Part { entry: Some(Entry { list: true, key: Span::of(1), value }), ..part }
}

fn choice<'a>(condition: Span, a: Part<'a>, b: Part<'a>) -> Part<'a> {
    let cost = condition.plus(a.cost.union(b.cost));
    let size = a.size().union(b.size());
    let entry = a.entry.zip(b.entry).map(|(a, b)| a.union(b));
    let ty =
        if std::mem::discriminant(&a.ty) == std::mem::discriminant(&b.ty) { a.ty } else { Ty::Dyn };
    Part { entry, ..Part::new(cost, ty).sized(Some(size)) }
}

#[cfg(test)]
mod tests {
    use super::super::{Declared, Program};
    use super::*;
    use serde_json::json;

    fn cost(schema: &Value, rule: &str) -> u64 {
        let own = Known::of(schema);
        let declared = Declared::new().known("self", own.clone()).known("oldSelf", own);
        let (p, _) = Program::compile(rule, &declared).unwrap();
        p.estimate(&Known::Schema(schema), false)
    }

    /// A type, or a format of texts.
    fn item(name: &str) -> Value {
        match name {
            "date" | "date-time" | "duration" | "byte" => json!({"type": "string", "format": name}),
            "int-or-string" => json!({"x-kubernetes-int-or-string": true}),
            "list" => json!({"type": "array", "items": {"type": "number"}}),
            "map" => json!({"type": "object", "additionalProperties": {"type": "number"}}),
            name => json!({"type": name}),
        }
    }

    /// Costs of a rule where nothing limits its value, and where `limit` does. The numbers are those that the
    /// reference server's own tests expect.
    #[track_caller]
    fn check(kind: &str, of: &str, rule: &str, free: u64, limit: u64, limited: u64) {
        let (mut schema, key) = match kind {
            "list" => (json!({"type": "array", "items": item(of)}), "maxItems"),
            "map" => (json!({"type": "object", "additionalProperties": item(of)}), "maxProperties"),
            _ => (item(of), "maxLength"),
        };
        assert_eq!(cost(&schema, rule), free, "{kind} of {of}: {rule}");
        schema[key] = json!(limit);
        assert_eq!(cost(&schema, rule), limited, "{kind} of {of} up to {limit}: {rule}");
    }

    #[test]
    fn loops_cost_what_their_lists_can_hold() {
        let all = "self.all(x, true)";
        check("list", "number", all, 4_718_591, 10, 32);
        check("list", "string", all, 3_145_727, 20, 62);
        check("list", "boolean", all, 1_887_437, 5, 17);
        check("list", "list", all, 3_145_727, 100, 302);
        check("list", "int-or-string", all, 4_718_591, 10, 32);
        check("list", "duration", all, 2_359_295, 5, 17);
        check("list", "date", all, 725_936, 15, 47);
        check("list", "date-time", all, 428_963, 25, 77);
        check("list", "number", "self.all(x, x == 0.0)", 6_291_454, 3 * 1024 * 2048, 25_165_826);
        check("map", "number", all, 1_348_169, 10, 32);
        check("map", "string", all, 1_179_647, 3, 11);
        check("map", "boolean", all, 943_718, 100, 302);
        check("map", "map", all, 1_179_647, 10, 32);
        check("map", "list", all, 1_179_647, 25, 77);
        check("map", "duration", all, 1_048_577, 5, 17);
        check("map", "date", all, 524_288, 10, 32);
        check("map", "date-time", all, 349_526, 25, 77);
        check("list", "map", "self.all(x, x.y == 25.2)", 6_291_452, 12, 74);
        let nested = json!({"type": "array", "maxItems": 10, "items": {"type": "number"}});
        assert_eq!(cost(&nested, "self.all(x, self.all(y, true))"), 352);
        assert_eq!(cost(&nested, "self.all(x, self.all(y, self.all(z, true)))"), 3552);
    }

    #[test]
    fn texts_cost_by_their_length() {
        check("one", "string", "self.contains('test')", 314_574, 10, 5);
        check("one", "string", "self.startsWith('test')", 2, 15, 2);
        check("one", "string", r#"size(self + "hello") > size("hello")"#, 314_578, 4, 7);
        check("one", "string", "self.matches('x')", 314_574, 50, 22);
        check("one", "string", "''.matches('(((((((((())))))))))[0-9]')", 7, 10, 7);
        check("one", "string", "self.matches('')", 1, 100, 1);
        check("one", "string", "self == 'x'", 2, 0, 1);
        check("one", "byte", "self == b'x'", 2, 0, 1);
        check("one", "string", "self.find('[0-9]+') == ''", 629_147, 10, 11);
        check("one", "string", "self.lowerAscii() == 'lower!'", 314_575, 10, 6);
        check("one", "int-or-string", "isQuantity(self)", 314_574, 20, 9);
        let one_of = json!({"type": "string", "enum": ["A", "B", "LongValue"]});
        assert_eq!(cost(&one_of, "self.contains('A')"), 2);
    }

    #[test]
    fn fields_and_elements_cost_a_step_each() {
        check("map", "number", "has(self.x)", 1, 100, 1);
        check("map", "integer", "oldSelf.size() == self.size()", 5, 10, 5);
        check("map", "date-time", "self['a'] == self['b']", 8, 7, 8);
        check("map", "number", "self['x'] == 0.0", 2, 0, 2);
        check("list", "number", "self[1] == 0.0", 2, 5000, 2);
        check("list", "string", "self[1] == self[1]", 314_577, 8, 314_577);
        check("list", "int-or-string", "self[0] == 5", 3, 10, 3);
        check("list", "list", "self[0][0] == -1.0", 3, 51, 3);
        check("list", "map", "self[0].x > 2.0", 4, 3000, 4);
        check("list", "duration", "self[0].getHours() == 2", 4, 525, 4);
        check("list", "date", "self[2].getDayOfMonth() == 13", 4, 42, 4);
    }

    #[test]
    fn functions_on_lists_count_their_texts() {
        let of = |limit: Option<u64>| {
            let mut s = json!({"type": "array", "items": {"type": "string"}});
            if let Some(n) = limit {
                s["maxItems"] = json!(n);
                s["items"]["maxLength"] = json!(n);
            }
            s
        };
        let join = "self.join(' ') == 'aa bb'";
        assert_eq!(cost(&of(None), join), 329_853_068_905);
        assert_eq!(cost(&of(Some(10)), join), 43);
        let sorted = "self.isSorted() == true";
        assert_eq!(cost(&of(None), sorted), 329_854_432_052);
        assert_eq!(cost(&of(Some(10)), sorted), 52);
    }
}
