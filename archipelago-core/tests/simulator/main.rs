//! The simulator: long random histories of several processes on one store, with everything going wrong that a disk and
//! a machine can do, against a plain reference. What it simulates, and what it cannot see, is in `docs/simulator.md`.
//!
//! | Variable | Meaning |
//! |---|---|
//! | `SIM_SEED` | first seed (default 0) |
//! | `SIM_HISTORIES` | histories, every other one on each backend (default 1000) |
//! | `SIM_MINUTES` | go on for so long instead |
//! | `SIM_OPERATIONS` | operations of a history (default 500) |
//! | `SIM_BACKEND` | only this one: `file`, `memory`, or `rados` in the cluster of `ARCHIPELAGO_CEPH_CONF` |
//! | `SIM_KEEP` | of the history only the operations of these numbers; `-` behind one: without what goes wrong in it |
//! | `SIM_THREADS` | threads (default: one for each processor) |
//! | `SIM_SHRINK` | 0: a history that fails is shown as it is |
//! | `SIM_LEDGER` | a line is appended to this file |
//! | `SIM_TRACE` | prints each operation and each call that changes something; nothing is shrunk |
//! | `SIM_SHOW` | prints each history before it runs |
#![allow(clippy::unwrap_used)]

mod blocker_mount;
mod collect;
mod collected;
mod costs;
mod examine;
mod file_mount;
mod generate;
mod history;
mod journals;
mod model;
mod needs;
mod perform;
mod plan;
mod planted;
mod process;
mod regressions;
mod shrink;
mod stock;
mod tree;
mod wire;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use generate::History;
use process::Backend;
use world::{Bugs, Counts};

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: not understood")))
}

/// Every other history runs on the file backend.
fn backend_of(seed: u64) -> Backend {
    match variable::<String>("SIM_BACKEND").as_deref() {
        Some("file") => Backend::File,
        Some("memory") => Backend::Memory,
        Some("rados") => Backend::Rados,
        Some(other) => panic!("SIM_BACKEND={other}: it is file, memory or rados"),
        None if seed.is_multiple_of(2) => Backend::File,
        None => Backend::Memory,
    }
}

#[test]
fn histories_with_faults_leave_what_the_reference_allows() {
    let first: u64 = variable("SIM_SEED").unwrap_or(0);
    let operations: usize = variable("SIM_OPERATIONS").unwrap_or(500);
    let minutes: Option<u64> = variable("SIM_MINUTES");
    let count = variable("SIM_HISTORIES").unwrap_or(if minutes.is_some() { u64::MAX } else { 1000 });
    let keep: Option<String> = variable("SIM_KEEP");
    let show = std::env::var_os("SIM_SHOW").is_some();
    let threads = variable("SIM_THREADS").or(std::thread::available_parallelism().ok().map(|n| n.get())).unwrap_or(1);
    let start = Instant::now();
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (total, failures) = (Mutex::new(Counts::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count || minutes.is_some_and(|m| start.elapsed() >= Duration::from_secs(m * 60)) {
                        break;
                    }
                    let seed = first + number;
                    let backend = backend_of(seed);
                    let mut history = History::new(seed, operations);
                    if let Some(keep) = &keep {
                        shrink::keep(&mut history, keep);
                    }
                    if show {
                        println!("history {seed} on the {backend:?} backend\n{history}");
                    }
                    match shrink::run(backend, seed, &history.steps, Bugs::default()) {
                        Ok(counts) => total.lock().unwrap().add(&counts),
                        Err(failure) => {
                            stop.store(true, Ordering::Relaxed);
                            let (history, failure) = match variable::<u8>("SIM_SHRINK") {
                                Some(0) => (history, failure),
                                _ => shrink::shrink(backend, &history, failure, Bugs::default()),
                            };
                            failures.lock().unwrap().push(shrink::report(backend, &history, operations, &failure));
                        }
                    }
                }
            });
        }
    });
    let (total, failures) = (total.into_inner().unwrap(), failures.into_inner().unwrap());
    println!("seeds from {first}: {total:?} in {:.0?}", start.elapsed());
    if let Some(path) = variable::<String>("SIM_LEDGER") {
        append(&path, first, &total, failures.len());
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n\n"));
}

/// Adds a line to the ledger: date, commit, first seed, histories, operations, faults, failures.
fn append(path: &str, first: u64, counts: &Counts, failures: usize) {
    use std::io::Write;
    let output = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output();
        output.map_or("unknown".to_string(), |o| String::from_utf8_lossy(&o.stdout).trim().to_string())
    };
    let date = output("date", &["-u", "+%Y-%m-%d"]);
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]);
    let line = format!(
        "{date}\t{commit}\t{first}\t{}\t{}\t{}\t{failures}\n",
        counts.histories,
        counts.operations,
        counts.faults()
    );
    let mut file = std::fs::OpenOptions::new().append(true).open(path).expect("the ledger is there");
    file.write_all(line.as_bytes()).expect("the ledger can be written");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..4 {
        let (a, b) = (History::new(seed, 200), History::new(seed, 200));
        assert_eq!(a.steps, b.steps, "seed {seed}");
        let mut runs = [Backend::File, Backend::Memory]
            .map(|backend| [(); 2].map(|()| format!("{:?}", shrink::run(backend, seed, &a.steps, Bugs::default()))));
        for [first, second] in &mut runs {
            assert_eq!(first, second, "seed {seed}");
        }
    }
}

#[test]
fn all_kinds_of_operations_and_faults_are_generated() {
    let (mut operations, mut faults) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    let first = |text: String| text.split([' ', '{']).next().unwrap_or_default().to_string();
    for seed in 0..20 {
        for step in History::new(seed, 500).steps {
            operations.insert(first(format!("{:?}", step.op)));
            faults.extend(step.fault.map(|fault| first(format!("{fault:?}"))));
        }
    }
    assert_eq!(operations.len(), 35, "{operations:?}");
    assert_eq!(faults.len(), 5, "{faults:?}");
}
