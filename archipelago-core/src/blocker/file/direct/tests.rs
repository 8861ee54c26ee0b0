//! Requests of every alignment against a plain array, on a disk that refuses what is not made of its units.

use std::collections::BTreeSet;

use super::*;
use crate::blocker::sim::{Random, SimDisk};
use crate::blocker::sys::Open;

/// A file of a simulated disk, open past the page cache.
fn direct() -> (Arc<SimDisk>, Fd, Direct) {
    let disk = SimDisk::new();
    let fd = disk.open("file", Open::CreateNew).unwrap();
    let units = disk.bypass(fd).unwrap().unwrap();
    (disk, fd, Direct::new(units, Arc::default()))
}

/// Cuts bytes into up to four pieces, mostly one.
fn cuts(random: &mut Random, len: usize) -> Vec<std::ops::Range<usize>> {
    let more = if random.below(2) == 0 { 0 } else { random.below(4) };
    let mut at: BTreeSet<usize> = (0..more).map(|_| random.below(len as u64 + 1) as usize).collect();
    at.extend([0, len]);
    let at: Vec<usize> = at.into_iter().collect();
    at.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

#[test]
fn requests_of_any_alignment_agree_with_a_plain_array() {
    const SPACE: u64 = 3 * BOUNCE as u64;
    let (disk, fd, direct) = direct();
    let (mut random, mut model, mut whole) = (Random::new(7), Vec::new(), 0);
    let mut memory = vec![0; 2 * BOUNCE + 3 * ALIGNMENT];
    for round in 0..4000u64 {
        let unit = [1, 512, 4096][random.below(3) as usize];
        let most = [5000, 20_000, BOUNCE as u64 + 9000][random.below(3) as usize];
        let offset = random.below(SPACE) / unit * unit;
        let len = ((1 + random.below(most)).next_multiple_of(unit)) as usize;
        // Where the buffers lie is a matter of chance as well.
        let start = memory.as_ptr().align_offset(ALIGNMENT) + random.below(3) as usize * 256;
        let area = &mut memory[start..start + len];
        let pieces = cuts(&mut random, len);
        if random.below(2) == 0 {
            area.iter_mut().enumerate().for_each(|(i, byte)| *byte = (round + i as u64) as u8 | 1);
            let bufs: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(&area[piece.clone()])).collect();
            whole += u64::from(direct.units.fit(&bufs, offset));
            direct.write(&*disk, fd, &bufs, offset).unwrap();
            let end = offset as usize + len;
            model.resize(model.len().max(end), 0);
            model[offset as usize..end].copy_from_slice(area);
            assert_eq!(disk.len(fd).unwrap(), model.len() as u64, "round {round}: as long as what was written");
        } else {
            area.fill(0xee);
            let there = model.len().saturating_sub(offset as usize).min(len);
            let mut rest = &mut *area;
            let mut bufs = Vec::new();
            for piece in &pieces {
                let (now, later) = std::mem::take(&mut rest).split_at_mut(piece.len());
                bufs.push(IoSliceMut::new(now));
                rest = later;
            }
            assert_eq!(direct.read(&*disk, fd, &mut bufs, offset).unwrap(), there, "round {round}");
            let from = offset as usize;
            assert!(there == 0 || area[..there] == model[from..from + there], "round {round}: {len} at {offset}");
        }
    }
    assert!(whole > 100, "only {whole} writes went to the disk as they were");
}

#[test]
fn writes_to_parts_of_one_unit_at_once_lose_nothing() {
    const WRITERS: u64 = 4;
    let (disk, fd, direct) = direct();
    direct.write(&*disk, fd, &[IoSlice::new(&[0; 8192])], 0).unwrap();
    for round in 1..=200 {
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (direct, disk) = (&direct, &disk);
                scope.spawn(move || {
                    let len = 4096 / WRITERS;
                    let buf = vec![round; len as usize];
                    direct.write(&**disk, fd, &[IoSlice::new(&buf)], writer * len).unwrap();
                });
            }
        });
        let mut found = vec![0; 4096];
        assert_eq!(direct.read(&*disk, fd, &mut [IoSliceMut::new(&mut found)], 0).unwrap(), 4096);
        assert!(found.iter().all(|byte| *byte == round), "round {round}");
    }
}

#[test]
fn who_finds_no_buffer_waits_for_one() {
    let pool = Arc::new(Bounces::default());
    let mut held: Vec<_> = (0..BOUNCES).map(|_| pool.take()).collect();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| drop(pool.take()));
        drop(held.pop());
        waiting.join().unwrap();
    });
    drop(held);
    let state = pool.state.lock();
    assert_eq!((state.made, state.buffers.len()), (BOUNCES, BOUNCES));
}

#[test]
fn a_full_disk_is_an_error_and_what_was_there_stays() {
    let (disk, fd, direct) = direct();
    direct.write(&*disk, fd, &[IoSlice::new(&[1; 8192])], 0).unwrap();
    disk.set_space(1 << 20, 4096);
    let error = direct.write(&*disk, fd, &[IoSlice::new(&[2; 20_000])], 5000).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    let mut found = [0; 5000];
    assert_eq!(direct.read(&*disk, fd, &mut [IoSliceMut::new(&mut found)], 0).unwrap(), 5000);
    assert_eq!(found, [1; 5000]);
    direct.write(&*disk, fd, &[IoSlice::new(&[3; 100])], 50).unwrap();
}
