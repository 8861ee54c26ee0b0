//! `docs/semantics.md` may promise only what a test proves: every test that it names exists, and every promise names one.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Root of the source tree.
fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The file that a reference in the document stands for: `tests/x.rs` and `src/x.rs` are the engine's.
fn file(path: &str) -> PathBuf {
    match path.starts_with("tests/") || path.starts_with("src/") {
        true => tree().join("archipelago-core").join(path),
        false => tree().join(path),
    }
}

/// What stands between backticks and looks like `path.rs::test`.
fn references(text: &str) -> Vec<(String, String)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter_map(|q| q.split_once(".rs::")).map(|(path, test)| (format!("{path}.rs"), test.to_string())).collect()
}

#[test]
fn every_test_named_in_the_semantics_exists() {
    let document = fs::read_to_string(tree().join("docs/semantics.md")).unwrap();
    let all = references(&document);
    assert!(all.len() > 50, "only {} tests named: is this the document?", all.len());
    for (path, test) in all {
        let source = fs::read_to_string(file(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        let declared = source.contains(&format!("fn {test}("));
        assert!(declared && source.contains("#[test]"), "{path} has no test {test}");
    }
}

#[test]
fn every_promise_names_the_test_that_proves_it() {
    let document = fs::read_to_string(tree().join("docs/semantics.md")).unwrap();
    let (mut section, mut promises) = (String::new(), 0);
    for line in document.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.to_string();
        }
        // A promise is a row of a table with a number; those without a test are under "What is not promised" in prose.
        let Some(row) = line.strip_prefix("| ").filter(|r| r.starts_with(|c: char| c.is_ascii_uppercase())) else {
            continue;
        };
        let numbered = row.split(' ').next().is_some_and(|n| n[1..].parse::<u32>().is_ok());
        if numbered {
            promises += 1;
            assert!(!references(line).is_empty(), "{section}: no test: {line}");
        }
    }
    assert!(promises > 30, "only {promises} promises");
}
