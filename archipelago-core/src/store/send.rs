//! Sends a snapshot as a stream (docs/send-stream.md): reads what differs from the base, and nothing that both share.

use std::io::{IoSliceMut, Write};
use std::sync::Arc;

use serde::Serialize;

use super::shared::Shared;
use super::{Store, catalog, open, usage};
use crate::error::{Error, Result};
use crate::format::bytes::is_zero;
use crate::format::header::{Header, Kind};
use crate::format::node::Source;
use crate::format::relations::Received;
use crate::format::stream::{Base, FrameHead, FrameKind, Identity, ResumeToken, Sequence, StreamHeader};
use crate::limits::{MARK_BYTES, MAX_FRAME, SECTOR, SECTOR_SHIFT};
use crate::mapper::view::MapView;
use crate::volume::handle::Handle;

/// What is to be sent.
#[derive(Clone, Debug, Default)]
pub struct SendOptions {
    /// The snapshot that the receiver has: only what differs from it is sent. `None`: everything.
    pub from: Option<String>,
    /// Where an interrupted stream goes on.
    pub resume: Option<ResumeToken>,
}

/// What a stream would hold, or held. Found without reading data it is the most that it can be: what turns out to be zero
/// counts as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SendPlan {
    /// The snapshot.
    pub name: String,
    /// The base, if there is one.
    pub from: Option<String>,
    /// Size of the snapshot in bytes.
    pub size: u64,
    /// Where it starts: not 0 for a stream that is resumed.
    pub position: u64,
    /// Bytes of data, those sent before it was resumed included.
    pub data: u64,
    /// Bytes that are zero and were not in the base, those sent before it was resumed included.
    pub zeros: u64,
}

/// What a snapshot is recognised by in every store.
pub(super) fn identity(shared: &Shared, header: &Header) -> Identity {
    match &header.received {
        Received::From(identity) => *identity,
        _ => Identity { store: shared.superblock.uuid, id: header.id },
    }
}

/// A snapshot with its map. While the handle lives, what the map names stays.
struct Opened {
    handle: Handle,
    view: MapView,
    identity: Identity,
}

impl Opened {
    fn new(shared: &Arc<Shared>, name: &str) -> Result<Opened> {
        let (header, _) = catalog::find(shared, name)?;
        if header.kind == Kind::Volume {
            return Err(Error::NotSnapshot(name.to_string()));
        }
        let handle = open::for_reading(shared, name)?;
        // The name may have changed hands since it was looked up.
        let header = handle.header.lock().header.clone();
        if header.kind == Kind::Volume {
            return Err(Error::NotSnapshot(name.to_string()));
        }
        Ok(Opened { view: handle.view(), identity: identity(shared, &header), handle })
    }
}

/// A stream about to be sent.
struct Sending {
    target: Opened,
    base: Option<Opened>,
    header: StreamHeader,
}

impl Sending {
    fn open(shared: &Arc<Shared>, name: &str, options: &SendOptions) -> Result<Sending> {
        let target = Opened::new(shared, name)?;
        let base = options.from.as_deref().map(|from| Opened::new(shared, from)).transpose()?;
        if let (Some(base), Some(from)) = (&base, &options.from) {
            if base.view.tree.block_shift != target.view.tree.block_shift {
                let text =
                    format!("{from} and {name} have different block sizes and share nothing; send without --from");
                return Err(Error::InvalidArgument(text));
            }
            if base.identity == target.identity {
                return Err(Error::InvalidArgument(format!("{from} and {name} are the same snapshot")));
            }
        }
        if let Some(token) = &options.resume {
            let fits = token.progress.fits(target.view.size);
            if !fits || token.identity != target.identity || token.base != base.as_ref().map(|b| b.identity) {
                let base = token.base.map_or("without --from".to_string(), |base| format!("with --from {base}"));
                return Err(Error::InvalidArgument(format!(
                    "the token is for a stream of snapshot {} {base}; name those, or send anew without a token",
                    token.identity
                )));
            }
        }
        let header = StreamHeader {
            identity: target.identity,
            name: name.to_string(),
            size: target.view.size,
            created: target.handle.header.lock().header.created,
            block_shift: target.view.tree.block_shift,
            base: base.as_ref().zip(options.from.clone()).map(|(base, name)| Base {
                identity: base.identity,
                size: base.view.size,
                name,
            }),
            sender: shared.superblock.uuid,
            resumed: options.resume.map(|token| token.progress),
        };
        Ok(Sending { target, base, header })
    }

    fn from(&self) -> u64 {
        self.header.resumed.map_or(0, |progress| progress.position)
    }

    /// Calls `each` with the ranges that the receiver lacks, in order: offset, length, whether the map has nothing there.
    fn walk(&self, shared: &Shared, each: &mut dyn FnMut(u64, u64, bool) -> Result<()>) -> Result<()> {
        let (from, size) = (self.from(), self.header.size);
        let mut clipped = |offset: u64, len: u64, zero: bool| {
            let (start, stop) = (offset.max(from), (offset + len).min(size));
            if start < stop { each(start, stop - start, zero) } else { Ok(()) }
        };
        if let Some(base) = &self.base {
            return usage::diff_views(shared, &base.view, &self.target.view, from, &mut |extent| {
                clipped(extent.offset, extent.len, extent.zero)
            });
        }
        // What is not sent is zero at the receiver. Neighbours are joined, for they are read together.
        let mut last: Option<(u64, u64)> = None;
        let (blocker, cache) = (&*shared.blocker, &shared.cache);
        let (first, end) = (from >> SECTOR_SHIFT, size.div_ceil(SECTOR));
        self.target.view.runs(blocker, cache, first, end, &mut |sector, sectors, source| {
            if source == Source::Zero {
                return Ok(true);
            }
            let (offset, len) = (sector << SECTOR_SHIFT, sectors << SECTOR_SHIFT);
            match &mut last {
                Some((start, length)) if *start + *length == offset => *length += len,
                _ => {
                    if let Some((start, length)) = last.replace((offset, len)) {
                        clipped(start, length, false)?;
                    }
                }
            }
            Ok(true)
        })?;
        last.map_or(Ok(()), |(start, length)| clipped(start, length, false))
    }

    fn plan(&self, options: &SendOptions, data: u64, zeros: u64) -> SendPlan {
        let (name, from) = (self.header.name.clone(), options.from.clone());
        SendPlan { name, from, size: self.header.size, position: self.from(), data, zeros }
    }
}

/// Writes frames.
struct Frames<'a> {
    out: &'a mut dyn Write,
    sequence: Sequence,
    /// Whether zeros are sent: without a base the receiver has nothing else.
    zeros: bool,
    /// A range of zeros that may go on.
    pending: Option<(u64, u64)>,
    /// Payload since the last mark.
    unmarked: u64,
}

fn broken(error: std::io::Error) -> Error {
    Error::Io { op: "write", object: "the stream".into(), source: error }
}

impl Frames<'_> {
    fn put(&mut self, kind: FrameKind, offset: u64, len: u64, payload: &[u8]) -> Result<()> {
        let frame = FrameHead { kind, payload: payload.len() as u32, offset, len };
        let (head, hash) = self.sequence.write(frame, payload)?;
        for part in [&head[..], payload, &hash] {
            self.out.write_all(part).map_err(broken)?;
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        match &mut self.pending {
            _ if !self.zeros => {}
            Some((start, length)) if *start + *length == offset => *length += len,
            _ => {
                self.settle()?;
                self.pending = Some((offset, len));
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        match self.pending.take() {
            Some((offset, len)) => self.put(FrameKind::Zeros, offset, len, &[]),
            None => Ok(()),
        }
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.settle()?;
        self.put(FrameKind::Data, offset, bytes.len() as u64, bytes)?;
        self.unmarked += bytes.len() as u64;
        if self.unmarked >= MARK_BYTES {
            self.unmarked = 0;
            self.put(FrameKind::Mark, offset + bytes.len() as u64, 0, &[])?;
        }
        Ok(())
    }

    /// Bytes as they were read: sectors of zeros apart from the rest.
    fn bytes(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let (mut start, mut at) = (0, 0);
        while start < bytes.len() {
            let end = |at: usize| (at + SECTOR as usize).min(bytes.len());
            let blank = is_zero(&bytes[start..end(start)]);
            while at < bytes.len() && is_zero(&bytes[at..end(at)]) == blank {
                at = end(at);
            }
            if blank {
                self.zero(offset + start as u64, (at - start) as u64)?;
            } else {
                self.data(offset + start as u64, &bytes[start..at])?;
            }
            start = at;
        }
        Ok(())
    }

    fn end(mut self, size: u64) -> Result<Sequence> {
        self.settle()?;
        let totals = self.sequence.totals();
        self.put(FrameKind::End, size, 0, &totals)?;
        self.out.flush().map_err(broken)?;
        Ok(self.sequence)
    }
}

impl Store {
    /// Writes a snapshot to `out` as a stream. `watch` is called with the position reached, and ends the stream by returning an
    /// error. Returns what the stream held.
    ///
    /// Besides the maps, nothing is read but the ranges which the snapshot and `from` have stored in different places.
    pub fn send(
        &self,
        snapshot: &str,
        options: &SendOptions,
        out: &mut dyn Write,
        watch: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<SendPlan> {
        let sending = Sending::open(&self.shared, snapshot, options)?;
        let header = sending.header.encode();
        out.write_all(&header).map_err(broken)?;
        let sequence = Sequence::new(sending.header.size, sending.header.start(&header));
        let mut frames = Frames { out, sequence, zeros: sending.base.is_some(), pending: None, unmarked: 0 };
        let mut buf = vec![0; MAX_FRAME];
        sending.walk(&self.shared, &mut |offset, len, zero| {
            if zero {
                watch(offset)?;
                return frames.zero(offset, len);
            }
            let mut at = offset;
            while at < offset + len {
                watch(at)?;
                // Up to the next multiple, so that reads stay aligned with blocks.
                let n = (MAX_FRAME as u64 - at % MAX_FRAME as u64).min(offset + len - at) as usize;
                sending.target.handle.read(&mut [IoSliceMut::new(&mut buf[..n])], at)?;
                frames.bytes(at, &buf[..n])?;
                at += n as u64;
            }
            Ok(())
        })?;
        let sequence = frames.end(sending.header.size)?;
        watch(sending.header.size)?;
        Ok(sending.plan(options, sequence.progress().data, sequence.progress().zeros))
    }

    /// What [`Store::send`] would send at most. Reads maps and no data.
    pub fn send_plan(&self, snapshot: &str, options: &SendOptions) -> Result<SendPlan> {
        let sending = Sending::open(&self.shared, snapshot, options)?;
        let before = options.resume.map(|token| token.progress).unwrap_or_default();
        let (mut data, mut zeros) = (before.data, before.zeros);
        sending.walk(&self.shared, &mut |_, len, zero| {
            *if zero { &mut zeros } else { &mut data } += len;
            Ok(())
        })?;
        Ok(sending.plan(options, data, zeros))
    }
}
