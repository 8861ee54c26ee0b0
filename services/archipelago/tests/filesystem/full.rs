//! A file system without room.

use archipelago_core::{Error, Mode, Volume};

use crate::random::bytes;
use crate::site::Site;

const MIB: u64 = 1 << 20;

/// Writes until there is no room; how many MiB there are now from `from` on.
fn fill(volume: &Volume, from: u64) -> u64 {
    for n in from.. {
        match volume.write_at(&bytes(n, MIB as usize), n * MIB) {
            Ok(()) => {}
            Err(Error::NoSpace(_)) => return n - from,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

#[track_caller]
fn check(volume: &Volume, from: u64, count: u64) {
    let mut found = vec![0; MIB as usize];
    for n in from..from + count {
        volume.read_at(&mut found, n * MIB).unwrap();
        assert!(found == bytes(n, MIB as usize), "MiB {n}");
    }
}

/// What makes room has to work when there is none: by writes into a volume, and by somebody else's file that leaves not
/// even the reserve.
#[test]
fn without_room_what_makes_room_works_and_everything_flushed_is_there() {
    for foreign in [false, true] {
        let Some(site) = Site::new(256) else { return };
        site.ok(&["create", "ballast", "--size", "1G"]);
        site.ok(&["create", "disk-1", "--size", "4G"]);
        let store = site.open();
        let ballast = store.open_volume("ballast", Mode::ReadWrite).unwrap();
        for n in 0..24 {
            ballast.write_at(&bytes(n, MIB as usize), n * MIB).unwrap();
        }
        ballast.close().unwrap();
        let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
        volume.write_at(&bytes(0, MIB as usize), 0).unwrap();
        // Sectors in the journal, so that there is something to fold.
        for n in 0..100 {
            volume.write_at(&[n as u8; 4096], (2 * MIB) + n * 8192).unwrap();
        }
        volume.flush().unwrap();
        let stranger = site.disk.path().join("stranger");
        let written = if foreign {
            // It stops where the file system has not one block left.
            let zeros = vec![1; MIB as usize];
            let mut file = std::fs::File::create(&stranger).unwrap();
            let mut piece = &zeros[..];
            while !piece.is_empty() {
                match std::io::Write::write(&mut file, piece) {
                    Ok(n) if n > 0 => {}
                    _ => piece = &piece[..piece.len() / 2],
                }
            }
            file.sync_all().unwrap();
            fill(&volume, 4)
        } else {
            let written = fill(&volume, 4);
            assert!(written > 50, "{written} MiB");
            written
        };
        volume.flush().unwrap();
        match store.snapshot("disk-1", "snap-1") {
            Ok(_) => {}
            // Its header takes room, which the stranger did not leave.
            Err(Error::NoSpace(_)) if foreign => {}
            Err(error) => panic!("{error}"),
        }
        match volume.close() {
            Ok(()) => {}
            // What it would fold takes room too; it was flushed, and is replayed.
            Err(Error::NoSpace(_)) if foreign => {}
            Err(error) => panic!("{error}"),
        }
        drop(store);
        // By other processes, one after the other.
        if !foreign {
            site.ok(&["snapshot", "disk-1", "snap-2"]);
            site.ok(&["remove", "snap-2"]);
        }
        site.ok(&["list"]);
        site.ok(&["remove", "ballast"]);
        site.ok(&["gc", "--grace", "0"]);
        site.ok(&["snapshot", "disk-1", "snap-3"]);
        site.ok(&["check"]);
        let store = site.open();
        let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
        check(&volume, 0, 1);
        check(&volume, 4, written);
        // In the room that the ballast left.
        let more = fill(&volume, 4 + written);
        assert!(more >= 8, "{more} MiB");
        volume.flush().unwrap();
        check(&volume, 4, written + more);
        let mut sector = [0; 4096];
        for n in 0..100 {
            volume.read_at(&mut sector, (2 * MIB) + n * 8192).unwrap();
            assert!(sector == [n as u8; 4096]);
        }
        volume.close().unwrap();
        let _ = std::fs::remove_file(stranger);
    }
}
