//! The guest's memory, mapped as the front end says, and its addresses.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use super::limits::MAX_REGIONS;

/// A region of guest memory as a front end describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// First address in the guest.
    pub guest: u64,
    /// Bytes.
    pub len: u64,
    /// First address in the front end.
    pub user: u64,
    /// Where in its file it begins.
    pub offset: u64,
}

/// Memory of a guest. Unmapped when the last queue that works with it is gone.
#[derive(Debug, Default)]
pub struct Memory {
    regions: Vec<Region>,
}

#[derive(Debug)]
struct Region {
    described: Described,
    /// Where the region begins here.
    start: NonNull<u8>,
    /// The mapping, which begins at a page.
    map: NonNull<u8>,
    map_len: usize,
}

// SAFETY: a region is an address and a length; whoever uses the memory behind it does so by raw pointers, the volatile and atomic
// accesses of `ring`, or system calls, for the guest writes it at any time anyway.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Whether two ranges that do not leave the address space have an address in common.
fn overlap(a: u64, a_len: u64, b: u64, b_len: u64) -> bool {
    a < b + b_len && b < a + a_len
}

impl Memory {
    /// Maps a table of regions, each with its file.
    pub fn map(table: &[Described], files: &[OwnedFd]) -> io::Result<Memory> {
        if table.len() > MAX_REGIONS || table.len() != files.len() {
            return Err(invalid(format!("{} regions of memory with {} files", table.len(), files.len())));
        }
        for (n, region) in table.iter().enumerate() {
            let ends = |start: u64| start.checked_add(region.len).is_some_and(|end| end <= i64::MAX as u64);
            // A front end's addresses may lie anywhere below the end.
            let user_ends = region.user.checked_add(region.len).is_some();
            if region.len == 0 || !ends(region.guest) || !user_ends || !ends(region.offset) {
                return Err(invalid(format!("an impossible region of memory: {region:?}")));
            }
            if table[..n].iter().any(|other| {
                overlap(other.guest, other.len, region.guest, region.len)
                    || overlap(other.user, other.len, region.user, region.len)
            }) {
                return Err(invalid(format!("a region of memory that lies across another: {region:?}")));
            }
        }
        let mut memory = Memory::default();
        for (described, file) in table.iter().zip(files) {
            memory.regions.push(Region::map(*described, file)?);
        }
        Ok(memory)
    }

    /// Where `len` bytes of the guest lie here, if they are all of one region.
    pub fn guest(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
        self.regions.iter().find_map(|region| region.at(address.wrapping_sub(region.described.guest), len))
    }

    /// As [`Memory::guest`], by an address of the front end.
    pub fn user(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
        self.regions.iter().find_map(|region| region.at(address.wrapping_sub(region.described.user), len))
    }
}

impl Region {
    fn map(described: Described, file: &OwnedFd) -> io::Result<Region> {
        let stat = nix::sys::stat::fstat(file)?;
        // What lies behind the end of its file would be a signal and not memory.
        if (stat.st_size as u64) < described.offset + described.len {
            return Err(invalid(format!("{described:?} in a file of {} bytes", stat.st_size)));
        }
        // SAFETY: takes no pointer and has no effect.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
        let page = page.max(stat.st_blksize as u64).next_power_of_two();
        let from = described.offset & !(page - 1);
        let map_len = usize::try_from(described.offset - from + described.len).map_err(io::Error::other)?;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_NORESERVE);
        // SAFETY: a new mapping at an address that the kernel chooses; nothing else knows of it.
        let map = unsafe { libc::mmap(ptr::null_mut(), map_len, prot, flags, file.as_raw_fd(), from as libc::off_t) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        // SAFETY: within the mapping, whose length is that of this offset and the region.
        let start = unsafe { map.add((described.offset - from) as usize) };
        // Memory of a guest is in no core dump, and a child has no business with it.
        for advice in [libc::MADV_DONTDUMP, libc::MADV_DONTFORK] {
            // SAFETY: the whole of a mapping of our own; this advice changes nothing of what it holds.
            unsafe { libc::madvise(map.as_ptr().cast(), map_len, advice) };
        }
        Ok(Region { described, start, map, map_len })
    }

    fn at(&self, offset: u64, len: u64) -> Option<NonNull<u8>> {
        let end = offset.checked_add(len)?;
        // SAFETY: the offset is within the region, so within its mapping.
        (end <= self.described.len).then(|| unsafe { self.start.add(offset as usize) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: our own mapping, of which no pointer is used any more: users hold the `Memory` that this region belongs to.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.map_len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: u64) -> OwnedFd {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file.into()
    }

    fn region(guest: u64, len: u64, user: u64, offset: u64) -> Described {
        Described { guest, len, user, offset }
    }

    #[test]
    fn addresses_are_found_within_one_region_only() {
        let table = [region(0x1000, 0x2000, 0x7000_0000, 0), region(0x3000, 0x1000, 0x9000_0000, 0x800)];
        let memory = Memory::map(&table, &[file(0x2000), file(0x2000)]).unwrap();
        let first = memory.guest(0x1000, 0x2000).unwrap();
        assert_eq!(memory.user(0x7000_0010, 16).unwrap().as_ptr(), first.as_ptr().wrapping_add(16));
        assert!(memory.guest(0x3000, 0x1000).is_some());
        for (address, len) in [(0x2fff, 2), (0xfff, 1), (0x4000, 1), (0x1000, u64::MAX), (u64::MAX, 2)] {
            assert_eq!(memory.guest(address, len), None, "{address:#x} {len:#x}");
        }
    }

    #[test]
    fn tables_that_cannot_be_are_refused() {
        let good = region(0, 0x1000, 0x1000, 0);
        for bad in [
            region(0x2000, 0, 0x5000, 0),
            region(0x800, 0x1000, 0x5000, 0),
            region(0x2000, 0x1000, 0x1800, 0),
            region(u64::MAX, 0x1000, 0x5000, 0),
            region(0x2000, 0x1000, u64::MAX, 0),
            region(0x2000, 0x1000, 0x5000, u64::MAX),
            region(0x2000, 0x1000, 0x5000, 0x1000),
            region(0x2000, u64::MAX, 0x5000, 0),
        ] {
            assert!(Memory::map(&[good, bad], &[file(0x1000), file(0x1000)]).is_err(), "{bad:?}");
        }
        assert!(Memory::map(&[good], &[]).is_err());
        assert!(Memory::map(&[good; 9], &std::array::from_fn::<_, 9, _>(|_| file(0x1000))).is_err());
    }
}
