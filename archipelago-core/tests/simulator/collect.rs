//! Collections: held against what they must free, or with others doing something in their middle.

use archipelago_core::blocker::Object;
use archipelago_core::limits::SECTOR;
use archipelago_core::store::collect;
use archipelago_core::{Amount, CollectOptions, CollectPhase, CollectProgress, CollectReport, Kind};

use crate::collected::{Collected, space};
use crate::history::{Op, PROCESSES, Step};
use crate::perform::{Done, wrong};
use crate::stock::Stock;
use crate::world::World;

/// Operations of others in the middle of a collection.
const MAX_BESIDE: usize = 12;

impl World {
    /// Takes away what nothing needs any more; content too that nothing has needed for `grace` seconds. With `look` it is asked
    /// before what would go. Now and then there is no memory to know what is used of data and journals.
    pub fn collect(&mut self, p: usize, grace: u64, look: bool) -> Done<CollectReport> {
        // Of a full disk or one whose syncs failed it is not told what has to stay, nor is it where holes are not told.
        let counted = self.is_sound() && self.disk.tells_holes();
        let before = counted.then(|| Stock::of(&self.disk)).transpose()?;
        if let Some(before) = &before {
            self.packs_are_closed(before)?;
        }
        let options = CollectOptions { grace, ..CollectOptions::default() };
        let blind = !look && self.rng.one_in(4);
        let said = match look {
            true => Some(self.collect_with(p, &CollectOptions { dry_run: true, ..options }, blind)?),
            false => None,
        };
        let report = self.collect_with(p, &options, blind)?;
        let Some(before) = before else { return Ok(report) };
        if self.phases != phases(&before) {
            return wrong(format!("a collection went through {:?}, not {:?}", self.phases, phases(&before)));
        }
        let after = Stock::of(&self.disk)?;
        self.close_packs(&after);
        let pins = self.pins();
        let lied_to = self.process(p)?.wire.hit();
        let graceless = grace == 0;
        Collected { before: &before, after: &after, pins, graceless, blind, lied_to, report: &report, said }.check()?;
        let (by, counted) = (self.process(p)?.store.space_by_kind()?, space(&after)?);
        if by != counted {
            return wrong(format!("it is said that kinds take {by:?}, and they take {counted:?}"));
        }
        let room = (counted.data.bytes + counted.segments.bytes + counted.content.bytes) as f64;
        let ratio = (room > 0.0).then(|| counted.mapped as f64 / room);
        if by.dedup_ratio() != ratio {
            return wrong(format!("the ratio is {:?}, not {ratio:?}", by.dedup_ratio()));
        }
        Ok(report)
    }

    /// A collection in whose middle other processes do something: when it begins with another of its steps, and at any other moment.
    pub fn collect_beside(&mut self, p: usize, grace: u64) -> Done<()> {
        let (options, planted) = (CollectOptions { grace, ..CollectOptions::default() }, self.bugs.collect);
        let store = self.process(p)?.store.clone();
        let memory = self.rng.one_in(2).then(|| self.rng.below(32 << 10));
        let planted = collect::Planted { memory, ..planted };
        let (mut steps, mut trouble) = (0, None);
        let mut went = vec![];
        store.collect_with_planted_bug(&options, planted, &mut |now| {
            went.push(now.phase);
            if trouble.is_none() && steps < MAX_BESIDE && (now.done == 0 || self.rng.one_in(64)) {
                steps += 1;
                trouble = self.beside((p + 1 + steps % 2) % PROCESSES, steps).err();
            }
            true
        })?;
        trouble.map_or(Ok(()), Err)?;
        // Each map that others made meanwhile is a reason for one more round, and for no more.
        went.dedup();
        let rounds = went.iter().filter(|phase| **phase == CollectPhase::Wait).count();
        if rounds > 3 + steps {
            return wrong(format!(
                "others did something {steps} times, and a collection waited for them {rounds} times"
            ));
        }
        Ok(())
    }

    /// A collection that is told to stop somewhere: it does, and the next one does the rest.
    pub fn collect_stopped(&mut self, p: usize, grace: u64) -> Done<()> {
        let options = CollectOptions { grace, ..CollectOptions::default() };
        let (last, planted) = (1 + self.rng.below(1200), self.bugs.collect);
        let (mut asked, mut at) = (0, CollectPhase::List);
        let store = self.process(p)?.store.clone();
        let report = store.collect_with_planted_bug(&options, planted, &mut |now| {
            (asked, at) = (asked + 1, now.phase);
            asked < last
        })?;
        // Nobody is asked whether it should end where it ends.
        let ended = at == CollectPhase::Sweep;
        if asked > last || report.interrupted && asked < last || !report.interrupted && asked == last && !ended {
            return wrong(format!("a collection that was to stop at step {last} went to step {asked}: {report:?}"));
        }
        self.nothing_lost()?;
        self.collect(p, grace, false).map(|_| ())
    }

    /// What a process does in the middle of the collection of another.
    fn beside(&mut self, p: usize, number: usize) -> Done<()> {
        let names: Vec<String> = self.state.keys().cloned().collect();
        if names.is_empty() {
            return Ok(());
        }
        let name = names[self.rng.below(names.len() as u64) as usize].clone();
        let new = format!("beside-{}-{number}", self.stamp);
        let op = match (self.state[&name].kind, self.rng.below(6)) {
            (_, 0) => Op::Rename { old: name, new },
            (Kind::Volume, 1) => Op::Snapshot { volume: name, name: new },
            (Kind::Volume, 2) => Op::Checkpoint { name },
            (Kind::Volume, 3) => Op::Group { members: vec![(name, new)] },
            (Kind::Volume, _) => Op::Write { len: self.state[&name].size.min(SECTOR), name, offset: 0, fua: false },
            (_, 1) => Op::Remove { name },
            (_, 2) => Op::Reader { name },
            (_, 3) => Op::Hash { name },
            (_, _) => Op::Clone { snapshot: name, name: new, size: None },
        };
        self.inside(&Step { stamp: self.stamp, process: p, op, fault: None })
    }

    /// A collection, whose progress must go on, and end where its report does.
    fn collect_with(&mut self, p: usize, options: &CollectOptions, blind: bool) -> Done<CollectReport> {
        let planted = collect::Planted { memory: blind.then_some(0), ..self.bugs.collect };
        let store = self.process(p)?.store.clone();
        self.phases.clear();
        let went = &mut self.phases;
        let (mut last, mut back) = (CollectProgress::default(), None);
        let report = store.collect_with_planted_bug(options, planted, &mut |now| {
            let on = now.objects >= last.objects && now.bytes >= last.bytes && now.entries >= last.entries;
            if !on || now.phase == last.phase && now.done < last.done && now.done > 0 {
                back = back.or(Some((last, *now)));
            }
            last = *now;
            went.push(now.phase);
            true
        })?;
        self.phases.dedup();
        if let Some((from, to)) = back {
            return wrong(format!("a collection went from {from:?} to {to:?}"));
        }
        // Leases go before anything is counted.
        let freed = report.freed();
        let end = CollectProgress {
            phase: CollectPhase::Sweep,
            done: last.total,
            total: last.total,
            entries: report.entries,
            objects: freed.objects - report.leases.objects,
            bytes: freed.bytes - report.leases.bytes,
        };
        if last != end {
            return wrong(format!("a collection ended with {last:?}, and its report is {report:?}"));
        }
        Ok(report)
    }

    /// A collection with nothing open, and then there is nothing more to take.
    pub fn collect_all(&mut self, p: usize) -> Done<()> {
        let mut done = self.collect(p, 0, true)?;
        if done.duplicates != Amount::default() {
            // An epoch that is needed only for what was moved goes with the next one.
            done = self.collect(p, 0, true)?;
        }
        let look = CollectOptions { dry_run: true, grace: 0, ..CollectOptions::default() };
        let left = self.collect_with(p, &look, false)?;
        if left.freed() != Amount::default() || left.maps != done.maps || left.entries != done.entries {
            return wrong(format!("a collection did {done:?}, and then there is {left:?}"));
        }
        Ok(())
    }
}

/// What a collection does one after the other while nobody else does anything: it asks everybody twice, and once more if there is content.
fn phases(stock: &Stock) -> Vec<CollectPhase> {
    let is_content = |object: &Object| {
        matches!(object, Object::Content(_) | Object::Redirect(..) | Object::Index(_) | Object::Lease(..))
    };
    let content = stock.objects.keys().any(is_content) || !stock.unfinished.is_empty();
    let mut phases = vec![CollectPhase::List];
    phases.extend([CollectPhase::Wait, CollectPhase::Mark].repeat(2));
    phases.extend(content.then_some(CollectPhase::Wait));
    phases.push(CollectPhase::Sweep);
    phases
}
