//! NBD: the negotiation, the whole of a connection, and requests whose effects are followed on a plain copy of the disk.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use archipelago_service::fuzzing::nbd_session;
use archipelago_service::nbd::wire::{self, Form, command, command_flag as flag, option, reply};
use archipelago_service::nbd::{Device, DeviceResult, ExportError, Exports, Extent};
use parking_lot::Mutex;

use super::{mode, with_mode};
use crate::Target;

/// Unit in which the disk knows zeros.
const PAGE: u64 = 4096;
/// Size of the disk: more than one piece of a long read, and no multiple of anything.
const SIZE: u64 = (1 << 20) + PAGE + 17;

/// A disk in memory.
pub(super) struct Disk {
    bytes: Mutex<Vec<u8>>,
    read_only: bool,
}

impl Disk {
    pub(super) fn new(read_only: bool) -> Disk {
        Disk { bytes: Mutex::new(vec![0; SIZE as usize]), read_only }
    }

    fn range(&self, offset: u64, len: usize) -> DeviceResult<std::ops::Range<usize>> {
        // The endpoint checks ranges before it calls.
        assert!(offset + len as u64 <= SIZE, "{len} bytes at {offset} were not checked");
        Ok(offset as usize..offset as usize + len)
    }

    fn zero(&self, offset: u64, len: u64) -> DeviceResult<()> {
        assert!(!self.read_only, "a change of a read-only disk was not refused");
        self.bytes.lock()[self.range(offset, len as usize)?].fill(0);
        Ok(())
    }
}

impl Device for Disk {
    fn size(&self) -> u64 {
        SIZE
    }
    fn block_size(&self) -> u32 {
        4096
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn description(&self) -> String {
        "a disk".into()
    }
    fn read(&self, bufs: &mut [IoSliceMut<'_>], mut offset: u64) -> DeviceResult<()> {
        for buf in bufs {
            let range = self.range(offset, buf.len())?;
            buf.copy_from_slice(&self.bytes.lock()[range]);
            offset += buf.len() as u64;
        }
        Ok(())
    }
    fn write(&self, bufs: &[IoSlice<'_>], mut offset: u64, _: bool) -> DeviceResult<()> {
        assert!(!self.read_only, "a write to a read-only disk was not refused");
        for buf in bufs {
            self.bytes.lock()[self.range(offset, buf.len())?].copy_from_slice(buf);
            offset += buf.len() as u64;
        }
        Ok(())
    }
    fn flush(&self) -> DeviceResult<()> {
        Ok(())
    }
    fn discard(&self, offset: u64, len: u64) -> DeviceResult<()> {
        self.zero(offset, len)
    }
    fn write_zeroes(&self, offset: u64, len: u64, _: bool, _: bool) -> DeviceResult<()> {
        self.zero(offset, len)
    }
    fn extents(&self, offset: u64, len: u64, max: usize) -> DeviceResult<Vec<Extent>> {
        let bytes = self.bytes.lock();
        self.range(offset, len as usize)?;
        let (mut at, mut extents) = (offset, Vec::<Extent>::new());
        while at < offset + len {
            let end = ((at / PAGE + 1) * PAGE).min(offset + len);
            let zero = bytes[at as usize..end as usize].iter().all(|b| *b == 0);
            let full = extents.len() == max;
            match extents.last_mut() {
                Some(last) if last.zero == zero => last.len += end - at,
                _ if full => break,
                _ => extents.push(Extent { offset: at, len: end - at, zero }),
            }
            at = end;
        }
        Ok(extents)
    }
}

/// A writable disk, the default, and one that is not.
struct Disks([Arc<Disk>; 2]);

impl Disks {
    fn new() -> Disks {
        Disks([false, true].map(|read_only| Arc::new(Disk::new(read_only))))
    }
}

impl Exports for Disks {
    fn open(&self, name: &str) -> Result<Arc<dyn Device>, ExportError> {
        match name {
            "disk" => Ok(self.0[0].clone()),
            "fixed" => Ok(self.0[1].clone()),
            "busy" => Err(ExportError::Refused("open elsewhere".into())),
            _ => Err(ExportError::Unknown(format!("{name:?}: no such export"))),
        }
    }
    fn list(&self) -> Vec<String> {
        ["disk", "fixed", "busy"].map(str::to_string).to_vec()
    }
    fn default_export(&self) -> Option<String> {
        Some("disk".into())
    }
}

/// Longest that a server may be silent: it has nothing to wait for.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// One connection in this thread: `sent` goes to the server, which answers what is returned.
fn connection(sent: &[u8], exports: &Disks) -> Vec<u8> {
    let (client, server) = UnixStream::pair().expect("two sockets");
    client.set_read_timeout(Some(SILENCE)).expect("a timeout");
    std::thread::scope(|scope| {
        let client = &client;
        scope.spawn(move || {
            // The server may have hung up.
            let _ = { client }.write_all(sent);
            let _ = client.shutdown(Shutdown::Write);
        });
        let answers = scope.spawn(move || {
            let mut answers = Vec::new();
            match { client }.read_to_end(&mut answers) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the server hangs"),
                _ => answers,
            }
        });
        nbd_session(server, exports);
        answers.join().expect("the client")
    })
}

fn option_bytes(code: u32, data: &[u8]) -> Vec<u8> {
    [&wire::OPTION_MAGIC.to_be_bytes()[..], &code.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
}

/// Data of INFO and GO.
fn info_bytes(name: &str, kinds: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((kinds.len() as u16).to_be_bytes());
    data.extend(kinds.iter().flat_map(|kind| kind.to_be_bytes()));
    data
}

/// Data of the options about meta contexts.
fn context_bytes(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}

/// Options in a row: client flags, then for each option its code, the length of its data, and the data. Ends with LIST, which
/// must be answered unless the negotiation is over.
pub const NEGOTIATION: Target = Target {
    name: "nbd_negotiation",
    check: negotiation,
    seeds: negotiation_seeds,
    max_len: 4096,
    memory: 8 << 20,
    cost: 1,
};

fn negotiation(input: &[u8]) {
    let Some((flags, mut rest)) = input.split_first() else { return };
    let mut sent = u32::from(*flags).to_be_bytes().to_vec();
    let mut codes = Vec::new();
    while let [code, low, high, after @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        sent.extend(option_bytes((*code).into(), &after[..len]));
        codes.push(u32::from(*code));
        rest = &after[len..];
    }
    let answers = connection(&sent, &Disks::new());
    let (greeting, mut rest) = answers.split_at(18);
    assert_eq!(greeting, b"NBDMAGICIHAVEOPT\0\x03");
    // Every answer names the option that it is for, in the order of the options.
    let mut waiting = &codes[..];
    while rest.len() >= 20 && rest[..8] == wire::OPTION_REPLY_MAGIC.to_be_bytes() {
        let word = |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().expect("4 bytes"));
        let (code, kind, len) = (word(8), word(12), word(16) as usize);
        while waiting.first().is_some_and(|c| *c != code) {
            waiting = &waiting[1..];
        }
        assert!(!waiting.is_empty(), "an answer to {code}, which was not asked: {codes:?}");
        assert!(len <= 4096 + 16, "an answer of {len} bytes");
        if kind & 1 << 31 != 0 || kind == reply::ACK {
            waiting = &waiting[1..];
        }
        rest = &rest[20 + len..];
    }
    // What may be left is the answer to EXPORT_NAME.
    if !rest.is_empty() {
        assert!(codes.contains(&option::EXPORT_NAME) && (rest.len() == 10 || rest.len() == 134), "{rest:x?}");
        assert_eq!(rest[..8], SIZE.to_be_bytes());
    }
}

fn negotiation_seeds() -> Vec<Vec<u8>> {
    let seed = |flags: u8, options: &[(u32, Vec<u8>)]| {
        let mut bytes = vec![flags];
        for (code, data) in options {
            bytes.push(*code as u8);
            bytes.extend((data.len() as u16).to_le_bytes());
            bytes.extend(data);
        }
        bytes
    };
    let structured = (option::STRUCTURED_REPLY, vec![]);
    let extended = (option::EXTENDED_HEADERS, vec![]);
    let set = |name| (option::SET_META_CONTEXT, context_bytes(name, &[wire::BASE_ALLOCATION]));
    vec![
        seed(3, &[(option::LIST, vec![]), (option::ABORT, vec![])]),
        seed(3, &[(option::INFO, info_bytes("disk", &[1, 2, 3])), (option::GO, info_bytes("", &[3]))]),
        seed(3, &[structured.clone(), set("disk"), (option::GO, info_bytes("disk", &[]))]),
        seed(3, &[extended.clone(), set("disk"), (option::GO, info_bytes("disk", &[]))]),
        seed(3, &[structured.clone(), extended.clone(), structured.clone(), extended, (option::STARTTLS, vec![])]),
        seed(3, &[structured, set("fixed"), (option::LIST_META_CONTEXT, context_bytes("", &["base:", "x:"]))]),
        seed(3, &[(option::GO, info_bytes("busy", &[])), (option::GO, info_bytes("none", &[])), (99, vec![1])]),
        seed(1, &[(option::EXPORT_NAME, b"disk".to_vec())]),
        seed(2, &[(option::EXPORT_NAME, b"fixed".to_vec())]),
        seed(0, &[(option::LIST, vec![])]),
        seed(7, &[]),
    ]
}

/// Any bytes from the first of the client's on. Mode bit 0 and 1: after how much of a sound negotiation they begin; bit 3: with extended
/// headers.
pub const SESSION: Target =
    Target { name: "nbd_session", check: session, seeds: session_seeds, max_len: 8192, memory: 8 << 20, cost: 1 };

/// A sound negotiation.
fn negotiated(form: Form, name: &str) -> Vec<u8> {
    let mut sent = 3u32.to_be_bytes().to_vec();
    if form >= Form::Structured {
        let code = if form == Form::Extended { option::EXTENDED_HEADERS } else { option::STRUCTURED_REPLY };
        sent.extend(option_bytes(code, &[]));
        sent.extend(option_bytes(option::SET_META_CONTEXT, &context_bytes(name, &[wire::BASE_ALLOCATION])));
    }
    sent.extend(option_bytes(option::GO, &info_bytes(name, &[])));
    sent
}

fn session(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let mut sent = match mode & 3 {
        0 => Vec::new(),
        1 => 3u32.to_be_bytes().to_vec(),
        2 => negotiated(Form::Simple, "disk"),
        _ => {
            let form = if mode & 8 != 0 { Form::Extended } else { Form::Structured };
            negotiated(form, if mode & 4 != 0 { "fixed" } else { "disk" })
        }
    };
    sent.extend(bytes);
    let answers = connection(&sent, &Disks::new());
    assert!(answers.starts_with(b"NBDMAGICIHAVEOPT\0\x03"));
}

fn session_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![
        with_mode(0, &negotiated(Form::Structured, "disk")),
        with_mode(0, &negotiated(Form::Extended, "disk")),
        with_mode(1, &negotiated(Form::Simple, "fixed")[4..]),
        with_mode(0, &[0, 0, 0, 3]),
    ];
    for (form, modes) in [(Form::Structured, &[2, 3, 7][..]), (Form::Extended, &[11, 15])] {
        let request = |flags, command, offset, len| request_bytes(form, flags, command, 7, offset, len);
        let mut requests = request(0, command::WRITE, 4000, 700);
        requests.extend([0x5a; 700]);
        requests.extend(request(0, command::READ, 0, 5000));
        requests.extend(request(0, command::BLOCK_STATUS, 0, SIZE));
        if form == Form::Extended {
            requests.extend(request(flag::PAYLOAD_LEN, command::BLOCK_STATUS, 0, 12));
            requests.extend(SIZE.to_be_bytes());
            requests.extend(wire::BASE_ALLOCATION_ID.to_be_bytes());
        }
        requests.extend(request(0, command::DISC, 0, 0));
        seeds.extend(modes.iter().map(|mode| with_mode(*mode, &requests)));
    }
    seeds
}

fn request_bytes(form: Form, flags: u16, command: u16, cookie: u64, offset: u64, len: u64) -> Vec<u8> {
    let magic = if form == Form::Extended { wire::EXTENDED_REQUEST_MAGIC } else { wire::REQUEST_MAGIC };
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    match form {
        Form::Extended => bytes.extend(len.to_be_bytes()),
        // What does not fit was not made up.
        Form::Simple | Form::Structured => bytes.extend((len as u32).to_be_bytes()),
    }
    bytes
}

/// Requests in sound form, with everything in them made up, checked against a plain array. Mode bit 0: structured replies; bit 1:
/// extended headers.
pub const REQUESTS: Target =
    Target { name: "nbd_requests", check: requests, seeds: requests_seeds, max_len: 160, memory: 96 << 20, cost: 4 };

/// Requests of one input: each may be answered by a megabyte.
const MAX_REQUESTS: usize = 16;

#[derive(Clone, Copy)]
struct Asked {
    flags: u16,
    command: u16,
    cookie: u64,
    offset: u64,
    len: u64,
    fill: u8,
}

impl Asked {
    fn make_up(u: &mut Unstructured<'_>, form: Form, n: usize) -> arbitrary::Result<Asked> {
        let (what, edge, fill) = (u8::arbitrary(u)?, u8::arbitrary(u)?, u8::arbitrary(u)?);
        let (offset, len) = (u32::arbitrary(u)?, u16::arbitrary(u)?);
        let flags = if what & 0x10 != 0 { 1 << (what >> 5 & 7) } else { 0 };
        // Mostly inside the disk; now and then at its end, or far behind it.
        let offset = match edge & 7 {
            0 => u64::from(offset) << (edge >> 3),
            1 => SIZE.saturating_sub(u64::from(len)),
            2 => u64::MAX - u64::from(offset),
            _ => u64::from(offset) % SIZE,
        };
        let len = match edge >> 3 & 7 {
            // Beyond 32 bits with extended headers.
            0 if form == Form::Extended => u64::from(len) << (edge >> 6 << 4),
            0 => u64::from(len) << (edge >> 6 << 3),
            1..=3 => (u64::from(len) << 5).min(SIZE.saturating_sub(offset)),
            _ => u64::from(len),
        };
        Ok(Asked { flags, command: u16::from(what & 15), cookie: n as u64 * 0x0101_0101, offset, len, fill })
    }

    /// Whether nothing forbids it, for a disk that may be written.
    fn is_plain(&self) -> bool {
        let inside = self.len > 0 && self.offset.checked_add(self.len).is_some_and(|end| end <= SIZE);
        self.flags & !flag::FUA == 0
            && match self.command {
                command::READ | command::WRITE | command::TRIM | command::WRITE_ZEROES | command::CACHE => inside,
                command::FLUSH => self.offset == 0 && self.len == 0,
                _ => false,
            }
    }
}

fn requests(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let form = match mode & 3 {
        0 => Form::Simple,
        1 => Form::Structured,
        _ => Form::Extended,
    };
    let mut u = Unstructured::new(bytes);
    let mut asked = Vec::new();
    let mut sent = negotiated(form, "disk");
    while !u.is_empty() && asked.len() < MAX_REQUESTS {
        let Ok(mut request) = Asked::make_up(&mut u, form, asked.len()) else { break };
        if request.command == command::DISC {
            break;
        }
        let payload =
            request.command == command::WRITE || form == Form::Extended && request.flags & flag::PAYLOAD_LEN != 0;
        if payload {
            request.len = request.len.min(256 << 10);
        }
        let Asked { flags, command, cookie, offset, len, fill } = request;
        sent.extend(request_bytes(form, flags, command, cookie, offset, len));
        if payload {
            sent.resize(sent.len() + len as usize, fill);
        }
        asked.push(request);
    }
    let disks = Disks::new();
    let answers = connection(&sent, &disks);
    let mut replies = Replies { bytes: &answers, form };
    replies.pass_negotiation();
    let mut disk = vec![0; SIZE as usize];
    for request in &asked {
        let (error, read) = replies.next(request);
        assert!(error == 0 || !request.is_plain(), "a sound request failed with {error}");
        if error != 0 {
            continue;
        }
        let range = request.offset as usize..request.offset as usize + request.len as usize;
        match request.command {
            command::READ => assert!(read == disk[range], "what was read is not what was written"),
            command::WRITE => disk[range].fill(request.fill),
            command::TRIM | command::WRITE_ZEROES => disk[range].fill(0),
            _ => {}
        }
    }
    assert!(replies.bytes.is_empty(), "{} bytes that nobody asked for", replies.bytes.len());
    assert!(*disks.0[0].bytes.lock() == disk);
}

/// Takes replies apart as a client does.
struct Replies<'a> {
    bytes: &'a [u8],
    form: Form,
}

impl<'a> Replies<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at_checked(len).expect("the rest of a reply");
        self.bytes = rest;
        taken
    }
    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("2 bytes"))
    }
    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("4 bytes"))
    }
    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take(8).try_into().expect("8 bytes"))
    }

    fn pass_negotiation(&mut self) {
        self.take(18);
        loop {
            assert_eq!(self.u64(), wire::OPTION_REPLY_MAGIC);
            let (code, kind, len) = (self.u32(), self.u32(), self.u32());
            self.take(len as usize);
            if (code, kind) == (option::GO, reply::ACK) {
                return;
            }
        }
    }

    /// The reply to a request: its error, and what was read.
    fn next(&mut self, request: &Asked) -> (u32, Vec<u8>) {
        let reads = request.command == command::READ;
        let structured = self.form >= Form::Structured;
        if self.form < Form::Extended && !(structured && (reads || request.command == command::BLOCK_STATUS)) {
            // Errors may have the one form or the other once structured replies are agreed on.
            if !structured || self.bytes.starts_with(&wire::SIMPLE_REPLY_MAGIC.to_be_bytes()) {
                assert_eq!(self.u32(), wire::SIMPLE_REPLY_MAGIC);
                let (error, cookie) = (self.u32(), self.u64());
                assert_eq!(cookie, request.cookie);
                let data = if reads && error == 0 { self.take(request.len as usize).to_vec() } else { Vec::new() };
                return (error, data);
            }
        }
        let mut data = vec![0; if reads { request.len.min(SIZE) as usize } else { 0 }];
        let (mut error, mut known) = (0, 0u64);
        loop {
            let extended = self.form == Form::Extended;
            assert_eq!(self.u32(), if extended { wire::EXTENDED_CHUNK_MAGIC } else { wire::CHUNK_MAGIC });
            let (flags, kind, cookie) = (self.u16(), self.u16(), self.u64());
            assert_eq!(cookie, request.cookie);
            let len = if extended {
                assert_eq!(self.u64(), request.offset);
                self.u64() as usize
            } else {
                self.u32() as usize
            };
            let mut chunk = Replies { bytes: self.take(len), ..*self };
            match kind {
                wire::chunk::NONE => assert_eq!(len, 0),
                wire::chunk::OFFSET_DATA => {
                    let at = (chunk.u64() - request.offset) as usize;
                    data[at..at + chunk.bytes.len()].copy_from_slice(chunk.bytes);
                    known += chunk.bytes.len() as u64;
                }
                wire::chunk::OFFSET_HOLE => {
                    let (at, hole) = (chunk.u64() - request.offset, chunk.u32());
                    assert!(at + u64::from(hole) <= request.len);
                    known += u64::from(hole);
                }
                wire::chunk::BLOCK_STATUS => {
                    assert_eq!(chunk.u32(), wire::BASE_ALLOCATION_ID);
                    let mut sum = 0;
                    while !chunk.bytes.is_empty() {
                        let (len, state) = (chunk.u32(), chunk.u32());
                        assert!(len > 0 && (state == 0 || state == wire::STATE_HOLE_ZERO));
                        sum += u64::from(len);
                    }
                    assert!(!extended && sum > 0 && sum <= request.len, "{sum} bytes of {}", request.len);
                }
                wire::chunk::BLOCK_STATUS_EXT => {
                    assert_eq!(chunk.u32(), wire::BASE_ALLOCATION_ID);
                    let (count, mut sum) = (chunk.u32(), 0);
                    for _ in 0..count {
                        let (len, state) = (chunk.u64(), chunk.u64());
                        assert!(len > 0 && (state == 0 || state == u64::from(wire::STATE_HOLE_ZERO)));
                        sum += len;
                    }
                    // A made-up payload may ask about another length.
                    let most = if request.flags & flag::PAYLOAD_LEN != 0 { SIZE } else { request.len };
                    assert!(extended && chunk.bytes.is_empty() && sum > 0 && sum <= most, "{sum} bytes of {most}");
                }
                wire::chunk::ERROR | wire::chunk::ERROR_OFFSET => {
                    error = chunk.u32();
                    assert!(error != 0);
                }
                other => panic!("a chunk of type {other}"),
            }
            if flags & wire::chunk::DONE != 0 {
                break;
            }
        }
        assert!(!reads || error != 0 || known == request.len, "{known} bytes of {}", request.len);
        (error, data)
    }
}

fn requests_seeds() -> Vec<Vec<u8>> {
    // Command and flags, kind of place, fill, offset, length.
    let request = |what: u8, edge: u8, offset: u32, len: u16| {
        [&[what, edge, 0x5a][..], &offset.to_le_bytes(), &len.to_le_bytes()].concat()
    };
    let all = [
        request(1, 0x23, 4000, 700),
        request(0, 0x23, 3000, 5000),
        request(1, 0x0b, 70_000, 8000),
        request(4, 0x23, 4096, 4096),
        request(6, 0x0b, 65_536, 4000),
        request(7, 0x0b, 0, 65_535),
        request(3, 0x20, 0, 0),
        request(0, 0x0b, 0, 65_535),
        request(0, 0x01, 0, 65_535),
        request(1, 0x02, 5, 10),
        request(0x30, 0x23, 0, 10),
        request(0x70, 0x0b, 0, 65_535),
        request(5, 0x23, 0, 9),
        // With the flag of a payload.
        request(0xb7, 0x20, 0, 12),
        request(0xb1, 0x23, 4000, 700),
        // As long as 48 bits say.
        request(6, 0xc3, 0, 65_535),
    ];
    let mut seeds = Vec::new();
    for mode in 0..3 {
        seeds.push(with_mode(mode, &all.concat()));
        seeds.extend(all.iter().map(|one| with_mode(mode, one)));
    }
    seeds
}
