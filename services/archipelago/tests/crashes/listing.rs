//! Commands that must succeed once everything is up again: what the store lists, and what is done with leftovers.

use std::fs::File;
use std::process::Output;

use serde_json::Value;

use crate::history::Random;
use crate::names::Listed;
use crate::site::Site;

/// What the store lists. What an interrupted import has left is removed before; what an interrupted `receive` has left is removed
/// or completed.
pub fn listed(site: &Site, random: &mut Random) -> Result<Listed, String> {
    let mut listed = Listed::new();
    let document = document(site, &["list"])?;
    for entry in document["entries"].as_array().ok_or("no entries")? {
        let name = entry["name"].as_str().ok_or("no name")?.to_string();
        listed.insert(name, (entry["size"].as_u64().ok_or("no size")?, entry["kind"] == "snapshot"));
    }
    let left = |name: &&String| name.ends_with(".importing") || name.ends_with(".receiving");
    let Some(left) = listed.keys().find(left) else { return Ok(listed) };
    match left.strip_suffix(".receiving") {
        Some(name) if random.below(2) == 0 => receive_the_rest(site, name)?,
        _ => drop(succeeds(site, &["remove", left])?),
    }
    self::listed(site, random)
}

/// Goes on with an interrupted stream.
fn receive_the_rest(site: &Site, name: &str) -> Result<(), String> {
    let status = document(site, &["receive", "--status", name])?;
    let token = status["token"].as_str().ok_or("no token")?;
    let rest = site.text("rest");
    match status["base"].is_null() {
        true => send(site, &["golden", "--resume", token], &rest)?,
        false => send(site, &["golden-2", "--from", "golden", "--resume", token], &rest)?,
    }
    let output = site.command(&["receive", name]).stdin(File::open(rest).unwrap()).output();
    said(output.unwrap()).map(drop).map_err(|e| format!("receive {name}, resumed: {e}"))
}

/// Sends a snapshot to a file.
pub fn send(site: &Site, arguments: &[&str], file: &str) -> Result<(), String> {
    let output = site.command(&[&["send"], arguments].concat()).stdout(File::create(file).unwrap()).output();
    said(output.unwrap()).map(drop).map_err(|e| format!("send {arguments:?}: {e}"))
}

/// Runs a command; returns what it printed.
pub fn succeeds(site: &Site, arguments: &[&str]) -> Result<String, String> {
    said(site.run(arguments)).map_err(|e| format!("{arguments:?}: {e}"))
}

fn document(site: &Site, arguments: &[&str]) -> Result<Value, String> {
    let text = succeeds(site, &[arguments, &["--json"]].concat())?;
    serde_json::from_str(&text).map_err(|e| format!("{arguments:?}: {e}: {text}"))
}

/// What a command printed, or its error and what it printed.
fn said(output: Output) -> Result<String, String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(text),
        false => Err(format!("{}: {}{text}", output.status, String::from_utf8_lossy(&output.stderr))),
    }
}
