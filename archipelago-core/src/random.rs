//! Randomness of the system.
#![allow(unsafe_code)]

use std::io;

/// Eight bytes of the system's randomness.
pub(crate) fn random_u64() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    loop {
        // SAFETY: `bytes` is ours and as long as we say.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if got == bytes.len() as isize {
            return Ok(u64::from_ne_bytes(bytes));
        }
        // Requests of up to 256 bytes are not cut short; what is left is a signal before the pool was filled at boot.
        let error = io::Error::last_os_error();
        if got >= 0 || error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
