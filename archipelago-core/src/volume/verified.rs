//! Reads of data that is not written any more: compared with its checksum where there is one.

use std::io::IoSliceMut;
use std::ops::Range;

use crate::blocker::{Object, VolumeId};
use crate::error::{Error, Result};
use crate::format::node::Source;
use crate::sync::atomic::Ordering;
use crate::volume::inner::Inner;

impl Inner {
    /// Whether bytes at this place are nowhere else and have no checksum: those of a journal, which nobody ever moves, and those that
    /// this writer may overwrite.
    pub(crate) fn is_written_in_place(&self, source: &Source) -> bool {
        match *source {
            Source::Log { .. } => true,
            Source::Data { owner, epoch } => self.is_own_live(owner, epoch),
            Source::Zero | Source::Content(_) => false,
        }
    }

    /// Whether this writer may overwrite what is in this data object.
    fn is_own_live(&self, owner: VolumeId, epoch: u64) -> bool {
        self.writer.is_some() && owner == self.id && epoch == self.epoch.load(Ordering::Acquire)
    }

    /// Reads bytes that a map names from where they are: from `at` on in an object, which are those from `shown` on in the volume.
    /// Bytes that are not what was written there are an error, and nobody sees them.
    pub(crate) fn read_place(&self, object: Object, bufs: &mut [IoSliceMut<'_>], at: u64, shown: u64) -> Result<()> {
        let Object::Data(owner, epoch) = object else { return self.blocker().read(object, bufs, at) };
        if self.is_own_live(owner, epoch) {
            // It is written in place, and has no checksums.
            return self.blocker().read(object, bufs, at);
        }
        match self.shared.sums.read(self.blocker(), (owner, epoch), bufs, at)? {
            None => Ok(()),
            Some(bad) => Err(self.altered(object, bad, at, shown)),
        }
    }

    /// The error for bytes of an object, of which those from `at` on are shown from `shown` on.
    fn altered(&self, object: Object, bad: Range<u64>, at: u64, shown: u64) -> Error {
        // Whole sectors, of which the request may begin in the middle.
        let from = (shown + bad.start).saturating_sub(at);
        let detail = format!(
            "bytes {from} to {} of {} are not what was written, as their checksums say",
            from + (bad.end - bad.start),
            self.name()
        );
        Error::damaged(object.to_string(), detail)
    }
}
