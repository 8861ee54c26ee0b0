//! `serve --vhost-user` with a front end that is a program of its own: the data path, what a guest asks for, servers that die under it,
//! and front ends and guests that mean harm. A real guest is in `make demo`.
#![allow(missing_docs, clippy::unwrap_used)]

mod front_end;
#[allow(dead_code)]
#[path = "../served_volume/history.rs"]
mod history;
mod hostile;
#[path = "../support/raw_client.rs"]
mod raw_client;
#[allow(dead_code)]
#[path = "../served_volume/site.rs"]
mod site;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use archipelago_core::{Mode, Store, StoreOptions};

use crate::front_end::{DATA, DISCARD, FLUSH, FrontEnd, GET_ID, WRITE, WRITE_ZEROES};
use crate::history::Random;
use crate::site::Site;

/// Bytes of a sector.
const SECTOR: usize = 512;

/// A server of one disk. Killed at the end.
struct Server(Child);

impl Server {
    fn start(site: &Site, name: &str) -> Server {
        Server::start_with(site, name, &[])
    }

    fn start_with(site: &Site, name: &str, options: &[&str]) -> Server {
        let log = std::fs::File::options().create(true).append(true).open(site.path("log")).unwrap();
        let address = format!("unix:{}={name}", site.text("vhost"));
        let mut command = site.command(&["serve", "--json", "--vhost-user", &address]);
        command.args(options);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("\"vhost_user\""), "the server did not start: {line}{}", site.log());
        Server(child)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn stop(&mut self) {
        // SAFETY: takes no pointer; the process is a child that was not waited for.
        assert_eq!(unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) }, 0);
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bytes(random: &mut Random, len: usize) -> Vec<u8> {
    let seed = random.below(1 << 32);
    (0..len)
        .map(|at| (seed.wrapping_mul(0x9e37_79b9).wrapping_add(at as u64 / 7 * 31 + at as u64) >> 3) as u8)
        .collect()
}

/// A store with a disk of 16 MiB, its server, and a machine.
fn machine(queues: usize) -> (Site, Server, FrontEnd) {
    machine_with(queues, &[])
}

/// Past the page cache, where requests are under way together. TMPDIR has to be on a disk.
const DIRECT: [&str; 1] = ["--direct"];

fn machine_with(queues: usize, options: &[&str]) -> (Site, Server, FrontEnd) {
    let site = Site::new();
    site.ok(&["create", "disk-1", "--size", "16M"]);
    if !options.is_empty() {
        // All in place, so that short writes are overwrites.
        let location = format!("file:{}", site.text("store")).parse().unwrap();
        let volume = Store::open(&location, StoreOptions::default()).unwrap().open_volume("disk-1", Mode::ReadWrite);
        volume.unwrap().write_at(&vec![0; 16 << 20], 0).unwrap();
    }
    let server = Server::start_with(&site, "disk-1", options);
    let mut machine = FrontEnd::new(queues);
    machine.connect(&site.path("vhost"));
    (site, server, machine)
}

#[test]
fn a_guest_reads_what_it_wrote_and_others_do_so_too() {
    reads_what_it_wrote(&[]);
}

#[test]
fn a_guest_reads_past_the_page_cache_what_it_wrote_and_others_do_so_too() {
    reads_what_it_wrote(&DIRECT);
}

fn reads_what_it_wrote(options: &[&str]) {
    let (site, mut server, mut guest) = machine_with(2, options);
    assert_eq!(guest.capacity(), 32768);
    let mut random = Random(7);
    let mut disk = vec![0u8; 16 << 20];
    for n in 0..400 {
        let len = [1usize, 8, 9, 64, 300, 2000][random.below(6) as usize] * SECTOR;
        let sector = random.below((disk.len() - len) as u64 / 512 + 1);
        let (queue, place) = (n % 2, sector as usize * SECTOR);
        match random.below(8) {
            0..4 => {
                let data = bytes(&mut random, len);
                assert_eq!(guest.write(queue, sector, &data), 0);
                disk[place..place + len].copy_from_slice(&data);
            }
            4..6 => assert!(guest.read(queue, sector, len) == (0, disk[place..place + len].to_vec()), "{sector} {len}"),
            6 => {
                let mut range = sector.to_le_bytes().to_vec();
                range.extend([(len / SECTOR) as u32, random.below(2) as u32].iter().flat_map(|n| n.to_le_bytes()));
                guest.memory.put(DATA, &range);
                assert_eq!(guest.carry_out(queue, WRITE_ZEROES, 0, DATA, 16), 0);
                disk[place..place + len].fill(0);
            }
            _ => assert_eq!(guest.carry_out(queue, FLUSH, 0, DATA, 0), 0),
        }
    }
    // Whole sectors of the engine that are discarded read as zeros.
    let mut range = 0u64.to_le_bytes().to_vec();
    range.extend([4096u32, 0].iter().flat_map(|n| n.to_le_bytes()));
    guest.memory.put(DATA, &range);
    assert_eq!(guest.carry_out(0, DISCARD, 0, DATA, 16), 0);
    disk[..4096 * SECTOR].fill(0);
    assert!(guest.read(1, 0, 8 << 20) == (0, disk[..8 << 20].to_vec()));
    assert_eq!(guest.carry_out(0, GET_ID, 0, DATA, 20), 0);
    assert_eq!(guest.memory.get(DATA, 20), b"disk-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(guest.carry_out(0, FLUSH, 0, DATA, 0), 0);
    server.stop();
    site.ok(&["export", "disk-1", &site.text("image")]);
    assert!(std::fs::read(site.path("image")).unwrap() == disk);
}

#[test]
fn requests_that_cannot_be_are_answered_with_errors() {
    let (_site, _server, mut guest) = machine(1);
    // Past the end, across it, no whole sector, no such request, a range past the end, a range with unknown flags, no range.
    assert_eq!(guest.write(0, 32768, &[1; 512]), 1);
    assert_eq!(guest.write(0, 32767, &[1; 1024]), 1);
    assert_eq!(guest.write(0, u64::MAX, &[1; 512]), 1);
    assert_eq!(guest.write(0, u64::MAX / 512, &[1; 512]), 1);
    assert_eq!(guest.write(0, 0, &[1; 1001]), 1);
    assert_eq!(guest.carry_out(0, 99, 0, DATA, 0), 2);
    for (sector, sectors, flags, status) in
        [(32768u64, 1u32, 0u32, 1), (0, u32::MAX, 0, 1), (u64::MAX, 8, 0, 1), (0, 8, 2, 2)]
    {
        let mut range = sector.to_le_bytes().to_vec();
        range.extend([sectors, flags].iter().flat_map(|n| n.to_le_bytes()));
        guest.memory.put(DATA, &range);
        assert_eq!(guest.carry_out(0, WRITE_ZEROES, 0, DATA, 16), status, "{sector} {sectors} {flags}");
        assert_eq!(guest.carry_out(0, DISCARD, 0, DATA, 16), status, "{sector} {sectors} {flags}");
    }
    assert_eq!(guest.carry_out(0, DISCARD, 0, DATA, 15), 1);
    assert_eq!(guest.read(0, 0, 16 * SECTOR), (0, vec![0; 16 * SECTOR]));
}

#[test]
fn a_snapshot_is_read_and_not_written() {
    let (site, mut server, mut guest) = machine(1);
    assert_eq!(guest.write(0, 8, &[7; 4096]), 0);
    site.ok(&["snapshot", "disk-1", "snap-1"]);
    server.stop();
    drop(guest);
    let _server = Server::start(&site, "snap-1");
    let mut guest = FrontEnd::new(1);
    guest.connect(&site.path("vhost"));
    assert_eq!(guest.read(0, 8, 4096), (0, vec![7; 4096]));
    assert_eq!(guest.write(0, 8, &[8; 4096]), 1);
    assert_eq!(guest.carry_out(0, DISCARD, 0, DATA, 16), 2);
    assert_eq!(guest.carry_out(0, FLUSH, 0, DATA, 0), 0);
    assert_eq!(guest.read(0, 8, 4096), (0, vec![7; 4096]));
}

#[test]
fn a_new_size_reaches_the_guest() {
    let (site, _server, guest) = machine(1);
    site.ok(&["resize", "disk-1", "32M"]);
    let mut head = [0; 12];
    std::io::Read::read_exact(&mut guest.unasked.as_ref().unwrap(), &mut head).unwrap();
    assert_eq!(u32::from_ne_bytes(head[..4].try_into().unwrap()), 2, "the configuration is another");
    assert_eq!(guest.capacity(), 65536);
}

/// What a guest wrote to places of 4 KiB: one write of a place at a time.
struct Writes {
    random: Random,
    under_way: Vec<(u16, usize, u8)>,
    /// Of each place: what it may hold, the newest last.
    places: Vec<Vec<u8>>,
}

impl Writes {
    fn new() -> Writes {
        Writes { random: Random(11), under_way: Vec::new(), places: vec![vec![0]; 1024] }
    }

    fn fill(&mut self, guest: &mut FrontEnd) {
        while guest.outstanding(0) < 20 {
            let place = self.random.below(1024) as usize;
            if self.under_way.iter().any(|(_, other, _)| *other == place) {
                continue;
            }
            let (value, at) = (self.random.below(255) as u8 + 1, DATA + place * 4096);
            guest.memory.put(at, &[value; 4096]);
            let head = guest.submit(0, WRITE, place as u64 * 8, at, 4096);
            self.under_way.push((head, place, value));
        }
    }

    fn take_one(&mut self, guest: &mut FrontEnd) {
        let (head, status) = guest.wait(0);
        let at = self.under_way.iter().position(|(other, ..)| *other == head).expect("it was asked for once");
        let (_, place, value) = self.under_way.swap_remove(at);
        assert_eq!(status, 0);
        self.places[place].push(value);
    }

    fn take_all(&mut self, guest: &mut FrontEnd) {
        while guest.outstanding(0) > 0 {
            self.take_one(guest);
        }
    }

    /// Only the newest of each place may be there from now on.
    fn settled(&mut self) {
        self.places.iter_mut().for_each(|values| drop(values.drain(..values.len() - 1)));
    }

    /// Each place holds what it may; from now on only that.
    fn compare(&mut self, guest: &mut FrontEnd) {
        for (place, values) in self.places.iter_mut().enumerate() {
            let (status, found) = guest.read(0, place as u64 * 8, 4096);
            assert!(status == 0 && found.iter().all(|byte| *byte == found[0]), "{place}");
            assert!(values.contains(&found[0]), "{place}: {} and not one of {values:?}", found[0]);
            *values = vec![found[0]];
        }
    }
}

#[test]
fn a_guest_is_notified_when_its_disk_is_back_though_nothing_was_given_back() {
    let (site, mut server, mut guest) = machine(1);
    assert_eq!(guest.write(0, 0, &[1; 512]), 0);
    guest.forget_calls(0);
    server.kill();
    let _server = Server::start(&site, "disk-1");
    guest.connect(&site.path("vhost"));
    // The server that died may have owed it that.
    assert!(guest.is_called(0));
}

#[test]
fn a_guest_goes_on_when_its_server_was_killed_and_started_again() {
    goes_on_after_kills(&[]);
}

#[test]
fn a_guest_goes_on_when_its_server_was_killed_with_requests_under_way_past_the_page_cache() {
    goes_on_after_kills(&DIRECT);
}

fn goes_on_after_kills(options: &[&str]) {
    let (site, mut server, mut guest) = machine_with(1, options);
    let mut writes = Writes::new();
    for _ in 0..6 {
        for n in 0..300 {
            writes.fill(&mut guest);
            writes.take_one(&mut guest);
            if n == 150 {
                writes.take_all(&mut guest);
                assert_eq!(guest.carry_out(0, FLUSH, 0, DATA, 0), 0);
                writes.settled();
            }
        }
        // With requests under way.
        server.kill();
        server = Server::start_with(&site, "disk-1", options);
        guest.connect(&site.path("vhost"));
        writes.take_all(&mut guest);
        // All that was answered is there, flushed or not.
        writes.settled();
        writes.compare(&mut guest);
    }
}

#[test]
fn a_guest_does_not_notice_that_its_server_was_stopped_and_started_again() {
    let (site, mut server, mut guest) = machine(1);
    let mut writes = Writes::new();
    for _ in 0..6 {
        for _ in 0..200 {
            writes.fill(&mut guest);
            writes.take_one(&mut guest);
        }
        server.stop();
        writes.fill(&mut guest);
        server = Server::start(&site, "disk-1");
        guest.connect(&site.path("vhost"));
        writes.take_all(&mut guest);
        writes.settled();
        writes.compare(&mut guest);
    }
}

#[test]
fn requests_over_a_limit_wait_and_neither_flushes_nor_a_server_that_stops_do() {
    let (site, mut server, mut guest) = machine(2);
    // The second write would have to wait for an hour.
    site.ok(&["limit", "disk-1", "--bps", "1"]);
    assert_eq!(guest.write(0, 0, &[1; 4096]), 0);
    guest.submit(1, WRITE, 8, DATA, 4096);
    site::wait_for("a request that waits", || {
        site.ok(&["top", "--once", "--interval", "1", "--json"]).contains("\"waiting\":1")
    });
    assert_eq!(guest.carry_out(0, FLUSH, 0, DATA, 0), 0);
    assert_eq!(guest.poll(1), None);
    server.stop();
    assert_eq!(guest.wait(1).1, 0, "it was carried out");
}
