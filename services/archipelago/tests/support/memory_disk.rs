//! A disk in memory, and a set of them as exports: the device under the endpoint's tests and its example.
#![allow(dead_code, missing_docs)]

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use archipelago_service::nbd::{Device, DeviceResult, Errno, ExportError, Exports, Extent};
use parking_lot::RwLock;

/// Unit of allocation in bytes.
pub const PAGE: u64 = 64 << 10;

/// A sparse disk in memory. Lost with the process.
pub struct MemoryDisk {
    pages: Vec<RwLock<Option<Box<[u8]>>>>,
    size: AtomicU64,
    read_only: bool,
    /// Flushes, durable writes and durable zeroings so far.
    pub syncs: AtomicUsize,
    /// Reads and writes that touch this byte fail with EIO; `u64::MAX` for none.
    pub broken_at: u64,
    /// Time that each flush takes.
    pub flush_time: std::time::Duration,
}

impl MemoryDisk {
    pub fn new(size: u64, read_only: bool) -> MemoryDisk {
        let pages = (0..size.div_ceil(PAGE)).map(|_| RwLock::new(None)).collect();
        let (syncs, flush_time) = (AtomicUsize::new(0), std::time::Duration::ZERO);
        MemoryDisk { pages, size: AtomicU64::new(size), read_only, syncs, broken_at: u64::MAX, flush_time }
    }

    /// Makes it smaller, or as large again as it was at most.
    pub fn resize(&self, size: u64) {
        assert!(size <= self.pages.len() as u64 * PAGE);
        self.size.store(size, Ordering::SeqCst);
    }

    fn synced(&self) {
        self.syncs.fetch_add(1, Ordering::SeqCst);
    }

    /// Calls `each` with page number, first byte in the page, and length, for the pages of a range.
    fn pages(&self, offset: u64, len: u64, mut each: impl FnMut(usize, usize, usize)) -> DeviceResult<()> {
        let end = offset.checked_add(len).filter(|end| *end <= self.size()).ok_or(Errno(22))?;
        if (offset..end).contains(&self.broken_at) {
            return Err(Errno(5));
        }
        let mut at = offset;
        while at < end {
            let n = (PAGE - at % PAGE).min(end - at);
            each((at / PAGE) as usize, (at % PAGE) as usize, n as usize);
            at += n;
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, keep: bool) -> DeviceResult<()> {
        self.pages(offset, len, |page, from, n| {
            let mut page = self.pages[page].write();
            match &mut *page {
                Some(bytes) if keep || n < bytes.len() => bytes[from..from + n].fill(0),
                page if keep => *page = Some(vec![0; PAGE as usize].into()),
                page => *page = None,
            }
        })
    }
}

impl Device for MemoryDisk {
    fn size(&self) -> u64 {
        self.size.load(Ordering::SeqCst)
    }
    fn block_size(&self) -> u32 {
        4096
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn description(&self) -> String {
        "a disk in memory".to_string()
    }

    fn read(&self, bufs: &mut [IoSliceMut<'_>], mut offset: u64) -> DeviceResult<()> {
        for buf in bufs {
            let mut rest = &mut buf[..];
            let len = rest.len() as u64;
            self.pages(offset, len, |page, from, n| {
                let (head, tail) = std::mem::take(&mut rest).split_at_mut(n);
                rest = tail;
                match &*self.pages[page].read() {
                    Some(bytes) => head.copy_from_slice(&bytes[from..from + n]),
                    None => head.fill(0),
                }
            })?;
            offset += len;
        }
        Ok(())
    }

    fn write(&self, bufs: &[IoSlice<'_>], mut offset: u64, fua: bool) -> DeviceResult<()> {
        for buf in bufs {
            let mut rest = &buf[..];
            let len = rest.len() as u64;
            self.pages(offset, len, |page, from, n| {
                let (head, tail) = rest.split_at(n);
                rest = tail;
                let mut page = self.pages[page].write();
                let bytes = page.get_or_insert_with(|| vec![0; PAGE as usize].into());
                bytes[from..from + n].copy_from_slice(head);
            })?;
            offset += len;
        }
        if fua {
            self.synced();
        }
        Ok(())
    }

    fn flush(&self) -> DeviceResult<()> {
        std::thread::sleep(self.flush_time);
        self.synced();
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> DeviceResult<()> {
        self.zero(offset, len, false)
    }

    fn write_zeroes(&self, offset: u64, len: u64, allocate: bool, fua: bool) -> DeviceResult<()> {
        self.zero(offset, len, allocate)?;
        if fua {
            self.synced();
        }
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> DeviceResult<Vec<Extent>> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = offset;
        self.pages(offset, len, |page, _, n| {
            let zero = self.pages[page].read().is_none();
            let joins = extents.last().is_some_and(|last| last.zero == zero && last.offset + last.len == at);
            if joins && let Some(last) = extents.last_mut() {
                last.len += n as u64;
            } else if extents.len() < max {
                extents.push(Extent { offset: at, len: n as u64, zero });
            }
            at += n as u64;
        })?;
        Ok(extents)
    }
}

/// Disks by name. `open_handles` counts what connections hold.
pub struct MemoryExports {
    pub disks: BTreeMap<String, Arc<MemoryDisk>>,
    pub default: Option<String>,
}

impl MemoryExports {
    /// One disk called `disk`, the default.
    pub fn one(disk: MemoryDisk) -> Arc<MemoryExports> {
        let disks = BTreeMap::from([("disk".to_string(), Arc::new(disk))]);
        Arc::new(MemoryExports { disks, default: Some("disk".to_string()) })
    }

    /// Handles that connections hold on all disks together.
    pub fn open_handles(&self) -> usize {
        self.disks.values().map(|disk| Arc::strong_count(disk) - 1).sum()
    }
}

impl Exports for MemoryExports {
    fn open(&self, name: &str) -> Result<Arc<dyn Device>, ExportError> {
        match self.disks.get(name) {
            Some(disk) => Ok(Arc::clone(disk) as Arc<dyn Device>),
            None => Err(ExportError::Unknown(format!("{name:?}: no such export"))),
        }
    }
    fn list(&self) -> Vec<String> {
        self.disks.keys().cloned().collect()
    }
    fn default_export(&self) -> Option<String> {
        self.default.clone()
    }
}
