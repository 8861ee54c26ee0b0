//! The C library of the Archipelago storage engine; `docs/c-api.md` is its contract.
//!
//! What C may call are the functions that begin with `archip_`; the header is made from them and their documentation. Everything
//! that comes from C is looked at in [`arguments`], objects are reached through [`handle`], and [`error::call`] is around every call.
// The header says the same names.
#![allow(non_camel_case_types)]

pub mod arguments;
pub mod catalog;
pub mod error;
pub mod handle;
pub mod limits;
pub mod queue;
pub mod store;
pub mod text;
pub mod version;
pub mod volume;
pub mod work;
