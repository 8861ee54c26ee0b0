//! io_uring over one file, with a buffer for each request that may be under way.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};

use super::file::Aligned;

/// Requests of one size. What is under way when it is dropped is waited for.
pub struct Ring {
    // Before the buffers: a ring that is closed waits for what is under way.
    ring: IoUring,
    file: File,
    bufs: Vec<Aligned>,
    under_way: Vec<bool>,
}

impl Ring {
    /// On this file, with these buffers.
    pub fn new(file: File, bufs: Vec<Aligned>) -> io::Result<Ring> {
        let ring = IoUring::new(bufs.len() as u32)?;
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        let under_way = vec![false; bufs.len()];
        Ok(Ring { ring, file, bufs, under_way })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The buffer of a request that is not under way.
    pub fn buffer(&mut self, tag: usize) -> &mut [u8] {
        assert!(!self.under_way[tag], "the kernel has this buffer");
        self.bufs[tag].bytes()
    }

    /// Queues a request; the next wait hands it to the kernel.
    pub fn push(&mut self, tag: usize, write: bool, offset: u64) -> io::Result<()> {
        let buf = self.buffer(tag);
        let (at, len) = (buf.as_mut_ptr(), buf.len() as u32);
        let entry = if write {
            opcode::Write::new(types::Fixed(0), at, len).offset(offset).build()
        } else {
            opcode::Read::new(types::Fixed(0), at, len).offset(offset).build()
        };
        // SAFETY: nobody is given the buffer while `under_way` says that the kernel has it, which its completion alone ends, and it
        // lives longer than the ring: drop order, and `drop` below where the ring cannot be waited for.
        unsafe { self.ring.submission().push(&entry.user_data(tag as u64)) }.map_err(io::Error::other)?;
        self.under_way[tag] = true;
        Ok(())
    }

    /// Waits for at least one request, and hands out the ends of those that are there.
    pub fn wait(&mut self, each: &mut dyn FnMut(usize, io::Result<()>)) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map(|_| ())?,
            }
        }
        for entry in self.ring.completion() {
            let tag = entry.user_data() as usize;
            self.under_way[tag] = false;
            let result = match entry.result() {
                n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
                n if n as usize != self.bufs[tag].bytes().len() => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            };
            each(tag, result);
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.under_way.contains(&true) {
            if self.wait(&mut |_, _| {}).is_err() {
                // The kernel may still write to them.
                mem::forget(mem::take(&mut self.bufs));
                return;
            }
        }
    }
}
