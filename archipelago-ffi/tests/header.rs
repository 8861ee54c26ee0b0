//! The header is what the source says.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

/// The header as it would be made now. The lines on safety are for who calls from Rust; what they ask is what C asks everywhere, and
/// the contract says it once.
fn made() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let mut text = Vec::new();
    cbindgen::Builder::new().with_crate(root).with_config(config).generate().unwrap().write(&mut text);
    let text = String::from_utf8(text).unwrap();
    let mut kept = Vec::new();
    let mut safety = false;
    for line in text.lines() {
        match line.trim() {
            "* # Safety" => {
                safety = true;
                // The empty line before it.
                kept.pop();
            }
            "*/" => safety = false,
            _ => {}
        }
        if !safety {
            kept.push(line.trim_end());
        }
    }
    kept.join("\n") + "\n"
}

#[test]
fn header_is_what_the_source_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include/archipelago.h");
    let made = made();
    if std::env::var_os("ARCHIPELAGO_WRITE_HEADER").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == made, "include/archipelago.h is not what the source says; run `make header`");
}

#[test]
fn every_function_in_the_header_has_a_description() {
    let header = made();
    let lines: Vec<&str> = header.lines().collect();
    let declared: Vec<usize> = (0..lines.len())
        .filter(|at| {
            lines[*at].contains("archip_") && lines[*at].contains('(') && !lines[*at].starts_with([' ', '#', '/'])
        })
        .filter(|at| !lines[*at].starts_with("typedef"))
        .collect();
    assert!(declared.len() > 35, "only {} functions", declared.len());
    for at in declared {
        assert_eq!(lines[at - 1].trim(), "*/", "no description: {}", lines[at]);
    }
}
