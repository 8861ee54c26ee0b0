//! Raw disk images: the bytes of the disk, nothing else.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::{Image, ImageError, PIECE};

/// Opens a raw image: `-` is standard input; pipes and character devices are read as streams, everything else by its holes.
pub fn open(path: &Path) -> Result<Box<dyn Image>, ImageError> {
    if path == Path::new("-") {
        return Ok(Box::new(RawStream::new(PathBuf::from("standard input"), io::stdin())));
    }
    let mut file = File::open(path).map_err(|e| ImageError::io("open", path, e))?;
    let kind = file.metadata().map_err(|e| ImageError::io("examine", path, e))?.file_type();
    if kind.is_dir() {
        return Err(ImageError::refused(path, "is a directory; name an image file"));
    }
    if kind.is_fifo() || kind.is_char_device() || kind.is_socket() {
        return Ok(Box::new(RawStream::new(path.to_path_buf(), file)));
    }
    // The length in the metadata of a block device is 0; its end tells.
    let size = file.seek(SeekFrom::End(0)).map_err(|e| ImageError::io("find the end of", path, e))?;
    Ok(Box::new(RawFile { path: path.to_path_buf(), file, size, position: 0 }))
}

/// A stream of these bytes.
#[cfg(feature = "fuzzing")]
pub(crate) fn in_memory(bytes: Vec<u8>) -> Box<dyn Image> {
    Box::new(RawStream::new(PathBuf::from("stream"), io::Cursor::new(bytes)))
}

/// A raw image in a file or block device; holes are not read.
struct RawFile {
    path: PathBuf,
    file: File,
    size: u64,
    position: u64,
}

impl RawFile {
    /// First byte at or after `from` that is data (or hole), as far as the file system knows; the end if there is none.
    fn seek(&self, from: u64, whence: Whence) -> Result<u64, ImageError> {
        match lseek(&self.file, from as i64, whence) {
            Ok(at) => Ok((at as u64).clamp(from, self.size)),
            Err(Errno::ENXIO) => Ok(self.size),
            // A file system that does not know about holes: everything is data.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOTTY) => {
                Ok(if matches!(whence, Whence::SeekData) { from } else { self.size })
            }
            Err(e) => Err(ImageError::io("look for holes in", &self.path, e.into())),
        }
    }
}

impl Image for RawFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    fn next_piece(&mut self, buf: &mut Vec<u8>) -> Result<Option<u64>, ImageError> {
        let mut at = self.seek(self.position, Whence::SeekData)?;
        if at >= self.size {
            self.position = self.size;
            return Ok(None);
        }
        let start = at - at % PIECE;
        let end = (start + PIECE).min(self.size);
        buf.clear();
        buf.resize((end - start) as usize, 0);
        while at < end {
            let stop = self.seek(at, Whence::SeekHole)?.min(end);
            let range = (at - start) as usize..(stop - start) as usize;
            self.file.read_exact_at(&mut buf[range], at).map_err(|e| ImageError::io("read", &self.path, e))?;
            if stop >= end {
                break;
            }
            // A hole that was filled while we looked must not hold us up for ever.
            at = self.seek(stop, Whence::SeekData)?.max(at + 1);
        }
        self.position = end;
        Ok(Some(start))
    }
}

/// A raw image that arrives through a pipe.
struct RawStream<R> {
    path: PathBuf,
    input: R,
    position: u64,
}

impl<R: Read> RawStream<R> {
    fn new(path: PathBuf, input: R) -> RawStream<R> {
        RawStream { path, input, position: 0 }
    }
}

impl<R: Read + Send> Image for RawStream<R> {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> Option<u64> {
        None
    }

    fn next_piece(&mut self, buf: &mut Vec<u8>) -> Result<Option<u64>, ImageError> {
        buf.clear();
        let n = (&mut self.input).take(PIECE).read_to_end(buf).map_err(|e| ImageError::io("read", &self.path, e))?;
        let start = self.position;
        self.position += n as u64;
        Ok((n > 0).then_some(start))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::copy_to_memory;
    use super::*;
    use std::io::Write;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251) as u8 | 1).collect()
    }

    #[test]
    fn a_sparse_file_arrives_whole_and_its_holes_are_not_written() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let size = 40 * PIECE + 777;
        file.as_file().set_len(size).unwrap();
        let data = pattern(300_000);
        for offset in [0, 3 * PIECE - 100, 20 * PIECE + 4096, size - data.len() as u64] {
            file.as_file().write_all_at(&data, offset).unwrap();
        }
        file.flush().unwrap();
        let (memory, copied) = copy_to_memory(open(file.path()).unwrap()).unwrap();
        assert!(memory == std::fs::read(file.path()).unwrap());
        assert_eq!(copied.size, size);
        assert!(copied.written < 5 * data.len() as u64, "{copied:?}");
    }

    #[test]
    fn a_stream_of_any_length_arrives_whole() {
        for len in [1, 511, PIECE as usize, PIECE as usize + 1, 17 * PIECE as usize + 3] {
            let data = pattern(len);
            let stream = RawStream::new(PathBuf::from("stream"), io::Cursor::new(data.clone()));
            let (memory, copied) = copy_to_memory(Box::new(stream)).unwrap();
            assert!(memory == data, "length {len}");
            assert_eq!(copied.size, len as u64);
        }
    }

    #[test]
    fn trailing_zeros_of_a_stream_count_for_its_size() {
        let stream = RawStream::new(PathBuf::from("stream"), io::repeat(0).take(3 * PIECE + 1));
        let (memory, copied) = copy_to_memory(Box::new(stream)).unwrap();
        assert_eq!((memory.len() as u64, copied.written), (3 * PIECE + 1, 0));
    }

    #[test]
    fn an_empty_image_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = copy_to_memory(open(file.path()).unwrap()).unwrap_err();
        assert!(error.to_string().contains("at least one byte"), "{error}");
        let stream = RawStream::new(PathBuf::from("stream"), io::empty());
        assert!(copy_to_memory(Box::new(stream)).is_err());
    }

    #[test]
    fn s35_a_raw_image_that_starts_with_a_qcow2_header_stays_raw() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut data = b"QFI\xfb\0\0\0\x03".to_vec();
        data.resize(4096, 0x55);
        file.write_all(&data).unwrap();
        assert!(copy_to_memory(open(file.path()).unwrap()).unwrap().0 == data);
    }
}
