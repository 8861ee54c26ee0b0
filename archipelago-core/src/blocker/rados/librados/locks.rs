//! Locks of Ceph's class `lock`.
#![allow(unsafe_code)]

use std::ptr::null_mut;

use super::{Change, Errno, Outcome, Pool, outcome, text};

/// A holder of a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::blocker::rados) struct Locker {
    /// As the cluster calls it: `client.4711`.
    pub client: String,
    /// What it gave with the lock.
    pub cookie: String,
    /// By which it is fenced.
    pub address: String,
}

/// What the holders of an object's lock are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::blocker::rados) struct Lockers {
    pub exclusive: bool,
    pub all: Vec<Locker>,
}

impl Pool {
    /// Takes the lock of an object, which is made if it does not exist. EBUSY if others are in the way.
    pub(in crate::blocker::rados) fn lock(
        &self,
        object: &str,
        lock: &str,
        cookie: &str,
        exclusive: bool,
    ) -> Outcome<()> {
        let (object, lock, cookie) = (text(object), text(lock), text(cookie));
        let none = c"".as_ptr();
        // SAFETY: all strings end with NULs; no duration is given.
        outcome(unsafe {
            if exclusive {
                (self.f.rados_lock_exclusive)(
                    self.io,
                    object.as_ptr(),
                    lock.as_ptr(),
                    cookie.as_ptr(),
                    none,
                    null_mut(),
                    0,
                )
            } else {
                (self.f.rados_lock_shared)(
                    self.io,
                    object.as_ptr(),
                    lock.as_ptr(),
                    cookie.as_ptr(),
                    none,
                    none,
                    null_mut(),
                    0,
                )
            }
        })
    }

    /// Gives a lock back.
    pub(in crate::blocker::rados) fn unlock(&self, object: &str, lock: &str, cookie: &str) -> Outcome<()> {
        // SAFETY: all strings end with NULs.
        outcome(unsafe {
            (self.f.rados_unlock)(self.io, text(object).as_ptr(), text(lock).as_ptr(), text(cookie).as_ptr())
        })
    }

    /// Takes a lock from somebody.
    pub(in crate::blocker::rados) fn break_lock(&self, object: &str, lock: &str, holder: &Locker) -> Outcome<()> {
        // SAFETY: all strings end with NULs.
        outcome(unsafe {
            (self.f.rados_break_lock)(
                self.io,
                text(object).as_ptr(),
                text(lock).as_ptr(),
                text(&holder.client).as_ptr(),
                text(&holder.cookie).as_ptr(),
            )
        })
    }

    /// Who holds a lock.
    pub(in crate::blocker::rados) fn lockers(&self, object: &str, lock: &str) -> Outcome<Lockers> {
        let mut room = 4096;
        loop {
            let (mut tag, mut clients, mut cookies, mut addresses) =
                (vec![0u8; 256], vec![0u8; room], vec![0u8; room], vec![0u8; room]);
            let (mut a, mut b, mut c, mut d) = (tag.len(), room, room, room);
            let mut exclusive = 0;
            // SAFETY: each buffer is as long as is said.
            let found = unsafe {
                (self.f.rados_list_lockers)(
                    self.io,
                    text(object).as_ptr(),
                    text(lock).as_ptr(),
                    &mut exclusive,
                    tag.as_mut_ptr().cast(),
                    &mut a,
                    clients.as_mut_ptr().cast(),
                    &mut b,
                    cookies.as_mut_ptr().cast(),
                    &mut c,
                    addresses.as_mut_ptr().cast(),
                    &mut d,
                )
            };
            match found {
                count if count >= 0 => {
                    let count = count as usize;
                    let strings = |bytes: &[u8]| -> Vec<String> {
                        bytes.split(|b| *b == 0).take(count).map(|s| String::from_utf8_lossy(s).into_owned()).collect()
                    };
                    let (clients, cookies, addresses) = (strings(&clients), strings(&cookies), strings(&addresses));
                    let all = clients.into_iter().zip(cookies).zip(addresses);
                    let all = all.map(|((client, cookie), address)| Locker { client, cookie, address }).collect();
                    return Ok(Lockers { exclusive: exclusive != 0, all });
                }
                code if code == -(libc::ENOENT as isize) => return Ok(Lockers::default()),
                code if code == -(libc::ERANGE as isize) && room < 16 << 20 => room *= 4,
                code => return Err(Errno(-code as i32)),
            }
        }
    }
}

impl Change<'_> {
    /// EBUSY unless this connection holds the lock exclusively, with this cookie.
    pub(in crate::blocker::rados) fn assert_locked(self, lock: &str, cookie: &str) -> Self {
        let input = locked(lock, cookie);
        // SAFETY: the names end with NULs, and the input is as long as is said, and copied.
        unsafe {
            (self.pool.f.rados_write_op_exec)(
                self.op,
                c"lock".as_ptr(),
                c"assert_locked".as_ptr(),
                input.as_ptr().cast(),
                input.len(),
                null_mut(),
            );
        }
        self
    }
}

/// What Ceph's class `lock` takes for `assert_locked`: a structure of version 1 with the lock, its type (1: exclusive), cookie and tag.
fn locked(lock: &str, cookie: &str) -> Vec<u8> {
    let mut body = Vec::new();
    let string = |body: &mut Vec<u8>, text: &str| {
        body.extend((text.len() as u32).to_le_bytes());
        body.extend(text.as_bytes());
    };
    string(&mut body, lock);
    body.push(1);
    string(&mut body, cookie);
    string(&mut body, "");
    let mut input = vec![1, 1];
    input.extend((body.len() as u32).to_le_bytes());
    input.extend(body);
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_class_lock_is_asked_is_as_it_encodes_it() {
        let wanted = b"\x01\x01\x11\0\0\0\x01\0\0\0a\x01\x03\0\0\0xyz\0\0\0\0";
        assert_eq!(locked("a", "xyz"), wanted);
    }
}
