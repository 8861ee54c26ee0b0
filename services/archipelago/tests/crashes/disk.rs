//! A mounted disk that forgets, and the care that no mount is left behind.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use archipelago_core::blocker::sim::Syncs;
use fuser::{BackgroundSession, Config, MountOption};
use parking_lot::Mutex;

use crate::filesystem::{Forgetful, Image};
use crate::power::Power;

/// A mounted disk. Unmounted when it is dropped, whoever still uses it.
pub struct Disk {
    mountpoint: PathBuf,
    image: Arc<Mutex<Image>>,
    pub power: Arc<Power>,
    session: Option<BackgroundSession>,
}

impl Disk {
    /// Mounts what `image` holds at an existing directory.
    pub fn mount(mountpoint: &Path, image: Image) -> Disk {
        let (image, power) = (Arc::new(Mutex::new(image)), Arc::new(Power::new()));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("forgetful".into()), MountOption::NoAtime];
        let driver = Forgetful::new(image.clone(), power.clone());
        let session = fuser::spawn_mount(driver, mountpoint, &config);
        let session = session.unwrap_or_else(|e| {
            panic!("{} cannot be mounted: {e}. Needs root, or fusermount3: apt-get install fuse3", mountpoint.display())
        });
        Disk { mountpoint: mountpoint.to_path_buf(), image, power, session: Some(session) }
    }

    /// Plants a bug; see [`Syncs`].
    pub fn drop_syncs(&self, what: Syncs) {
        self.image.lock().inodes.drop_syncs(what);
    }

    /// Unmounts it, and mounts what `left` makes of what was on it in the same place. Nobody may use it.
    pub fn replace(&mut self, left: impl FnOnce(&Image) -> Image) {
        self.unmount();
        let left = left(&self.image.lock());
        *self = Disk::mount(&self.mountpoint, left);
    }

    fn unmount(&mut self) {
        let Some(session) = self.session.take() else { return };
        // Whatever waits in a frozen disk has to come out first.
        self.power.off();
        let left = session.umount_and_join();
        let path = CString::new(self.mountpoint.as_os_str().as_bytes()).unwrap();
        // The session may end with an error although the mount is gone; then there is nothing to unmount here.
        // SAFETY: `path` is a NUL-terminated string that outlives the call.
        if left.is_err() && unsafe { libc::umount2(path.as_ptr(), libc::MNT_FORCE | libc::MNT_DETACH) } == 0 {
            eprintln!("{} was unmounted by force: {left:?}", self.mountpoint.display());
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Whether this machine has FUSE at all; prints the reason if not.
pub fn is_possible() -> bool {
    match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => true,
        Err(e) => {
            println!("SKIPPED: /dev/fuse cannot be opened: {e}");
            false
        }
    }
}

/// Gives this thread, and the threads and processes that it starts from now on, mounts of their own: they go when these do, even
/// if the test is killed. Needs root; without it a killed test leaves its mount.
pub fn keep_mounts_private() {
    let root = c"/".as_ptr();
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: takes no pointer, and changes nothing that other threads see.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0 {
        // SAFETY: a change of propagation looks at the target only, which is a NUL-terminated string.
        let done = unsafe { libc::mount(std::ptr::null(), root, std::ptr::null(), flags, std::ptr::null()) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}
