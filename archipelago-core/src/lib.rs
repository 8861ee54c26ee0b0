//! The Archipelago storage engine: images, disks and snapshots are maps over one pool of blocks.
//!
//! Data flows one way: an endpoint calls a [`Volume`], which resolves through the [`mapper`] and moves bytes through a
//! [`blocker`]. [`Store`] opens volumes and holds what they share. `docs/format.md` describes every stored byte,
//! `docs/semantics.md` every promise.
#![deny(unsafe_code)]

pub mod blocker;
mod checksum;
pub mod digest;
pub mod error;
pub mod format;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hex;
mod id_hash;
mod iov;
#[doc(hidden)]
pub mod kernels;
pub mod limits;
pub mod mapper;
pub mod merkle;
pub mod name;
#[doc(hidden)]
pub mod planted;
mod random;
pub mod store;
#[cfg_attr(feature = "shuttle", doc(hidden))]
#[cfg(feature = "shuttle")]
pub mod sync;
#[cfg(not(feature = "shuttle"))]
mod sync;
pub mod time;
pub mod volume;

pub use blocker::VolumeId;
pub use digest::Digest;
pub use error::{Error, Owner, Result};
pub use format::header::Kind;
pub use format::labels::Labels;
pub use format::stream::ResumeToken;
pub use store::{
    Affected, Amount, Background, ByteRange, CacheFigures, CheckOptions, CheckProgress, CheckReport, CloneOptions,
    CollectOptions, CollectPhase, CollectProgress, CollectReport, ContentFigures, CreateOptions, DamagedEntry,
    DataReport, DiffExtent, DiskUse, DiskUseProgress, Finding, FindingKind, InitOptions, LabelChange, ListOptions,
    Location, MapExtent, MapSource, MapUse, Page, Rate, ReceiveStatus, Repair, ScrubOptions, ScrubProgress,
    ScrubReport, SendOptions, SendPlan, Severity, SpaceByKind, Store, StoreFigures, StoreOptions, StoreStatus,
    ThinOptions, Usage, VolumeFigures, VolumeInfo,
};
pub use volume::{
    Begun, CacheOptions, CompactOptions, CompactReport, Completion, CompletionQueue, DataExtent, GivenUp, Held, Mode,
    Operation, Sharing, StallStats, Standby, StandbyState, Together, Volume, WriteFlags,
};
