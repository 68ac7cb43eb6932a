//! Time as a value that is passed in, so that tests can move it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::sync::Mutex;

/// A source of wall-clock and monotonic time. Cloning shares the source.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Fixed(Arc<Mutex<Fixed>>),
}

#[derive(Debug)]
struct Fixed {
    wall: SystemTime,
    mono: Instant,
}

impl Clock {
    /// The machine's clock.
    pub const fn system() -> Clock {
        Clock(Source::System)
    }

    /// A clock that stands at `since_epoch` until [`Clock::advance`] moves it.
    pub fn fixed(since_epoch: Duration) -> Clock {
        let now = Fixed { wall: UNIX_EPOCH + since_epoch, mono: monotonic() };
        Clock(Source::Fixed(Arc::new(Mutex::new(now))))
    }

    /// Wall-clock time, for what people and files read.
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            Source::System => SystemTime::now(),
            Source::Fixed(f) => f.lock().wall,
        }
    }

    /// Monotonic time, for measuring.
    pub fn instant(&self) -> Instant {
        match &self.0 {
            Source::System => monotonic(),
            Source::Fixed(f) => f.lock().mono,
        }
    }

    /// Nanoseconds since 1970, saturating at zero for a clock set before it.
    pub fn unix_nanos(&self) -> i64 {
        let since = self.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    /// Moves a fixed clock. The system clock ignores it.
    pub fn advance(&self, by: Duration) {
        if let Source::Fixed(f) = &self.0 {
            let mut now = f.lock();
            now.wall += by;
            now.mono += by;
        }
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::system()
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
fn monotonic() -> Instant {
    Instant::now()
}
