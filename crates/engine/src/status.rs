//! The status column: `Up 5 minutes (healthy)`, `Exited (0) 3 hours ago`. People and tools parse it.

use crate::health::Status;
use crate::state::State;

/// Docker's sentence for a state at `now`, in nanoseconds since 1970.
pub fn text(state: &State, health: Option<Status>, now: i64) -> String {
    let since = |then: i64| human((now - then).max(0) / 1_000_000_000);
    match state {
        State::Created { .. } => "Created".into(),
        State::Running(run) => match health {
            None => format!("Up {}", since(run.started)),
            Some(Status::Starting) => format!("Up {} (health: starting)", since(run.started)),
            Some(status) => format!("Up {} ({})", since(run.started), status.word()),
        },
        State::Paused(run) => format!("Up {} (Paused)", since(run.started)),
        State::Restarting(e) => format!("Restarting ({}) {} ago", e.code, since(e.finished)),
        State::Exited(e) => format!("Exited ({}) {} ago", e.code, since(e.finished)),
        State::Removing(_) => "Removal In Progress".into(),
        State::Dead(_) => "Dead".into(),
    }
}

/// Go's `units.HumanDuration` of whole seconds.
pub fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Ended, Run};

    #[test]
    fn durations_as_docker_says_them() {
        for (seconds, expected) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86400 * 3, "3 days"),
            (86400 * 20, "2 weeks"),
            (86400 * 90, "3 months"),
            (86400 * 900, "2 years"),
        ] {
            assert_eq!(human(seconds), expected);
        }
    }

    #[test]
    fn states_as_docker_says_them() {
        let run = Run { pid: 1, started: 0 };
        let now = 5_000_000_000;
        assert_eq!(text(&State::Running(run), None, now), "Up 5 seconds");
        assert_eq!(
            text(&State::Running(run), Some(Status::Healthy), now),
            "Up 5 seconds (healthy)"
        );
        assert_eq!(
            text(&State::Running(run), Some(Status::Starting), now),
            "Up 5 seconds (health: starting)"
        );
        assert_eq!(text(&State::Paused(run), None, now), "Up 5 seconds (Paused)");
        let e = Ended { code: 3, error: String::new(), oom: false, started: 0, finished: 0 };
        assert_eq!(text(&State::Exited(e.clone()), None, now), "Exited (3) 5 seconds ago");
        assert_eq!(text(&State::Restarting(e), None, now), "Restarting (3) 5 seconds ago");
    }
}
