//! The interface of `parking_lot` over the model's locks.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use shuttle::sync as model;
pub use shuttle::sync::{RwLockReadGuard, RwLockWriteGuard};

use super::Plant;

/// Attempts of a lock with a time limit.
const PATIENCE: usize = 50;

/// The model ends a test when a thread panics, so no lock is ever found poisoned.
fn whole<T>(result: Result<T, std::sync::PoisonError<T>>) -> T {
    result.unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// See `parking_lot::Mutex`.
#[derive(Default)]
pub struct Mutex<T>(model::Mutex<T>);

/// See `parking_lot::MutexGuard`. Empty only inside [`Condvar::wait`].
pub struct MutexGuard<'a, T>(Option<model::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    /// A lock that nobody holds.
    pub fn new(value: T) -> Mutex<T> {
        Mutex(model::Mutex::new(value))
    }

    /// Takes the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(whole(self.0.lock())))
    }

    /// Takes the lock unless it is held for long.
    pub fn try_lock_until(&self, _: Instant) -> Option<MutexGuard<'_, T>> {
        patiently(|| self.0.try_lock().ok().map(|guard| MutexGuard(Some(guard))))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("held")
    }
}

/// See `parking_lot::Condvar`.
#[derive(Default)]
pub struct Condvar(model::Condvar);

impl Condvar {
    /// One for which nobody waits.
    pub fn new() -> Condvar {
        Condvar::default()
    }

    /// Waits until it is signalled.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if let Some(held) = guard.0.take() {
            guard.0 = Some(self.0.wait(held).unwrap_or_else(std::sync::PoisonError::into_inner));
        }
    }

    /// Waits until it is signalled. Time does not pass in the model: it may also return at once.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) {
        if let Some(held) = guard.0.take() {
            let waited = self.0.wait_timeout(held, Duration::ZERO).unwrap_or_else(std::sync::PoisonError::into_inner);
            guard.0 = Some(waited.0);
        }
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// See `parking_lot::RwLock`. As there, a reader waits behind a writer that waits: a thread that reads twice can be locked up by a
/// writer that comes in between, and the model finds that.
#[derive(Default)]
pub struct RwLock<T> {
    door: model::Mutex<()>,
    lock: model::RwLock<T>,
}

impl<T> RwLock<T> {
    /// A lock that nobody holds.
    pub fn new(value: T) -> RwLock<T> {
        RwLock { door: model::Mutex::new(()), lock: model::RwLock::new(value) }
    }

    /// Takes the lock shared.
    pub fn read(&self) -> model::RwLockReadGuard<'_, T> {
        let _door = whole(self.door.lock());
        whole(self.lock.read())
    }

    /// Takes the lock shared, unless somebody holds it exclusively or waits for that.
    pub fn try_read(&self) -> Option<model::RwLockReadGuard<'_, T>> {
        let _door = self.door.try_lock().ok()?;
        self.lock.try_read().ok()
    }

    /// Takes the lock exclusively.
    pub fn write(&self) -> model::RwLockWriteGuard<'_, T> {
        let _door = whole(self.door.lock());
        whole(self.lock.write())
    }

    /// Takes the lock exclusively unless it is held for long.
    pub fn try_write_for(&self, _: Duration) -> Option<model::RwLockWriteGuard<'_, T>> {
        let _door = patiently(|| self.door.try_lock().ok())?;
        patiently(|| self.lock.try_write().ok())
    }
}

/// Tries again while others run; time does not pass in the model, so a few times are long.
fn patiently<T>(attempt: impl Fn() -> Option<T>) -> Option<T> {
    (0..PATIENCE).find_map(|_| {
        let found = attempt();
        if found.is_none() {
            shuttle::thread::yield_now();
        }
        found
    })
}

/// Lets others run. Time does not pass in the model.
pub fn sleep(_: Duration) {
    shuttle::thread::yield_now();
}

/// 0 for none, otherwise one more than the mistake.
static PLANTED: AtomicU8 = AtomicU8::new(0);

/// Makes a mistake from now on, or none.
pub fn plant(mistake: Option<Plant>) {
    PLANTED.store(mistake.map_or(0, |plant| plant as u8 + 1), Ordering::SeqCst);
}

/// Whether this mistake is to be made.
pub fn planted(mistake: Plant) -> bool {
    PLANTED.load(Ordering::SeqCst) == mistake as u8 + 1
}
