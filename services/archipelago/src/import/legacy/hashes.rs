//! The digests of the blocks of one map, in order, in a file without a name: a large map has more than should be in memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};

use archipelago_core::Digest;

use super::error::LegacyError;

/// Bytes of one record: how many blocks of zeros come first, and the digest of the block behind them.
const RECORD: usize = 40;

/// Digests that are being written down.
pub struct Hashes {
    file: BufWriter<File>,
    zeros: u64,
}

fn failed(op: &'static str) -> impl Fn(io::Error) -> LegacyError {
    move |source| LegacyError::Io { op, object: "the temporary file of digests".into(), source }
}

impl Hashes {
    /// An empty list, in the directory for temporary files.
    pub fn new() -> Result<Hashes, LegacyError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("archipelago-digests.{}.{number}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|e| LegacyError::io("create", &path, e))?;
        fs::remove_file(&path).map_err(|e| LegacyError::io("remove", &path, e))?;
        Ok(Hashes { file: BufWriter::new(file), zeros: 0 })
    }

    /// Adds a block.
    pub fn push(&mut self, digest: Digest) -> Result<(), LegacyError> {
        if digest == Digest::ZERO {
            self.zeros += 1;
            return Ok(());
        }
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&self.zeros.to_le_bytes());
        record[8..].copy_from_slice(&digest.0);
        self.zeros = 0;
        self.file.write_all(&record).map_err(failed("write"))
    }

    /// Adds blocks of zeros.
    pub fn push_zeros(&mut self, count: u64) {
        self.zeros += count;
    }

    /// The digest of every block, in order.
    pub fn finish(self) -> Result<Digests, LegacyError> {
        let mut file = self.file.into_inner().map_err(|e| failed("write")(e.into_error()))?;
        file.rewind().map_err(failed("read"))?;
        Ok(Digests { file: BufReader::new(file), zeros: 0, next: None, last: Some(self.zeros) })
    }
}

/// Digests that were written down.
pub struct Digests {
    file: BufReader<File>,
    zeros: u64,
    next: Option<Digest>,
    /// Zeros behind the last record, until they are reached.
    last: Option<u64>,
}

impl Digests {
    fn advance(&mut self) -> io::Result<Option<Digest>> {
        loop {
            if self.zeros > 0 {
                self.zeros -= 1;
                return Ok(Some(Digest::ZERO));
            }
            if let Some(next) = self.next.take() {
                return Ok(Some(next));
            }
            let mut record = [0; RECORD];
            match self.file.read_exact(&mut record) {
                Ok(()) => {
                    let (zeros, digest) = record.split_at(8);
                    let (mut count, mut next) = ([0; 8], Digest([0; 32]));
                    count.copy_from_slice(zeros);
                    next.0.copy_from_slice(digest);
                    (self.zeros, self.next) = (u64::from_le_bytes(count), Some(next));
                }
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => match self.last.take() {
                    Some(zeros) => self.zeros = zeros,
                    None => return Ok(None),
                },
                Err(e) => return Err(e),
            }
        }
    }
}

impl Iterator for Digests {
    type Item = archipelago_core::Result<Digest>;

    fn next(&mut self) -> Option<Self::Item> {
        let wrong =
            |source| archipelago_core::Error::Io { op: "read", object: "the temporary file of digests".into(), source };
        self.advance().map_err(wrong).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_comes_back_as_it_was_written() {
        let (a, b) = (Digest::of_bytes(b"a"), Digest::of_bytes(b"b"));
        for (zeros, tail) in [(0, 0), (3, 0), (0, 5), (70_000, 1)] {
            let mut hashes = Hashes::new().unwrap();
            hashes.push(a).unwrap();
            hashes.push_zeros(zeros);
            hashes.push(Digest::ZERO).unwrap();
            hashes.push(b).unwrap();
            hashes.push_zeros(tail);
            let mut expected = vec![Digest::ZERO; (4 + zeros + tail) as usize - 1];
            (expected[0], expected[zeros as usize + 2]) = (a, b);
            let found: Vec<Digest> = hashes.finish().unwrap().map(|digest| digest.unwrap()).collect();
            assert_eq!(found, expected);
        }
        assert_eq!(Hashes::new().unwrap().finish().unwrap().count(), 0);
    }
}
