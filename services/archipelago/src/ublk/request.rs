//! One request: what it asks for, whether the disk can be asked for that, and the call of the disk.

use std::io::{IoSlice, IoSliceMut};

use super::wire::{Description, SECTOR, flag, operation};
use crate::disk::device::{Device, DeviceResult, Errno};

/// What a request asks for. Offsets and lengths are bytes, and within the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Read into the buffer.
    Read {
        /// From where.
        offset: u64,
        /// How much.
        len: usize,
    },
    /// Write what is in the buffer.
    Write {
        /// To where.
        offset: u64,
        /// How much.
        len: usize,
        /// Durable when it ends.
        fua: bool,
    },
    /// Make durable what was written.
    Flush,
    /// Give room up.
    Discard {
        /// From where.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// Have zeros.
    WriteZeroes {
        /// From where.
        offset: u64,
        /// How much.
        len: u64,
        /// Keep room for them.
        allocate: bool,
        /// Durable when it ends.
        fua: bool,
    },
}

impl Call {
    /// What a request asks for, of a disk of this size that is read only or not, with buffers of so many bytes.
    pub fn of(request: &Description, size: u64, read_only: bool, buffer: usize) -> DeviceResult<Call> {
        let changes = matches!(request.operation, operation::WRITE | operation::DISCARD | operation::WRITE_ZEROES);
        if changes && read_only {
            return Err(Errno(libc::EROFS));
        }
        if request.operation == operation::FLUSH {
            return Ok(Call::Flush);
        }
        let offset = request.start.checked_mul(SECTOR).ok_or(Errno(libc::EIO))?;
        let len = u64::from(request.sectors) * SECTOR;
        // The disk may have become smaller.
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(Errno(libc::EIO));
        }
        let fua = request.flags & flag::FUA != 0;
        let in_buffer = || usize::try_from(len).ok().filter(|len| *len <= buffer).ok_or(Errno(libc::EIO));
        match request.operation {
            operation::READ => Ok(Call::Read { offset, len: in_buffer()? }),
            operation::WRITE => Ok(Call::Write { offset, len: in_buffer()?, fua }),
            operation::DISCARD => Ok(Call::Discard { offset, len }),
            operation::WRITE_ZEROES => {
                Ok(Call::WriteZeroes { offset, len, allocate: request.flags & flag::NO_UNMAP != 0, fua })
            }
            _ => Err(Errno(libc::EOPNOTSUPP)),
        }
    }

    /// Bytes of the buffer that it uses.
    pub fn in_buffer(&self) -> usize {
        match self {
            Call::Read { len, .. } | Call::Write { len, .. } => *len,
            _ => 0,
        }
    }

    /// How the kernel is told that it succeeded: the bytes that were moved.
    pub fn done(&self) -> i32 {
        // No buffer is as large as that.
        i32::try_from(self.in_buffer()).unwrap_or(i32::MAX)
    }

    /// Whether it may take so long that nobody should wait for its end to hear of his own.
    pub fn may_take_long(&self, long: usize) -> bool {
        match self {
            Call::Read { len, .. } => *len >= long,
            Call::Write { len, fua, .. } => *fua || *len >= long,
            _ => true,
        }
    }

    /// Carries it out, with as much of its buffer as it uses.
    pub fn carry_out(&self, disk: &dyn Device, buffer: &mut [u8]) -> DeviceResult<()> {
        match *self {
            Call::Read { offset, .. } => disk.read(&mut [IoSliceMut::new(buffer)], offset),
            Call::Write { offset, fua, .. } => disk.write(&[IoSlice::new(buffer)], offset, fua),
            Call::Flush => disk.flush(),
            Call::Discard { offset, len } => disk.discard(offset, len),
            Call::WriteZeroes { offset, len, allocate, fua } => disk.write_zeroes(offset, len, allocate, fua),
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::disk::device::Extent;

    const SIZE: u64 = 1 << 20;
    const BUFFER: usize = 64 << 10;

    /// Says what was called.
    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl Told {
        fn note(&self, text: String) -> DeviceResult<()> {
            self.0.lock().push(text);
            Ok(())
        }
    }

    impl Device for Told {
        fn size(&self) -> u64 {
            SIZE
        }
        fn block_size(&self) -> u32 {
            4096
        }
        fn read_only(&self) -> bool {
            false
        }
        fn description(&self) -> String {
            String::new()
        }
        fn read(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> DeviceResult<()> {
            bufs.iter_mut().for_each(|buf| buf.fill(7));
            self.note(format!("read {} at {offset}", bufs[0].len()))
        }
        fn write(&self, bufs: &[IoSlice<'_>], offset: u64, fua: bool) -> DeviceResult<()> {
            self.note(format!("write {} at {offset} {fua}", bufs[0].len()))
        }
        fn flush(&self) -> DeviceResult<()> {
            self.note("flush".into())
        }
        fn discard(&self, offset: u64, len: u64) -> DeviceResult<()> {
            self.note(format!("discard {len} at {offset}"))
        }
        fn write_zeroes(&self, offset: u64, len: u64, allocate: bool, fua: bool) -> DeviceResult<()> {
            self.note(format!("zero {len} at {offset} {allocate} {fua}"))
        }
        fn extents(&self, _: u64, _: u64, _: usize) -> DeviceResult<Vec<Extent>> {
            Ok(Vec::new())
        }
    }

    fn asked(operation: u8, flags: u32, start: u64, sectors: u32) -> Description {
        Description { operation, flags, sectors, start }
    }

    fn understood(request: Description) -> DeviceResult<Call> {
        Call::of(&request, SIZE, false, BUFFER)
    }

    #[test]
    fn requests_become_the_calls_of_a_disk_that_they_ask_for() {
        let disk = Told::default();
        for (request, done) in [
            (asked(operation::READ, 0, 2, 8), 4096),
            (asked(operation::WRITE, 0, 2040, 8), 4096),
            (asked(operation::WRITE, flag::FUA, 0, 1), 512),
            (asked(operation::FLUSH, 0, 0, 0), 0),
            (asked(operation::DISCARD, 0, 8, 2040), 0),
            (asked(operation::WRITE_ZEROES, flag::NO_UNMAP, 0, 2048), 0),
            (asked(operation::WRITE_ZEROES, flag::FUA, 0, 1), 0),
        ] {
            let call = understood(request).unwrap();
            let mut buffer = vec![0; call.in_buffer()];
            call.carry_out(&disk, &mut buffer).unwrap();
            assert_eq!(call.done(), done, "{call:?}");
            assert_eq!(buffer.first() == Some(&7), request.operation == operation::READ);
        }
        let told = disk.0.into_inner();
        assert_eq!(
            told,
            [
                "read 4096 at 1024",
                "write 4096 at 1044480 false",
                "write 512 at 0 true",
                "flush",
                "discard 1044480 at 4096",
                "zero 1048576 at 0 true false",
                "zero 512 at 0 false true",
            ]
        );
    }

    #[test]
    fn nothing_reaches_a_disk_past_its_end_or_past_a_buffer_or_that_it_cannot_do() {
        let failed = |request, errno| assert_eq!(understood(request), Err(Errno(errno)), "{request:?}");
        for kind in [operation::READ, operation::WRITE, operation::DISCARD, operation::WRITE_ZEROES] {
            failed(asked(kind, 0, 2048, 1), libc::EIO);
            failed(asked(kind, 0, 2047, 2), libc::EIO);
            failed(asked(kind, 0, u64::MAX, 1), libc::EIO);
            failed(asked(kind, 0, u64::MAX / SECTOR, u32::MAX), libc::EIO);
        }
        failed(asked(operation::READ, 0, 0, 129), libc::EIO);
        failed(asked(operation::WRITE, 0, 0, 129), libc::EIO);
        // Write the same block again and again; report zones.
        failed(asked(4, 0, 0, 1), libc::EOPNOTSUPP);
        failed(asked(18, 0, 0, 1), libc::EOPNOTSUPP);
    }

    #[test]
    fn what_is_read_only_is_read_and_flushed_only() {
        let of = |kind| Call::of(&asked(kind, 0, 0, 8), SIZE, true, BUFFER);
        for kind in [operation::WRITE, operation::DISCARD, operation::WRITE_ZEROES] {
            assert_eq!(of(kind), Err(Errno(libc::EROFS)));
        }
        assert_eq!(of(operation::READ), Ok(Call::Read { offset: 0, len: 4096 }));
        assert_eq!(of(operation::FLUSH), Ok(Call::Flush));
    }

    #[test]
    fn answers_wait_for_nothing_that_takes_long() {
        let long = |request| understood(request).unwrap().may_take_long(4096);
        assert!(!long(asked(operation::READ, 0, 0, 7)) && !long(asked(operation::WRITE, 0, 0, 7)));
        assert!(long(asked(operation::READ, 0, 0, 8)) && long(asked(operation::WRITE, flag::FUA, 0, 1)));
        assert!(long(asked(operation::FLUSH, 0, 0, 0)) && long(asked(operation::DISCARD, 0, 0, 1)));
    }
}
