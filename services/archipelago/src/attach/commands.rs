//! What commands do: attach a volume, detach it, list what is attached.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use archipelago_core::Sharing;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;

use super::device::{BlockDevice, Driver};
use super::error::AttachError;
use super::limits::{LOOK, SETTLE_TIME, STOP_TIME};
use super::loop_device::LoopDevice;
use super::place::{Place, Record};
use super::{start, users};
use crate::disk::standby::word;
use crate::fuse;
use crate::nbd::bound_at;

/// What a volume is to be attached as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presentation {
    /// A block device.
    Device,
    /// A file, for which nothing is needed but FUSE.
    File,
}

/// What is to be attached, and how.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The store, as it is named.
    pub store: String,
    /// Its identity.
    pub uuid: String,
    /// Id of the volume or snapshot, in hex.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it is to be read only.
    pub read_only: bool,
    /// Block device or file.
    pub presentation: Presentation,
    /// The driver of the device; the best there is without.
    pub driver: Option<Driver>,
    /// Whether the device has to follow the size of the volume, which not every driver of every kernel can.
    pub grows: bool,
    /// Whether it is served over NBD as well, on a socket of its own. What is attached already stays as it is: its record says.
    pub socket: bool,
    /// How it stands to the volume, if other processes may have that; `None`: it has it until it is detached. What is attached already stays as
    /// it is.
    pub standby: Option<Sharing>,
    /// Arguments that name the same store and configuration to the program that serves it.
    pub server: Vec<String>,
    /// Name under which this program is started for that, with an empty environment. `None`: as it is.
    pub server_name: Option<&'static str>,
}

/// An attachment that is there.
#[derive(Clone, Debug, Serialize)]
pub struct Attached {
    /// What is attached.
    #[serde(flatten)]
    pub record: Record,
    /// The block device, if there is one.
    pub device: Option<PathBuf>,
    /// The file, if it is mounted as one.
    pub file: Option<PathBuf>,
    /// Whether its server lives. If not, every request fails until it is detached.
    pub served: bool,
}

impl Attached {
    /// What a user is to open: the device, else the file. `-` if somebody took the device away.
    pub fn path(&self) -> &Path {
        self.device.as_deref().or(self.file.as_deref()).unwrap_or(Path::new("-"))
    }
}

/// Attaches and detaches on one node. Two nodes on one machine do not see one another's attachments.
pub struct Attacher {
    run: PathBuf,
    node: String,
}

impl Attacher {
    /// For the node of this name, with the directory below which attachments are.
    pub fn new(run: PathBuf, node: String) -> Attacher {
        Attacher { run, node }
    }

    /// What is attached of a volume, if it is.
    pub fn find(&self, store: &str, id: &str) -> Result<Option<Attached>, AttachError> {
        look(&Place::of(&self.run, &self.node, store, id)?)
    }

    /// Attaches a volume; the same path again if it is attached already.
    pub fn attach(&self, wanted: &Wanted) -> Result<Attached, AttachError> {
        let mut driver = match wanted.presentation {
            Presentation::Device => Driver::choose(wanted.driver, wanted.grows)?,
            // A device may be put over it later.
            Presentation::File => Driver::Loop,
        };
        let place = Place::of(&self.run, &self.node, &wanted.uuid, &wanted.id)?;
        let _lock = place.lock()?;
        match look(&place)? {
            Some(attached) if attached.served => {
                if attached.record.read_only != wanted.read_only {
                    let how = if attached.record.read_only { "for reading only" } else { "for writing" };
                    let text = format!("{}: is attached already, {how}, as {}", wanted.name, attached.path().display());
                    return Err(AttachError::Otherwise(text));
                }
                let file_wanted = wanted.presentation == Presentation::File;
                let other = wanted.driver.is_some_and(|driver| driver != attached.record.driver);
                if other || file_wanted && attached.file.is_none() {
                    let driver = attached.record.driver.word();
                    let path = attached.path().display();
                    let text = format!("{}: is attached already, by the driver {driver}, as {path}", wanted.name);
                    return Err(AttachError::Otherwise(text));
                }
                return present(&place, attached, wanted.presentation);
            }
            // Whoever served it was killed, and whoever uses it waits for another server.
            Some(attached) if waits(&attached, &place, wanted)? => driver = Driver::Ublk,
            // Whoever served it was killed.
            _ => clear(&place, &wanted.name)?,
        }
        let mut arguments: Vec<OsString> = wanted.server.iter().map(OsString::from).collect();
        arguments.extend(["--json", "serve-attached"].map(OsString::from));
        arguments.extend(wanted.socket.then(|| "--socket".into()));
        if let Some(sharing) = wanted.standby {
            arguments.extend(["--standby".into(), word(sharing).into()]);
        }
        arguments.extend(["--", &wanted.name, &wanted.id].map(OsString::from));
        arguments.extend([place.dir().into(), driver.word().into()]);
        if let Err(error) = start::start(&place, wanted.server_name, &arguments) {
            // Nothing of what failed stays, but a device that was there before. If it cannot be removed, the first error is the one to know.
            if let Ok(None) = BlockDevice::of(&place) {
                let _ = place.remove();
            }
            return Err(error);
        }
        let attached = look(&place)?.ok_or_else(|| AttachError::NotAttached(wanted.name.clone()))?;
        present(&place, attached, wanted.presentation)
    }

    /// Detaches what `what` means: a device, a file, the name or the id of a volume. All that was written is in the store when this
    /// returns.
    pub fn detach(&self, what: &str) -> Result<(), AttachError> {
        let path = fs::canonicalize(what).ok();
        for place in Place::all(&self.run, &self.node)? {
            let Some(attached) = look(&place)? else { continue };
            let record = &attached.record;
            let meant = record.name == what
                || record.id == what
                || path.as_deref().is_some_and(|path| attached.device.as_deref() == Some(path))
                || attached.file.as_deref() == Some(Path::new(what));
            if meant {
                let _lock = place.lock()?;
                return end(&place, what);
            }
        }
        Err(AttachError::NotAttached(what.into()))
    }

    /// Makes the device of an attached volume as large as the volume, which its server does too, a little later.
    pub fn follow_size(&self, attached: &Attached) -> Result<(), AttachError> {
        // Of a device that is none over a file, its server alone can tell the kernel.
        let Some(file) = &attached.file else { return Ok(()) };
        // The kernel remembers the size until somebody asks.
        fs::metadata(file).map_err(|e| AttachError::host("look at", file.display(), e))?;
        match LoopDevice::over(file)? {
            Some(device) => device.follow_size().map_err(|e| AttachError::host("resize", device.path().display(), e)),
            None => Ok(()),
        }
    }

    /// All attachments of the node.
    pub fn list(&self) -> Result<Vec<Attached>, AttachError> {
        let mut list = Vec::new();
        for place in Place::all(&self.run, &self.node)? {
            list.extend(look(&place)?);
        }
        list.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        Ok(list)
    }
}

/// What is attached in a place.
pub(super) fn look(place: &Place) -> Result<Option<Attached>, AttachError> {
    let Some(record) = place.record() else { return Ok(None) };
    let file = (record.driver == Driver::Loop).then(|| place.disk());
    let device = BlockDevice::of(place)?.filter(|device| !device.is_stopped()).map(BlockDevice::path);
    Ok(Some(Attached { record, device, file, served: place.is_served()? }))
}

/// Makes the device if there is none yet.
fn present(place: &Place, mut attached: Attached, presentation: Presentation) -> Result<Attached, AttachError> {
    let over_file = attached.record.driver == Driver::Loop;
    if presentation == Presentation::Device && over_file && attached.device.is_none() {
        let device = LoopDevice::put_over(&place.disk(), attached.record.read_only)?;
        attached.device = Some(device.path());
    }
    Ok(attached)
}

/// Whether the device of a server that was killed goes on with another one.
fn waits(attached: &Attached, place: &Place, wanted: &Wanted) -> Result<bool, AttachError> {
    let record = &attached.record;
    let same = wanted.presentation == Presentation::Device
        && wanted.driver.is_none_or(|driver| driver == Driver::Ublk)
        && record.driver == Driver::Ublk
        && record.read_only == wanted.read_only;
    Ok(same && attached.device.is_some() && !place.is_served()?)
}

/// Clears away what a server left that was killed.
fn clear(place: &Place, name: &str) -> Result<(), AttachError> {
    if place.is_served()? {
        return Err(AttachError::Busy(format!("{name}: is being attached by somebody else; try again")));
    }
    take_away_device(place)?;
    unmount(place)?;
    Ok(())
}

/// Detaches: the device first, then its server.
fn end(place: &Place, what: &str) -> Result<(), AttachError> {
    let Some(attached) = look(place)? else {
        // Somebody was faster, and only what waiting for him made is left.
        place.remove()?;
        return Err(AttachError::NotAttached(what.into()));
    };
    free(place, &attached)?;
    if place.is_served()? {
        stop(attached.record.pid, place)?;
    }
    unmount(place)?;
    place.remove()
}

/// Takes away what leads to the server, unless somebody uses it.
pub(super) fn free(place: &Place, attached: &Attached) -> Result<(), AttachError> {
    wait_for_clients(place, attached)?;
    take_away_device(place)?;
    let using: Vec<u32> = users::of(&place.disk()).into_iter().filter(|pid| *pid != attached.record.pid).collect();
    if using.is_empty() {
        return Ok(());
    }
    Err(AttachError::InUse { device: place.disk().display().to_string(), by: users::in_words(&using) })
}

/// A client of the socket is a virtual machine that runs.
fn wait_for_clients(place: &Place, attached: &Attached) -> Result<(), AttachError> {
    let Some(socket) = attached.record.socket.as_ref().filter(|_| attached.served) else { return Ok(()) };
    let deadline = Instant::now() + SETTLE_TIME;
    let bound = bound_at(socket, attached.record.pid);
    while users::has_clients(&bound) {
        if Instant::now() > deadline {
            let by = format!(" (by a client of {}: a virtual machine)", socket.display());
            return Err(AttachError::InUse { device: place.disk().display().to_string(), by });
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn take_away_device(place: &Place) -> Result<(), AttachError> {
    let Some(device) = BlockDevice::of(place)? else { return Ok(()) };
    let path = device.path();
    let deadline = Instant::now() + SETTLE_TIME;
    loop {
        let (claimed, using) = (device.is_claimed()?, users::of(&path));
        if !claimed && using.is_empty() {
            break;
        }
        // Who looks at every device that was written to, as udev does, has it open for a moment.
        if Instant::now() > deadline {
            let mut by = match claimed {
                true => " (by a file system that is mounted, a swap area, or another device above it)".into(),
                false => users::in_words(&using),
            };
            if device.waits() && !place.is_served()? {
                by += ", and waits for a server, which `archipelago map` gives it";
            }
            return Err(AttachError::InUse { device: path.display().to_string(), by });
        }
        std::thread::sleep(LOOK);
    }
    device.take_away()?;
    let deadline = Instant::now() + STOP_TIME;
    // What was written to the device goes to the volume meanwhile.
    while BlockDevice::of(place)?.is_some() {
        if Instant::now() > deadline {
            return Err(AttachError::Busy(format!("{}: does not end; see the kernel's log", path.display())));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn unmount(place: &Place) -> Result<(), AttachError> {
    let disk = place.disk();
    let failed = |e| AttachError::host("unmount", disk.display(), e);
    if fuse::is_mounted(&disk).map_err(failed)? { fuse::unmount(&disk).map_err(failed) } else { Ok(()) }
}

/// Ends a server, and waits until all is written.
fn stop(pid: u32, place: &Place) -> Result<(), AttachError> {
    let failed = |op, error| AttachError::host(op, format!("process {pid}"), error);
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    let process = match pidfd_open(number, PidfdFlags::empty()) {
        Ok(process) => process,
        // It has just ended by itself.
        Err(Errno::SRCH) => return Ok(()),
        Err(error) => return Err(failed("find", error.into())),
    };
    // From here on the descriptor means one process. If the server lives still, it is that one.
    if !place.is_served()? {
        return Ok(());
    }
    match pidfd_send_signal(&process, Signal::TERM) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => return Err(failed("end", error.into())),
    }
    let deadline = Instant::now() + STOP_TIME;
    while place.is_served()? {
        if Instant::now() > deadline {
            let text =
                format!("process {pid} still writes to the store after {} s; try again later", STOP_TIME.as_secs());
            return Err(AttachError::Busy(text));
        }
        std::thread::sleep(LOOK);
    }
    // What it said when it failed to write.
    match fs::read_to_string(place.log()) {
        Ok(log) if !log.trim().is_empty() => {
            eprint!("{log}");
            Ok(())
        }
        _ => Ok(()),
    }
}
