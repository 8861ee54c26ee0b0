//! Clients that leave in the middle of things, and a server that is asked to stop in the middle of things.

use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Duration;

use archipelago_service::nbd::wire::{command, command_flag, option};

use crate::fio::start_fio;
use crate::history::{Random, SECTOR, versions};
use crate::load::{Progress, SIZE, load};
use crate::raw_client::{go, opt, request};
use crate::site::{MIB, Site, wait_for};

#[test]
fn a_client_that_leaves_in_the_middle_of_writes_leaves_no_volume_open() {
    let site = Site::new();
    site.ok(&["create", "volume", "--size", "64M"]);
    let mut server = site.serve();
    // Writes received whole or in pieces, durable ones, discards and flushes; the payloads of both sizes are handled apart.
    let mut script = 3u32.to_be_bytes().to_vec();
    script.extend(opt(option::GO, &go("volume", &[])));
    let negotiated = script.len();
    let mut requests = vec![0];
    for (i, (flags, len)) in
        [(0, 5000), (command_flag::FUA, 512), (0, 200_000), (command_flag::FUA, 70_001)].iter().enumerate()
    {
        script.extend(request(command::WRITE, *flags, 1, MIB * i as u64 + 77, *len));
        script.extend(vec![0x11 * (i as u8 + 1); *len as usize]);
        requests.push(script.len());
        script.extend(request(command::TRIM, 0, 2, 0, 1 << 16));
        script.extend(request(command::FLUSH, 0, 3, 0, 0));
    }
    // Every byte of the negotiation and of the first requests, the neighbourhood of each later one, and steps between.
    let near = |cut: &usize| requests.iter().any(|r| cut.abs_diff(*r) < 6);
    let cuts = (0..=script.len()).filter(|cut| *cut < negotiated + 40 || near(cut) || cut % 2053 == 0);
    let mut count = 0;
    for cut in cuts {
        let mut stream = std::os::unix::net::UnixStream::connect(site.path("nbd")).unwrap();
        // The server may close first: what is sent is not always understood.
        let _ = std::io::Write::write_all(&mut stream, &script[..cut]);
        drop(stream);
        count += 1;
        // The command costs more than a connection, so not every time.
        if count % 8 == 0 {
            site.wait_until_nothing_is_open();
        }
    }
    assert!(count > 200, "{count} places");
    site.wait_until_nothing_is_open();
    // Not held by the server in any other way either.
    site.ok(&["snapshot", "volume", "snapshot"]);
    let mut client = site.connect("volume").unwrap();
    client.write(0, b"alive");
    client.flush();
    assert_eq!(client.read(0, 5), b"alive");
    assert_eq!(site.open_volumes(), ["volume"]);
    drop(client);
    site.wait_until_nothing_is_open();
    site.ok(&["remove", "volume", "snapshot"]);
    assert_eq!(server.stop(), 0, "{}", site.log());
}

#[test]
fn a_server_that_is_asked_to_stop_under_load_stops_well_and_keeps_what_was_flushed() {
    let site = Site::new();
    for volume in ["loaded", "exercised"] {
        site.ok(&["create", volume, "--size", &SIZE.to_string()]);
    }
    let numbers = AtomicU32::new(0);
    let mut holds = vec![0; (SIZE / SECTOR) as usize];
    for seed in 0..3 {
        let mut server = site.serve();
        let endless = ["--rw=randwrite", "--size=16M", "--do_verify=0", "--time_based", "--runtime=60"];
        let mut fio = start_fio(&site, "exercised", &endless);
        let done = thread::scope(|scope| {
            let load = scope.spawn(|| load(&site, "loaded", seed, &numbers, &Progress::default()));
            wait_for("both volumes to be open", || site.open_volumes().len() == 2);
            thread::sleep(Duration::from_millis(300));
            assert_eq!(server.stop(), 0, "{}", site.log());
            load.join().expect("the load ends well")
        });
        assert!(!fio.wait().unwrap().success(), "fio was cut short");
        assert!(done.flushes > 0, "{} changes and no flush", done.changes.len());
        assert!(site.open_volumes().is_empty());
        assert!(!site.path("nbd").exists(), "the socket is gone");

        let mut server = site.serve();
        let mut client = site.connect("loaded").unwrap();
        let found = versions(&client.read_all(SIZE)).unwrap();
        done.check(&found, &holds, true).unwrap();
        holds = found;
        drop(client);
        assert_eq!(server.stop(), 0, "{}", site.log());
    }
}

#[test]
fn what_was_answered_is_there_when_a_server_was_killed_and_started_again() {
    let site = Site::new();
    site.ok(&["create", "volume", "--size", &SIZE.to_string()]);
    let (mut random, mut expected) = (Random(5), vec![0; SIZE as usize]);
    for round in 0..4u64 {
        let mut server = site.serve();
        let mut client = site.connect("volume").unwrap();
        for n in 0..300 {
            // Places scattered over few blocks, so that they are composed, and some that go into the data object at once.
            let len = if n % 20 == 0 { 100_000 } else { 4096 };
            let offset = random.below((SIZE - len) / 4096) * 4096;
            let data: Vec<u8> = (0..len).map(|i| (round * 60 + n + i) as u8 | 1).collect();
            client.write(offset, &data);
            expected[offset as usize..(offset + len) as usize].copy_from_slice(&data);
        }
        server.kill();
        drop(client);
        if round % 2 == 0 {
            site.ok(&["gc", "--grace", "0"]);
        }
        let mut server = site.serve();
        let mut client = site.connect("volume").unwrap();
        assert!(client.read_all(SIZE) == expected, "round {round}");
        // Mostly without a flush: what was read is killed once more.
        if round == 1 {
            client.flush();
        }
        server.kill();
    }
    site.ok(&["export", "volume", &site.text("image")]);
    assert!(std::fs::read(site.path("image")).unwrap() == expected);
}
