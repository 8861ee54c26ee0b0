//! What the options come to for a target, or why they make no sense there; and which request comes when.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use archipelago_core::name;

use super::args::{Bench, Op, Pattern, Verify};
use super::content::Content;
use super::limits::{MAX_BUFFERS, MAX_OBJECTS, MAX_OPEN, MAX_REQUEST, SECTOR};
use super::order::{Order, mix};
use crate::cli::exit::Failure;
use crate::cli::size::human;

/// Size of an object that is not said, and not known.
const OBJECT_SIZE: u64 = 4 << 20;
/// Start of the names of objects that is not said.
const PREFIX: &str = "bench";

/// What the objects of a run are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objects {
    /// Volumes that are named by a prefix, the seed and a number.
    Numbered {
        /// Start of the names.
        prefix: String,
    },
    /// One volume.
    Named(String),
    /// One export, device or file.
    Target,
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Facts about a volume.
    Info,
    /// Remove a volume.
    Delete,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Read, Kind::Write, Kind::Info, Kind::Delete];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Info => "info",
            Kind::Delete => "delete",
        }
    }

    /// Whether bytes are moved.
    pub fn moves_bytes(self) -> bool {
        matches!(self, Kind::Read | Kind::Write)
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub kind: Kind,
    /// Number of the object.
    pub object: u64,
    /// First byte in it.
    pub offset: u64,
}

/// All that is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is asked for.
    pub op: Op,
    /// Of a hundred mixed requests, so many are reads.
    pub reads: u8,
    /// The order.
    pub pattern: Pattern,
    /// The objects.
    pub objects: Objects,
    /// How many.
    pub count: u64,
    /// Size of each in bytes.
    pub object_size: u64,
    /// Bytes of a request.
    pub request_size: u64,
    /// Requests until each has occurred once.
    pub requests: u64,
    /// Requests under way.
    pub depth: usize,
    /// How long to go on over and over.
    pub runtime: Option<Duration>,
    /// For names, order and content.
    pub seed: u32,
    /// What is compared.
    pub verify: Verify,
}

impl Plan {
    /// For objects of this kind, of which one that exists has `capacity` bytes.
    pub fn new(args: &Bench, objects: Objects, capacity: Option<u64>) -> Result<Plan, Failure> {
        check_combinations(args, &objects)?;
        let moves_bytes = !matches!(args.op, Op::Info | Op::Delete);
        if moves_bytes {
            check_request_size(args)?;
        }
        let object_size = object_size(args, &objects, capacity)?;
        let bound = |n: u64, most: u64, what: &str| {
            if n == 0 || n > most { usage(format!("{n} objects: 1 to {most} can be {what}")) } else { Ok(n) }
        };
        let (count, requests) = if !moves_bytes {
            let count = bound(args.to.unwrap_or(1), MAX_OBJECTS, "asked about or deleted")?;
            (count, count)
        } else {
            let each = object_size / args.bs;
            let (count, requests) = match args.ts {
                Some(total) if total == 0 || !total.is_multiple_of(args.bs) => {
                    return usage(format!("--ts {total}: not a multiple of --bs, {}", args.bs));
                }
                Some(total) => (total.div_ceil(object_size), total / args.bs),
                None => {
                    let count = args.to.unwrap_or(1);
                    (count, count.saturating_mul(each))
                }
            };
            if count > 1 && !matches!(objects, Objects::Numbered { .. }) {
                return usage(format!("--ts is more than the one object there is, of {}", human(object_size)));
            }
            (bound(count, MAX_OPEN, "open at once")?, requests)
        };
        let seed = args.seed.unwrap_or_else(chance);
        let plan = Plan {
            op: args.op,
            reads: args.reads,
            pattern: args.pattern,
            objects,
            count,
            object_size,
            request_size: args.bs,
            requests,
            depth: usize::from(args.iodepth),
            runtime: args.runtime.map(Duration::from_secs),
            seed,
            verify: args.verify,
        };
        if let Objects::Numbered { .. } = plan.objects {
            name::check(&plan.name(0))?;
        }
        Ok(plan)
    }

    /// Whether anything is written.
    pub fn writes(&self) -> bool {
        matches!(self.op, Op::Write | Op::Mixed)
    }

    /// What requests hold.
    pub fn content(&self) -> Content {
        Content::new(u64::from(self.seed), self.verify)
    }

    /// Name of an object; empty for what is not a volume.
    pub fn name(&self, object: u64) -> String {
        match &self.objects {
            Objects::Numbered { prefix } => format!("{prefix}-{:09}-{object:015}", self.seed),
            Objects::Named(name) => name.clone(),
            Objects::Target => String::new(),
        }
    }

    /// The requests from the first on, without an end.
    pub fn sequence(&self) -> Sequence<'_> {
        Sequence { plan: self, next: 0, pass: 0, order: self.order(0) }
    }

    /// The order of a pass.
    fn order(&self, pass: u64) -> Order {
        match self.pattern {
            Pattern::Seq => Order::sequential(self.requests),
            Pattern::Rand => Order::random(self.requests, mix(u64::from(self.seed)).wrapping_add(pass)),
        }
    }
}

/// The requests of a plan, pass after pass.
pub struct Sequence<'a> {
    plan: &'a Plan,
    /// Place of the next one in its pass.
    next: u64,
    pass: u64,
    order: Order,
}

impl Sequence<'_> {
    /// The next request.
    pub fn next(&mut self) -> Request {
        if self.next == self.plan.requests {
            (self.next, self.pass) = (0, self.pass + 1);
            self.order = self.plan.order(self.pass);
        }
        let number = self.order.at(self.next);
        self.next += 1;
        let kind = match self.plan.op {
            Op::Read => Kind::Read,
            Op::Write => Kind::Write,
            Op::Info => return Request { kind: Kind::Info, object: number, offset: 0 },
            Op::Delete => return Request { kind: Kind::Delete, object: number, offset: 0 },
            Op::Mixed => {
                let chance = mix(mix(u64::from(self.plan.seed) + self.pass) ^ number) % 100;
                if chance < u64::from(self.plan.reads) { Kind::Read } else { Kind::Write }
            }
        };
        let each = self.plan.object_size / self.plan.request_size;
        Request { kind, object: number / each, offset: number % each * self.plan.request_size }
    }
}

fn usage<T>(text: String) -> Result<T, Failure> {
    Err(Failure::Usage(text))
}

/// The objects that the options mean when no target is named.
pub fn volumes(args: &Bench) -> Objects {
    match &args.objname {
        Some(name) => Objects::Named(name.clone()),
        None => Objects::Numbered { prefix: args.prefix.clone().unwrap_or_else(|| PREFIX.into()) },
    }
}

fn check_combinations(args: &Bench, objects: &Objects) -> Result<(), Failure> {
    let one = *objects != Objects::Numbered { prefix: args.prefix.clone().unwrap_or_else(|| PREFIX.into()) };
    if one && args.to.is_some_and(|n| n != 1) {
        return usage("--to: there is one object".into());
    }
    if *objects == Objects::Target {
        if args.prefix.is_some() || args.objname.is_some() {
            return usage("--prefix and --objname name volumes of the store; a target is one object".into());
        }
    } else if args.direct {
        return usage("--direct is for block devices and files".into());
    }
    if let Op::Info | Op::Delete = args.op {
        if *objects == Objects::Target {
            return usage("info and delete are for volumes of the store".into());
        }
        if args.ts.is_some() || args.os.is_some() || args.verify != Verify::No || args.iodepth != 1 {
            return usage(
                "info and delete are one call after another, of no size: without --ts, --os, --verify and --iodepth"
                    .into(),
            );
        }
        if args.op == Op::Delete && args.runtime.is_some() {
            return usage("--runtime: a volume can be deleted once".into());
        }
        if !one && args.to.is_none() {
            return usage("say by --to how many volumes there are".into());
        }
    } else if !one && args.to.is_none() && args.ts.is_none() {
        return usage("say by --to how many objects there are, or by --ts how many bytes".into());
    }
    Ok(())
}

fn check_request_size(args: &Bench) -> Result<(), Failure> {
    if args.bs == 0 || args.bs > MAX_REQUEST || !args.bs.is_multiple_of(SECTOR) {
        return usage(format!("--bs {}: not a multiple of {SECTOR} up to {}", args.bs, human(MAX_REQUEST)));
    }
    if args.bs * u64::from(args.iodepth) > MAX_BUFFERS {
        return usage(format!("--bs times --iodepth: more than {}", human(MAX_BUFFERS)));
    }
    Ok(())
}

fn object_size(args: &Bench, objects: &Objects, capacity: Option<u64>) -> Result<u64, Failure> {
    let size = match (args.os, capacity) {
        (Some(size), Some(capacity)) if size > capacity => {
            return usage(format!("--os {size}: there are {capacity} bytes"));
        }
        (Some(size), _) => size,
        // All of it that whole requests cover.
        (None, Some(capacity)) => capacity - capacity % args.bs.max(1),
        (None, None) if matches!(objects, Objects::Named(_)) && args.op == Op::Write => {
            return usage("say by --os how large the volume is to be made".into());
        }
        (None, None) => OBJECT_SIZE,
    };
    if matches!(args.op, Op::Info | Op::Delete) {
        return Ok(size);
    }
    if size == 0 || !size.is_multiple_of(args.bs) {
        return usage(format!("object size {size}: not a multiple of --bs, {}", args.bs));
    }
    Ok(size)
}

/// A seed.
fn chance() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    (mix(now ^ u64::from(std::process::id()) << 40) % 1_000_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::collections::BTreeSet;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        bench: Bench,
    }

    fn args(text: &str) -> Bench {
        Alone::try_parse_from(std::iter::once("bench").chain(text.split_whitespace())).expect(text).bench
    }

    fn plan(text: &str) -> Result<Plan, Failure> {
        let args = args(text);
        Plan::new(&args, volumes(&args), None)
    }

    #[test]
    fn amounts_become_objects_and_requests() {
        for (text, count, requests) in [
            ("--op write --to 3", 3, 3072),
            ("--op write --ts 5M", 2, 1280),
            ("--op read --ts 64K --os 64K --bs 16K", 1, 4),
            ("--op write --objname volume --os 1M", 1, 256),
            ("--op write --objname volume --os 1M --ts 8K", 1, 2),
            ("--op info --to 100000", 100_000, 100_000),
            ("--op delete --objname volume", 1, 1),
        ] {
            let plan = plan(text).expect(text);
            assert_eq!((plan.count, plan.requests), (count, requests), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        for (text, word) in [
            ("--op read", "--to"),
            ("--op info", "--to"),
            ("--op read --to 0", "0 objects"),
            ("--op read --to 513", "512"),
            ("--op read --to 1 --bs 1000", "--bs"),
            ("--op read --to 1 --bs 0", "--bs"),
            ("--op read --to 1 --bs 64M", "--bs"),
            ("--op read --to 1 --bs 32M --iodepth 64", "--iodepth"),
            ("--op read --to 1 --os 5K", "multiple"),
            ("--op read --ts 5K", "multiple"),
            ("--op write --objname volume", "--os"),
            ("--op write --objname volume --os 1M --ts 2M", "--ts"),
            ("--op write --objname volume --os 1M --to 2", "--to"),
            ("--op info --to 1 --iodepth 2", "one call"),
            ("--op info --to 1 --verify full", "one call"),
            ("--op delete --to 1 --runtime 1", "once"),
            ("--op read --to 1 --direct", "--direct"),
            ("--op read --to 1 --prefix a/b", "a/b"),
        ] {
            let failure = plan(text).expect_err(text);
            assert_eq!(failure.class().code(), 2, "{text}");
            assert!(failure.to_string().contains(word), "{text}: {failure}");
        }
    }

    #[test]
    fn what_exists_sets_the_size() {
        let with = |text: &str, capacity| Plan::new(&args(text), Objects::Target, Some(capacity));
        assert_eq!(with("--op read", 10_000).map(|plan| plan.requests).ok(), Some(2));
        assert_eq!(with("--op read --os 4K", 10_000).map(|plan| plan.requests).ok(), Some(1));
        for text in ["--op read --os 12K", "--op read --bs 16K", "--op info", "--op read --objname volume"] {
            assert!(with(text, 10_000).is_err(), "{text}");
        }
    }

    #[test]
    fn names_have_the_seed_and_the_number() {
        let plan = plan("--op read --to 2 --seed 42 --prefix disk").expect("is right");
        assert_eq!(plan.name(1), "disk-000000042-000000000000001");
    }

    #[test]
    fn each_request_of_a_pass_occurs_once_and_the_next_pass_has_an_order_of_its_own() {
        for pattern in ["seq", "rand"] {
            let plan = plan(&format!("--op mixed --to 3 --os 64K --pattern {pattern} --seed 1")).expect("is right");
            let mut sequence = plan.sequence();
            let mut pass = || (0..plan.requests).map(|_| sequence.next()).collect::<Vec<_>>();
            let (first, second) = (pass(), pass());
            for pass in [&first, &second] {
                let places: BTreeSet<(u64, u64)> = pass.iter().map(|r| (r.object, r.offset)).collect();
                assert_eq!(places.len() as u64, plan.requests);
                assert!(places.iter().all(|(object, offset)| *object < 3 && *offset < 64 << 10 && offset % 4096 == 0));
            }
            let order = |pass: &[Request]| pass.iter().map(|r| (r.object, r.offset)).collect::<Vec<_>>();
            assert_eq!(order(&first) == order(&second), pattern == "seq");
        }
    }

    #[test]
    fn mixed_requests_have_about_as_many_reads_as_asked_for() {
        for reads in [0, 30, 100] {
            let plan = plan(&format!("--op mixed --reads {reads} --to 10 --seed 1")).expect("is right");
            let mut sequence = plan.sequence();
            let found = (0..plan.requests).filter(|_| sequence.next().kind == Kind::Read).count() as u64;
            assert!((found * 100 / plan.requests).abs_diff(reads) <= 2, "{found} of {}", plan.requests);
        }
    }
}
