//! CRC-32C of stored bytes, by the widest carry-less multiplication that the processor has.

use crc_fast::{CrcAlgorithm, Digest, crc32_iscsi};

/// The checksum of some bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32_iscsi(bytes)
}

/// The checksum of bytes of which those before `bytes` have the checksum `before`; 0 if there are none before.
pub fn crc32c_append(before: u32, bytes: &[u8]) -> u32 {
    if before == 0 {
        return crc32c(bytes);
    }
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!before));
    digest.update(bytes);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition, a bit at a time.
    fn defined(bytes: &[u8]) -> u32 {
        let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
    }

    #[test]
    fn every_length_and_every_cut_give_what_the_definition_gives() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let bytes: Vec<u8> = (0..5000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for len in (0..600).chain([1000, 1024, 4080, 4096, 4097, 5000]) {
            let whole = &bytes[(len % 7).min(len)..len];
            assert_eq!(crc32c(whole), defined(whole), "{len} bytes");
            for cut in [0, 1, 8, 63, 64, 100, 508].into_iter().filter(|cut| *cut <= whole.len()) {
                let (head, tail) = whole.split_at(cut);
                assert_eq!(crc32c_append(crc32c(head), tail), defined(whole), "{len} bytes, cut at {cut}");
            }
        }
    }
}
