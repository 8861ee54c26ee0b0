//! Disk images from outside.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use arbitrary::{Arbitrary, Unstructured};
use archipelago_core::Error;
use archipelago_service::fuzzing::{qcow2, raw_stream};
use archipelago_service::import::{self, Image, ImageError, PIECE, Target as Sink};

use super::{mode, with_mode};
use crate::Target;

/// A qcow2 image. Mode bit 0 puts magic and version right, bit 1 the feature bits and what must be zero.
pub const QCOW2: Target =
    Target { name: "qcow2", check: check_qcow2, seeds: qcow2_seeds, max_len: 16 << 10, memory: 40 << 20, cost: 1 };

/// Pieces that are read of one image.
const MAX_PIECES: usize = 8;

fn check_qcow2(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let mut bytes = bytes.to_vec();
    if mode & 1 != 0 && bytes.len() >= 8 {
        bytes[..4].copy_from_slice(b"QFI\xfb");
        let version = if bytes[7] == 2 { 2 } else { 3 };
        bytes[4..8].copy_from_slice(&[0, 0, 0, version]);
    }
    if mode & 2 != 0 && bytes.len() >= 104 {
        bytes[8..20].fill(0);
        bytes[32..36].fill(0);
        bytes[72..79].fill(0);
        bytes[79] &= 0b0001_1000;
        bytes[100..104].copy_from_slice(&[0, 0, 0, 104 + (mode & 8)]);
    }
    let first = read(bytes.clone());
    // The same bytes are the same disk.
    assert!(first == read(bytes), "read twice, with two results");
}

/// The pieces of an image, or how it fails.
fn read(bytes: Vec<u8>) -> (Vec<(u64, [u8; 32])>, Option<String>) {
    let mut pieces = Vec::new();
    let failed = |error: ImageError| {
        assert!(matches!(error, ImageError::Refused { .. } | ImageError::Damaged { .. }), "{error:?}");
        Some(error.to_string())
    };
    let mut image = match qcow2(bytes) {
        Ok(image) => image,
        Err(error) => return (pieces, failed(error)),
    };
    let size = image.size().expect("a file has a size");
    assert!((1..=4 << 50).contains(&size));
    let mut buf = Vec::new();
    while pieces.len() < MAX_PIECES {
        match image.next_piece(&mut buf) {
            Ok(None) => break,
            Ok(Some(at)) => {
                assert!(at.is_multiple_of(PIECE) && at < size && buf.len() as u64 == PIECE.min(size - at));
                assert!(pieces.last().is_none_or(|(last, _)| at > *last));
                pieces.push((at, *blake3::hash(&buf).as_bytes()));
            }
            Err(error) => return (pieces, failed(error)),
        }
    }
    (pieces, None)
}

fn qcow2_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (version, extended, compressed) in [(2u32, false, false), (3, false, true), (3, true, false)] {
        let bits = if extended { 14u32 } else { 9 };
        let cluster = 1usize << bits;
        let mut image = vec![0; 4 * cluster];
        let mut put = |at: usize, bytes: &[u8]| {
            if image.len() < at + bytes.len() {
                image.resize(at + bytes.len(), 0);
            }
            image[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, b"QFI\xfb");
        put(4, &version.to_be_bytes());
        put(20, &bits.to_be_bytes());
        // Nine clusters, the last one cut short.
        put(24, &(9 * cluster as u64 - 100).to_be_bytes());
        put(36, &1u32.to_be_bytes());
        put(40, &(cluster as u64).to_be_bytes());
        put(72, &(if extended { 16u64 } else { 0 }).to_be_bytes());
        put(96, &4u32.to_be_bytes());
        put(100, &104u32.to_be_bytes());
        put(cluster, &((2 * cluster as u64) | 1 << 63).to_be_bytes());
        let entry = if extended { 16 } else { 8 };
        put(2 * cluster + entry, &((3 * cluster as u64) | 1 << 63).to_be_bytes());
        put(3 * cluster, &[0x5a; 300]);
        if extended {
            put(2 * cluster + entry + 8, &(0x0000_0002_0000_0001u64).to_be_bytes());
        } else if version == 3 {
            put(2 * cluster + 2 * entry, &1u64.to_be_bytes());
        }
        if compressed {
            // One stored block of raw deflate: 512 bytes of 0x33.
            let host = 4 * cluster as u64;
            put(2 * cluster + 8 * entry, &(host | 1 << (70 - bits) | 1 << 62).to_be_bytes());
            put(host as usize, &[0x01, 0x00, 0x02, 0xff, 0xfd]);
            put(host as usize + 5, &[0x33; 512]);
        }
        let end = image.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
        seeds.extend([0, 3].map(|mode| with_mode(mode, &image[..end])));
    }
    seeds.retain(|seed| seed.len() <= 16 << 10);
    seeds
}

/// Raw images: a sparse file of some size with some data in it, and the same bytes as a stream. The first byte says whether a limit
/// is set below the size.
pub const RAW: Target = Target { name: "raw", check: raw, seeds: raw_seeds, max_len: 96, memory: 96 << 20, cost: 20 };

struct Memory {
    bytes: Vec<u8>,
    written: u64,
}

impl Sink for Memory {
    fn set_size(&mut self, size: u64) -> Result<(), Error> {
        assert!(size >= self.bytes.len() as u64, "made smaller");
        self.bytes.resize(size as usize, 0);
        Ok(())
    }

    fn write(&mut self, data: &[u8], offset: u64) -> Result<(), Error> {
        let offset = offset as usize;
        self.bytes[offset..offset + data.len()].copy_from_slice(data);
        self.written += data.len() as u64;
        Ok(())
    }
}

fn copied(image: Box<dyn Image>, most: u64) -> (Memory, Result<import::Copied, ImageError>) {
    let mut memory = Memory { bytes: Vec::new(), written: 0 };
    let result = import::copy(image, &mut memory, most, &mut |_| Ok(()));
    (memory, result)
}

fn raw(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let mut u = Unstructured::new(bytes);
    let Ok(size) = u32::arbitrary(&mut u) else { return };
    // Often near the border of a piece.
    let size = match mode & 3 {
        0 => u64::from(size) % (2 * PIECE + 100),
        1 => u64::from(size) % 5000,
        _ => (PIECE + u64::from(size % 7)).saturating_sub(3),
    };
    let mut plain = vec![0; size as usize];
    let (_keep, path) = sparse();
    _keep.set_len(size).expect("a file in memory");
    while let Ok((at, len, fill)) = <(u32, u16, u8)>::arbitrary(&mut u)
        && !u.is_empty()
    {
        let start = at as usize % plain.len().max(1);
        let end = (start + usize::from(len)).min(plain.len());
        plain[start..end].fill(fill);
        _keep.write_all_at(&plain[start..end], start as u64).expect("a file in memory");
    }
    let most = if mode & 4 != 0 { size.saturating_sub(u64::from(mode >> 3)) } else { u64::MAX };
    for image in [import::raw::open(&path).expect("a file in memory"), raw_stream(plain.clone())] {
        let (memory, result) = copied(image, most);
        match result {
            Ok(copied) => {
                assert!(size >= 1 && size <= most);
                assert_eq!((copied.size, copied.written), (size, memory.written));
                assert!(memory.bytes == plain);
                // Zeros are written only between two pages of data that lie closer than 64 KiB.
                let pages = plain.chunks(4096).filter(|page| page.iter().any(|b| *b != 0)).count() as u64;
                assert!(copied.written <= pages * (68 << 10), "{} bytes for {pages} pages", copied.written);
            }
            Err(error) => {
                assert!(matches!(error, ImageError::Refused { .. }), "{error:?}");
                assert!(size == 0 || size > most);
            }
        }
    }
}

/// A new file without a name, and a path to it.
fn sparse() -> (File, PathBuf) {
    let file = tempfile::tempfile().expect("a temporary file");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    (file, path)
}

fn raw_seeds() -> Vec<Vec<u8>> {
    let write = |at: u32, len: u16, fill| [&at.to_le_bytes()[..], &len.to_le_bytes(), &[fill]].concat();
    let two = [write(0, 5000, 7), write(PIECE as u32 - 5, 9, 8), vec![0]].concat();
    [(0, 0), (0, 8_388_700), (1, 4096), (1, 1), (2, 3), (2, 6), (4, 4097), (0x0d, 4097)]
        .map(|(mode, size): (u8, u32)| with_mode(mode, &[&size.to_le_bytes()[..], &two].concat()))
        .to_vec()
}
