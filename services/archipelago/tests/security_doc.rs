//! `docs/security.md` names a test for what it calls tested: every one of them exists, and no number is left out.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Root of the source tree.
fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

/// Names of the test functions in all sources below `dir`.
fn tests_below(dir: &Path, found: &mut HashSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            // Between the attribute and the function there may be other attributes; inside proptest! it is indented.
            for part in text.split("#[test]").skip(1) {
                let name = part.split("fn ").nth(1).and_then(|rest| rest.split('(').next());
                found.extend(name.map(str::to_owned));
            }
        }
    }
}

/// Names of all test functions of the project.
fn all_tests() -> HashSet<String> {
    let mut found = HashSet::new();
    for folder in ["archipelago-core", "archipelago-ffi", "services/archipelago", "extstorage-provider"] {
        for part in ["src", "tests"] {
            tests_below(&tree().join(folder).join(part), &mut found);
        }
    }
    found
}

fn rows() -> Vec<(u32, String)> {
    let document = fs::read_to_string(tree().join("docs/security.md")).unwrap();
    let number = |line: &str| line.strip_prefix("| S")?.split(' ').next()?.parse().ok();
    document.lines().filter_map(|line| Some((number(line)?, line.to_string()))).collect()
}

#[test]
fn every_number_of_the_checklist_has_one_row() {
    let numbers: Vec<u32> = rows().into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, (1..=68).collect::<Vec<u32>>());
}

#[test]
fn every_test_named_in_the_checklist_exists() {
    let found = all_tests();
    let mut named = 0;
    for (number, row) in rows() {
        // What stands between backticks and has two underscores is a test; commands and prefixes have fewer.
        let quoted = row.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() > 1);
        for test in quoted {
            assert!(found.contains(test), "S{number:02}: there is no test {test}");
            named += 1;
        }
        let tested = row.contains("tested: ");
        assert!(!tested || row.contains("tested: `"), "S{number:02} names no test");
    }
    assert!(named > 50, "only {named} tests named: is this the document?");
}

#[test]
fn every_test_that_bears_a_number_is_named_or_covered_by_its_row() {
    let rows = rows();
    for test in all_tests() {
        let Some(number) = test.strip_prefix('s').and_then(|t| t.split('_').next()).and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        let row = rows.iter().find(|(n, _)| *n == number);
        let covered = row.is_some_and(|(_, text)| text.contains(&test) || text.contains(&format!("`s{number:02}_`")));
        assert!(covered, "{test} is not in its row of docs/security.md");
    }
}
