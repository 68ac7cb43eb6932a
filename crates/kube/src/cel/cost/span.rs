//! Ranges of sizes and costs, which end at the largest number rather than beyond it.

/// At least and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) min: u64,
    pub(super) max: u64,
}

impl Span {
    /// Nothing is known.
    pub(super) const ANY: Span = Span { min: 0, max: u64::MAX };

    pub(super) const fn of(n: u64) -> Span {
        Span { min: n, max: n }
    }

    pub(super) fn plus(self, o: Span) -> Span {
        Span { min: self.min.saturating_add(o.min), max: self.max.saturating_add(o.max) }
    }

    pub(super) fn times(self, o: Span) -> Span {
        Span { min: self.min.saturating_mul(o.min), max: self.max.saturating_mul(o.max) }
    }

    /// So much for each, rounded up.
    pub(super) fn each(self, factor: f64) -> Span {
        Span { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }

    pub(super) fn union(self, o: Span) -> Span {
        Span { min: self.min.min(o.min), max: self.max.max(o.max) }
    }

    /// From the least of this to the most of the other.
    pub(super) fn upto(self, o: Span) -> Span {
        Span { min: self.min, max: o.max }
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "computed in doubles by the reference server; what is too large becomes the largest number"
)]
fn scaled(n: u64, factor: f64) -> u64 {
    (n as f64 * factor).ceil() as u64
}
