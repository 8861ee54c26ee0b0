//! A block device or a file: plain calls at depth 1, io_uring above.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::super::args::Bench;
use super::super::plan::{Kind, Objects, Plan, Request};
use super::ring::Ring;
use super::{Ended, Target};
use crate::cli::exit::Failure;

/// Buffers begin at a multiple of this: what `O_DIRECT` may ask for.
const ALIGNMENT: usize = 4096;

/// Opens it.
pub fn open(args: &Bench, path: &Path) -> Result<(Plan, Box<dyn Target>), Failure> {
    let name = path.display().to_string();
    let failed = |op| move |e| Failure::host(op, path.display(), e);
    let writes = Plan::new(args, Objects::Target, args.os.or(Some(args.bs)))?.writes();
    let flags = if args.direct { libc::O_DIRECT } else { 0 };
    let file = OpenOptions::new().read(true).write(writes).custom_flags(flags).open(path).map_err(failed("open"))?;
    let kind = file.metadata().map_err(failed("look at"))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Failure::Usage(format!("{name}: neither a block device nor a file")));
    }
    let end = |e: Errno| Failure::host("seek in", &name, e.into());
    let size = lseek(&file, 0, Whence::SeekEnd).map_err(end)? as u64;
    let plan = Plan::new(args, Objects::Target, Some(size))?;
    if writes && !args.overwrite && !(kind.is_file() && is_hole(&file).map_err(end)?) {
        return Err(Failure::HasData(name));
    }
    let mut bufs: Vec<Aligned> = (0..plan.depth).map(|_| Aligned::new(plan.request_size as usize)).collect();
    bufs.iter_mut().for_each(|buf| plan.content().prepare(buf.bytes()));
    let ended = Vec::new();
    if plan.depth == 1 {
        return Ok((plan, Box::new(Plain { file, name, bufs, ended, direct: args.direct })));
    }
    let ring =
        Ring::new(file, bufs).map_err(failed("io_uring is not to be had here, so that only --iodepth 1 is, for"))?;
    Ok((plan, Box::new(Queued { ring, name, direct: args.direct })))
}

/// Whether there is nothing but one hole.
fn is_hole(file: &File) -> Result<bool, Errno> {
    match lseek(file, 0, Whence::SeekData) {
        Err(Errno::ENXIO) => Ok(true),
        other => other.map(|_| false),
    }
}

/// Memory at an alignment.
pub struct Aligned {
    memory: Vec<u8>,
    begin: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Aligned {
        let memory = vec![0; len + ALIGNMENT];
        let begin = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Aligned { memory, begin, len }
    }

    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..self.begin + self.len]
    }
}

/// `pread` and `pwrite`, one after another.
struct Plain {
    file: File,
    name: String,
    bufs: Vec<Aligned>,
    ended: Vec<Ended>,
    direct: bool,
}

impl Target for Plain {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn buffer(&mut self, tag: usize) -> &mut [u8] {
        self.bufs[tag].bytes()
    }

    fn start(&mut self, tag: usize, request: Request) -> Result<(), Failure> {
        let buf = self.bufs[tag].bytes();
        let result = match request.kind {
            Kind::Write => self.file.write_all_at(buf, request.offset),
            _ => self.file.read_exact_at(buf, request.offset),
        };
        let failed = |e| Failure::host(request.kind.word(), &self.name, e);
        self.ended.push(Ended { tag, result: result.map_err(failed) });
        Ok(())
    }

    fn wait(&mut self, ended: &mut Vec<Ended>) -> Result<(), Failure> {
        ended.append(&mut self.ended);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.file.sync_data().map_err(|e| Failure::host("sync", &self.name, e))
    }

    fn copies(&self) -> Option<u32> {
        Some(u32::from(!self.direct))
    }
}

/// io_uring.
struct Queued {
    ring: Ring,
    name: String,
    direct: bool,
}

impl Target for Queued {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn buffer(&mut self, tag: usize) -> &mut [u8] {
        self.ring.buffer(tag)
    }

    fn start(&mut self, tag: usize, request: Request) -> Result<(), Failure> {
        self.ring
            .push(tag, request.kind == Kind::Write, request.offset)
            .map_err(|e| Failure::host(request.kind.word(), &self.name, e))
    }

    fn wait(&mut self, ended: &mut Vec<Ended>) -> Result<(), Failure> {
        let name = &self.name;
        let each = &mut |tag, result: io::Result<()>| {
            ended.push(Ended { tag, result: result.map_err(|e| Failure::host("ask", name, e)) });
        };
        self.ring.wait(each).map_err(|e| Failure::host("ask", name, e))
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.ring.file().sync_data().map_err(|e| Failure::host("sync", &self.name, e))
    }

    fn copies(&self) -> Option<u32> {
        Some(u32::from(!self.direct))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_as_long_as_asked_for() {
        for len in [512, 4096, 1 << 20] {
            let mut buf = Aligned::new(len);
            assert_eq!(buf.bytes().len(), len);
            assert!(buf.bytes().as_ptr().addr().is_multiple_of(ALIGNMENT));
        }
    }
}
