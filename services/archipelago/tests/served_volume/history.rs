//! What was written to a disk, and which of it must be found after its server was killed.
//!
//! Every change has a number of its own, over all disks. A written sector holds its place and the number of the change, so
//! that a sector tells which change it is from, and a torn or misplaced one is recognised.

/// Unit in which a kill may tear a change, in bytes.
pub const SECTOR: u64 = 512;
/// Unit in which discarded ranges are given up, in bytes.
const PAGE: u64 = 4096;

/// For each sector of a disk the number of the change that it is from; 0 for zeros.
pub type Versions = Vec<u32>;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Write,
    Zero,
    Discard,
}

/// A change; offset and length in bytes are multiples of [`SECTOR`].
#[derive(Clone, Debug)]
pub struct Change {
    pub number: u32,
    pub kind: Kind,
    pub offset: u64,
    pub len: u64,
    /// The client asked for it to be durable by itself.
    pub fua: bool,
    /// The server answered it.
    pub answered: bool,
}

impl Change {
    /// The sectors that it changes.
    fn sectors(&self) -> std::ops::Range<usize> {
        let (from, to) = match self.kind {
            Kind::Discard => (self.offset.next_multiple_of(PAGE), (self.offset + self.len) / PAGE * PAGE),
            Kind::Write | Kind::Zero => (self.offset, self.offset + self.len),
        };
        (from / SECTOR) as usize..(to / SECTOR) as usize
    }

    /// What its sectors are afterwards.
    fn version(&self) -> u32 {
        if self.kind == Kind::Write { self.number } else { 0 }
    }

    /// What a write carries.
    pub fn payload(&self) -> Vec<u8> {
        self.sectors().flat_map(|sector| content(self.number, sector)).collect()
    }
}

/// A written sector: number and place, and words that follow from them.
fn content(number: u32, sector: usize) -> [u8; SECTOR as usize] {
    let mut out = [0; SECTOR as usize];
    let key = u64::from(number) << 32 | sector as u64;
    for (i, word) in out.chunks_exact_mut(8).enumerate() {
        let value = key.wrapping_mul(1 + 2 * i as u64).rotate_left(i as u32);
        word.copy_from_slice(&value.to_le_bytes());
    }
    out
}

/// Finds out of which changes a disk is made.
///
/// # Errors
/// A sector that is neither zero nor any change's.
pub fn versions(disk: &[u8]) -> Result<Versions, String> {
    let version = |(sector, found): (usize, &[u8])| {
        if found.iter().all(|byte| *byte == 0) {
            return Ok(0);
        }
        let key = u64::from_le_bytes(found[..8].try_into().unwrap());
        let number = (key >> 32) as u32;
        if content(number, sector)[..] == *found {
            return Ok(number);
        }
        Err(format!("sector {sector} is torn or misplaced; it starts as sector {} of change {number}", key as u32))
    };
    disk.chunks_exact(SECTOR as usize).enumerate().map(version).collect()
}

/// What a disk holds, all of it written by changes: the inverse of [`versions`].
pub fn bytes(versions: &Versions) -> Vec<u8> {
    let sector = |(sector, number): (usize, &u32)| match number {
        0 => [0; SECTOR as usize],
        _ => content(*number, sector),
    };
    versions.iter().enumerate().flat_map(sector).collect()
}

/// Checks each sector of a disk: it is as the last change that `must` be there left it, or a later one, and as it was in
/// `base` only if none must. Changes are in the order in which they were sent. Returns how many sectors a change had to be
/// found in.
pub fn check(
    found: &Versions,
    base: &Versions,
    changes: &[Change],
    must: impl Fn(&Change) -> bool,
) -> Result<usize, String> {
    if found.len() != base.len() {
        return Err(format!("{} sectors instead of {}", found.len(), base.len()));
    }
    let mut settled = base.clone();
    let mut later: Vec<Vec<u32>> = vec![Vec::new(); base.len()];
    let mut durable = vec![false; base.len()];
    for change in changes {
        let must = must(change);
        for sector in change.sectors() {
            if must {
                settled[sector] = change.version();
                durable[sector] = true;
                later[sector].clear();
            } else {
                later[sector].push(change.version());
            }
        }
    }
    for (sector, found) in found.iter().enumerate() {
        if *found != settled[sector] && !later[sector].contains(found) {
            let (settled, later) = (settled[sector], &later[sector]);
            return Err(format!("sector {sector} is of change {found}; allowed are {settled} and {later:?}"));
        }
    }
    Ok(durable.iter().filter(|durable| **durable).count())
}

/// A source of random numbers (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[test]
fn a_history_tells_lost_and_torn_sectors_from_allowed_ones() {
    let change = |number, kind, offset, len| Change { number, kind, offset, len, fua: false, answered: true };
    let changes = [
        change(1, Kind::Write, 0, 8192),
        change(2, Kind::Write, 512, 512),
        change(3, Kind::Discard, 512, 8192),
        change(4, Kind::Zero, 0, 512),
    ];
    let base = vec![0; 32];
    let mut disk = vec![0; 32 * 512];
    disk[..8192].copy_from_slice(&changes[0].payload());
    disk[512..1024].copy_from_slice(&changes[1].payload());
    let found = versions(&disk).unwrap();
    assert_eq!((found[0], found[1], found[2], found[15], found[16]), (1, 2, 1, 1, 0));
    assert_eq!(bytes(&found), disk);
    check(&found, &base, &changes, |c| c.number <= 2).unwrap();
    check(&found, &base, &changes, |c| c.number <= 1).unwrap();
    check(&found, &base, &changes, |_| false).unwrap();
    check(&found, &base, &changes, |c| c.number <= 3).unwrap_err(); // sectors 8..16 must be zero
    let mut lost = found.clone();
    lost[1] = 1;
    check(&lost, &base, &changes, |c| c.number <= 2).unwrap_err();
    check(&lost, &base, &changes, |c| c.number <= 1).unwrap();
    disk[600] ^= 1;
    versions(&disk).unwrap_err();
    disk[600] ^= 1;
    disk.copy_within(0..512, 1024);
    versions(&disk).unwrap_err();
}
