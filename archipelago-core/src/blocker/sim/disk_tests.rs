use std::collections::BTreeSet;

use super::*;

fn put(disk: &SimDisk, path: &str, data: &[u8]) -> Fd {
    let fd = disk.open(path, Open::Create).unwrap();
    disk.pwritev(fd, &[IoSlice::new(data)], 0).unwrap();
    fd
}

fn put_durably(disk: &SimDisk, path: &str, data: &[u8]) {
    let fd = put(disk, path, data);
    disk.fdatasync(fd).unwrap();
    disk.close(fd);
    disk.sync_dir(path.rsplit_once('/').map_or("", |(dir, _)| dir)).unwrap();
}

fn get(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    let fd = disk.open(path, Open::Read).ok()?;
    let mut data = vec![0xEE; disk.len(fd).unwrap() as usize + 10];
    let n = disk.preadv(fd, &mut [IoSliceMut::new(&mut data)], 0).unwrap();
    disk.close(fd);
    data.truncate(n);
    Some(data)
}

fn code<T>(result: io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

fn seeds() -> std::ops::Range<u64> {
    0..200
}

#[test]
fn an_unsynced_write_may_vanish_and_a_synced_one_never_does() {
    let disk = SimDisk::new();
    put_durably(&disk, "f", &[1; 5000]);
    let fd = disk.open("f", Open::ReadWrite).unwrap();
    disk.pwritev(fd, &[IoSlice::new(&[2; 1000]), IoSlice::new(&[3; 1000])], 4000).unwrap();
    assert_eq!(get(&disk.crash_at(disk.steps(), 0), "f").unwrap(), vec![1; 5000]);
    let all = get(&disk.crash_at(disk.steps(), 1), "f").unwrap();
    assert_eq!((all.len(), all[3999], all[4000], all[5999]), (6000, 1, 2, 3));
    let mut kinds = BTreeSet::new();
    for seed in seeds() {
        let found = get(&disk.crash_at(disk.steps(), seed), "f").unwrap();
        assert!(found[..4000].iter().all(|b| *b == 1), "seed {seed}");
        assert!(found.len() == 5000 || found.len() == 6000, "seed {seed}");
        for (i, byte) in found.iter().enumerate().skip(4000) {
            let new = if i < 5000 { 2 } else { 3 };
            let old = if i < 5000 { 1 } else { 0 };
            assert!(*byte == new || *byte == old, "seed {seed}, byte {i}");
            // Inside an atom all bytes are of one age.
            if i > 4000 && i % 512 != 0 && i != 5000 {
                assert_eq!(*byte, found[i - 1], "seed {seed}: torn at {i}");
            }
        }
        kinds.insert(found);
    }
    assert!(kinds.len() > 8, "{} different images", kinds.len());
    disk.fdatasync(fd).unwrap();
    for seed in seeds() {
        assert_eq!(get(&disk.crash_at(disk.steps(), seed), "f").unwrap(), all, "seed {seed}");
    }
}

#[test]
fn a_new_file_is_lost_without_a_sync_of_its_directory() {
    let disk = SimDisk::new();
    disk.mkdir("d").unwrap();
    disk.sync_dir("").unwrap();
    let fd = put(&disk, "d/f", b"data");
    disk.fdatasync(fd).unwrap();
    assert_eq!(get(&disk.crash_at(disk.steps(), 0), "d/f"), None);
    let outcomes: BTreeSet<_> = seeds().map(|seed| get(&disk.crash_at(disk.steps(), seed), "d/f")).collect();
    assert_eq!(outcomes, BTreeSet::from([None, Some(b"data".to_vec())]));
    disk.sync_dir("d").unwrap();
    assert_eq!(get(&disk.crash_at(disk.steps(), 0), "d/f"), Some(b"data".to_vec()));
}

#[test]
fn an_entry_that_survives_may_lead_to_an_empty_file() {
    let disk = SimDisk::new();
    put(&disk, "f", b"data");
    disk.sync_dir(".").unwrap();
    assert_eq!(get(&disk.crash_at(disk.steps(), 0), "f"), Some(Vec::new()));
    let zeros = seeds().filter(|seed| get(&disk.crash_at(disk.steps(), *seed), "f") == Some(vec![0; 4])).count();
    assert!(zeros > 0, "the length may survive without the bytes");
}

#[test]
fn a_directory_that_is_lost_takes_its_files_with_it() {
    let disk = SimDisk::new();
    disk.mkdir("d").unwrap();
    put_durably(&disk, "d/f", b"x");
    assert_eq!(code(disk.crash_at(disk.steps(), 0).open("d/f", Open::Read)), libc::ENOENT);
    disk.sync_dir("").unwrap();
    assert_eq!(get(&disk.crash_at(disk.steps(), 0), "d/f"), Some(b"x".to_vec()));
}

#[test]
fn a_rename_inside_a_directory_is_atomic() {
    let disk = SimDisk::new();
    put_durably(&disk, "old", b"1");
    put_durably(&disk, "target", b"2");
    disk.rename("old", "target").unwrap();
    let outcomes: BTreeSet<_> = seeds()
        .map(|seed| {
            let after = disk.crash_at(disk.steps(), seed);
            (get(&after, "old"), get(&after, "target"))
        })
        .collect();
    let (one, two) = (Some(b"1".to_vec()), Some(b"2".to_vec()));
    assert_eq!(outcomes, BTreeSet::from([(one.clone(), two), (None, one)]));
}

#[test]
fn a_rename_across_directories_is_durable_side_by_side() {
    let disk = SimDisk::new();
    disk.mkdir("a").unwrap();
    disk.mkdir("b").unwrap();
    disk.sync_dir("").unwrap();
    put_durably(&disk, "a/f", b"1");
    disk.rename("a/f", "b/f").unwrap();
    let outcomes: BTreeSet<_> = seeds()
        .map(|seed| {
            let after = disk.crash_at(disk.steps(), seed);
            (get(&after, "a/f").is_some(), get(&after, "b/f").is_some())
        })
        .collect();
    assert_eq!(outcomes.len(), 4);
    disk.sync_dir("b").unwrap();
    assert!(seeds().all(|seed| get(&disk.crash_at(disk.steps(), seed), "b/f").is_some()));
    disk.sync_dir("a").unwrap();
    assert!(seeds().all(|seed| get(&disk.crash_at(disk.steps(), seed), "a/f").is_none()));
}

#[test]
fn hard_links_are_one_file_and_renaming_one_onto_the_other_does_nothing() {
    let disk = SimDisk::new();
    put_durably(&disk, "f", b"1");
    disk.link("f", "g").unwrap();
    assert_eq!(code(disk.link("f", "g")), libc::EEXIST);
    put(&disk, "g", b"22");
    assert_eq!(get(&disk, "f").unwrap(), b"22");
    let steps = disk.steps();
    disk.rename("f", "g").unwrap();
    assert_eq!((disk.steps(), get(&disk, "f").is_some()), (steps, true));
    disk.unlink("f").unwrap();
    disk.syncfs().unwrap();
    let after = disk.crash_at(disk.steps(), 0);
    assert_eq!((get(&after, "f"), get(&after, "g")), (None, Some(b"22".to_vec())));
}

#[test]
fn entries_of_one_directory_survive_in_the_order_of_their_making() {
    let disk = SimDisk::new();
    let names: Vec<String> = (0..10).map(|i| format!("f{i}")).collect();
    for name in &names {
        disk.open(name, Open::CreateNew).unwrap();
    }
    for seed in seeds() {
        let mut found = disk.crash_at(disk.steps(), seed).list("").unwrap();
        found.sort();
        assert_eq!(found, names[..found.len()], "seed {seed}");
    }
}

#[test]
fn a_failed_sync_drops_its_pages_for_good_and_a_later_one_succeeds() {
    let disk = SimDisk::new();
    put_durably(&disk, "f", &[1; 1024]);
    let fd = put(&disk, "f", &[2; 512]);
    disk.fail_at(disk.steps() + 1, libc::EIO);
    assert_eq!(code(disk.fdatasync(fd)), libc::EIO);
    disk.pwritev(fd, &[IoSlice::new(&[3; 512])], 512).unwrap();
    disk.fdatasync(fd).unwrap();
    let (seen, kept) = ([[2; 512], [3; 512]].concat(), [[1; 512], [3; 512]].concat());
    assert_eq!(get(&disk, "f").unwrap(), seen);
    for seed in seeds() {
        assert_eq!(get(&disk.crash_at(disk.steps(), seed), "f").unwrap(), kept);
    }
}

#[test]
fn dropped_syncs_report_success_and_do_nothing() {
    for (what, file, entry) in
        [(Syncs::Files, false, true), (Syncs::Directories, true, false), (Syncs::All, false, false)]
    {
        for all in [false, true] {
            let disk = SimDisk::new();
            put_durably(&disk, "f", b"old");
            disk.drop_syncs(what);
            let fd = put(&disk, "f", b"new");
            disk.link("f", "g").unwrap();
            if all {
                disk.syncfs().unwrap();
            } else {
                disk.fdatasync(fd).unwrap();
                disk.sync_dir("").unwrap();
            }
            let after = disk.crash_at(disk.steps(), 0);
            assert_eq!(get(&after, "f").unwrap() == b"new", file, "{what:?}");
            assert_eq!(get(&after, "g").is_some(), entry, "{what:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_image() {
    let disk = SimDisk::new();
    let mut random = super::super::Random::new(7);
    for i in 0..300u64 {
        let name = format!("f{}", random.below(5));
        let fd = put(&disk, &name, &vec![i as u8; 1 + random.below(9000) as usize]);
        if random.one_in(4) {
            disk.fdatasync(fd).unwrap();
        }
        if random.one_in(4) {
            disk.sync_dir("").unwrap();
        }
        if random.one_in(8) {
            let _ = disk.rename(&name, &format!("f{}", random.below(5)));
        }
        disk.close(fd);
    }
    let image = |step, seed| {
        let after = disk.crash_at(step, seed);
        let names = after.list("").unwrap();
        names.into_iter().map(|name| (get(&after, &name), name)).collect::<BTreeSet<_>>()
    };
    for step in (0..disk.steps()).step_by(7) {
        assert_eq!(image(step, step), image(step, step));
    }
    assert_ne!(image(disk.steps(), 2), image(disk.steps(), 3));
    assert_eq!(image(0, 5), BTreeSet::new());
    let present = image(disk.steps(), 9);
    disk.forget_history();
    assert_eq!((image(disk.steps(), 9), image(3, 9)), (present.clone(), present));
}

#[test]
fn a_crash_image_is_independent_and_has_no_locks() {
    let disk = SimDisk::new();
    put_durably(&disk, "f", b"1");
    let fd = disk.open("f", Open::ReadWrite).unwrap();
    assert!(disk.try_lock(fd, LockMode::Exclusive).unwrap());
    let after = disk.crash_at(disk.steps(), 1);
    let other = after.open("f", Open::ReadWrite).unwrap();
    assert!(after.try_lock(other, LockMode::Exclusive).unwrap());
    put(&after, "f", b"2");
    assert_eq!((get(&disk, "f").unwrap(), after.steps()), (b"1".to_vec(), 1));
}

#[test]
fn locks_belong_to_the_open_file_and_go_with_it() {
    let disk = SimDisk::new();
    put_durably(&disk, "f", b"1");
    let [a, b] = [(); 2].map(|()| disk.open("f", Open::ReadWrite).unwrap());
    assert!(disk.try_lock(a, LockMode::Shared).unwrap() && disk.try_lock(b, LockMode::Shared).unwrap());
    assert!(!disk.try_lock(a, LockMode::Exclusive).unwrap());
    disk.close(b);
    assert!(disk.try_lock(a, LockMode::Exclusive).unwrap());
    let c = disk.open("f", Open::Read).unwrap();
    assert!(!disk.try_lock(c, LockMode::Shared).unwrap());
    assert_eq!(code(disk.try_lock(c, LockMode::Exclusive)), libc::EBADF);
    disk.close(a);
    assert!(disk.try_lock(c, LockMode::Shared).unwrap());
    assert_eq!((code(disk.fdatasync(a)), disk.open_files()), (libc::EBADF, 1));
}

#[test]
fn calls_fail_as_the_system_lets_them_fail() {
    let disk = SimDisk::new();
    disk.mkdir("d").unwrap();
    put_durably(&disk, "d/f", b"1");
    let steps = disk.steps();
    let read_only = disk.open("d/f", Open::Read).unwrap();
    let writable = disk.open("d/f", Open::ReadWrite).unwrap();
    assert_eq!(code(disk.open("d/f", Open::CreateNew)), libc::EEXIST);
    assert_eq!(code(disk.open("d/g", Open::ReadWrite)), libc::ENOENT);
    assert_eq!(code(disk.open("e/g", Open::Create)), libc::ENOENT);
    assert_eq!(code(disk.open("d/f/g", Open::Create)), libc::ENOTDIR);
    assert_eq!(code(disk.open("d", Open::Read)), libc::EISDIR);
    assert_eq!(code(disk.open("../f", Open::Create)), libc::EINVAL);
    assert_eq!(code(disk.open(&"n".repeat(256), Open::Create)), libc::ENAMETOOLONG);
    assert_eq!(code(disk.mkdir("d")), libc::EEXIST);
    assert_eq!(code(disk.unlink("d/g")), libc::ENOENT);
    assert_eq!(code(disk.rename("d/g", "d/f")), libc::ENOENT);
    assert_eq!(code(disk.list("d/f")), libc::ENOTDIR);
    assert_eq!(code(disk.pwritev(read_only, &[IoSlice::new(b"x")], 0)), libc::EBADF);
    assert_eq!(code(disk.pwritev(writable, &[IoSlice::new(b"x")], MAX_FILE)), libc::EFBIG);
    assert_eq!(code(disk.punch(writable, 0, 0)), libc::EINVAL);
    assert_eq!(disk.steps(), steps);
}

#[test]
fn a_write_beyond_the_free_room_stores_what_fits() {
    let disk = SimDisk::new();
    let fd = put(&disk, "f", &[1; 4096]);
    disk.set_space(1 << 20, 2 * 4096);
    disk.pwritev(fd, &[IoSlice::new(&[2; 4096])], 0).unwrap();
    assert_eq!(code(disk.pwritev(fd, &[IoSlice::new(&[3; 16384])], 4096)), libc::ENOSPC);
    assert_eq!((disk.len(fd).unwrap(), disk.space().unwrap()), (3 * 4096, Space { total: 1 << 20, free: 0 }));
    disk.punch(fd, 0, 8192).unwrap();
    assert_eq!(disk.space().unwrap().free, 8192);
    disk.unlink("f").unwrap();
    assert_eq!(disk.space().unwrap().free, 8192);
    disk.close(fd);
    assert_eq!(disk.space().unwrap().free, 3 * 4096);
}

#[test]
fn a_planned_failure_happens_once_and_changes_nothing() {
    let disk = SimDisk::new();
    disk.fail_at(1, libc::EACCES);
    assert_eq!(code(disk.open("f", Open::Create)), libc::EACCES);
    assert_eq!((disk.steps(), get(&disk, "f")), (1, None));
    disk.open("f", Open::Create).unwrap();
}

#[test]
fn many_threads_may_use_one_disk() {
    let disk = SimDisk::new();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let disk = &disk;
            scope.spawn(move || {
                for i in 0..50 {
                    put_durably(disk, &format!("t{thread}.{i}"), &[thread; 100]);
                    drop(disk.crash_at(disk.steps(), 5));
                }
            });
        }
    });
    let after = disk.crash_at(disk.steps(), 0);
    assert_eq!(after.list("").unwrap().len(), 200);
    assert_eq!((disk.steps(), disk.open_files()), (800, 0));
}

#[test]
fn every_step_of_a_long_history_can_be_looked_at() {
    let disk = SimDisk::new();
    let log = disk.open("log", Open::Create).unwrap();
    disk.pwritev(log, &[IoSlice::new(&vec![0; 16 << 20])], 0).unwrap();
    disk.syncfs().unwrap();
    for i in 0..500u64 {
        disk.pwritev(log, &[IoSlice::new(&[i as u8; 4608])], i * 4608).unwrap();
        put(&disk, &format!("f{}", i % 20), &[i as u8; 8192]);
        disk.fdatasync(log).unwrap();
    }
    let steps = disk.steps();
    for step in 0..=steps {
        let image = disk.crash_at(step, step);
        // Its entry was never synced: it is there as the cut found it, or not at all.
        if let Ok(log) = image.open("log", Open::Read) {
            assert!(image.len(log).unwrap() <= 16 << 20, "step {step}");
        }
    }
}

#[test]
fn after_a_kill_everything_is_visible_and_still_at_risk() {
    let disk = SimDisk::new();
    put_durably(&disk, "f", b"old");
    put(&disk, "f", b"new");
    let killed = disk.kill_at(disk.steps());
    assert_eq!((get(&killed, "f").unwrap(), killed.open_files()), (b"new".to_vec(), 0));
    assert_eq!(get(&killed.crash_at(0, 0), "f").unwrap(), b"old");
    let fd = killed.open("f", Open::Read).unwrap();
    killed.fdatasync(fd).unwrap();
    assert_eq!(get(&killed.crash_at(1, 0), "f").unwrap(), b"new");
    assert_eq!(get(&disk.crash_at(disk.steps(), 0), "f").unwrap(), b"old");
}

#[test]
fn a_symbolic_link_is_read_and_removed_but_never_followed() {
    let disk = SimDisk::new();
    disk.mkdir("dir").unwrap();
    disk.symlink("dir", "link").unwrap();
    let code = |e: io::Error| e.raw_os_error().unwrap();
    assert_eq!(disk.readlink("link").unwrap(), b"dir");
    assert_eq!(code(disk.symlink("other", "link").unwrap_err()), libc::EEXIST);
    assert_eq!(code(disk.readlink("dir/none").unwrap_err()), libc::ENOENT);
    assert_eq!(code(disk.open("link", Open::Read).unwrap_err()), libc::ELOOP);
    assert_eq!(code(disk.open("link/file", Open::Create).unwrap_err()), libc::ENOTDIR);
    let fd = disk.open("file", Open::Create).unwrap();
    disk.close(fd);
    assert_eq!(code(disk.readlink("file").unwrap_err()), libc::EINVAL);
    // An entry like any other in a power cut, and then whole.
    assert_eq!(code(disk.crash_at(u64::MAX, 0).readlink("link").unwrap_err()), libc::ENOENT);
    assert_eq!(disk.crash_at(u64::MAX, 1).readlink("link").unwrap(), b"dir");
    disk.sync_dir(".").unwrap();
    assert_eq!(disk.crash_at(u64::MAX, 0).readlink("link").unwrap(), b"dir");
    disk.unlink("link").unwrap();
    assert_eq!(disk.list(".").unwrap().len(), 2);
}
