//! Measurements of the engine against its peers, side by side in one run.
//!
//! `archipelago-benches [--dir DIR] [--seconds SECONDS] [--json] [GROUP...]`: groups are `meta` (bytes of snapshot and clone), `clone` (durable
//! clones), `first` (first writes into a clone), `depth` (reads after a thousand snapshots), `hash` (hashing a snapshot), `digests` (ten
//! million digests), `check` and `gc` (map entries that are checked, or walked by a collection, per second), `send` (what an incremental
//! send reads), `sums` (what comparing checksums costs a read, and how fast a scrub goes), `freeze` (how long snapshots stop writes) ,
//! `space` (what snapshots that come and go leave behind), `io` (reads and overwrites beside plain calls and io_uring, and what a
//! request costs in instructions), `direct` (the same past the page cache, beside io_uring), `nbd` (the server of network block devices
//! beside others), `volumes` (the same server with many volumes), `vhost` (the server of virtual machines beside another), `fuse` (volumes
//! as files and block devices), `fio` (the library and fio with our engine beside fio's own, in memory), `kernels` (the loops in which
//! requests spend their time) and `rbd` (a store in Ceph beside librbd, where there is a cluster: `make bench-rbd`); all of them
//! without any. `--seconds` is how long each turn of the last nine takes. `--plot FILE
//! RESULTS...` draws the ratios that `--json` printed.

mod bars;
mod count;
mod plot;

/// A measurement, made in a directory of its own.
type Bar = fn(&std::path::Path) -> bars::Outcome;
/// One whose turns have a length that can be chosen.
type Interleaved = fn(&std::path::Path, &bars::Options) -> bars::Outcome;

fn main() {
    let mut dir = std::env::temp_dir();
    let mut groups = Vec::new();
    let mut options = bars::Options { turn: None, json: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--dir" => match args.next() {
                Some(d) => dir = d.into(),
                None => fail("--dir needs a directory"),
            },
            "--seconds" => {
                match args.next().and_then(|text| std::time::Duration::try_from_secs_f64(text.parse().ok()?).ok()) {
                    Some(turn) => options.turn = Some(turn),
                    None => fail("--seconds needs a number"),
                }
            }
            "--json" => options.json = true,
            "--plot" => match args.next() {
                Some(file) => return draw(&file, args),
                None => fail("--plot needs the file to write, and files that measurements with --json wrote"),
            },
            // What `io` runs under valgrind.
            "--instructions" => match (args.next(), args.next().and_then(|count| count.parse().ok())) {
                (Some(case), Some(count)) => match bars::io::instructions(&dir, &case, count) {
                    Ok(()) => return,
                    Err(error) => fail(&error.to_string()),
                },
                _ => fail("--instructions needs a case and a number of requests"),
            },
            name if !name.starts_with('-') => groups.push(name.to_string()),
            other => fail(&format!("{other}: not known; see the head of benches/src/main.rs")),
        }
    }
    let wanted = |name: &str| groups.is_empty() || groups.iter().any(|g| g == name);
    let run: [(&str, Bar); 12] = [
        ("meta", bars::meta::run),
        ("clone", bars::clone::run),
        ("first", bars::first::run),
        ("depth", bars::depth::run),
        ("hash", bars::hash::run),
        ("digests", bars::digests::run),
        ("check", bars::check::run),
        ("gc", bars::gc::run),
        ("send", bars::send::run),
        ("sums", bars::sums::run),
        ("freeze", bars::freeze::run),
        ("space", bars::space::run),
    ];
    let interleaved: [(&str, Interleaved); 9] = [
        ("io", bars::io::run),
        ("direct", bars::io::direct::run),
        ("nbd", bars::nbd::run),
        ("volumes", bars::nbd::volumes),
        ("vhost", bars::vhost::run),
        ("fuse", bars::fuse::run),
        ("fio", bars::fio::run),
        ("kernels", bars::kernels::run),
        ("rbd", bars::rbd::run),
    ];
    for (name, job) in interleaved {
        if wanted(name) {
            println!("== {name}");
            if let Err(error) = job(&dir, &options) {
                fail(&format!("{name}: {error}"));
            }
        }
    }
    for (name, job) in run {
        if wanted(name) {
            println!("== {name}");
            if let Err(error) = job(&dir) {
                fail(&format!("{name}: {error}"));
            }
        }
    }
}

/// Draws what measurements printed.
fn draw(file: &str, results: impl Iterator<Item = String>) {
    let read = |path: String| {
        let file = std::fs::File::open(&path).map(std::io::BufReader::new);
        file.and_then(plot::read).unwrap_or_else(|e| fail(&format!("{path}: {e}")))
    };
    let ratios: Vec<_> = results.flat_map(read).collect();
    if ratios.is_empty() {
        fail("there is nothing to draw: name files that measurements with --json wrote");
    }
    if let Err(error) = std::fs::write(file, plot::draw(&ratios)) {
        fail(&format!("{file}: {error}"));
    }
}

fn fail(text: &str) -> ! {
    eprintln!("archipelago-benches: {text}");
    std::process::exit(1)
}
