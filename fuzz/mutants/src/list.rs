//! The mutants that `cargo mutants --list --json` names.

use std::path::PathBuf;

use serde::Deserialize;

/// A place in a file: line and column, both from 1, columns in characters.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// From the first character to behind the last.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub struct Range {
    /// First character.
    pub start: Place,
    /// Behind the last.
    pub end: Place,
}

/// One change of the source.
#[derive(Clone, Debug, Deserialize)]
pub struct Mutant {
    /// Its number, from 1 in the order of the list; not part of the list itself.
    #[serde(skip)]
    pub id: u32,
    /// File, from the root of the workspace.
    pub file: PathBuf,
    /// What is replaced.
    pub span: Range,
    /// By what.
    pub replacement: String,
    /// `FnValue`, `BinaryOperator`, `UnaryOperator`, `MatchArm`, `MatchArmGuard` or `StructField`.
    pub genre: String,
    /// The line in which the list describes it.
    pub name: String,
}

/// Reads a list and numbers it.
pub fn read(json: &str) -> serde_json::Result<Vec<Mutant>> {
    let mut mutants: Vec<Mutant> = serde_json::from_str(json)?;
    for (id, mutant) in (1..).zip(&mut mutants) {
        mutant.id = id;
    }
    Ok(mutants)
}

/// `count` of `0..of`, chosen by a seed; in the order of drawing. All of them if there are no more.
pub fn sample(of: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut all: Vec<usize> = (0..of).collect();
    let count = count.min(of);
    for i in 0..count {
        let other = i + (next() % (of - i) as u64) as usize;
        all.swap(i, other);
    }
    all.truncate(count);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_no_repetitions_and_is_the_same_for_the_same_seed() {
        let chosen = sample(100, 30, 7);
        assert_eq!(chosen, sample(100, 30, 7));
        assert_ne!(chosen, sample(100, 30, 8));
        assert_eq!(chosen, sample(100, 100, 7)[..30]);
        let mut all = sample(100, 200, 7);
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }
}
