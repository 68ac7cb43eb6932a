//! Delays between attempts: doubling, bounded, optionally jittered.

use std::time::Duration;

/// An exponential series of delays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first`, doubles on each call of [`Backoff::step`], never exceeds `max`.
    pub const fn new(first: Duration, max: Duration) -> Backoff {
        Backoff { first, max, next: first }
    }

    /// The delay to wait now; the following one is twice as long.
    pub fn step(&mut self) -> Duration {
        let now = self.next.min(self.max);
        self.next = (now * 2).min(self.max);
        now
    }

    /// Like [`Backoff::step`], spread evenly over the upper half of the delay so that many
    /// clients which failed together do not come back together.
    pub fn step_jittered(&mut self) -> Duration {
        let full = self.step();
        let mut byte = [0u8; 1];
        // Without entropy the delay is merely not spread.
        if getrandom::fill(&mut byte).is_err() {
            return full;
        }
        full / 2 + full * u32::from(byte[0]) / 512
    }

    /// Back to the first delay.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_bound() {
        let mut b = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let seen: Vec<_> = (0..4).map(|_| b.step().as_millis()).collect();
        assert_eq!(seen, [100, 200, 350, 350]);
        b.reset();
        assert_eq!(b.step().as_millis(), 100);
    }

    #[test]
    fn jitter_stays_in_the_upper_half() {
        for _ in 0..64 {
            let mut b = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
            let d = b.step_jittered();
            assert!((50..=100).contains(&d.as_millis()), "{d:?}");
        }
    }
}
