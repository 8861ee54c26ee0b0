//! What is written, so that what is read can be told from anything else.
//!
//! * With `meta`, a signature of 24 bytes at both ends of each request: seed, object, and the first byte of the request in the object, little
//!   endian. What is between is not looked at. Reading has to ask for the same ranges as writing did.
//! * With `full`, the eight bytes at each multiple of eight of an object are a number of seed, object and place. Any range can be checked.

use super::args::Verify;
use super::order::mix;

/// Bytes of a signature.
const SIGNATURE: usize = 24;
/// Apart from each other by this, numbers that are mixed do not repeat for 2^64 of them.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// What the requests of a run hold.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    seed: u64,
    verify: Verify,
}

impl Content {
    /// That of a seed.
    pub fn new(seed: u64, verify: Verify) -> Content {
        Content { seed, verify }
    }

    /// What is in a buffer before any request is made of it. Without zeros, which a store would leave out.
    pub fn prepare(self, buf: &mut [u8]) {
        self.fill(buf, u64::MAX, 0);
    }

    /// Makes a buffer what is to be written at `offset` of an object. It was prepared, or made for another request.
    pub fn make(self, buf: &mut [u8], object: u64, offset: u64) {
        match self.verify {
            Verify::No => {}
            Verify::Meta => {
                let signature = self.signature(object, offset);
                let end = buf.len() - SIGNATURE;
                buf[..SIGNATURE].copy_from_slice(&signature);
                buf[end..].copy_from_slice(&signature);
            }
            Verify::Full => self.fill(buf, object, offset),
        }
    }

    /// The first byte of what was read at `offset` of an object that is not what was written there.
    pub fn check(self, buf: &[u8], object: u64, offset: u64) -> Result<(), usize> {
        match self.verify {
            Verify::No => Ok(()),
            Verify::Meta => {
                let signature = self.signature(object, offset);
                for at in [0, buf.len() - SIGNATURE] {
                    compare(&buf[at..at + SIGNATURE], &signature).map_err(|wrong| at + wrong)?;
                }
                Ok(())
            }
            Verify::Full => {
                let mut numbers = self.numbers(object, offset);
                for (i, eight) in buf.chunks(8).enumerate() {
                    compare(eight, &numbers.next_eight()[..eight.len()]).map_err(|wrong| 8 * i + wrong)?;
                }
                Ok(())
            }
        }
    }

    fn signature(self, object: u64, offset: u64) -> [u8; SIGNATURE] {
        let mut signature = [0; SIGNATURE];
        for (part, number) in signature.chunks_exact_mut(8).zip([self.seed, object, offset]) {
            part.copy_from_slice(&number.to_le_bytes());
        }
        signature
    }

    fn fill(self, buf: &mut [u8], object: u64, offset: u64) {
        let mut numbers = self.numbers(object, offset);
        for eight in buf.chunks_mut(8) {
            eight.copy_from_slice(&numbers.next_eight()[..eight.len()]);
        }
    }

    /// The numbers from a place on, which is a multiple of eight.
    fn numbers(self, object: u64, offset: u64) -> Numbers {
        let start = mix(mix(self.seed).wrapping_add(object));
        Numbers(start.wrapping_add((offset / 8).wrapping_mul(STRIDE)))
    }
}

struct Numbers(u64);

impl Numbers {
    fn next_eight(&mut self) -> [u8; 8] {
        let number = mix(self.0);
        self.0 = self.0.wrapping_add(STRIDE);
        number.to_le_bytes()
    }
}

fn compare(found: &[u8], expected: &[u8]) -> Result<(), usize> {
    if found == expected {
        return Ok(());
    }
    Err(found.iter().zip(expected).position(|(f, e)| f != e).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 123_456_789;

    fn made(verify: Verify, object: u64, offset: u64, len: usize) -> Vec<u8> {
        let content = Content::new(SEED, verify);
        let mut buf = vec![0; len];
        content.prepare(&mut buf);
        content.make(&mut buf, object, offset);
        buf
    }

    #[test]
    fn every_changed_byte_is_found_where_it_is() {
        let content = Content::new(SEED, Verify::Full);
        let good = made(Verify::Full, 3, 8192, 4096);
        assert_eq!(content.check(&good, 3, 8192), Ok(()));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert_eq!(content.check(&bad, 3, 8192), Err(at));
        }
    }

    #[test]
    fn full_content_is_the_same_however_it_is_cut() {
        let whole = made(Verify::Full, 1, 4096, 8192);
        let halves = [made(Verify::Full, 1, 4096, 4096), made(Verify::Full, 1, 8192, 4096)].concat();
        assert_eq!(whole, halves);
    }

    #[test]
    fn content_of_another_place_object_or_seed_is_no_content() {
        for verify in [Verify::Meta, Verify::Full] {
            let buf = made(verify, 3, 8192, 4096);
            assert_eq!(Content::new(SEED, verify).check(&buf, 3, 8192), Ok(()));
            assert!(Content::new(SEED, verify).check(&buf, 3, 4096).is_err());
            assert!(Content::new(SEED, verify).check(&buf, 4, 8192).is_err());
            assert!(Content::new(SEED + 1, verify).check(&buf, 3, 8192).is_err());
            assert!(Content::new(SEED, verify).check(&[0; 4096], 3, 8192).is_err());
        }
    }

    #[test]
    fn signatures_are_at_both_ends() {
        let content = Content::new(SEED, Verify::Meta);
        let good = made(Verify::Meta, 3, 8192, 512);
        for at in [0, 23, 512 - 24, 511] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(content.check(&bad, 3, 8192), Err(at));
        }
    }

    #[test]
    fn what_is_written_is_not_zero() {
        for verify in [Verify::No, Verify::Meta, Verify::Full] {
            let buf = made(verify, 0, 0, 4096);
            assert!(buf.chunks(512).all(|sector| sector.iter().any(|byte| *byte != 0)));
        }
    }
}
