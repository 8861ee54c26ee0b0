//! Texts: links, records of processes, configuration, sizes, names of volumes and of files.

use archipelago_core::format::owner::ShortOwner;
use archipelago_core::limits::{MAX_NAME, MIN_NAME};
use archipelago_core::{Digest, Location, Owner, VolumeId, fuzzing, name};
use archipelago_service::cli::exit::Failure;
use archipelago_service::config::Config;
use archipelago_service::fuzzing as fuzzing_service;

use crate::Target;

fn texts(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The text of the link that says who holds a lock.
pub const OWNER_LINK: Target = Target {
    name: "owner_link",
    check: owner_link,
    seeds: || texts(&["00c0ffee00c0ffee-1770000000-4711", "-0-0", "ffffffffffffffff-18446744073709551615-4294967295"]),
    max_len: 256,
    memory: 8 << 10,
    cost: 1,
};

fn owner_link(input: &[u8]) {
    let Some(owner) = ShortOwner::decode(input) else { return };
    assert_eq!(owner.encode().as_bytes(), input, "another form of the link than the one that is written");
    assert!(input.len() <= archipelago_core::blocker::MAX_OWNER);
}

/// The record of a process.
pub const PROCESS_RECORD: Target = Target {
    name: "process_record",
    check: process_record,
    seeds: || {
        texts(&[
            r#"{"pid":1,"host":"node","command":"archipelago","since":1770000000,"process":"00c0ffee00c0ffee"}"#,
            r#"{"pid":4294967295,"host":"\u001b[31m","command":"","since":0,"process":"x","more":[{}]}"#,
        ])
    },
    max_len: 4096,
    memory: 64 << 10,
    cost: 1,
};

fn process_record(input: &[u8]) {
    let Some(owner) = fuzzing::process_record("00c0ffee00c0ffee", input) else { return };
    assert_eq!(owner.process, "00c0ffee00c0ffee", "a record speaks for itself only");
    for text in [&owner.host, &owner.command] {
        assert!(text.chars().count() <= 64 && !text.chars().any(char::is_control), "{text:?}");
    }
    let again = serde_json::to_vec(&owner).expect("JSON of what was read");
    assert_eq!(serde_json::from_slice::<Owner>(&again).expect("what was written"), owner);
}

/// A configuration file.
pub const CONFIG: Target = Target {
    name: "config",
    check: config,
    seeds: || {
        texts(&[
            "store = 'file:/srv/store'\nnode_cache = '128M'\nmax_unfolded = 33554432\n",
            "[serve]\nnbd = ['unix:/run/a.sock', 'tcp:127.0.0.1:10809']\npid_file = '/run/a.pid'\n",
            "serve = { nbd = \"x\" }\nother.a.b = [1, 2.5, 1979-05-27]\n",
            "[ARCHIPELAGO]\nSTORE = file:/srv/store\nGROUP = synnefo\nUMASK = 0o027\n[PEERS]\nROLES = b m\n[b]\ntype: file_blocker\n\
             portno_start = 7\narchip_dir = /srv/old ; x\n  more\n[m]\ntype = mapperd\nblockerm_port = 7\nblockerb_port = 7\n[DEFAULT]\nx = y\n",
        ])
    },
    max_len: 4096,
    memory: 4 << 20,
    cost: 1,
};

/// Takes a file over a configuration, and tells what was warned of.
type Merge = fn(&mut Config, &str, &mut dyn FnMut(String)) -> Result<(), Failure>;

/// A file that is read twice says the same; one that is refused is named.
fn read_twice(text: &str, merge: Merge, name: &str) -> Config {
    let read = |config: &mut Config| {
        let mut warnings = Vec::new();
        merge(config, text, &mut |warning| warnings.push(warning)).map(|()| warnings)
    };
    let mut once = Config::default();
    match read(&mut once) {
        Ok(warnings) => {
            let mut twice = once.clone();
            assert_eq!(read(&mut twice).expect("the same file"), warnings);
            assert_eq!(once, twice);
        }
        Err(error) => assert!(error.to_string().starts_with(name), "{error}"),
    }
    once
}

fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let once = read_twice(text, fuzzing_service::configuration, "archipelago.toml: ");
    original_config(text);
    if let Some(store) = &once.store
        && let Ok(Location::File(path)) = store.parse()
    {
        assert!(!path.as_os_str().is_empty());
    }
}

/// The same text as a file of the original's.
fn original_config(text: &str) {
    let once = read_twice(text, fuzzing_service::original_configuration, "archipelago.conf: line ");
    for directory in [&once.original.maps, &once.original.blocks].into_iter().flatten() {
        assert!(directory.is_absolute(), "{directory:?}");
    }
    if let Some(mode) = once.original.mode {
        assert_eq!(mode & !0o066, 0o600, "the owner reads and writes, and nobody runs: {mode:o}");
    }
}

/// Sizes.
pub const SIZE: Target = Target {
    name: "size",
    check: size,
    seeds: || {
        texts(&["4096", "512M", "1TiB", "1.5G", "0.5KiB", "18446744073709551615", "10gb", "1.000000000000000001"])
    },
    max_len: 256,
    memory: 8 << 10,
    cost: 1,
};

fn size(input: &[u8]) {
    use archipelago_service::cli::size::{human, parse};
    let Ok(text) = std::str::from_utf8(input) else { return };
    match parse(text) {
        Ok(bytes) => {
            assert_eq!(parse(&bytes.to_string()), Ok(bytes));
            assert!(text.starts_with(|c: char| c.is_ascii_digit()), "{text:?}");
            assert!(!human(bytes).is_empty());
            // A number without a unit is itself.
            if text.bytes().all(|b| b.is_ascii_digit()) {
                assert_eq!(text.trim_start_matches('0'), bytes.to_string().trim_start_matches('0'));
            }
        }
        Err(reason) => assert!(reason.contains(':'), "{reason:?} does not name what was wrong"),
    }
}

/// Names of volumes.
pub const NAME: Target = Target {
    name: "name",
    check: check_name,
    seeds: || {
        texts(&["debian-bookworm", "vol_0123456789abcde", "1f0c.ext.disk0", "n\u{e4}men", "archip_x", "a/../../b"])
    },
    max_len: 256,
    memory: 8 << 10,
    cost: 1,
};

fn check_name(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(()) = name::check(text) else { return };
    // What makes it safe as a part of a path, of a command line and of a line of text.
    assert!((MIN_NAME..=MAX_NAME).contains(&text.len()));
    assert!(!text.contains(['/', '\0', ':', '\n', '\r', '\t', ' ', '\\', '\'', '"', '$', '`', '*', '?']), "{text:?}");
    assert!(!text.starts_with(['-', '.']) && !text.chars().any(char::is_control));
    // What tells it from every object of the store that is named after an id.
    assert!(!text.ends_with("_lock") && !text.ends_with("_hash") && !text.starts_with("archip_"));
}

/// Names of files in the store, ids and digests.
pub const FILE_NAME: Target = Target {
    name: "file_name",
    check: file_name,
    seeds: || {
        texts(&[
            "log.0123456789abcdef.00000001",
            "pack.0123456789abcdef.ffffffff",
            "data.0123456789abcdef.0000000000000007.00000001",
            "redirect.0123456789abcdef.0000000000000003",
            "sum.0123456789abcdef.0000000000000003",
            "lock.0123456789abcdef",
            "owner.0123456789abcdef",
            "h.0123456789abcdef",
            "i.0000000000001d1d",
            "l.00000000000000c1.000000000000009a",
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
            "t.0000000000000001",
            "0123456789abcdef",
        ])
    },
    max_len: 256,
    memory: 16 << 10,
    cost: 1,
};

fn file_name(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // Whatever it stands for, it is the one file of that.
    let paths = fuzzing::file_name(text);
    let is_its_own = |path: &String| path.rsplit('/').next() == Some(text);
    match &paths[..] {
        [] => {}
        [lock, owner] => assert!(is_its_own(lock) != is_its_own(owner), "{paths:?}"),
        [path] => assert!(is_its_own(path), "{path}"),
        more => panic!("{more:?}"),
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(id) = text.parse::<VolumeId>() {
        assert!(id.to_string() == text && id.0 != 0);
    }
}
