//! The life of a container as a state machine; every transition is here and nowhere else.

use serde::{Deserialize, Serialize};

use crate::error::{EngineError, Result};

/// What a container is doing. Stored, so that a new daemon knows what the old one knew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Never ran. A start that failed before it ever ran leaves its reason here.
    Created {
        /// Why the last start failed.
        failure: Option<Failure>,
    },
    /// Its program runs.
    Running(Run),
    /// Its program runs but is frozen.
    Paused(Run),
    /// It ended, and will be started again by its policy.
    Restarting(Ended),
    /// It ended.
    Exited(Ended),
    /// It is being removed. Found at start-up: the removal is finished.
    Removing(Option<Ended>),
    /// It could not be removed.
    Dead(Option<Ended>),
}

/// A running container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// First process, as the host sees it.
    pub pid: i32,
    /// Nanoseconds since 1970.
    pub started: i64,
}

/// A start that did not come to run the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// 126, 127 or 128.
    pub code: i32,
    /// Why.
    pub error: String,
}

/// A container that ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Exit status, or 128 plus the signal.
    pub code: i32,
    /// Why a later start failed, otherwise empty.
    pub error: String,
    /// The kernel killed a process of it for want of memory.
    pub oom: bool,
    /// Nanoseconds since 1970.
    pub started: i64,
    /// Nanoseconds since 1970.
    pub finished: i64,
}

impl Default for State {
    fn default() -> State {
        State::Created { failure: None }
    }
}

impl State {
    /// Docker's word for it.
    pub fn word(&self) -> &'static str {
        match self {
            State::Created { .. } => "created",
            State::Running(_) => "running",
            State::Paused(_) => "paused",
            State::Restarting(_) => "restarting",
            State::Exited(_) => "exited",
            State::Removing(_) => "removing",
            State::Dead(_) => "dead",
        }
    }

    /// The run, if there is a process.
    pub fn run(&self) -> Option<Run> {
        match self {
            State::Running(run) | State::Paused(run) => Some(*run),
            _ => None,
        }
    }

    /// How it last ended, if it ever did and does not run now.
    pub fn ended(&self) -> Option<&Ended> {
        match self {
            State::Restarting(e) | State::Exited(e) => Some(e),
            State::Removing(e) | State::Dead(e) => e.as_ref(),
            _ => None,
        }
    }

    /// The exit status that inspect shows.
    pub fn exit_code(&self) -> i32 {
        match self {
            State::Created { failure: Some(f) } => f.code,
            other => other.ended().map_or(0, |e| e.code),
        }
    }

    /// The error that inspect shows.
    pub fn error(&self) -> &str {
        match self {
            State::Created { failure: Some(f) } => &f.error,
            other => other.ended().map_or("", |e| &e.error),
        }
    }

    /// Whether it may be started, and the refusal if not.
    pub fn may_start(&self, id: &str) -> Result<()> {
        match self {
            State::Created { .. } | State::Exited(_) | State::Restarting(_) => Ok(()),
            State::Running(_) => {
                Err(EngineError::not_modified(format!("container {id} is already running")))
            }
            State::Paused(_) => {
                Err(EngineError::conflict("cannot start a paused container, try unpause instead"))
            }
            State::Removing(_) => {
                Err(EngineError::conflict("container is marked for removal and cannot be started"))
            }
            State::Dead(_) => {
                Err(EngineError::conflict("container is dead and cannot be started: remove it"))
            }
        }
    }

    /// Its program runs.
    #[must_use]
    pub fn started(self, run: Run) -> State {
        State::Running(run)
    }

    /// Its program could not be run at `now`.
    #[must_use]
    pub fn start_failed(self, failure: Failure) -> State {
        match self {
            State::Exited(e) | State::Restarting(e) => {
                State::Exited(Ended { code: failure.code, error: failure.error, ..e })
            }
            State::Created { .. } => State::Created { failure: Some(failure) },
            other => other,
        }
    }

    /// Its program ended.
    #[must_use]
    pub fn exited(self, code: i32, oom: bool, at: i64) -> State {
        match self {
            State::Running(run) | State::Paused(run) => State::Exited(Ended {
                code,
                error: String::new(),
                oom,
                started: run.started,
                finished: at,
            }),
            other => other,
        }
    }

    /// Its policy will start it again.
    #[must_use]
    pub fn will_restart(self) -> State {
        match self {
            State::Exited(e) => State::Restarting(e),
            other => other,
        }
    }

    /// Its policy will not start it again after all.
    #[must_use]
    pub fn restart_cancelled(self) -> State {
        match self {
            State::Restarting(e) => State::Exited(e),
            other => other,
        }
    }

    /// It is frozen.
    pub fn paused(self, id: &str) -> Result<State> {
        match self {
            State::Running(run) => Ok(State::Paused(run)),
            State::Paused(_) => {
                Err(EngineError::conflict(format!("Container {id} is already paused")))
            }
            State::Restarting(_) => Err(EngineError::restarting(id)),
            _ => Err(EngineError::conflict(format!("Container {id} is not running"))),
        }
    }

    /// It goes on.
    pub fn unpaused(self, id: &str) -> Result<State> {
        match self {
            State::Paused(run) => Ok(State::Running(run)),
            _ => Err(EngineError::conflict(format!("Container {id} is not paused"))),
        }
    }

    /// It is being removed. Only what does not run can be.
    pub fn removing(self, name: &str) -> Result<State> {
        match self {
            State::Created { .. } => Ok(State::Removing(None)),
            State::Exited(e) | State::Restarting(e) => Ok(State::Removing(Some(e))),
            State::Dead(e) => Ok(State::Removing(e)),
            State::Removing(_) => Err(EngineError::removal_in_progress(name)),
            State::Running(_) | State::Paused(_) => {
                Err(EngineError::conflict(format!("container {name} is running")))
            }
        }
    }

    /// Its removal failed half-way; it can be tried again.
    #[must_use]
    pub fn dead(self) -> State {
        match self {
            State::Removing(e) => State::Dead(e),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Run = Run { pid: 7, started: 100 };

    fn ended(code: i32) -> Ended {
        Ended { code, error: String::new(), oom: false, started: 100, finished: 200 }
    }

    #[test]
    fn a_life_from_creation_to_removal() {
        let s = State::default();
        s.may_start("x").unwrap();
        let s = s.started(RUN).paused("x").unwrap().unpaused("x").unwrap();
        assert_eq!(s, State::Running(RUN));
        assert!(s.clone().removing("x").is_err());
        let s = s.exited(3, false, 200);
        assert_eq!(s, State::Exited(ended(3)));
        let s = s.will_restart();
        assert_eq!((s.word(), s.exit_code()), ("restarting", 3));
        let s = s.removing("x").unwrap();
        assert!(s.clone().removing("x").is_err());
        assert_eq!(s.dead().word(), "dead");
    }

    #[test]
    fn a_failed_start_keeps_what_was_known() {
        let failure = Failure { code: 127, error: "no".into() };
        let s = State::default().start_failed(failure.clone());
        assert_eq!((s.word(), s.exit_code(), s.error()), ("created", 127, "no"));
        let s = State::Exited(ended(1)).start_failed(failure);
        assert_eq!((s.word(), s.exit_code(), s.ended().unwrap().started), ("exited", 127, 100));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_right_class() {
        use crate::error::Kind;
        let kind = |r: Result<()>| r.unwrap_err().kind();
        assert_eq!(kind(State::Running(RUN).may_start("x")), Kind::NotModified);
        assert_eq!(kind(State::Paused(RUN).may_start("x")), Kind::Conflict);
        assert_eq!(kind(State::default().paused("x").map(drop)), Kind::Conflict);
        assert_eq!(kind(State::Running(RUN).unpaused("x").map(drop)), Kind::Conflict);
    }
}
