//! Chance that can be repeated: a small generator of our own, so that a seed means the same in every build.

/// SplitMix64: one addition and one mixing function; passes the usual statistical tests and needs no warm-up.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; neighbouring seeds give unrelated sequences.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 for `n` of 0. The bias of the modulus is far below what a test could notice.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next_u64().checked_rem(n).unwrap_or(0)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a power cut does with the things that were not yet durable.
pub(crate) enum Fate {
    /// Nothing of them survives.
    Durable,
    /// All of them survive.
    Everything,
    /// Each by chance.
    Random(Random),
}

/// What of one change survives.
pub(crate) enum Part {
    Nothing,
    Whole,
    /// Ask [`Fate::coin`] for each of its atoms.
    Torn,
}

impl Fate {
    /// Seed 0 is [`Fate::Durable`], 1 is [`Fate::Everything`]. `salt` separates the files of one disk: what happens to one
    /// does not depend on how many others there are.
    pub(crate) fn new(seed: u64, salt: u64) -> Fate {
        match seed {
            0 => Fate::Durable,
            1 => Fate::Everything,
            _ => Fate::Random(Random::new(Random::new(seed).next_u64() ^ Random::new(!salt).next_u64())),
        }
    }

    /// Whether one thing survives.
    pub(crate) fn coin(&mut self) -> bool {
        match self {
            Fate::Durable => false,
            Fate::Everything => true,
            Fate::Random(random) => random.one_in(2),
        }
    }

    /// How many of `n` ordered things survive. Both ends are as likely as all that lies between, since they are where bugs are.
    pub(crate) fn prefix(&mut self, n: usize) -> usize {
        match self {
            Fate::Durable => 0,
            Fate::Everything => n,
            Fate::Random(random) => match random.below(4) {
                0 => 0,
                1 => n,
                _ => random.below(n as u64 + 1) as usize,
            },
        }
    }

    /// What of one change survives.
    pub(crate) fn part(&mut self) -> Part {
        match self {
            Fate::Durable => Part::Nothing,
            Fate::Everything => Part::Whole,
            Fate::Random(random) => match random.below(3) {
                0 => Part::Nothing,
                1 => Part::Whole,
                _ => Part::Torn,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn a_seed_gives_the_published_sequence() {
        let mut random = Random::new(1234567);
        assert_eq!(random.next_u64(), 6457827717110365317);
        assert_eq!(random.next_u64(), 3203168211198807973);
    }
}
