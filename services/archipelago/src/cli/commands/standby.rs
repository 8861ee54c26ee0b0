//! `standby`: which of several servers has a volume, and what each does about the others.

use archipelago_core::{Error, Owner, Sharing, StandbyState};
use serde_json::json;

use super::super::Context;
use super::super::args::Standby;
use super::super::exit::Failure;
use super::super::output::{Align, Array, Table};
use crate::disk::standby::{ask_all, tell, word};

/// `standby`
pub fn run(context: &mut Context, args: &Standby) -> Result<(), Failure> {
    let store = context.store()?;
    let info = store.info(&args.name)?;
    let mut servers = Vec::new();
    for (owner, state) in ask_all(&store, &info.id, &info.name)? {
        if args.process.as_ref().is_some_and(|process| *process != owner.process) {
            continue;
        }
        match state {
            Ok(state) => servers.push((owner, state)),
            Err(error) if args.process.is_some() => return Err(error.into()),
            // What it has cannot be told; the others can.
            Err(error) => context.note(&format!("{owner}: {error}")),
        }
    }
    let wanted = match (args.exclusive, args.shared, args.closed) {
        (true, ..) => Some(Sharing::Exclusive),
        (_, true, _) => Some(Sharing::Shared),
        (.., true) => Some(Sharing::Closed),
        _ => None,
    };
    if let Some(sharing) = wanted {
        let [(owner, state)] = servers.as_mut_slice() else {
            let text = match servers.len() {
                0 => format!(
                    "{}: no such server stands by for it; start one with `archipelago serve --standby`",
                    info.name
                ),
                many => format!("{}: {many} servers stand by for it; say which with --process", info.name),
            };
            return Err(Error::Unsupported(text).into());
        };
        *state = tell(&store, &owner.process, &info.id, &info.name, sharing)?;
    }
    show(context, &servers)
}

fn show(context: &mut Context, servers: &[(Owner, StandbyState)]) -> Result<(), Failure> {
    if context.out.json {
        let mut array = Array::default();
        for (server, state) in servers {
            array.push(&mut context.out, &json!({ "server": server, "state": state }))?;
        }
        array.end(&mut context.out)?;
        return context.out.raw("\n");
    }
    let columns = ["PROCESS", "PID", "HOST", "SHARING", "HAS IT"].map(|title| (title, Align::Left));
    let mut table = Table::new(&columns);
    for (server, state) in servers {
        let has = if state.owns { "yes" } else { "no" };
        table.row(vec![
            server.process.clone(),
            server.pid.to_string(),
            server.host.clone(),
            word(state.sharing).into(),
            has.into(),
        ]);
    }
    table.print(&mut context.out)
}
