//! A small read-only reader of qcow2 images, versions 2 and 3. `docs/qcow2.md` lists what is accepted.
//!
//! The image is hostile until shown otherwise. No file name in it is ever followed, nothing outside the file is read, no
//! memory is taken on the word of a header beyond a stated limit, and every host cluster may be used once only, so that a
//! small file cannot make the reader work for ever. Reference counts and internal snapshots are not looked at.

mod compressed;
mod header;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use header::Header;

use super::{Image, ImageError, PIECE};

/// Bits of an L1 or L2 entry that hold a host offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Set in an L1 or L2 entry whose cluster has exactly one reference; says nothing about the data.
const COPIED: u64 = 1 << 63;
/// Set in an L2 entry of a compressed cluster.
const COMPRESSED: u64 = 1 << 62;
/// Set in an L2 entry whose cluster reads as zeros (version 3, not with extended entries).
const ZERO: u64 = 1;
/// Subclusters of a cluster with extended L2 entries.
const SUBCLUSTERS: u64 = 32;

/// Where the bytes of an image come from. The length is fixed when it is opened.
trait Bytes: Send {
    fn len(&self) -> u64;
    /// Only called for ranges below `len`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

struct Opened {
    file: File,
    len: u64,
}

impl Bytes for Opened {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

/// Opens a qcow2 image. Only regular files: the reader needs to go back and forth, and a length to check offsets against.
pub fn open(path: &Path) -> Result<Box<dyn Image>, ImageError> {
    if path == Path::new("-") {
        let reason = "a qcow2 image cannot be read from a pipe; save it to a file first";
        return Err(ImageError::refused(Path::new("standard input"), reason));
    }
    let file = File::open(path).map_err(|e| ImageError::io("open", path, e))?;
    let meta = file.metadata().map_err(|e| ImageError::io("examine", path, e))?;
    if !meta.is_file() {
        return Err(ImageError::refused(path, "is not a regular file; copy the qcow2 image to one first"));
    }
    Ok(Box::new(Qcow2::new(path.to_path_buf(), Opened { file, len: meta.len() })?))
}

/// An image in memory, which panics when it is asked for what it does not have.
#[cfg(feature = "fuzzing")]
impl Bytes for Vec<u8> {
    fn len(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = offset as usize;
        buf.copy_from_slice(&self[start..start + buf.len()]);
        Ok(())
    }
}

/// Opens an image in memory.
#[cfg(feature = "fuzzing")]
pub(crate) fn in_memory(bytes: Vec<u8>) -> Result<Box<dyn Image>, ImageError> {
    Ok(Box::new(Qcow2::new(PathBuf::from("image"), bytes)?))
}

/// What an L2 entry says about its cluster.
#[derive(Debug, PartialEq, Eq)]
enum Cluster {
    /// Reads as zeros.
    Zero,
    /// At this host offset; with the bits of the subclusters that hold data.
    Data { host: u64, subclusters: u32 },
    /// Compressed, in these host bytes.
    Compressed { host: u64, len: u64 },
}

struct Qcow2<B> {
    path: PathBuf,
    bytes: B,
    header: Header,
    /// L1 entries up to the end of the disk.
    l1: Vec<u64>,
    /// The L2 table last used, and which L1 entry named it.
    l2: Vec<u8>,
    l2_of: Option<u64>,
    /// The next guest cluster to look at.
    cluster: u64,
    /// Host bytes that may still be used; see [`Qcow2::spend`].
    budget: u64,
    /// One cluster, and the compressed bytes of one.
    plain: Vec<u8>,
    packed: Vec<u8>,
}

impl<B: Bytes> Qcow2<B> {
    fn new(path: PathBuf, bytes: B) -> Result<Qcow2<B>, ImageError> {
        let mut start = [0; header::LEN];
        let len = (header::LEN as u64).min(bytes.len()) as usize;
        bytes.read_exact_at(&mut start[..len], 0).map_err(|e| ImageError::io("read", &path, e))?;
        let header = Header::parse(&path, &start[..len])?;
        let budget = bytes.len();
        let mut image = Qcow2 {
            path,
            bytes,
            header,
            l1: Vec::new(),
            l2: Vec::new(),
            l2_of: None,
            cluster: 0,
            budget,
            plain: Vec::new(),
            packed: Vec::new(),
        };
        image.load_l1()?;
        Ok(image)
    }

    fn damaged(&self, detail: impl Into<String>) -> ImageError {
        ImageError::damaged(&self.path, detail)
    }

    fn cluster_size(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    /// Reads host bytes; the only way to them. A range that leaves the file is damage.
    fn read(&self, buf: &mut [u8], offset: u64, what: &str) -> Result<(), ImageError> {
        let len = self.bytes.len();
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= len => {
                self.bytes.read_exact_at(buf, offset).map_err(|e| ImageError::io("read", &self.path, e))
            }
            _ => {
                let n = buf.len();
                Err(self.damaged(format!("{what}: {n} bytes at offset {offset} leave the file of {len} bytes")))
            }
        }
    }

    /// Accounts for host bytes that the map uses. In a sound image each is used once, so that the sum stays below the
    /// length of the file; a map that names the same clusters again and again would turn kilobytes into petabytes.
    fn spend(&mut self, bytes: u64) -> Result<(), ImageError> {
        match self.budget.checked_sub(bytes) {
            Some(left) => self.budget = left,
            None => return Err(self.damaged("its map uses the same clusters more than once")),
        }
        Ok(())
    }

    fn load_l1(&mut self) -> Result<(), ImageError> {
        let needed = self.header.size.div_ceil(self.cluster_size() * self.header.l2_entries());
        if needed > u64::from(self.header.l1_entries) {
            let have = self.header.l1_entries;
            return Err(self.damaged(format!("its L1 table has {have} entries, but its size needs {needed}")));
        }
        // The table was found to be at most 32 MiB; it must also be in the file before memory is taken for it.
        let bytes = needed * 8;
        if self.header.l1_offset.checked_add(bytes).is_none_or(|end| end > self.bytes.len()) {
            return Err(self.damaged("its L1 table leaves the file"));
        }
        let mut raw = vec![0; bytes as usize];
        self.read(&mut raw, self.header.l1_offset, "L1 table")?;
        self.l1 = raw.chunks_exact(8).map(be64).collect();
        Ok(())
    }

    /// The next guest cluster at or after `self.cluster` that is not zero, and where its data is.
    fn next_cluster(&mut self) -> Result<Option<(u64, Cluster)>, ImageError> {
        let clusters = self.header.size.div_ceil(self.cluster_size());
        let per_table = self.header.l2_entries();
        while self.cluster < clusters {
            let guest = self.cluster;
            let (table, index) = (guest / per_table, guest % per_table);
            if !self.load_l2(table)? {
                self.cluster = (table + 1) * per_table;
                continue;
            }
            self.cluster += 1;
            match self.entry(index)? {
                Cluster::Zero => {}
                used => return Ok(Some((guest, used))),
            }
        }
        Ok(None)
    }

    /// Makes the L2 table of an L1 entry the current one; false if there is none.
    fn load_l2(&mut self, table: u64) -> Result<bool, ImageError> {
        if self.l2_of == Some(table) {
            return Ok(true);
        }
        let entry = self.l1[table as usize];
        if entry & !(OFFSET | COPIED) != 0 {
            return Err(self.damaged(format!("L1 entry {table} has reserved bits set")));
        }
        let host = entry & OFFSET;
        if host == 0 {
            return Ok(false);
        }
        if !host.is_multiple_of(self.cluster_size()) {
            return Err(self.damaged(format!("L1 entry {table} is not on a cluster boundary")));
        }
        self.spend(self.cluster_size())?;
        let mut l2 = std::mem::take(&mut self.l2);
        l2.resize(self.cluster_size() as usize, 0);
        self.l2_of = None;
        self.read(&mut l2, host, "L2 table")?;
        self.l2 = l2;
        self.l2_of = Some(table);
        Ok(true)
    }

    /// Decodes one entry of the current L2 table.
    fn entry(&self, index: u64) -> Result<Cluster, ImageError> {
        let width = self.header.l2_entry_size();
        let at = (index * width) as usize;
        let entry = be64(&self.l2[at..at + 8]);
        if entry & COMPRESSED != 0 {
            return Ok(self.compressed_entry(entry));
        }
        let zero_flag = if self.header.version >= 3 && !self.header.extended_l2 { ZERO } else { 0 };
        if entry & !(OFFSET | COPIED | zero_flag) != 0 {
            return Err(self.damaged(format!("an L2 entry ({entry:#018x}) has reserved bits set")));
        }
        let host = entry & OFFSET;
        if !host.is_multiple_of(self.cluster_size()) {
            return Err(self.damaged(format!("an L2 entry ({entry:#018x}) is not on a cluster boundary")));
        }
        let subclusters = if self.header.extended_l2 {
            let bitmap = be64(&self.l2[at + 8..at + 16]);
            let (allocated, zero) = (bitmap as u32, (bitmap >> 32) as u32);
            if allocated & zero != 0 {
                return Err(self.damaged("a subcluster is both allocated and zero"));
            }
            if host == 0 && allocated != 0 {
                return Err(self.damaged("a subcluster is allocated without a cluster"));
            }
            allocated
        } else if entry & zero_flag != 0 || host == 0 {
            0
        } else {
            u32::MAX
        };
        Ok(if subclusters == 0 { Cluster::Zero } else { Cluster::Data { host, subclusters } })
    }

    fn compressed_entry(&self, entry: u64) -> Cluster {
        // The fewer bits a cluster has, the more of the entry is offset: 62 - (cluster_bits - 8) of them.
        let offset_bits = 70 - self.header.cluster_bits;
        let host = entry & ((1 << offset_bits) - 1);
        let more = (entry & (COMPRESSED - 1)) >> offset_bits;
        Cluster::Compressed { host, len: (more + 1) * 512 - host % 512 }
    }

    /// Copies a cluster's data to the start of `out`, which is the cluster cut at the end of the disk.
    fn read_cluster(&mut self, cluster: &Cluster, out: &mut [u8]) -> Result<(), ImageError> {
        match *cluster {
            Cluster::Zero => Ok(()),
            Cluster::Data { host, subclusters: u32::MAX } => {
                self.spend(out.len() as u64)?;
                self.read(out, host, "cluster")
            }
            Cluster::Data { host, subclusters } => {
                let size = self.cluster_size() / SUBCLUSTERS;
                for (i, part) in out.chunks_mut(size as usize).enumerate() {
                    if subclusters & (1 << i) != 0 {
                        self.spend(part.len() as u64)?;
                        self.read(part, host + i as u64 * size, "subcluster")?;
                    }
                }
                Ok(())
            }
            Cluster::Compressed { host, len } => self.read_compressed(host, len, out),
        }
    }

    fn read_compressed(&mut self, host: u64, len: u64, out: &mut [u8]) -> Result<(), ImageError> {
        // The length is counted in sectors; the last one may belong to the next cluster, or end behind the file.
        self.spend(len.saturating_sub(511).max(1))?;
        let len = len.min(self.bytes.len().saturating_sub(host));
        if len == 0 {
            return Err(self.damaged(format!("a compressed cluster at offset {host} lies behind the end of the file")));
        }
        let mut packed = std::mem::take(&mut self.packed);
        packed.resize(len as usize, 0);
        self.read(&mut packed, host, "compressed cluster")?;
        let mut plain = std::mem::take(&mut self.plain);
        plain.resize(self.cluster_size() as usize, 0);
        let result = compressed::unpack(self.header.compression, &packed, &mut plain);
        match result {
            Ok(()) => out.copy_from_slice(&plain[..out.len()]),
            Err(reason) => return Err(self.damaged(format!("a compressed cluster at offset {host}: {reason}"))),
        }
        (self.packed, self.plain) = (packed, plain);
        Ok(())
    }
}

impl<B: Bytes> Image for Qcow2<B> {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> Option<u64> {
        Some(self.header.size)
    }

    fn next_piece(&mut self, buf: &mut Vec<u8>) -> Result<Option<u64>, ImageError> {
        let cluster_size = self.cluster_size();
        let Some((guest, first)) = self.next_cluster()? else { return Ok(None) };
        // No overflow: the guest offset is below the size of the disk, at most 4 PiB. A cluster never spans two pieces,
        // because both are powers of two and the largest cluster is 2 MiB.
        let start = guest * cluster_size / PIECE * PIECE;
        let end = (start + PIECE).min(self.header.size);
        buf.clear();
        buf.resize((end - start) as usize, 0);
        let mut next = Some((guest, first));
        while let Some((guest, cluster)) = next {
            let offset = guest * cluster_size;
            if offset >= end {
                // Belongs to the next piece: step back, so that it is found again.
                self.cluster = guest;
                break;
            }
            let stop = (offset + cluster_size).min(end);
            self.read_cluster(&cluster, &mut buf[(offset - start) as usize..(stop - start) as usize])?;
            next = if stop < end { self.next_cluster()? } else { None };
        }
        Ok(Some(start))
    }
}

fn be64(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
