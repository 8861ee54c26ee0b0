//! What Ganeti asks of a provider, an action a call. Whatever is asked twice is done once.

mod attach;
mod change;
mod create;
mod share;
mod verify;

use crate::applet::Verb;
use crate::environment::Environment;
use crate::error::ProviderError;
use crate::host::{Host, Pool};
use crate::limits::MAX_NAMED;
use crate::names::Names;
use crate::parameters;

/// What an action works with.
struct Call<'a> {
    environment: &'a Environment,
    host: &'a Host,
    names: Names<'a>,
    pool: Pool,
}

/// Does what Ganeti asks; returns what it prints.
pub fn run(
    verb: Verb,
    environment: &Environment,
    host: &Host,
    warn: &mut dyn FnMut(String),
) -> Result<String, ProviderError> {
    let unknown = unknown(environment);
    if verb == Verb::Verify {
        unknown.map_or(Ok(()), |names| Err(ProviderError::Unknown(names)))?;
        return verify::verify(environment, host, warn).map(|()| String::new());
    }
    match unknown {
        Some(names) if verb == Verb::Create => return Err(ProviderError::Unknown(names)),
        Some(names) => warn(format!("unknown parameters are ignored: {names}")),
        None => {}
    }
    let names = Names::of(environment, host.config.ganeti.volume_naming)?;
    let pool = host.pool(parameters::pool(environment)?)?;
    let call = Call { environment, host, names, pool };
    match verb {
        Verb::Attach => return attach::attach(&call, warn),
        Verb::Create => create::create(&call)?,
        Verb::Detach => attach::detach(&call)?,
        Verb::Remove => change::remove(&call, warn)?,
        Verb::Grow => change::grow(&call)?,
        Verb::Setinfo => change::setinfo(&call)?,
        Verb::Snapshot => change::snapshot(&call, warn)?,
        Verb::Open => share::open(&call)?,
        Verb::Close => share::close(&call)?,
        Verb::Verify => {}
    }
    Ok(String::new())
}

/// The parameters that are none of ours, for a message; `None` if there are none.
fn unknown(environment: &Environment) -> Option<String> {
    let names = environment.unknown();
    let more = if names.len() > MAX_NAMED { ", ..." } else { "" };
    (!names.is_empty()).then(|| names[..names.len().min(MAX_NAMED)].join(", ") + more)
}
