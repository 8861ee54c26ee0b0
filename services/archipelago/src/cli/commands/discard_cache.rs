//! `discard-cache`

use serde_json::json;

use super::super::Context;
use super::super::args::DiscardCache;
use super::super::exit::Failure;

/// Gives up what is in the caches of volumes and not in the volumes.
pub fn run(context: &mut Context, args: &DiscardCache) -> Result<(), Failure> {
    let mut done = Vec::new();
    for name in &args.names {
        let given_up = context.store()?.discard_cache(name)?;
        if !context.out.json {
            context.out.line(&match &given_up {
                Some(cache) => format!(
                    "{name}: what was in the cache {:016x} on {} is given up; the volume is as it was after some earlier write",
                    cache.id, cache.host
                ),
                None => format!("{name}: has no cache, and nothing was changed"),
            })?;
        }
        let (id, host) = given_up.map(|cache| (format!("{:016x}", cache.id), cache.host)).unzip();
        done.push(json!({ "name": name, "cache": id, "host": host }));
    }
    if context.out.json { context.out.document(&done) } else { Ok(()) }
}
