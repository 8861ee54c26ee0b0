//! One simulated store: a disk, the processes on it, and beside them the reference. Runs a history and lets go wrong what it says.

use std::collections::BTreeSet;
use std::sync::Arc;

use archipelago_core::blocker::sim::{Random, Syncs};
use archipelago_core::format::header::Header;
use archipelago_core::store::collect;
use archipelago_core::store::peers::Neighbours;
use archipelago_core::{CollectPhase, Error, Mode, VolumeId};

use crate::costs;
use crate::examine::shape;
use crate::history::{Fault, Op, PROCESSES, Step, Then, mix};
use crate::model::{After, Allowed, Effect, Map, State, effect};
use crate::perform::{Done, Outcome, Trouble, read_all};
use crate::process::{Backend, Disk, Process};
use crate::stock::Stock;
use crate::wire::{Lie, Planted, Wire};

/// Room that counts as no limit.
const PLENTY: (u64, u64) = (1 << 40, 1 << 39);

/// Bugs to plant.
#[derive(Clone, Copy, Default, Debug)]
pub struct Bugs {
    pub syncs: Syncs,
    pub wire: Option<Planted>,
    pub collect: collect::Planted,
}

/// How much was tried.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    pub histories: u64,
    pub operations: u64,
    pub refused: u64,
    pub cuts: u64,
    pub kills: u64,
    pub errors: u64,
    pub lies: u64,
    pub full: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.histories += other.histories;
        self.operations += other.operations;
        self.refused += other.refused;
        self.cuts += other.cuts;
        self.kills += other.kills;
        self.errors += other.errors;
        self.lies += other.lies;
        self.full += other.full;
    }

    /// Everything that went wrong on purpose.
    pub fn faults(&self) -> u64 {
        self.cuts + self.kills + self.errors + self.lies + self.full
    }
}

/// See [the module](self).
pub struct World {
    pub disk: Disk,
    pub state: State,
    pub seed: u64,
    pub rng: Random,
    /// The disk has little room.
    pub full: bool,
    pub counts: Counts,
    /// Number of the operation that is being done.
    pub stamp: u32,
    /// Buffers for what is read.
    pub buffers: Vec<Vec<u8>>,
    procs: [Option<Process>; PROCESSES],
    neighbours: Arc<Neighbours>,
    pub bugs: Bugs,
    pub costs: costs::Memory,
    /// What the last collection did one after the other.
    pub phases: Vec<CollectPhase>,
    /// Names that a rename was to give or to take when something struck it. An entry may be left that leads to a volume of another
    /// name; while that is open, nobody can tell that its owner is not about to make the entry count, and it is refused.
    stale: BTreeSet<String>,
    /// Processes in which a call failed that may have been a sync, and nobody heard of it, or not of what it was. If it was, later syncs
    /// of the object are refused.
    soured: BTreeSet<usize>,
    /// Processes started so far: each has ids of its own.
    started: u64,
}

impl World {
    pub fn new(backend: Backend, seed: u64, bugs: Bugs) -> Done<World> {
        let disk = Disk::with_store(backend)?;
        disk.drop_syncs(bugs.syncs);
        Ok(World {
            disk,
            state: State::default(),
            seed,
            rng: Random::new(mix(seed, 2)),
            full: false,
            counts: Counts { histories: 1, ..Counts::default() },
            stamp: 0,
            buffers: vec![],
            procs: Default::default(),
            neighbours: Neighbours::new(),
            bugs,
            costs: costs::Memory::default(),
            phases: vec![],
            stale: BTreeSet::new(),
            soured: BTreeSet::new(),
            started: 0,
        })
    }

    /// A process, started if it is not running.
    pub fn process(&mut self, p: usize) -> Done<&mut Process> {
        if self.procs[p].is_none() {
            self.started += 1;
            let seed = mix(self.seed, 1000 + self.started);
            self.procs[p] = Some(Process::start(&self.disk, &self.neighbours, (seed, self.seed), self.bugs.wire)?);
        }
        self.procs[p].as_mut().ok_or_else(|| Trouble::Wrong("the simulator lost a process".to_string()))
    }

    /// The process that has a volume open for writing.
    pub fn holder(&self, name: &str) -> Option<usize> {
        self.procs.iter().position(|p| p.as_ref().is_some_and(|p| p.handles.contains_key(name)))
    }

    /// Whether a name may be refused although nothing has it.
    pub fn is_stale(&self, name: &str) -> bool {
        self.stale.contains(name)
    }

    fn held(&self, p: usize) -> BTreeSet<String> {
        self.procs[p].iter().flat_map(|process| process.handles.keys().cloned()).collect()
    }

    /// A process ends in order.
    pub fn exit(&mut self, p: usize) {
        self.soured.remove(&p);
        self.procs[p] = None;
    }

    fn kill(&mut self, p: usize) {
        self.soured.remove(&p);
        self.costs.forget();
        self.headers_of(self.held(p)).into_iter().for_each(|id| self.costs.abandon(id));
        if let Some(process) = self.procs[p].take() {
            process.kill();
        }
    }

    fn make_room(&mut self) {
        self.disk.set_space(PLENTY.0, PLENTY.1);
        self.full = false;
    }

    /// Volumes that are open while the disk is full, or while background work is cut short.
    fn note_crowded(&mut self) {
        let open: BTreeSet<String> = (0..PROCESSES).flat_map(|p| self.held(p)).collect();
        self.headers_of(open).into_iter().for_each(|id| self.costs.crowd(id));
    }

    fn headers_of(&self, names: BTreeSet<String>) -> Vec<VolumeId> {
        let blocker = self.disk.blocker();
        names.iter().filter_map(|name| Stock::header(&*blocker, name).ok()).map(|header| header.id).collect()
    }

    /// Does one operation, with what goes wrong meanwhile.
    pub fn apply(&mut self, step: &Step) -> Done<()> {
        let p = step.process;
        if self.procs[p].as_ref().is_some_and(|process| process.paused) && !matches!(step.op, Op::Wake | Op::Kill) {
            return Ok(());
        }
        // What is decided by chance depends on the operation, and not on those before it, which may be left out.
        self.rng = Random::new(mix(mix(self.seed, 3), u64::from(step.stamp)));
        self.stamp = step.stamp;
        self.counts.operations += 1;
        if self.full || (step.op == Op::Background && step.fault.is_some()) {
            self.note_crowded();
        }
        match step.op {
            Op::Pause => self.process(p)?.pause(true),
            Op::Wake => self.process(p)?.pause(false),
            Op::Kill => return self.die(p, &Allowed::just(&self.state), false),
            Op::Full { total, free } => {
                self.counts.full += 1;
                self.full = true;
                self.costs.forget();
                self.disk.set_space(total, free);
            }
            Op::Room => self.make_room(),
            _ => return self.operation(step),
        }
        Ok(())
    }

    /// The process in which an operation is done: some are handed to the one that has the volume.
    fn actor(&self, step: &Step) -> usize {
        match &step.op {
            Op::Snapshot { volume: name, .. } | Op::Resize { name, .. } | Op::Rename { old: name, .. } => {
                self.holder(name).unwrap_or(step.process)
            }
            _ => step.process,
        }
    }

    pub fn is_paused(&self, p: usize) -> bool {
        self.procs[p].as_ref().is_some_and(|process| process.paused)
    }

    /// The disk has room, no sync may have failed unheard, and nobody is stopped.
    pub fn is_sound(&self) -> bool {
        !self.full && self.soured.is_empty() && (0..PROCESSES).all(|p| !self.is_paused(p))
    }

    /// An operation inside another one of another process, if it makes sense and can be done.
    pub fn inside(&mut self, step: &Step) -> Done<()> {
        self.process(step.process)?;
        let open = self.held(self.actor(step));
        match effect(&self.state, step, self.seed, &open) {
            Some(effect) if !self.is_elsewhere(step) => {
                self.perform(step)?;
                self.state = effect.after;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The headers by which readers read.
    pub fn pins(&self) -> Vec<Header> {
        self.procs.iter().flatten().flat_map(|process| &process.kept).map(|kept| kept.header.clone()).collect()
    }

    fn operation(&mut self, step: &Step) -> Done<()> {
        if matches!(&step.op, Op::Copy { name, .. } if self.is_stale(name)) {
            return Ok(());
        }
        self.process(step.process)?;
        let p = self.actor(step);
        let open = self.held(p);
        let Some(mut effect) = effect(&self.state, step, self.seed, &open) else { return Ok(()) };
        if self.is_elsewhere(step) {
            effect = Effect { during: Allowed::just(&self.state), after: self.state.clone() };
        }
        self.disk.forget_history();
        if step.fault.is_some() {
            self.costs.forget();
        }
        self.note_changed(step);
        let cost = self.before(p, step)?;
        let before = self.disk.steps();
        let wire = self.arm(p, step)?;
        wire.take_calls();
        let result = self.perform(step);
        let (hit, calls) = (wire.hit(), wire.take_calls());
        wire.disarm();
        self.disk.clear_failures();
        let read_wrongly = hit && matches!(step.fault, Some(Fault::ReadError { .. } | Fault::Corrupt { .. }));
        let result = match result {
            // A check or scrub says in its report what it could not read.
            Err(Trouble::Wrong(_)) if read_wrongly && matches!(step.op, Op::Check | Op::Scrub) => Ok(Outcome::Done),
            Err(Trouble::Wrong(text)) if !hit || !matches!(step.fault, Some(Fault::Kill { .. })) => {
                return Err(Trouble::Wrong(text));
            }
            other => other,
        };
        if let (Op::Rename { old, new }, Some(_)) = (&step.op, step.fault) {
            self.stale.extend([old.clone(), new.clone()]);
        }
        // What was received of a stream keeps the name for it.
        if let Op::Copy { name, .. } = &step.op {
            self.stale.insert(name.clone());
        }
        if hit {
            return self.struck(p, step, effect, result, open);
        }
        let refused = matches!(result, Ok(Outcome::Refused));
        if step.op == Op::Collect && !refused && result.is_ok() {
            self.nothing_lost().map_err(|e| Trouble::Wrong(format!("after a collection: {e}")))?;
        }
        let after = match result {
            Ok(Outcome::Refused) => {
                self.counts.refused += 1;
                self.state.clone()
            }
            // Nobody hears that dropping a handle failed.
            Ok(Outcome::Done) if self.full && step.op == Op::Exit => {
                return self.settle_doubts(p, &Allowed::just(&self.state), &open, After::Kill);
            }
            // Others may have done something meanwhile.
            Ok(Outcome::Done) if step.op == Op::Collect => self.state.clone(),
            Ok(Outcome::Done) => effect.after.clone(),
            Err(Trouble::Engine(Error::NoSpace(_))) if self.full => return self.no_space(p, step, effect, open),
            Err(Trouble::Engine(Error::Poisoned(_))) if !self.soured.is_empty() => {
                let mut allowed = effect.during;
                allowed.states.extend([self.state.clone(), effect.after]);
                if changes_names(&step.op) {
                    // Whether it happened stays open until the power is cut.
                    let seed = self.rng.below(8);
                    return self.cut(self.disk.steps(), seed, 0, &allowed, None);
                }
                let targets = self.targets(&step.op, open);
                return self.give_up_soured(&allowed, targets);
            }
            Err(trouble) => return Err(trouble),
        };
        if let Some(Fault::Cut { at, seed, again, tries }) = step.fault {
            let end = self.disk.steps();
            let allowed = |cut: u64, state: &State| match cut {
                _ if refused || cut == before => Allowed::just(state),
                _ if cut == end => Allowed::just(&after),
                _ => effect.during.clone(),
            };
            let (disk, full) = (self.disk.clone(), self.full);
            let tries: Vec<(u64, u64)> =
                (0..tries).map(|_| (before + self.rng.below(end - before + 1), self.rng.below(4))).collect();
            let state = self.state.clone();
            for (cut, seed) in tries {
                // Each of them finds the disk as this operation left it.
                (self.disk, self.full) = (disk.clone(), full);
                let look = self.concerned(step, &state);
                self.cut(cut, seed, 0, &allowed(cut, &state), look.as_ref())?;
            }
            (self.disk, self.full) = (disk, full);
            let cut = before + (end - before) * u64::from(at) / 1000;
            self.cut(cut, seed, again, &allowed(cut, &state), None)?;
            return Ok(());
        }
        self.state = after;
        if step.fault.is_none() && !refused && self.is_sound() && self.disk.tells_holes() {
            self.after(p, step, cost, &calls)?;
        }
        if matches!(step.fault, Some(Fault::Kill { .. })) {
            return self.die(p, &Allowed::just(&self.state), false);
        }
        Ok(())
    }

    /// What is looked at after a cut beside the one with which the history goes on: all that the operation or the cut can
    /// have changed, and some of the rest. `None` is everything, for operations that reach further than the maps they name.
    fn concerned(&mut self, step: &Step, state: &State) -> Option<BTreeSet<String>> {
        if matches!(step.op, Op::Collect | Op::Remove { .. } | Op::Check | Op::Scrub | Op::Hash { .. } | Op::Background)
        {
            return None;
        }
        let targets = self.targets(&step.op, BTreeSet::new());
        let concerned = |(name, map): &(&String, &Map)| targets.contains(*name) || map.is_in_doubt();
        let some = |rng: &mut Random| rng.one_in(3);
        Some(state.iter().filter(|map| some(&mut self.rng) || concerned(map)).map(|(name, _)| name.clone()).collect())
    }

    fn arm(&mut self, p: usize, step: &Step) -> Done<Arc<Wire>> {
        let wire = self.process(p)?.wire.clone();
        match step.fault {
            None | Some(Fault::Cut { .. }) => {}
            Some(Fault::Kill { call }) => wire.die_at(call),
            Some(Fault::Io { call, .. }) => wire.fail_at(call),
            Some(Fault::ReadError { call }) => wire.fail_read_at(call),
            Some(Fault::Corrupt { call, bit, misdirected }) => {
                let lie = if misdirected { Lie::Misdirected } else { Lie::Bit(bit) };
                wire.lie_at(call, lie, matches!(step.op, Op::Reader { .. }));
            }
        }
        Ok(wire)
    }

    /// The operation met what was planned for it.
    fn struck(
        &mut self,
        p: usize,
        step: &Step,
        effect: Effect,
        result: Done<Outcome>,
        open: BTreeSet<String>,
    ) -> Done<()> {
        let full = self.full;
        let fault = step.fault;
        let expected = |error: &Error| match error {
            Error::NoSpace(_) => full,
            // What an undo could not take back is in the way of the second attempt.
            Error::Exists(_) => matches!(fault, Some(Fault::Io { .. })),
            other => other.errno() == libc::EIO,
        };
        // What has most of the possible contents first.
        let any = |state: &State| {
            let mut allowed = effect.during.clone();
            allowed.states.push(state.clone());
            allowed.states.push(effect.after.clone());
            allowed
        };
        match step.fault {
            Some(Fault::Kill { .. }) => {
                let allowed = any(&self.state);
                self.die_with(p, &allowed, false, self.targets(&step.op, open))
            }
            Some(Fault::Io { then, .. }) => {
                self.counts.errors += 1;
                let allowed = any(&self.state);
                let targets = self.targets(&step.op, open);
                match result {
                    Ok(Outcome::Refused) => Ok(()),
                    Ok(Outcome::Done) if step.op != Op::Exit => {
                        // It was done all the same. What no flush covered may have been lost silently.
                        self.state = effect.after;
                        self.soured.insert(p);
                        for name in &targets {
                            self.state.get_mut(name).into_iter().for_each(|map| map.lose());
                        }
                        if opens_for_a_moment(&step.op) {
                            // Nobody heard of it when the volume was closed again, and the process refuses what could not be
                            // synced for as long as it lives.
                            self.exit(p);
                            return self.settle_doubts(
                                p,
                                &Allowed::just(&self.state.clone()),
                                &targets,
                                After::Death { lost: true },
                            );
                        }
                        Ok(())
                    }
                    Ok(_) => self.settle_doubts(p, &Allowed::just(&self.state), &targets, After::Death { lost: true }),
                    Err(Trouble::Engine(error)) if expected(&error) => match then {
                        Then::Kill if !changes_names(&step.op) => self.die_with(p, &allowed, true, targets),
                        Then::Close if !changes_names(&step.op) => {
                            self.give_up(p);
                            // Objects whose sync failed are refused for as long as the process lives.
                            self.exit(p);
                            self.settle_doubts(p, &allowed, &targets, After::Death { lost: true })
                        }
                        // Whether it happened stays open until the power is cut.
                        _ => {
                            let seed = self.rng.below(8);
                            self.cut(self.disk.steps(), seed, 0, &allowed, None)
                        }
                    },
                    Err(trouble) => Err(trouble),
                }
            }
            _ => {
                let lie = matches!(step.fault, Some(Fault::Corrupt { .. }));
                if lie {
                    self.counts.lies += 1;
                } else {
                    self.counts.errors += 1;
                }
                match result {
                    Ok(Outcome::Refused) => Ok(()),
                    Ok(Outcome::Done) if step.op == Op::Exit => {
                        self.settle_doubts(p, &Allowed::just(&self.state), &open, After::Kill)
                    }
                    Ok(Outcome::Done) => {
                        self.state = effect.after;
                        Ok(())
                    }
                    Err(Trouble::Engine(error)) if expected(&error) => {
                        if lie && matches!(error, Error::Io { .. }) {
                            return Err(Trouble::Wrong(format!("a corrupt read was reported as: {error}")));
                        }
                        let looks = matches!(
                            step.op,
                            Op::Read { .. } | Op::Reader { .. } | Op::ReadKept | Op::List | Op::Audit { .. }
                        );
                        if looks {
                            return Ok(());
                        }
                        if !lie {
                            // A sync for which something has to be read first fails like any other.
                            self.soured.insert(p);
                        }
                        let allowed = any(&self.state);
                        self.die_with(p, &allowed, false, self.targets(&step.op, open))
                    }
                    Err(trouble) => Err(trouble),
                }
            }
        }
    }

    /// Maps whose contents an operation may leave in doubt.
    fn targets(&self, op: &Op, mut open: BTreeSet<String>) -> BTreeSet<String> {
        match op {
            Op::Write { name, .. }
            | Op::Twin { name, .. }
            | Op::Zeroes { name, .. }
            | Op::Discard { name, .. }
            | Op::Scatter { name, .. }
            | Op::Flush { name }
            | Op::Read { name, .. }
            | Op::Resize { name, .. }
            | Op::Checkpoint { name }
            | Op::Compact { name, .. }
            | Op::Open { name }
            | Op::Close { name }
            | Op::Snapshot { volume: name, .. } => drop(open.insert(name.clone())),
            Op::Rename { new, .. } => drop(open.insert(new.clone())),
            Op::Group { members } => open.extend(members.iter().map(|(volume, _)| volume.clone())),
            _ => {}
        }
        open
    }

    /// The disk is full, and said so.
    fn no_space(&mut self, p: usize, step: &Step, effect: Effect, open: BTreeSet<String>) -> Done<()> {
        let gone = matches!(step.op, Op::Close { .. });
        if !gone && self.rng.one_in(2) {
            // What was refused works once there is room.
            self.make_room();
            return match self.perform(step) {
                // Others may have done something meanwhile.
                Ok(_) if step.op == Op::Collect => Ok(()),
                // For another reason, such as a name that a rename which was cut left taken.
                Ok(Outcome::Refused) => Ok(()),
                Ok(Outcome::Done) => {
                    self.state = effect.after;
                    Ok(())
                }
                Err(trouble) => Err(Trouble::Wrong(format!("again, with room: {trouble}"))),
            };
        }
        let mut allowed = effect.during;
        allowed.states.push(self.state.clone());
        allowed.states.push(effect.after);
        let targets = self.targets(&step.op, open);
        if gone || self.rng.one_in(2) {
            // A close that fails gives the volume up all the same.
            self.give_up(p);
            return self.settle_doubts(p, &allowed, &targets, After::Kill);
        }
        self.die_with(p, &allowed, false, targets)
    }

    /// Closes everything that a process has open for writing, whatever comes of it.
    fn give_up(&mut self, p: usize) {
        if let Some(process) = &mut self.procs[p] {
            for volume in std::mem::take(&mut process.handles).into_values() {
                let _ = volume.close();
            }
        }
    }

    /// The processes in which a sync may have failed unheard end, whatever comes of closing what they have open.
    fn give_up_soured(&mut self, allowed: &Allowed, mut targets: BTreeSet<String>) -> Done<()> {
        let soured = self.soured.clone();
        for p in &soured {
            targets.extend(self.held(*p));
            self.give_up(*p);
            self.exit(*p);
        }
        let p = soured.first().copied().unwrap_or(0);
        self.settle_doubts(p, allowed, &targets, After::Death { lost: true })
    }

    /// A process is killed.
    fn die(&mut self, p: usize, allowed: &Allowed, lost: bool) -> Done<()> {
        let held = self.held(p);
        self.die_with(p, allowed, lost, held)
    }

    fn die_with(&mut self, p: usize, allowed: &Allowed, lost: bool, targets: BTreeSet<String>) -> Done<()> {
        self.counts.kills += 1;
        let after = match lost || self.soured.contains(&p) {
            true => After::Death { lost },
            false => After::Kill,
        };
        self.kill(p);
        self.settle_doubts(p, allowed, &targets, after)
    }

    /// Looks at what somebody left who did not end in order.
    fn settle_doubts(&mut self, p: usize, allowed: &Allowed, look: &BTreeSet<String>, after: After) -> Done<()> {
        let found = match self.examine(p, allowed, after, Some(look)) {
            Err(Trouble::Engine(Error::NoSpace(_))) if self.full => {
                self.make_room();
                self.examine(p, allowed, after, Some(look))
            }
            other => other,
        };
        self.state = found.map_err(|e| Trouble::Wrong(format!("opened again: {e}")))?;
        let first = shape(&allowed.states[0]);
        if !allowed.optional.is_empty() || allowed.states.iter().any(|s| shape(s) != first) {
            // Whether it happened is seen, but not durable, since the operation did not return. In the end the system
            // writes everything back.
            self.disk.write_back();
        }
        if after == (After::Death { lost: true }) {
            for name in look {
                self.state.get_mut(name).into_iter().for_each(|map| map.lose());
            }
        }
        Ok(())
    }

    /// The power is cut after call `cut`, and again during recovery. `look`: see [`World::examine`].
    fn cut(&mut self, cut: u64, seed: u64, again: u8, allowed: &Allowed, look: Option<&BTreeSet<String>>) -> Done<()> {
        let (mut cut, mut seed) = (cut, seed);
        for left in (0..=again).rev() {
            self.counts.cuts += 1;
            let disk = self.disk.crash_at(cut, seed);
            for p in 0..PROCESSES {
                self.kill(p);
            }
            self.disk = disk;
            self.neighbours = Neighbours::new();
            self.disk.drop_syncs(self.bugs.syncs);
            let p = self.rng.below(PROCESSES as u64) as usize;
            let mut found = self.examine(p, allowed, After::Cut, look);
            if self.full && matches!(found, Err(Trouble::Engine(Error::NoSpace(_)))) {
                self.make_room();
                found = self.examine(p, allowed, After::Cut, look);
            }
            let found = found.map_err(|e| Trouble::Wrong(format!("after the cut at call {cut} (seed {seed}): {e}")))?;
            if left == 0 {
                self.state = found;
            } else {
                cut = self.rng.below(self.disk.steps() + 1);
                seed = self.rng.below(16);
            }
        }
        Ok(())
    }

    /// Reads all that anybody could read: what is open where it is open, and the rest as a new process finds it.
    pub fn nothing_lost(&mut self) -> Done<()> {
        self.read_open()?;
        self.started += 1;
        let seed = mix(self.seed, 1000 + self.started);
        let witness = Process::start(&self.disk, &self.neighbours, (seed, self.seed), None)?;
        for (name, map) in self.state.iter() {
            if self.holder(name).is_none() {
                let volume = witness.store.open_volume(name, Mode::ReadOnly)?;
                read_all(&volume, map, name)?;
            }
        }
        Ok(())
    }

    /// Reads everything that is open in a process that runs.
    fn read_open(&self) -> Done<()> {
        for process in self.procs.iter().flatten().filter(|process| !process.paused) {
            for kept in &process.kept {
                read_all(&kept.volume, &kept.map, "a snapshot that is kept open")?;
            }
            for (name, volume) in &process.handles {
                read_all(volume, &self.state[name], name)?;
            }
        }
        Ok(())
    }

    /// All processes close what they have open, and end.
    fn close_all(&mut self) -> Done<()> {
        for p in 0..PROCESSES {
            let volumes = self.procs[p].iter_mut().flat_map(|p| std::mem::take(&mut p.handles));
            for (name, volume) in volumes.collect::<Vec<_>>() {
                volume.close()?;
                self.state.get_mut(&name).into_iter().for_each(|map| map.settle());
            }
            self.exit(p);
        }
        Ok(())
    }

    /// The last look: everything that is open, then everything as a new process sees it, then as a power cut leaves it.
    pub fn finish(&mut self) -> Done<()> {
        self.rng = Random::new(mix(self.seed, 4));
        self.make_room();
        for process in self.procs.iter_mut().flatten() {
            process.pause(false);
        }
        self.read_open()?;
        if !self.soured.is_empty() {
            self.give_up_soured(&Allowed::just(&self.state.clone()), BTreeSet::new())?;
        }
        self.close_all()?;
        let state = self.state.clone();
        self.examine(0, &Allowed::just(&state), After::Nothing, None)?;
        let seed = self.rng.below(3);
        self.cut(self.disk.steps(), seed, 0, &Allowed::just(&state), None)?;
        // A repair gives names back to headers that a cut left without, which nobody promised not to do: so it comes last.
        self.check(0, true)?;
        self.check(0, false)?;
        self.close_all()?;
        self.collect_all(0)?;
        self.nothing_lost().map_err(|e| Trouble::Wrong(format!("after the last collection: {e}")))?;
        self.check_nothing_left(0)?;
        self.empty()
    }

    /// Removes some of the maps, or all: what they alone needed goes with them, and of all of them there is nothing left.
    fn empty(&mut self) -> Done<()> {
        let all = self.rng.one_in(2);
        // What an interrupted stream left has a name too.
        for name in Stock::of(&self.disk)?.names.into_keys() {
            if all || self.state.contains_key(&name) && self.rng.one_in(2) {
                self.process(0)?.store.remove(&name)?;
                self.state.remove(&name);
            }
        }
        self.collect(0, 0, false)?;
        self.nothing_lost().map_err(|e| Trouble::Wrong(format!("after maps were removed: {e}")))?;
        let stock = Stock::of(&self.disk)?;
        match stock.objects.keys().next().filter(|_| all) {
            None => Ok(()),
            Some(object) => Err(Trouble::Wrong(format!("all maps are gone, and {object} is there"))),
        }
    }
}

/// What opens a volume that nobody has open, does something to it, and drops it again.
fn opens_for_a_moment(op: &Op) -> bool {
    matches!(op, Op::Snapshot { .. } | Op::Group { .. } | Op::Resize { .. } | Op::Rename { .. })
}

/// Whether an operation changes which maps there are, or how long they are.
fn changes_names(op: &Op) -> bool {
    matches!(
        op,
        Op::Create { .. }
            | Op::Snapshot { .. }
            | Op::Clone { .. }
            | Op::CloneMany { .. }
            | Op::Copy { .. }
            | Op::Group { .. }
            | Op::Remove { .. }
            | Op::Rename { .. }
            | Op::Resize { .. }
    )
}
