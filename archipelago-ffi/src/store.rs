//! Making, opening and closing stores.

use std::ffi::{c_char, c_int};

use archipelago_core::{InitOptions, Location, Store, StoreOptions};

use crate::arguments::{growing, required, take, text};
use crate::error::{Error, Result, call};
use crate::handle;
use crate::limits::MAX_NODE_CACHE;
use crate::text::{Text, archip_text};

/// An open store, named by a handle: see `archip_store_open`.
pub type archip_store = u64;

/// A store as a handle leads to it.
pub struct OpenStore {
    /// The engine's.
    pub store: Store,
}

/// How a store is made.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct archip_init_options {
    /// `sizeof` this struct.
    pub size: usize,
    /// Block size of volumes that do not say otherwise, in bytes: a power of two, 64 KiB to 64 MiB. 0: 4 MiB.
    pub block_size: u64,
    /// Permission bits of its files, as for `chmod`. 0: 0660.
    pub mode: u32,
    /// `ARCHIP_INIT_GROUP`.
    pub flags: u32,
    /// With `ARCHIP_INIT_GROUP`: the group of its files. Otherwise 0.
    pub group: u32,
    /// 0.
    pub reserved: u32,
}

/// `archip_init_options`: `group` is meant.
pub const ARCHIP_INIT_GROUP: u32 = 1;

/// How a store is opened.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct archip_store_options {
    /// `sizeof` this struct.
    pub size: usize,
    /// Bytes of memory for the nodes of maps, at most 4 GiB. 0: 64 MiB.
    pub node_cache: u64,
    /// Bytes of a volume's journal that may wait to be folded, 128 KiB to 1 GiB. 0: 32 MiB.
    pub max_unfolded: u64,
    /// `ARCHIP_STORE_DIRECT`.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}

/// `archip_store_options.flags`: data is read and written past the page cache (`O_DIRECT`); `EINVAL` where the file system cannot.
pub const ARCHIP_STORE_DIRECT: u32 = 1;

growing!(archip_init_options: 32, archip_store_options: 32);

/// Refuses what a later version may give a meaning.
pub fn reserved(field: u32) -> Result<()> {
    if field == 0 { Ok(()) } else { Err(Error::Invalid("a reserved field is not 0".into())) }
}

/// Makes a store at `location`: `file:` and the path of a directory that is empty or does not exist, or `rados:` and a pool of a Ceph
/// cluster. `options` may be null.
///
/// # Safety
///
/// `location` is null (`EINVAL`) or ends with NUL; `options` is null or as large as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_store_init(location: *const c_char, options: *const archip_init_options) -> c_int {
    call(|| {
        // SAFETY: by contract.
        let (location, given) = unsafe { (text(location, "location")?, take(options)?) };
        let location: Location = location.parse()?;
        crate::arguments::flags(given.flags, ARCHIP_INIT_GROUP)?;
        reserved(given.reserved)?;
        handle::check_process()?;
        let group = (given.flags & ARCHIP_INIT_GROUP != 0).then_some(given.group);
        if group.is_none() {
            reserved(given.group)?;
        }
        let mut options = InitOptions { group, ..InitOptions::default() };
        if given.block_size != 0 {
            options.block_size = given.block_size;
        }
        if given.mode & !0o777 != 0 {
            return Err(Error::Invalid(format!("mode {:o}: only permission bits, up to 777", given.mode)));
        }
        if given.mode != 0 {
            options.mode = given.mode;
        }
        Ok(Store::init(&location, &options)?)
    })
}

/// Opens the store at `location`: `file:` and the path of its directory, or `rados:` and a pool of a Ceph cluster. `options` may be null.
///
/// # Safety
///
/// `location` is null (`EINVAL`) or ends with NUL; `options` is null or as large as it says; `store` is null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_store_open(
    location: *const c_char,
    options: *const archip_store_options,
    store: *mut archip_store,
) -> c_int {
    call(|| {
        // SAFETY: by contract.
        let (location, given) = unsafe { (text(location, "location")?, take(options)?) };
        required(store, "store")?;
        let location: Location = location.parse()?;
        crate::arguments::flags(given.flags, ARCHIP_STORE_DIRECT)?;
        reserved(given.reserved)?;
        handle::check_process()?;
        let direct = given.flags & ARCHIP_STORE_DIRECT != 0;
        let mut options = StoreOptions { direct, ..StoreOptions::default() };
        if given.node_cache > MAX_NODE_CACHE {
            return Err(Error::Invalid(format!(
                "a node cache of {} bytes; at most {MAX_NODE_CACHE}",
                given.node_cache
            )));
        }
        if given.node_cache != 0 {
            options.node_cache = given.node_cache;
        }
        if given.max_unfolded != 0 {
            options.max_unfolded = given.max_unfolded;
        }
        let opened = handle::make(OpenStore { store: Store::open(&location, options)? })?;
        // SAFETY: by contract, and not null.
        unsafe { crate::arguments::put(store, "store", opened) }
    })
}

/// Closes a store. Volumes that were opened from it stay open.
#[unsafe(no_mangle)]
pub extern "C" fn archip_store_close(store: archip_store) -> c_int {
    call(|| handle::close::<OpenStore>(store).map(drop))
}

/// Gives the state of a store as JSON: what it is, how many volumes and snapshots it has, the room on its file system, the processes that
/// have it open and what they are doing.
///
/// # Safety
///
/// `status` is null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_store_status(store: archip_store, status: *mut archip_text) -> c_int {
    call(|| {
        let store = handle::find::<OpenStore>(store)?;
        required(status, "status")?;
        // SAFETY: by contract, and not null.
        unsafe { Text::give(&store.store.status()?, status) }
    })
}
