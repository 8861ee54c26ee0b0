//! The NBD endpoint against the clients that people use: libnbd, qemu, fio. A client that is not installed is a failure.
// Helpers outside of test functions may stop the test, too.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/memory_disk.rs"]
mod memory_disk;
#[path = "support/python.rs"]
mod python;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use archipelago_service::nbd::{DEFAULT_SOCKET_MODE, Endpoint, Server, ServerOptions};
use memory_disk::{MemoryDisk, MemoryExports};

const MIB: u64 = 1 << 20;
/// Seconds after which a client counts as hung.
const PATIENCE: &str = "120";

struct Fixture {
    dir: tempfile::TempDir,
    exports: Arc<MemoryExports>,
    server: Server,
}

fn serve_many(disks: Vec<(&str, MemoryDisk)>) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let default = disks.first().map(|(name, _)| name.to_string());
    let disks = disks.into_iter().map(|(name, disk)| (name.to_string(), Arc::new(disk))).collect();
    let exports = Arc::new(MemoryExports { disks, default });
    let endpoints = [
        Endpoint::Unix { path: dir.path().join("nbd"), mode: DEFAULT_SOCKET_MODE },
        Endpoint::Tcp { address: "127.0.0.1:0".parse().unwrap(), allow_remote: false },
    ];
    let server = Server::start(Arc::clone(&exports) as _, &endpoints, ServerOptions::default()).unwrap();
    Fixture { dir, exports, server }
}

fn serve(size: u64) -> Fixture {
    serve_many(vec![("disk", MemoryDisk::new(size, false))])
}

impl Fixture {
    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.dir.path().join("nbd").display())
    }

    fn tcp_uri(&self) -> String {
        self.server
            .endpoints()
            .iter()
            .find(|e| matches!(e, Endpoint::Tcp { .. }))
            .map(|e| format!("nbd://{e}"))
            .unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Runs a client, which must be installed and succeed; returns what it printed.
fn run(package: &str, program: &str, arguments: &[&str]) -> String {
    let output = Command::new("timeout").arg(PATIENCE).arg(program).args(arguments).output().expect("timeout runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() != Some(127), "{program} is needed for this test: apt-get install {package}");
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}\n{errors}", output.status);
    text
}

/// Runs a script with libnbd's module, whichever interpreter has it.
fn python(uri: &str, script: &str) -> String {
    let head = "import nbd, sys, errno\nuri = sys.argv[1]\nh = nbd.NBD()\n\
                def fails(name, call):\n\
                \x20   try:\n\
                \x20       call()\n\
                \x20   except nbd.Error as error:\n\
                \x20       assert error.errno == name, (error.errno, name)\n\
                \x20   else:\n\
                \x20       raise AssertionError('did not fail with ' + name)\n";
    run("python3-libnbd", python::interpreter(), &["-c", &format!("{head}{script}"), uri])
}

/// An image file of 64 MiB with data, zeros and holes.
fn image(path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(64 * MIB).unwrap();
    let mut state = 0x1234_5678_9abc_def1u64;
    for (offset, len) in [(0, MIB), (5 * MIB + 4096, 300_000), (20 * MIB, 9 * MIB), (64 * MIB - 513, 513)] {
        let mut data = vec![0u8; len as usize];
        for chunk in data.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
        }
        file.write_all_at(&data, offset).unwrap();
    }
    file.write_all_at(&vec![0; MIB as usize], 40 * MIB).unwrap();
}

#[test]
fn nbdinfo_shows_the_export_and_lists_all() {
    let fixture =
        serve_many(vec![("first", MemoryDisk::new(64 * MIB, false)), ("second", MemoryDisk::new(12_345, true))]);
    for uri in [fixture.uri(), fixture.tcp_uri()] {
        let text = run("libnbd-bin", "nbdinfo", &[&uri]);
        for line in [
            "newstyle-fixed",
            "export-size: 67108864",
            "base:allocation",
            "can_multi_conn: true",
            "can_fast_zero: true",
            "can_df: true",
            "is_read_only: false",
            "block_size_minimum: 1",
            "block_size_preferred: 4096",
            "block_size_maximum: 33554432",
            "a disk in memory",
        ] {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
        let text = run("libnbd-bin", "nbdinfo", &["--list", &uri]);
        assert!(text.contains("export=\"first\"") && text.contains("export=\"second\""), "{text}");
    }
    let second = fixture.uri().replace(":///", ":///second");
    let text = run("libnbd-bin", "nbdinfo", &[&second]);
    assert!(text.contains("export-size: 12345") && text.contains("is_read_only: true"), "{text}");
}

#[test]
fn nbdcopy_copies_both_ways_and_nbdinfo_maps_what_it_wrote() {
    let fixture = serve(64 * MIB);
    let (source, copy) = (fixture.file("source"), fixture.file("copy"));
    image(&source);
    let (from, to) = (source.to_str().unwrap(), copy.to_str().unwrap());
    for uri in [fixture.uri(), fixture.tcp_uri()] {
        run("libnbd-bin", "nbdcopy", &["--flush", "--connections=4", from, &uri]);
        run("libnbd-bin", "nbdcopy", &["--connections=4", &uri, to]);
        assert!(std::fs::read(&source).unwrap() == std::fs::read(&copy).unwrap());
    }
    assert!(fixture.exports.disks["disk"].syncs.load(Ordering::SeqCst) > 0, "--flush was heard");
    // Offset, length, type of each range.
    let map = run("libnbd-bin", "nbdinfo", &["--map", &fixture.uri()]);
    let ranges: Vec<Vec<u64>> =
        map.lines().map(|line| line.split_whitespace().take(3).map(|word| word.parse().unwrap()).collect()).collect();
    assert_eq!(ranges[0], [0, MIB, 0], "{map}");
    assert_eq!(ranges[1], [MIB, 4 * MIB, 3], "{map}");
    assert_eq!(ranges.iter().map(|r| r[1]).sum::<u64>(), 64 * MIB, "{map}");
    let total = run("libnbd-bin", "nbdinfo", &["--map", "--totals", &fixture.uri()]);
    assert!(total.contains("hole,zero"), "{total}");
}

#[test]
fn qemu_img_inspects_converts_and_compares() {
    let fixture = serve(64 * MIB);
    let (source, copy) = (fixture.file("source"), fixture.file("copy.qcow2"));
    image(&source);
    let (from, to) = (source.to_str().unwrap(), copy.to_str().unwrap());
    let uri = fixture.uri();
    let text = run("qemu-utils", "qemu-img", &["info", &uri]);
    assert!(text.contains("64 MiB (67108864 bytes)"), "{text}");
    run("qemu-utils", "qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", from, &uri]);
    run("qemu-utils", "qemu-img", &["compare", "-f", "raw", "-F", "raw", from, &uri]);
    run("qemu-utils", "qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, to]);
    run("qemu-utils", "qemu-img", &["compare", "-f", "raw", "-F", "qcow2", from, to]);
    let map = run("qemu-utils", "qemu-img", &["map", "-f", "raw", "--output=json", &uri]);
    assert!(map.contains("\"zero\": true, \"data\": false"), "{map}");
}

#[test]
fn qemu_io_writes_zeroes_discards_and_reads_patterns() {
    let fixture = serve(64 * MIB);
    let uri = fixture.uri();
    let script = [
        "write -P 0x5a 0 8M",
        "write -P 0x77 -f 9437185 3000",
        "write -z 1M 1M",
        "write -z -u 2M 1M",
        "discard 3M 1M",
        "flush",
        "read -P 0x5a 0 1M",
        "read -P 0 1M 3M",
        "read -P 0x5a 4M 4M",
        "read -P 0x77 9437185 3000",
        "aio_write -P 0x11 32M 16M",
        "aio_flush",
        "read -P 0x11 32M 16M",
        "write -P 0x22 67108352 512",
        "read -P 0x22 67108352 512",
    ];
    let mut arguments = vec!["-f", "raw"];
    for line in script {
        arguments.extend(["-c", line]);
    }
    arguments.push(&uri);
    let text = run("qemu-utils", "qemu-io", &arguments);
    assert!(!text.contains("verification failed") && !text.contains("failed:"), "{text}");
    assert!(fixture.exports.disks["disk"].syncs.load(Ordering::SeqCst) > 0);
}

#[test]
fn libnbd_sees_the_same_data_with_and_without_structured_replies() {
    let fixture = serve(64 * MIB);
    python(
        &fixture.uri(),
        r#"
data = bytes(range(256)) * 4096 * 3
for structured in (False, True):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    h.connect_uri(uri)
    assert h.get_structured_replies_negotiated() == structured
    assert h.can_df() == structured
    h.pwrite(data, 4097)
    assert h.pread(len(data), 4097) == data
    if structured:
        seen = []
        def chunk(part, offset, status, error):
            seen.append((offset, len(part), status))
        assert h.pread_structured(len(data), 4097, chunk, nbd.CMD_FLAG_DF) == data
        seen.clear()
        h.pread_structured(8 << 20, 0, chunk)
        assert sum(s[1] for s in seen) == 8 << 20, seen
        assert any(s[2] == nbd.READ_HOLE for s in seen), seen
        seen.clear()
        h.pread_structured(8 << 20, 0, chunk, nbd.CMD_FLAG_DF)
        assert len(seen) == 1 and seen[0] == (0, 8 << 20, nbd.READ_DATA), seen
    h.pread(1, (64 << 20) - 1)
    h.shutdown()
"#,
    );
}

#[test]
fn libnbd_gets_the_documented_error_for_every_bad_request() {
    let fixture = serve_many(vec![("disk", MemoryDisk::new(MIB, false)), ("fixed", MemoryDisk::new(MIB, true))]);
    python(
        &fixture.uri(),
        r#"
h.add_meta_context("base:allocation")
h.set_strict_mode(0)
h.connect_uri(uri)
end = 1 << 20
fails("EINVAL", lambda: h.pread(512, end))
fails("EINVAL", lambda: h.pread(2, end - 1))
fails("ENOSPC", lambda: h.pwrite(b"xx", end - 1))
fails("EINVAL", lambda: h.trim(2, end - 1))
fails("ENOSPC", lambda: h.zero(2, end - 1))
fails("EINVAL", lambda: h.cache(2, end - 1))
fails("EINVAL", lambda: h.block_status(2, end - 1, lambda *a: 0))
fails("EINVAL", lambda: h.pwrite(b"", 0))
fails("EINVAL", lambda: h.trim(0, 0))
fails("EINVAL", lambda: h.zero(0, 0))
fails("EINVAL", lambda: h.pwrite(b"x", 0, nbd.CMD_FLAG_DF))
fails("EINVAL", lambda: h.flush(nbd.CMD_FLAG_NO_HOLE))
fails("ENOTSUP", lambda: h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE))
h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO)
h.zero(4096, 0, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
h.trim(4096, 0, nbd.CMD_FLAG_FUA)
h.cache(4096, 0)
assert h.pread(4096, 0) == bytes(4096)
h.shutdown()

h = nbd.NBD()
h.set_strict_mode(0)
h.set_export_name("fixed")
h.connect_uri(uri.replace(":///", ":///fixed"))
assert h.is_read_only() and not h.can_trim() and not h.can_zero() and not h.can_fua()
fails("EPERM", lambda: h.pwrite(b"x", 0))
fails("EPERM", lambda: h.trim(4096, 0))
fails("EPERM", lambda: h.zero(4096, 0))
h.shutdown()

h = nbd.NBD()
fails("ENOENT", lambda: h.connect_uri(uri.replace(":///", ":///missing")))
"#,
    );
}

#[test]
fn libnbd_negotiates_in_any_order() {
    let fixture = serve(MIB);
    python(
        &fixture.uri(),
        r#"
h.set_opt_mode(True)
h.add_meta_context("base:allocation")
h.connect_uri(uri)
names = []
h.opt_list(lambda name, description: names.append(name))
assert names == ["disk"], names
found = []
h.opt_list_meta_context(found.append)
assert found == ["base:allocation"], found
h.set_export_name("nothing")
fails("ENOENT", h.opt_info)
h.set_export_name("disk")
h.set_full_info(True)
h.opt_info()
assert h.get_size() == 1 << 20 and h.get_canonical_export_name() == "disk"
assert h.get_export_description() == "a disk in memory"
h.opt_go()
assert h.can_meta_context("base:allocation")
h.shutdown()

h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(uri)
h.opt_abort()

h = nbd.NBD()
h.set_handshake_flags(0)
h.connect_uri(uri)
assert h.get_size() == 1 << 20 and h.get_protocol() == "newstyle"
h.pwrite(b"abc", 5)
assert h.pread(3, 5) == b"abc"
h.shutdown()

h = nbd.NBD()
h.set_tls(nbd.TLS_ALLOW)
h.connect_uri(uri)
assert not h.get_tls_negotiated()
h.shutdown()
"#,
    );
}

#[test]
fn libnbd_flush_on_one_connection_covers_writes_of_another() {
    let fixture = serve(MIB);
    python(
        &fixture.uri(),
        r#"
a, b = nbd.NBD(), nbd.NBD()
a.connect_uri(uri)
b.connect_uri(uri)
assert a.can_multi_conn() and b.can_multi_conn()
a.pwrite(b"from a", 100)
b.flush()
assert b.pread(6, 100) == b"from a"
b.pwrite(b"from b", 100, nbd.CMD_FLAG_FUA)
assert a.pread(6, 100) == b"from b"
a.shutdown()
b.shutdown()
"#,
    );
    assert_eq!(fixture.exports.disks["disk"].syncs.load(Ordering::SeqCst), 2);
}

#[test]
fn libnbd_keeps_many_requests_in_flight() {
    let fixture = serve(64 * MIB);
    for uri in [fixture.uri(), fixture.tcp_uri()] {
        python(
            &uri,
            r#"
h.connect_uri(uri)
import random
random.seed(7)
model = bytearray(64 << 20)
for round in range(20):
    flying = []
    for slot in range(64):
        at = (slot << 20) + random.randrange(4096)
        length = random.choice([1, 512, 4096, 65536, 100000, 1 << 19])
        data = random.randbytes(length)
        model[at:at + length] = data
        flying.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), at))
    while any(not h.aio_command_completed(c) for c in flying[-1:]):
        h.poll(-1)
    for c in flying[:-1]:
        while not h.aio_command_completed(c):
            h.poll(-1)
for at in range(0, 64 << 20, 16 << 20):
    assert h.pread(16 << 20, at) == model[at:at + (16 << 20)], at
h.shutdown()
"#,
        );
    }
}

#[test]
fn fio_verifies_what_it_wrote_at_depth() {
    let fixture = serve(64 * MIB);
    let uri = format!("--uri={}", fixture.uri());
    let common = ["--name=verify", "--ioengine=nbd", &uri, "--size=64M", "--verify=crc32c", "--verify_fatal=1"];
    for extra in [
        ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--fsync=256"],
        ["--rw=write", "--bs=1m", "--iodepth=8", "--fsync=0"],
        ["--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned", "--iodepth=16"],
    ] {
        let arguments: Vec<&str> = common.iter().chain(&extra).copied().collect();
        let text = run("fio", "fio", &arguments);
        assert!(text.contains("err= 0"), "{text}");
    }
}
