//! Medians of work done in turn, bounded by rounds and by time.

use std::time::{Duration, Instant};

/// How long one subject may be measured.
const LIMIT: Duration = Duration::from_secs(60);

/// One contender: a name and the work that is timed.
pub(crate) struct Contender<'a> {
    pub(crate) who: &'static str,
    pub(crate) work: Box<dyn Fn() + 'a>,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(who: &'static str, work: impl Fn() + 'a) -> Contender<'a> {
        Contender { who, work: Box::new(work) }
    }
}

/// Median milliseconds of each contender, in their order. They take turns, so that a noisy moment
/// of the machine meets all of them. The first round of each warms up and does not count.
pub(crate) fn race(rounds: usize, contenders: &[Contender<'_>]) -> Vec<(&'static str, f64)> {
    let mut times = vec![Vec::with_capacity(rounds); contenders.len()];
    contenders.iter().for_each(|c| (c.work)());
    let begin = Instant::now();
    for _ in 0..rounds {
        for (contender, times) in contenders.iter().zip(&mut times) {
            times.push(milliseconds(&contender.work));
        }
        if begin.elapsed() > LIMIT {
            break;
        }
    }
    contenders.iter().zip(times).map(|(c, times)| (c.who, median(times))).collect()
}

/// How long `work` takes.
pub(crate) fn milliseconds(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64() * 1e3
}

/// The middle value; NaN of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// The figure of one contender.
pub(crate) fn of(results: &[(&'static str, f64)], who: &str) -> Option<f64> {
    results.iter().find(|(name, _)| *name == who).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn contenders_take_turns() {
        let count = std::cell::Cell::new(0);
        let results = race(3, &[Contender::new("a", || count.set(count.get() + 1))]);
        assert_eq!((count.get(), results[0].0), (4, "a"));
    }
}
