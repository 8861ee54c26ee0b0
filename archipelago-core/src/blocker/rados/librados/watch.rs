//! Watching objects, and notifying who watches.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use super::{Outcome, Pool, outcome, text};

/// What is told of notifications. Called in threads of the library, in which no other call of it may be waited for.
pub(in crate::blocker::rados) trait Listener: Send + Sync {
    /// Somebody notifies. What it returns is the answer; `None` if [`Pool::answer`] gives it later.
    fn notified(&self, notification: Notification, message: &[u8]) -> Option<Vec<u8>>;
}

/// One notification, to be answered once.
#[derive(Clone, Copy, Debug)]
pub(in crate::blocker::rados) struct Notification {
    id: u64,
    watch: u64,
}

/// A watch, until it is dropped.
pub(in crate::blocker::rados) struct Watch {
    pool: Arc<Pool>,
    cookie: u64,
    seat: *mut Seat,
}

/// What a callback gets.
struct Seat {
    pool: std::sync::Weak<Pool>,
    object: String,
    listener: Arc<dyn Listener>,
}

// SAFETY: the seat is only read while the watch lives, and its parts may be used by any thread.
unsafe impl Send for Watch {}
// SAFETY: as above.
unsafe impl Sync for Watch {}

unsafe extern "C" fn on_notify(seat: *mut c_void, id: u64, watch: u64, _: u64, data: *mut c_void, len: usize) {
    // SAFETY: the pointer is that which was given with the watch, and what it points to lives until no callback runs any more.
    let seat = unsafe { &*seat.cast::<Seat>() };
    let message = match len {
        0 => &[][..],
        // SAFETY: the library gives `len` bytes that live as long as the call.
        _ => unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) },
    };
    let notification = Notification { id, watch };
    let answer =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| seat.listener.notified(notification, message)));
    if let (Ok(Some(answer)), Some(pool)) = (answer, seat.pool.upgrade()) {
        pool.answer(&seat.object, notification, &answer);
        pool.leave_to_others();
    }
}

unsafe extern "C" fn on_lost(_: *mut c_void, _: u64, _: c_int) {
    // Whoever keeps the watch asks about it regularly.
}

impl Drop for Watch {
    fn drop(&mut self) {
        let f = self.pool.f;
        // SAFETY: the pool is open. After a flush no callback of this watch runs or will, so the seat is nobody's any more.
        unsafe {
            (f.rados_unwatch2)(self.pool.io, self.cookie);
            (f.rados_watch_flush)(self.pool.cluster);
            drop(Box::from_raw(self.seat));
        }
    }
}

impl Watch {
    /// Whether the cluster confirmed it lately.
    pub(in crate::blocker::rados) fn stands(&self) -> bool {
        // SAFETY: the pool is open, and the cookie is that of a watch on it.
        unsafe { (self.pool.f.rados_watch_check)(self.pool.io, self.cookie) >= 0 }
    }
}

impl Pool {
    /// Watches an object, which exists. Who is not heard of for `seconds` does not watch any more.
    pub(in crate::blocker::rados) fn watch(
        self: &Arc<Self>,
        object: &str,
        listener: Arc<dyn Listener>,
        seconds: u32,
    ) -> Outcome<Watch> {
        let seat = Box::new(Seat { pool: Arc::downgrade(self), object: object.to_string(), listener });
        let seat = Box::into_raw(seat);
        let mut cookie = 0;
        // SAFETY: the seat lives until no callback runs any more; see `Watch`.
        let code = unsafe {
            (self.f.rados_watch3)(self.io, text(object).as_ptr(), &mut cookie, on_notify, on_lost, seconds, seat.cast())
        };
        if let Err(errno) = outcome(code) {
            // SAFETY: the callbacks of a watch that was not made are not called.
            drop(unsafe { Box::from_raw(seat) });
            return Err(errno);
        }
        Ok(Watch { pool: self.clone(), cookie, seat })
    }

    /// Answers a notification.
    pub(in crate::blocker::rados) fn answer(&self, object: &str, notification: Notification, answer: &[u8]) {
        let object = text(object);
        // SAFETY: the answer is as long as is said, and copied.
        unsafe {
            (self.f.rados_notify_ack)(
                self.io,
                object.as_ptr(),
                notification.id,
                notification.watch,
                answer.as_ptr().cast(),
                answer.len() as c_int,
            );
        }
    }

    /// Notifies all who watch an object, and waits for their answers: those that came. ETIMEDOUT if one did not come in time.
    pub(in crate::blocker::rados) fn notify(
        &self,
        object: &str,
        message: &[u8],
        milliseconds: u64,
    ) -> Outcome<Vec<Vec<u8>>> {
        let (mut reply, mut len) = (null_mut(), 0);
        // SAFETY: the message is as long as is said, and the places for the answer are ours.
        let code = unsafe {
            (self.f.rados_notify2)(
                self.io,
                text(object).as_ptr(),
                message.as_ptr().cast(),
                message.len() as c_int,
                milliseconds,
                &mut reply,
                &mut len,
            )
        };
        let reply = self.take(reply, len);
        outcome(code)?;
        Ok(answers(&reply))
    }
}

/// Answers in what a notification returns: their number, and for each two numbers of 64 bits, a length and the bytes.
fn answers(mut reply: &[u8]) -> Vec<Vec<u8>> {
    fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        let (first, rest) = bytes.split_first_chunk::<N>()?;
        *bytes = rest;
        Some(*first)
    }
    let mut all = Vec::new();
    let count = take(&mut reply).map_or(0, u32::from_le_bytes);
    for _ in 0..count {
        let Some(_) = take::<16>(&mut reply) else { break };
        let Some(len) = take(&mut reply).map(|len| u32::from_le_bytes(len) as usize) else { break };
        let Some((answer, rest)) = reply.split_at_checked(len) else { break };
        all.push(answer.to_vec());
        reply = rest;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_a_notification_are_read_as_far_as_they_go() {
        let mut reply = 2u32.to_le_bytes().to_vec();
        for answer in ["one", "other"] {
            reply.extend([7; 16]);
            reply.extend((answer.len() as u32).to_le_bytes());
            reply.extend(answer.as_bytes());
        }
        assert_eq!(answers(&reply), [b"one".to_vec(), b"other".to_vec()]);
        for len in 0..reply.len() {
            assert!(answers(&reply[..len]).len() < 2);
        }
    }
}
