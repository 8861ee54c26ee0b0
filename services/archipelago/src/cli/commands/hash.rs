//! `hash`: the top hash of a snapshot, as Pithos has it.

use archipelago_core::store::content::{HashOptions, HashProgress};
use serde::Serialize;

use super::super::Context;
use super::super::args::Hash;
use super::super::exit::Failure;
use super::super::interrupt::Interrupt;
use super::super::progress::Progress;

/// What scripts are told.
#[derive(Serialize)]
struct Document<'a> {
    name: &'a str,
    top_hash: String,
    #[serde(flatten)]
    progress: HashProgress,
    dedup_ratio: Option<f64>,
}

/// `hash`
pub fn run(context: &mut Context, args: &Hash) -> Result<(), Failure> {
    let interrupt = Interrupt::install()?;
    let store = context.store()?;
    let info = store.info(&args.name)?;
    let progress = Progress::new(context.out.json, Some(info.size));
    let options = HashOptions { bytes_per_second: args.rate };
    let hashed = store.hash(&args.name, &options, &mut |now| {
        progress.at((now.blocks * info.block_size).min(info.size));
        interrupt.check().is_ok()
    })?;
    drop(progress);
    let Some(top_hash) = hashed.top_hash else {
        context.note("stopped; what was hashed is kept, and the next run goes on behind it");
        return interrupt.check();
    };
    if context.out.json {
        let document = Document {
            name: &args.name,
            top_hash: top_hash.to_string(),
            progress: hashed.progress,
            dedup_ratio: hashed.progress.dedup_ratio(),
        };
        return context.out.document(&document);
    }
    context.out.line(&format!("{top_hash}  {}", args.name))
}
