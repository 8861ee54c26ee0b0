//! The header of a qcow2 image: what is accepted, and what is refused with advice.

use std::path::Path;

use archipelago_core::limits::MAX_VOLUME_SIZE;

use super::super::ImageError;

/// Bytes of the header that are looked at; the rest of the first cluster (extensions, a backing file's name) is not.
pub(super) const LEN: usize = 105;
/// Length of a version 2 header, which says nothing about its length.
const LEN_V2: usize = 72;
/// Shortest version 3 header.
const LEN_V3: u32 = 104;
/// Longest L1 table, as in QEMU.
const MAX_L1: u64 = 32 << 20;
/// Smallest and largest cluster: 512 bytes and 2 MiB, as in QEMU.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Smallest cluster with subclusters: 32 of them, none below 512 bytes.
const EXTENDED_CLUSTER_BITS: u32 = 14;

/// Incompatible features: a reader that does not know one must not read the image.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// Raw deflate.
    Deflate,
    /// One zstd frame per cluster.
    Zstd,
}

/// What the reader needs of a header that it accepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    /// 9 to 21.
    pub(super) cluster_bits: u32,
    /// Bytes of the disk: 1 to 4 PiB.
    pub(super) size: u64,
    /// At most 4 Mi.
    pub(super) l1_entries: u32,
    pub(super) l1_offset: u64,
    pub(super) compression: Compression,
    pub(super) extended_l2: bool,
}

impl Header {
    /// Bytes of an L2 entry.
    pub(super) fn l2_entry_size(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Entries of an L2 table, which fills a cluster.
    pub(super) fn l2_entries(&self) -> u64 {
        (1 << self.cluster_bits) / self.l2_entry_size()
    }

    /// Decodes and checks the first bytes of an image.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Header, ImageError> {
        let refused = |reason: String| Err(ImageError::refused(path, reason));
        let damaged = |detail: &str| Err(ImageError::damaged(path, detail));
        if !bytes.starts_with(b"QFI\xfb") {
            return refused("is not a qcow2 image; name its format with --format".into());
        }
        if bytes.len() < LEN_V2 {
            return damaged("the file ends in its header");
        }
        let u32_at = |at: usize| bytes[at..at + 4].iter().fold(0u32, |v, b| v << 8 | u32::from(*b));
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));

        let version = u32_at(4);
        if !(2..=3).contains(&version) {
            return refused(format!("qcow version {version} is not accepted; {CONVERT}"));
        }
        let (incompatible, header_len) = match version {
            2 => (0, LEN_V2 as u32),
            _ if bytes.len() < LEN_V3 as usize => return damaged("the file ends in its header"),
            _ => (u64_at(72), u32_at(100)),
        };
        if version == 3 && header_len < LEN_V3 {
            return damaged("its header is shorter than a version 3 header");
        }
        Self::check_features(path, incompatible)?;
        if u64_at(8) != 0 || u32_at(16) != 0 {
            return refused(format!("has a backing file, which is never opened; {CONVERT}"));
        }
        if u32_at(32) != 0 {
            return refused(format!("is encrypted; {CONVERT}"));
        }
        let extended_l2 = incompatible & EXTENDED_L2 != 0;
        let cluster_bits = u32_at(20);
        if !CLUSTER_BITS.contains(&cluster_bits) || (extended_l2 && cluster_bits < EXTENDED_CLUSTER_BITS) {
            return damaged("its cluster size is out of range");
        }
        let size = u64_at(24);
        if size == 0 {
            return refused("its disk is empty; a volume has at least one byte".into());
        }
        if size > MAX_VOLUME_SIZE {
            return refused(format!("its disk of {size} bytes is larger than 4 PiB"));
        }
        let (l1_entries, l1_offset) = (u32_at(36), u64_at(40));
        if u64::from(l1_entries) * 8 > MAX_L1 {
            return refused(format!("its L1 table is longer than 32 MiB; {CONVERT} with a larger cluster_size"));
        }
        if !l1_offset.is_multiple_of(1 << cluster_bits) {
            return damaged("its L1 table is not on a cluster boundary");
        }
        let kind = if header_len > LEN_V3 { bytes.get(104).copied().unwrap_or(0) } else { 0 };
        let compression = match (kind, incompatible & COMPRESSION != 0) {
            (0, false) => Compression::Deflate,
            (1, true) => Compression::Zstd,
            (0 | 1, _) => return damaged("its compression type and its feature bits disagree"),
            _ => return refused(format!("compression type {kind} is not known; {CONVERT}")),
        };
        Ok(Header { version, cluster_bits, size, l1_entries, l1_offset, compression, extended_l2 })
    }

    fn check_features(path: &Path, incompatible: u64) -> Result<(), ImageError> {
        let reason = if incompatible & CORRUPT != 0 {
            "is marked corrupt; repair it with `qemu-img check -r all`".to_string()
        } else if incompatible & DIRTY != 0 {
            "was not closed cleanly; repair it with `qemu-img check -r all`".to_string()
        } else if incompatible & DATA_FILE != 0 {
            format!("keeps its data in another file, which is never opened; {CONVERT}")
        } else {
            match incompatible & !(COMPRESSION | EXTENDED_L2) {
                0 => return Ok(()),
                unknown => format!("uses features that are not known ({unknown:#x}); {CONVERT}"),
            }
        };
        Err(ImageError::refused(path, reason))
    }
}

const CONVERT: &str = "if you trust it, make a plain image of it with `qemu-img convert -O qcow2`";
