//! Locks that do not poison: state guarded by them is valid at every unlock.

use std::fmt;

pub use std::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

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

/// `std::sync::RwLock` without poisoning, for the reason given at [`Mutex`].
#[derive(Default)]
pub struct RwLock<T: ?Sized>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// A new unlocked lock.
    pub const fn new(value: T) -> RwLock<T> {
        RwLock(std::sync::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Locks together with other readers. Never hold the guard across an `.await`.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Locks alone. Never hold the guard across an `.await`.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<T: ?Sized> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwLock")
    }
}

/// A flag that one thread sleeps on and others set.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<bool>,
    changed: std::sync::Condvar,
}

impl Bell {
    /// Wakes the sleeper, or keeps it from falling asleep.
    pub fn ring(&self) {
        // Who finds it rung need not wake anybody, which is a system call even when nobody sleeps.
        if !std::mem::replace(&mut *self.rung.lock(), true) {
            self.changed.notify_one();
        }
    }

    /// Sleeps until the bell is rung, at most for `patience`; takes the ring away.
    pub fn wait(&self, patience: Option<std::time::Duration>) {
        let rung = self.rung.lock();
        let silent = |rung: &mut bool| !*rung;
        let mut rung = match patience {
            None => self.changed.wait_while(rung, silent).unwrap_or_else(|p| p.into_inner()),
            Some(patience) => {
                let woken = self.changed.wait_timeout_while(rung, patience, silent);
                woken.unwrap_or_else(|p| p.into_inner()).0
            }
        };
        *rung = false;
    }
}
