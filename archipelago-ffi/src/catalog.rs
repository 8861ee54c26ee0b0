//! What a store has: listing it, facts about a volume or snapshot, making, renaming, resizing and removing them.

use std::ffi::{c_char, c_int};

use archipelago_core::limits::{MAX_CLONE_COUNT, MAX_LIST_PAGE, MAX_NAME};
use archipelago_core::{CloneOptions, CreateOptions, Kind, ListOptions, Page, VolumeInfo};

use crate::arguments::{Filled, counted, field, flags, growing, optional_text, put, required, take, text};
use crate::error::{Error, Result, call};
use crate::handle;
use crate::store::{OpenStore, archip_store, reserved};

/// Bytes of the longest name, without the NUL at its end.
pub const ARCHIP_MAX_NAME: usize = 82;
/// Bytes of a field for a name.
pub const ARCHIP_NAME_SIZE: usize = 96;
const _: () = assert!(ARCHIP_MAX_NAME == MAX_NAME && ARCHIP_NAME_SIZE > MAX_NAME + 2);

/// `archip_info.kind`: a volume.
pub const ARCHIP_KIND_VOLUME: u32 = 1;
/// `archip_info.kind`: a snapshot.
pub const ARCHIP_KIND_SNAPSHOT: u32 = 2;
/// `archip_info.kind`: a file of an object store.
pub const ARCHIP_KIND_OBJECT: u32 = 3;
/// `archip_info.kind`: its header cannot be read; only `name` is filled.
pub const ARCHIP_KIND_DAMAGED: u32 = 255;

/// `archip_info.flags`: it never changes.
pub const ARCHIP_INFO_READ_ONLY: u32 = 1;
/// `archip_info.flags`: some process has it open for writing; the `owner` fields say which.
pub const ARCHIP_INFO_OPEN: u32 = 2;
/// `archip_info.flags`: it is being received.
pub const ARCHIP_INFO_RECEIVING: u32 = 4;

/// Facts about a volume or snapshot.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct archip_info {
    /// `sizeof` this struct; set by the caller.
    pub size: usize,
    /// Name.
    pub name: [c_char; ARCHIP_NAME_SIZE],
    /// Name of the snapshot it was cloned from, or of the volume it is a snapshot of; its id in brackets if that has no name any more;
    /// empty if there is none.
    pub parent: [c_char; ARCHIP_NAME_SIZE],
    /// Id, 16 hexadecimal digits: no two volumes or snapshots of a store ever have the same.
    pub id: [c_char; 24],
    /// `ARCHIP_KIND_...`
    pub kind: u32,
    /// `ARCHIP_INFO_...`
    pub flags: u32,
    /// Size in bytes.
    pub volume_size: u64,
    /// Block size in bytes.
    pub block_size: u64,
    /// Live epoch.
    pub epoch: u64,
    /// Bytes that are not known to be zero. Of a volume open in another process: as of its last checkpoint.
    pub mapped: u64,
    /// Seconds since 1970.
    pub created: u64,
    /// Process that has it open.
    pub owner_pid: u32,
    /// 0.
    pub reserved: u32,
    /// Host of that process.
    pub owner_host: [c_char; 72],
    /// Command name of that process.
    pub owner_command: [c_char; 32],
}

/// What a listing shows.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct archip_list_options {
    /// `sizeof` this struct.
    pub size: usize,
    /// Names that start with this; null: all.
    pub prefix: *const c_char,
    /// Names that sort after this one, in byte order; null: from the first.
    pub after: *const c_char,
}

/// How a volume is made.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct archip_create_options {
    /// `sizeof` this struct.
    pub size: usize,
    /// Block size in bytes: a power of two, 64 KiB to 64 MiB. 0: the store's.
    pub block_size: u64,
    /// 0: no flags are defined.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}

/// How a clone is made.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct archip_clone_options {
    /// `sizeof` this struct.
    pub size: usize,
    /// Size in bytes, not below the snapshot's. 0: the snapshot's.
    pub volume_size: u64,
    /// 0: no flags are defined.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}

/// A volume of a group snapshot, and the name of its snapshot.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct archip_group_member {
    /// The volume.
    pub volume: *const c_char,
    /// The name of its snapshot.
    pub snapshot: *const c_char,
}

growing!(archip_info: 384, archip_list_options: 24, archip_create_options: 24, archip_clone_options: 24);

/// `archip_resize`: may become smaller; what is cut off is gone.
pub const ARCHIP_RESIZE_SHRINK: u32 = 1;

impl archip_info {
    /// What C is told of `info`.
    pub fn new(info: &VolumeInfo) -> archip_info {
        let kind = match info.kind {
            Kind::Volume => ARCHIP_KIND_VOLUME,
            Kind::Snapshot => ARCHIP_KIND_SNAPSHOT,
            // Records of groups have no name, so nothing leads to one.
            Kind::Object | Kind::Group => ARCHIP_KIND_OBJECT,
        };
        let mut flags = 0;
        for (condition, flag) in [
            (info.read_only, ARCHIP_INFO_READ_ONLY),
            (info.open_by.is_some(), ARCHIP_INFO_OPEN),
            (info.receiving.is_some(), ARCHIP_INFO_RECEIVING),
        ] {
            if condition {
                flags |= flag;
            }
        }
        let owner = info.open_by.as_ref();
        archip_info {
            size: size_of::<archip_info>(),
            name: field(&info.name),
            parent: field(info.parent.as_deref().unwrap_or_default()),
            id: field(&info.id),
            kind,
            flags,
            volume_size: info.size,
            block_size: info.block_size,
            epoch: info.epoch,
            mapped: info.mapped,
            created: info.created,
            owner_pid: owner.map_or(0, |o| o.pid),
            reserved: 0,
            owner_host: field(owner.map_or("", |o| &o.host)),
            owner_command: field(owner.map_or("", |o| &o.command)),
        }
    }

    /// What C is told of a name whose header cannot be read.
    fn damaged(name: &str) -> archip_info {
        archip_info {
            size: size_of::<archip_info>(),
            name: field(name),
            parent: field(""),
            id: field(""),
            kind: ARCHIP_KIND_DAMAGED,
            flags: 0,
            volume_size: 0,
            block_size: 0,
            epoch: 0,
            mapped: 0,
            created: 0,
            owner_pid: 0,
            reserved: 0,
            owner_host: field(""),
            owner_command: field(""),
        }
    }
}

/// A page with its damaged names among the others, in byte order, cut to `capacity`; and the name after which the next page
/// begins.
fn merged(page: Page, capacity: usize) -> (Vec<archip_info>, Option<String>) {
    let mut all: Vec<(String, archip_info)> =
        page.entries.iter().map(|i| (i.name.clone(), archip_info::new(i))).collect();
    all.extend(page.damaged.iter().map(|d| (d.name.clone(), archip_info::damaged(&d.name))));
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let next = if all.len() > capacity { all.get(capacity - 1).map(|(name, _)| name.clone()) } else { page.next };
    all.truncate(capacity);
    (all.into_iter().map(|(_, info)| info).collect(), next)
}

/// Lists volumes and snapshots in byte order of their names: fills at most `capacity` (1 to 10,000; more are taken as that) of `entries`, of which
/// the first says how large each is, and gives how many. `next` has `ARCHIP_NAME_SIZE` bytes; it is empty if nothing follows, otherwise it is
/// what `after` of the next call has to be. `options` may be null.
///
/// # Safety
///
/// `options` is null or as large as it says, its texts null or ended by NUL; `entries` has room for `capacity` structs of the size that
/// the first one says; `count` and `next` are null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_list(
    store: archip_store,
    options: *const archip_list_options,
    entries: *mut archip_info,
    capacity: usize,
    count: *mut usize,
    next: *mut c_char,
) -> c_int {
    call(|| {
        let store = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        let given = unsafe { take(options)? };
        required(count, "count")?;
        required(next, "next")?;
        if capacity == 0 {
            return Err(Error::Invalid("capacity: a page has at least one entry".into()));
        }
        let limit = capacity.min(MAX_LIST_PAGE);
        // SAFETY: by contract.
        let (prefix, after) = unsafe { (optional_text(given.prefix, "prefix")?, optional_text(given.after, "after")?) };
        // SAFETY: by contract.
        let mut filled = unsafe { Filled::new(entries)? };
        let options =
            ListOptions { prefix: prefix.unwrap_or_default().to_string(), after: after.map(str::to_string), limit };
        let (page, following) = merged(store.store.list(&options)?, limit);
        // SAFETY: at most `capacity`, by contract.
        page.iter().for_each(|info| unsafe { filled.put(info) });
        // SAFETY: by contract, and not null.
        unsafe {
            put(next.cast(), "next", field::<ARCHIP_NAME_SIZE>(following.as_deref().unwrap_or_default()))?;
            put(count, "count", page.len())
        }
    })
}

/// Gives facts about a volume or snapshot. One that is open in this process is described as it is now.
///
/// # Safety
///
/// `name` is null (`EINVAL`) or ends with NUL; `info` is null (`EINVAL`) or as large as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_get_info(store: archip_store, name: *const c_char, info: *mut archip_info) -> c_int {
    call(|| {
        let store = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        let (name, mut filled) = unsafe { (text(name, "name")?, Filled::new(info)?) };
        let info = archip_info::new(&store.store.info(name)?);
        // SAFETY: by contract.
        unsafe { filled.put(&info) };
        Ok(())
    })
}

/// Makes an empty volume of `volume_size` bytes, 1 to 4 PiB. `options` may be null.
///
/// # Safety
///
/// `name` is null (`EINVAL`) or ends with NUL; `options` is null or as large as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_create(
    store: archip_store,
    name: *const c_char,
    volume_size: u64,
    options: *const archip_create_options,
) -> c_int {
    call(|| {
        let store = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        let (name, given) = unsafe { (text(name, "name")?, take(options)?) };
        flags(given.flags, 0)?;
        reserved(given.reserved)?;
        let block_size = (given.block_size != 0).then_some(given.block_size);
        store.store.create(name, &CreateOptions { size: volume_size, block_size })?;
        Ok(())
    })
}

/// What was asked of clones.
///
/// # Safety
///
/// `options` is null or as large as it says.
unsafe fn clone_options(options: *const archip_clone_options) -> Result<CloneOptions> {
    // SAFETY: by contract.
    let given = unsafe { take(options)? };
    flags(given.flags, 0)?;
    reserved(given.reserved)?;
    Ok(CloneOptions { size: (given.volume_size != 0).then_some(given.volume_size) })
}

/// Makes a writable clone of a snapshot, in constant time. `options` may be null.
///
/// # Safety
///
/// `snapshot` and `name` are null (`EINVAL`) or end with NUL; `options` is null or as large as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_clone(
    store: archip_store,
    snapshot: *const c_char,
    name: *const c_char,
    options: *const archip_clone_options,
) -> c_int {
    call(|| {
        let store = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        let (snapshot, name, options) =
            unsafe { (text(snapshot, "snapshot")?, text(name, "name")?, clone_options(options)?) };
        store.store.clone_snapshot(snapshot, name, &options)?;
        Ok(())
    })
}

/// Makes clones of a snapshot under `count` names, 1 to 100,000, in one commit: all of them, or an error and none. `options` may be null.
///
/// # Safety
///
/// `snapshot` is null (`EINVAL`) or ends with NUL; so does each of the `count` elements of `names`; `options` is null or as large as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_clone_many(
    store: archip_store,
    snapshot: *const c_char,
    names: *const *const c_char,
    count: usize,
    options: *const archip_clone_options,
) -> c_int {
    call(|| {
        let store = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        let (snapshot, options) = unsafe { (text(snapshot, "snapshot")?, clone_options(options)?) };
        counted(names, count, MAX_CLONE_COUNT, "names")?;
        let name = |index| {
            // SAFETY: by contract, `index` is below `count`.
            unsafe { text(names.add(index).read_unaligned(), "names") }.map(str::to_string)
        };
        let names = (0..count).map(name).collect::<Result<Vec<String>>>()?;
        Ok(store.store.clone_many(snapshot, &names, &options)?)
    })
}

/// Takes a snapshot of a volume. If another process has it open, that one does it.
///
/// # Safety
///
/// `volume` and `snapshot` are null (`EINVAL`) or end with NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_snapshot(store: archip_store, volume: *const c_char, snapshot: *const c_char) -> c_int {
    call(|| {
        let store = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        let (volume, snapshot) = unsafe { (text(volume, "volume")?, text(snapshot, "snapshot")?) };
        store.store.snapshot(volume, snapshot)?;
        Ok(())
    })
}

/// Takes snapshots of `count` volumes at one instant: all of them, or an error and none.
///
/// # Safety
///
/// `members` has `count` elements, whose texts are null (`EINVAL`) or end with NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_snapshot_group(
    store: archip_store,
    members: *const archip_group_member,
    count: usize,
) -> c_int {
    call(|| {
        let store = handle::find::<OpenStore>(store)?;
        counted(members, count, MAX_CLONE_COUNT, "members")?;
        let member = |index| {
            // SAFETY: by contract, `index` is below `count`.
            let member = unsafe { members.add(index).read_unaligned() };
            // SAFETY: by contract.
            let (volume, snapshot) = unsafe { (text(member.volume, "volume")?, text(member.snapshot, "snapshot")?) };
            Ok((volume.to_string(), snapshot.to_string()))
        };
        let members = (0..count).map(member).collect::<Result<Vec<_>>>()?;
        store.store.snapshot_group(&members)?;
        Ok(())
    })
}

/// Removes a volume or snapshot, in any order; what others use of it stays. Refused (`EBUSY`) while it is open.
///
/// # Safety
///
/// `name` is null (`EINVAL`) or ends with NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_remove(store: archip_store, name: *const c_char) -> c_int {
    call(|| {
        let store = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        Ok(store.store.remove(unsafe { text(name, "name")? })?)
    })
}

/// Gives a volume or snapshot another name. If another process has it open, that one does it.
///
/// # Safety
///
/// `name` and `new_name` are null (`EINVAL`) or end with NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_rename(store: archip_store, name: *const c_char, new_name: *const c_char) -> c_int {
    call(|| {
        let store = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        let (name, new) = unsafe { (text(name, "name")?, text(new_name, "new_name")?) };
        Ok(store.store.rename(name, new)?)
    })
}

/// Sets the size of a volume. `flags` is 0 or `ARCHIP_RESIZE_SHRINK`. If another process has it open, that one does it.
///
/// # Safety
///
/// `name` is null (`EINVAL`) or ends with NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_resize(
    store: archip_store,
    name: *const c_char,
    volume_size: u64,
    flags: u32,
) -> c_int {
    call(|| {
        let store = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        let name = unsafe { text(name, "name")? };
        crate::arguments::flags(flags, ARCHIP_RESIZE_SHRINK)?;
        Ok(store.store.resize(name, volume_size, flags & ARCHIP_RESIZE_SHRINK != 0)?)
    })
}

#[cfg(test)]
mod tests {
    use archipelago_core::DamagedEntry;

    use super::*;

    fn info(name: &str) -> VolumeInfo {
        VolumeInfo {
            name: name.into(),
            id: "0".repeat(16),
            kind: Kind::Volume,
            size: 1,
            block_size: 65536,
            epoch: 1,
            mapped: 0,
            read_only: false,
            parent: None,
            created: 0,
            open_by: None,
            origin: None,
            receiving: None,
            labels: Default::default(),
            untouched: false,
        }
    }

    fn names(page: &[archip_info]) -> Vec<String> {
        let name = |i: &archip_info| i.name.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect();
        page.iter().map(name).collect()
    }

    #[test]
    fn damaged_names_stand_among_the_others_and_count_for_the_page() {
        let damaged = |name: &str| DamagedEntry { name: name.into(), message: String::new() };
        let page = || Page {
            entries: vec![info("volume-1"), info("volume-3")],
            damaged: vec![damaged("volume-0"), damaged("volume-2")],
            next: Some("volume-3".into()),
        };
        let (all, next) = merged(page(), 4);
        assert_eq!(names(&all), ["volume-0", "volume-1", "volume-2", "volume-3"]);
        assert_eq!(all.iter().map(|i| i.kind).collect::<Vec<_>>(), [255, 1, 255, 1]);
        assert_eq!(next.as_deref(), Some("volume-3"));
        let (cut, next) = merged(page(), 2);
        assert_eq!(names(&cut), ["volume-0", "volume-1"]);
        assert_eq!(next.as_deref(), Some("volume-1"));
        assert_eq!(merged(Page { next: None, ..page() }, 4).1, None);
    }
}
