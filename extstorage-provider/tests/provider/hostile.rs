//! S58: whatever stands in a variable, it is a value, and not a command, a path or an option.

use std::ffi::{OsStr, OsString};

use crate::site::{NAME, Site, UUID, VERBS, bytes};

/// Every variable that counts.
const VARIABLES: [&str; 15] = [
    "VOL_NAME",
    "VOL_CNAME",
    "VOL_UUID",
    "VOL_SIZE",
    "VOL_NEW_SIZE",
    "VOL_METADATA",
    "VOL_SNAPSHOT_NAME",
    "VOL_SNAPSHOT_SIZE",
    "VOL_OPEN_EXCLUSIVE",
    "EXTP_ORIGIN",
    "EXTP_ORIGIN_SIZE",
    "EXTP_REUSE_DATA",
    "EXTP_POOL",
    "EXTP_BLOCKSIZE",
    "EXTP_ACCESS",
];

fn values(site: &Site) -> Vec<OsString> {
    let mark = site.path("mark").display().to_string();
    let texts = [
        format!("$(touch {mark})"),
        format!("`touch {mark}`"),
        format!("; touch {mark} ;"),
        format!("x\ntouch {mark}\n"),
        format!("../../../../../../..{mark}"),
        mark,
        "..".into(),
        "--force".into(),
        "-rf".into(),
        "a,readonly=on,b".into(),
        "99999999999999999999999999".into(),
        "-1".into(),
        "18446744073709551615".into(),
        "%s%n%00".into(),
        "\u{202e}txt.exe".into(),
        "x".repeat(100_000),
    ];
    let raw = [&b"\xff\xfe\xfd"[..], b"\x1b]0;x\x07", b"a\rb", b"name-\xc0\x80"];
    texts.into_iter().map(OsString::from).chain(raw.into_iter().map(bytes)).collect()
}

#[test]
fn s58_hostile_values_of_every_variable_are_refused_or_mean_nothing() {
    let site = Site::new();
    let before: Vec<_> = site.files("node-1");
    let good = [
        ("VOL_NAME", NAME),
        ("VOL_UUID", UUID),
        ("VOL_SIZE", "1"),
        ("VOL_NEW_SIZE", "2"),
        ("VOL_OPEN_EXCLUSIVE", "True"),
    ];
    for verb in VERBS {
        for variable in VARIABLES {
            for value in values(&site) {
                let mut vars: Vec<(&str, &OsStr)> =
                    good.iter().map(|(name, value)| (*name, OsStr::new(*value))).collect();
                vars.push((variable, &value));
                let ended = site.call_on("node-1", verb, &vars);
                let what = format!("{verb} with {variable}={value:.80?}: {ended:?}");
                assert!(matches!(ended.code, Some(0 | 1)), "{what}");
                assert!(verb == "attach" || ended.out.is_empty(), "{what}");
                let lines = ended.err.lines().count();
                assert!(lines <= 20 && ended.err.len() < 4000, "{what}");
                assert!(!ended.err.contains(|c: char| c.is_control() && c != '\n'), "{what}");
                assert!(ended.code == Some(0) || ended.err.contains("What to do: "), "{what}");
            }
        }
        // What the good values made of it.
        site.call("detach", &good);
        site.call("remove", &good);
    }
    assert!(!site.path("mark").exists() && site.files("node-1") == before);
    // Names that a volume may have are not hostile; nothing else was made.
    for info in site.store().list(&Default::default()).unwrap().entries {
        assert!(archipelago_core::name::check(&info.name).is_ok(), "{}", info.name);
    }
    assert!(site.attached().is_empty());
}
