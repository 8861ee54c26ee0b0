//! The library as a contender: calls at depth 1, its completion queue above.

use archipelago_core::{Completion, CompletionQueue, Operation, Volume, WriteFlags};

use super::{Contender, Kind, Numbers, Outcome, REQUEST, place};

/// The contender for a depth.
pub fn contender(volume: &Volume, depth: usize) -> Box<dyn Contender + '_> {
    match depth {
        1 => Box::new(Calls { volume, buf: vec![3; REQUEST] }),
        _ => Box::new(Queued {
            volume,
            queue: CompletionQueue::new(),
            free: vec![vec![3; REQUEST]; depth],
            ended: Vec::with_capacity(depth),
        }),
    }
}

struct Calls<'a> {
    volume: &'a Volume,
    buf: Vec<u8>,
}

impl Contender for Calls<'_> {
    fn run(&mut self, kind: Kind, count: u64, numbers: &mut Numbers) -> Outcome {
        for _ in 0..count {
            let at = place(numbers);
            if kind == Kind::Read {
                self.volume.read_at(&mut self.buf, at)?;
                continue;
            }
            self.volume.write_at(&self.buf, at)?;
            if kind == Kind::Durable {
                self.volume.flush()?;
            }
        }
        Ok(())
    }
}

struct Queued<'a> {
    volume: &'a Volume,
    queue: CompletionQueue,
    /// Buffers that are not under way.
    free: Vec<Vec<u8>>,
    ended: Vec<Completion>,
}

impl Contender for Queued<'_> {
    /// Leaves the queue full: what is under way at the end ends in the next call.
    fn run(&mut self, kind: Kind, count: u64, numbers: &mut Numbers) -> Outcome {
        for _ in 0..count {
            while self.free.is_empty() {
                self.queue.wait(&mut self.ended, 1, None);
                for completion in self.ended.drain(..) {
                    completion.result?;
                    self.free.push(completion.buf);
                }
            }
            let Some(buf) = self.free.pop() else { continue };
            let offset = place(numbers);
            let operation = match kind {
                Kind::Read => Operation::Read { buf, offset },
                _ => Operation::Write { buf, offset, flags: WriteFlags { fua: kind == Kind::Durable } },
            };
            self.volume.submit(operation, 0, &self.queue).map_err(|(error, _)| error)?;
        }
        Ok(())
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let left = self.queue.outstanding();
        self.queue.wait(&mut self.ended, left, None);
    }
}
