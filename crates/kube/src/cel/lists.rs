//! Functions of lists, sets and optionals.

use super::eval::Machine;
use super::value::Val;
use super::{EvalError, strings};
use std::cmp::Ordering;
use std::sync::Arc;

type Outcome<'a> = Result<Val<'a>, EvalError>;

fn other<'a>(why: impl Into<String>) -> Outcome<'a> {
    Err(EvalError::Other(why.into()))
}

/// Elements that an expression may make out of nothing.
const MOST: i64 = 10_000;

/// Calls a function of this library; nothing where it has none of this name for these values.
pub(super) fn call<'a>(
    m: &mut Machine<'_, 'a>,
    name: &str,
    method: bool,
    args: &[Val<'a>],
) -> Option<Outcome<'a>> {
    if let Some(out) = optional(name, args) {
        return Some(out);
    }
    match (name, args) {
        ("size", [v]) => v.size().map(|n| Ok(int(n))),
        ("lists.range", [n]) => Some(match n.as_int() {
            Ok(n) if n > MOST => other(format!("lists.range: at most {MOST} elements")),
            Ok(n) => Ok(Val::list((0..n.max(0)).map(Val::Int).collect())),
            Err(e) => Err(e),
        }),
        ("sets.contains", [a, b]) => Some(
            sets(m, a, b).map(|(a, b)| Val::Bool(b.iter().all(|v| a.iter().any(|w| w.equals(v))))),
        ),
        ("sets.intersects", [a, b]) => Some(
            sets(m, a, b).map(|(a, b)| Val::Bool(b.iter().any(|v| a.iter().any(|w| w.equals(v))))),
        ),
        ("sets.equivalent", [a, b]) => Some(sets(m, a, b).map(|(a, b)| {
            let within =
                |a: &[Val<'a>], b: &[Val<'a>]| a.iter().all(|v| b.iter().any(|w| w.equals(v)));
            Val::Bool(within(&a, &b) && within(&b, &a))
        })),
        (_, [list, rest @ ..]) if method => {
            let list = list.elements()?;
            on_list(m, name, list, rest).transpose()
        }
        _ => None,
    }
}

fn int<'a>(n: usize) -> Val<'a> {
    Val::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

type Two<'a> = (Vec<Val<'a>>, Vec<Val<'a>>);

fn sets<'a>(m: &mut Machine<'_, 'a>, a: &Val<'a>, b: &Val<'a>) -> Result<Two<'a>, EvalError> {
    let (Some(a), Some(b)) = (a.elements(), b.elements()) else { return Err(EvalError::Overload) };
    m.pay(a.len().saturating_mul(b.len()))?;
    Ok((a, b))
}

fn on_list<'a>(
    m: &mut Machine<'_, 'a>,
    name: &str,
    list: Vec<Val<'a>>,
    rest: &[Val<'a>],
) -> Result<Option<Val<'a>>, EvalError> {
    m.pay(list.len())?;
    let position = |found: Option<usize>| found.map_or(Val::Int(-1), int);
    Ok(Some(match (name, rest) {
        ("isSorted", []) => {
            let mut sorted = true;
            for w in list.windows(2) {
                sorted &= w[0].compare(&w[1])?.is_some_and(Ordering::is_le);
            }
            Val::Bool(sorted)
        }
        ("sum", []) => sum(&list)?,
        ("min", []) => extreme(list, Ordering::is_lt, "min")?,
        ("max", []) => extreme(list, Ordering::is_gt, "max")?,
        ("indexOf", [v]) => position(list.iter().position(|w| w.equals(v))),
        ("lastIndexOf", [v]) => position(list.iter().rposition(|w| w.equals(v))),
        ("distinct", []) => {
            m.pay(list.len().saturating_mul(list.len()) / 2)?;
            let mut out: Vec<Val<'a>> = Vec::new();
            for v in list {
                if !out.iter().any(|w| w.equals(&v)) {
                    out.push(v);
                }
            }
            Val::list(out)
        }
        ("sort", []) => {
            m.pay(list.len() * 4)?;
            sort_by_key(list.into_iter().map(|v| (v.clone(), v)).collect())?
        }
        ("reverse", []) => Val::list(list.into_iter().rev().collect()),
        ("slice", [from, to]) => {
            let (from, to) = (from.as_int()?, to.as_int()?);
            let bounds = usize::try_from(from).ok().zip(usize::try_from(to).ok());
            match bounds.filter(|(f, t)| f <= t && *t <= list.len()) {
                Some((from, to)) => Val::list(list[from..to].to_vec()),
                None => {
                    return other(format!(
                        "cannot slice({from}, {to}), list is length {}",
                        list.len()
                    ))
                    .map(Some);
                }
            }
        }
        ("flatten", []) => Val::list(flatten(list, 1)),
        ("flatten", [depth]) => Val::list(flatten(list, depth.as_int()?.clamp(0, 16))),
        ("first", []) => Val::Optional(list.into_iter().next().map(Arc::new)),
        ("last", []) => Val::Optional(list.into_iter().next_back().map(Arc::new)),
        ("join", []) => strings::join(m, &list, "")?,
        ("join", [by]) => strings::join(m, &list, by.as_text()?)?,
        _ => return Ok(None),
    }))
}

fn flatten(list: Vec<Val<'_>>, depth: i64) -> Vec<Val<'_>> {
    let mut out = Vec::new();
    for v in list {
        match v.elements() {
            Some(inner) if depth > 0 => out.extend(flatten(inner, depth - 1)),
            _ => out.push(v),
        }
    }
    out
}

fn sum<'a>(list: &[Val<'a>]) -> Outcome<'a> {
    let mut all = list.iter();
    let Some(mut out) = all.next().cloned() else { return Ok(Val::Int(0)) };
    for v in all {
        out = match (out, v) {
            (Val::Int(a), Val::Int(b)) => a
                .checked_add(*b)
                .map(Val::Int)
                .ok_or_else(|| EvalError::Other("integer overflow".into()))?,
            (Val::Uint(a), Val::Uint(b)) => a
                .checked_add(*b)
                .map(Val::Uint)
                .ok_or_else(|| EvalError::Other("unsigned integer overflow".into()))?,
            (Val::Double(a), Val::Double(b)) => Val::Double(a + b),
            (Val::Duration(a), Val::Duration(b)) => a
                .checked_add(*b)
                .map(Val::Duration)
                .ok_or_else(|| EvalError::Other("integer overflow".into()))?,
            _ => return Err(EvalError::Overload),
        };
    }
    Ok(out)
}

fn extreme<'a>(list: Vec<Val<'a>>, better: fn(Ordering) -> bool, name: &str) -> Outcome<'a> {
    let mut all = list.into_iter();
    let Some(mut out) = all.next() else { return other(format!("{name} called on empty list")) };
    for v in all {
        if v.compare(&out)?.is_some_and(better) {
            out = v;
        }
    }
    Ok(out)
}

/// Sorts values by their keys; keys that cannot be compared are an error.
pub(super) fn sort_by_key<'a>(mut keyed: Vec<(Val<'a>, Val<'a>)>) -> Outcome<'a> {
    let mut failed = false;
    keyed.sort_by(|a, b| match a.0.compare(&b.0) {
        Ok(order) => order.unwrap_or(Ordering::Equal),
        Err(_) => {
            failed = true;
            Ordering::Equal
        }
    });
    if failed {
        Err(EvalError::Overload)
    } else {
        Ok(Val::list(keyed.into_iter().map(|(_, v)| v).collect()))
    }
}

fn optional<'a>(name: &str, args: &[Val<'a>]) -> Option<Outcome<'a>> {
    Some(Ok(match (name, args) {
        ("optional.none", []) => Val::Optional(None),
        ("optional.of", [v]) => Val::Optional(Some(Arc::new(v.clone()))),
        ("optional.ofNonZeroValue", [v]) => {
            let zero = match v {
                Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) | Val::Duration(0) => {
                    true
                }
                Val::Double(d) => *d == 0.0,
                v => v.size() == Some(0),
            };
            Val::Optional((!zero).then(|| Arc::new(v.clone())))
        }
        ("optional.unwrap" | "unwrapOpt", [list]) => {
            let mut out = Vec::new();
            for v in list.elements()? {
                match v {
                    Val::Optional(v) => out.extend(v.map(|v| (*v).clone())),
                    _ => return Some(Err(EvalError::Overload)),
                }
            }
            Val::list(out)
        }
        ("hasValue", [Val::Optional(v)]) => Val::Bool(v.is_some()),
        ("value", [Val::Optional(v)]) => match v {
            Some(v) => (**v).clone(),
            None => return Some(other("optional.none() dereference")),
        },
        ("orValue", [Val::Optional(v), fallback]) => {
            v.as_ref().map_or_else(|| fallback.clone(), |v| (**v).clone())
        }
        ("or", [Val::Optional(v), fallback]) => {
            if v.is_some() {
                Val::Optional(v.clone())
            } else {
                fallback.clone()
            }
        }
        _ => return None,
    }))
}
