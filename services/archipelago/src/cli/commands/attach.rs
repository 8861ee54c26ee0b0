//! `map`, `unmap`, `showmapped`: volumes as block devices of this machine; and the server behind each.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use archipelago_core::Kind;
use signal_hook::flag;
use signal_hook::low_level::pipe;

use super::super::Context;
use super::super::args::{Map, Node, ServeAttached, Showmapped, Unmap};
use super::super::exit::Failure;
use super::super::interrupt::SIGNALS;
use super::super::output::{Align, Array, Table};
use super::serve::policy;
use crate::attach::server::{Server, Unused};
use crate::attach::{Attached, Attacher, Place, Presentation, READY, RUN, Record, UNUSED_TIME, Wanted, default_node};
use crate::disk::gauges::Policy;
use crate::disk::volumes::StoreExports;

/// By arguments and environment, else by the configuration.
pub(crate) fn attacher(context: &Context, node: &Node) -> Result<Attacher, Failure> {
    let config = context.config();
    let run = std::env::var_os("ARCHIPELAGO_RUN_DIR").map(PathBuf::from).or_else(|| config.run_dir.clone());
    let node = node.node.as_ref().or(config.node.as_ref()).cloned().map_or_else(default_node, Ok)?;
    Ok(Attacher::new(run.unwrap_or_else(|| RUN.into()), node))
}

/// Attaches what `map` names.
pub fn attach(context: &Context, args: &Map) -> Result<Attached, Failure> {
    let attacher = attacher(context, &args.node)?;
    let store = context.store()?;
    let info = store.info(&args.name)?;
    let wanted = Wanted {
        store: context.location()?.to_string(),
        uuid: store.uuid(),
        id: info.id,
        name: info.name,
        read_only: info.kind != Kind::Volume,
        presentation: if args.file { Presentation::File } else { Presentation::Device },
        driver: args.driver,
        grows: false,
        socket: false,
        standby: None,
        server: context.arguments(),
        server_name: None,
    };
    drop(store);
    Ok(attacher.attach(&wanted)?)
}

/// `map`
pub fn map(context: &mut Context, args: &Map) -> Result<(), Failure> {
    let attached = attach(context, args)?;
    if context.out.json {
        return context.out.document(&attached);
    }
    context.out.line(&attached.path().display().to_string())
}

/// `unmap`
pub fn unmap(context: &mut Context, args: &Unmap) -> Result<(), Failure> {
    Ok(attacher(context, &args.node)?.detach(&args.what)?)
}

/// `showmapped`
pub fn showmapped(context: &mut Context, args: &Showmapped) -> Result<(), Failure> {
    let list = attacher(context, &args.node)?.list()?;
    if context.out.json {
        let mut array = Array::default();
        for attached in &list {
            array.push(&mut context.out, attached)?;
        }
        array.end(&mut context.out)?;
        return context.out.raw("\n");
    }
    let columns = ["NAME", "DEVICE", "MODE", "PID", "STORE"].map(|title| (title, Align::Left));
    let mut table = Table::new(&columns);
    for attached in &list {
        let mode = match (attached.served, attached.record.read_only) {
            (false, _) => "dead",
            (true, true) => "ro",
            (true, false) => "rw",
        };
        table.row(vec![
            attached.record.name.clone(),
            attached.path().display().to_string(),
            mode.into(),
            attached.record.pid.to_string(),
            attached.record.store.clone(),
        ]);
    }
    table.print(&mut context.out)
}

/// `serve-attached`
pub fn serve(context: &mut Context, args: &ServeAttached) -> Result<(), Failure> {
    // Signals of the terminal from which it was started are none of its business.
    rustix::process::setsid().map_err(|e| Failure::host("begin", "a session", e.into()))?;
    // It was started through a link to itself, whose name says nothing. Where it cannot be told what it is, it goes without.
    let _ = std::fs::write("/proc/self/comm", "archipelago");
    let stop = Arc::new(AtomicBool::new(false));
    let failed = |e| Failure::host("register", "a signal handler", e);
    let (wake, waker) = UnixStream::pair().map_err(failed)?;
    for signal in SIGNALS {
        flag::register(signal, stop.clone()).map_err(failed)?;
        // Behind the flag: who is woken finds it set.
        pipe::register(signal, waker.try_clone().map_err(failed)?).map_err(failed)?;
    }
    let store = context.store()?;
    let info = store.info(&args.name)?;
    if info.id != args.id {
        return Err(Failure::Usage(format!("{}: was renamed just now; try again", args.name)));
    }
    let place = Place::at(&args.dir);
    let record = Record {
        store: context.location()?.to_string(),
        id: info.id,
        name: info.name,
        read_only: info.kind != Kind::Volume,
        pid: std::process::id(),
        driver: args.driver,
        socket: args.socket.then(|| place.socket()),
        process: store.process().map(String::from),
    };
    let policy = Policy { standby: args.standby, ..policy(context.config()) };
    let exports = StoreExports::with_policy(store, None, policy);
    let mut server = Server::start(&exports, &place, &record)?;
    context.out.line(READY)?;
    context.out.flush()?;
    // Whoever waited may wait for the end of it.
    let nowhere = std::fs::File::options().write(true).open("/dev/null");
    let closed = nowhere.and_then(|file| Ok(nix::unistd::dup2_stdout(file.as_fd())?));
    closed.map_err(|e| Failure::host("open", "/dev/null", e))?;
    let after = Duration::from_secs(context.config().unused_time.unwrap_or(UNUSED_TIME));
    let unused = server.run(&stop, wake.as_fd(), &Unused { has: &|| exports.has(&record.id), after });
    exports.end_waits();
    let stopped = server.stop();
    let _ = io::stderr().flush();
    stopped?;
    // Nobody else does; behind the lock that says so, nobody attaches it meanwhile.
    Ok(unused.map_or(Ok(()), |_lock| place.remove())?)
}
