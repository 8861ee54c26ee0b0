//! What the library is measured against: plain calls and io_uring on one sparse file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use io_uring::{IoUring, opcode, types};

use super::{Contender, Kind, Numbers, Outcome, REQUEST, place};

/// Makes the file, all of it written.
pub fn prepare(path: &Path, size: u64) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    file.set_len(size)?;
    // In the calls in which the library writes: ext4 makes folios of what is written at once, and an overwrite costs the more the larger
    // the folio is (some 80 us in one of 2 MiB). So what is compared is not how the files came to be.
    let block = vec![7; 32 << 10];
    (0..size).step_by(block.len()).try_for_each(|at| file.write_all_at(&block, at))?;
    file.sync_all()
}

/// Whether the page cache takes part.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// It does.
    Pages,
    /// `O_DIRECT`.
    Direct,
}

fn open(path: &Path, cache: Cache) -> io::Result<File> {
    let flags = if cache == Cache::Direct { libc::O_DIRECT } else { 0 };
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// A buffer of one request, aligned as `O_DIRECT` wants it.
#[derive(Clone)]
#[repr(align(4096))]
pub struct Buffer(pub [u8; REQUEST]);

/// `pread` and `pwrite`, one at a time whatever the depth.
pub struct Plain {
    file: File,
    buf: Vec<u8>,
}

impl Plain {
    /// On this file.
    pub fn new(path: &Path) -> io::Result<Plain> {
        Ok(Plain { file: open(path, Cache::Pages)?, buf: vec![3; REQUEST] })
    }
}

impl Contender for Plain {
    fn run(&mut self, kind: Kind, count: u64, numbers: &mut Numbers) -> Outcome {
        for _ in 0..count {
            let at = place(numbers);
            if kind == Kind::Read {
                self.file.read_exact_at(&mut self.buf, at)?;
                continue;
            }
            self.file.write_all_at(&self.buf, at)?;
            if kind == Kind::Durable {
                self.file.sync_data()?;
            }
        }
        Ok(())
    }
}

/// io_uring with a registered file and that many requests under way.
pub struct Ring {
    // Before the buffers: a ring that is closed waits for what is under way.
    ring: IoUring,
    file: File,
    bufs: Vec<Buffer>,
    free: Vec<usize>,
}

impl Ring {
    /// On this file.
    pub fn new(path: &Path, depth: usize, cache: Cache) -> io::Result<Ring> {
        let (file, ring) = (open(path, cache)?, IoUring::new(depth as u32)?);
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        Ok(Ring { ring, file, bufs: vec![Buffer([3; REQUEST]); depth], free: (0..depth).collect() })
    }

    fn reap(&mut self, at_least: usize) -> io::Result<()> {
        self.ring.submit_and_wait(at_least)?;
        let mut outcome = Ok(());
        for entry in self.ring.completion() {
            // Also one that failed is under way no more.
            self.free.push(entry.user_data() as usize);
            match entry.result() {
                n if n < 0 => outcome = Err(io::Error::from_raw_os_error(-n)),
                n if n as usize != REQUEST => outcome = Err(io::Error::other(format!("{n} bytes of a request"))),
                _ => {}
            }
        }
        outcome
    }
}

impl Contender for Ring {
    fn run(&mut self, kind: Kind, count: u64, numbers: &mut Numbers) -> Outcome {
        for _ in 0..count {
            if self.free.is_empty() {
                self.reap(1)?;
            }
            let Some(i) = self.free.pop() else { continue };
            let (at, buf) = (place(numbers), self.bufs[i].0.as_mut_ptr());
            let entry = match kind {
                Kind::Read => opcode::Read::new(types::Fixed(0), buf, REQUEST as u32).offset(at).build(),
                _ => opcode::Write::new(types::Fixed(0), buf, REQUEST as u32).offset(at).build(),
            };
            // SAFETY: the buffer is this request's alone until its completion puts its number back into `free`, and lives
            // longer than the ring.
            unsafe { self.ring.submission().push(&entry.user_data(i as u64)) }?;
            if kind == Kind::Durable {
                self.reap(1)?;
                self.file.sync_data()?;
            }
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.free.len() < self.bufs.len() {
            if self.reap(1).is_err() {
                // The kernel may still write to them.
                std::mem::forget(std::mem::take(&mut self.bufs));
                return;
            }
        }
    }
}
