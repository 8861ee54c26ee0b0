//! A store that is open past the page cache beside io_uring with `O_DIRECT` on one file.

use std::io::{IoSlice, IoSliceMut};
use std::path::Path;

use archipelago_core::{Begun, Store, StoreOptions, Together, Volume};

use super::{
    Contender, Kind, Line, Numbers, Outcome, REQUEST, ROUNDS, SIZE, TURN, library, peers, place, turn, volume,
};
use crate::bars::ratio::Ratio;
use crate::bars::{Failure, Options, Scratch, quartiles};

/// What the ratio to io_uring is to be.
const GOAL: f64 = 0.93;

/// All kinds and depths.
pub fn run(dir: &Path, options: &Options) -> Outcome {
    let scratch = Scratch::new(dir, "direct")?;
    let dir = &*scratch.0;
    let (store, volume) = volume(dir, StoreOptions { direct: true, ..StoreOptions::default() })?;
    let path = dir.join("peer");
    peers::prepare(&path, SIZE)?;
    let time = options.turn.unwrap_or(TURN);
    println!("  request             depth  by             library/s  us CPU   io_uring/s  us CPU   ratio (quartiles)");
    for (kind, depth) in [(Kind::Read, 1), (Kind::Read, 32), (Kind::Overwrite, 1), (Kind::Overwrite, 32)] {
        let mut own: Vec<(&str, Box<dyn Contender + '_>)> = match depth {
            1 => vec![("call", Box::new(Calls::new(&volume)))],
            _ => vec![
                ("queue", library::contender(&volume, depth)),
                ("own thread", Box::new(Own::new(&store, &volume, depth)?)),
            ],
        };
        let mut ring = peers::Ring::new(&path, depth, peers::Cache::Direct)?;
        let (mut ratios, mut rates, mut cpu) = (vec![Vec::new(); 2], vec![Vec::new(); 3], vec![Vec::new(); 3]);
        for round in 0..ROUNDS as u64 {
            let peer = turn(&mut ring, kind, time, round + 1)?;
            rates[2].push(peer.0);
            cpu[2].push(peer.1);
            for (i, (_, contender)) in own.iter_mut().enumerate() {
                let (rate, used) = turn(&mut **contender, kind, time, round + 1)?;
                rates[i].push(rate);
                cpu[i].push(used);
                ratios[i].push(rate / peer.0);
            }
        }
        let (peer_rate, peer_cpu) = (quartiles(&mut rates[2]).0, quartiles(&mut cpu[2]).0);
        for (i, (by, _)) in own.iter().enumerate() {
            let (rate, used) = (quartiles(&mut rates[i]).0, quartiles(&mut cpu[i]).0);
            let case = format!("{} of 4 KiB, depth {depth}", kind.name());
            let ratio = Ratio::new("library, direct", &case, &format!("rate, {by}"), "io_uring", Some(GOAL), false)
                .of(ratios[i].iter().copied());
            println!(
                "  {:<18} {depth:>6}  {by:<12} {rate:>11.0} {used:>7.2}  {peer_rate:>11.0} {peer_cpu:>7.2}   {}",
                kind.name(),
                ratio.figures()
            );
            if options.json {
                let line = Line { ratio, library_ops: rate, library_cpu_us: used, peer_cpu_us: peer_cpu };
                println!("{}", serde_json::to_string(&line)?);
            }
        }
    }
    Ok(())
}

/// Calls, from a buffer that lies as the disk wants it.
struct Calls<'a> {
    volume: &'a Volume,
    buf: Box<peers::Buffer>,
}

impl<'a> Calls<'a> {
    fn new(volume: &'a Volume) -> Calls<'a> {
        Calls { volume, buf: Box::new(peers::Buffer([3; REQUEST])) }
    }
}

impl Contender for Calls<'_> {
    fn run(&mut self, kind: Kind, count: u64, numbers: &mut Numbers) -> Outcome {
        for _ in 0..count {
            let at = place(numbers);
            match kind {
                Kind::Read => self.volume.read_at(&mut self.buf.0, at)?,
                _ => self.volume.write_at(&self.buf.0, at)?,
            }
        }
        Ok(())
    }
}

/// One thread that has requests under way together, and waits for them itself.
struct Own<'a> {
    // Before the buffers: it waits for what is under way.
    together: Together,
    volume: &'a Volume,
    bufs: Vec<peers::Buffer>,
    free: Vec<usize>,
}

impl<'a> Own<'a> {
    fn new(store: &Store, volume: &'a Volume, depth: usize) -> Result<Own<'a>, Failure> {
        let together = store.together(depth)?.ok_or("no io_uring here")?;
        Ok(Own { together, volume, bufs: vec![peers::Buffer([3; REQUEST]); depth], free: (0..depth).collect() })
    }
}

impl Own<'_> {
    fn end(&mut self, least: usize) -> Outcome {
        let (free, mut failed) = (&mut self.free, Ok(()));
        self.together.wait(least, &mut |number, result| {
            free.push(number);
            if result.is_err() {
                failed = result;
            }
        });
        Ok(failed?)
    }
}

impl Contender for Own<'_> {
    /// Leaves requests under way, as the peer does.
    fn run(&mut self, kind: Kind, count: u64, numbers: &mut Numbers) -> Outcome {
        for _ in 0..count {
            if self.free.is_empty() {
                self.end(1)?;
            }
            let Some(number) = self.free.pop() else { continue };
            let (at, buf) = (place(numbers), &mut self.bufs[number].0);
            let begun = match kind {
                // SAFETY: the buffer is this request's alone until its end puts its number back into `free`, and lives longer than
                // what is under way.
                Kind::Read => unsafe { self.together.read(self.volume, number, &mut [IoSliceMut::new(buf)], at) },
                // SAFETY: as above.
                _ => unsafe { self.together.write(self.volume, number, &[IoSlice::new(buf)], at) },
            };
            match begun? {
                Begun::UnderWay => {}
                Begun::Done => self.free.push(number),
                Begun::ByCall => {
                    // It may wait for what is under way.
                    self.free.push(number);
                    self.end(usize::MAX)?;
                    match kind {
                        Kind::Read => self.volume.read_at(&mut self.bufs[number].0, at)?,
                        _ => self.volume.write_at(&self.bufs[number].0, at)?,
                    }
                }
            }
        }
        Ok(())
    }
}
