//! A store: whether it opens, who has it open, what is damaged, and what was set aside.

use std::fs;
use std::path::Path;

use archipelago_core::{Error, ListOptions, Store};
use serde_json::json;

use super::Findings;

/// Names that are damaged, and things set aside, that are told one by one.
const SHOWN: usize = 20;
/// How far the time of a snapshot may lie ahead of the clock, in seconds: clocks are set, and not all at once.
const AHEAD: u64 = 3600;

/// Why a store could not be opened.
pub fn unopened(error: &Error, findings: &mut Findings) {
    let advice = match error {
        Error::NoStore(_) => "make one with `archipelago init`, or name another with --store",
        Error::TooNew { .. } => {
            "install the version of archipelago that made it, or a later one; this one changes nothing there"
        }
        Error::Damaged { .. } => {
            "put `archipelago.store` back from a backup; it is written once, when the store is made"
        }
        Error::Unsupported(_) | Error::Timeout(_) => "see docs/operations.md, \"A store in a Ceph cluster\"",
        Error::Io { .. } => "look at the permissions of its directories, and for errors of the disk in `dmesg`",
        _ => "see docs/operations.md",
    };
    findings.error("store", error.to_string(), advice);
}

/// Looks at an open store. `now` is in seconds since 1970.
pub fn examine(store: &Store, path: Option<&Path>, now: u64, findings: &mut Findings) -> Result<(), Error> {
    let own = store.process().map(str::to_string);
    // Whoever answers, answers something; that it is no question of anybody's does not matter.
    for (owner, answer) in store.ask_processes(&json!("doctor"))? {
        if let Err(Error::Timeout(who)) = answer {
            findings.warning(
                "process",
                format!("{who}: does not answer: it is stopped, or busy beyond measure"),
                format!("`kill -CONT {}`, or end it; until then nothing is collected, and its volumes cannot be snapshotted", owner.pid),
            );
        }
    }
    for process in store.status()?.processes {
        if Some(&process.owner.process) == own.as_ref() {
            continue;
        }
        if let Some(trouble) = process.trouble {
            let who = format!("{} (pid {})", process.owner.command, process.owner.pid);
            findings.warning("trouble", format!("{who}: {trouble}"), "look at its log, and run `archipelago check`");
        }
    }
    maps(store, now, findings)?;
    path.into_iter().for_each(|path| aside(path, findings));
    Ok(())
}

/// Looks at every name.
fn maps(store: &Store, now: u64, findings: &mut Findings) -> Result<(), Error> {
    let mut options = ListOptions::default();
    let (mut damaged, mut ahead) = (0, None);
    loop {
        let page = store.list(&options)?;
        for entry in page.damaged {
            damaged += 1;
            if damaged <= SHOWN {
                let advice = "`archipelago check` says what is lost, and --repair puts right what can be";
                findings.error("damage", entry.message, advice);
            }
        }
        for info in page.entries {
            if info.created > now.saturating_add(AHEAD) {
                ahead.get_or_insert(info.name);
            }
        }
        if page.next.is_none() {
            break;
        }
        options.after = page.next;
    }
    if damaged > SHOWN {
        findings.error("damage", format!("{} more names are damaged", damaged - SHOWN), "see `archipelago list`");
    }
    if let Some(name) = ahead {
        let what = format!("{name}: was made later than the clock says it is now");
        findings.warning("clock", what, "set the clock (`timedatectl`): it went back, or was wrong when that was made");
    }
    Ok(())
}

/// Looks at what repairs set aside.
fn aside(path: &Path, findings: &mut Findings) {
    let Ok(entries) = fs::read_dir(path.join("lost")) else { return };
    let count = entries.filter_map(Result::ok).count();
    if count > 0 {
        findings.warning(
            "lost",
            format!("a repair set {count} damaged headers aside, in lost/"),
            "put a backup of what they were back, then remove them; until then `check` looks for no leaks, and nothing is collected",
        );
    }
}
