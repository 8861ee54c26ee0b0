//! `limit`: what a volume that is served may do per second.

use archipelago_core::{Error, Store};
use serde_json::json;

use super::super::args::Limit;
use super::super::exit::Failure;
use super::super::{Context, size};
use crate::disk::gauges::Question;
use crate::disk::limiter::Limits;

/// `limit`
pub fn run(context: &mut Context, args: &Limit) -> Result<(), Failure> {
    let store = context.store()?;
    let info = store.info(&args.name)?;
    let (id, name) = (info.id, info.name);
    let mut limits = ask(&store, &Question::Limits { id: id.clone(), name: name.clone() })?;
    let wanted = Limits {
        iops: args.iops.unwrap_or(limits.iops),
        iops_burst: args.iops_burst.unwrap_or(limits.iops_burst),
        bps: args.bps.unwrap_or(limits.bps),
        bps_burst: args.bps_burst.unwrap_or(limits.bps_burst),
    };
    let wanted = if args.none { Limits::default() } else { wanted };
    let asked =
        args.none || args.iops.is_some() || args.iops_burst.is_some() || args.bps.is_some() || args.bps_burst.is_some();
    if asked {
        limits = ask(&store, &Question::SetLimits { id, name: name.clone(), limits: wanted })?;
    }
    if context.out.json {
        return context.out.document(&json!({ "name": name, "limits": limits }));
    }
    context.out.line(&format!("{name}: {}", in_words(&limits)))
}

/// Asks every server of the store; they were told the same, so the first answer counts.
fn ask(store: &Store, question: &Question) -> Result<Limits, Failure> {
    let question = json!(question);
    let mut found = None;
    for (owner, answer) in store.ask_processes(&question)? {
        let limits = serde_json::from_value(answer?).map_err(|e| {
            Error::Unsupported(format!("{} (pid {}): answers in another way: {e}", owner.command, owner.pid))
        })?;
        found.get_or_insert(limits);
    }
    let nobody = "nobody serves volumes of this store, so there is nothing to limit; what `archipelago serve` begins with is set by \
                  `limits` in the configuration";
    found.ok_or_else(|| Error::Unsupported(nobody.into()).into())
}

fn in_words(limits: &Limits) -> String {
    let mut all = Vec::new();
    if limits.iops > 0 {
        let burst = if limits.iops_burst > 0 { format!(", {} at once", limits.iops_burst) } else { String::new() };
        all.push(format!("{} requests per second{burst}", limits.iops));
    }
    if limits.bps > 0 {
        let burst =
            if limits.bps_burst > 0 { format!(", {} at once", size::human(limits.bps_burst)) } else { String::new() };
        all.push(format!("{} per second{burst}", size::human(limits.bps)));
    }
    if all.is_empty() { "no limits".into() } else { all.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_in_words() {
        assert_eq!(in_words(&Limits { iops_burst: 5, ..Limits::default() }), "no limits");
        let limits = Limits { iops: 100, iops_burst: 500, bps: 1 << 20, bps_burst: 0 };
        assert_eq!(in_words(&limits), "100 requests per second, 500 at once; 1.0 MiB per second");
    }
}
