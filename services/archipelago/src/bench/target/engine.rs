//! Volumes by the engine in this process: calls at depth 1, its completion queue above.

use std::collections::VecDeque;
use std::mem;

use archipelago_core::{Completion, CompletionQueue, CreateOptions, Error, Mode, Operation, Store, Volume, WriteFlags};

use super::super::args::{Bench, Op};
use super::super::plan::{Kind, Objects, Plan, Request};
use super::{Ended, Stalls, Target};
use crate::cli::exit::Failure;

/// Open volumes.
pub struct Engine {
    /// By number of the object.
    volumes: Vec<Volume>,
    bufs: Vec<Vec<u8>>,
    /// Above depth 1.
    queue: Option<CompletionQueue>,
    completions: Vec<Completion>,
    /// Requests that ended in the call that began them.
    ended: VecDeque<Ended>,
}

/// Opens the volumes, and makes those that are to be written and do not exist.
pub fn open(args: &Bench, objects: Objects, store: &Store) -> Result<(Plan, Engine), Failure> {
    let mode = if args.op == Op::Read { Mode::ReadOnly } else { Mode::ReadWrite };
    let found = |name: &str| match store.open_volume(name, mode) {
        Ok(volume) => Ok(Some(volume)),
        Err(Error::NotFound(_)) if args.op == Op::Write => Ok(None),
        Err(error) => Err(Failure::from(error)),
    };
    // The size of a volume that is named decides about the plan.
    let mut named = match &objects {
        Objects::Named(name) => found(name)?,
        _ => None,
    };
    let plan = Plan::new(args, objects, named.as_ref().map(Volume::size))?;
    let mut volumes = Vec::new();
    for object in 0..plan.count {
        let name = plan.name(object);
        let volume = match named.take().map_or_else(|| found(&name), |volume| Ok(Some(volume)))? {
            Some(volume) => {
                if volume.size() < plan.object_size {
                    let (size, wanted) = (volume.size(), plan.object_size);
                    return Err(Failure::Usage(format!("{name}: has {size} bytes, and not the {wanted} of --os")));
                }
                if plan.writes() && !args.overwrite && has_data(&volume)? {
                    return Err(Failure::HasData(name));
                }
                volume
            }
            None => {
                store.create(&name, &CreateOptions { size: plan.object_size, block_size: None })?;
                store.open_volume(&name, mode)?
            }
        };
        volumes.push(volume);
    }
    let mut bufs = vec![vec![0; plan.request_size as usize]; plan.depth];
    bufs.iter_mut().for_each(|buf| plan.content().prepare(buf));
    let queue = (plan.depth > 1).then(CompletionQueue::new);
    let engine = Engine { volumes, bufs, queue, completions: Vec::new(), ended: VecDeque::new() };
    Ok((plan, engine))
}

fn has_data(volume: &Volume) -> Result<bool, Failure> {
    // Neighbours of a kind are one, so that a volume without data is one extent.
    let extents = volume.extents(0, volume.size(), 2)?;
    Ok(extents.iter().any(|extent| !extent.zero))
}

impl Engine {
    fn call(volume: &Volume, request: Request, buf: &mut [u8]) -> Result<(), Error> {
        match request.kind {
            Kind::Write => volume.write_at(buf, request.offset),
            _ => volume.read_at(buf, request.offset),
        }
    }
}

impl Target for Engine {
    fn describe(&self) -> String {
        "the engine in this process".into()
    }

    fn buffer(&mut self, tag: usize) -> &mut [u8] {
        &mut self.bufs[tag]
    }

    fn start(&mut self, tag: usize, request: Request) -> Result<(), Failure> {
        let volume = &self.volumes[request.object as usize];
        let Some(queue) = &self.queue else {
            let result = Engine::call(volume, request, &mut self.bufs[tag]);
            self.ended.push_back(Ended { tag, result: result.map_err(Failure::from) });
            return Ok(());
        };
        let (buf, offset) = (mem::take(&mut self.bufs[tag]), request.offset);
        let operation = match request.kind {
            Kind::Write => Operation::Write { buf, offset, flags: WriteFlags::default() },
            _ => Operation::Read { buf, offset },
        };
        if let Err((error, operation)) = volume.submit(operation, tag as u64, queue) {
            if let Operation::Read { buf, .. } | Operation::Write { buf, .. } = operation {
                self.bufs[tag] = buf;
            }
            self.ended.push_back(Ended { tag, result: Err(error.into()) });
        }
        Ok(())
    }

    fn wait(&mut self, ended: &mut Vec<Ended>) -> Result<(), Failure> {
        let waits = self.ended.is_empty();
        ended.extend(self.ended.drain(..));
        if let Some(queue) = &self.queue {
            queue.wait(&mut self.completions, usize::from(waits), None);
            for Completion { tag, buf, result } in self.completions.drain(..) {
                let tag = tag as usize;
                self.bufs[tag] = buf;
                ended.push(Ended { tag, result: result.map_err(Failure::from) });
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.volumes.iter().try_for_each(Volume::flush)?)
    }

    fn stalls(&self) -> Option<Stalls> {
        let mut all = Stalls::default();
        for stats in self.volumes.iter().map(Volume::stalls) {
            all.count += stats.count;
            all.longest = all.longest.max(std::time::Duration::from_nanos(stats.max));
        }
        Some(all)
    }

    /// Between the page cache and the buffer.
    fn copies(&self) -> Option<u32> {
        Some(1)
    }
}
