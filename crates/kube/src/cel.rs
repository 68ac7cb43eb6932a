//! The Common Expression Language, as the API evaluates it: every evaluation has a budget.
//!
//! Crates were weighed: none bounds what an evaluation costs, none checks expressions against a schema
//! beforehand, and each wants objects copied into values of its own. Here a value of JSON is looked at
//! where it lies, and every step is paid for. Source of the semantics: the language definition and
//! the reference server's libraries (strings, lists, sets, regex, URL, quantity, IP, CIDR, format, semver).

mod ast;
mod cost;
mod eval;
mod functions;
mod infer;
mod lex;
mod library;
mod lists;
mod parse;
mod strings;
mod times;
mod value;

pub use ast::Node;
pub(crate) use cost::times;
pub use eval::{Authority, Check, Scope};
pub use infer::{Declared, Known};
pub use value::Val;

use serde_json::Value;

/// What one evaluation may cost, and all evaluations for one object together. A unit is one step;
/// texts and lists cost more the longer they are.
pub const PER_CALL: u64 = 1_000_000;
/// What a definition's expressions may cost each, by the estimate.
pub const ESTIMATE: u64 = 10_000_000;
/// What all expressions of one schema of a definition may cost together.
pub const ESTIMATE_ALL: u64 = 100_000_000;
/// See [`PER_CALL`].
pub const PER_OBJECT: u64 = 10_000_000;

/// An expression that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("compilation failed: ERROR: <input>:{line}:{column}: {message}\n | {source_line}\n | {}^", ".".repeat(column.saturating_sub(1)))]
pub struct CompileError {
    line: usize,
    column: usize,
    message: String,
    source_line: String,
}

impl CompileError {
    fn new(source: &str, at: usize, message: impl Into<String>) -> CompileError {
        let at = at.min(source.len());
        let before = source.get(..at).unwrap_or(source);
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        let column = before.get(start..).unwrap_or_default().chars().count() + 1;
        let source_line = source.lines().nth(line - 1).unwrap_or_default().to_owned();
        CompileError { line, column, message: message.into(), source_line }
    }
}

/// An evaluation that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// It would have cost too much.
    #[error("operation cancelled: actual cost limit exceeded")]
    Cost,
    /// An operation that these values have not.
    #[error("no such overload")]
    Overload,
    /// A field or entry that is not there.
    #[error("no such key: {0}")]
    Key(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Program {
    root: Node,
    source: String,
}

impl Program {
    /// Reads an expression and checks it against what it may name.
    pub fn compile<'d>(
        source: &str,
        declared: &Declared<'d>,
    ) -> Result<(Program, Known<'d>), CompileError> {
        let root = parse::expression(source)?;
        let known = infer::check(&root, source, declared)?;
        Ok((Program { root, source: source.to_owned() }, known))
    }

    /// Whether it names a variable.
    pub fn names(&self, variable: &str) -> bool {
        self.root.names(variable)
    }

    /// What it may cost at most where `self` is `own`; `optional` says that `oldSelf` may be missing.
    pub fn estimate(&self, own: &Known<'_>, optional: bool) -> u64 {
        cost::estimate(&self.root, own, optional)
    }

    /// The expression.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Evaluates it. `budget` is what it may cost; what it cost is taken off.
    pub fn eval<'a>(&'a self, scope: &Scope<'a>, budget: &mut u64) -> Result<Val<'a>, EvalError> {
        let allowed = (*budget).min(PER_CALL);
        let mut machine = eval::Machine::new(scope, allowed);
        let outcome = machine.run(&self.root);
        *budget -= allowed - machine.left();
        outcome
    }
}

/// A value of JSON in the language, typed by its schema where there is one.
pub fn json<'a>(v: &'a Value, schema: Option<&'a Value>) -> Val<'a> {
    value::from_json(v, schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(text: &str) -> Result<String, String> {
        let object = json!({"n": 3, "f": 1.5, "s": "hello", "list": [1, 2, 3], "m": {"a": "x", "b": "y"},
            "names": ["b", "a"], "items": [{"name": "a", "v": 1}, {"name": "b", "v": 2}], "nothing": null, "if": 1});
        let declared = Declared::new().dynamic("self");
        let (p, _) = Program::compile(text, &declared).map_err(|e| e.to_string())?;
        let mut scope = Scope::default();
        scope.set("self", super::json(&object, None));
        let mut budget = PER_OBJECT;
        let v = p.eval(&scope, &mut budget).map_err(|e| e.to_string())?;
        Ok(v.to_json().map_or_else(|| format!("{v:?}"), |v| v.to_string()))
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(run(text).as_deref(), Ok(expected), "{text}");
    }

    #[test]
    fn operators() {
        check("1 + 2 * 3", "7");
        check("7 / 2 == 3 && 7 % 2 == 1 && -7 / 2 == -3", "true");
        check("1.5 + self.f", "3.0");
        check("'a' + \"b\" + '''c'''", "\"abc\"");
        check("[1] + [2]", "[1,2]");
        check("self.n > 2 ? 'big' : 'small'", "\"big\"");
        check("2 in self.list && !('z' in self.m) && 'a' in self.m", "true");
        check("1 == 1.0 && 2u == 2 && 1 < 1.5", "true");
        check("{'a': 1}.a + {'a': 2}['a']", "3");
        check("r'\\d' + '\\u0041\\n'", "\"\\\\dA\\n\"");
        check("self.__if__", "1");
        check("0x10 + 1", "17");
    }

    #[test]
    fn errors_are_absorbed_by_logic_and_nothing_else() {
        check("false && self.missing == 1", "false");
        check("self.missing == 1 || true", "true");
        assert_eq!(run("self.missing == 1").unwrap_err(), "no such key: missing");
        assert_eq!(run("1 / 0").unwrap_err(), "division by zero");
        assert_eq!(run("9223372036854775807 + 1").unwrap_err(), "integer overflow");
        assert_eq!(run("self.list[5]").unwrap_err(), "index out of bounds: 5");
        assert_eq!(run("self.s + 1").unwrap_err(), "no such overload");
    }

    #[test]
    fn macros() {
        check("self.list.all(x, x > 0) && self.list.exists(x, x == 2)", "true");
        check("self.list.exists_one(x, x > 2)", "true");
        check("self.list.map(x, x * 2)", "[2,4,6]");
        check("self.list.filter(x, x > 1).map(x, x > 2, x)", "[3]");
        check("self.m.all(k, self.m[k].size() == 1)", "true");
        check("self.m.all(k, v, k != v)", "true");
        check("self.list.transformList(i, v, i + v)", "[1,3,5]");
        check("self.m.transformMap(k, v, v + k)", "{\"a\":\"xa\",\"b\":\"yb\"}");
        check("self.m.transformMapEntry(k, v, {v: k})", "{\"x\":\"a\",\"y\":\"b\"}");
        check("self.names.transformMapEntry(i, v, i > 0, {v: i})", "{\"a\":1}");
        let twice = run("self.list.transformMapEntry(i, v, {'k': v})").unwrap_err();
        assert_eq!(twice, "insert failed: key k already exists");
        check("has(self.s) && !has(self.zip) && !has(self.m.q)", "true");
        check("cel.bind(x, self.n * 2, x + x)", "12");
        check("self.list.exists(x, [4, 3].exists(y, x == y))", "true");
    }

    #[test]
    fn optionals() {
        check("self.?missing.orValue('d')", "\"d\"");
        check("self.?s.hasValue()", "true");
        check("self.?m.?a.orValue('')", "\"x\"");
        check("optional.none().or(optional.of(3)).value()", "3");
        check("self.?n.optMap(x, x + 1).orValue(0)", "4");
        check("[?self.?missing, 1]", "[1]");
        check("self.list[?7].orValue(9)", "9");
        check("optional.unwrap([optional.none(), optional.of(1)])", "[1]");
        check("[self.?s, self.?missing].unwrapOpt()", "[\"hello\"]");
    }

    #[test]
    fn texts() {
        check("'Hello'.lowerAscii() + 'x'.upperAscii()", "\"helloX\"");
        check("'a,b,c'.split(',').join('-')", "\"a-b-c\"");
        check("'hello'.substring(1, 3) + 'hello'.charAt(0)", "\"elh\"");
        check("'hello'.indexOf('l') + 'hello'.lastIndexOf('l')", "5");
        check("' x '.trim().replace('x', 'y')", "\"y\"");
        check(
            "'abc'.matches('^a.c$') && 'abc'.startsWith('ab') && 'abc'.endsWith('bc') && 'abc'.contains('b')",
            "true",
        );
        check("'%s is %d and %.2f'.format(['x', 3, 1.5])", "\"x is 3 and 1.50\"");
        check("'a1b22'.findAll('[0-9]+')", "[\"1\",\"22\"]");
        check("size('héllo')", "5");
        check("'abc'.reverse()", "\"cba\"");
    }

    #[test]
    fn corners_of_the_language() {
        check("{6: 'six', 7: 'seven'}.exists_one(k, k % 5 == 2)", "true");
        check("has({'foo': optional.none()}.foo)", "true");
        check("[1].exists(self, .self.n == 3 && self == 1)", "true");
        assert_eq!(run("-(-9223372036854775808)").unwrap_err(), "integer overflow");
        assert_eq!(run("int(-9223372036854775808.0)").unwrap_err(), "integer overflow");
        assert_eq!(run("{1.0: 5}[1.0]").unwrap_err(), "unsupported key type: double");
        check("google.protobuf.Duration == type(duration('1s'))", "true");
        check(
            "'%.3e %e %d'.format([1052.03, 2, double('Infinity')])",
            "\"1.052e+03 2.000000e+00 Infinity\"",
        );
        check("'%s %s'.format([duration('1h45m47s'), [double('NaN')]])", "\"6347s [NaN]\"");
        check("strings.quote('a\\a\\v\\n') == '\"a\\\\a\\\\v\\\\n\"'", "true");
        for wrong in
            ["'%d'.format([duration('1s')])", "'hello'.substring(1, 2, 3)", "'42'.split('2', 1, 1)"]
        {
            assert_eq!(run(wrong).unwrap_err(), "no such overload", "{wrong}");
        }
        for wrong in [
            "timestamp(253402300800)",
            "timestamp('0001-01-01T00:00:00Z') - duration('1s')",
            "duration('320000000000s')",
        ] {
            assert!(run(wrong).is_err(), "{wrong}");
        }
        check("timestamp('2026-07-01T12:00:00Z').getHours('America/New_York')", "8");
    }

    #[test]
    fn moments_are_counted_in_nanoseconds() {
        check(
            "timestamp('2026-01-01T00:00:00.123456789Z') - timestamp('2026-01-01T00:00:00.123456788Z') == duration('1ns')",
            "true",
        );
        check(
            "string(timestamp('0001-01-01T00:00:00.000000001Z'))",
            "\"0001-01-01T00:00:00.000000001Z\"",
        );
        check("timestamp('9999-12-31T23:59:59.999999999Z').getMilliseconds()", "999");
        check("string(timestamp('9999-12-31T23:59:59.5Z'))", "\"9999-12-31T23:59:59.5Z\"");
        check("timestamp('9999-12-31T23:59:59Z').getFullYear()", "9999");
        check(
            "timestamp('2026-01-01T00:00:00Z') + duration('1ns') > timestamp('2026-01-01T00:00:00Z')",
            "true",
        );
        check("int(timestamp('1969-12-31T23:59:59.5Z'))", "-1");
        assert!(run("timestamp('9999-12-31T23:59:59.999999999Z') + duration('1ns')").is_err());
    }

    #[test]
    fn collections() {
        check("self.list.sum() + self.list.max() + self.list.min()", "10");
        check("self.list.isSorted() && !self.names.isSorted()", "true");
        check("self.names.sort()", "[\"a\",\"b\"]");
        check("self.items.sortBy(i, -i.v).map(i, i.name)", "[\"b\",\"a\"]");
        check("[1, 1, 2].distinct()", "[1,2]");
        check("[[1], [2, [3]]].flatten()", "[1,2,[3]]");
        check("lists.range(3)", "[0,1,2]");
        check(
            "sets.contains([1, 2], [2]) && sets.intersects([1], [1, 2]) && sets.equivalent([1, 1], [1])",
            "true",
        );
        check("self.list.slice(1, 3)", "[2,3]");
    }

    #[test]
    fn libraries() {
        check(
            "quantity('1Gi').isGreaterThan(quantity('500Mi')) && isQuantity('1m') && !isQuantity('x')",
            "true",
        );
        check("quantity('1').add(quantity('500m')).compareTo(quantity('1500m'))", "0");
        check(
            "ip('10.0.0.1').family() == 4 && isIP('::1') && ip('127.0.0.1').isLoopback()",
            "true",
        );
        check(
            "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.0.0.0/8').prefixLength() == 8",
            "true",
        );
        check(
            "url('https://a.b:8443/x?q=1').getHost() + url('https://a.b:8443/x').getPort()",
            "\"a.b:84438443\"",
        );
        check("isURL('https://x/') && !isURL('nope')", "true");
        check(
            "!format.dns1123Label().validate('ok-1').hasValue() && format.named('dns1123Label').value().validate('-').hasValue()",
            "true",
        );
        check(
            "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.2.3').minor() == 2",
            "true",
        );
        check(
            "duration('1h') > duration('59m') && timestamp('2024-01-02T03:04:05Z').getFullYear() == 2024",
            "true",
        );
        check(
            "string(timestamp('2024-01-02T03:04:05Z') + duration('1s'))",
            "\"2024-01-02T03:04:06Z\"",
        );
        check(
            "int('5') + int(2.9) == 7 && double('1.5') == 1.5 && string(3) == '3' && bool('true')",
            "true",
        );
        check("type(1) == int && type('a') == string && type([]) == list", "true");
    }

    #[test]
    fn mistakes_are_found_before_anything_runs() {
        assert!(
            run("self.x ==").unwrap_err().starts_with("compilation failed: ERROR: <input>:1:10:")
        );
        assert!(run("foo > 1").unwrap_err().contains("undeclared reference to 'foo'"));
        assert!(run("self.nope()").unwrap_err().contains("undeclared reference to 'nope'"));
        assert!(
            run("1 + 'a'")
                .unwrap_err()
                .contains("found no matching overload for '_+_' applied to '(int, string)'")
        );
        assert!(run(&"(".repeat(5000)).is_err());
        assert!(run(&"!".repeat(5000)).is_err());
        assert!(run(&format!("{}1", "1+".repeat(40_000))).is_err());
        assert!(run(&format!("self{}", ".a".repeat(40_000))).is_err());
        assert!(run(&format!("{}1{}", "[".repeat(40), "]".repeat(40))).is_ok());
    }

    #[test]
    fn bombs_run_out_of_budget() {
        let big = "[1,2,3,4,5,6,7,8,9,10]";
        let text = format!(
            "{big}.all(a, {big}.all(b, {big}.all(c, {big}.all(d, {big}.all(e, {big}.all(f, {big}.all(g, true)))))))"
        );
        assert_eq!(run(&text).unwrap_err(), "operation cancelled: actual cost limit exceeded");
        let doubling = (0..40).fold("'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'".to_owned(), |s, _| {
            format!("[{s}].map(x, x + x)[0]")
        });
        let e = run(&doubling).unwrap_err();
        assert!(e.contains("cost limit") || e.contains("ERROR"), "{e}");
    }
}
