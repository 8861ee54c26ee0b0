//! Reading disk images from outside into a volume.
//!
//! Three steps, one way: an [`Image`] yields pieces in order, [`copy`] drops what is zero, a [`Target`] stores the rest.
//! The image is read on a thread of its own, so that a read that never returns (a silent pipe) cannot keep the caller
//! from being interrupted, and so that the next piece is read while this one is written.
//!
//! The format of an image is what the caller says. Nothing here looks at user bytes to find it out: a raw disk whose
//! guest wrote a qcow2 header into its first sector stays a raw disk.

pub mod legacy;
pub mod qcow2;
pub mod raw;
pub mod zeros;

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use archipelago_core::Error;
use archipelago_core::limits::{MAX_VOLUME_SIZE, MIN_VOLUME_SIZE};
use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};

/// Bytes of one piece: the default block, so that a piece fills a block of the volume with one write.
pub const PIECE: u64 = 4 << 20;
/// Pieces that are read ahead: one being read while one waits is enough to keep both sides busy.
const READ_AHEAD: usize = 2;
/// Pieces of a stream that are kept until the volume is enlarged for all of them at once (64 MiB): enlarging costs a sync.
const STREAM_BATCH: usize = 16;
/// How long a wait for the next piece may last before the caller is asked whether to go on.
const TICK: Duration = Duration::from_millis(100);

/// Why an image was not imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The image uses something that is not accepted; the text says what, and what to do.
    #[error("{file}: {reason}")]
    Refused {
        /// The image.
        file: String,
        /// What is not accepted, and what to do about it.
        reason: String,
    },
    /// The image contradicts itself or its file ends too early.
    #[error("{file}: damaged image: {detail}; nothing was imported; look at it with `qemu-img check`")]
    Damaged {
        /// The image.
        file: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The image could not be read.
    #[error("{op} {file}: {source}")]
    Io {
        /// What was being done.
        op: &'static str,
        /// The image.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("stopped by the caller")]
    Stopped,
    /// The volume refused the data.
    #[error(transparent)]
    Engine(#[from] Error),
}

impl ImageError {
    /// An image that is not accepted.
    pub fn refused(file: &Path, reason: impl Into<String>) -> ImageError {
        ImageError::Refused { file: file.display().to_string(), reason: reason.into() }
    }

    /// An image that is wrong in itself.
    pub fn damaged(file: &Path, detail: impl Into<String>) -> ImageError {
        ImageError::Damaged { file: file.display().to_string(), detail: detail.into() }
    }

    /// A failed system call on the image.
    pub fn io(op: &'static str, file: &Path, source: io::Error) -> ImageError {
        ImageError::Io { op, file: file.display().to_string(), source }
    }
}

/// A disk image, read once from its start to its end.
pub trait Image: Send {
    /// Name of the image in error messages.
    fn path(&self) -> &Path;

    /// Size of the disk in bytes; `None` for a stream, whose size is known when it ends.
    fn size(&self) -> Option<u64>;

    /// Fills `buf` with the next piece that may hold something other than zeros and returns its offset, or `None` after the last.
    ///
    /// A piece starts at a multiple of [`PIECE`] and is [`PIECE`] bytes long, or shorter where the disk ends. What is
    /// skipped between two pieces is zero.
    fn next_piece(&mut self, buf: &mut Vec<u8>) -> Result<Option<u64>, ImageError>;
}

/// Where an image goes. Unwritten ranges read as zeros.
pub trait Target {
    /// Makes the target this large; called with growing sizes, the first time before anything is written.
    fn set_size(&mut self, size: u64) -> Result<(), Error>;

    /// Stores `data` at `offset`.
    fn write(&mut self, data: &[u8], offset: u64) -> Result<(), Error>;
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Size of the disk in bytes.
    pub size: u64,
    /// Bytes that were written; the rest is zero and takes no room.
    pub written: u64,
}

struct Piece {
    offset: u64,
    data: Vec<u8>,
}

/// What the reading thread says: a piece, the end, or why it stopped.
type Read = Result<Option<Piece>, ImageError>;

/// Copies a whole image, leaving out what is zero. Disks over `max_size` bytes are refused before anything is written
/// (streams: when they reach it).
///
/// `watch` is called with the position reached, at least ten times a second, and ends the copy by returning an error. The
/// thread that reads the image then ends by itself as soon as the read in which it is returns.
pub fn copy(
    mut image: Box<dyn Image>,
    target: &mut dyn Target,
    max_size: u64,
    watch: &mut dyn FnMut(u64) -> Result<(), ImageError>,
) -> Result<Copied, ImageError> {
    let path = image.path().to_path_buf();
    let limit = Limit { path, max: max_size.min(MAX_VOLUME_SIZE) };
    let size = image.size();
    if let Some(size) = size {
        limit.check(size)?;
        target.set_size(size)?;
    }

    let (send, pieces) = channel::bounded::<Read>(READ_AHEAD);
    let (give_back, empty) = channel::bounded::<Vec<u8>>(READ_AHEAD + STREAM_BATCH);
    thread::Builder::new()
        .name("image reader".into())
        .spawn(move || read_all(image.as_mut(), &send, &empty))
        .map_err(|e| ImageError::io("start a thread to read", &limit.path, e))?;

    match size {
        Some(size) => {
            let mut written = 0;
            let mut at = 0;
            while let Some(piece) = receive(&pieces, &limit, at, watch)? {
                at = piece.offset + piece.data.len() as u64;
                written += write_piece(target, &piece)?;
                // Full means that the reader has buffers enough.
                let _ = give_back.try_send(piece.data);
            }
            watch(size)?;
            Ok(Copied { size, written })
        }
        None => copy_stream(&pieces, &give_back, target, &limit, watch),
    }
}

fn copy_stream(
    pieces: &Receiver<Read>,
    give_back: &Sender<Vec<u8>>,
    target: &mut dyn Target,
    limit: &Limit,
    watch: &mut dyn FnMut(u64) -> Result<(), ImageError>,
) -> Result<Copied, ImageError> {
    let mut copied = Copied::default();
    let mut batch = Vec::with_capacity(STREAM_BATCH);
    let mut ended = false;
    while !ended {
        while batch.len() < STREAM_BATCH {
            match receive(pieces, limit, copied.size, watch)? {
                Some(piece) => {
                    copied.size = piece.offset + piece.data.len() as u64;
                    batch.push(piece);
                }
                None => {
                    ended = true;
                    break;
                }
            }
        }
        // Checked for the empty stream too: a volume has at least one byte.
        limit.check(copied.size)?;
        target.set_size(copied.size)?;
        for piece in batch.drain(..) {
            copied.written += write_piece(target, &piece)?;
            let _ = give_back.try_send(piece.data);
        }
    }
    Ok(copied)
}

struct Limit {
    path: PathBuf,
    max: u64,
}

impl Limit {
    fn check(&self, size: u64) -> Result<(), ImageError> {
        if size < MIN_VOLUME_SIZE {
            return Err(ImageError::refused(&self.path, "is empty; a volume has at least one byte"));
        }
        if size > self.max {
            let reason = format!("its disk is larger than {} bytes, the most that is allowed here", self.max);
            return Err(ImageError::refused(&self.path, reason));
        }
        Ok(())
    }
}

fn read_all(image: &mut dyn Image, send: &Sender<Read>, empty: &Receiver<Vec<u8>>) {
    loop {
        let mut data = empty.try_recv().unwrap_or_default();
        let message = match image.next_piece(&mut data) {
            Ok(Some(offset)) => Ok(Some(Piece { offset, data })),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        let last = !matches!(message, Ok(Some(_)));
        // Nobody listens after the writer gave up.
        if send.send(message).is_err() || last {
            return;
        }
    }
}

fn receive(
    pieces: &Receiver<Read>,
    limit: &Limit,
    at: u64,
    watch: &mut dyn FnMut(u64) -> Result<(), ImageError>,
) -> Result<Option<Piece>, ImageError> {
    loop {
        watch(at)?;
        match pieces.recv_timeout(TICK) {
            Ok(message) => return message,
            Err(RecvTimeoutError::Timeout) => {}
            // The thread died without a word: what has arrived is not the whole image.
            Err(RecvTimeoutError::Disconnected) => {
                return Err(ImageError::damaged(&limit.path, "the reader failed on it"));
            }
        }
    }
}

fn write_piece(target: &mut dyn Target, piece: &Piece) -> Result<u64, Error> {
    let mut written = 0;
    for run in zeros::data_runs(&piece.data) {
        target.write(&piece.data[run.clone()], piece.offset + run.start as u64)?;
        written += run.len() as u64;
    }
    Ok(written)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A target in memory, and the model for what an import leaves behind.
    #[derive(Default)]
    pub(crate) struct Memory(pub(crate) Vec<u8>);

    impl Target for Memory {
        fn set_size(&mut self, size: u64) -> Result<(), Error> {
            assert!(size >= self.0.len() as u64, "an import never shrinks its target");
            self.0.resize(size as usize, 0);
            Ok(())
        }

        fn write(&mut self, data: &[u8], offset: u64) -> Result<(), Error> {
            self.0[offset as usize..offset as usize + data.len()].copy_from_slice(data);
            Ok(())
        }
    }

    pub(crate) fn copy_to_memory(image: Box<dyn Image>) -> Result<(Vec<u8>, Copied), ImageError> {
        let mut memory = Memory::default();
        let copied = copy(image, &mut memory, u64::MAX, &mut |_| Ok(()))?;
        Ok((memory.0, copied))
    }

    struct Silent;

    impl Image for Silent {
        fn path(&self) -> &Path {
            Path::new("silent")
        }
        fn size(&self) -> Option<u64> {
            None
        }
        fn next_piece(&mut self, _: &mut Vec<u8>) -> Result<Option<u64>, ImageError> {
            thread::sleep(Duration::from_secs(3600));
            Ok(None)
        }
    }

    struct Dying;

    impl Image for Dying {
        fn path(&self) -> &Path {
            Path::new("dying")
        }
        fn size(&self) -> Option<u64> {
            Some(PIECE)
        }
        fn next_piece(&mut self, _: &mut Vec<u8>) -> Result<Option<u64>, ImageError> {
            panic!("a fault in a decoder")
        }
    }

    #[test]
    fn an_image_whose_reader_dies_is_not_taken_for_complete() {
        assert!(matches!(copy_to_memory(Box::new(Dying)), Err(ImageError::Damaged { .. })));
    }

    #[test]
    fn s38_a_disk_over_the_limit_is_refused_before_anything_is_written() {
        let mut memory = Memory::default();
        let result = copy(Box::new(Dying), &mut memory, PIECE - 1, &mut |_| Ok(()));
        assert!(matches!(result, Err(ImageError::Refused { .. })) && memory.0.is_empty());
    }

    #[test]
    fn a_copy_from_a_silent_pipe_can_be_stopped() {
        let mut calls = 0;
        let mut watch = |_| {
            calls += 1;
            if calls > 2 { Err(ImageError::Stopped) } else { Ok(()) }
        };
        let result = copy(Box::new(Silent), &mut Memory::default(), u64::MAX, &mut watch);
        assert!(matches!(result, Err(ImageError::Stopped)));
    }
}
