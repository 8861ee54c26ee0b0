//! The measurements, one file each, and what they share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::real_sys::RealSys;
use archipelago_core::{InitOptions, Location, Store, StoreOptions};

use crate::count::CountingSys;

pub mod check;
pub mod clone;
pub mod depth;
pub mod digests;
pub mod fio;
pub mod first;
pub mod freeze;
pub mod fuse;
pub mod gc;
pub mod hash;
pub mod io;
pub mod kernels;
pub mod meta;
pub mod nbd;
pub mod ratio;
pub mod rbd;
pub mod send;
pub mod space;
pub mod sums;
pub mod vhost;

/// How a measurement ends.
pub type Outcome = Result<(), Failure>;
/// What ends one early.
pub type Failure = Box<dyn std::error::Error>;

/// What the command line says besides the groups.
pub struct Options {
    /// How long one turn of one contender is, where turns are interleaved; what the group thinks best without.
    pub turn: Option<Duration>,
    /// A line of JSON for each ratio, where the group has them.
    pub json: bool,
}

/// A directory that is removed at the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// Under `dir`.
    pub fn new(dir: &Path, name: &str) -> std::io::Result<Scratch> {
        let path = dir.join(format!("archipelago-bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A fresh store whose system calls are counted.
pub fn counted(path: &Path, options: StoreOptions) -> Result<(Store, Arc<CountingSys>), Box<dyn std::error::Error>> {
    Store::init(&Location::File(path.to_path_buf()), &InitOptions::default())?;
    counted_again(path, options)
}

/// A store that is there, opened anew: nothing of it is cached in this process, and its system calls are counted.
pub fn counted_again(
    path: &Path,
    options: StoreOptions,
) -> Result<(Store, Arc<CountingSys>), Box<dyn std::error::Error>> {
    let sys = CountingSys::new(RealSys::open(path, u32::MAX, u32::MAX)?);
    let blocker = Arc::new(FileBlocker::new(sys.clone(), FileOptions::default()));
    Ok((Store::open_on(blocker, options)?, sys))
}

/// Time that a job took.
pub fn timed<T>(job: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let value = job();
    (value, start.elapsed())
}

/// Median, lower and upper quartile.
pub fn quartiles(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |q: f64| values.get(((values.len() - 1) as f64 * q).round() as usize).copied().unwrap_or(f64::NAN);
    (at(0.5), at(0.25), at(0.75))
}

/// CPU time of this process, all threads, user and system.
pub fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let main: u64 = stat.split_whitespace().next().and_then(|s| s.parse().ok()).unwrap_or(0);
    Duration::from_nanos(main)
}

/// A generator of numbers for places and data (xorshift64*, Vigna 2014).
pub struct Numbers(pub u64);

impl Numbers {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
