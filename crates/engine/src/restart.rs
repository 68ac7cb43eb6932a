//! Restart policies: whether a container that ended starts again, and after how long.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wharf_base::backoff::Backoff;

use crate::error::{EngineError, Result};

const FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
pub(crate) const MAX: Duration = Duration::from_secs(60);
/// A run this long counts as healthy: the next failure starts again from the first delay.
const STABLE: Duration = Duration::from_secs(10);

/// When a container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Policy {
    /// Never.
    #[default]
    No,
    /// Whenever it ends, until someone stops it; and again when the daemon starts.
    Always,
    /// As `Always`, but a stop holds across daemon restarts.
    UnlessStopped,
    /// When it ends with a status other than 0, at most `max` times (0: without limit).
    OnFailure {
        /// Attempts; 0 is no limit.
        max: u32,
    },
}

impl Policy {
    /// Reads the policy of a request, with Docker's texts for what is wrong.
    pub fn parse(name: &str, max: i64) -> Result<Policy> {
        let no_count = |policy| match max {
            0 => Ok(policy),
            _ => Err(EngineError::invalid(format!(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'{}",
                if max < 0 { " and cannot be negative" } else { "" }
            ))),
        };
        match name {
            "" | "no" => no_count(Policy::No),
            "always" => no_count(Policy::Always),
            "unless-stopped" => no_count(Policy::UnlessStopped),
            "on-failure" => u32::try_from(max).map(|max| Policy::OnFailure { max }).map_err(|_| {
                EngineError::invalid(
                    "invalid restart policy: maximum retry count cannot be negative",
                )
            }),
            other => Err(EngineError::invalid(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', \
                 'on-failure', or 'unless-stopped'"
            ))),
        }
    }

    /// True if the policy ever restarts anything.
    pub fn is_active(self) -> bool {
        self != Policy::No
    }

    /// True if a container that `stopped_by_user` should run after the daemon starts.
    pub fn starts_with_daemon(self, stopped_by_user: bool, exit_code: i32, count: u32) -> bool {
        match self {
            Policy::No => false,
            Policy::Always => true,
            Policy::UnlessStopped => !stopped_by_user,
            Policy::OnFailure { max } => {
                !stopped_by_user && exit_code != 0 && (max == 0 || count < max)
            }
        }
    }
}

/// The course of one container's restarts.
#[derive(Clone, Debug)]
pub struct Restarts {
    backoff: Backoff,
    count: u32,
}

impl Restarts {
    /// No restart yet.
    pub const fn new() -> Restarts {
        Restarts { backoff: Backoff::new(FIRST, MAX), count: 0 }
    }

    /// Goes on from `count` restarts that an earlier daemon made.
    pub const fn resumed(count: u32) -> Restarts {
        Restarts { backoff: Backoff::new(FIRST, MAX), count }
    }

    /// How often it was restarted since it was last started by hand.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Decides about a container that ran for `ran` and ended with `code`. `Some`: start it again
    /// after this delay. `stopped`: a user asked for the end.
    pub fn after_exit(
        &mut self,
        policy: Policy,
        code: i32,
        ran: Duration,
        stopped: bool,
    ) -> Option<Duration> {
        if ran >= STABLE {
            self.backoff.reset();
        }
        let again = !stopped
            && match policy {
                Policy::No => false,
                Policy::Always | Policy::UnlessStopped => true,
                Policy::OnFailure { max } => code != 0 && (max == 0 || self.count < max),
            };
        if !again {
            self.backoff.reset();
            return None;
        }
        self.count += 1;
        Some(self.backoff.step())
    }
}

impl Default for Restarts {
    fn default() -> Restarts {
        Restarts::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(5);

    fn millis(d: Option<Duration>) -> Option<u128> {
        d.map(|d| d.as_millis())
    }

    #[test]
    fn delay_doubles_and_a_long_run_resets_it() {
        let mut r = Restarts::new();
        let mut go = |ran| millis(r.after_exit(Policy::Always, 0, ran, false));
        assert_eq!((go(QUICK), go(QUICK), go(QUICK)), (Some(100), Some(200), Some(400)));
        assert_eq!(go(Duration::from_secs(11)), Some(100));
        for _ in 0..12 {
            go(QUICK);
        }
        assert_eq!(go(QUICK), Some(60_000));
    }

    #[test]
    fn on_failure_counts_and_ignores_success() {
        let mut r = Restarts::new();
        let p = Policy::OnFailure { max: 2 };
        assert!(r.after_exit(p, 1, QUICK, false).is_some());
        assert!(r.after_exit(p, 1, QUICK, false).is_some());
        assert!(r.after_exit(p, 1, QUICK, false).is_none());
        assert_eq!(r.count(), 2);
        assert!(Restarts::new().after_exit(p, 0, QUICK, false).is_none());
    }

    #[test]
    fn a_stop_by_hand_holds() {
        for p in [Policy::Always, Policy::UnlessStopped, Policy::OnFailure { max: 0 }] {
            assert!(Restarts::new().after_exit(p, 1, QUICK, true).is_none());
        }
        assert!(Policy::Always.starts_with_daemon(true, 0, 0));
        assert!(!Policy::UnlessStopped.starts_with_daemon(true, 0, 0));
    }

    #[test]
    fn parses_what_docker_takes() {
        assert_eq!(Policy::parse("on-failure", 3).unwrap(), Policy::OnFailure { max: 3 });
        assert_eq!(Policy::parse("", 0).unwrap(), Policy::No);
        for (name, max) in [("always", 1), ("on-failure", -1), ("sometimes", 0), ("no", -2)] {
            assert!(Policy::parse(name, max).is_err(), "{name} {max}");
        }
    }
}
