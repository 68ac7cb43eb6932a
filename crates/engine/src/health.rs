//! Health checks: a probe run again and again in the container, and what its results mean.

use std::collections::VecDeque;
use std::time::Duration;

use wharf_spec::docker;

/// Results that are kept.
const KEPT: usize = 5;
/// Bytes of a probe's output that are kept.
pub(crate) const OUTPUT: usize = 4096;

/// How a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No probe has told yet.
    Starting,
    /// The last probes succeeded.
    Healthy,
    /// Too many probes in a row failed.
    Unhealthy,
}

impl Status {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Status::Starting => "starting",
            Status::Healthy => "healthy",
            Status::Unhealthy => "unhealthy",
        }
    }
}

/// When and how to probe, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The probe's command line.
    pub command: Vec<String>,
    /// Between probes.
    pub interval: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// After the start, while failures do not count.
    pub start_period: Duration,
    /// Between probes in that period.
    pub start_interval: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

impl Check {
    /// The check that `config` asks for; `None` if there is none.
    pub fn of(config: &docker::ContainerConfig) -> Option<Check> {
        let health = config.healthcheck.as_ref()?;
        let test = health.test.as_deref().unwrap_or_default();
        let command = match test.split_first() {
            Some((kind, rest)) if kind == "CMD" && !rest.is_empty() => rest.to_vec(),
            Some((kind, [script, ..])) if kind == "CMD-SHELL" => {
                let shell = config.shell.clone().filter(|s| !s.is_empty());
                let mut line = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
                line.push(script.clone());
                line
            }
            _ => return None,
        };
        let or = |nanos: i64, default: u64| match u64::try_from(nanos) {
            Ok(n) if n > 0 => Duration::from_nanos(n),
            _ => Duration::from_secs(default),
        };
        Some(Check {
            command,
            interval: or(health.interval, 30),
            timeout: or(health.timeout, 30),
            start_period: or(health.start_period, 0),
            start_interval: or(health.start_interval, 5),
            retries: u32::try_from(health.retries).ok().filter(|n| *n > 0).unwrap_or(3),
        })
    }
}

/// One probe's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Nanoseconds since 1970.
    pub start: i64,
    /// Nanoseconds since 1970.
    pub end: i64,
    /// 0 is success; -1 is a probe that could not run or took too long.
    pub code: i32,
    /// What it printed.
    pub output: String,
}

/// The course of one container's health since it started.
#[derive(Clone, Debug)]
pub struct Health {
    status: Status,
    streak: u32,
    log: VecDeque<Probe>,
    /// A success ends the start period early.
    started: bool,
}

impl Health {
    /// Nothing is known yet.
    pub fn new() -> Health {
        Health { status: Status::Starting, streak: 0, log: VecDeque::new(), started: false }
    }

    /// How it is.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Takes a result, `after` the start. Returns the new status if it changed.
    pub fn record(&mut self, check: &Check, probe: Probe, after: Duration) -> Option<Status> {
        let before = self.status;
        if probe.code == 0 {
            self.streak = 0;
            self.started = true;
            self.status = Status::Healthy;
        } else if self.started || after >= check.start_period {
            self.streak += 1;
            if self.streak >= check.retries {
                self.status = Status::Unhealthy;
            }
        }
        self.log.push_back(probe);
        if self.log.len() > KEPT {
            self.log.pop_front();
        }
        (self.status != before).then_some(self.status)
    }

    /// The pause before the next probe, `after` the start.
    pub fn pause(&self, check: &Check, after: Duration) -> Duration {
        let starting = !self.started && after < check.start_period;
        if starting { check.start_interval } else { check.interval }
    }

    /// As inspect shows it.
    pub fn docker(&self) -> docker::Health {
        let result = |p: &Probe| docker::HealthResult {
            start: docker::rfc3339(p.start),
            end: docker::rfc3339(p.end),
            exit_code: i64::from(p.code),
            output: p.output.clone(),
        };
        docker::Health {
            status: self.status.word().into(),
            failing_streak: i64::from(self.streak),
            log: Some(self.log.iter().map(result).collect()),
        }
    }
}

impl Default for Health {
    fn default() -> Health {
        Health::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(test: &[&str]) -> docker::ContainerConfig {
        let test = Some(test.iter().map(|s| (*s).to_owned()).collect());
        let healthcheck = Some(docker::HealthConfig { test, ..Default::default() });
        docker::ContainerConfig { healthcheck, ..Default::default() }
    }

    fn probe(code: i32) -> Probe {
        Probe { start: 0, end: 1, code, output: String::new() }
    }

    const LATER: Duration = Duration::from_secs(100);

    #[test]
    fn commands_in_all_forms() {
        assert_eq!(Check::of(&config(&["CMD", "a", "b"])).unwrap().command, ["a", "b"]);
        let shell = Check::of(&config(&["CMD-SHELL", "x"])).unwrap();
        assert_eq!(shell.command, ["/bin/sh", "-c", "x"]);
        assert_eq!((shell.interval.as_secs(), shell.retries), (30, 3));
        for none in [&["NONE"][..], &[], &["CMD"]] {
            assert!(Check::of(&config(none)).is_none(), "{none:?}");
        }
    }

    #[test]
    fn three_failures_in_a_row_are_unhealthy_and_one_success_heals() {
        let check = Check::of(&config(&["CMD", "x"])).unwrap();
        let mut h = Health::new();
        assert_eq!(h.record(&check, probe(1), LATER), None);
        assert_eq!(h.record(&check, probe(1), LATER), None);
        assert_eq!(h.record(&check, probe(1), LATER), Some(Status::Unhealthy));
        assert_eq!(h.record(&check, probe(1), LATER), None);
        assert_eq!(h.record(&check, probe(0), LATER), Some(Status::Healthy));
        for _ in 0..9 {
            h.record(&check, probe(0), LATER);
        }
        assert_eq!(h.docker().log.unwrap().len(), KEPT);
    }

    #[test]
    fn failures_in_the_start_period_do_not_count_until_a_success() {
        let mut check = Check::of(&config(&["CMD", "x"])).unwrap();
        check.start_period = Duration::from_secs(50);
        check.retries = 1;
        let (mut h, early) = (Health::new(), Duration::from_secs(1));
        assert_eq!(h.record(&check, probe(1), early), None);
        assert_eq!(h.pause(&check, early), check.start_interval);
        assert_eq!(h.record(&check, probe(0), early), Some(Status::Healthy));
        assert_eq!(h.pause(&check, early), check.interval);
        assert_eq!(h.record(&check, probe(1), early), Some(Status::Unhealthy));
    }
}
