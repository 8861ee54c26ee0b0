//! Receives a snapshot from a stream (docs/send-stream.md, "Receiving"): into a volume under a temporary name, which becomes
//! the snapshot in one commit when all of it is there and verified.

use std::io::{ErrorKind, IoSlice, Read};
use std::sync::Arc;

use serde::Serialize;

use super::send::identity;
use super::shared::Shared;
use super::{Store, VolumeInfo, catalog, open};
use crate::blocker::{RecordKey, VolumeId};
use crate::checksum;
use crate::error::{Error, Owner, Result};
use crate::format::header::{Header, Kind, Root};
use crate::format::labels::Labels;
use crate::format::relations::{Group, Received, Transfer};
use crate::format::stream::{
    Base, FRAME_HEAD, FrameHead, FrameKind, HASH, HEADER_FIXED, Identity, ResumeToken, Sequence, StreamHeader,
};
use crate::limits::{MAX_FRAME, MAX_NAME};
use crate::mapper::replay;
use crate::volume::WriteFlags;
use crate::volume::inner::Inner;

/// Ends the name of a volume that is being received.
const SUFFIX: &str = ".receiving";
/// What a stream is called in errors.
const STREAM: &str = "the stream";

/// A stream that is being received, or was interrupted.
#[derive(Clone, Debug, Serialize)]
pub struct ReceiveStatus {
    /// Name that the snapshot will get.
    pub name: String,
    /// Name of the volume that it is until then.
    pub partial: String,
    /// Size of the snapshot in bytes.
    pub size: u64,
    /// Everything before this byte is here for good.
    pub position: u64,
    /// Bytes of data received so far.
    pub data: u64,
    /// Bytes of zeros received so far.
    pub zeros: u64,
    /// Identity of the snapshot.
    pub snapshot: String,
    /// Identity of the base, if the stream has one.
    pub base: Option<String>,
    /// What the sender needs to go on from here.
    pub token: String,
    /// The process that is receiving it now.
    pub open_by: Option<Owner>,
}

/// `NAME.receiving`. A name too long for that is cut, and told from others with the same start by a checksum of the whole.
fn partial_name(name: &str) -> String {
    if name.len() + SUFFIX.len() <= MAX_NAME {
        return format!("{name}{SUFFIX}");
    }
    let tail = format!(".{:08x}{SUFFIX}", checksum::crc32c(name.as_bytes()));
    let mut cut = MAX_NAME - tail.len();
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}{tail}", &name[..cut])
}

/// Fills a buffer from the stream. A stream that ends here was cut; `place` says where that is.
fn fill(input: &mut dyn Read, buf: &mut [u8], place: impl Fn() -> String) -> Result<()> {
    input.read_exact(buf).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => Error::damaged(STREAM, format!("it was cut off {}", place())),
        _ => Error::Io { op: "read", object: STREAM.into(), source: error },
    })
}

fn read_header(input: &mut dyn Read) -> Result<(StreamHeader, Sequence)> {
    let place = || "in its header".to_string();
    let mut fixed = [0; HEADER_FIXED];
    fill(input, &mut fixed, place)?;
    let mut bytes = fixed.to_vec();
    bytes.resize(StreamHeader::len(&fixed)?, 0);
    fill(input, &mut bytes[HEADER_FIXED..], place)?;
    let header = StreamHeader::decode(&bytes)?;
    let sequence = Sequence::new(header.size, header.start(&bytes));
    Ok((header, sequence))
}

/// The map of this id, if it has the identity of the base and counts under its name.
fn base_of_id(shared: &Shared, base: &Base, id: VolumeId) -> Result<Option<Header>> {
    let header = match catalog::read_header(shared, id) {
        Ok(Some((header, _))) if is_base(shared, base, &header) => header,
        // What is damaged or gone is no base; somebody else says so.
        _ => return Ok(None),
    };
    Ok(catalog::resolve(shared, &header.name)?.map(|(header, _)| header).filter(|found| found.id == id))
}

fn is_base(shared: &Shared, base: &Base, header: &Header) -> bool {
    header.kind != Kind::Volume && identity(shared, header) == base.identity
}

/// The snapshot here that has the identity of the base. Most likely it has the same name, or was taken here; otherwise all
/// are looked at.
fn find_base(shared: &Shared, base: &Base, block_shift: u8) -> Result<Header> {
    let mut found = catalog::find(shared, &base.name).ok().map(|(h, _)| h).filter(|h| is_base(shared, base, h));
    if found.is_none() && base.identity.store == shared.superblock.uuid {
        found = base_of_id(shared, base, base.identity.id)?;
    }
    if found.is_none() {
        for id in shared.blocker.headers()? {
            found = base_of_id(shared, base, id)?;
            if found.is_some() {
                break;
            }
        }
    }
    let Some(header) = found else {
        let text = format!("the stream builds on {} (snapshot {}), which is not here", base.name, base.identity);
        return Err(Error::NoBase(text));
    };
    if header.size != base.size || header.block_shift != block_shift {
        let text = format!("it builds on {}, which has another size or block size here", header.name);
        return Err(Error::damaged(STREAM, text));
    }
    Ok(header)
}

/// What the header of the volume says when the stream has come this far.
fn transfer(stream: &StreamHeader, sequence: &Sequence) -> Received {
    let base: Option<Identity> = stream.base.as_ref().map(|b| b.identity);
    Received::Partly(Box::new(Transfer { identity: stream.identity, base, progress: *sequence.progress() }))
}

/// One stream being received into an open volume.
struct Receiving<'a> {
    inner: &'a Inner,
    stream: &'a StreamHeader,
    sequence: Sequence,
}

impl Receiving<'_> {
    /// Takes frames up to the end frame.
    fn frames(&mut self, input: &mut dyn Read, watch: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let mut buf = vec![0; MAX_FRAME + HASH];
        while !self.sequence.ended() {
            let position = self.sequence.progress().position;
            watch(position)?;
            let place = || format!("behind byte {position} of the snapshot, before its end");
            let mut head = [0; FRAME_HEAD];
            fill(input, &mut head, place)?;
            let rest = &mut buf[..FrameHead::payload_len(&head)? + HASH];
            fill(input, rest, place)?;
            let (payload, hash) = rest.split_at(rest.len() - HASH);
            // Kept only when the data is stored: progress must not speak of what is not there.
            let mut next = self.sequence.clone();
            let frame = next.accept(&head, payload, hash)?;
            match frame.kind {
                FrameKind::Data => self.inner.write(&[IoSlice::new(payload)], frame.offset, WriteFlags::default())?,
                FrameKind::Zeros => {
                    self.inner.write_zeroes(frame.offset, frame.len, false, WriteFlags::default())?;
                }
                FrameKind::Mark | FrameKind::End => {}
            }
            self.sequence = next;
            if frame.kind == FrameKind::Mark {
                self.save()?;
            }
        }
        watch(self.stream.size)
    }

    /// Makes what was received durable, then notes how far it goes.
    fn save(&self) -> Result<()> {
        self.inner.flush()?;
        let received = transfer(self.stream, &self.sequence);
        if self.inner.header.lock().header.received == received {
            return Ok(());
        }
        self.inner.commit_header(|h| h.received = received)
    }
}

impl Store {
    /// Receives a stream as the snapshot `name`. It appears under that name when all of it is here and verified, at once; until
    /// then, and if the stream is cut or damaged, what was received is kept, and [`Store::receive_status`] says how to
    /// go on. `watch` is called with the position reached, and ends the call by returning an error.
    ///
    /// Reads no byte behind the end of the stream.
    pub fn receive(
        &self,
        name: &str,
        input: &mut dyn Read,
        watch: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<VolumeInfo> {
        crate::name::check(name)?;
        catalog::ensure_free(&self.shared, name)?;
        let partial = partial_name(name);
        let (stream, sequence) = read_header(input)?;
        match (catalog::resolve(&self.shared, &partial)?, &stream.resumed) {
            (None, None) => self.begin(&partial, &stream, &sequence)?,
            (Some(_), Some(_)) => {}
            (None, Some(_)) => {
                let text =
                    format!("the stream goes on with an earlier one, but there is no {partial}; send without --resume");
                return Err(Error::InvalidArgument(text));
            }
            (Some(_), None) => {
                return Err(Error::Exists(format!(
                    "{partial} (an earlier stream, at work or interrupted: see `archipelago receive --status {name}`)"
                )));
            }
        }
        let handle = open::for_receiving(&self.shared, &partial)?;
        let id = handle.id;
        let fits = {
            let here = &handle.header.lock().header;
            let size = here.size == stream.size && here.block_shift == stream.block_shift;
            size && here.received == transfer(&stream, &sequence)
        };
        if !fits {
            return Err(Error::InvalidArgument(format!(
                "the stream does not go on where {partial} stands; send with the token of `archipelago receive --status {name}`"
            )));
        }
        let mut receiving = Receiving { inner: &handle, stream: &stream, sequence };
        let received = receiving.frames(input, watch);
        // Also what came before an error, so that it need not be sent again. The first error says why.
        let saved = receiving.save();
        let closed = handle.close();
        received.and(saved).and(closed)?;
        self.publish_received(id, name, stream.identity)
    }

    /// Makes the volume that a stream goes into.
    fn begin(&self, partial: &str, stream: &StreamHeader, sequence: &Sequence) -> Result<()> {
        let _operation = self.shared.operations.begin();
        let mut header = Header {
            id: self.shared.new_id()?,
            kind: Kind::Volume,
            name: partial.to_string(),
            removed: false,
            shrunk: false,
            size: stream.size,
            block_shift: stream.block_shift,
            epoch: 1,
            created: stream.created,
            parent: VolumeId(0),
            birth: 0,
            key: 0,
            domain: 0,
            root: Root::Empty,
            ranges: Vec::new(),
            log: None,
            received: transfer(stream, sequence),
            group: Group::No,
            labels: Labels::default(),
            cached: None,
        };
        let Some(base) = &stream.base else { return catalog::publish(&self.shared, &header) };
        let found = find_base(&self.shared, base, stream.block_shift)?;
        // Open until a second header names what this one names.
        let open = open::for_reading(&self.shared, &found.name)?;
        {
            let here = &open.header.lock().header;
            if here.id != found.id {
                return Err(Error::NotFound(found.name));
            }
            (header.parent, header.root, header.ranges) = (here.id, here.root.clone(), here.ranges.clone());
        }
        header.shrunk = header.size < found.size;
        catalog::publish(&self.shared, &header)
    }

    /// Turns a volume into which all was received into the snapshot that it is.
    fn publish_received(&self, id: VolumeId, name: &str, origin: Identity) -> Result<VolumeInfo> {
        let shared: &Arc<Shared> = &self.shared;
        let _operation = shared.operations.begin();
        let gone = || Error::NotFound(partial_name(name));
        let (header, _) = catalog::read_header(shared, id)?.ok_or_else(gone)?;
        let _lock = self.lock_patiently(&header, "it is being received there as well")?;
        // Read again, now that nobody else can change it.
        let (header, version) = self.find_again(&header.name, id)?;
        let complete = |t: &Transfer| t.identity == origin && t.progress.position == header.size;
        if !matches!(&header.received, Received::Partly(t) if complete(t)) {
            return Err(Error::Stale(header.name));
        }
        // Closing folded everything: a snapshot has no journal of its own.
        let replayed = replay::load(&*shared.blocker, &shared.cache, &header)?;
        if header.shrunk || replayed.tail.bytes > 0 || !replayed.view.overlay.is_empty() {
            return Err(Error::Stale(header.name));
        }
        catalog::claim_name(shared, name, id)?;
        let old = header.name.clone();
        let kind = Kind::Snapshot;
        let snapshot = Header { kind, name: name.to_string(), log: None, received: Received::From(origin), ..header };
        shared.check_registered()?;
        shared.blocker.commit_record(RecordKey::Header(id), version, &snapshot.encode())?;
        shared.blocker.unbind_name(&old)?;
        catalog::describe(shared, &snapshot, None)
    }

    /// How far the reception of the snapshot `name` has come; `NotFound` if there is none.
    pub fn receive_status(&self, name: &str) -> Result<ReceiveStatus> {
        let partial = partial_name(name);
        let (header, _) = catalog::find(&self.shared, &partial)?;
        let Received::Partly(transfer) = header.received else { return Err(Error::NotFound(partial)) };
        let Transfer { identity, base, progress } = *transfer;
        Ok(ReceiveStatus {
            name: name.to_string(),
            partial,
            size: header.size,
            position: progress.position,
            data: progress.data,
            zeros: progress.zeros,
            snapshot: identity.to_string(),
            base: base.map(|base| base.to_string()),
            token: ResumeToken { identity, base, progress }.to_string(),
            open_by: catalog::holder(&self.shared, header.id)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_what_is_being_received_are_valid_and_differ_where_the_names_do() {
        assert_eq!(partial_name("debian"), "debian.receiving");
        let long = "a".repeat(MAX_NAME);
        let other = format!("{}b", "a".repeat(MAX_NAME - 1));
        let wide = "é".repeat(MAX_NAME / 2);
        assert_ne!(partial_name(&long), partial_name(&other));
        for name in [&long, &other, &wide, &"b".repeat(72), &"b".repeat(73)] {
            let partial = partial_name(name);
            crate::name::check(&partial).expect(&partial);
            assert!(partial.ends_with(SUFFIX));
        }
    }
}
