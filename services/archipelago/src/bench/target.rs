//! Who carries out requests, and how one is opened.
//!
//! A target has a buffer for each request that may be under way, and knows a request by the number of its buffer, the tag.

use std::time::{Duration, Instant};

use archipelago_core::Store;

use super::args::{Bench, Op, YesNo};
use super::limits::{PING, PING_PAUSE};
use super::plan::{self, Objects, Plan, Request};
use crate::cli::exit::Failure;
use crate::nbd::uri::Uri;

mod catalogue;
mod engine;
mod file;
mod nbd;
#[allow(unsafe_code)]
mod ring;

/// The end of a request.
#[derive(Debug)]
pub struct Ended {
    /// Its buffer.
    pub tag: usize,
    /// How it went.
    pub result: Result<(), Failure>,
}

/// How often and how long an engine did not admit writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stalls {
    /// How often.
    pub count: u64,
    /// The longest.
    pub longest: Duration,
}

/// One who carries out requests. An error of a method means that nothing more can be asked of it.
pub trait Target {
    /// What it is, for people.
    fn describe(&self) -> String;
    /// The buffer of a tag that is not under way: for what is written, and with what was read.
    fn buffer(&mut self, tag: usize) -> &mut [u8];
    /// Begins a request; may wait for its end if there is one at a time.
    fn start(&mut self, tag: usize, request: Request) -> Result<(), Failure>;
    /// Waits until at least one request ended, and adds those that did to `ended`.
    fn wait(&mut self, ended: &mut Vec<Ended>) -> Result<(), Failure>;
    /// Makes durable what was written. Nothing is under way.
    fn flush(&mut self) -> Result<(), Failure>;
    /// Processor time of another process that does the work, if it can be seen.
    fn served_by(&self) -> Option<Duration> {
        None
    }
    /// What the engine says about writes that it did not admit, since it was opened.
    fn stalls(&self) -> Option<Stalls> {
        None
    }
    /// How often the bytes of a request are copied by a processor, if that is known.
    fn copies(&self) -> Option<u32> {
        None
    }
}

/// A target that is ready, and what is to be done with it.
pub struct Open {
    /// What is to be done.
    pub plan: Plan,
    /// Who does it.
    pub target: Box<dyn Target>,
}

/// Opens what the options name. `store` opens the store, `stopped` says when not to wait any longer.
pub fn open(
    args: &Bench,
    store: &dyn Fn() -> Result<Store, Failure>,
    stopped: &dyn Fn() -> Result<(), Failure>,
) -> Result<Open, Failure> {
    let begin = Instant::now();
    loop {
        let failure = match open_now(args, store) {
            Err(failure) if args.ping == YesNo::Yes && !matches!(failure, Failure::Usage(_) | Failure::HasData(_)) => {
                failure
            }
            done => return done,
        };
        stopped()?;
        if begin.elapsed() > PING {
            return Err(failure);
        }
        std::thread::sleep(PING_PAUSE);
    }
}

fn open_now(args: &Bench, store: &dyn Fn() -> Result<Store, Failure>) -> Result<Open, Failure> {
    let open = |plan, target| Ok(Open { plan, target });
    match &args.target {
        Some(uri) if Uri::is_meant(uri) => {
            if args.direct {
                return Err(Failure::Usage("--direct is for block devices and files".into()));
            }
            let (plan, target) = nbd::open(args, uri)?;
            open(plan, Box::new(target))
        }
        Some(path) => {
            let (plan, target) = file::open(args, path.as_ref())?;
            open(plan, target)
        }
        None => {
            let objects = plan::volumes(args);
            if let Op::Info | Op::Delete = args.op {
                if let (Op::Delete, Objects::Named(name), false) = (args.op, &objects, args.overwrite) {
                    return Err(Failure::HasData(name.clone()));
                }
                let plan = Plan::new(args, objects, None)?;
                let target = catalogue::Catalogue::new(store()?, &plan);
                return open(plan, Box::new(target));
            }
            // What makes no sense is refused before the store is looked at.
            if let Objects::Numbered { .. } = objects {
                Plan::new(args, objects.clone(), None)?;
            }
            let (plan, target) = engine::open(args, objects, &store()?)?;
            open(plan, Box::new(target))
        }
    }
}
