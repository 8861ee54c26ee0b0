//! The one error type of the library, and how it reaches C: a negative errno, and a message for the thread.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::limits::{MAX_HANDLES, MAX_MESSAGE};

/// Result of whatever may fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Every way in which a call fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine says so.
    #[error(transparent)]
    Engine(#[from] archipelago_core::Error),
    /// A pointer is null that may not be.
    #[error("{0}: is a null pointer")]
    Null(&'static str),
    /// An argument is out of its documented range.
    #[error("{0}")]
    Invalid(String),
    /// The handle leads to nothing.
    #[error("handle {handle:#018x}: no open {kind} of this process")]
    BadHandle {
        /// As it was given.
        handle: u64,
        /// What it should have been.
        kind: &'static str,
    },
    /// The library failed in an earlier call on this handle.
    #[error("handle {0:#018x}: the library failed in an earlier call on it; close it and open anew")]
    Broken(u64),
    /// There is no slot left.
    #[error("the process has {MAX_HANDLES} handles; close some")]
    TooManyHandles,
    /// A handle is used by more calls than can be counted.
    #[error("handle {0:#018x}: too many calls at once")]
    TooManyUses(u64),
    /// A callback closes what the call around it is using.
    #[error("handle {0:#018x}: is used by the call that this callback belongs to; close it behind that")]
    InCallback(u64),
    /// The process was forked from one that uses the library.
    #[error("this process was forked from one that uses the library, which a child can do only behind an exec")]
    Forked,
    /// A callback ended the call.
    #[error("ended by the callback")]
    Cancelled,
    /// The queue is closed while it is waited for.
    #[error("the queue is being closed")]
    Closing,
    /// A struct has something in it that was added later.
    #[error("{0}: says something that this version of the library does not know")]
    TooNew(&'static str),
    /// The queue has no room.
    #[error("the queue has its {0} operations; collect completions first")]
    Full(u32),
    /// A system call of the library itself failed.
    #[error("{op}: {source}")]
    System {
        /// What was to be done.
        op: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A mistake in the library.
    #[error("the library failed inside this call: {0}; close what it used and open it anew")]
    Panic(String),
}

impl Error {
    /// The errno that stands for this error; positive.
    pub fn errno(&self) -> c_int {
        let errno = match self {
            Error::Engine(error) => error.errno(),
            Error::Null(_) | Error::Invalid(_) => libc::EINVAL,
            Error::BadHandle { .. } => libc::EBADF,
            Error::Broken(_) => libc::ENOTRECOVERABLE,
            Error::TooManyHandles => libc::EMFILE,
            Error::TooManyUses(_) | Error::Full(_) => libc::EAGAIN,
            Error::InCallback(_) => libc::EDEADLK,
            Error::Forked => libc::EOPNOTSUPP,
            Error::Cancelled | Error::Closing => libc::ECANCELED,
            Error::TooNew(_) => libc::E2BIG,
            Error::System { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Error::Panic(_) => libc::EIO,
        };
        // Callers take 0 for success and anything below for an error, whatever a file system answered.
        if (1..4096).contains(&errno) { errno } else { libc::EIO }
    }
}

thread_local! {
    /// The message of the last call that failed, NUL-terminated once there is one.
    static MESSAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where every call from C comes in: what `body` returns becomes 0 or a negative errno, and no panic passes.
#[inline]
pub fn call(body: impl FnOnce() -> Result<()>) -> c_int {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => fail(&error),
        Err(payload) => fail(&Error::Panic(panic_text(payload))),
    }
}

/// Keeps the message of `error` for the thread; returns what C is told.
#[cold]
fn fail(error: &Error) -> c_int {
    // A thread that is ending has no message any more.
    let _ = MESSAGE.try_with(|message| {
        if let Ok(mut message) = message.try_borrow_mut() {
            let mut text = error.to_string().into_bytes();
            text.retain(|byte| *byte != 0);
            if text.len() >= MAX_MESSAGE {
                // Not within a character.
                let end = (0..MAX_MESSAGE).rev().find(|at| text[*at] & 0xc0 != 0x80).unwrap_or(0);
                text.truncate(end);
            }
            text.push(0);
            *message = text;
        }
    });
    -error.errno()
}

/// What a panic said.
#[cold]
pub fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text.to_string(),
        (_, Some(text)) => text.clone(),
        _ => "no message".to_string(),
    };
    // It may panic in turn when it goes.
    if let Err(another) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(another);
    }
    text
}

/// The message of the last call of this thread that failed, never null; "" if none did. Good until the next one that fails.
#[unsafe(no_mangle)]
pub extern "C" fn archip_last_error() -> *const c_char {
    let empty: &'static CStr = c"";
    MESSAGE
        .try_with(|message| match message.try_borrow() {
            Ok(message) if !message.is_empty() => message.as_ptr().cast(),
            _ => empty.as_ptr(),
        })
        .unwrap_or(empty.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_error() -> String {
        // SAFETY: a NUL-terminated text that stays until this thread fails again.
        unsafe { CStr::from_ptr(archip_last_error()) }.to_str().expect("messages are UTF-8").to_string()
    }

    #[test]
    fn a_panic_becomes_an_error_with_what_it_said() {
        assert_eq!(call(|| panic!("planted {}", 7)), -libc::EIO);
        assert!(last_error().contains("planted 7"), "{}", last_error());
        assert_eq!(call(|| std::panic::panic_any(7)), -libc::EIO);
        assert!(last_error().contains("no message"));
    }

    #[test]
    fn a_panic_whose_payload_panics_when_dropped_becomes_an_error() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        assert_eq!(call(|| std::panic::panic_any(Bomb)), -libc::EIO);
    }

    #[test]
    fn success_leaves_the_message_and_another_thread_has_its_own() {
        assert_eq!(call(|| Err(Error::Null("here"))), -libc::EINVAL);
        assert_eq!(call(|| Ok(())), 0);
        assert_eq!(last_error(), "here: is a null pointer");
        std::thread::spawn(|| assert_eq!(last_error(), "")).join().expect("no panic");
    }

    #[test]
    fn long_messages_are_cut_between_characters_and_have_no_nul_inside() {
        let long = format!("x{}\0{}", "é".repeat(1500), "é".repeat(1500));
        assert_eq!(call(|| Err(Error::Invalid(long))), -libc::EINVAL);
        let text = last_error();
        assert!(text.len() < MAX_MESSAGE && text.len() > MAX_MESSAGE - 4, "{}", text.len());
        assert!(text.ends_with('é'));
    }

    #[test]
    fn what_is_no_errno_is_an_input_output_error() {
        let source = std::io::Error::from_raw_os_error(0);
        assert_eq!(Error::System { op: "test", source }.errno(), libc::EIO);
        let source = std::io::Error::from_raw_os_error(-5);
        assert_eq!(Error::System { op: "test", source }.errno(), libc::EIO);
    }
}
