//! The volumes and snapshots of a store as disks: opened once for all connections, closed with the last.

use std::collections::{HashMap, HashSet};
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::time::Instant;

use archipelago_core::{Error, Kind, ListOptions, Mode, Sharing, StandbyState, Store, WriteFlags};
use parking_lot::{Condvar, Mutex};
use serde::Deserialize;
use serde_json::Value;

use super::batch::VolumeBatch;
use super::device::{Batch, Device, DeviceResult, Errno, ExportError, Exports, Extent};
use super::gauges::{Gauge, Gauges, Policy};
use super::limits::{CLOSING_TIME, MAX_LISTED, MAX_TOLD};
use super::meter::Kind as Request;
use super::served::{Served, Standing};
use super::standby::Question;

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
    told: Mutex<Told>,
}

/// What a server that stands by was told of volumes, by id. It holds also while no client is connected.
#[derive(Default)]
struct Told {
    sharing: HashMap<String, Sharing>,
    /// Volumes of which a handle is kept, so that they are had without a client.
    kept: HashSet<String>,
}

/// An export that is open, or about to be or to have been.
enum Entry {
    /// Somebody opens or closes it, outside the lock: both may take as long as a flush.
    Changing,
    /// Open, with so many handles.
    Open(Arc<Served>, Arc<Gauge>, usize),
}

impl StoreExports {
    /// Exports of `store`, without limits. A client that gives no name gets `default`.
    pub fn new(store: Store, default: Option<String>) -> StoreExports {
        StoreExports::with_policy(store, default, Policy::default())
    }

    /// The same, with limits. Other processes may ask about them, and about what is measured.
    pub fn with_policy(store: Store, default: Option<String>, policy: Policy) -> StoreExports {
        let gauges = Gauges::new(policy);
        let (open, changed, told) = Default::default();
        let shared = Arc::new(Shared { store, open, changed, gauges, told });
        // Weak, for the store must not be kept open by what answers for it.
        let answering = Arc::downgrade(&shared);
        shared.store.answer_questions(Some(Arc::new(move |question: &serde_json::Value| match answering.upgrade() {
            Some(shared) => shared.answer(question),
            None => Err(Error::NotOpen("the server".into())),
        })));
        StoreExports { shared, default }
    }

    /// Answers a question of another process, or does what it says. For who has more questions to answer than these.
    pub fn answer(&self, question: &Value) -> archipelago_core::Result<Value> {
        self.shared.answer(question)
    }

    /// The gauges of what is open.
    pub fn gauges(&self) -> &Gauges {
        &self.shared.gauges
    }

    /// Ends every wait for a limit, of now and later: to be called when the server begins to stop.
    pub fn end_waits(&self) {
        self.shared.gauges.stop();
    }

    /// Whether the server has a volume that it serves, now: for good, or until another one needs it.
    pub fn has(&self, id: &str) -> bool {
        match self.shared.opened(id).as_deref() {
            Some(Served::Standby(standing)) => standing.standby.state().owns,
            other => other.is_some(),
        }
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
        let (served, gauge) = self.shared.acquire(&info.id, name, mode)?;
        // From here on the handle's drop gives back what was acquired.
        Ok(Arc::new(VolumeDevice { served, gauge, id: info.id, shared: Arc::clone(&self.shared) }))
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
    fn acquire(&self, id: &str, name: &str, mode: Mode) -> Result<(Arc<Served>, Arc<Gauge>), ExportError> {
        let deadline = Instant::now() + CLOSING_TIME;
        let mut open = self.open.lock();
        loop {
            match open.get_mut(id) {
                Some(Entry::Open(served, gauge, handles)) => {
                    *handles += 1;
                    return Ok((served.clone(), gauge.clone()));
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
        let (served, found) = self.serve(id, name, mode).map_err(|e| export_error(&e))?;
        // Between looking and opening the name may have been given to another map.
        if found != id {
            return Err(ExportError::Refused(format!("{name}: was renamed just now; try again")));
        }
        let (served, gauge) = (Arc::new(served), self.gauges.open(id, name));
        changing.then = Some(Entry::Open(served.clone(), gauge.clone(), 1));
        Ok((served, gauge))
    }

    /// Opens a map, or stands for it; returns its id too.
    fn serve(&self, id: &str, name: &str, mode: Mode) -> archipelago_core::Result<(Served, String)> {
        match self.sharing(id) {
            Some(sharing) if mode == Mode::ReadWrite => {
                let standby = self.store.stand_by(name, sharing)?;
                let id = standby.id().to_string();
                Ok((Served::Standby(Standing::new(standby)), id))
            }
            _ => {
                let volume = self.store.open_volume(name, mode)?;
                let id = volume.info()?.id;
                Ok((Served::Had(volume), id))
            }
        }
    }

    /// How the server stands to a volume when it is opened; `None` if it stands by for none.
    fn sharing(&self, id: &str) -> Option<Sharing> {
        let default = self.gauges.standby()?;
        Some(self.told.lock().sharing.get(id).copied().unwrap_or(default))
    }

    /// Answers a question of another process, or does what it says.
    fn answer(&self, question: &Value) -> archipelago_core::Result<Value> {
        let state = match Question::deserialize(question) {
            Ok(Question::Standby { id, name }) => self.standing(&id, &name)?,
            Ok(Question::SetStandby { id, name, sharing }) => self.stand(&id, &name, sharing)?,
            Err(_) => return self.gauges.answer(question),
        };
        serde_json::to_value(state).map_err(|e| Error::Unsupported(format!("an answer that cannot be given: {e}")))
    }

    fn opened(&self, id: &str) -> Option<Arc<Served>> {
        match self.open.lock().get(id) {
            Some(Entry::Open(served, ..)) => Some(served.clone()),
            _ => None,
        }
    }

    fn standing(&self, id: &str, name: &str) -> archipelago_core::Result<StandbyState> {
        let Some(sharing) = self.sharing(id) else { return Err(stands_not(name)) };
        match self.opened(id).as_deref() {
            Some(Served::Standby(standing)) => Ok(standing.standby.state()),
            _ => Ok(StandbyState { sharing, owns: false, size: self.store.info(name)?.size }),
        }
    }

    fn stand(&self, id: &str, name: &str, sharing: Sharing) -> archipelago_core::Result<StandbyState> {
        if self.sharing(id).is_none() {
            return Err(stands_not(name));
        }
        let full = |told: &Told| told.sharing.len() >= MAX_TOLD && !told.sharing.contains_key(id);
        if full(&self.told.lock()) {
            return Err(Error::TooBusy(format!("{name}: orders about {MAX_TOLD} volumes")));
        }
        if sharing == Sharing::Exclusive && !self.told.lock().kept.contains(id) {
            // Had from now on, with a client or without.
            self.acquire(id, name, Mode::ReadWrite).map_err(|e| Error::Unsupported(e.to_string()))?;
            if !self.told.lock().kept.insert(id.to_string()) {
                self.release(id);
            }
        }
        let stood = match self.opened(id).as_deref() {
            Some(Served::Standby(standing)) => standing.standby.set_sharing(sharing),
            _ => Ok(()),
        };
        let mut told = self.told.lock();
        if stood.is_ok() {
            told.sharing.insert(id.to_string(), sharing);
        }
        let exclusive = told.sharing.get(id) == Some(&Sharing::Exclusive);
        let unused = !exclusive && told.kept.remove(id);
        drop(told);
        if unused {
            self.release(id);
        }
        stood?;
        self.standing(id, name)
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
        let Some(Entry::Open(served, ..)) = open.insert(id.to_string(), Entry::Changing) else { return };
        drop(open);
        self.gauges.close(id);
        let _changing = Changing { shared: self, id, then: None };
        if let Err(error) = served.close() {
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

fn stands_not(name: &str) -> Error {
    Error::Unsupported(format!("{name}: this server was not started to stand by (`--standby`)"))
}

/// What the client is told when an export cannot be had; the engine's text says who has it and what to do.
fn export_error(error: &Error) -> ExportError {
    let text = error.to_string();
    match error {
        Error::NotFound(_) | Error::InvalidName { .. } => ExportError::Unknown(text),
        Error::OpenElsewhere { .. } | Error::Busy(_) | Error::GivenUp(_) | Error::TooBusy(_) => {
            ExportError::Refused(text)
        }
        _ => ExportError::Failed(text),
    }
}

/// One connection's handle of an open volume.
struct VolumeDevice {
    served: Arc<Served>,
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
        self.served.size()
    }

    fn block_size(&self) -> u32 {
        PREFERRED
    }

    fn read_only(&self) -> bool {
        self.served.read_only()
    }

    fn description(&self) -> String {
        let kind = if self.served.read_only() { "snapshot" } else { "volume" };
        format!("{kind} {}", self.served.name())
    }

    fn together(&self, requests: usize) -> Option<Box<dyn Batch>> {
        // Without it requests are made by calls, as those to a volume that may have to be taken over first.
        let (volume, gauge) = (self.served.had()?.clone(), self.gauge.clone());
        let together = self.shared.store.together(requests).ok().flatten()?;
        Some(Box::new(VolumeBatch::new(together, volume, gauge)))
    }

    fn read(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> DeviceResult<()> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        self.gauge.measure(Request::Read, offset, len, || errno(self.served.run(|volume| volume.read(bufs, offset))))
    }

    fn write(&self, bufs: &[IoSlice<'_>], offset: u64, fua: bool) -> DeviceResult<()> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        let flags = WriteFlags { fua };
        let write = || errno(self.served.run(|volume| volume.write(bufs, offset, flags)));
        self.gauge.measure(Request::Write, offset, len, write)
    }

    fn flush(&self) -> DeviceResult<()> {
        self.gauge.measure(Request::Flush, 0, 0, || errno(self.served.flush()))
    }

    fn discard(&self, offset: u64, len: u64) -> DeviceResult<()> {
        self.gauge.measure(Request::Zero, offset, len, || errno(self.served.run(|volume| volume.discard(offset, len))))
    }

    fn write_zeroes(&self, offset: u64, len: u64, allocate: bool, fua: bool) -> DeviceResult<()> {
        let flags = WriteFlags { fua };
        let zero = || errno(self.served.run(|volume| volume.write_zeroes(offset, len, allocate, flags)));
        self.gauge.measure(Request::Zero, offset, len, zero)
    }

    fn limited(&self) -> bool {
        self.gauge.limited()
    }

    fn wait_turn(&self, bytes: u64, gone: &dyn Fn() -> bool) {
        self.gauge.wait(bytes, gone);
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> DeviceResult<Vec<Extent>> {
        let extents = errno(self.served.run(|volume| volume.extents(offset, len, max)))?;
        Ok(extents.into_iter().map(|e| Extent { offset: e.offset, len: e.len, zero: e.zero }).collect())
    }
}
