//! The volumes and snapshots of a store as disks: opened once for all connections, closed with the last.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::time::Instant;

use archipelago_core::{Error, Kind, ListOptions, Mode, Store, Volume, WriteFlags};
use parking_lot::{Condvar, Mutex};

use super::batch::VolumeBatch;
use super::device::{Batch, Device, DeviceResult, Errno, ExportError, Exports, Extent};
use super::gauges::{Gauge, Gauges, Policy};
use super::limits::{CLOSING_TIME, MAX_LISTED};
use super::meter::Kind as Request;

/// Preferred request size of a volume in bytes: the unit in which its map knows data. The block size would be a bad
/// answer, since clients round their requests up to what they are told.
const PREFERRED: u32 = archipelago_core::limits::SECTOR as u32;

/// All volumes (for reading and writing) and snapshots (for reading) of a store, under their names.
pub struct StoreExports {
    shared: Arc<Shared>,
    default: Option<String>,
}

struct Shared {
    store: Store,
    /// By volume id: names may change while a volume is open. At most one entry per connection.
    open: Mutex<HashMap<String, Entry>>,
    /// An entry left the states in which others must wait for it.
    changed: Condvar,
    gauges: Gauges,
}

/// An export that is open, or about to be or to have been.
enum Entry {
    /// Somebody opens or closes it, outside the lock: both may take as long as a flush.
    Changing,
    /// Open, with so many handles.
    Open(Volume, Arc<Gauge>, usize),
}

impl StoreExports {
    /// Exports of `store`, without limits. A client that gives no name gets `default`.
    pub fn new(store: Store, default: Option<String>) -> StoreExports {
        StoreExports::with_policy(store, default, Policy::default())
    }

    /// The same, with limits. Other processes may ask about them, and about what is measured.
    pub fn with_policy(store: Store, default: Option<String>, policy: Policy) -> StoreExports {
        let gauges = Gauges::new(policy);
        let shared = Arc::new(Shared { store, open: Mutex::default(), changed: Condvar::new(), gauges });
        // Weak, for the store must not be kept open by what answers for it.
        let answering = Arc::downgrade(&shared);
        shared.store.answer_questions(Some(Arc::new(move |question: &serde_json::Value| match answering.upgrade() {
            Some(shared) => shared.gauges.answer(question),
            None => Err(Error::NotOpen("the server".into())),
        })));
        StoreExports { shared, default }
    }

    /// The gauges of what is open.
    pub fn gauges(&self) -> &Gauges {
        &self.shared.gauges
    }

    /// Ends every wait for a limit, of now and later: to be called when the server begins to stop.
    pub fn end_waits(&self) {
        self.shared.gauges.stop();
    }

    /// Exports that are open now.
    pub fn open_exports(&self) -> usize {
        self.shared.open.lock().len()
    }
}

impl Exports for StoreExports {
    fn open(&self, name: &str) -> Result<Arc<dyn Device>, ExportError> {
        let info = self.shared.store.info(name).map_err(|e| export_error(&e))?;
        let mode = match info.kind {
            Kind::Volume => Mode::ReadWrite,
            Kind::Snapshot => Mode::ReadOnly,
            Kind::Object | Kind::Group => {
                return Err(ExportError::Unknown(format!("{name}: is neither a volume nor a snapshot")));
            }
        };
        let (volume, gauge) = self.shared.acquire(&info.id, name, mode)?;
        // From here on the handle's drop gives back what was acquired.
        Ok(Arc::new(VolumeDevice { volume, gauge, id: info.id, shared: Arc::clone(&self.shared) }))
    }

    fn list(&self) -> Vec<String> {
        let options = ListOptions { limit: MAX_LISTED, ..ListOptions::default() };
        // The answer has no place for an error; a client that goes on to open an export will be told.
        let Ok(page) = self.shared.store.list(&options) else { return Vec::new() };
        let disks = page.entries.into_iter().filter(|e| matches!(e.kind, Kind::Volume | Kind::Snapshot));
        disks.map(|e| e.name).collect()
    }

    fn default_export(&self) -> Option<String> {
        self.default.clone()
    }
}

impl Shared {
    /// One more handle of the map with this id, opened under `name` if it is not open yet.
    fn acquire(&self, id: &str, name: &str, mode: Mode) -> Result<(Volume, Arc<Gauge>), ExportError> {
        let deadline = Instant::now() + CLOSING_TIME;
        let mut open = self.open.lock();
        loop {
            match open.get_mut(id) {
                Some(Entry::Open(volume, gauge, handles)) => {
                    *handles += 1;
                    return Ok((volume.clone(), gauge.clone()));
                }
                Some(Entry::Changing) => {
                    if self.changed.wait_until(&mut open, deadline).timed_out() {
                        let text = format!("{name}: another connection is still opening or closing it; try again");
                        return Err(ExportError::Refused(text));
                    }
                }
                None => break,
            }
        }
        open.insert(id.to_string(), Entry::Changing);
        drop(open);
        let mut changing = Changing { shared: self, id, then: None };
        let volume = self.store.open_volume(name, mode).map_err(|e| export_error(&e))?;
        // Between looking and opening the name may have been given to another map.
        if volume.info().map_err(|e| export_error(&e))?.id != id {
            return Err(ExportError::Refused(format!("{name}: was renamed just now; try again")));
        }
        let gauge = self.gauges.open(id, name);
        changing.then = Some(Entry::Open(volume.clone(), gauge.clone(), 1));
        Ok((volume, gauge))
    }

    /// One handle less; the last closes the volume, which flushes it.
    fn release(&self, id: &str) {
        let mut open = self.open.lock();
        if let Some(Entry::Open(_, _, handles)) = open.get_mut(id) {
            *handles -= 1;
            if *handles > 0 {
                return;
            }
        }
        let Some(Entry::Open(volume, ..)) = open.insert(id.to_string(), Entry::Changing) else { return };
        drop(open);
        self.gauges.close(id);
        let _changing = Changing { shared: self, id, then: None };
        if let Err(error) = volume.close() {
            // There is no connection left to tell. What a client was told is durable was flushed before.
            tracing::error!(id, %error, "a disk was closed with an error");
        }
    }
}

/// Ends the state [`Entry::Changing`] in every way in which opening or closing can end, a panic included.
struct Changing<'a> {
    shared: &'a Shared,
    id: &'a str,
    then: Option<Entry>,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let mut open = self.shared.open.lock();
        match self.then.take() {
            Some(entry) => open.insert(self.id.to_string(), entry),
            None => open.remove(self.id),
        };
        self.shared.changed.notify_all();
    }
}

/// What the client is told when an export cannot be had; the engine's text says who has it and what to do.
fn export_error(error: &Error) -> ExportError {
    let text = error.to_string();
    match error {
        Error::NotFound(_) | Error::InvalidName { .. } => ExportError::Unknown(text),
        Error::OpenElsewhere { .. } | Error::Busy(_) | Error::TooBusy(_) => ExportError::Refused(text),
        _ => ExportError::Failed(text),
    }
}

/// One connection's handle of an open volume.
struct VolumeDevice {
    volume: Volume,
    gauge: Arc<Gauge>,
    id: String,
    shared: Arc<Shared>,
}

impl Drop for VolumeDevice {
    fn drop(&mut self) {
        self.shared.release(&self.id);
    }
}

fn errno<T>(result: archipelago_core::Result<T>) -> DeviceResult<T> {
    result.map_err(|e| Errno(e.errno()))
}

impl Device for VolumeDevice {
    fn size(&self) -> u64 {
        self.volume.size()
    }

    fn block_size(&self) -> u32 {
        PREFERRED
    }

    fn read_only(&self) -> bool {
        self.volume.read_only()
    }

    fn description(&self) -> String {
        let kind = if self.volume.read_only() { "snapshot" } else { "volume" };
        format!("{kind} {}", self.volume.name())
    }

    fn together(&self, requests: usize) -> Option<Box<dyn Batch>> {
        let (volume, gauge) = (self.volume.clone(), self.gauge.clone());
        // Without it requests are made by calls.
        let together = self.shared.store.together(requests).ok().flatten()?;
        Some(Box::new(VolumeBatch::new(together, volume, gauge)))
    }

    fn read(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> DeviceResult<()> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        self.gauge.measure(Request::Read, offset, len, || errno(self.volume.read(bufs, offset)))
    }

    fn write(&self, bufs: &[IoSlice<'_>], offset: u64, fua: bool) -> DeviceResult<()> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        self.gauge.measure(Request::Write, offset, len, || errno(self.volume.write(bufs, offset, WriteFlags { fua })))
    }

    fn flush(&self) -> DeviceResult<()> {
        // A client may flush what it only reads; there is nothing to make durable.
        if self.volume.read_only() {
            return Ok(());
        }
        self.gauge.measure(Request::Flush, 0, 0, || errno(self.volume.flush()))
    }

    fn discard(&self, offset: u64, len: u64) -> DeviceResult<()> {
        self.gauge.measure(Request::Zero, offset, len, || errno(self.volume.discard(offset, len)))
    }

    fn write_zeroes(&self, offset: u64, len: u64, allocate: bool, fua: bool) -> DeviceResult<()> {
        let flags = WriteFlags { fua };
        self.gauge.measure(Request::Zero, offset, len, || errno(self.volume.write_zeroes(offset, len, allocate, flags)))
    }

    fn limited(&self) -> bool {
        self.gauge.limited()
    }

    fn wait_turn(&self, bytes: u64, gone: &dyn Fn() -> bool) {
        self.gauge.wait(bytes, gone);
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> DeviceResult<Vec<Extent>> {
        let extents = errno(self.volume.extents(offset, len, max))?;
        Ok(extents.into_iter().map(|e| Extent { offset: e.offset, len: e.len, zero: e.zero }).collect())
    }
}
