//! What operators and functions cost, by the sizes of what they are given.

use super::{Binary, Part, Span, Ty, Walk};

/// For each byte of a text that is gone through.
const TEXT: f64 = 0.1;
/// For each byte of a pattern.
const PATTERN: f64 = 0.25;
/// What one question to the authorizer costs: a rule has room for two.
const CHECK: u64 = 350_000;

fn text(size: Span) -> Span {
    size.each(TEXT)
}

/// Going through a text with a pattern. An empty text still costs the pattern.
fn searched(s: Span, pattern: Span) -> Span {
    text(s.plus(Span::of(1))).times(pattern.each(PATTERN))
}

fn kinds(ty: &Ty<'_>) -> (bool, bool, bool) {
    let any = matches!(ty, Ty::Dyn);
    (
        any || matches!(ty, Ty::Str | Ty::Bytes),
        any || matches!(ty, Ty::List(_)),
        any || !matches!(ty, Ty::Str | Ty::Bytes | Ty::List(_)),
    )
}

pub(super) fn binary<'a>(op: Binary, a: &Part<'a>, b: &Part<'a>) -> Part<'a> {
    let given = a.cost.plus(b.cost);
    let one = Span::of(1);
    match op {
        Binary::And | Binary::Or => Part::new(a.cost.upto(given), Ty::Bool),
        Binary::Equal | Binary::Unequal => Part::new(given.plus(equality(op, a, b)), Ty::Bool),
        Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
            let (texts, lists, others) = both(a, b);
            let mut own: Option<Span> = None;
            if texts {
                own = Some(compared(a, b));
            }
            if others || lists || own.is_none() {
                own = Some(own.map_or(one, |o| o.union(one)));
            }
            Part::new(given.plus(own.unwrap_or(one)), Ty::Bool)
        }
        Binary::In => {
            let list = b.size().each(1.0);
            let own = match b.ty {
                Ty::List(_) => list,
                Ty::Dyn => list.union(one),
                _ => one,
            };
            Part::new(given.plus(own), Ty::Bool)
        }
        Binary::Add => add(a, b, given),
        Binary::Subtract | Binary::Multiply | Binary::Divide | Binary::Modulo => {
            let ty = match (op, &a.ty, &b.ty) {
                (Binary::Subtract, Ty::Timestamp, Ty::Timestamp) => Ty::Duration,
                (_, Ty::Dyn, ty) | (_, ty, _) => ty.clone(),
            };
            Part::new(given.plus(one), ty)
        }
    }
}

/// Which overloads two operands may mean: of texts, of lists, of anything else.
fn both(a: &Part<'_>, b: &Part<'_>) -> (bool, bool, bool) {
    let (a, b) = (kinds(&a.ty), kinds(&b.ty));
    (a.0 && b.0, a.1 && b.1, a.2 && b.2)
}

fn compared(a: &Part<'_>, b: &Part<'_>) -> Span {
    let max = a.size().max.min(b.size().max);
    text(Span { min: u64::from(max > 0), max })
}

fn equality(op: Binary, a: &Part<'_>, b: &Part<'_>) -> Span {
    // Of `!=` on these types the reference server has no estimate of its own.
    if let (Binary::Equal, Ty::Named(x), Ty::Named(y)) = (op, &a.ty, &b.ty)
        && x == y
    {
        return match *x {
            "kubernetes.URL" => text(Span { min: 1, max: b.size.map_or(1, |s| s.max) }),
            "kubernetes.NamedFormat" => text(Span { min: 1, max: 64 }),
            _ => Span::of(1),
        };
    }
    compared(a, b)
}

fn add<'a>(a: &Part<'a>, b: &Part<'a>, given: Span) -> Part<'a> {
    let (texts, lists, others) = both(a, b);
    let size = a.size().plus(b.size());
    let mut own: Option<Span> = None;
    let mut also = |cost: Span| own = Some(own.map_or(cost, |o: Span| o.union(cost)));
    if texts {
        also(text(size));
    }
    if lists || others {
        also(Span::of(1));
    }
    let ty = match (&a.ty, &b.ty) {
        (Ty::Timestamp, _) | (_, Ty::Timestamp) => Ty::Timestamp,
        (Ty::Dyn, ty) | (ty, _) => ty.clone(),
    };
    let part = Part::new(given.plus(own.unwrap_or(Span::of(1))), ty);
    if !texts && !lists {
        return part;
    }
    let entry = a.entry.zip(b.entry).map(|(a, b)| a.union(b));
    Part { entry, ..part.sized(Some(size)) }
}

/// A function with what it is called on and with.
pub(super) struct Called<'s, 'a> {
    pub(super) name: &'s str,
    pub(super) target: Option<&'s Part<'a>>,
    pub(super) args: &'s [Part<'a>],
    /// The second argument, where it is a number.
    pub(super) limit: Option<u64>,
}

impl<'a> Called<'_, 'a> {
    fn target(&self) -> Span {
        self.target.map_or(Span::ANY, Part::size)
    }

    fn arg(&self, i: usize) -> Span {
        self.args.get(i).map_or(Span::ANY, Part::size)
    }

    /// What the call costs beside its arguments, and the size of what it gives.
    pub(super) fn cost(&self, walk: &Walk<'a>) -> (Span, Option<Span>) {
        let own = |cost: Span| (cost, None);
        match self.name {
            "check" => own(Span::of(CHECK)),
            "fieldSelector" | "labelSelector" => own(selector(self.arg(0))),
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
                own(self.traversal(walk))
            }
            "url" | "jsonpatch.escapeKey" => (text(self.arg(0)), Some(self.arg(0))),
            "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                (text(self.target()), Some(self.target()))
            }
            "replace" => (self.target().each(2.0 * TEXT), Some(self.replaced())),
            "split" => {
                let max = self.limit.unwrap_or(self.target().max);
                (self.target().each(2.0 * TEXT), Some(Span { min: 0, max }))
            }
            "join" => {
                let size = self.joined(walk);
                (text(size), Some(size))
            }
            "find" | "findAll" => {
                let found = Span { min: 0, max: self.target().max };
                (searched(self.target(), self.arg(0)), Some(found))
            }
            "matches" => own(match self.target {
                Some(t) => searched(t.size(), self.arg(0)),
                None => Span::of(1),
            }),
            "contains" => own(text(self.target()).times(text(self.arg(0)))),
            "startsWith" | "endsWith" => own(text(self.arg(0))),
            "format" => own(text(self.target())),
            "ip" if self.target.is_some() => own(Span::of(1)),
            "ip" | "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver"
            | "isSemver" => own(text(self.arg(0))),
            "ip.isCanonical" => own(self.arg(0).each(2.0 * TEXT)),
            "containsIP" => own(self.contained(Span::of(0))),
            "containsCIDR" => {
                let mask = text(ADDRESS).plus(Span::of(1));
                own(self.contained(mask))
            }
            "validate" => own(text(self.arg(0)).each(128.0 * PATTERN)),
            "strings.quote" => {
                let s = self.arg(0);
                let quoted = Span {
                    min: s.min.saturating_add(2),
                    max: s.max.saturating_mul(2).saturating_add(2),
                };
                (text(s), Some(quoted))
            }
            "bytes" | "string" => self.converted(),
            _ => own(Span::of(1)),
        }
    }

    /// Between texts and bytes, both of which are gone through.
    fn converted(&self) -> (Span, Option<Span>) {
        let s = self.arg(0);
        let to_bytes = self.name == "bytes";
        let size = if to_bytes {
            Span { min: s.min, max: s.max.saturating_mul(4) }
        } else {
            Span { min: s.min / 4, max: s.max }
        };
        match self.args.first().map(|a| &a.ty) {
            Some(Ty::Str) if to_bytes => (text(s), Some(size)),
            Some(Ty::Bytes) if !to_bytes => (text(s), Some(size)),
            Some(Ty::Dyn) => (text(s).union(Span::of(1)), Some(size)),
            _ => (Span::of(1), None),
        }
    }

    /// The size of an element of a list, and whether it is a text.
    fn element(&self, walk: &Walk<'a>) -> Option<(Span, bool)> {
        let list = self.target?;
        let Ty::List(item) = &list.ty else { return None };
        let texts = matches!(**item, Ty::Str | Ty::Bytes);
        let size = match (list.path, walk.below(list)) {
            (super::Path::At(_), super::Path::At(decl)) => Span { min: 0, max: decl.most() },
            _ => Span::ANY,
        };
        Some((size, texts))
    }

    /// Going through a list with its texts, or through a text.
    fn traversal(&self, walk: &Walk<'a>) -> Span {
        if self.target.is_none() {
            return Span::of(1);
        }
        match self.element(walk) {
            Some((size, true)) => self.target().times(text(size).plus(Span::of(1))),
            Some((_, false)) => self.target(),
            None => text(self.target()),
        }
    }

    fn joined(&self, walk: &Walk<'a>) -> Span {
        let count = self.target();
        let item = self.element(walk).map_or(Span::of(0), |(size, _)| count.times(size));
        if self.args.is_empty() {
            return item;
        }
        let between = Span { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
        item.plus(self.arg(0).times(between))
    }

    /// The size of a text in which another was replaced: as often as possible by the longest, and the contrary.
    fn replaced(&self) -> Span {
        let (s, old, new) = (self.target(), self.arg(0), self.arg(1));
        let parts = |s: u64, old: u64| s.div_ceil(old.max(1));
        let most = if old.min == 0 {
            s.max.saturating_add(1).saturating_mul(new.max).saturating_add(s.max)
        } else if new.max <= old.min {
            s.max
        } else {
            parts(s.max, old.min).saturating_mul(new.max)
        };
        let least = if old.max == 0 {
            s.min.saturating_add(1).saturating_mul(new.min).saturating_add(s.min)
        } else if old.max <= new.min {
            s.min
        } else {
            parts(s.min, old.max).saturating_mul(new.min)
        };
        Span { min: least, max: most }
    }

    /// Comparing addresses; a text is read before.
    fn contained(&self, more: Span) -> Span {
        let own = text(ADDRESS.plus(ADDRESS)).plus(more);
        let read = own.plus(text(self.arg(0)));
        match self.args.first().map(|a| &a.ty) {
            Some(Ty::Str) => read,
            Some(Ty::Dyn) => own.union(read),
            _ => own,
        }
    }

    /// Of what type the outcome is, as far as it matters for what is done with it.
    pub(super) fn ty(&self) -> Ty<'a> {
        let texts = || Ty::List(Box::new(Ty::Str));
        let own = self.target.map_or(Ty::Dyn, |t| t.ty.clone());
        let first = self.args.first().map_or(Ty::Dyn, |a| a.ty.clone());
        match self.name {
            "size" | "int" | "indexOf" | "lastIndexOf" | "family" | "prefixLength" | "sign"
            | "asInteger" | "compareTo" | "major" | "minor" | "patch" | "getFullYear"
            | "getMonth" | "getDate" | "getDayOfMonth" | "getDayOfWeek" | "getDayOfYear"
            | "getHours" | "getMinutes" | "getSeconds" | "getMilliseconds" => Ty::Int,
            "double" | "asApproximateFloat" => Ty::Double,
            "uint" => Ty::Uint,
            "bytes" => Ty::Bytes,
            "duration" => Ty::Duration,
            "timestamp" => Ty::Timestamp,
            "string"
            | "charAt"
            | "find"
            | "format"
            | "join"
            | "lowerAscii"
            | "upperAscii"
            | "replace"
            | "substring"
            | "trim"
            | "strings.quote"
            | "jsonpatch.escapeKey"
            | "getScheme"
            | "getHost"
            | "getHostname"
            | "getPort"
            | "getEscapedPath"
            | "reason"
            | "error" => Ty::Str,
            "split" | "findAll" => texts(),
            "getQuery" => Ty::Map(Box::new(texts())),
            "url" => Ty::Named("kubernetes.URL"),
            "quantity" | "add" | "sub" => Ty::Named("kubernetes.Quantity"),
            "ip" => Ty::Named("net.IP"),
            "cidr" | "masked" => Ty::Named("net.CIDR"),
            "semver" => Ty::Named("kubernetes.Semver"),
            "lists.range" => Ty::List(Box::new(Ty::Int)),
            "optional.of" | "optional.ofNonZeroValue" => Ty::Optional(Box::new(first)),
            "optional.none" => Ty::Optional(Box::new(Ty::Dyn)),
            "format.named" => Ty::Optional(Box::new(Ty::Named("kubernetes.NamedFormat"))),
            "validate" => Ty::Optional(Box::new(texts())),
            "or" | "distinct" | "sort" | "slice" | "reverse" | "flatten" => own,
            "value" | "orValue" => match own {
                Ty::Optional(t) => *t,
                _ => Ty::Dyn,
            },
            "min" | "max" | "sum" => match own {
                Ty::List(t) => *t,
                _ => Ty::Dyn,
            },
            "first" | "last" => match own {
                Ty::List(t) => Ty::Optional(t),
                _ => Ty::Dyn,
            },
            name if name.starts_with("format.") => Ty::Named("kubernetes.NamedFormat"),
            name if IS.contains(&name) => Ty::Bool,
            _ => Ty::Dyn,
        }
    }
}

/// Functions that answer yes or no.
const IS: &[&str] = &[
    "bool",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "hasValue",
    "isSorted",
    "isURL",
    "isQuantity",
    "isIP",
    "isCIDR",
    "isSemver",
    "isInteger",
    "isLessThan",
    "isGreaterThan",
    "ip.isCanonical",
    "isUnspecified",
    "isLoopback",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isGlobalUnicast",
    "containsIP",
    "containsCIDR",
    "allowed",
    "errored",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
];

/// Bytes of an address.
const ADDRESS: Span = Span { min: 4, max: 16 };

/// Reading a selector: its text, and a list and an object for each requirement, of which each has two characters.
fn selector(length: Span) -> Span {
    Span::of(10).plus(text(length)).plus(length.each(0.5).each(50.0))
}
