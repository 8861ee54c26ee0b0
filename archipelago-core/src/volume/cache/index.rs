//! Which bytes of a volume are newer in the cache, and where.

use std::collections::BTreeMap;

/// A range that one record made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Where it ends in the volume.
    pub end: u64,
    /// The record.
    pub seq: u64,
    /// Where its first byte is in the file; `None` for zeros.
    pub at: Option<u64>,
}

impl Piece {
    /// Of this range, which begins at `start`, what lies behind `from`.
    fn behind(self, start: u64, from: u64) -> Piece {
        Piece { at: self.at.map(|at| at + (from - start)), ..self }
    }
}

/// Ranges by where they begin; none overlaps another.
#[derive(Default)]
pub struct Index {
    pieces: BTreeMap<u64, Piece>,
}

impl Index {
    /// Ranges.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The newest of a range is made by a record. Adds at most two.
    pub fn insert(&mut self, from: u64, piece: Piece) {
        let end = piece.end;
        if let Some((&start, &before)) = self.pieces.range(..from).next_back()
            && before.end > from
        {
            self.pieces.insert(start, Piece { end: from, ..before });
            if before.end > end {
                self.pieces.insert(end, before.behind(start, end));
            }
        }
        while let Some((&start, &old)) = self.pieces.range(from..end).next() {
            self.pieces.remove(&start);
            if old.end > end {
                self.pieces.insert(end, old.behind(start, end));
            }
        }
        self.pieces.insert(from, piece);
    }

    /// A record of this range is in the volume: what no newer one covers is read from there.
    pub fn remove(&mut self, from: u64, end: u64, seq: u64) {
        let of_it: Vec<u64> =
            self.pieces.range(from..end).filter(|(_, piece)| piece.seq == seq).map(|(start, _)| *start).collect();
        for start in of_it {
            self.pieces.remove(&start);
        }
    }

    /// The parts of a range in order: where each ends, and where it is in the cache; `None` for what is not.
    pub fn parts(&self, from: u64, end: u64) -> Vec<(u64, Option<Piece>)> {
        let mut parts = Vec::new();
        let mut at = from;
        let first = self.pieces.range(..from).next_back().filter(|(_, piece)| piece.end > from);
        for (&start, &piece) in first.into_iter().chain(self.pieces.range(from..end)) {
            if start > at {
                parts.push((start, None));
                at = start;
            }
            let piece = piece.behind(start, at);
            at = piece.end.min(end);
            parts.push((at, Some(Piece { end: at, ..piece })));
        }
        if at < end {
            parts.push((end, None));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beside an array in which each byte says who wrote it, and from where.
    #[test]
    fn the_newest_of_every_byte_is_found() {
        const SIZE: usize = 64;
        let mut random = 1u64;
        let mut next = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % below
        };
        let (mut index, mut model) = (Index::default(), vec![None; SIZE]);
        let mut records = Vec::new();
        for seq in 1..4000u64 {
            let from = next(SIZE - 1);
            let end = from + 1 + next((SIZE - from).min(20));
            let at = (next(4) > 0).then_some(seq * 1000);
            let before = index.len();
            index.insert(from as u64, Piece { end: end as u64, seq, at });
            assert!(index.len() <= before + 2);
            for (byte, newest) in model[from..end].iter_mut().enumerate() {
                *newest = Some((seq, at.map(|at| at + byte as u64)));
            }
            records.push((from, end, seq));
            if next(3) > 0 {
                let (from, end, seq) = records.remove(0);
                index.remove(from as u64, end as u64, seq);
                model[from..end].iter_mut().filter(|byte| byte.is_some_and(|(s, _)| s == seq)).for_each(|b| *b = None);
            }
            let from = next(SIZE - 1);
            let end = from + 1 + next(SIZE - from);
            let mut found = Vec::new();
            for (to, piece) in index.parts(from as u64, end as u64) {
                let start = found.len();
                for byte in start..to as usize - from {
                    found.push(piece.map(|p| (p.seq, p.at.map(|at| at + (byte - start) as u64))));
                }
            }
            assert_eq!(found, model[from..end.min(SIZE)], "after record {seq}");
        }
        for (from, end, seq) in records {
            index.remove(from as u64, end as u64, seq);
        }
        assert_eq!(index.len(), 0);
    }
}
