//! The errors of the protocol, and the one place where an errno becomes one.

use crate::disk::device::Errno;

/// Not permitted: the export is read-only.
pub const EPERM: u32 = 1;
/// The device failed.
pub const EIO: u32 = 5;
/// Out of memory.
pub const ENOMEM: u32 = 12;
/// The request is not valid.
pub const EINVAL: u32 = 22;
/// No room, or past the end.
pub const ENOSPC: u32 = 28;
/// Too large for one reply.
pub const EOVERFLOW: u32 = 75;
/// Not offered.
pub const ENOTSUP: u32 = 95;
/// The server is stopping.
pub const ESHUTDOWN: u32 = 108;

/// The protocol's value for what a device reports. The protocol knows eight errors; all others are [`EIO`].
pub fn from_errno(errno: Errno) -> u32 {
    // EOPNOTSUPP and ENOTSUP are one value on Linux, two elsewhere.
    #[allow(unreachable_patterns)]
    match errno.0 {
        libc::EPERM | libc::EROFS | libc::EACCES => EPERM,
        libc::ENOMEM => ENOMEM,
        libc::EINVAL => EINVAL,
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => ENOSPC,
        libc::EOVERFLOW => EOVERFLOW,
        libc::EOPNOTSUPP | libc::ENOTSUP => ENOTSUP,
        libc::ESHUTDOWN => ESHUTDOWN,
        _ => EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_errno_becomes_an_error_that_the_protocol_knows() {
        let known = [EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN];
        for errno in -1..4096 {
            assert!(known.contains(&from_errno(Errno(errno))), "{errno}");
        }
        assert_eq!(from_errno(Errno(libc::EROFS)), EPERM);
        assert_eq!(from_errno(Errno(libc::EDQUOT)), ENOSPC);
        assert_eq!(from_errno(Errno(libc::ESTALE)), EIO);
        assert_eq!(from_errno(Errno(0)), EIO, "a failure without a cause is still a failure");
    }
}
