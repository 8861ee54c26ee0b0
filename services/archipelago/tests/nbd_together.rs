//! Requests of an NBD connection that are under way together: over a disk in memory that ends them in another order than they came, so that what
//! is seen here does not depend on a machine. Over a store past the page cache: `served_volume/fio.rs`.
// Helpers outside of test functions may stop the test, too.
#![allow(missing_docs, clippy::unwrap_used, unsafe_code)]

#[path = "support/memory_disk.rs"]
mod memory_disk;
#[path = "support/raw_client.rs"]
mod raw_client;

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use archipelago_core::Begun;
use archipelago_service::disk::device::Batch;
use archipelago_service::nbd::wire::{chunk, command, command_flag, option, reply};
use archipelago_service::nbd::{
    DEFAULT_SOCKET_MODE, Device, DeviceResult, Endpoint, ExportError, Exports, Extent, Server, ServerOptions,
};
use memory_disk::MemoryDisk;
use raw_client::{Client, go, request};

const SIZE: u64 = 8 << 20;
const PAGE: usize = 4096;

/// What was done with requests.
#[derive(Default)]
struct Seen {
    /// Most that were under way at once.
    most: AtomicUsize,
    under_way: AtomicUsize,
}

/// Every other call of it ends nothing that is under way, so that it would show if one were made.
struct LastFirst {
    disk: Arc<MemoryDisk>,
    seen: Arc<Seen>,
}

/// Whole pages are under way until they are waited for, the last ends first. Others are left to calls.
struct Reversed {
    disk: Arc<MemoryDisk>,
    seen: Arc<Seen>,
    asked: Vec<(usize, bool, *mut u8, usize, u64)>,
    room: usize,
}

impl Reversed {
    fn take(&mut self, number: usize, write: bool, buf: *mut u8, len: usize, offset: u64) -> Begun {
        assert!(number < self.room && self.asked.iter().all(|asked| asked.0 != number));
        if !offset.is_multiple_of(PAGE as u64) || !len.is_multiple_of(PAGE) {
            return Begun::ByCall;
        }
        // Pages of zeros are read at once.
        if !write && self.disk.extents(offset, len as u64, 1).is_ok_and(|e| e[0].zero && e[0].len == len as u64) {
            // SAFETY: the caller's buffer, for the length of this call.
            unsafe { std::slice::from_raw_parts_mut(buf, len) }.fill(0);
            return Begun::Done;
        }
        self.asked.push((number, write, buf, len, offset));
        self.seen.under_way.store(self.asked.len(), Ordering::SeqCst);
        self.seen.most.fetch_max(self.asked.len(), Ordering::SeqCst);
        Begun::UnderWay
    }
}

impl Batch for Reversed {
    unsafe fn read(&mut self, number: usize, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Begun {
        assert_eq!(bufs.len(), 1);
        self.take(number, false, bufs[0].as_mut_ptr(), bufs[0].len(), offset)
    }
    unsafe fn write(&mut self, number: usize, bufs: &[IoSlice<'_>], offset: u64) -> Begun {
        assert_eq!(bufs.len(), 1);
        self.take(number, true, bufs[0].as_ptr().cast_mut(), bufs[0].len(), offset)
    }
    fn wait(&mut self, least: usize, each: &mut dyn FnMut(usize, DeviceResult<()>)) {
        for _ in 0..least {
            let Some((number, write, buf, len, offset)) = self.asked.pop() else { break };
            self.seen.under_way.store(self.asked.len(), Ordering::SeqCst);
            // SAFETY: the buffers stay until their end is told, which is below.
            let result = unsafe {
                match write {
                    true => self.disk.write(&[IoSlice::new(std::slice::from_raw_parts(buf, len))], offset, false),
                    false => self.disk.read(&mut [IoSliceMut::new(std::slice::from_raw_parts_mut(buf, len))], offset),
                }
            };
            each(number, result);
        }
    }
    fn count(&self) -> usize {
        self.asked.len()
    }
}

impl LastFirst {
    fn alone(&self) {
        assert_eq!(self.seen.under_way.load(Ordering::SeqCst), 0, "a call while requests are under way");
    }
}

impl Device for LastFirst {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn block_size(&self) -> u32 {
        4096
    }
    fn read_only(&self) -> bool {
        false
    }
    fn description(&self) -> String {
        String::new()
    }
    fn together(&self, requests: usize) -> Option<Box<dyn Batch>> {
        let (disk, seen) = (self.disk.clone(), self.seen.clone());
        Some(Box::new(Reversed { disk, seen, asked: Vec::new(), room: requests }))
    }
    fn read(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> DeviceResult<()> {
        self.alone();
        self.disk.read(bufs, offset)
    }
    fn write(&self, bufs: &[IoSlice<'_>], offset: u64, fua: bool) -> DeviceResult<()> {
        self.alone();
        self.disk.write(bufs, offset, fua)
    }
    fn flush(&self) -> DeviceResult<()> {
        self.alone();
        self.disk.flush()
    }
    fn discard(&self, offset: u64, len: u64) -> DeviceResult<()> {
        self.alone();
        self.disk.discard(offset, len)
    }
    fn write_zeroes(&self, offset: u64, len: u64, allocate: bool, fua: bool) -> DeviceResult<()> {
        self.alone();
        self.disk.write_zeroes(offset, len, allocate, fua)
    }
    fn extents(&self, offset: u64, len: u64, max: usize) -> DeviceResult<Vec<Extent>> {
        self.disk.extents(offset, len, max)
    }
}

struct One(Arc<LastFirst>);

impl Exports for One {
    fn open(&self, _: &str) -> Result<Arc<dyn Device>, ExportError> {
        Ok(self.0.clone())
    }
    fn list(&self) -> Vec<String> {
        vec!["disk".to_string()]
    }
    fn default_export(&self) -> Option<String> {
        None
    }
}

struct Fixture {
    _dir: tempfile::TempDir,
    _server: Server,
    client: Client,
    disk: Arc<MemoryDisk>,
    seen: Arc<Seen>,
}

fn attached(disk: MemoryDisk, structured: bool) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd.sock");
    let (disk, seen) = (Arc::new(disk), Arc::new(Seen::default()));
    let exports = Arc::new(One(Arc::new(LastFirst { disk: disk.clone(), seen: seen.clone() })));
    let endpoint = Endpoint::Unix { path: path.clone(), mode: DEFAULT_SOCKET_MODE };
    let server = Server::start(exports, &[endpoint], ServerOptions::default()).unwrap();
    let mut client = Client(UnixStream::connect(&path).unwrap());
    client.0.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.greet(3);
    if structured {
        assert_eq!(client.ask(option::STRUCTURED_REPLY, &[]).last().unwrap().0, reply::ACK);
    }
    assert_eq!(client.ask(option::GO, &go("disk", &[])).last().unwrap().0, reply::ACK);
    Fixture { _dir: dir, _server: server, client, disk, seen }
}

fn page(seed: u64) -> Vec<u8> {
    (0..PAGE as u64).map(|at| (seed.wrapping_mul(0x9e37_79b9).wrapping_add(at * 31) >> 5) as u8 | 1).collect()
}

fn write(cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    [request(command::WRITE, 0, cookie, offset, data.len() as u32), data.to_vec()].concat()
}

/// Replies by cookie: the error, and what was read. `reads` are the lengths of reads.
fn replies(client: &mut Client, count: usize, reads: &BTreeMap<u64, usize>) -> BTreeMap<u64, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for _ in 0..count {
        let (error, cookie) = client.simple();
        let data = if error == 0 { client.take_vec(reads.get(&cookie).copied().unwrap_or(0)) } else { vec![] };
        assert!(found.insert(cookie, (error, data)).is_none(), "{cookie} was answered twice");
    }
    found
}

#[test]
fn what_came_in_one_receive_is_under_way_together_and_each_is_answered_with_its_own_data() {
    let mut f = attached(MemoryDisk::new(SIZE, false), false);
    let sent: Vec<u8> = (0..40).flat_map(|n| write(n, n * 4096, &page(n))).collect();
    f.client.send(&sent);
    let answered = replies(&mut f.client, 40, &BTreeMap::new());
    assert!(answered.values().all(|(error, _)| *error == 0));
    // More than fit together.
    let reads: BTreeMap<u64, usize> = (0..200).map(|n| (1000 + n, PAGE)).collect();
    let sent: Vec<u8> =
        (0..200).flat_map(|n| request(command::READ, 0, 1000 + n, n % 50 * 4096, PAGE as u32)).collect();
    f.client.send(&sent);
    for (cookie, (error, data)) in replies(&mut f.client, 200, &reads) {
        let place = (cookie - 1000) % 50;
        let expected = if place < 40 { page(place) } else { vec![0; PAGE] };
        assert!(error == 0 && data == expected, "{cookie}");
    }
    assert!(f.seen.most.load(Ordering::SeqCst) > 8, "{:?}", f.seen.most);
}

#[test]
fn calls_between_find_nothing_under_way_and_errors_go_to_whom_they_concern() {
    let mut disk = MemoryDisk::new(SIZE, false);
    disk.broken_at = 5 * 4096 + 7;
    let mut f = attached(disk, false);
    let mut sent = Vec::new();
    let mut reads = BTreeMap::new();
    for n in 0..10 {
        sent.extend(write(n, n * 4096, &page(n)));
    }
    // One that is no whole page, one that is durable, a flush, a range of zeros, one that is past the end, one that is too long.
    sent.extend(write(100, 100_001, b"unaligned"));
    sent.extend(request(command::WRITE, command_flag::FUA, 101, 20 * 4096, PAGE as u32));
    sent.extend(page(101));
    sent.extend(request(command::FLUSH, 0, 102, 0, 0));
    for n in 0..10 {
        sent.extend(request(command::READ, 0, 200 + n, n * 4096, PAGE as u32));
        reads.insert(200 + n, PAGE);
    }
    sent.extend(request(command::WRITE_ZEROES, 0, 103, 20 * 4096, 4096));
    sent.extend(request(command::READ, 0, 104, SIZE, 4096));
    sent.extend(request(command::READ, 0, 105, 100_001, 9));
    reads.insert(105, 9);
    f.client.send(&sent);
    let answered = replies(&mut f.client, 10 + 3 + 10 + 3, &reads);
    for n in 0..10 {
        let broken = n == 5;
        assert_eq!(answered[&n].0, if broken { 5 } else { 0 }, "write {n}");
        assert_eq!(answered[&(200 + n)].0, if broken { 5 } else { 0 }, "read {n}");
        assert!(broken || answered[&(200 + n)].1 == page(n), "read {n}");
    }
    assert_eq!([100, 101, 102, 103, 105].map(|cookie| answered[&cookie].0), [0; 5]);
    assert_eq!(answered[&104].0, 22);
    assert_eq!(answered[&105].1, b"unaligned");
    assert_eq!(f.disk.syncs.load(Ordering::SeqCst), 2);
}

#[test]
fn structured_replies_of_requests_under_way_are_whole() {
    let mut disk = MemoryDisk::new(SIZE, false);
    disk.broken_at = 9 * 4096;
    let mut f = attached(disk, true);
    for n in 0..9 {
        f.disk.write(&[IoSlice::new(&page(n))], n * 4096, false).unwrap();
    }
    let sent: Vec<u8> = (0..10).flat_map(|n| request(command::READ, 0, n, n * 4096, PAGE as u32)).collect();
    f.client.send(&sent);
    let mut cookies = Vec::new();
    for _ in 0..10 {
        let (flags, kind, cookie, content) = f.client.chunk();
        assert_eq!(flags, chunk::DONE);
        if cookie == 9 {
            assert_eq!((kind, &content[..4]), (chunk::ERROR, &5u32.to_be_bytes()[..]));
        } else {
            assert_eq!(kind, chunk::OFFSET_DATA);
            assert!(content[..8] == (cookie * 4096).to_be_bytes() && content[8..] == page(cookie), "{cookie}");
        }
        cookies.push(cookie);
    }
    cookies.sort_unstable();
    assert_eq!(cookies, (0..10).collect::<Vec<u64>>());
}

#[test]
fn a_client_that_leaves_waits_for_what_it_had_under_way() {
    let f = attached(MemoryDisk::new(SIZE, false), false);
    let mut client = f.client;
    let mut sent: Vec<u8> = (0..30).flat_map(|n| write(n, n * 4096, &page(n))).collect();
    sent.extend(request(command::DISC, 0, 99, 0, 0));
    client.send(&sent);
    let answered = replies(&mut client, 30, &BTreeMap::new());
    assert!(answered.values().all(|(error, _)| *error == 0));
    assert!(client.is_closed());
    for n in 0..30 {
        let mut found = vec![0; PAGE];
        f.disk.read(&mut [IoSliceMut::new(&mut found)], n * 4096).unwrap();
        assert!(found == page(n), "{n}");
    }
}
