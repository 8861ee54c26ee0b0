//! Counts the users of an open volume: the last one to go closes it, there and then.
//!
//! References alone would not do: the background thread and the control socket hold one for a moment now and then, and
//! would close the volume behind the back of a user who believes that it is closed.

use std::ops::Deref;
use std::sync::Arc;

use crate::sync::atomic::Ordering;
use crate::volume::inner::Inner;

/// One use of an open volume.
pub struct Handle {
    inner: Arc<Inner>,
}

impl Handle {
    /// Another use. For a volume that is open for writing the caller holds the store's `opening` lock, or has a handle.
    pub fn new(inner: Arc<Inner>) -> Handle {
        inner.handles.fetch_add(1, Ordering::AcqRel);
        Handle { inner }
    }

    /// From now on nobody finds the volume, which the caller closes. `false` if this is not its only use: then nothing was done.
    pub fn retire(&self) -> bool {
        let _opening = self.inner.shared.opening.lock();
        let alone = self.inner.handles.load(Ordering::Acquire) == 1;
        if alone {
            self.inner.leaving.store(true, Ordering::Release);
        }
        alone
    }

    /// Keeps the volume in memory, and not open.
    pub fn keep(&self) -> Arc<Inner> {
        self.inner.clone()
    }
}

impl Clone for Handle {
    fn clone(&self) -> Handle {
        Handle::new(self.inner.clone())
    }
}

impl Deref for Handle {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl Drop for Handle {
    /// What was not flushed may be lost if closing fails; who wants to know calls [`crate::Volume::close`].
    fn drop(&mut self) {
        if self.inner.handles.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        {
            // Nobody may find the volume any more once it is on its way out.
            let _opening = self.inner.shared.opening.lock();
            if self.inner.handles.load(Ordering::Acquire) > 0 || self.inner.leaving.swap(true, Ordering::AcqRel) {
                return;
            }
        }
        if !self.inner.closed.load(Ordering::Acquire) {
            let _ = self.inner.close();
        }
    }
}
