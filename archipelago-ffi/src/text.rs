//! Texts that have no bound a struct could hold: C asks for them with a buffer of its own.

use std::ffi::{c_char, c_int};

use crate::arguments::{put, required};
use crate::error::{Result, call};
use crate::handle;

/// A text, named by a handle: see `archip_text_length`.
pub type archip_text = u64;

/// A text that C may read as often as it likes.
pub struct Text {
    bytes: Vec<u8>,
}

impl Text {
    /// A text of that content.
    pub fn new(content: String) -> Text {
        Text { bytes: content.into_bytes() }
    }

    /// What it says.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Makes a handle for `value` as JSON, and puts it at `at`.
    ///
    /// # Safety
    ///
    /// `at` is not null and can be written.
    pub unsafe fn give(value: &impl serde::Serialize, at: *mut archip_text) -> Result<()> {
        let json = serde_json::to_string(value).map_err(|e| crate::error::Error::Panic(e.to_string()))?;
        let handle = handle::make(Text::new(json))?;
        // SAFETY: by contract.
        unsafe { put(at, "text", handle) }
    }
}

/// Gives the number of bytes of a text, which has no NUL at its end.
///
/// # Safety
///
/// `length` is null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_text_length(text: archip_text, length: *mut usize) -> c_int {
    call(|| {
        let text = handle::find::<Text>(text)?;
        // SAFETY: by contract.
        unsafe { put(length, "length", text.bytes().len()) }
    })
}

/// Copies the bytes of a text from `offset`, at most `capacity` of them, and gives how many: 0 at its end.
///
/// # Safety
///
/// `buffer` can be written for `capacity` bytes; it may be null if that is 0. `copied` is null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_text_copy(
    text: archip_text,
    offset: usize,
    buffer: *mut c_char,
    capacity: usize,
    copied: *mut usize,
) -> c_int {
    call(|| {
        let text = handle::find::<Text>(text)?;
        required(copied, "copied")?;
        if capacity > 0 {
            required(buffer, "buffer")?;
        }
        let rest = text.bytes().get(offset..).unwrap_or(&[]);
        let length = rest.len().min(capacity);
        if length > 0 {
            // SAFETY: by contract, and `length` is within both.
            unsafe { std::ptr::copy_nonoverlapping(rest.as_ptr(), buffer.cast(), length) };
        }
        // SAFETY: by contract.
        unsafe { put(copied, "copied", length) }
    })
}

/// Closes a text.
#[unsafe(no_mangle)]
pub extern "C" fn archip_text_close(text: archip_text) -> c_int {
    call(|| handle::close::<Text>(text).map(|_| ()))
}
