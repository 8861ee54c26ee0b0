//! What comes from C, looked at before it is used: texts, structs that may be of another version, buffers, places for answers.

use std::ffi::{c_char, c_void};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::{ptr, slice};

use crate::error::{Error, Result};
use crate::limits::{MAX_PARTS, MAX_STRUCT, MAX_TEXT};
use archipelago_core::limits::MAX_REQUEST;

/// A struct that begins with its size as the caller knows it, and that later versions add fields to.
///
/// # Safety
///
/// The type is `repr(C)`, begins with a `usize` that is its size, and every pattern of bytes is a value of it, zeros too.
pub unsafe trait Growing: Copy {
    /// Its name in C.
    const NAME: &'static str;
    /// Its size in version 1.0.
    const FIRST: usize;
}

/// Declares structs as [`Growing`], each with its size in version 1.0.
macro_rules! growing {
    ($($type:ident: $first:literal),+ $(,)?) => {$(
        // SAFETY: `repr(C)` with a `usize` in front; behind it there are but integers, arrays of them, pointers, and functions
        // that may be null.
        unsafe impl $crate::arguments::Growing for $type {
            const NAME: &'static str = stringify!($type);
            const FIRST: usize = $first;
        }
        const _: () = assert!(size_of::<$type>() >= $first && std::mem::offset_of!($type, size) == 0);
    )+};
}
pub(crate) use growing;

// The layout of what is exchanged is written down for 64 bits.
const _: () = assert!(usize::BITS == 64);

/// The size that a struct says it has.
///
/// # Safety
///
/// `from` is not null and can be read for as many bytes as it says in its first word.
unsafe fn said<T: Growing>(from: *const T) -> Result<usize> {
    // SAFETY: by contract; the alignment is not counted on.
    let size = unsafe { from.cast::<usize>().read_unaligned() };
    if !(T::FIRST..=MAX_STRUCT).contains(&size) {
        let text = format!("{}: its size is {size}; set it to sizeof the struct, {} or more", T::NAME, T::FIRST);
        return Err(Error::Invalid(text));
    }
    Ok(size)
}

/// Takes a struct over, as this version knows it. Null is all defaults.
///
/// # Safety
///
/// `from` is null, or can be read for as many bytes as it says in its first word.
pub unsafe fn take<T: Growing>(from: *const T) -> Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    if !from.is_null() {
        // SAFETY: by contract.
        let size = unsafe { said(from)? };
        let known = size.min(size_of::<T>());
        // SAFETY: both have `known` bytes, and one of them is ours.
        unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), value.as_mut_ptr().cast(), known) };
        // SAFETY: by contract, and `known` is at most `size`.
        let rest = unsafe { slice::from_raw_parts(from.cast::<u8>().add(known), size - known) };
        if rest.iter().any(|byte| *byte != 0) {
            return Err(Error::TooNew(T::NAME));
        }
    }
    // SAFETY: every pattern of bytes is a value.
    Ok(unsafe { value.assume_init() })
}

/// Where structs of one size go that C gave room for.
pub struct Filled<T: Growing> {
    at: *mut u8,
    size: usize,
    kind: std::marker::PhantomData<T>,
}

impl<T: Growing> Filled<T> {
    /// Room at `at`, whose first element says how large each is.
    ///
    /// # Safety
    ///
    /// `at` is null, or can be read for one word, and written for as many structs of the size in that word as [`Filled::put`] is called for.
    pub unsafe fn new(at: *mut T) -> Result<Filled<T>> {
        if at.is_null() {
            return Err(Error::Null(T::NAME));
        }
        // SAFETY: by contract.
        let size = unsafe { said(at)? };
        Ok(Filled { at: at.cast(), size, kind: std::marker::PhantomData })
    }

    /// Fills the struct there with as much of `value` as the caller knows, and goes to the next one.
    ///
    /// # Safety
    ///
    /// There is room for one more struct.
    pub unsafe fn put(&mut self, value: &T) {
        let known = self.size.min(size_of::<T>());
        // SAFETY: by contract; `value` begins with a word of its own, over which the caller's is written again.
        unsafe {
            ptr::copy_nonoverlapping(ptr::from_ref(value).cast::<u8>(), self.at, known);
            ptr::write_bytes(self.at.add(known), 0, self.size - known);
            self.at.cast::<usize>().write_unaligned(self.size);
            self.at = self.at.add(self.size);
        }
    }
}

/// Puts an answer at a place that may not be null.
///
/// # Safety
///
/// `at` is null, or can be written.
pub unsafe fn put<T>(at: *mut T, name: &'static str, value: T) -> Result<()> {
    required(at, name)?;
    // SAFETY: by contract; the alignment is not counted on.
    unsafe { at.write_unaligned(value) };
    Ok(())
}

/// Refuses null.
#[inline]
pub fn required<T>(at: *const T, name: &'static str) -> Result<()> {
    if at.is_null() { Err(Error::Null(name)) } else { Ok(()) }
}

/// A text that ends with NUL.
///
/// # Safety
///
/// `text` is null, or can be read up to its first NUL; nothing writes there while the answer lives.
pub unsafe fn text<'a>(text: *const c_char, name: &'static str) -> Result<&'a str> {
    required(text, name)?;
    // SAFETY: by contract; what is read ends at the NUL, or before this bound.
    let len = unsafe { libc::strnlen(text, MAX_TEXT) };
    if len == MAX_TEXT {
        return Err(Error::Invalid(format!("{name}: is longer than {} bytes", MAX_TEXT - 1)));
    }
    // SAFETY: so many bytes were just read.
    let bytes = unsafe { slice::from_raw_parts(text.cast::<u8>(), len) };
    std::str::from_utf8(bytes).map_err(|_| Error::Invalid(format!("{name}: is not UTF-8")))
}

/// The same of a text that need not be there.
///
/// # Safety
///
/// As for [`text`].
pub unsafe fn optional_text<'a>(at: *const c_char, name: &'static str) -> Result<Option<&'a str>> {
    // SAFETY: by contract.
    if at.is_null() { Ok(None) } else { unsafe { text(at, name) }.map(Some) }
}

/// Refuses flags that are not in `known`.
#[inline]
pub fn flags(given: u32, known: u32) -> Result<()> {
    if given & !known == 0 { Ok(()) } else { unknown_flags(given & !known) }
}

#[cold]
fn unknown_flags(unknown: u32) -> Result<()> {
    Err(Error::Invalid(format!("flags {unknown:#x}: not known for this call")))
}

/// Refuses an array that is null, unless it is empty, or has more than `most` elements.
pub fn counted<T>(at: *const T, count: usize, most: usize, name: &'static str) -> Result<()> {
    if count > most {
        return Err(Error::Invalid(format!("{name}: {count} of them; at most {most} go at once")));
    }
    if count == 0 { Ok(()) } else { required(at, name) }
}

/// Refuses a buffer that cannot be one.
#[inline]
pub fn check_buffer(buffer: *const c_void, length: usize) -> Result<()> {
    if length as u64 > MAX_REQUEST {
        return Err(too_long(length));
    }
    if buffer.is_null() && length > 0 { Err(Error::Null("buffer")) } else { Ok(()) }
}

#[cold]
fn too_long(length: usize) -> Error {
    Error::Invalid(format!("a request of {length} bytes; at most {MAX_REQUEST} go at once"))
}

/// A buffer to write from.
///
/// # Safety
///
/// `buffer` can be read for `length` bytes while the answer lives, unless either is 0.
#[inline]
pub unsafe fn bytes<'a>(buffer: *const c_void, length: usize) -> Result<&'a [u8]> {
    check_buffer(buffer, length)?;
    if length == 0 {
        return Ok(&[]);
    }
    // SAFETY: by contract.
    Ok(unsafe { slice::from_raw_parts(buffer.cast(), length) })
}

/// A buffer to fill.
///
/// # Safety
///
/// `buffer` can be written for `length` bytes while the answer lives, unless either is 0. Memory of C always has some content.
#[inline]
pub unsafe fn bytes_mut<'a>(buffer: *mut c_void, length: usize) -> Result<&'a mut [u8]> {
    check_buffer(buffer, length)?;
    if length == 0 {
        return Ok(&mut []);
    }
    // SAFETY: by contract.
    Ok(unsafe { slice::from_raw_parts_mut(buffer.cast(), length) })
}

/// The array of parts of a request, with each of them and their sum looked at.
///
/// # Safety
///
/// `iov` can be read for `count` elements while the answer lives, unless it is null.
#[inline]
pub unsafe fn vector<'a>(iov: *const libc::iovec, count: usize) -> Result<&'a [libc::iovec]> {
    counted(iov, count, MAX_PARTS, "iov")?;
    if count == 0 {
        return Ok(&[]);
    }
    if !iov.is_aligned() {
        return Err(Error::Invalid("iov: is not aligned".into()));
    }
    // SAFETY: by contract, aligned and not null.
    let parts = unsafe { slice::from_raw_parts(iov, count) };
    let mut sum = 0;
    for part in parts {
        check_buffer(part.iov_base, part.iov_len)?;
        // Each is at most `MAX_REQUEST`, so this cannot overflow.
        sum += part.iov_len;
    }
    check_buffer(iov.cast(), sum)?;
    Ok(parts)
}

/// Hands the parts of a request to write from to `body`. They are on the stack, and nothing of the room is touched that they do not need.
///
/// # Safety
///
/// As for [`vector`], and each part as for [`bytes`].
#[inline]
pub unsafe fn with_parts<R>(
    iov: *const libc::iovec,
    count: usize,
    body: impl FnOnce(&[IoSlice<'_>]) -> Result<R>,
) -> Result<R> {
    // SAFETY: by contract.
    let vector = unsafe { vector(iov, count)? };
    let mut room = [const { MaybeUninit::<IoSlice<'_>>::uninit() }; MAX_PARTS];
    for (slot, part) in room.iter_mut().zip(vector) {
        // SAFETY: by contract.
        slot.write(IoSlice::new(unsafe { bytes(part.iov_base, part.iov_len)? }));
    }
    // SAFETY: so many were just written; there are at most `MAX_PARTS`.
    body(unsafe { slice::from_raw_parts(room.as_ptr().cast(), vector.len()) })
}

/// The same of a request that fills its parts.
///
/// # Safety
///
/// As for [`vector`], and each part as for [`bytes_mut`].
#[inline]
pub unsafe fn with_parts_mut<R>(
    iov: *const libc::iovec,
    count: usize,
    body: impl FnOnce(&mut [IoSliceMut<'_>]) -> Result<R>,
) -> Result<R> {
    // SAFETY: by contract.
    let vector = unsafe { vector(iov, count)? };
    let mut room = [const { MaybeUninit::<IoSliceMut<'_>>::uninit() }; MAX_PARTS];
    for (slot, part) in room.iter_mut().zip(vector) {
        // SAFETY: by contract.
        slot.write(IoSliceMut::new(unsafe { bytes_mut(part.iov_base, part.iov_len)? }));
    }
    // SAFETY: so many were just written; there are at most `MAX_PARTS`.
    body(unsafe { slice::from_raw_parts_mut(room.as_mut_ptr().cast(), vector.len()) })
}

/// `text` in a field of fixed length, NUL-terminated, and cut between characters if it has to be.
pub fn field<const N: usize>(text: &str) -> [c_char; N] {
    let mut field = [0; N];
    let end = text.floor_char_boundary(N - 1);
    for (to, from) in field.iter_mut().zip(&text.as_bytes()[..end]) {
        *to = *from as c_char;
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Sample {
        size: usize,
        one: u32,
        two: u32,
        later: u64,
    }
    growing!(Sample: 16);

    #[test]
    fn a_struct_of_an_older_program_has_zeros_behind_its_end() {
        let sample = Sample { size: 16, one: 1, two: 2, later: 3 };
        // SAFETY: it is larger than it says.
        let taken = unsafe { take(&sample) }.expect("valid");
        assert_eq!((taken.one, taken.two, taken.later), (1, 2, 0));
    }

    #[test]
    fn a_struct_of_a_newer_program_is_taken_if_it_asks_for_nothing_new() {
        let mut words = [32_usize, 7, 8, 0];
        // SAFETY: as large as it says.
        assert_eq!(unsafe { take(words.as_ptr().cast::<Sample>()) }.expect("valid").later, 8);
        words[3] = 1;
        // SAFETY: as large as it says.
        let taken = unsafe { take(words.as_ptr().cast::<Sample>()) };
        assert!(matches!(taken, Err(Error::TooNew("Sample"))));
    }

    #[test]
    fn a_size_that_cannot_be_is_refused_unread() {
        for size in [0, 1, 15, MAX_STRUCT + 1, usize::MAX] {
            // SAFETY: only the word is read.
            assert!(unsafe { take((&raw const size).cast::<Sample>()) }.is_err(), "{size}");
        }
    }

    #[test]
    fn what_is_filled_keeps_its_size_and_has_zeros_where_nothing_is_known() {
        let mut words = [32_usize, 9, 9, 9, 32, 9, 9, 9];
        let value = Sample { size: 24, one: 1, two: 0, later: 2 };
        // SAFETY: two structs of 32 bytes.
        unsafe {
            let mut filled = Filled::new(words.as_mut_ptr().cast::<Sample>()).expect("valid");
            filled.put(&value);
            filled.put(&value);
        }
        assert_eq!(words, [32, 1, 2, 0, 32, 1, 2, 0]);
        let mut words = [16_usize, 9, 9];
        // SAFETY: one struct of 16 bytes.
        unsafe { Filled::new(words.as_mut_ptr().cast::<Sample>()).expect("valid").put(&value) };
        assert_eq!(words, [16, 1, 9]);
    }

    #[test]
    fn lengths_that_overflow_are_refused_before_anything_is_touched() {
        let one = libc::iovec { iov_base: ptr::dangling_mut::<u8>().cast(), iov_len: usize::MAX };
        let half = libc::iovec { iov_len: MAX_REQUEST as usize / 2 + 1, ..one };
        for parts in [&[one][..], &[one, one], &[half, half]] {
            // SAFETY: the array is there; its parts are not looked into.
            assert!(matches!(unsafe { vector(parts.as_ptr(), parts.len()) }, Err(Error::Invalid(_))));
        }
        // SAFETY: refused by its count.
        assert!(unsafe { vector(&one, MAX_PARTS + 1) }.is_err());
        // SAFETY: refused by its count.
        assert!(unsafe { vector(&one, usize::MAX) }.is_err());
        // SAFETY: null.
        assert!(matches!(unsafe { vector(ptr::null(), 1) }, Err(Error::Null("iov"))));
    }

    #[test]
    fn texts_are_bounded_and_utf_8() {
        let long = vec![b'a'; MAX_TEXT];
        // SAFETY: read up to the bound.
        assert!(unsafe { text(long.as_ptr().cast(), "name") }.is_err());
        // SAFETY: ends with NUL.
        assert!(unsafe { text(c"\xff".as_ptr(), "name") }.is_err());
        // SAFETY: ends with NUL.
        assert_eq!(unsafe { text(c"name".as_ptr(), "name") }.expect("valid"), "name");
    }

    #[test]
    fn fields_end_with_nul_and_between_characters() {
        assert_eq!(field::<4>("ab"), [b'a' as c_char, b'b' as c_char, 0, 0]);
        assert_eq!(field::<4>("abé"), [b'a' as c_char, b'b' as c_char, 0, 0]);
    }
}
