//! Record slots: how a small payload is replaced whole or not at all (format.md, "Records").

use super::bytes::{Reader, Writer, is_zero};
use crate::checksum;
use crate::error::{Error, Result};
use crate::limits::{ATOM, MAX_RECORD};

/// Bytes of one slot; a record file has two.
pub const SLOT: usize = 4096;
/// Bytes of a record file.
pub const RECORD_FILE: u64 = 2 * SLOT as u64;

/// Layout of the atoms; the only one so far.
const FORMAT: u8 = 0xA1;
/// Bytes of an atom before its payload.
const ATOM_HEAD: usize = 24;
/// Bytes of an atom that its checksum covers.
const ATOM_SUMMED: usize = ATOM - 4;
/// Payload bytes of one atom.
const ATOM_PAYLOAD: usize = ATOM_SUMMED - ATOM_HEAD;
/// Atoms of a slot.
const ATOMS: usize = SLOT / ATOM;

const _: () = assert!(ATOMS * ATOM_PAYLOAD == MAX_RECORD);

/// The slot that version `version` (from 1) is written to: 0 or 1.
pub fn slot_of(version: u64) -> u64 {
    (version.wrapping_sub(1)) % 2
}

/// Encodes one slot, a multiple of 512 bytes up to 4096. `id` is the volume the record belongs to (0 for the superblock); payload is at most `MAX_RECORD`.
/// Every 512 bytes carry version, position and a CRC32C, so a torn slot is told from an altered one.
///
/// What the slot holds after the bytes returned may stay: its atoms are of older versions. A version of 0 or a longer
/// payload is [`Error::InvalidArgument`].
pub fn encode_slot(id: u64, version: u64, payload: &[u8]) -> Result<Vec<u8>> {
    if version == 0 {
        return Err(Error::InvalidArgument("record versions start at 1".into()));
    }
    if payload.len() > MAX_RECORD {
        return Err(Error::InvalidArgument(format!("a record of {} bytes; at most {MAX_RECORD} fit", payload.len())));
    }
    let total = payload.len().div_ceil(ATOM_PAYLOAD).max(1);
    let commit = checksum::crc32c(payload);
    let mut slot = Vec::with_capacity(total * ATOM);
    for index in 0..total {
        let piece = &payload[index * ATOM_PAYLOAD..payload.len().min((index + 1) * ATOM_PAYLOAD)];
        let mut atom = Writer::with_capacity(ATOM);
        atom.u64(version).u64(id).u8((total << 4 | index) as u8).u8(FORMAT);
        atom.u16(piece.len() as u16).u32(commit).bytes(piece).pad_to(ATOM_SUMMED).crc();
        slot.extend_from_slice(&atom.finish());
    }
    Ok(slot)
}

/// A record as read from its two slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Volume the record belongs to.
    pub id: u64,
    /// Newest complete version.
    pub version: u64,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// One atom whose checksum and position are right.
#[derive(Clone, Copy)]
struct Atom<'a> {
    version: u64,
    id: u64,
    total: usize,
    /// CRC32C of the whole payload: tells atoms of one commit from those of an interrupted attempt at the same version.
    commit: u32,
    piece: &'a [u8],
}

/// What one slot holds.
enum State {
    /// Never written.
    Zero,
    /// This version, with its payload.
    Complete(u64, Vec<u8>),
    /// A commit of this version began and did not end.
    Torn(u64),
}

/// Picks the newest complete version from the bytes of a record file (exactly `RECORD_FILE` long, or it is `Damaged`).
///
/// A sector that is neither zero nor carries its checksum is `Damaged`, as is a file in which a version is missing that must have been
/// complete before the newest was begun. A slot whose sectors are right but of mixed versions is a torn commit: the
/// other slot counts.
pub fn decode_slots(object: &str, bytes: &[u8]) -> Result<Slots> {
    let damaged = |detail: String| Err(Error::damaged(object, detail));
    if bytes.len() as u64 != RECORD_FILE {
        let what = if (bytes.len() as u64) < RECORD_FILE { "cut short" } else { "too long" };
        return damaged(format!("{what}: {} bytes instead of {RECORD_FILE}", bytes.len()));
    }
    let mut id = None;
    let mut slots = [[None; ATOMS]; 2];
    for (number, atom) in bytes.chunks_exact(ATOM).enumerate() {
        let (slot, index) = (number / ATOMS, number % ATOMS);
        let Some(atom) = decode_atom(object, number, atom)? else { continue };
        if slot_of(atom.version) != slot as u64 {
            return damaged(format!("version {} lies in slot {slot}", atom.version));
        }
        if *id.get_or_insert(atom.id) != atom.id {
            return damaged(format!("sector {number} belongs to another record"));
        }
        slots[slot][index] = Some(atom);
    }
    let Some(id) = id else { return damaged("holds nothing: all zeros".into()) };

    let (version, payload, newest) = match (state_of(&slots[0]), state_of(&slots[1])) {
        (State::Complete(a, _), State::Complete(b, payload)) if b > a => (b, payload, 1),
        (State::Complete(a, payload), _) => (a, payload, 0),
        (_, State::Complete(b, payload)) => (b, payload, 1),
        _ => return damaged("no version is complete".into()),
    };
    // The version before was complete when the newest was begun, and only the version after may have begun to replace
    // it; anything else means that something durable was lost, and the newest may not be the newest.
    let first = slots[1 - newest][0].map(|atom| atom.version);
    let as_expected = match state_of(&slots[1 - newest]) {
        State::Zero => version == 1,
        State::Complete(other, _) => other.checked_add(1) == Some(version),
        State::Torn(other) => {
            version.checked_add(1) == Some(other)
                && (first == Some(other) || first == (version > 1).then(|| version - 1))
        }
    };
    if !as_expected {
        return damaged(format!("version {version} is there, but not what must stand beside it"));
    }
    Ok(Slots { id, version, payload })
}

/// Whether a record file was read whole, but the slot beside its newest version holds a commit that was not finished.
/// `false` for a file that [`decode_slots`] refuses.
pub fn is_torn(bytes: &[u8]) -> bool {
    let Ok(slots) = decode_slots("", bytes) else { return false };
    let other = 1 - slot_of(slots.version) as usize;
    matches!(slot_states(bytes), Ok(states) if matches!(states[other], State::Torn(_)))
}

/// Whether a record file is what a crash may leave of a record that was being created: part of version 1, and nothing else.
pub fn is_unborn(bytes: &[u8]) -> bool {
    if is_zero(bytes) && (bytes.is_empty() || bytes.len() as u64 == RECORD_FILE) {
        return true;
    }
    bytes.len() as u64 == RECORD_FILE && matches!(slot_states(bytes), Ok([State::Torn(1) | State::Zero, State::Zero]))
}

/// What both slots hold.
fn slot_states(bytes: &[u8]) -> Result<[State; 2]> {
    let mut slots = [[None; ATOMS]; 2];
    for (number, atom) in bytes.chunks_exact(ATOM).enumerate().take(2 * ATOMS) {
        slots[number / ATOMS][number % ATOMS] = decode_atom("", number, atom)?;
    }
    Ok([state_of(&slots[0]), state_of(&slots[1])])
}

/// Reads one atom of a record file; `None` if it is all zeros.
fn decode_atom<'a>(object: &'a str, number: usize, bytes: &'a [u8]) -> Result<Option<Atom<'a>>> {
    if is_zero(bytes) {
        return Ok(None);
    }
    let damaged = |what: &str| Err(Error::damaged(object, format!("sector {number}: {what}")));
    let (summed, sum) = bytes.split_at(ATOM_SUMMED);
    if checksum::crc32c(summed).to_le_bytes() != sum {
        return damaged("its checksum is wrong");
    }
    let mut reader = Reader::new(object, summed);
    let (version, id, place, format) = (reader.u64()?, reader.u64()?, reader.u8()?, reader.u8()?);
    let (len, commit) = (usize::from(reader.u16()?), reader.u32()?);
    if format != FORMAT {
        return reader.too_new(format!("record layout {format:#04x}"));
    }
    let (total, index) = (usize::from(place >> 4), usize::from(place & 15));
    if version == 0 || total > ATOMS || index >= total || index != number % ATOMS {
        return damaged("is out of place");
    }
    // Only as many atoms as the payload needs: none but the only one is empty.
    if len > ATOM_PAYLOAD || (len < ATOM_PAYLOAD && index + 1 != total) || (len == 0 && total > 1) {
        return damaged("has an impossible length");
    }
    let piece = reader.take(len)?;
    reader.zeros_to_end()?;
    Ok(Some(Atom { version, id, total, commit, piece }))
}

/// What the atoms of one slot amount to.
fn state_of(atoms: &[Option<Atom<'_>>; ATOMS]) -> State {
    let Some(highest) = atoms.iter().flatten().map(|atom| atom.version).max() else { return State::Zero };
    // Every commit writes atom 0, so a commit that ended is the one that atom 0 belongs to. Atoms behind its end may
    // be of the same version if an earlier, longer attempt at it was interrupted.
    let Some(first) = atoms[0].filter(|first| first.version == highest) else { return State::Torn(highest) };
    let mut payload = Vec::with_capacity(first.total * ATOM_PAYLOAD);
    for atom in &atoms[..first.total] {
        match atom {
            Some(atom) if (atom.version, atom.total, atom.commit) == (highest, first.total, first.commit) => {
                payload.extend_from_slice(atom.piece);
            }
            _ => return State::Torn(highest),
        }
    }
    if checksum::crc32c(&payload) == first.commit { State::Complete(highest, payload) } else { State::Torn(highest) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: u64 = 0x0123_4567_89ab_cdef;

    fn payload(len: usize, salt: u8) -> Vec<u8> {
        (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(salt)).collect()
    }

    /// A file after these commits.
    fn file(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut file = vec![0; RECORD_FILE as usize];
        for (n, payload) in payloads.iter().enumerate() {
            commit(&mut file, n as u64 + 1, payload, 0xff);
        }
        file
    }

    /// Writes the atoms whose bit is set in `landed`.
    fn commit(file: &mut [u8], version: u64, payload: &[u8], landed: u8) {
        let slot = encode_slot(ID, version, payload).unwrap();
        for (i, atom) in slot.chunks(ATOM).enumerate().filter(|(i, _)| landed >> i & 1 == 1) {
            let at = slot_of(version) as usize * SLOT + i * ATOM;
            file[at..at + ATOM].copy_from_slice(atom);
        }
    }

    fn is_damaged(bytes: &[u8]) -> bool {
        matches!(decode_slots("r", bytes), Err(Error::Damaged { .. }))
    }

    #[test]
    fn the_newest_of_any_number_of_commits_is_read() {
        let mut payloads = Vec::new();
        for n in 0..20usize {
            payloads.push(payload((n * 577) % (MAX_RECORD + 1), n as u8));
            let read = decode_slots("r", &file(&payloads)).unwrap();
            assert_eq!(read, Slots { id: ID, version: n as u64 + 1, payload: payloads[n].clone() });
        }
    }

    #[test]
    fn a_payload_of_every_length_up_to_the_largest_fits_a_slot() {
        for len in 0..=MAX_RECORD {
            let payload = payload(len, 3);
            assert_eq!(decode_slots("r", &file(std::slice::from_ref(&payload))).unwrap().payload, payload);
        }
        assert!(encode_slot(ID, 1, &payload(MAX_RECORD + 1, 0)).is_err());
        assert!(encode_slot(ID, 0, &[]).is_err());
    }

    #[test]
    fn every_flipped_bit_is_damage() {
        for lens in [&[0][..], &[100], &[700, 100], &[3872, 50], &[484, 2000, 600], &[3000, 3872, 600, 20]] {
            let payloads: Vec<_> = lens.iter().enumerate().map(|(n, len)| payload(*len, n as u8)).collect();
            let mut file = file(&payloads);
            for bit in 0..file.len() * 8 {
                file[bit / 8] ^= 1 << (bit % 8);
                assert!(is_damaged(&file), "bit {bit} of {lens:?}");
                file[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn a_file_cut_short_anywhere_is_damaged() {
        let file = file(&[payload(3000, 1), payload(600, 2)]);
        for len in 0..file.len() {
            assert!(is_damaged(&file[..len]), "{len}");
        }
        let mut longer = file.clone();
        longer.push(0);
        assert!(is_damaged(&longer));
    }

    #[test]
    fn a_torn_commit_leaves_the_old_or_the_new_payload_for_every_subset_of_sectors() {
        for before in 1..=4usize {
            for (old_len, new_len) in [(0, 0), (3872, 100), (100, 3872), (1500, 1400), (3872, 3872), (484, 485)] {
                let payloads: Vec<_> = (0..before).map(|n| payload(old_len, n as u8)).collect();
                let new = payload(new_len, 99);
                let atoms = new_len.div_ceil(ATOM_PAYLOAD).max(1);
                for landed in 0..1u32 << atoms {
                    let mut file = file(&payloads);
                    commit(&mut file, before as u64 + 1, &new, landed as u8);
                    let read = decode_slots("r", &file).unwrap();
                    if landed == (1 << atoms) - 1 {
                        assert_eq!((read.version, &read.payload), (before as u64 + 1, &new));
                    } else {
                        assert_eq!((read.version, &read.payload), (before as u64, &payloads[before - 1]));
                    }
                }
            }
        }
    }

    #[test]
    fn a_commit_torn_twice_at_the_same_version_never_mixes_the_attempts() {
        let lens = [100, 1000, 1400];
        for (first_len, second_len) in lens.iter().flat_map(|a| lens.iter().map(move |b| (*a, *b))) {
            let old = [payload(1400, 1), payload(1400, 2)];
            let (first, second) = (payload(first_len, 3), payload(second_len, 4));
            for (landed, again) in (0..8u8).flat_map(|a| (0..8u8).map(move |b| (a, b))) {
                let mut file = file(&old);
                commit(&mut file, 3, &first, landed);
                commit(&mut file, 3, &second, again);
                let read = decode_slots("r", &file).unwrap();
                assert!(
                    [&old[1], &first, &second].contains(&&read.payload),
                    "{first_len} {second_len} {landed:b} {again:b}"
                );
                let all = (1u8 << second_len.div_ceil(ATOM_PAYLOAD)) - 1;
                if again & all == all {
                    assert_eq!(read.payload, second);
                }
            }
        }
    }

    #[test]
    fn a_lost_or_misplaced_slot_is_damage() {
        let whole = file(&[payload(600, 1), payload(600, 2), payload(600, 3)]);
        for slot in 0..2 {
            let mut lost = whole.clone();
            lost[slot * SLOT..(slot + 1) * SLOT].fill(0);
            assert!(is_damaged(&lost), "slot {slot} lost");
        }
        // A torn commit replaces the first sector or leaves it; it never makes it zeros.
        let mut torn = whole.clone();
        commit(&mut torn, 4, &payload(1400, 4), 0b110);
        assert_eq!(decode_slots("r", &torn).unwrap().version, 3);
        torn[SLOT..SLOT + ATOM].fill(0);
        assert!(is_damaged(&torn));
        let mut swapped = whole[SLOT..].to_vec();
        swapped.extend_from_slice(&whole[..SLOT]);
        assert!(is_damaged(&swapped));
        // The other slot from before: version 3 beside version 2 is right, version 4 beside version 2 is not.
        let mut stale = whole.clone();
        commit(&mut stale, 5, &payload(600, 5), 0xff);
        assert!(is_damaged(&stale));
        assert!(is_damaged(&vec![0; RECORD_FILE as usize]));
    }

    #[test]
    fn a_slot_of_another_record_is_damage() {
        let mut mixed = file(&[payload(600, 1)]);
        mixed[SLOT..SLOT + ATOM].copy_from_slice(&encode_slot(ID + 1, 2, b"x").unwrap());
        assert!(is_damaged(&mixed));
    }

    #[test]
    fn a_slot_with_an_atom_more_than_its_payload_needs_is_damage() {
        let mut file = file(&[payload(2 * ATOM_PAYLOAD, 1)]);
        let commit = checksum::crc32c(&payload(2 * ATOM_PAYLOAD, 1));
        for (index, atom) in file[..3 * ATOM].chunks_mut(ATOM).enumerate() {
            if index == 2 {
                atom[..8].copy_from_slice(&1u64.to_le_bytes());
                atom[8..16].copy_from_slice(&ID.to_le_bytes());
                atom[17] = FORMAT;
                atom[20..24].copy_from_slice(&commit.to_le_bytes());
            }
            atom[16] = 3 << 4 | index as u8;
            let crc = checksum::crc32c(&atom[..ATOM_SUMMED]);
            atom[ATOM_SUMMED..].copy_from_slice(&crc.to_le_bytes());
        }
        assert!(is_damaged(&file));
    }

    #[test]
    fn a_later_layout_of_the_sectors_asks_for_a_newer_version() {
        let mut file = file(&[payload(6, 1)]);
        file[17] = FORMAT + 1;
        let crc = checksum::crc32c(&file[..ATOM_SUMMED]);
        file[ATOM_SUMMED..ATOM].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(decode_slots("r", &file), Err(Error::TooNew { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
            prop_assert!(decode_slots("r", &bytes).is_err());
        }

        #[test]
        fn atoms_with_right_checksums_and_random_fields_never_panic(
            atoms in proptest::collection::vec((0u64..6, 0u8.., 0u16..600, 0u32..3), 16)
        ) {
            let mut file = Vec::new();
            for (version, place, len, commit) in atoms {
                if place % 3 == 0 { file.extend_from_slice(&[0; ATOM]); continue }
                let mut atom = Writer::default();
                atom.u64(version).u64(ID).u8(place).u8(FORMAT).u16(len).u32(commit).pad_to(ATOM_SUMMED).crc();
                file.extend_from_slice(&atom.finish());
            }
            let _ = decode_slots("r", &file);
        }

        #[test]
        fn overwritten_parts_never_give_another_payload(
            a in proptest::collection::vec(any::<u8>(), 0..=MAX_RECORD),
            b in proptest::collection::vec(any::<u8>(), 0..=MAX_RECORD),
            at in 0usize..8192, with in proptest::collection::vec(any::<u8>(), 1..600),
        ) {
            let whole = file(&[a, b.clone()]);
            let mut file = whole.clone();
            let end = (at + with.len()).min(file.len());
            file[at..end].copy_from_slice(&with[..end - at]);
            match decode_slots("r", &file) {
                Ok(read) => prop_assert!(file == whole && read.payload == b),
                Err(error) => prop_assert!(matches!(error, Error::Damaged { .. }), "{}", error),
            }
        }
    }
}
