//! Instructions in user space for one request: this program runs itself under valgrind with two numbers of requests, and the difference
//! is what they cost. The same on any machine, however busy.

use std::path::{Path, PathBuf};
use std::process::Command;

use archipelago_core::{
    Background, CreateOptions, InitOptions, Location, Mode, ScrubOptions, Store, StoreOptions, Volume,
};

use crate::bars::{Failure, Numbers, Outcome, Scratch};

/// Size of the volume; small, for under valgrind everything takes fifty times as long.
const SIZE: u64 = 16 << 20;
/// Requests of the two runs.
const COUNTS: [u64; 2] = [1000, 3000];
/// Block size of the fragmented map. With [`WRITTEN_LATER`] it has 1280 runs of sectors, in a tree of two levels.
const SMALL_BLOCK: u64 = 64 << 10;
/// Sectors of each of its blocks that lie elsewhere than their neighbours. With many more a checkpoint would compose the block.
const WRITTEN_LATER: [u64; 2] = [4, 12];
/// What is counted, and how many instructions it may take.
const CASES: [(&str, Option<u64>); 7] = [
    ("read", Some(600)),
    ("read-fragmented", Some(1000)),
    ("overwrite", None),
    ("read-queued", None),
    ("read-snapshot", None),
    ("read-compared", None),
    ("pread", None),
];

/// Prints the instructions for each case.
pub fn run(dir: &Path) -> Outcome {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("instructions: left out, valgrind is not installed");
        return Ok(());
    }
    for (case, most) in CASES {
        let mut totals = [0; 2];
        for (total, count) in totals.iter_mut().zip(COUNTS) {
            let scratch = Scratch::new(dir, "instructions")?;
            *total = counted(&scratch.0, case, count)?;
        }
        let each = (totals[1] - totals[0]) as f64 / (COUNTS[1] - COUNTS[0]) as f64;
        let bar = most.map_or(String::new(), |most| format!("; bar {most}"));
        println!("instructions, {case}: {each:.0}{bar}");
    }
    Ok(())
}

/// Instructions of a run of this program.
fn counted(dir: &Path, case: &str, count: u64) -> Result<u64, Failure> {
    let out = dir.join("callgrind.out");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", &format!("--callgrind-out-file={}", out.display())]);
    command.arg(std::env::current_exe()?).args(["--dir", &dir.display().to_string()]);
    command.args(["--instructions", case, &count.to_string()]);
    let ended = command.output()?;
    if !ended.status.success() {
        return Err(format!("valgrind: {}", String::from_utf8_lossy(&ended.stderr)).into());
    }
    let text = std::fs::read_to_string(&out)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).ok_or("valgrind counted nothing")?;
    Ok(total.trim().parse()?)
}

/// Makes `count` requests of one kind; run under valgrind.
pub fn work(dir: &Path, case: &str, count: u64) -> Outcome {
    let mut buf = vec![3; 4096];
    let mut numbers = Numbers(1);
    let mut at = || numbers.next() % (SIZE / 4096) * 4096;
    if case == "pread" {
        use std::os::unix::fs::FileExt;
        let path: PathBuf = dir.join("file");
        std::fs::write(&path, vec![7; SIZE as usize])?;
        let file = std::fs::File::open(&path)?;
        (0..count).try_for_each(|_| file.read_exact_at(&mut buf, at()))?;
        return Ok(());
    }
    let volume = volume(dir, case)?;
    match case {
        "overwrite" => (0..count).try_for_each(|_| volume.write_at(&buf, at()))?,
        "read-queued" => {
            let queue = archipelago_core::CompletionQueue::new();
            let mut ended = Vec::with_capacity(1);
            for _ in 0..count {
                let operation = archipelago_core::Operation::Read { buf: std::mem::take(&mut buf), offset: at() };
                volume.submit(operation, 0, &queue).map_err(|(error, _)| error)?;
                queue.wait(&mut ended, 1, None);
                for completion in ended.drain(..) {
                    completion.result?;
                    buf = completion.buf;
                }
            }
        }
        _ => (0..count).try_for_each(|_| volume.read_at(&mut buf, at()))?,
    }
    Ok(())
}

fn volume(dir: &Path, case: &str) -> Result<Volume, Failure> {
    let location = Location::File(dir.join("store"));
    Store::init(&location, &InitOptions::default())?;
    let options = StoreOptions { background: Background::Manual, ..StoreOptions::default() };
    let store = Store::open(&location, options)?;
    let fragmented = case == "read-fragmented";
    store.create("volume", &CreateOptions { size: SIZE, block_size: fragmented.then_some(SMALL_BLOCK) })?;
    let volume = store.open_volume("volume", Mode::ReadWrite)?;
    for at in (0..SIZE).step_by(4 << 20) {
        volume.write_at(&vec![7; 4 << 20], at)?;
    }
    if fragmented {
        // After a snapshot, so that they go into the journal.
        volume.snapshot("image-snapshot")?;
        for base in (0..SIZE).step_by(SMALL_BLOCK as usize) {
            WRITTEN_LATER.iter().try_for_each(|sector| volume.write_at(&[5; 4096], base + sector * 4096))?;
        }
    }
    volume.checkpoint()?;
    if !matches!(case, "read-snapshot" | "read-compared") {
        return Ok(volume);
    }
    volume.snapshot("image-snapshot")?;
    volume.checkpoint()?;
    if case == "read-compared" {
        store.scrub(&ScrubOptions::default(), &mut |_| true)?;
    }
    Ok(store.open_volume("image-snapshot", Mode::ReadOnly)?)
}
