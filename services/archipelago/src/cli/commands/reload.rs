//! `reload`: asks daemons to read their configuration again.

use archipelago_core::Error;
use serde_json::json;

use super::super::Context;
use super::super::args::Reload;
use super::super::exit::Failure;
use super::serve::{Question, Reloaded};

/// `reload`
pub fn run(context: &mut Context, args: &Reload) -> Result<(), Failure> {
    let store = context.store()?;
    let (mut done, mut refused) = (Vec::new(), None);
    for (owner, answer) in store.ask_processes(&json!(Question::Reload { pid: args.pid }))? {
        let answer = answer.and_then(|answer| {
            serde_json::from_value::<Reloaded>(answer)
                .map_err(|e| Error::Unsupported(format!("answers in another way: {e}")))
        });
        match answer {
            Ok(answer) if answer.reloaded => done.push((owner.pid, answer.later)),
            Ok(_) => {}
            Err(error) if args.pid.is_some_and(|pid| pid != owner.pid) => {
                context.note(&format!("pid {}: {error}", owner.pid));
            }
            Err(error) => {
                let failure = Failure::from(error);
                context.report(&failure);
                refused.get_or_insert(failure.class());
            }
        }
    }
    if done.is_empty() && refused.is_none() {
        let who = args.pid.map_or("nobody".into(), |pid| format!("no process {pid}"));
        let text = format!("{who} serves volumes of this store by `archipelago serve`");
        return Err(Error::NotFound(text).into());
    }
    if context.out.json {
        let done: Vec<_> = done.iter().map(|(pid, later)| json!({ "pid": pid, "later": later })).collect();
        context.out.document(&json!({ "reloaded": done }))?;
    } else {
        for (pid, later) in &done {
            context.out.line(&format!("pid {pid}: the configuration was read again"))?;
            for note in later {
                context.out.line(&format!("pid {pid}: {note}"))?;
            }
        }
    }
    refused.map_or(Ok(()), |class| Err(Failure::Reported(class)))
}
