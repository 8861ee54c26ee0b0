//! The peer: librbd, loaded as librados is, and called in this process.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::super::io::{Contender, Kind, REQUEST, place};
use super::super::{Failure, Numbers, Outcome};

type Handle = *mut c_void;
type OnEnd = unsafe extern "C" fn(Handle, *mut c_void);

/// Features of an image that `rbd create` gives it: layering, exclusive lock, map of objects, fast diff, deep flatten.
const FEATURES: u64 = 1 | 4 | 8 | 16 | 32;
/// Objects of 4 MiB.
const ORDER: c_int = 22;

/// Where functions are, by place in a list of both libraries.
const LIBRADOS: usize = 0;
const LIBRBD: usize = 1;

macro_rules! functions {
    ($($library:ident $name:ident($($type:ty),*) $(-> $result:ty)?;)*) => {
        struct Functions {
            $($name: unsafe extern "C" fn($($type),*) $(-> $result)?,)*
        }

        impl Functions {
            fn find(libraries: [Handle; 2]) -> Result<Functions, Failure> {
                $(
                    // SAFETY: the library is open, and the name ends with a NUL.
                    let $name = unsafe { libc::dlsym(libraries[$library], concat!(stringify!($name), "\0").as_ptr().cast()) };
                    if $name.is_null() {
                        return Err(format!("{}: it is in no library of Ceph", stringify!($name)).into());
                    }
                )*
                // SAFETY: these are their types in the headers of Ceph 16.
                Ok(unsafe { Functions { $($name: std::mem::transmute::<Handle, unsafe extern "C" fn($($type),*) $(-> $result)?>($name),)* } })
            }
        }
    };
}

functions! {
    LIBRADOS rados_create(*mut Handle, *const c_char) -> c_int;
    LIBRADOS rados_conf_read_file(Handle, *const c_char) -> c_int;
    LIBRADOS rados_conf_set(Handle, *const c_char, *const c_char) -> c_int;
    LIBRADOS rados_connect(Handle) -> c_int;
    LIBRADOS rados_shutdown(Handle);
    LIBRADOS rados_ioctx_create(Handle, *const c_char, *mut Handle) -> c_int;
    LIBRADOS rados_ioctx_destroy(Handle);
    LIBRBD rbd_create2(Handle, *const c_char, u64, u64, *mut c_int) -> c_int;
    LIBRBD rbd_open(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
    LIBRBD rbd_close(Handle) -> c_int;
    LIBRBD rbd_snap_create(Handle, *const c_char) -> c_int;
    LIBRBD rbd_snap_protect(Handle, *const c_char) -> c_int;
    LIBRBD rbd_clone(Handle, *const c_char, *const c_char, Handle, *const c_char, u64, *mut c_int) -> c_int;
    LIBRBD rbd_read(Handle, u64, usize, *mut c_char) -> isize;
    LIBRBD rbd_write(Handle, u64, usize, *const c_char) -> isize;
    LIBRBD rbd_aio_create_completion(*mut c_void, OnEnd, *mut Handle) -> c_int;
    LIBRBD rbd_aio_read(Handle, u64, usize, *mut c_char, Handle) -> c_int;
    LIBRBD rbd_aio_write(Handle, u64, usize, *const c_char, Handle) -> c_int;
    LIBRBD rbd_aio_get_return_value(Handle) -> isize;
    LIBRBD rbd_aio_release(Handle);
    LIBRBD rbd_flush(Handle) -> c_int;
}

fn load(name: &str) -> Result<Handle, Failure> {
    // SAFETY: the name ends with a NUL; these libraries expect nothing of who loads them.
    let library = unsafe { libc::dlopen(CString::new(name)?.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        Err(format!("{name}: cannot be loaded; install the package librbd1").into())
    } else {
        Ok(library)
    }
}

fn done(what: &str, code: isize) -> Outcome {
    match code {
        code if code < 0 => Err(format!("librbd: {what}: {}", std::io::Error::from_raw_os_error(-code as i32)).into()),
        _ => Ok(()),
    }
}

/// A connection to a pool.
pub struct Rbd {
    f: Functions,
    cluster: Handle,
    io: Handle,
}

impl Rbd {
    /// Without a cache in the client: what is acknowledged is on the OSDs.
    pub fn connect(conf: &str, pool: &str) -> Result<Rbd, Failure> {
        let f = Functions::find([load("librados.so.2")?, load("librbd.so.1")?])?;
        let (mut cluster, mut io) = (null_mut(), null_mut());
        // SAFETY: strings end with NULs, and the places for handles are ours.
        unsafe {
            done("create", (f.rados_create)(&mut cluster, c"admin".as_ptr()) as isize)?;
            done("configure", (f.rados_conf_read_file)(cluster, CString::new(conf)?.as_ptr()) as isize)?;
            done("configure", (f.rados_conf_set)(cluster, c"rbd_cache".as_ptr(), c"false".as_ptr()) as isize)?;
            done("connect", (f.rados_connect)(cluster) as isize)?;
            done("open the pool", (f.rados_ioctx_create)(cluster, CString::new(pool)?.as_ptr(), &mut io) as isize)?;
        }
        Ok(Rbd { f, cluster, io })
    }

    /// An image with these bytes in all of its blocks.
    pub fn create(&self, name: &str, size: u64, block: &[u8]) -> Outcome {
        let mut order = ORDER;
        // SAFETY: the string ends with a NUL, and the place is ours.
        let code = unsafe { (self.f.rbd_create2)(self.io, CString::new(name)?.as_ptr(), size, FEATURES, &mut order) };
        done("create an image", code as isize)?;
        let image = self.open(name)?;
        (0..size).step_by(block.len()).try_for_each(|at| image.write(block, at))
    }

    /// An image that is open.
    pub fn open(&self, name: &str) -> Result<Image<'_>, Failure> {
        let mut handle = null_mut();
        // SAFETY: the string ends with a NUL, the place is ours, and no snapshot is named.
        let code = unsafe { (self.f.rbd_open)(self.io, CString::new(name)?.as_ptr(), &mut handle, std::ptr::null()) };
        done("open", code as isize)?;
        Ok(Image { rbd: self, handle })
    }

    /// Takes a snapshot, protects it, and clones it.
    pub fn clone(&self, image: &Image<'_>, parent: &str, snapshot: &str, name: &str) -> Outcome {
        let [parent, snapshot, name] = [CString::new(parent)?, CString::new(snapshot)?, CString::new(name)?];
        let mut order = ORDER;
        // SAFETY: the image and the pool are open, strings end with NULs, and the place is ours.
        unsafe {
            done("take a snapshot", (self.f.rbd_snap_create)(image.handle, snapshot.as_ptr()) as isize)?;
            done("protect", (self.f.rbd_snap_protect)(image.handle, snapshot.as_ptr()) as isize)?;
            let (io, parent, snapshot) = (self.io, parent.as_ptr(), snapshot.as_ptr());
            done("clone", (self.f.rbd_clone)(io, parent, snapshot, io, name.as_ptr(), FEATURES, &mut order) as isize)
        }
    }
}

impl Drop for Rbd {
    fn drop(&mut self) {
        // SAFETY: images borrow this, so none is open.
        unsafe {
            (self.f.rados_ioctx_destroy)(self.io);
            (self.f.rados_shutdown)(self.cluster);
        }
    }
}

/// An open image.
pub struct Image<'a> {
    rbd: &'a Rbd,
    handle: Handle,
}

impl Image<'_> {
    /// Writes and waits.
    pub fn write(&self, bytes: &[u8], at: u64) -> Outcome {
        // SAFETY: the buffer is as long as is said.
        done("write", unsafe { (self.rbd.f.rbd_write)(self.handle, at, bytes.len(), bytes.as_ptr().cast()) })
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> Outcome {
        // SAFETY: as above.
        done("read", unsafe { (self.rbd.f.rbd_read)(self.handle, at, bytes.len(), bytes.as_mut_ptr().cast()) })
    }

    /// Flushes.
    pub fn flush(&self) -> Outcome {
        // SAFETY: the image is open.
        done("flush", unsafe { (self.rbd.f.rbd_flush)(self.handle) } as isize)
    }

    /// The contender for a depth.
    pub fn contender(&self, depth: usize) -> Box<dyn Contender + '_> {
        if depth == 1 {
            return Box::new(Calls { image: self, buf: vec![3; REQUEST] });
        }
        let (ends, ended) = channel();
        let slots = (0..depth).map(|number| Slot { number, ends: ends.clone(), buf: vec![3; REQUEST] }).collect();
        Box::new(Queued { image: self, slots, free: (0..depth).collect(), ended })
    }
}

impl Drop for Image<'_> {
    fn drop(&mut self) {
        // SAFETY: the image is open, and nothing is under way.
        unsafe { (self.rbd.f.rbd_close)(self.handle) };
    }
}

struct Calls<'a> {
    image: &'a Image<'a>,
    buf: Vec<u8>,
}

impl Contender for Calls<'_> {
    fn run(&mut self, kind: Kind, count: u64, numbers: &mut Numbers) -> Outcome {
        for _ in 0..count {
            let at = place(numbers);
            match kind {
                Kind::Read => self.image.read(&mut self.buf, at)?,
                _ => self.image.write(&self.buf, at)?,
            }
            if kind == Kind::Durable {
                self.image.flush()?;
            }
        }
        Ok(())
    }
}

/// A request, as its end knows it.
struct Slot {
    number: usize,
    ends: Sender<(usize, isize)>,
    buf: Vec<u8>,
}

struct Queued<'a> {
    image: &'a Image<'a>,
    /// They stay where they are, for requests that are under way have their addresses.
    slots: Box<[Slot]>,
    free: Vec<usize>,
    ended: Receiver<(usize, isize)>,
}

/// What the result of a completion is asked with.
static RETURN_VALUE: std::sync::OnceLock<(unsafe extern "C" fn(Handle) -> isize, unsafe extern "C" fn(Handle))> =
    std::sync::OnceLock::new();

unsafe extern "C" fn on_end(completion: Handle, slot: *mut c_void) {
    // SAFETY: the slot stays until all requests have ended, and nobody changes it meanwhile.
    let slot = unsafe { &*slot.cast_const().cast::<Slot>() };
    if let Some((value, release)) = RETURN_VALUE.get() {
        // SAFETY: the completion has ended, and is not used after this.
        let code = unsafe {
            let code = value(completion);
            release(completion);
            code
        };
        let _ = slot.ends.send((slot.number, code));
    }
}

impl Contender for Queued<'_> {
    /// Leaves the queue full, as the library does.
    fn run(&mut self, kind: Kind, count: u64, numbers: &mut Numbers) -> Outcome {
        let f = &self.image.rbd.f;
        RETURN_VALUE.get_or_init(|| (f.rbd_aio_get_return_value, f.rbd_aio_release));
        for _ in 0..count {
            let number = match self.free.pop() {
                Some(number) => number,
                None => {
                    let (number, code) = self.ended.recv()?;
                    done("request", code)?;
                    // All that have ended by now, as with the library.
                    for (number, code) in self.ended.try_iter() {
                        done("request", code)?;
                        self.free.push(number);
                    }
                    number
                }
            };
            let (at, slot) = (place(numbers), &mut self.slots[number]);
            let (buf, len) = (slot.buf.as_mut_ptr(), slot.buf.len());
            let mut completion = null_mut();
            // SAFETY: slot and buffer stay until the end, for which `drop` waits.
            let code = unsafe {
                (f.rbd_aio_create_completion)((&raw mut *slot).cast(), on_end, &mut completion);
                match kind {
                    Kind::Read => (f.rbd_aio_read)(self.image.handle, at, len, buf.cast(), completion),
                    _ => (f.rbd_aio_write)(self.image.handle, at, len, buf.cast_const().cast(), completion),
                }
            };
            done("begin a request", code as isize)?;
        }
        Ok(())
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        while self.free.len() < self.slots.len() {
            let Ok((number, _)) = self.ended.recv() else { return };
            self.free.push(number);
        }
    }
}
