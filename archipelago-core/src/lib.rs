//! The Archipelago storage engine: images, disks and snapshots are maps over one pool of blocks.
//!
//! Data flows one way: an endpoint calls a [`Volume`], which resolves through the [`mapper`] and moves bytes through a
//! [`blocker`]. [`Store`] opens volumes and holds what they share. `docs/format.md` describes every stored byte,
//! `docs/semantics.md` every promise.
#![deny(unsafe_code)]

pub mod blocker;
pub mod digest;
pub mod error;
pub mod format;
pub mod limits;
pub mod mapper;
pub mod merkle;
pub mod name;
pub mod store;
pub mod time;
pub mod volume;

pub use blocker::VolumeId;
pub use digest::Digest;
pub use error::{Error, Owner, Result};
pub use format::header::Kind;
pub use store::{
    Background, CloneOptions, CreateOptions, DiffExtent, InitOptions, ListOptions, Location, MapExtent, MapSource,
    Page, Store, StoreOptions, StoreStatus, Usage, VolumeInfo,
};
pub use volume::{Completion, CompletionQueue, DataExtent, Mode, Operation, Volume, WriteFlags};
