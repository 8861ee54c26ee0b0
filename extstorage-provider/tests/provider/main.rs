//! The provider as Ganeti calls it: what each verb needs, prints and leaves, without a Ganeti.
#![allow(missing_docs, clippy::unwrap_used)]

mod attaching;
mod hooks;
mod hostile;
mod making;
mod moving;
mod site;
