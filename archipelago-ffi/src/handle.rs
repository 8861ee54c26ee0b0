//! Handles: numbers for C that lead to an object, or are an error.
//!
//! A handle is the index of a slot (28 bits, of which 16 are used), the kind of its object (4 bits), and the generation of the slot (32 bits).
//! A slot has one word of state: generation and kind as in the handle, whether it is open, and how many calls use it. To use an object is one compare-and-exchange of that word, which fails unless the handle is the very one
//! that was given out; no lock is taken, and slots never move or go.
//!
//! Who closes a handle marks the slot, so that no use begins any more, waits until none is left, and takes the object out. The
//! slot then gets the next generation. One whose generations are used up is given out no more.
//!
//! In a forked child there is no table, and none can be made: it has none of the threads that the objects of its parent rely on, and
//! the locks of the process still name those threads as waiting. The objects stay where they are, untouched, for closing them would
//! end what the parent has open.

use std::cell::{RefCell, UnsafeCell};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::limits::{CHUNK, MAX_HANDLES, MAX_USES};
use crate::queue::Queue;
use crate::store::OpenStore;
use crate::text::Text;
use crate::volume::OpenVolume;

/// What a handle may lead to.
pub enum Object {
    /// An open store.
    Store(OpenStore),
    /// An open volume.
    Volume(OpenVolume),
    /// A queue of operations.
    Queue(Queue),
    /// A text.
    Text(Text),
}

/// A kind of object.
pub trait Kind: Sized {
    /// Its number in a handle, 1 to 15.
    const KIND: u64;
    /// Its name in messages.
    const NAME: &'static str;
    /// The object as this kind.
    fn of(object: &Object) -> Option<&Self>;
    /// The object taken out as this kind.
    fn take(object: Object) -> Option<Self>;
    /// What the slot holds.
    fn into_object(self) -> Object;
    /// Called when it begins to be closed, while others may still be using it.
    fn closing(&self) {}
}

macro_rules! kind {
    ($type:ty, $variant:ident, $number:literal, $name:literal $(, $closing:item)?) => {
        impl Kind for $type {
            const KIND: u64 = $number;
            const NAME: &'static str = $name;
            fn of(object: &Object) -> Option<&Self> {
                match object {
                    Object::$variant(this) => Some(this),
                    _ => None,
                }
            }
            fn take(object: Object) -> Option<Self> {
                match object {
                    Object::$variant(this) => Some(this),
                    _ => None,
                }
            }
            fn into_object(self) -> Object {
                Object::$variant(self)
            }
            $($closing)?
        }
    };
}

kind!(OpenStore, Store, 1, "store");
kind!(OpenVolume, Volume, 2, "volume");
kind!(
    Queue,
    Queue,
    3,
    "queue",
    fn closing(&self) {
        self.wake_waiting();
    }
);
kind!(Text, Text, 4, "text");

/// Calls that use the object, in the state of a slot.
const USES: u64 = MAX_USES;
const OPEN: u64 = 1 << 25;
/// Being closed, or made: `OPEN` is not set.
const CLOSING: u64 = 1 << 26;
/// A call on it panicked.
const BROKEN: u64 = 1 << 27;
const KIND_SHIFT: u32 = 28;
/// Generation and kind, at the same place in a handle and in a state.
const IDENTITY: u64 = !0 << KIND_SHIFT;
/// Index of the slot, in a handle.
const INDEX: u64 = !IDENTITY;

/// In cache lines of its own: threads that use different handles do not slow each other down.
#[repr(align(128))]
struct Slot {
    state: AtomicU64,
    object: UnsafeCell<Option<Object>>,
    /// The generation it had first; read and written by who has the slot from the list of free ones.
    first: AtomicU32,
}

// SAFETY: the object is written only while the slot is neither open nor closing, by the one thread that took it from the list of free slots,
// and taken only by the one that set `CLOSING`, when no use is left; between the two it is only read, and every `Object` is `Sync`.
unsafe impl Sync for Slot {}

const fn shared<T: Send + Sync>() {}
const _: () = shared::<Object>();

type Chunk = [Slot; CHUNK];

struct Free {
    slots: Vec<u16>,
    /// Slots that were ever given out; those behind were not.
    begun: usize,
}

struct Table {
    chunks: [AtomicPtr<Chunk>; MAX_HANDLES / CHUNK],
    free: Mutex<Free>,
    /// Closers wait here; with `left`.
    closers: Mutex<()>,
    /// A use of a slot that is being closed was the last.
    left: Condvar,
}

/// The table of this process; null before the first handle, and after a fork.
static TABLE: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());
/// This process was forked from one that had a table.
static FORKED: AtomicBool = AtomicBool::new(false);
static AT_FORK: Once = Once::new();

/// Runs in a child: whatever was open is its parent's.
extern "C" fn forked() {
    TABLE.store(ptr::null_mut(), Ordering::SeqCst);
    FORKED.store(true, Ordering::SeqCst);
}

/// Refuses what cannot be done in a forked child.
pub fn check_process() -> Result<()> {
    if FORKED.load(Ordering::SeqCst) { Err(Error::Forked) } else { Ok(()) }
}

impl Table {
    /// The table of this process, if there is one yet.
    #[inline]
    fn current() -> Option<&'static Table> {
        // SAFETY: null, or from `Box::leak` below and never freed.
        unsafe { TABLE.load(Ordering::Acquire).as_ref() }
    }

    fn get() -> Result<&'static Table> {
        check_process()?;
        let mut failed = 0;
        // SAFETY: `forked` does nothing but store to two atomics, as a child of a process with threads may.
        AT_FORK.call_once(|| failed = unsafe { libc::pthread_atfork(None, None, Some(forked)) });
        if failed != 0 {
            return Err(Error::System { op: "pthread_atfork", source: std::io::Error::from_raw_os_error(failed) });
        }
        if let Some(table) = Table::current() {
            return Ok(table);
        }
        let new = Box::into_raw(Box::new(Table {
            chunks: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_HANDLES / CHUNK],
            free: Mutex::new(Free { slots: Vec::new(), begun: 0 }),
            closers: Mutex::new(()),
            left: Condvar::new(),
        }));
        match TABLE.compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: just made, and nobody frees it.
            Ok(_) => Ok(unsafe { &*new }),
            Err(other) => {
                // SAFETY: made above, and seen by nobody else.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: published by another thread, and nobody frees it.
                Ok(unsafe { &*other })
            }
        }
    }

    /// The slot of that index, if it was ever given out.
    #[inline]
    fn slot(&self, index: usize) -> Option<&'static Slot> {
        // SAFETY: null, or from `Box::into_raw` in `claim`, and never freed.
        let chunk = unsafe { self.chunks.get(index / CHUNK)?.load(Ordering::Acquire).as_ref()? };
        Some(&chunk[index % CHUNK])
    }

    /// Takes a slot that is not in use.
    fn claim(&self) -> Result<(usize, &'static Slot)> {
        let mut free = self.free.lock();
        let index = match free.slots.pop() {
            Some(index) => usize::from(index),
            None if free.begun == MAX_HANDLES => return Err(Error::TooManyHandles),
            None => {
                let index = free.begun;
                if index.is_multiple_of(CHUNK) {
                    let slot = || {
                        let first = RandomState::new().build_hasher().finish() as u32;
                        let state = AtomicU64::new(u64::from(first) << 32);
                        Slot { state, object: UnsafeCell::new(None), first: AtomicU32::new(first) }
                    };
                    let chunk: Box<Chunk> = Box::new(std::array::from_fn(|_| slot()));
                    self.chunks[index / CHUNK].store(Box::into_raw(chunk), Ordering::Release);
                }
                free.begun += 1;
                index
            }
        };
        drop(free);
        self.slot(index).map(|slot| (index, slot)).ok_or(Error::TooManyHandles)
    }
}

/// Makes a handle for `object`.
pub fn make<T: Kind>(object: T) -> Result<u64> {
    let table = Table::get()?;
    let (index, slot) = table.claim()?;
    let identity = slot.state.load(Ordering::Relaxed) & (!0 << 32) | T::KIND << KIND_SHIFT;
    // SAFETY: the slot is neither open nor closing, and this thread took it from the free ones.
    unsafe { *slot.object.get() = Some(object.into_object()) };
    slot.state.store(identity | OPEN, Ordering::Release);
    Ok(identity | index as u64)
}

/// One use of an open object; it stays until this is dropped. If that is by a panic, the handle is broken.
pub struct Use<T: Kind> {
    table: &'static Table,
    slot: &'static Slot,
    kind: PhantomData<fn() -> T>,
}

impl<T: Kind> Use<T> {
    /// Says that the library failed while using it.
    #[cold]
    pub fn breaks(&self) {
        self.slot.state.fetch_or(BROKEN, Ordering::AcqRel);
    }
}

impl<T: Kind> Deref for Use<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: nobody writes or takes the object while a use is counted.
        match unsafe { &*self.slot.object.get() }.as_ref().and_then(T::of) {
            Some(object) => object,
            None => unreachable!("the kind is part of the state that was compared"),
        }
    }
}

impl<T: Kind> Drop for Use<T> {
    #[inline]
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.breaks();
        }
        let before = self.slot.state.fetch_sub(1, Ordering::AcqRel);
        if before & CLOSING != 0 && before & USES == 1 {
            // The closer looks at the count with this lock held, so it either saw that it is 0, or hears of it.
            drop(self.table.closers.lock());
            self.table.left.notify_all();
        }
    }
}

/// The object of a handle, for as long as the answer is kept.
#[inline]
pub fn find<T: Kind>(handle: u64) -> Result<Use<T>> {
    let Some((table, slot)) = locate(handle).filter(|_| is::<T>(handle)) else { return bad::<T, _>(handle) };
    let open = handle & IDENTITY | OPEN;
    let mut state = slot.state.load(Ordering::Relaxed);
    loop {
        if state & !USES != open {
            return refused::<T, _>(handle, state);
        }
        if state & USES == MAX_USES {
            return Err(Error::TooManyUses(handle));
        }
        match slot.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return Ok(Use { table, slot, kind: PhantomData }),
            Err(now) => state = now,
        }
    }
}

/// The slot that a handle means, if there is one of that number.
#[inline]
fn locate(handle: u64) -> Option<(&'static Table, &'static Slot)> {
    let table = Table::current()?;
    Some((table, table.slot((handle & INDEX) as usize)?))
}

/// Whether it is a handle of that kind. With [`OPEN`] the state of a slot then says so too.
#[inline]
fn is<T: Kind>(handle: u64) -> bool {
    handle >> KIND_SHIFT & 0xf == T::KIND
}

#[cold]
fn bad<T: Kind, R>(handle: u64) -> Result<R> {
    Err(Error::BadHandle { handle, kind: T::NAME })
}

/// Why a slot in that state is not what the handle means.
#[cold]
fn refused<T: Kind, R>(handle: u64, state: u64) -> Result<R> {
    if state & (IDENTITY | OPEN | BROKEN) == handle & IDENTITY | OPEN | BROKEN {
        return Err(Error::Broken(handle));
    }
    bad::<T, R>(handle)
}

thread_local! {
    /// Handles used by the calls whose callbacks this thread is in.
    static IN_CALLBACK: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Runs a callback of a call that uses `handle`, which it therefore may not close.
pub fn in_callback<R>(handle: u64, callback: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            IN_CALLBACK.with_borrow_mut(|handles| handles.pop());
        }
    }
    IN_CALLBACK.with_borrow_mut(|handles| handles.push(handle));
    let _leave = Leave;
    callback()
}

/// Takes the object of a handle out, once nobody uses it any more.
pub fn close<T: Kind>(handle: u64) -> Result<T> {
    let Some((table, slot)) = locate(handle).filter(|_| is::<T>(handle)) else { return bad::<T, _>(handle) };
    // A thread that is ending is in no callback.
    if IN_CALLBACK.try_with(|handles| handles.borrow().contains(&handle)).unwrap_or(false) {
        return Err(Error::InCallback(handle));
    }
    let open = handle & IDENTITY | OPEN;
    let mut state = slot.state.load(Ordering::Relaxed);
    loop {
        if state & !(USES | BROKEN) != open {
            return bad::<T, _>(handle);
        }
        let closing = state & !OPEN | CLOSING;
        match slot.state.compare_exchange_weak(state, closing, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => break,
            Err(now) => state = now,
        }
    }
    // SAFETY: only this thread takes the object, below.
    if let Some(object) = unsafe { &*slot.object.get() }.as_ref().and_then(T::of) {
        object.closing();
    }
    let mut closers = table.closers.lock();
    while slot.state.load(Ordering::Acquire) & USES > 0 {
        table.left.wait(&mut closers);
    }
    drop(closers);
    // SAFETY: `CLOSING` was set by this thread, and no use is left nor can begin.
    let object = unsafe { (*slot.object.get()).take() };
    let generation = ((handle >> 32) as u32).wrapping_add(1);
    slot.state.store(u64::from(generation) << 32, Ordering::Release);
    if generation != slot.first.load(Ordering::Relaxed) {
        table.free.lock().slots.push((handle & INDEX) as u16);
    }
    match object.and_then(T::take) {
        Some(object) => Ok(object),
        None => unreachable!("the kind is part of the state that was compared"),
    }
}

#[cfg(test)]
mod tests;
