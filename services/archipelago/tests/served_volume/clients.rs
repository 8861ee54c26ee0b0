//! A real file system image behind the tools of libnbd and qemu: facts, maps, copies, comparisons.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::site::{MIB, Site, outcome, python, tool};

const SIZE: u64 = 300 * MIB;

/// An ext4 file system with documents of this machine on it: data, metadata and unused room as a real image has them. Made
/// once below the build's directory, and kept there; no test changes it.
fn image() -> String {
    static MADE: OnceLock<()> = OnceLock::new();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let image = kept.join("documents.ext4");
    MADE.get_or_init(|| {
        if image.exists() {
            return;
        }
        let dir = TempDir::new_in(kept).unwrap();
        let (files, new) = (dir.path().join("files").display().to_string(), dir.path().join("image"));
        // What cannot be read, and links to nothing, are left out.
        let copy = "mkdir \"$1\"; cp -rL --no-preserve=mode /usr/share/doc/[a-l]* \"$1\" 2>/dev/null; true";
        tool("bash", "bash", &["-c", copy, "bash", &files]);
        tool("e2fsprogs", "mke2fs", &["-q", "-t", "ext4", "-d", &files, new.to_str().unwrap(), "300M"]);
        // Another process may have been as fast: then its image stays, which others may be reading already.
        match std::fs::hard_link(new, &image) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => panic!("{}: {error}", image.display()),
            _ => {}
        }
    });
    image.display().to_string()
}

/// A store in which the image is the volume `volume`, its snapshot `golden` and the clone `clone1`.
fn site() -> Site {
    let site = Site::new();
    site.ok(&["import", &image(), "volume", "--format", "raw", "--snapshot", "golden"]);
    site.ok(&["clone", "golden", "clone1"]);
    site
}

fn document(arguments: &[&str]) -> Value {
    let text = tool("libnbd-bin", "nbdinfo", arguments);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
}

/// Ranges that are zero or not, neighbours of one kind merged.
fn merged(ranges: impl Iterator<Item = (u64, u64, bool)>) -> Vec<(u64, u64, bool)> {
    let mut out: Vec<(u64, u64, bool)> = Vec::new();
    for (offset, len, zero) in ranges {
        match out.last_mut() {
            Some(last) if last.2 == zero && last.0 + last.1 == offset => last.1 += len,
            _ => out.push((offset, len, zero)),
        }
    }
    out
}

fn map_of_client(uri: &str) -> Vec<(u64, u64, bool)> {
    let map = document(&["--json", "--map", uri]);
    let ranges = map.as_array().unwrap().iter();
    merged(ranges.map(|r| (r["offset"].as_u64().unwrap(), r["length"].as_u64().unwrap(), r["type"] != json!(0))))
}

fn map_of_store(site: &Site, name: &str) -> Vec<(u64, u64, bool)> {
    let map = site.json(&["mapinfo", name]);
    let ranges = map.as_array().unwrap().iter();
    merged(ranges.map(|r| (r["offset"].as_u64().unwrap(), r["len"].as_u64().unwrap(), r["source"] == "zero")))
}

#[test]
fn nbdinfo_shows_volumes_snapshots_and_clones_and_their_maps() {
    let site = site();
    let mut server = site.serve();
    let list = document(&["--list", "--json", &site.uri("")]);
    let mut names: Vec<&str> =
        list["exports"].as_array().unwrap().iter().map(|e| e["export-name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["clone1", "golden", "volume"]);
    for (name, read_only) in [("volume", false), ("golden", true), ("clone1", false)] {
        let export = &document(&["--json", &site.uri(name)])["exports"][0];
        assert_eq!(export["export-size"], json!(SIZE), "{export}");
        assert_eq!(export["is_read_only"], json!(read_only), "{export}");
        assert_eq!(export["can_trim"], json!(!read_only), "{export}");
        assert_eq!(export["can_fua"], json!(!read_only), "{export}");
        for able in ["can_multi_conn", "can_flush", "can_df", "can_cache"] {
            assert_eq!(export[able], json!(true), "{able}: {export}");
        }
        assert_eq!(export["contexts"], json!(["base:allocation"]), "{export}");
        let description = format!("{} {name}", if read_only { "snapshot" } else { "volume" });
        assert_eq!(export["description"], json!(description), "{export}");
        site.wait_until_nothing_is_open();

        let map = map_of_client(&site.uri(name));
        assert!(map.len() > 20, "a file system has data here and there: {map:?}");
        assert_eq!(map.iter().map(|r| r.1).sum::<u64>(), SIZE);
        site.wait_until_nothing_is_open();
        assert_eq!(map, map_of_store(&site, name), "{name}");
    }
    assert_eq!(server.stop(), 0, "{}", site.log());
}

#[test]
fn an_image_is_copied_out_and_in_and_compares_equal() {
    let site = site();
    let mut server = site.serve();
    let (image, copy) = (image(), site.text("copy"));
    for name in ["volume", "golden", "clone1"] {
        tool("qemu-utils", "qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, &site.uri(name)]);
    }
    tool("libnbd-bin", "nbdcopy", &["--connections=4", &site.uri("golden"), &copy]);
    tool("diffutils", "cmp", &[&image, &copy]);
    tool("e2fsprogs", "e2fsck", &["-fn", &copy]);

    // In again, over a volume that holds something else.
    site.ok(&["create", "second", "--size", "300M"]);
    site.connect("second").unwrap().write(299 * MIB - 5, &[0xee; 5000]);
    tool("libnbd-bin", "nbdcopy", &["--connections=4", "--flush", "--allocated", &image, &site.uri("second")]);
    tool("qemu-utils", "qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, &site.uri("second")]);
    site.wait_until_nothing_is_open();
    // --allocated writes zeros; the whole image without it gives room back.
    tool("libnbd-bin", "nbdcopy", &["--connections=4", "--flush", &image, &site.uri("second")]);
    tool("qemu-utils", "qemu-img", &["compare", "-f", "raw", "-F", "raw", &site.uri("golden"), &site.uri("second")]);
    site.wait_until_nothing_is_open();
    let zero = |map: Vec<(u64, u64, bool)>| map.iter().filter(|r| r.2).map(|r| r.1).sum::<u64>();
    let (first, second) = (zero(map_of_store(&site, "golden")), zero(map_of_store(&site, "second")));
    assert!(second * 10 >= first * 9, "{second} bytes of zeros, of {first}");

    // Between two volumes of one server, each the other's client.
    site.ok(&["create", "third1", "--size", "300M"]);
    tool("libnbd-bin", "nbdcopy", &["--connections=4", "--flush", &site.uri("clone1"), &site.uri("third1")]);
    tool("qemu-utils", "qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, &site.uri("third1")]);
    assert_eq!(server.stop(), 0, "{}", site.log());
    // The command reads the same.
    site.ok(&["export", "second", &site.text("exported")]);
    tool("diffutils", "cmp", &[&image, &site.text("exported")]);
}

#[test]
fn a_snapshot_refuses_changes_and_a_clone_keeps_them_to_itself() {
    let site = site();
    let mut server = site.serve();
    python(
        &site.uri("golden"),
        r#"
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(uri)
assert h.is_read_only()
for call in (lambda: h.pwrite(b"x" * 512, 0), lambda: h.trim(65536, 0), lambda: h.zero(65536, 0)):
    try:
        call()
    except nbd.Error as error:
        assert error.errno == "EPERM", error.errno
    else:
        raise AssertionError("a snapshot was changed")
h.flush()
h.shutdown()
"#,
    );
    let (copied, _) = outcome("libnbd-bin", "nbdcopy", &[&image(), &site.uri("golden")]);
    assert!(!copied);
    let script = ["-f", "raw", "-c", "write -P 0x5a 100M 3M", "-c", "discard 0 8M", "-c", "flush"];
    tool("qemu-utils", "qemu-io", &[&script[..], &[&site.uri("clone1")]].concat());
    let check = ["-f", "raw", "-c", "read -P 0x5a 100M 3M", "-c", "read -P 0 0 8M"];
    let text = tool("qemu-utils", "qemu-io", &[&check[..], &[&site.uri("clone1")]].concat());
    assert!(!text.contains("failed"), "{text}");
    for name in ["volume", "golden"] {
        tool("qemu-utils", "qemu-img", &["compare", "-f", "raw", "-F", "raw", &image(), &site.uri(name)]);
    }
    let compare = ["compare", "-f", "raw", "-F", "raw", &image(), &site.uri("clone1")];
    assert!(!outcome("qemu-utils", "qemu-img", &compare).0, "the clone differs");
    assert_eq!(server.stop(), 0, "{}", site.log());
}

#[test]
fn reads_are_the_same_with_and_without_structured_replies() {
    let site = site();
    let mut server = site.serve();
    let text = python(
        &site.uri("clone1"),
        r#"
import hashlib
sums = set()
for structured in (False, True):
    for size in (65536, 1000003, 32 << 20):
        h = nbd.NBD()
        h.set_request_structured_replies(structured)
        h.connect_uri(uri)
        assert h.get_structured_replies_negotiated() == structured
        total, end, sum = 0, h.get_size(), hashlib.sha256()
        while total < end:
            part = h.pread(min(size, end - total), total)
            sum.update(part)
            total += len(part)
        sums.add(sum.hexdigest())
        h.shutdown()
print(*sums)
"#,
    );
    let sum = tool("coreutils", "sha256sum", &[&image()]);
    assert_eq!(text.trim(), sum.split_whitespace().next().unwrap());
    assert_eq!(server.stop(), 0, "{}", site.log());
}

#[test]
fn a_flush_on_one_connection_keeps_what_four_others_wrote() {
    let site = site();
    let mut server = site.serve();
    let places = [5 * MIB + 512, 77 * MIB, 150 * MIB + 1, 299 * MIB];
    let data: Vec<Vec<u8>> = (1..=4u8).map(|byte| vec![byte * 0x11; 200_000]).collect();
    let mut writers: Vec<_> = places.iter().map(|_| site.connect("clone1").unwrap()).collect();
    for (writer, (place, data)) in writers.iter_mut().zip(places.iter().zip(&data)) {
        writer.write(*place, data);
    }
    let mut other = site.connect("clone1").unwrap();
    for (place, data) in places.iter().zip(&data) {
        assert!(other.read(*place, data.len() as u64) == *data, "one connection sees what another wrote");
    }
    other.flush();
    server.kill();
    let mut server = site.serve();
    let mut reader = site.connect("clone1").unwrap();
    for (place, data) in places.iter().zip(&data) {
        assert!(reader.read(*place, data.len() as u64) == *data, "what was written at {place} is gone");
    }
    drop(reader);
    assert_eq!(server.stop(), 0, "{}", site.log());
}
