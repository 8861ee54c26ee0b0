//! The thread of one queue: takes requests, carries them out one after the other, or together where each waits for a disk, gives them back,
//! and sleeps when there are none. It ends when the device is stopped.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use archipelago_core::Begun;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};

use super::limits::{ANSWERS_TOGETHER, IDLE, LONG_REQUEST};
use super::memory::{Buffers, Descriptions};
use super::request::Call;
use super::wire::{ABORTED, COMMIT_AND_FETCH, DeviceInfo, FETCH, queue_command};
use crate::disk::device::{Batch, Device};
use crate::disk::limits::SPIN;
use crate::disk::spin::{Spin, Spinners};

/// `IORING_ENTER_GETEVENTS`: the kernel looks for requests, also if they are not waited for.
const GETEVENTS: u32 = 1;

/// What a queue works with.
pub struct Work {
    /// Its number.
    pub queue: u16,
    /// What the device is.
    pub info: DeviceInfo,
    /// The device, as servers open it. It is closed when all queues have ended.
    pub device: Arc<File>,
    /// The disk.
    pub disk: Arc<dyn Device>,
    /// Who may look for requests without sleeping.
    pub spinners: Arc<Spinners>,
}

/// Serves a queue until the device is stopped. Whether it waits for requests is sent to `ready`.
pub fn run(work: Work, ready: SyncSender<io::Result<()>>) {
    let (disk, spinners, depth) = (work.disk.clone(), work.spinners.clone(), usize::from(work.info.depth));
    match Queue::begin(work) {
        Ok(mut queue) => {
            let _ = ready.send(Ok(()));
            drop(ready);
            let mut together = disk.together(depth);
            if let Err(error) = queue.serve(&mut together, &mut Spin::new(&spinners, SPIN)) {
                tracing::error!(%error, "ublk: a queue ends");
                drop(together);
                // The kernel may have their addresses still.
                let Queue { buffers, .. } = queue;
                std::mem::forget(buffers);
            }
        }
        Err(error) => {
            let _ = ready.send(Err(error));
        }
    }
}

struct Queue {
    // Before what the kernel may use as long as it is open.
    ring: IoUring,
    descriptions: Descriptions,
    buffers: Buffers,
    number: u16,
    device: Arc<File>,
    disk: Arc<dyn Device>,
    buffer: usize,
    /// Requests for which the kernel has a command, or we have the request.
    live: usize,
    /// Numbers and results of commands that have ended.
    arrived: Vec<(u16, i32)>,
    /// What is under way together, by number.
    begun: Vec<Option<Call>>,
    /// Answers that the kernel was not told of.
    unsent: usize,
    /// The pages of the buffers were given back.
    rested: bool,
}

impl Queue {
    /// Has the kernel wait for requests of every number.
    fn begin(work: Work) -> io::Result<Queue> {
        let Work { queue: number, info, device, disk, .. } = work;
        let (depth, buffer) = (info.depth, info.max_request as usize);
        let mut queue = Queue {
            // Requests are brought, and writes copied to their buffers, only while this thread asks for what there is.
            ring: IoUring::builder()
                .setup_single_issuer()
                .setup_defer_taskrun()
                .build(u32::from(depth).next_power_of_two())?,
            descriptions: Descriptions::map(&device, number, depth)?,
            buffers: Buffers::new(depth, buffer)?,
            number,
            device,
            disk,
            buffer,
            live: usize::from(depth),
            arrived: Vec::with_capacity(usize::from(depth)),
            begun: (0..depth).map(|_| None).collect(),
            unsent: 0,
            rested: true,
        };
        for request in 0..depth {
            queue.push(FETCH, request, 0)?;
        }
        queue.look()?;
        // Nothing is asked for before the device is started.
        let ended = queue.ring.completion().next();
        match ended {
            Some(ended) => Err(io::Error::from_raw_os_error(ended.result().saturating_neg().max(1))),
            None => Ok(queue),
        }
    }

    /// Takes requests until the device is stopped.
    fn serve(&mut self, together: &mut Option<Box<dyn Batch>>, spin: &mut Spin<'_>) -> io::Result<()> {
        while self.live > 0 {
            let mut arrived = std::mem::take(&mut self.arrived);
            arrived.extend(self.ring.completion().map(|ended| (ended.user_data() as u16, ended.result())));
            for (number, result) in arrived.drain(..) {
                if result == 0 {
                    self.rested = false;
                    self.take(number, together)?;
                } else {
                    self.live -= 1;
                    if result != ABORTED {
                        tracing::error!(error = %io::Error::from_raw_os_error(-result), "ublk: the kernel refuses");
                    }
                }
            }
            self.arrived = arrived;
            if together.as_ref().is_none_or(|batch| batch.count() == 0) {
                if self.live > 0 {
                    self.wait(spin)?;
                }
            } else if !self.look()? {
                self.end_some(together)?;
            }
        }
        Ok(())
    }

    /// Carries a request out, or begins it.
    fn take(&mut self, number: u16, together: &mut Option<Box<dyn Batch>>) -> io::Result<()> {
        let Some(request) = self.descriptions.get(number) else { return Err(io::ErrorKind::InvalidData.into()) };
        let call = match Call::of(&request, self.disk.size(), self.disk.read_only(), self.buffer) {
            Ok(call) => call,
            Err(error) => return self.give_back(number, -error.0),
        };
        // SAFETY: the kernel handed this request out, and it is given back below, or when it has ended; the queue ends what is under way
        // before its buffers.
        let buffer = unsafe { self.buffers.get(number, call.in_buffer()) };
        let limited = self.disk.limited();
        if let Some(batch) = together
            && !limited
        {
            match begin(&mut **batch, number, &call, buffer) {
                Begun::UnderWay => {
                    self.begun[usize::from(number)] = Some(call);
                    return Ok(());
                }
                Begun::Done => return self.give_back(number, call.done()),
                // It may wait for what is under way here.
                Begun::ByCall => while self.end_some(together)? {},
            }
        }
        if limited || call.may_take_long(LONG_REQUEST) {
            self.send()?;
        }
        if limited {
            self.disk.wait_turn(buffer.len() as u64, &|| false);
        }
        let result = call.carry_out(&*self.disk, buffer);
        self.give_back(number, result.map_or_else(|error| -error.0, |()| call.done()))
    }

    /// Waits for one of the requests under way, and gives back all that have ended; `false` if none is under way.
    fn end_some(&mut self, together: &mut Option<Box<dyn Batch>>) -> io::Result<bool> {
        let Some(batch) = together else { return Ok(false) };
        if batch.count() == 0 {
            return Ok(false);
        }
        self.send()?;
        let mut given = Ok(());
        batch.wait(1, &mut |number, result| {
            let Some(call) = self.begun.get_mut(number).and_then(Option::take) else { return };
            let back = self.give_back(number as u16, result.map_or_else(|error| -error.0, |()| call.done()));
            given = std::mem::replace(&mut given, Ok(())).and(back);
        });
        given.map(|()| true)
    }

    /// Gives a request back, with the bytes that were moved or an error number below zero, and waits for the next one of its number. The
    /// kernel is told now or later.
    fn give_back(&mut self, number: u16, result: i32) -> io::Result<()> {
        self.push(COMMIT_AND_FETCH, number, result)?;
        self.unsent += 1;
        if self.unsent >= ANSWERS_TOGETHER { self.send() } else { Ok(()) }
    }

    fn push(&mut self, command: u32, number: u16, result: i32) -> io::Result<()> {
        let bytes = queue_command(self.number, number, result, self.buffers.address(number));
        let entry = opcode::UringCmd16::new(Fd(self.device.as_raw_fd()), command).cmd(bytes).build();
        let entry = entry.user_data(u64::from(number));
        // SAFETY: the device stays open and the buffer mapped until the ring is closed, which goes first.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // There is room for one command of each number.
        pushed.map_err(|_| io::ErrorKind::ResourceBusy.into())
    }

    /// Tells the kernel of what was given back.
    fn send(&mut self) -> io::Result<()> {
        self.unsent = 0;
        while !self.ring.submission().is_empty() {
            uninterrupted(self.ring.submit())?;
        }
        Ok(())
    }

    /// Tells the kernel of what was given back, and asks whether there are requests.
    fn look(&mut self) -> io::Result<bool> {
        self.unsent = 0;
        let given = self.ring.submission().len() as u32;
        // SAFETY: enters with what was pushed, and without a signal mask.
        uninterrupted(unsafe { self.ring.submitter().enter::<libc::sigset_t>(given, 0, GETEVENTS, None) })?;
        Ok(!self.ring.completion().is_empty())
    }

    /// Waits for requests, without sleeping for a moment. While there are none for long, the memory of the buffers is others'.
    fn wait(&mut self, spin: &mut Spin<'_>) -> io::Result<()> {
        match spin.find(|| self.look().map(|found| found.then_some(())).transpose()) {
            Some(found) => return found,
            None => self.unsent = 0,
        }
        if self.rested {
            return uninterrupted(self.ring.submit_and_wait(1));
        }
        let time = Timespec::from(IDLE);
        match self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time)) {
            // Requests come in only while we ask for them: there is none in any buffer.
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => {
                if self.ring.completion().is_empty() {
                    self.buffers.rest();
                    self.rested = true;
                }
                Ok(())
            }
            waited => uninterrupted(waited),
        }
    }
}

/// A signal is no error: who waits looks again.
fn uninterrupted(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// Begins a request among those that are under way, if it can be.
fn begin(batch: &mut dyn Batch, number: u16, call: &Call, buffer: &mut [u8]) -> Begun {
    let number = usize::from(number);
    match call {
        // SAFETY: the buffer is the request's until it was given back, which is after its end was told.
        Call::Read { offset, .. } => unsafe { batch.read(number, &mut [IoSliceMut::new(buffer)], *offset) },
        // SAFETY: as above; the kernel changes it no earlier.
        Call::Write { offset, fua: false, .. } => unsafe { batch.write(number, &[IoSlice::new(buffer)], *offset) },
        _ => Begun::ByCall,
    }
}
