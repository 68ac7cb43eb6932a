//! The reference server's own types: quantities, addresses, networks, URLs, formats, versions, the authorizer.

use super::EvalError;
use super::eval::{Check, Machine};
use super::value::Val;
use crate::names;
use crate::quantity::Quantity;
use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

type Outcome<'a> = Result<Val<'a>, EvalError>;

fn other<'a>(why: impl Into<String>) -> Outcome<'a> {
    Err(EvalError::Other(why.into()))
}

/// Calls a function of this library; nothing where it has none of this name for these values.
pub(super) fn call<'a>(
    m: &mut Machine<'_, 'a>,
    name: &str,
    method: bool,
    args: &[Val<'a>],
) -> Option<Outcome<'a>> {
    if let Some(out) = makers(name, args) {
        return Some(out);
    }
    match args {
        [Val::Quantity(q), rest @ ..] if method => quantity(name, q, rest),
        [Val::Ip(ip), rest @ ..] if method && rest.is_empty() => address(name, *ip),
        [Val::Cidr(ip, n), rest @ ..] if method => network(name, *ip, *n, rest),
        [Val::Url(u)] if method => url_part(name, u),
        [Val::Semver(s), rest @ ..] if method => semver(name, s, rest),
        [Val::Format(f), Val::Str(s)] if method && name == "validate" => Some(Ok(validate(f, s))),
        [Val::Check(c), rest @ ..] if method => check(m, name, c, rest),
        [Val::Decision(allowed, reason)] if method => Some(Ok(match name {
            "allowed" => Val::Bool(*allowed),
            "reason" => Val::text(reason.to_string()),
            "errored" => Val::Bool(false),
            "error" => Val::text(""),
            _ => return None,
        })),
        _ if name.starts_with("math.") => math(name, args),
        _ => None,
    }
}

const FORMATS: [&str; 13] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

/// Functions that make a value of one of these types out of a text.
fn makers<'a>(name: &str, args: &[Val<'a>]) -> Option<Outcome<'a>> {
    if let (Some(format), []) = (name.strip_prefix("format."), args) {
        return FORMATS.iter().find(|f| **f == format).map(|f| Ok(Val::Format(f)));
    }
    let [Val::Str(s)] = args else {
        return match (name, args) {
            ("isSemver", [Val::Str(s), Val::Bool(lenient)]) => {
                Some(Ok(Val::Bool(Semver::parse(s, *lenient).is_some())))
            }
            ("semver", [Val::Str(s), Val::Bool(lenient)]) => Some(made_semver(s, *lenient)),
            _ => None,
        };
    };
    Some(match name {
        "quantity" => {
            Quantity::parse(s).map(Val::Quantity).map_err(|e| EvalError::Other(e.to_string()))
        }
        "isQuantity" => Ok(Val::Bool(Quantity::parse(s).is_ok())),
        "ip" => parse_ip(s).map(Val::Ip).ok_or_else(|| {
            EvalError::Other(format!("IP Address {s:?} parse error during conversion from string"))
        }),
        "isIP" => Ok(Val::Bool(parse_ip(s).is_some())),
        "ip.isCanonical" => match parse_ip(s) {
            Some(ip) => Ok(Val::Bool(ip.to_string() == *s)),
            None => other(format!("IP Address {s:?} parse error during conversion from string")),
        },
        "cidr" => match parse_cidr(s) {
            Some((ip, n)) => Ok(Val::Cidr(ip, n)),
            None => {
                other(format!("network address parse error during conversion from string: {s:?}"))
            }
        },
        "isCIDR" => Ok(Val::Bool(parse_cidr(s).is_some())),
        "url" => {
            if is_url(s) {
                Ok(Val::Url(Arc::from(s.as_ref())))
            } else {
                other(format!(
                    "URL parse error during conversion from string: parse {s:?}: invalid URI for request"
                ))
            }
        }
        "isURL" => Ok(Val::Bool(is_url(s))),
        "semver" => made_semver(s, false),
        "isSemver" => Ok(Val::Bool(Semver::parse(s, false).is_some())),
        "format.named" => {
            let found = FORMATS.iter().find(|f| **f == s.as_ref());
            Ok(Val::Optional(found.map(|f| Arc::new(Val::Format(f)))))
        }
        "jsonpatch.escapeKey" => Ok(Val::text(s.replace('~', "~0").replace('/', "~1"))),
        _ => return None,
    })
}

/// The order of two quantities.
pub(super) fn compare_quantities(a: &Quantity, b: &Quantity) -> Ordering {
    let d = a.minus(*b);
    if d.is_negative() {
        Ordering::Less
    } else if d.to_string() == "0" {
        Ordering::Equal
    } else {
        Ordering::Greater
    }
}

fn quantity<'a>(name: &str, q: &Quantity, rest: &[Val<'a>]) -> Option<Outcome<'a>> {
    let zero = Quantity::parse("0").ok()?;
    #[allow(clippy::cast_precision_loss, reason = "the function is approximate by name")]
    Some(Ok(match (name, rest) {
        ("sign", []) => Val::Int(match compare_quantities(q, &zero) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }),
        ("isInteger", []) => Val::Bool(q.millis() % 1000 == 0),
        ("asInteger", []) => {
            if q.millis() % 1000 != 0 {
                return Some(other("cannot convert value to integer"));
            }
            Val::Int(q.value())
        }
        ("asApproximateFloat", []) => Val::Double(q.millis() as f64 / 1000.0),
        ("isLessThan", [Val::Quantity(o)]) => Val::Bool(compare_quantities(q, o).is_lt()),
        ("isGreaterThan", [Val::Quantity(o)]) => Val::Bool(compare_quantities(q, o).is_gt()),
        ("compareTo", [Val::Quantity(o)]) => Val::Int(compare_quantities(q, o) as i64),
        ("add", [Val::Quantity(o)]) => Val::Quantity(q.plus(*o)),
        ("sub", [Val::Quantity(o)]) => Val::Quantity(q.minus(*o)),
        ("add" | "sub", [Val::Int(n)]) => {
            let o = Quantity::parse(&n.to_string()).ok()?;
            Val::Quantity(if name == "add" { q.plus(o) } else { q.minus(o) })
        }
        _ => return None,
    }))
}

/// Addresses with zones or four in six are none, as the reference server decides.
fn parse_ip(s: &str) -> Option<IpAddr> {
    let ip: IpAddr = s.parse().ok()?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        ip => Some(ip),
    }
}

fn parse_cidr(s: &str) -> Option<(IpAddr, u8)> {
    let (ip, n) = s.split_once('/')?;
    let ip = parse_ip(ip)?;
    let n: u8 = n.parse().ok()?;
    (n <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, n))
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn masked(ip: IpAddr, n: u8) -> u128 {
    if n == 0 { 0 } else { bits(ip) & (u128::MAX << (128 - u32::from(n))) }
}

fn address<'a>(name: &str, ip: IpAddr) -> Option<Outcome<'a>> {
    let flag = |b: bool| Some(Ok(Val::Bool(b)));
    match name {
        "family" => Some(Ok(Val::Int(if ip.is_ipv4() { 4 } else { 6 }))),
        "isUnspecified" => flag(ip.is_unspecified()),
        "isLoopback" => flag(ip.is_loopback()),
        "isLinkLocalMulticast" => flag(match ip {
            IpAddr::V4(v) => v.octets()[..3] == [224, 0, 0],
            IpAddr::V6(v) => v.segments()[0] & 0xff0f == 0xff02,
        }),
        "isLinkLocalUnicast" => flag(match ip {
            IpAddr::V4(v) => v.is_link_local(),
            IpAddr::V6(v) => v.segments()[0] & 0xffc0 == 0xfe80,
        }),
        "isGlobalUnicast" => flag(match ip {
            IpAddr::V4(v) => {
                !v.is_unspecified()
                    && !v.is_loopback()
                    && !v.is_multicast()
                    && !v.is_link_local()
                    && !v.is_broadcast()
            }
            IpAddr::V6(v) => {
                !v.is_unspecified()
                    && !v.is_loopback()
                    && !v.is_multicast()
                    && v.segments()[0] & 0xffc0 != 0xfe80
            }
        }),
        _ => None,
    }
}

fn network<'a>(name: &str, ip: IpAddr, n: u8, rest: &[Val<'a>]) -> Option<Outcome<'a>> {
    let inside = |o: IpAddr| o.is_ipv4() == ip.is_ipv4() && masked(o, n) == masked(ip, n);
    Some(Ok(match (name, rest) {
        ("containsIP", [Val::Ip(o)]) => Val::Bool(inside(*o)),
        ("containsIP", [Val::Str(s)]) => match parse_ip(s) {
            Some(o) => Val::Bool(inside(o)),
            None => {
                return Some(other(format!(
                    "IP Address {s:?} parse error during conversion from string"
                )));
            }
        },
        ("containsCIDR", [Val::Cidr(o, m)]) => Val::Bool(*m >= n && inside(*o)),
        ("containsCIDR", [Val::Str(s)]) => match parse_cidr(s) {
            Some((o, m)) => Val::Bool(m >= n && inside(o)),
            None => {
                return Some(other(format!(
                    "network address parse error during conversion from string: {s:?}"
                )));
            }
        },
        ("prefixLength", []) => Val::Int(i64::from(n)),
        ("ip", []) => Val::Ip(ip),
        ("masked", []) => {
            let all = masked(ip, n);
            let ip = if ip.is_ipv4() {
                IpAddr::V4(u32::try_from(all >> 96).unwrap_or_default().into())
            } else {
                IpAddr::V6(all.into())
            };
            Val::Cidr(ip, n)
        }
        _ => return None,
    }))
}

/// An absolute URL, or an absolute path.
fn is_url(s: &str) -> bool {
    if s.contains(|c: char| c.is_control() || c == ' ') {
        return false;
    }
    if s.starts_with('/') {
        return true;
    }
    let Some((scheme, _)) = s.split_once("://") else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

fn url_part<'a>(name: &str, url: &str) -> Option<Outcome<'a>> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = if scheme.is_empty() { ("", rest) } else { rest.split_at(end) };
    let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    let (hostname, port) = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((six, rest)) => (six, rest.trim_start_matches(':')),
        None => host.split_once(':').unwrap_or((host, "")),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let text = |s: &str| Some(Ok(Val::text(s)));
    match name {
        "getScheme" => text(scheme),
        "getHost" => text(host),
        "getHostname" => text(hostname),
        "getPort" => text(port),
        "getEscapedPath" => text(path),
        "getQuery" => {
            let mut all: Vec<(Val<'a>, Vec<Val<'a>>)> = Vec::new();
            for pair in query.split('&').filter(|p| !p.is_empty()) {
                let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
                let (k, v) = (Val::text(unquote(k)), Val::text(unquote(v)));
                match all.iter_mut().find(|(known, _)| known.equals(&k)) {
                    Some((_, list)) => list.push(v),
                    None => all.push((k, vec![v])),
                }
            }
            Some(Ok(Val::Map(Arc::new(all.into_iter().map(|(k, v)| (k, Val::list(v))).collect()))))
        }
        _ => None,
    }
}

fn unquote(s: &str) -> String {
    let bytes = s.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        let hex = s.get(i + 1..i + 3).filter(|_| bytes[i] == b'%');
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(b) => {
                out.push(b);
                i += 3;
            }
            None => {
                out.push(if bytes[i] == b'+' { b' ' } else { bytes[i] });
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What is wrong with a text, as an optional list of sentences.
fn validate<'a>(format: &str, s: &str) -> Val<'a> {
    let prefix =
        |rule: fn(&str) -> Option<&'static str>| rule(&format!("{}x", s.trim_end_matches('-')));
    let why = match format {
        "dns1123Label" => names::label(s).map(str::to_owned),
        "dns1123Subdomain" => names::subdomain(s).map(str::to_owned),
        "dns1035Label" => names::label_1035(s).map(str::to_owned),
        "qualifiedName" => names::qualified(s).map(str::to_owned),
        "labelValue" => names::label_value(s).map(str::to_owned),
        "dns1123LabelPrefix" => prefix(names::label).map(str::to_owned),
        "dns1123SubdomainPrefix" => prefix(names::subdomain).map(str::to_owned),
        "dns1035LabelPrefix" => prefix(names::label_1035).map(str::to_owned),
        "datetime" => {
            (!crate::custom::has_format("date-time", s)).then(|| "invalid datetime".to_owned())
        }
        f => (!crate::custom::has_format(f, s)).then(|| format!("invalid {f}")),
    };
    Val::Optional(why.map(|w| Arc::new(Val::list(vec![Val::text(w)]))))
}

/// A version in the form of semver.org.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    before: Vec<String>,
    build: String,
}

impl Semver {
    /// `lenient` lets a leading `v` and missing numbers pass.
    fn parse(s: &str, lenient: bool) -> Option<Semver> {
        let s = if lenient { s.strip_prefix('v').unwrap_or(s) } else { s };
        let (s, build) = s.split_once('+').unwrap_or((s, ""));
        let (core, before) = match s.split_once('-') {
            Some((core, before)) if !before.is_empty() => {
                (core, before.split('.').map(str::to_owned).collect())
            }
            Some(_) => return None,
            None => (s, Vec::new()),
        };
        let mut numbers = [0; 3];
        let parts: Vec<&str> = core.split('.').collect();
        if parts.len() > 3 || parts.len() < 3 && !lenient {
            return None;
        }
        for (n, p) in numbers.iter_mut().zip(&parts) {
            let plain = !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
            if !plain || p.len() > 1 && p.starts_with('0') && !lenient {
                return None;
            }
            *n = p.parse().ok()?;
        }
        let word =
            |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let words =
            before.iter().all(|w| word(w)) && (build.is_empty() || build.split('.').all(word));
        words.then(|| Semver { numbers, before, build: build.to_owned() })
    }

    /// The order of precedence; builds do not matter.
    pub(super) fn compare(&self, other: &Semver) -> Ordering {
        let word = |a: &String, b: &String| match (a.parse::<u64>(), b.parse::<u64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            _ => a.cmp(b),
        };
        self.numbers.cmp(&other.numbers).then_with(|| {
            match (self.before.is_empty(), other.before.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                _ => {
                    let first = self
                        .before
                        .iter()
                        .zip(&other.before)
                        .map(|(a, b)| word(a, b))
                        .find(|o| o.is_ne());
                    first.unwrap_or_else(|| self.before.len().cmp(&other.before.len()))
                }
            }
        })
    }
}

impl std::fmt::Display for Semver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c] = self.numbers;
        write!(f, "{a}.{b}.{c}")?;
        if !self.before.is_empty() {
            write!(f, "-{}", self.before.join("."))?;
        }
        if self.build.is_empty() { Ok(()) } else { write!(f, "+{}", self.build) }
    }
}

fn made_semver<'a>(s: &str, lenient: bool) -> Outcome<'a> {
    match Semver::parse(s, lenient) {
        Some(v) => Ok(Val::Semver(Arc::new(v))),
        None => other(format!("semver parse error during conversion from string: {s:?}")),
    }
}

fn semver<'a>(name: &str, s: &Semver, rest: &[Val<'a>]) -> Option<Outcome<'a>> {
    let number = |i: usize| Some(Ok(Val::Int(i64::try_from(s.numbers[i]).unwrap_or(i64::MAX))));
    match (name, rest) {
        ("major", []) => number(0),
        ("minor", []) => number(1),
        ("patch", []) => number(2),
        ("isLessThan", [Val::Semver(o)]) => Some(Ok(Val::Bool(s.compare(o).is_lt()))),
        ("isGreaterThan", [Val::Semver(o)]) => Some(Ok(Val::Bool(s.compare(o).is_gt()))),
        ("compareTo", [Val::Semver(o)]) => Some(Ok(Val::Int(s.compare(o) as i64))),
        _ => None,
    }
}

fn check<'a>(
    m: &mut Machine<'_, 'a>,
    name: &str,
    c: &Check,
    rest: &[Val<'a>],
) -> Option<Outcome<'a>> {
    let mut next = c.clone();
    match (name, rest) {
        ("path", [Val::Str(s)]) => next.path = Some(s.to_string()),
        ("group", [Val::Str(s)]) => next.group = s.to_string(),
        ("resource", [Val::Str(s)]) => next.resource = Some(s.to_string()),
        ("subresource", [Val::Str(s)]) => next.subresource = s.to_string(),
        ("namespace", [Val::Str(s)]) => next.namespace = s.to_string(),
        ("name", [Val::Str(s)]) => next.name = s.to_string(),
        // Roles know no selectors: whoever may list some may list all.
        ("fieldSelector" | "labelSelector", [Val::Str(_)]) if c.resource.is_some() => {}
        ("serviceAccount", [Val::Str(ns), Val::Str(s)]) => {
            next.account = Some((ns.to_string(), s.to_string()));
        }
        ("check", [Val::Str(verb)]) => {
            next.verb = verb.to_string();
            // As much as the reference server asks for one question.
            if let Err(e) = m.pay(350_000) {
                return Some(Err(e));
            }
            let (allowed, why) = m.authority()?.allows(&next);
            return Some(Ok(Val::Decision(allowed, Arc::from(why))));
        }
        _ => return None,
    }
    Some(Ok(Val::Check(Arc::new(next))))
}

fn math<'a>(name: &str, args: &[Val<'a>]) -> Option<Outcome<'a>> {
    let flat = match args {
        [one] => one.elements().unwrap_or_else(|| vec![one.clone()]),
        many => many.to_vec(),
    };
    let wanted = match name {
        "math.greatest" => Ordering::Greater,
        "math.least" => Ordering::Less,
        _ => {
            return match (name, args) {
                ("math.abs", [Val::Int(n)]) => Some(
                    n.checked_abs().map_or_else(|| other("integer overflow"), |n| Ok(Val::Int(n))),
                ),
                ("math.abs", [Val::Double(n)]) => Some(Ok(Val::Double(n.abs()))),
                ("math.ceil", [Val::Double(n)]) => Some(Ok(Val::Double(n.ceil()))),
                ("math.floor", [Val::Double(n)]) => Some(Ok(Val::Double(n.floor()))),
                ("math.round", [Val::Double(n)]) => Some(Ok(Val::Double(n.round()))),
                ("math.trunc", [Val::Double(n)]) => Some(Ok(Val::Double(n.trunc()))),
                ("math.sign", [Val::Int(n)]) => Some(Ok(Val::Int(n.signum()))),
                _ => None,
            };
        }
    };
    let mut best: Option<Val<'a>> = None;
    for v in flat {
        match &best {
            None => best = Some(v),
            Some(b) => match v.compare(b) {
                Ok(Some(o)) if o == wanted => best = Some(v),
                Ok(_) => {}
                Err(e) => return Some(Err(e)),
            },
        }
    }
    best.map(Ok)
}
