//! What happened to a simulated disk, call by call, so that any moment of it can be looked at again.

use std::collections::BTreeMap;

/// State that changes only by operations, and the same way each time.
pub(crate) trait State: Clone {
    /// One call.
    type Op;
    /// Applies an operation.
    fn apply(&mut self, op: &Self::Op);
    /// Rough number of things that a clone has to touch.
    fn weight(&self) -> usize;
}

/// Steps between two kept states: a moment is found by repeating at most this many operations.
const STRIDE: usize = 32;

/// The present state and the way to it.
pub(crate) struct Timeline<S: State> {
    live: S,
    steps: u64,
    /// States at rising steps; the first is the oldest moment that is known. Never empty.
    kept: Vec<(u64, S)>,
    /// Operations since the first kept state.
    ops: Vec<S::Op>,
    failures: BTreeMap<u64, i32>,
}

impl<S: State> Timeline<S> {
    pub(crate) fn new(state: S) -> Timeline<S> {
        Timeline { kept: vec![(0, state.clone())], live: state, steps: 0, ops: Vec::new(), failures: BTreeMap::new() }
    }

    /// The present.
    pub(crate) fn live(&self) -> &S {
        &self.live
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Plans the failure of a call.
    pub(crate) fn fail_at(&mut self, step: u64, errno: i32) {
        self.failures.insert(step, errno);
    }

    /// Forgets planned failures that were not reached.
    pub(crate) fn clear_failures(&mut self) {
        self.failures.clear();
    }

    /// The next step: `op`, unless it was planned to fail; then `failed`, which is what the failure does, and the errno.
    pub(crate) fn step(&mut self, op: S::Op, failed: S::Op) -> Result<(), i32> {
        match self.failures.remove(&(self.steps + 1)) {
            None => {
                self.push(op);
                Ok(())
            }
            Some(errno) => {
                self.push(failed);
                Err(errno)
            }
        }
    }

    fn push(&mut self, op: S::Op) {
        self.live.apply(&op);
        self.ops.push(op);
        self.steps += 1;
        // A clone of a large state costs more, so there are fewer of them.
        let since = self.steps - self.kept.last().map_or(0, |(step, _)| *step);
        if since >= (STRIDE + self.live.weight() / 4) as u64 {
            self.kept.push((self.steps, self.live.clone()));
        }
    }

    /// The state after `step` calls: the present for a later one, the oldest that is known for an earlier one.
    pub(crate) fn at(&self, step: u64) -> S {
        if step >= self.steps {
            return self.live.clone();
        }
        let first = self.kept[0].0;
        let index = self.kept.partition_point(|(kept, _)| *kept <= step).max(1) - 1;
        let (kept, state) = &self.kept[index];
        let mut state = state.clone();
        for op in &self.ops[(kept - first) as usize..(step.max(*kept) - first) as usize] {
            state.apply(op);
        }
        state
    }

    /// Makes the present the oldest moment that is known. `change` may drop what no moment needs any more.
    pub(crate) fn forget(&mut self, change: impl FnOnce(&mut S)) {
        if self.ops.is_empty() {
            return;
        }
        change(&mut self.live);
        self.ops = Vec::new();
        self.kept = vec![(self.steps, self.live.clone())];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Sum(u64);

    impl State for Sum {
        type Op = u64;
        fn apply(&mut self, op: &u64) {
            self.0 += op;
        }
        fn weight(&self) -> usize {
            1
        }
    }

    #[test]
    fn every_moment_since_the_last_forgetting_is_found_again() {
        let mut line = Timeline::new(Sum(0));
        for i in 1..=500 {
            assert_eq!(line.step(i, 0), Ok(()));
        }
        for step in 0..=500 {
            assert_eq!(line.at(step).0, step * (step + 1) / 2);
        }
        line.forget(|_| {});
        line.fail_at(502, 5);
        assert_eq!((line.step(1, 0), line.step(1, 0), line.step(1, 0)), (Ok(()), Err(5), Ok(())));
        assert_eq!((line.at(3).0, line.at(501).0, line.at(502).0, line.at(900).0), (125250, 125251, 125251, 125252));
    }
}
