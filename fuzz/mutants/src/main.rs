//! Whether the simulator notices small changes of the engine: `make mutants`, docs/mutants.md.
//!
//! `cargo mutants --list --json` says which changes there are. All of them are woven into one copy of the sources, each behind a
//! question that is answered when the program runs ([`weave`]); those that the compiler refuses are left out. So the
//! simulator is built once, and then run once for each mutant until a history fails. A run that was ended goes on where it was.

mod list;
mod weave;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use list::Mutant;

/// The crate whose simulator is run.
const CRATE: &str = "archipelago-core";
/// Rounds of compiling and leaving out: type errors hide those of borrows.
const MOST_ROUNDS: usize = 12;
/// Lines above an error in which the mutant may be that is to blame for it.
const NEAR: usize = 4;
/// Memory that a run may take, in KiB: a mutant may allocate without end.
const MOST_MEMORY: u64 = 8 << 20;
/// What is asked while the program runs.
const QUESTION: &str = "
/// The mutant of this run.
#[inline]
pub(crate) fn mutant() -> u32 {
    static MUTANT: std::sync::LazyLock<u32> =
        std::sync::LazyLock::new(|| std::env::var(\"MUTANT\").ok().and_then(|n| n.parse().ok()).unwrap_or(0));
    *MUTANT
}
";

type Done<T> = Result<T, Box<dyn Error>>;

/// What a run is given.
struct Settings {
    /// List of mutants.
    list: PathBuf,
    /// Scratch directory: sources, target, results.
    work: PathBuf,
    /// Histories of each run.
    histories: u64,
    /// Mutants to run, of all that compile; 0 is all.
    sample: usize,
    /// Which of them.
    seed: u64,
    /// Seconds of processor time after which a run counts as endless.
    seconds: u64,
}

fn settings() -> Done<Settings> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().ok_or_else(|| format!("{what} is missing"));
    Ok(Settings {
        list: next("list of mutants")?.into(),
        work: next("scratch directory")?.into(),
        histories: next("number of histories")?.parse()?,
        sample: next("number of mutants")?.parse()?,
        seed: next("seed of the sample")?.parse()?,
        seconds: next("limit in seconds")?.parse()?,
    })
}

/// What is run: results of other sources are kept apart.
fn commit() -> Done<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_string())
}

/// Copies what git does not ignore in the current directory; files that are as they were keep their times.
fn copy_sources(to: &Path) -> Done<()> {
    let listed = Command::new("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).output()?;
    for file in String::from_utf8(listed.stdout)?.split('\0').filter(|file| !file.is_empty()) {
        if Path::new(file).is_file() {
            write_if_new(&to.join(file), &fs::read(file)?)?;
        }
    }
    Ok(())
}

fn write_if_new(path: &Path, bytes: &[u8]) -> Done<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    Ok(fs::write(path, bytes)?)
}

/// Weaves all mutants into the copy but those that are `refused`; returns what became of each file.
fn weave_all(sources: &Path, mutants: &[Mutant], refused: &BTreeSet<u32>) -> Done<BTreeMap<PathBuf, weave::Woven>> {
    let mut files: BTreeMap<&Path, Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants.iter().filter(|mutant| !refused.contains(&mutant.id)) {
        files.entry(&mutant.file).or_default().push(mutant);
    }
    let mut woven = BTreeMap::new();
    for (file, mutants) in files {
        let source = fs::read_to_string(file)?;
        let result = weave::weave(&source, &mutants).map_err(|error| format!("{}: {error}", file.display()))?;
        write_if_new(&sources.join(file), result.text.as_bytes())?;
        woven.insert(file.to_path_buf(), result);
    }
    let root = Path::new(CRATE).join("src/lib.rs");
    let text = fs::read_to_string(&root)? + QUESTION;
    write_if_new(&sources.join(&root), text.as_bytes())?;
    Ok(woven)
}

/// Builds the simulator on what was woven. The program, if there is one, and what the compiler said.
fn build(settings: &Settings) -> Done<(Option<PathBuf>, Vec<serde_json::Value>)> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["test", "--no-run", "--test", "simulator", "-p", CRATE, "--locked", "--profile", "sim"])
        .args(["--message-format", "json"])
        .current_dir(settings.work.join("src"))
        .env("CARGO_TARGET_DIR", settings.work.join("target"))
        .stderr(std::process::Stdio::inherit())
        .output()?;
    let messages = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<serde_json::Value> =
        messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let program = messages.iter().filter_map(|m| m["executable"].as_str()).next_back().map(PathBuf::from);
    Ok((program.filter(|_| output.status.success()), messages))
}

/// The mutants that the errors of a compilation are about.
fn blamed(messages: &[serde_json::Value], woven: &BTreeMap<PathBuf, weave::Woven>) -> Done<BTreeSet<u32>> {
    let mut blamed = BTreeSet::new();
    for message in messages.iter().map(|m| &m["message"]).filter(|m| m["level"] == "error") {
        let spans = message["spans"].as_array().map_or(&[][..], Vec::as_slice);
        let places = spans.iter().filter_map(|span| {
            let file = woven.get(Path::new(span["file_name"].as_str()?))?;
            Some((file, span["line_start"].as_u64()? as usize, span["line_end"].as_u64()? as usize))
        });
        let places: Vec<_> = places.collect();
        let by = |test: &dyn Fn(&weave::Woven, usize, usize) -> Vec<u32>| -> Vec<u32> {
            places.iter().flat_map(|(file, from, to)| test(file, *from, *to)).collect()
        };
        let mut found = by(&|file, from, to| file.exactly(from, to));
        // What is said of the original code is due to a mutant beside it, or at the beginning of the body.
        for above in [0, NEAR] {
            if found.is_empty() {
                found = by(&|file, from, to| file.near(from.saturating_sub(above), to));
            }
        }
        if found.is_empty() && !spans.is_empty() {
            return Err(format!("no mutant is to blame for: {}", message["rendered"]).into());
        }
        blamed.extend(found);
    }
    Ok(blamed)
}

/// Weaves until the compiler takes all that is left; returns the program, and the numbers of the mutants in it.
fn weave_what_compiles(settings: &Settings, mutants: &[Mutant]) -> Done<(PathBuf, Vec<u32>)> {
    let mut refused = BTreeSet::new();
    for round in 1..=MOST_ROUNDS {
        let woven = weave_all(&settings.work.join("src"), mutants, &refused)?;
        let (program, messages) = build(settings)?;
        let mut inside: Vec<u32> = woven.values().flat_map(|file| file.inside.iter().copied()).collect();
        if let Some(program) = program {
            inside.sort_unstable();
            return Ok((program, inside));
        }
        let blamed = blamed(&messages, &woven)?;
        println!("round {round}: {} woven, {} of them do not compile", inside.len(), blamed.len());
        if blamed.is_empty() {
            return Err("the simulator cannot be built".into());
        }
        refused.extend(blamed);
    }
    Err(format!("mutants are still refused after {MOST_ROUNDS} rounds").into())
}

/// How a run ended: `caught`, `endless` or `survived`.
fn run(settings: &Settings, program: &Path, id: u32) -> Done<&'static str> {
    let limits = format!("ulimit -t {} -v {MOST_MEMORY}; exec \"$0\" histories_with_faults", settings.seconds);
    let status = Command::new("timeout")
        .args(["--signal=KILL", &(settings.seconds * 20).to_string(), "bash", "-c", &limits])
        .arg(program)
        .env("MUTANT", id.to_string())
        .env("SIM_HISTORIES", settings.histories.to_string())
        .envs([("SIM_THREADS", "1"), ("SIM_SHRINK", "0"), ("RUST_BACKTRACE", "0")])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()?;
    const KILLS: [i32; 2] = [9, 24];
    Ok(match (status.code(), status.signal()) {
        (Some(0), _) => "survived",
        (Some(code), _) if KILLS.contains(&(code - 128)) => "endless",
        (None, Some(signal)) if KILLS.contains(&signal) => "endless",
        _ => "caught",
    })
}

fn main() -> Done<()> {
    let settings = settings()?;
    let mutants = list::read(&fs::read_to_string(&settings.list)?)?;
    copy_sources(&settings.work.join("src"))?;
    let (program, inside) = weave_what_compiles(&settings, &mutants)?;
    println!("{} mutants listed, {} woven and compiled", mutants.len(), inside.len());
    if run(&settings, &program, 0)? != "survived" {
        return Err("the simulator fails, or runs into the limit, without any mutant".into());
    }
    let count = if settings.sample == 0 { inside.len() } else { settings.sample };
    let results = settings.work.join(format!("results-{}.tsv", commit()?));
    let before = fs::read_to_string(&results).unwrap_or_default();
    let done: BTreeSet<&str> = before.lines().filter_map(|line| line.split('\t').nth(2)).collect();
    let mut file = fs::OpenOptions::new().create(true).append(true).open(&results)?;
    for id in list::sample(inside.len(), count, settings.seed).into_iter().map(|at| inside[at]) {
        let mutant = &mutants[id as usize - 1];
        if done.contains(mutant.name.as_str()) {
            continue;
        }
        let start = Instant::now();
        let outcome = run(&settings, &program, id)?;
        writeln!(file, "{outcome}\t{:.1}\t{}", start.elapsed().as_secs_f64(), mutant.name)?;
    }
    let all = fs::read_to_string(&results)?;
    let count = |what: &str| all.lines().filter(|line| line.starts_with(what)).count();
    println!("{} caught, {} endless, {} survived", count("caught"), count("endless"), count("survived"));
    all.lines().filter(|line| line.starts_with("survived")).for_each(|line| println!("{line}"));
    Ok(())
}
