//! Little-endian fields and variable-length integers, written and read in order.

use crate::checksum;
use crate::error::{Error, Result};
use crate::limits::ATOM;

/// Longest encoded variable-length integer, in bytes: ten groups of seven bits hold 64.
pub(crate) const MAX_VARINT: usize = 10;

/// Appends fields to a buffer.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// An empty writer with room for `capacity` bytes.
    pub(crate) fn with_capacity(capacity: usize) -> Writer {
        Writer(Vec::with_capacity(capacity))
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Writer {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Writer {
        self.bytes(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Writer {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Writer {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Writer {
        self.bytes(&value.to_le_bytes())
    }

    /// Seven bits a byte, lowest first; the top bit says that more follow.
    pub(crate) fn varint(&mut self, mut value: u64) -> &mut Writer {
        while value >= 0x80 {
            self.u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8)
    }

    /// Zeros until `len` bytes are written; nothing if there are that many already.
    pub(crate) fn pad_to(&mut self, len: usize) -> &mut Writer {
        if self.0.len() < len {
            self.0.resize(len, 0);
        }
        self
    }

    /// CRC32C of everything written so far.
    pub(crate) fn crc(&mut self) -> &mut Writer {
        let crc = checksum::crc32c(&self.0);
        self.u32(crc)
    }

    /// What was written; the writer is empty after it.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Bytes that [`Writer::varint`] takes for `value`.
pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Takes fields from a slice; whatever is missing or out of place is [`Error::Damaged`] in the name of `object`.
pub(crate) struct Reader<'a> {
    object: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(object: &'a str, bytes: &'a [u8]) -> Reader<'a> {
        Reader { object, bytes, at: 0 }
    }

    /// A reader of an atom that begins with a magic number and a version and ends with the CRC32C of the rest, behind the
    /// version and ending before the checksum. `what` is said of it in errors.
    pub(crate) fn checked_atom(
        object: &'a str,
        bytes: &'a [u8],
        magic: u32,
        version: u8,
        what: &str,
    ) -> Result<Reader<'a>> {
        let whole = Reader::new(object, bytes);
        let Some((body, crc)) = bytes.split_last_chunk::<4>().filter(|_| bytes.len() == ATOM) else {
            return whole.damaged(format!("{what} is cut short"));
        };
        whole
            .require(checksum::crc32c(body) == u32::from_le_bytes(*crc), &format!("the checksum of {what} is wrong"))?;
        let mut reader = Reader::new(object, body);
        let found = reader.u32()?;
        reader.require(found == magic, &format!("something else lies where {what} must be"))?;
        match reader.u8()? {
            v if v == version => Ok(reader),
            0 => reader.damaged(format!("{what} is of version 0")),
            later => reader.too_new(format!("{what} is of version {later}")),
        }
    }

    /// The error for a wrong value.
    pub(crate) fn damaged<T>(&self, detail: impl Into<String>) -> Result<T> {
        Err(Error::damaged(self.object, detail))
    }

    /// The error for what only a later version can have written.
    pub(crate) fn too_new<T>(&self, detail: impl std::fmt::Display) -> Result<T> {
        let detail = format!("{detail}; install the version that wrote it");
        Err(Error::TooNew { object: self.object.into(), detail })
    }

    /// Damaged with this detail unless `condition` holds.
    pub(crate) fn require(&self, condition: bool, detail: &str) -> Result<()> {
        if condition { Ok(()) } else { self.damaged(detail) }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..len)) {
            Some(taken) => {
                self.at += len;
                Ok(taken)
            }
            None => self.damaged(format!("cut short: {len} bytes are missing or incomplete at byte {}", self.at)),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The one shortest form of each value is accepted, so that equal values are equal bytes.
    pub(crate) fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for group in 0..MAX_VARINT {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if group == MAX_VARINT - 1 && bits > 1 {
                return self.damaged("a number has more than 64 bits");
            }
            value |= bits << (7 * group);
            if byte & 0x80 == 0 {
                self.require(bits != 0 || group == 0, "a number is longer than it needs to be")?;
                return Ok(value);
            }
        }
        self.damaged("a number has more than 64 bits")
    }

    /// The rest must be zeros.
    pub(crate) fn zeros_to_end(&mut self) -> Result<()> {
        let rest = self.take(self.bytes.len() - self.at)?;
        self.require(is_zero(rest), "bytes that must be zero are not")
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<()> {
        self.require(self.at == self.bytes.len(), "bytes follow its end")
    }
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // By pieces that the compiler tests with a few instructions; journals and records are mostly zeros.
    let mut pieces = bytes.chunks_exact(64);
    pieces.by_ref().all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
        && pieces.remainder().iter().all(|byte| *byte == 0)
}

/// Names the unknown bits of a feature word: `bit 3`, `bits 3, 17`.
pub(crate) fn bit_names(bits: u64) -> String {
    let list: Vec<String> = (0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| bit.to_string()).collect();
    format!("{} {}", if list.len() == 1 { "bit" } else { "bits" }, list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_in_a_longer_form_than_needed_is_refused() {
        for bytes in [&[0x80, 0x00][..], &[0xff, 0x80, 0x00], &[0x80; 10], &[0xff; 10]] {
            assert!(Reader::new("x", bytes).varint().is_err(), "{bytes:x?}");
        }
        let mut top = [0xff; 10];
        top[9] = 2;
        assert!(Reader::new("x", &top).varint().is_err());
    }

    #[test]
    fn zero_is_found_at_any_length() {
        for len in 0..200 {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in 0..len {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{len} {at}");
                bytes[at] = 0;
            }
        }
    }

    proptest! {
        #[test]
        fn fields_come_back_as_written(a: u8, b: u16, c: u32, d: u64, shift in 0u32..64, tail: Vec<u8>) {
            let number = d >> shift;
            let mut writer = Writer::default();
            writer.u8(a).u16(b).u32(c).u64(d);
            writer.varint(number).bytes(&tail);
            let bytes = writer.finish();
            prop_assert_eq!(bytes.len(), 15 + varint_len(number) + tail.len());
            let mut reader = Reader::new("x", &bytes);
            prop_assert_eq!(reader.u8().unwrap(), a);
            prop_assert_eq!(reader.u16().unwrap(), b);
            prop_assert_eq!(reader.u32().unwrap(), c);
            prop_assert_eq!(reader.u64().unwrap(), d);
            prop_assert_eq!(reader.varint().unwrap(), number);
            prop_assert_eq!(reader.take(tail.len()).unwrap(), &tail[..]);
            reader.end().unwrap();
            prop_assert!(reader.u8().is_err());
        }

        #[test]
        fn every_accepted_number_is_in_its_one_form(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new("x", &bytes);
            if let Ok(value) = reader.varint() {
                let mut writer = Writer::default();
                writer.varint(value);
                prop_assert_eq!(&bytes[..reader.at], &writer.finish()[..]);
            }
        }
    }
}
