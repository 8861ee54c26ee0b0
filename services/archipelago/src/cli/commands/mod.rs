//! The commands, grouped by what they do. Each is one function that takes its arguments and prints its result.

pub(crate) mod attach;
mod bench;
mod check;
mod compact;
mod discard_cache;
mod doctor;
mod du;
mod export;
mod gc;
mod hash;
mod import;
mod import_legacy;
mod inspect;
mod limit;
mod original;
mod orphans;
mod reload;
mod scrub;
mod serve;
mod shell;
mod standby;
mod store;
mod top;
mod transfer;
mod volume;

use super::Context;
use super::args::Command;
use super::exit::Failure;

/// Runs a command.
pub fn run(context: &mut Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Init(args) => store::init(context, &args),
        Command::Gc(args) => gc::run(context, &args),
        Command::Status => store::status(context),
        Command::Top(args) => top::run(context, &args),
        Command::Bench(args) => bench::run(context, &args),
        Command::Limit(args) => limit::run(context, &args),
        Command::Standby(args) => standby::run(context, &args),
        Command::Du(args) => du::run(context, &args),
        Command::Doctor => doctor::run(context),
        Command::Check(args) => check::run(context, &args),
        Command::Scrub(args) => scrub::run(context, &args),
        Command::Create(args) => volume::create(context, &args),
        Command::Clone(args) => volume::clone(context, &args),
        Command::Snapshot(args) => volume::snapshot(context, &args),
        Command::Remove(args) => volume::remove(context, &args),
        Command::Rename(args) => volume::rename(context, &args),
        Command::Resize(args) => volume::resize(context, &args),
        Command::Compact(args) => compact::run(context, &args),
        Command::DiscardCache(args) => discard_cache::run(context, &args),
        Command::List(args) => inspect::list(context, &args),
        Command::Info(args) => inspect::info(context, &args),
        Command::Mapinfo(args) => inspect::mapinfo(context, &args),
        Command::Diff(args) => inspect::diff(context, &args),
        Command::Import(args) => import::run(context, &args),
        Command::ImportLegacy(args) => import_legacy::run(context, &args),
        Command::Export(args) => export::run(context, &args),
        Command::Hash(args) => hash::run(context, &args),
        Command::Send(args) => transfer::send(context, &args),
        Command::Receive(args) => transfer::receive(context, &args),
        Command::Serve(args) => serve::run(context, &args),
        Command::Reload(args) => reload::run(context, &args),
        Command::Map(args) => attach::map(context, &args),
        Command::Unmap(args) => attach::unmap(context, &args),
        Command::Showmapped(args) => attach::showmapped(context, &args),
        Command::ServeAttached(args) => attach::serve(context, &args),
        Command::Orphans(args) => orphans::run(context, &args),
        Command::Completions(args) => shell::completions(context, &args),
        Command::Man(args) => shell::man(&args),
        Command::Start(_) => Err(original::daemons()),
        Command::VolumeOpen(_) => Err(original::locks()),
        Command::BackendList(_) => Err(original::stores()),
    }
}
