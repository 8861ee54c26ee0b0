//! Unpacking one compressed cluster. The output is never longer than the cluster, whatever the input says.

use std::io::Read;

use flate2::{Decompress, FlushDecompress};

use super::header::Compression;

/// Largest window of a zstd frame (4 MiB): twice the largest cluster, which is all that a cluster's frame can refer to.
const MAX_ZSTD_WINDOW: u64 = 4 << 20;

/// Fills `plain` (a whole cluster) from `packed`, which may go on behind the compressed data.
pub(super) fn unpack(compression: Compression, packed: &[u8], plain: &mut [u8]) -> Result<(), &'static str> {
    match compression {
        Compression::Deflate => inflate(packed, plain),
        Compression::Zstd => unzstd(packed, plain),
    }
}

fn inflate(packed: &[u8], plain: &mut [u8]) -> Result<(), &'static str> {
    // One call: all of the input and all of the room for the output are there. How it ended does not matter, because the
    // stream may be followed by other bytes; that the cluster is full does.
    let mut state = Decompress::new(false);
    state.decompress(packed, plain, FlushDecompress::Finish).map_err(|_| "not a deflate stream")?;
    if state.total_out() == plain.len() as u64 { Ok(()) } else { Err("ends before the cluster is full") }
}

fn unzstd(packed: &[u8], plain: &mut [u8]) -> Result<(), &'static str> {
    if zstd_window(packed).ok_or("not a zstd frame")? > MAX_ZSTD_WINDOW {
        return Err("its zstd window is larger than 4 MiB");
    }
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(packed).map_err(|_| "not a zstd frame")?;
    decoder.read_exact(plain).map_err(|_| "a damaged zstd frame, or one that ends before the cluster is full")
}

/// Window size that a zstd frame asks for. The decoder takes that much memory, so it is looked at first (RFC 8878, 3.1.1.1).
fn zstd_window(frame: &[u8]) -> Option<u64> {
    let rest = frame.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?;
    let descriptor = *rest.first()?;
    if descriptor & 0x20 == 0 {
        let window = *rest.get(1)?;
        let base = 1u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // A single segment: the window is the content, whose size follows the dictionary id.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let field = rest.get(1 + dictionary..)?;
    let (width, bias) = [(1, 0), (2, 256), (4, 0), (8, 0)][usize::from(descriptor >> 6)];
    let size = field.get(..width)?.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    size.checked_add(bias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s63_a_frame_cannot_ask_for_a_large_window() {
        // Window descriptor with the largest exponent, then with a single segment of 2^40 bytes.
        for frame in
            [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff][..], &[0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 1, 0, 0]]
        {
            let result = unpack(Compression::Zstd, frame, &mut [0; 512]);
            assert_eq!(result, Err("its zstd window is larger than 4 MiB"));
        }
    }

    #[test]
    fn a_stream_that_is_too_short_is_an_error() {
        for kind in [Compression::Deflate, Compression::Zstd] {
            assert!(unpack(kind, &[], &mut [0; 512]).is_err());
        }
        // A stored deflate block of one byte.
        assert!(unpack(Compression::Deflate, &[1, 1, 0, 0xfe, 0xff, 7], &mut [0; 512]).is_err());
        assert_eq!(unpack(Compression::Deflate, &[1, 1, 0, 0xfe, 0xff, 7], &mut [0; 1]), Ok(()));
    }
}
