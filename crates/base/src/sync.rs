//! A mutex that does not poison: state guarded by it is valid at every unlock.

use std::fmt;

pub use std::sync::MutexGuard;

/// `std::sync::Mutex` without poisoning.
///
/// A panic in a critical section is a bug of that section alone; making every later caller panic as
/// well turns one failed request into a dead daemon. Callers keep their data valid at each step.
#[derive(Default)]
#[allow(clippy::disallowed_types, reason = "this is the wrapper that the lint points to")]
pub struct Mutex<T: ?Sized>(std::sync::Mutex<T>);

#[allow(clippy::disallowed_types, reason = "this is the wrapper that the lint points to")]
impl<T> Mutex<T> {
    /// A new unlocked mutex.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex(std::sync::Mutex::new(value))
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Locks, waiting if need be. Never hold the guard across an `.await`.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Locks if nobody holds the lock.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(p)) => Some(p.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(guard) => f.debug_tuple("Mutex").field(&&*guard).finish(),
            None => f.write_str("Mutex(<locked>)"),
        }
    }
}
