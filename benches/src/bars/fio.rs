//! Random 4 KiB reads and overwrites in memory (/dev/shm): the library in this process, and fio with our engine on a volume, beside fio with
//! its psync engine on a file of the same size. Rounds are interleaved. fio is told nothing but to go by time, in one thread, and to invalidate no cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use archipelago_core::{InitOptions, Location, Mode, Store, StoreOptions};
use serde_json::Value;

use super::io::{Kind, create, library, prepare, turn};
use super::ratio::Ratio;
use super::{Failure, Options, Outcome, Scratch};

/// Interleaved rounds.
const ROUNDS: u64 = 15;
/// Length of a turn unless asked otherwise.
const TURN: Duration = Duration::from_millis(500);
/// Size of the volumes and of the file.
const SIZE: u64 = 256 << 20;
/// Where they are.
const MEMORY: &str = "/dev/shm";

/// Prints the ratios.
pub fn run(_dir: &Path, options: &Options) -> Outcome {
    let scratch = Scratch::new(Path::new(MEMORY), "fio")?;
    let (engine, file) = (engine(&scratch.0)?, scratch.0.join("file"));
    prepare(&file, SIZE)?;
    let path = scratch.0.join("store");
    let location = Location::File(path.clone());
    Store::init(&location, &InitOptions::default())?;
    let store = Store::open(&location, StoreOptions::default())?;
    // The library has one open, fio the other.
    for name in ["volume-1", "volume-2"] {
        create(&store, name)?;
    }
    let volume = store.open_volume("volume-1", Mode::ReadWrite)?;
    let ours = [
        format!("--ioengine=external:{}", engine.display()),
        format!("--store=file:{}", path.display()),
        "--filename=volume-2".into(),
    ];
    let psync = ["--ioengine=psync".into(), format!("--filename={}", file.display())];
    let time = options.turn.unwrap_or(TURN);
    println!("requests per second, and microseconds of processor time for each (median); then ratios (quartiles)");
    for kind in [Kind::Read, Kind::Overwrite] {
        for depth in [1, 32] {
            let mut turns = [Vec::new(), Vec::new(), Vec::new()];
            for round in 1..=ROUNDS {
                turns[0].push(turn(&mut *library::contender(&volume, depth), kind, time, round)?);
                for (arguments, turns) in [&ours[..], &psync].iter().zip(&mut turns[1..]) {
                    turns.push(fio(arguments, kind, depth, time)?);
                }
            }
            let case = format!("{} of 4 KiB, depth {depth}", kind.name());
            println!("{case}");
            for (name, turns) in ["library", "fio, our engine", "fio, psync"].iter().zip(&turns) {
                let median =
                    |of: fn(&(f64, f64)) -> f64| super::quartiles(&mut turns.iter().map(of).collect::<Vec<_>>()).0;
                println!("  {name:<16} {:>9.0} {:>7.2}", median(|t| t.0), median(|t| t.1));
            }
            for (what, goal, own) in [("the library", 1.1, &turns[0]), ("our engine", 0.9, &turns[1])] {
                let of =
                    |value: fn(&(f64, f64)) -> f64| own.iter().zip(&turns[2]).map(move |(a, b)| value(a) / value(b));
                let ratio =
                    |what: &str, goal, at_most| Ratio::new("fio in memory", &case, what, "fio psync", goal, at_most);
                ratio(&format!("rate of {what}"), Some(goal), false).of(of(|t| t.0)).print(options.json)?;
                ratio(&format!("processor time of {what}"), None, true).of(of(|t| t.1)).print(options.json)?;
            }
        }
    }
    Ok(())
}

/// Requests per second, and microseconds of the job's processor time for each.
fn fio(arguments: &[String], kind: Kind, depth: usize, time: Duration) -> Result<(f64, f64), Failure> {
    let (rw, field) = if kind == Kind::Read { ("randread", "read") } else { ("randwrite", "write") };
    let mut command = Command::new("fio");
    command.args(["--name=job", "--output-format=json", "--thread", "--bs=4k", "--time_based", "--invalidate=0"]);
    command.arg(format!("--rw={rw}")).arg(format!("--iodepth={depth}")).arg(format!("--size={SIZE}"));
    let output = command.arg(format!("--runtime={}ms", time.as_millis())).args(arguments).output();
    let output = output.map_err(|e| format!("fio: {e}; `make bench` installs what is needed"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = || format!("fio: {}{text}", String::from_utf8_lossy(&output.stderr));
    // Warnings come before the document.
    let report: Value = serde_json::from_str(&text[text.find('{').ok_or_else(failed)?..])?;
    let job = &report["jobs"][0];
    let number = |value: &Value| value.as_f64().ok_or_else(failed);
    let (count, millis) = (number(&job[field]["total_ios"])?, number(&job["job_runtime"])?);
    if !output.status.success() || count == 0.0 {
        return Err(failed().into());
    }
    let percent = number(&job["usr_cpu"])? + number(&job["sys_cpu"])?;
    Ok((number(&job[field]["iops"])?, percent * 10.0 * millis / count))
}

/// Our engine, compiled for the installed fio and the library beside this program.
fn engine(dir: &Path) -> Result<PathBuf, Failure> {
    let beside = std::env::current_exe()?.with_file_name("");
    let ffi = Path::new(env!("CARGO_MANIFEST_DIR")).join("../archipelago-ffi");
    let version = output(Command::new("fio").arg("--version"))?;
    let headers = beside.join(format!("headers-{}", version.trim()));
    output(Command::new(ffi.join("examples/fio-headers")).arg(&headers))?;
    let (library, engine) = (beside.join("libarchipelago"), dir.join("engine.so"));
    let mut compile = Command::new("cc");
    compile.args(["-std=gnu11", "-O2", "-shared", "-fPIC", "-isystem"]).arg(headers);
    compile.arg(ffi.join("examples/fio-engine.c")).arg("-I").arg(ffi.join("../include"));
    compile.arg("-L").arg(&library).arg("-larchipelago").arg(format!("-Wl,-rpath,{}", library.display()));
    output(compile.arg("-o").arg(&engine))?;
    Ok(engine)
}

/// What a program says if it succeeds.
fn output(command: &mut Command) -> Result<String, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{name}: {e}; `make bench` installs what is needed"))?;
    if !output.status.success() {
        return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
