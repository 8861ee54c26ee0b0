//! Deterministic mutations of inputs, for runs without libFuzzer.

/// SplitMix64: every number follows from the seed.
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % (end.max(1) as u64)) as usize
    }
}

/// Numbers at which decoders err.
const EDGES: [u64; 14] =
    [0, 1, 2, 127, 128, 255, 256, 511, 512, 4096, 0x7fff_ffff, 0x8000_0000, u32::MAX as u64, u64::MAX];

/// Another input, made from one or two of `inputs` (which are not empty). At most `max_len` bytes.
pub fn mutant(inputs: &[Vec<u8>], random: &mut Random, max_len: usize) -> Vec<u8> {
    let mut bytes = inputs[random.below(inputs.len())].clone();
    for _ in 0..1 + random.below(4) * random.below(3) {
        change(&mut bytes, inputs, random);
        bytes.truncate(max_len);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, inputs: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let rest = bytes.len() - at;
    match random.below(9) {
        0 if rest > 0 => bytes[at] ^= 1 << random.below(8),
        1 if rest > 0 => bytes[at] = random.number() as u8,
        2 | 3 if rest > 0 => {
            let width = [1, 2, 4, 8][random.below(4)].min(rest);
            let value = EDGES[random.below(EDGES.len())];
            let (little, big) = (value.to_le_bytes(), value.to_be_bytes());
            let value = if random.below(2) == 0 { &little[..width] } else { &big[8 - width..] };
            bytes[at..at + width].copy_from_slice(value);
        }
        4 => {
            let end = at + random.below(rest.min(64) + 1);
            bytes.drain(at..end);
        }
        5 => {
            let count = random.below(16);
            let new: Vec<u8> = (0..count).map(|_| random.number() as u8).collect();
            bytes.splice(at..at, new);
        }
        6 => {
            let end = at + random.below(rest + 1);
            let copy = bytes[at..end].to_vec();
            let to = random.below(bytes.len() + 1);
            bytes.splice(to..to, copy);
        }
        7 => {
            let other = &inputs[random.below(inputs.len())];
            let from = random.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ => bytes.truncate(at),
    }
}
