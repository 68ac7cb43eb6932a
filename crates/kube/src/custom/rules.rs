//! `x-kubernetes-validations`: rules in the expression language, on objects and in definitions.

use super::structural::{each, member};
use super::{Structural, is_set, text};
use crate::cel::{
    Declared, ESTIMATE, ESTIMATE_ALL, EvalError, Known, PER_OBJECT, Program, Scope, Val,
    json as value, times,
};
use crate::shape::{Shape, key_of};
use crate::status::{Problem, Rule as Broken};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

const RULES: &str = "x-kubernetes-validations";
/// The longest message that an expression may make, in bytes.
const MESSAGE: usize = 5 * 1024;

/// The compiled rules and messages of a schema, by their text.
#[derive(Debug, Default)]
pub(super) struct Rules {
    programs: HashMap<String, Program>,
}

fn rules(schema: &Value) -> &[Value] {
    schema.get(RULES).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// What rules may name, where nothing is known of it.
fn anything() -> Declared<'static> {
    Declared::new().dynamic("self").dynamic("oldSelf")
}

impl Rules {
    /// Compiles what [`check`] accepted.
    pub(super) fn new(schema: &Value) -> Rules {
        let mut programs = HashMap::new();
        each(schema, &mut |node| {
            for r in rules(node) {
                for source in [text(r, "rule"), text(r, "messageExpression")] {
                    if let Ok((p, _)) = Program::compile(source, &anything()) {
                        programs.insert(source.to_owned(), p);
                    }
                }
            }
        });
        Rules { programs }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.programs.is_empty()
    }
}

/// Judges an object by the rules of its schema.
pub(super) fn object(s: &Structural, v: &Value, old: Option<&Value>) -> Vec<Problem> {
    let mut walk = Walk { rules: &s.rules, budget: PER_OBJECT, out: Vec::new(), over: false };
    walk.value(&s.schema, v, old, "", old == Some(v));
    walk.out
}

struct Walk<'a> {
    rules: &'a Rules,
    budget: u64,
    out: Vec<Problem>,
    /// No rule is evaluated any more.
    over: bool,
}

impl<'a> Walk<'a> {
    /// `same` says that this part, or what it is part of, is as it was.
    fn value(
        &mut self,
        schema: &'a Value,
        v: &'a Value,
        old: Option<&'a Value>,
        path: &str,
        same: bool,
    ) {
        if v.is_null() || self.over {
            return;
        }
        let same = same || old == Some(v);
        for rule in rules(schema) {
            self.rule(schema, rule, (v, old), path, same);
        }
        for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            for rule in rules(part) {
                self.rule(schema, rule, (v, old), path, same);
            }
        }
        let dot = if path.is_empty() { "" } else { "." };
        match v {
            Value::Object(m) => {
                let atomic = text(schema, "x-kubernetes-map-type") == "atomic";
                let before = old.and_then(Value::as_object).filter(|_| !atomic);
                let properties = schema.get("properties");
                for (k, v) in m {
                    let Some(s) = member(schema, k) else { continue };
                    let declared = properties.is_some_and(|p| p.get(k).is_some());
                    let at =
                        if declared { format!("{path}{dot}{k}") } else { format!("{path}[{k}]") };
                    self.value(s, v, before.and_then(|b| b.get(k)), &at, same);
                }
            }
            Value::Array(list) => self.elements(schema, list, old, path, same),
            _ => {}
        }
    }

    fn elements(
        &mut self,
        schema: &'a Value,
        list: &'a [Value],
        old: Option<&'a Value>,
        path: &str,
        same: bool,
    ) {
        let Some(items) = schema.get("items") else { return };
        let is_map = text(schema, "x-kubernetes-list-type") == "map";
        let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        let keys: Vec<&str> = keys.into_iter().flatten().filter_map(Value::as_str).collect();
        let key = |v: &Value| key_of(&keys, Shape::Custom(items), v);
        let before = old.and_then(Value::as_array).filter(|_| is_map);
        for (i, v) in list.iter().enumerate() {
            let was = before
                .and_then(|b| key(v).and_then(|k| b.iter().find(|o| key(o).as_ref() == Some(&k))));
            self.value(items, v, was, &format!("{path}[{i}]"), same);
        }
    }

    fn rule(
        &mut self,
        schema: &'a Value,
        rule: &'a Value,
        of: (&'a Value, Option<&'a Value>),
        path: &str,
        same: bool,
    ) {
        let (v, old) = of;
        let Some(program) = self.rules.programs.get(text(rule, "rule")) else { return };
        let changes = program.names("oldSelf");
        let optional = is_set(rule, "optionalOldSelf");
        if self.over || changes && old.is_none() && !optional || !changes && same {
            return;
        }
        let mut scope = Scope::default();
        scope.set("self", value(v, Some(schema)));
        let was = old.map(|o| value(o, Some(schema)));
        if optional {
            scope.set("oldSelf", Val::Optional(was.map(Arc::new)));
        } else if let Some(was) = was {
            scope.set("oldSelf", was);
        }
        let ty = match text(schema, "type") {
            "" => json!(""),
            ty => json!(ty),
        };
        let field = if path.is_empty() { "<nil>" } else { path };
        let told = if text(rule, "message").is_empty() {
            text(rule, "rule")
        } else {
            text(rule, "message")
        }
        .trim();
        match program.eval(&scope, &mut self.budget) {
            Ok(Val::Bool(true)) => {}
            Ok(_) => self.broken(schema, rule, &scope, field, ty),
            Err(EvalError::Cost) if self.budget == 0 => {
                let why = "validation failed due to running out of cost budget, no further validation rules will be run";
                self.out.push(Problem::invalid(field, &ty, why));
                self.over = true;
            }
            Err(e @ EvalError::Cost) => {
                let why = format!(
                    "'{e}': no further validation rules will be run due to call cost exceeds limit for rule: {told}"
                );
                self.out.push(Problem::invalid(field, &ty, why));
                self.over = true;
            }
            Err(e @ EvalError::Overload) => {
                let why = format!(
                    "'{e}': call arguments did not match a supported operator, function or macro signature for rule: {told}"
                );
                self.out.push(Problem::invalid(field, &ty, why));
            }
            Err(e) => {
                self.out.push(Problem::invalid(field, &ty, format!("{e} evaluating rule: {told}")))
            }
        }
    }

    fn broken(
        &mut self,
        _schema: &'a Value,
        rule: &'a Value,
        scope: &Scope<'a>,
        field: &str,
        ty: Value,
    ) {
        let message = text(rule, "message").trim();
        let default = if message.is_empty() {
            format!("failed rule: {}", text(rule, "rule").trim())
        } else {
            message.to_owned()
        };
        let made = self.rules.programs.get(text(rule, "messageExpression")).and_then(|p| {
            let made = p.eval(scope, &mut self.budget).ok()?;
            let made = made.as_text().ok()?.trim().to_owned();
            (!made.is_empty() && made.len() <= MESSAGE && !made.contains('\n')).then_some(made)
        });
        let detail = made.unwrap_or(default);
        let below = text(rule, "fieldPath");
        let at = match (field, below) {
            (field, "") => field.to_owned(),
            ("<nil>", below) => below.trim_start_matches('.').to_owned(),
            (field, below) => format!("{field}{below}"),
        };
        self.out.push(match text(rule, "reason") {
            "FieldValueForbidden" => Problem::forbidden(at, detail),
            "FieldValueRequired" => Problem::required(at, detail),
            "FieldValueDuplicate" => Problem { field: at, rule: Broken::Duplicate(ty.to_string()) },
            _ => Problem::invalid(at, &ty, detail),
        });
    }
}

/// Where a part of a definition stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Levels below the root.
    pub(super) depth: usize,
    /// Whether the old value of the part can be found.
    pub(super) followed: bool,
    /// Whether it is part of what every object has: its kind, its metadata.
    pub(super) common: bool,
    /// How many values of the part an object may have, where limits say it.
    pub(super) count: Option<u64>,
}

impl Place {
    /// The elements or values of a part that is a list or a map.
    pub(super) fn inside(self, schema: &Value) -> Place {
        let key = if text(schema, "type") == "array" { "maxItems" } else { "maxProperties" };
        let most = schema.get(key).filter(|m| m.is_i64() || m.is_u64());
        let most = most.map(|m| m.as_u64().unwrap_or(0));
        Place { count: self.count.zip(most).map(|(n, m)| n.saturating_mul(m)), ..self }
    }
}

/// What the expressions of one schema cost by their estimates.
#[derive(Debug, Default)]
pub(super) struct Bill {
    total: u64,
    /// The dearest, with the fields that they are in.
    dear: Vec<(u64, String)>,
    /// Whether the schema is what it was, whose expressions nobody refuses later for what each costs.
    unchanged: bool,
}

impl Bill {
    pub(super) fn new(unchanged: bool) -> Bill {
        Bill { unchanged, ..Bill::default() }
    }

    fn add(&mut self, cost: u64, what: &str, field: String, out: &mut Vec<Problem>) {
        if cost > ESTIMATE && !self.unchanged {
            out.push(Problem::forbidden(field.as_str(), too_dear(what, cost, ESTIMATE)));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= ESTIMATE_ALL / 100 {
            self.dear.push((cost, field));
            self.dear.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.dear.truncate(4);
        }
    }

    /// Refuses a schema whose expressions cost too much together.
    pub(super) fn settle(self, at: &str, out: &mut Vec<Problem>) {
        if self.total <= ESTIMATE_ALL {
            return;
        }
        let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        out.extend(self.dear.into_iter().map(|(_, field)| Problem::forbidden(field, why)));
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        out.push(Problem::forbidden(at, too_dear(what, self.total, ESTIMATE_ALL)));
    }
}

/// Judges the rules of one part of a definition.
pub(super) fn check(
    schema: &Value,
    at: &str,
    place: Place,
    bill: &mut Bill,
    out: &mut Vec<Problem>,
) {
    for (i, r) in rules(schema).iter().enumerate() {
        let at = format!("{at}.{RULES}[{i}]");
        let source = text(r, "rule");
        if source.trim().is_empty() {
            out.push(Problem::required(format!("{at}.rule"), "rule is not specified"));
            continue;
        }
        let own = if place.depth == 0 { Known::Resource(schema) } else { Known::of(schema) };
        let optional = is_set(r, "optionalOldSelf");
        let old = if optional { Known::Dyn } else { own.clone() };
        let declared = Declared::new().known("self", own.clone()).known("oldSelf", old);
        let of = if matches!(own, Known::Resource(_)) { own } else { Known::Schema(schema) };
        let count = place.count.unwrap_or_else(|| times(schema));
        match Program::compile(source, &declared) {
            Err(e) => out.push(Problem::invalid(format!("{at}.rule"), r, e.to_string())),
            Ok((_, ty)) if !matches!(ty, Known::Bool | Known::Dyn) => {
                let why = "cel expression must evaluate to a bool";
                out.push(Problem::invalid(format!("{at}.rule"), r, why));
            }
            Ok((p, _)) if p.names("oldSelf") && !place.followed => {
                let why = "oldSelf cannot be used on the uncorrelatable portion of the schema";
                out.push(Problem::invalid(format!("{at}.rule"), &r["rule"], why));
            }
            Ok((p, _)) if optional && !p.names("oldSelf") => {
                let why = "may not be set if oldSelf is not used in rule";
                out.push(Problem::invalid(format!("{at}.optionalOldSelf"), &json!(true), why));
            }
            Ok((p, _)) => {
                let cost = p.estimate(&of, optional).saturating_mul(count);
                bill.add(cost, "estimated rule cost", format!("{at}.rule"), out);
            }
        }
        if let Some(p) = messages(schema, r, &at, &declared, out) {
            let what = "estimated messageExpression cost";
            let cost = p.estimate(&of, optional);
            bill.add(cost, what, format!("{at}.messageExpression"), out);
        }
    }
}

fn too_dear(what: &str, cost: u64, limit: u64) -> String {
    let advice = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";
    #[allow(clippy::cast_precision_loss, reason = "printed with a few digits")]
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        // So that nothing exceeds by a factor of 1.0.
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!("{what} exceeds budget by factor of {factor} {advice}")
}

/// Judges what a rule says when it is broken; gives the expression that says it.
fn messages(
    schema: &Value,
    r: &Value,
    at: &str,
    declared: &Declared<'_>,
    out: &mut Vec<Problem>,
) -> Option<Program> {
    let mut program = None;
    let message = text(r, "message");
    if message.contains('\n') {
        let why = "message must not contain line breaks";
        out.push(Problem::invalid(format!("{at}.message"), &r["message"], why));
    }
    if message.len() > 2048 {
        out.push(Problem { field: format!("{at}.message"), rule: Broken::TooLong(2048) });
    }
    if message.is_empty()
        && text(r, "rule").contains('\n')
        && text(r, "messageExpression").is_empty()
    {
        let why = "message must be specified if rule contains line breaks";
        out.push(Problem::required(format!("{at}.message"), why));
    }
    let made = text(r, "messageExpression");
    if !made.is_empty() {
        let field = format!("{at}.messageExpression");
        match Program::compile(made, declared) {
            Err(e) => out.push(Problem::invalid(field, r, e.to_string())),
            Ok((p, Known::Str | Known::Dyn)) => program = Some(p),
            Ok(_) => {
                let why = "messageExpression must evaluate to a string";
                out.push(Problem::invalid(field, r, why));
            }
        }
    }
    let path = text(r, "fieldPath");
    if !path.is_empty() && !leads(schema, path) {
        let why = format!("fieldPath {path} must be a valid path: does not refer to a valid field");
        out.push(Problem::invalid(format!("{at}.fieldPath"), &r["fieldPath"], why));
    }
    program
}

/// Whether a path of fields leads to a field of a schema.
fn leads(schema: &Value, path: &str) -> bool {
    let Ok(parsed) = crate::jsonpath::Path::parse(path) else { return false };
    let Some(fields) = parsed.fields() else { return false };
    fields.iter().try_fold(schema, |s, name| member(s, name)).is_some()
}
