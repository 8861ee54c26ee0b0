//! What processes did to a volume that they handed to one another, and whether that can be: the events as they wrote them down, and the checks.
//!
//! Every process notes each request before it, when it has the volume, and after it, with the time of the host's monotonic clock. What it
//! noted outlives a kill. Each write has a value that no other has. Two things must hold, whatever was killed or stopped:
//!
//! * while one process has the volume, no other has it;
//! * a read never shows less than what was certainly there before it: no write that was answered (where killed processes may lose
//!   unflushed ones: that was flushed) is ever behind an older one, whoever reads.

use std::collections::HashMap;
use std::fmt::Write;

/// Nanoseconds of the host's monotonic clock, the same for all processes.
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place for the answer is ours.
    #[allow(unsafe_code)]
    let code = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    assert_eq!(code, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What is asked of the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Write,
    Read,
    Flush,
}

/// One request of one process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub process: u64,
    pub kind: Kind,
    pub slot: u64,
    /// What is written.
    pub value: u64,
    pub asked: u64,
    /// From when on the process had the volume for it.
    pub held: Option<u64>,
    /// When it was answered, while the process still had the volume, and with what: what was read, or an errno.
    pub ended: Option<(u64, Result<u64, i32>)>,
}

/// When a process was killed, and when it was certainly dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Death {
    pub killed: u64,
    pub dead: u64,
}

/// All that happened.
#[derive(Clone, Default, Debug)]
pub struct History {
    pub events: Vec<Event>,
    /// By process.
    pub deaths: HashMap<u64, Death>,
    /// A process that is killed may lose what it did not flush.
    pub kills_lose: bool,
}

/// Lines that a process writes into its log: one for each step of a request.
pub fn asked(id: u64, kind: Kind, slot: u64, value: u64) -> String {
    let letter = match kind {
        Kind::Write => 'w',
        Kind::Read => 'r',
        Kind::Flush => 'f',
    };
    format!("a {id} {letter} {slot} {value} {}\n", now())
}

pub fn held(id: u64) -> String {
    format!("h {id} {}\n", now())
}

pub fn ended(id: u64, result: Result<u64, i32>) -> String {
    let (word, value) = match result {
        Ok(value) => ("ok", value),
        Err(errno) => ("err", errno as u64),
    };
    format!("e {id} {word} {value} {}\n", now())
}

impl History {
    /// Takes in the log of a process. What follows the last end of line was not written any more.
    pub fn read(&mut self, process: u64, log: &str) {
        let mut events: HashMap<u64, Event> = HashMap::new();
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        for line in whole.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let number = |n: usize| words[n].parse::<u64>().unwrap_or_else(|_| panic!("{line}"));
            let id = number(1);
            match words[0] {
                "a" => {
                    let kind = match words[2] {
                        "w" => Kind::Write,
                        "r" => Kind::Read,
                        _ => Kind::Flush,
                    };
                    let (slot, value, asked) = (number(3), number(4), number(5));
                    let new = Event { process, kind, slot, value, asked, held: None, ended: None };
                    assert!(events.insert(id, new).is_none(), "{line}: again");
                }
                "h" => events.get_mut(&id).unwrap().held = Some(number(2)),
                "e" => {
                    let result = if words[2] == "ok" { Ok(number(3)) } else { Err(number(3) as i32) };
                    events.get_mut(&id).unwrap().ended = Some((number(4), result));
                }
                _ => panic!("{line}"),
            }
        }
        self.events.extend(events.into_values());
    }

    /// Times that the volume was with another process than before.
    pub fn handovers(&self) -> usize {
        let owners: Vec<_> = self.by_holding().iter().map(|event| event.process).collect();
        owners.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    fn by_holding(&self) -> Vec<&Event> {
        let mut events: Vec<_> = self.events.iter().filter(|event| event.held.is_some()).collect();
        events.sort_by_key(|event| event.held);
        events
    }

    /// Until when a process certainly had the volume for a request. `None`: it is not known to have had it at all.
    fn had_until(&self, event: &Event) -> Option<u64> {
        match (&event.ended, self.deaths.get(&event.process)) {
            // Who was fenced learns it by an error.
            (Some((at, Ok(_))), _) => Some(*at),
            (Some((_, Err(_))), _) => event.held,
            // It lived at least until somebody sent the signal.
            (None, Some(death)) => Some(death.killed.max(event.held?)),
            (None, None) => event.held,
        }
    }

    /// What is wrong, or nothing.
    pub fn check(&self) -> Result<(), String> {
        self.check_one_owner()?;
        self.check_reads()
    }

    fn check_one_owner(&self) -> Result<(), String> {
        // The latest moment at which each process is known to have had it.
        let mut latest: HashMap<u64, (u64, &Event)> = HashMap::new();
        for event in self.by_holding() {
            let (Some(from), Some(until)) = (event.held, self.had_until(event)) else { continue };
            for (process, (had, other)) in &latest {
                if *process != event.process && *had > from {
                    return Err(format!("two processes have the volume at once:\n{other:?}\n{event:?}"));
                }
            }
            let entry = latest.entry(event.process).or_insert((until, event));
            if entry.0 < until {
                *entry = (until, event);
            }
        }
        Ok(())
    }

    /// From when on a write may be seen, and when at the latest it is done, if ever.
    fn span(&self, write: &Event) -> (u64, u64) {
        let dead = self.deaths.get(&write.process).map_or(u64::MAX, |death| death.dead);
        (write.held.unwrap_or(write.asked), write.ended.as_ref().map_or(dead, |(at, _)| *at))
    }

    /// When a write was certainly there for good.
    fn firm(&self, write: &Event, flushes: &HashMap<u64, Vec<(u64, u64)>>) -> Option<u64> {
        let Some((at, Ok(_))) = write.ended else { return None };
        if !self.kills_lose || !self.deaths.contains_key(&write.process) {
            return Some(at);
        }
        let flushed = flushes.get(&write.process)?.iter().filter(|(begun, _)| *begun >= at);
        flushed.map(|(_, ended)| *ended).min()
    }

    fn check_reads(&self) -> Result<(), String> {
        let mut flushes: HashMap<u64, Vec<(u64, u64)>> = HashMap::new();
        let (mut writes, mut reads): (HashMap<u64, &Event>, HashMap<u64, Vec<&Event>>) = Default::default();
        for event in &self.events {
            match (event.kind, &event.ended) {
                (Kind::Flush, Some((at, Ok(_)))) => flushes.entry(event.process).or_default().push((event.asked, *at)),
                (Kind::Read, Some((_, Ok(_)))) => reads.entry(event.slot).or_default().push(event),
                (Kind::Write, _) if writes.insert(event.value, event).is_some() => {
                    return Err(format!("the value of {event:?} was written twice"));
                }
                _ => {}
            }
        }
        for (slot, reads) in reads {
            // What is there for good from a moment on: (that moment, from when on it may be seen, what it is).
            let mut firm: Vec<(u64, u64, &Event)> = Vec::new();
            for write in writes.values().filter(|write| write.slot == slot) {
                firm.extend(self.firm(write, &flushes).map(|at| (at, self.span(write).0, *write)));
            }
            for read in &reads {
                let Some((at, Ok(value))) = read.ended else { continue };
                match writes.get(&value) {
                    Some(write) if write.slot != slot || write.asked > at => {
                        return Err(format!("a read shows what was not written there before:\n{read:?}\n{write:?}"));
                    }
                    // What was seen stays, unless who wrote it is killed and may lose it.
                    Some(write) if !self.kills_lose => firm.push((at, self.span(write).0, *read)),
                    None if value != 0 => return Err(format!("a read shows what nobody wrote: {read:?}")),
                    _ => {}
                }
            }
            firm.sort_by_key(|(at, ..)| *at);
            // The newest of those that were there by then.
            let mut newest: Vec<(u64, u64, &Event)> = Vec::with_capacity(firm.len());
            for (at, from, event) in firm {
                match newest.last() {
                    Some((_, before, other)) if *before > from => newest.push((at, *before, other)),
                    _ => newest.push((at, from, event)),
                }
            }
            for read in reads {
                let (Some((_, Ok(value))), Some(begun)) = (&read.ended, read.held) else { continue };
                let before = newest.partition_point(|(at, ..)| *at <= begun);
                let Some((_, from, event)) = before.checked_sub(1).map(|last| newest[last]) else { continue };
                let done = writes.get(value).map_or(0, |write| self.span(write).1);
                if done < from {
                    let mut text =
                        format!("a read shows something older than what was there for good:\n{read:?}\n{event:?}");
                    let _ = write!(text, "\nwhat it shows: {:?}", writes.get(value));
                    return Err(text);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(process: u64, kind: Kind, value: u64, times: (u64, u64, u64)) -> Event {
        let answer = if kind == Kind::Read { value } else { 0 };
        let value = if kind == Kind::Write { value } else { 0 };
        let (asked, held, at) = times;
        Event { process, kind, slot: 3, value, asked, held: Some(held), ended: Some((at, Ok(answer))) }
    }

    fn write(process: u64, value: u64, from: u64, to: u64) -> Event {
        event(process, Kind::Write, value, (from, from, to))
    }

    fn read(process: u64, value: u64, from: u64, to: u64) -> Event {
        event(process, Kind::Read, value, (from, from, to))
    }

    fn history(events: &[Event]) -> History {
        History { events: events.to_vec(), ..History::default() }
    }

    fn died(mut history: History, process: u64, killed: u64, dead: u64) -> History {
        history.deaths.insert(process, Death { killed, dead });
        history
    }

    #[test]
    fn what_can_be_passes() {
        let good = history(&[write(1, 7, 10, 20), write(2, 8, 20, 30), read(1, 8, 30, 40), read(2, 8, 50, 60)]);
        good.check().unwrap();
        assert_eq!(good.handovers(), 3);
    }

    #[test]
    fn two_owners_are_found() {
        let bad = history(&[write(1, 7, 10, 25), write(2, 8, 20, 30)]);
        assert!(bad.check().unwrap_err().contains("at once"));
        // One thread of a process does not hide another.
        let bad = history(&[write(1, 7, 10, 40), write(1, 8, 15, 18), write(2, 9, 20, 30)]);
        assert!(bad.check().unwrap_err().contains("at once"));
        // Nobody of those that are killed lets go before.
        let mut open = write(1, 7, 10, 0);
        open.ended = None;
        let both = history(&[open, write(2, 8, 20, 30)]);
        assert!(died(both.clone(), 1, 25, 26).check().unwrap_err().contains("at once"));
        died(both, 1, 15, 26).check().unwrap();
    }

    #[test]
    fn lost_writes_are_found() {
        let bad = history(&[write(1, 7, 10, 20), write(1, 8, 25, 30), read(2, 7, 40, 50)]);
        assert!(bad.check().unwrap_err().contains("older"));
        let bad = history(&[write(1, 7, 10, 20), read(2, 0, 40, 50)]);
        assert!(bad.check().unwrap_err().contains("older"));
        let bad = history(&[read(2, 5, 40, 50)]);
        assert!(bad.check().unwrap_err().contains("nobody"));
        let bad = history(&[read(2, 7, 10, 20), write(1, 7, 30, 40)]);
        assert!(bad.check().unwrap_err().contains("before"));
    }

    #[test]
    fn what_a_killed_process_left_unanswered_is_there_or_not_but_not_now_and_then() {
        let mut open = write(1, 8, 25, 0);
        open.ended = None;
        let some = |value, again| {
            let reads = [read(2, value, 50, 60), read(3, again, 70, 80)];
            died(history(&[&[write(1, 7, 10, 20), open.clone()][..], &reads].concat()), 1, 30, 35)
        };
        some(7, 7).check().unwrap();
        some(8, 8).check().unwrap();
        assert!(some(8, 7).check().unwrap_err().contains("older"));
        // It is done with by the time that the process is dead, and so never comes back over what was written later.
        let later = [write(2, 9, 40, 50), read(2, 8, 60, 70)];
        let back = died(history(&[&[open][..], &later].concat()), 1, 30, 35);
        assert!(back.check().unwrap_err().contains("older"));
    }

    #[test]
    fn where_kills_lose_what_was_not_flushed_the_rest_has_to_be_there() {
        let flush = event(1, Kind::Flush, 0, (22, 22, 24));
        let lossy = |events: &[Event]| died(History { kills_lose: true, ..history(events) }, 1, 30, 35);
        lossy(&[write(1, 7, 10, 20), read(2, 0, 40, 50)]).check().unwrap();
        let bad = lossy(&[write(1, 7, 10, 20), flush.clone(), read(2, 0, 40, 50)]);
        assert!(bad.check().unwrap_err().contains("older"));
        lossy(&[write(1, 7, 10, 20), flush, write(1, 8, 26, 28), read(2, 7, 40, 50)]).check().unwrap();
    }

    #[test]
    fn logs_are_read_as_they_are_written() {
        let log = [asked(1, Kind::Write, 3, 9), held(1), asked(2, Kind::Read, 4, 0), ended(1, Ok(0)), held(2)].concat();
        let mut history = History::default();
        history.read(5, &format!("{log}{}e 2 ok", ended(2, Err(16))));
        history.events.sort_by_key(|event| event.asked);
        let [first, second] = history.events.as_slice() else { panic!("{history:?}") };
        assert_eq!((first.process, first.kind, first.slot, first.value), (5, Kind::Write, 3, 9));
        assert!(first.held.is_some() && first.ended.as_ref().is_some_and(|(_, result)| *result == Ok(0)));
        assert!(second.ended.as_ref().is_some_and(|(_, result)| *result == Err(16)));
    }
}
