//! The functions of the library that are used, found in it when it is loaded.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use super::Handle;

pub(super) type OnNotify = unsafe extern "C" fn(*mut c_void, u64, u64, u64, *mut c_void, usize);
pub(super) type OnLost = unsafe extern "C" fn(*mut c_void, u64, c_int);

/// `rados_cluster_stat_t`.
#[repr(C)]
#[derive(Default)]
pub(super) struct ClusterStat {
    pub(super) kb: u64,
    kb_used: u64,
    pub(super) kb_avail: u64,
    num_objects: u64,
}

/// `rados_object_list_item`.
#[repr(C)]
pub(super) struct ListItem {
    oid_length: usize,
    oid: *mut c_char,
    nspace_length: usize,
    nspace: *mut c_char,
    locator_length: usize,
    locator: *mut c_char,
}

macro_rules! functions {
    ($($name:ident($($type:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of the library, as they were found in it.
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($type),*) $(-> $result)?,)*
        }

        impl Functions {
            /// Looks all of them up in an open library.
            fn find(library: Handle) -> Result<Functions, String> {
                $(
                    let name = concat!(stringify!($name), "\0");
                    // SAFETY: the library is open, and the name ends with a NUL.
                    let $name = unsafe { libc::dlsym(library, name.as_ptr().cast()) };
                    if $name.is_null() {
                        return Err(format!("it has no {}", stringify!($name)));
                    }
                )*
                // SAFETY: a symbol of this name has this type in every release of the library since Pacific.
                Ok(unsafe { Functions { $($name: std::mem::transmute::<Handle, unsafe extern "C" fn($($type),*) $(-> $result)?>($name),)* } })
            }
        }
    };
}

functions! {
    rados_create2(*mut Handle, *const c_char, *const c_char, u64) -> c_int;
    rados_conf_read_file(Handle, *const c_char) -> c_int;
    rados_conf_set(Handle, *const c_char, *const c_char) -> c_int;
    rados_connect(Handle) -> c_int;
    rados_shutdown(Handle);
    rados_get_instance_id(Handle) -> u64;
    rados_getaddrs(Handle, *mut *mut c_char) -> c_int;
    rados_buffer_free(*mut c_char);
    rados_cluster_stat(Handle, *mut ClusterStat) -> c_int;
    rados_mon_command(Handle, *const *const c_char, usize, *const c_char, usize, *mut *mut c_char, *mut usize, *mut *mut c_char, *mut usize) -> c_int;
    rados_blocklist_add(Handle, *mut c_char, u32) -> c_int;
    rados_wait_for_latest_osdmap(Handle) -> c_int;
    rados_watch_flush(Handle) -> c_int;
    rados_ioctx_create(Handle, *const c_char, *mut Handle) -> c_int;
    rados_ioctx_destroy(Handle);
    rados_ioctx_set_namespace(Handle, *const c_char);
    rados_create_write_op() -> Handle;
    rados_release_write_op(Handle);
    rados_write_op_operate(Handle, Handle, *const c_char, *mut libc::time_t, c_int) -> c_int;
    rados_aio_write_op_operate(Handle, Handle, Handle, *const c_char, *mut libc::time_t, c_int) -> c_int;
    rados_write_op_assert_exists(Handle);
    rados_write_op_create(Handle, c_int, *const c_char);
    rados_write_op_write(Handle, *const c_char, usize, u64);
    rados_write_op_zero(Handle, u64, u64);
    rados_write_op_truncate(Handle, u64);
    rados_write_op_remove(Handle);
    rados_write_op_omap_cmp2(Handle, *const c_char, u8, *const c_char, usize, usize, *mut c_int);
    rados_write_op_omap_set2(Handle, *const *const c_char, *const *const c_char, *const usize, *const usize, usize);
    rados_write_op_omap_rm_keys2(Handle, *const *const c_char, *const usize, usize);
    rados_write_op_exec(Handle, *const c_char, *const c_char, *const c_char, usize, *mut c_int);
    rados_create_read_op() -> Handle;
    rados_release_read_op(Handle);
    rados_read_op_operate(Handle, Handle, *const c_char, c_int) -> c_int;
    rados_aio_read_op_operate(Handle, Handle, Handle, *const c_char, c_int) -> c_int;
    rados_read_op_read(Handle, u64, usize, *mut c_char, *mut usize, *mut c_int);
    rados_read_op_stat(Handle, *mut u64, *mut libc::time_t, *mut c_int);
    rados_read_op_omap_get_vals2(Handle, *const c_char, *const c_char, u64, *mut Handle, *mut u8, *mut c_int);
    rados_read_op_omap_get_vals_by_keys2(Handle, *const *const c_char, usize, *const usize, *mut Handle, *mut c_int);
    rados_omap_get_next2(Handle, *mut *mut c_char, *mut *mut c_char, *mut usize, *mut usize) -> c_int;
    rados_omap_get_end(Handle);
    rados_aio_create_completion2(*mut c_void, *const c_void, *mut Handle) -> c_int;
    rados_aio_wait_for_complete(Handle) -> c_int;
    rados_aio_get_return_value(Handle) -> c_int;
    rados_aio_release(Handle);
    rados_lock_exclusive(Handle, *const c_char, *const c_char, *const c_char, *const c_char, *mut libc::timeval, u8) -> c_int;
    rados_lock_shared(Handle, *const c_char, *const c_char, *const c_char, *const c_char, *const c_char, *mut libc::timeval, u8) -> c_int;
    rados_unlock(Handle, *const c_char, *const c_char, *const c_char) -> c_int;
    rados_break_lock(Handle, *const c_char, *const c_char, *const c_char, *const c_char) -> c_int;
    rados_list_lockers(Handle, *const c_char, *const c_char, *mut c_int, *mut c_char, *mut usize, *mut c_char, *mut usize, *mut c_char, *mut usize, *mut c_char, *mut usize) -> isize;
    rados_watch3(Handle, *const c_char, *mut u64, OnNotify, OnLost, u32, *mut c_void) -> c_int;
    rados_watch_check(Handle, u64) -> c_int;
    rados_unwatch2(Handle, u64) -> c_int;
    rados_notify2(Handle, *const c_char, *const c_char, c_int, u64, *mut *mut c_char, *mut usize) -> c_int;
    rados_notify_ack(Handle, *const c_char, u64, u64, *const c_char, c_int) -> c_int;
    rados_object_list_begin(Handle) -> Handle;
    rados_object_list_end(Handle) -> Handle;
    rados_object_list_slice(Handle, Handle, Handle, usize, usize, *mut Handle, *mut Handle);
    rados_object_list(Handle, Handle, Handle, usize, *const c_char, usize, *mut ListItem, *mut Handle) -> c_int;
    rados_object_list_free(usize, *mut ListItem);
    rados_object_list_cursor_free(Handle, Handle);
}

/// The library; it is loaded once and never unloaded, for it has threads.
pub(super) fn functions() -> Result<&'static Functions, String> {
    static LOADED: OnceLock<Result<Functions, String>> = OnceLock::new();
    let load = || {
        // SAFETY: the name ends with a NUL; the library is one that does not expect anything of who loads it.
        let library = unsafe { libc::dlopen(c"librados.so.2".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            // SAFETY: after a call that failed there is a message, which lives until the next call of this thread.
            let message = unsafe { libc::dlerror() };
            if message.is_null() {
                return Err("it cannot be loaded".to_string());
            }
            // SAFETY: it is a C string.
            return Err(unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned());
        }
        Functions::find(library)
    };
    LOADED.get_or_init(load).as_ref().map_err(Clone::clone)
}
