//! The stream that carries a snapshot from one store to another (docs/send-stream.md): its header, its frames, the order in
//! which they may come, and the token with which an interrupted one goes on. No I/O happens here.

use super::bytes::{Reader, Writer, bit_names, is_zero};
use super::header::MAX_STORED_NAME;
use crate::blocker::VolumeId;
use crate::checksum;
use crate::error::{Error, Result};
use crate::hex;
use crate::limits::{MAX_BLOCK_SIZE, MAX_FRAME, MAX_VOLUME_SIZE, MIN_BLOCK_SIZE, MIN_VOLUME_SIZE, SECTOR};

/// Version of streams written by this build.
pub const VERSION: u32 = 1;
/// Bytes of a header before the names.
pub const HEADER_FIXED: usize = 184;
/// Most bytes of a header.
pub const MAX_HEADER: usize = HEADER_FIXED + 2 * MAX_STORED_NAME + HASH;
/// Bytes of a frame before its payload.
pub const FRAME_HEAD: usize = 24;
/// Bytes of a hash, which ends the header and every frame.
pub const HASH: usize = 32;
/// Bytes of payload of an end frame.
const END_PAYLOAD: u32 = 16;

/// First bytes of a stream.
const MAGIC: [u8; 8] = *b"ARCHSEND";
/// Features of streams that this build knows.
const INCOMPAT_KNOWN: u64 = 0;
const INCREMENTAL: u8 = 1;
const RESUMED: u8 = 2;
/// Bytes of an identity.
const IDENTITY: usize = 24;
/// Bytes of a progress.
const PROGRESS: usize = 56;
/// Start of the text form of a token; the number is that of its version.
const TOKEN: &str = "archipelago-resume-1-";
/// What a stream is called in errors.
const OBJECT: &str = "the stream";

/// What a snapshot is recognised by in every store: where it was taken, and its id there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Identity {
    /// Uuid of the store.
    pub store: [u8; 16],
    /// Id of the snapshot, never 0.
    pub id: VolumeId,
}

impl Identity {
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.bytes(&self.store).u64(self.id.0);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Identity> {
        Ok(Identity { store: reader.array()?, id: VolumeId(reader.u64()?) })
    }

    pub(crate) fn write_option(this: &Option<Identity>, writer: &mut Writer) {
        this.unwrap_or_default().write(writer);
    }

    /// All zeros stand for none; an id of 0 in any other company is damage.
    pub(crate) fn read_option(reader: &mut Reader<'_>) -> Result<Option<Identity>> {
        let identity = Identity::read(reader)?;
        if identity == Identity::default() {
            return Ok(None);
        }
        reader.require(identity.id.0 != 0, "an identity has no id")?;
        Ok(Some(identity))
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of store {}", self.id, uuid_text(&self.store))
    }
}

/// A uuid as people write it.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// How far a stream has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Everything of the snapshot before this byte has been sent.
    pub position: u64,
    /// Bytes in data frames so far.
    pub data: u64,
    /// Bytes in zero frames so far.
    pub zeros: u64,
    /// The hash at which the chain stands.
    pub chain: [u8; HASH],
}

impl Progress {
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.u64(self.position).u64(self.data).u64(self.zeros).bytes(&self.chain);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Progress> {
        Ok(Progress { position: reader.u64()?, data: reader.u64()?, zeros: reader.u64()?, chain: reader.array()? })
    }

    /// Whether a snapshot of `size` bytes can have come this far.
    pub(crate) fn fits(&self, size: u64) -> bool {
        let whole = self.position.is_multiple_of(SECTOR) || self.position == size;
        let sent = self.data.checked_add(self.zeros).is_some_and(|sent| sent <= self.position);
        whole && sent && self.position <= size
    }
}

/// The base of an incremental stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Base {
    /// What it is recognised by.
    pub identity: Identity,
    /// Its size in bytes.
    pub size: u64,
    /// Its name at the sender: for messages, and to look there first.
    pub name: String,
}

/// The header of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamHeader {
    /// What the snapshot is recognised by.
    pub identity: Identity,
    /// Its name at the sender, for messages.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was taken, in seconds since 1970.
    pub created: u64,
    /// `log2` of the block size of the snapshot and of the base.
    pub block_shift: u8,
    /// What the stream is the difference to; `None`: it holds everything.
    pub base: Option<Base>,
    /// Uuid of the store that sends.
    pub sender: [u8; 16],
    /// Where it goes on; `None`: at the start.
    pub resumed: Option<Progress>,
}

impl StreamHeader {
    /// The stored form. Names longer than [`MAX_STORED_NAME`] or empty are the caller's to avoid.
    pub fn encode(&self) -> Vec<u8> {
        let base_name = self.base.as_ref().map_or("", |b| &b.name);
        let flags =
            if self.base.is_some() { INCREMENTAL } else { 0 } | if self.resumed.is_some() { RESUMED } else { 0 };
        let mut writer = Writer::with_capacity(MAX_HEADER);
        writer.bytes(&MAGIC).u32(VERSION).u32(0).u64(0);
        writer.u8(flags).u8(self.block_shift).u8(self.name.len() as u8).u8(base_name.len() as u8).u32(0);
        self.identity.write(&mut writer);
        writer.u64(self.size).u64(self.created);
        Identity::write_option(&self.base.as_ref().map(|b| b.identity), &mut writer);
        writer.u64(self.base.as_ref().map_or(0, |b| b.size)).bytes(&self.sender).u64(0);
        self.resumed.unwrap_or_default().write(&mut writer);
        writer.bytes(self.name.as_bytes()).bytes(base_name.as_bytes());
        let mut bytes = writer.finish();
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        bytes
    }

    /// Length of a whole header that begins with these bytes; what is no stream, or of a later version, is refused.
    pub fn len(fixed: &[u8; HEADER_FIXED]) -> Result<usize> {
        let mut reader = Reader::new(OBJECT, fixed);
        let magic = reader.array::<8>()?;
        reader.require(magic == MAGIC, "it does not begin like a stream of `archipelago send`")?;
        match reader.u32()? {
            VERSION => {}
            0 => return reader.damaged("a stream of version 0"),
            later => return reader.too_new(format!("a stream of version {later}")),
        }
        Ok(HEADER_FIXED + usize::from(fixed[26]) + usize::from(fixed[27]) + HASH)
    }

    /// Reads a whole header, whose length [`StreamHeader::len`] told.
    pub fn decode(bytes: &[u8]) -> Result<StreamHeader> {
        let mut reader = Reader::new(OBJECT, bytes);
        let fixed: [u8; HEADER_FIXED] = reader.array()?;
        let len = StreamHeader::len(&fixed)?;
        reader.require(bytes.len() == len, "its header is cut short, or something follows it")?;
        let (body, hash) = bytes.split_at(len - HASH);
        reader.require(blake3::hash(body).as_bytes() == hash, "the hash of its header is wrong")?;
        let mut reader = Reader::new(OBJECT, &body[12..]);
        let (zero, incompat) = (reader.u32()?, reader.u64()?);
        if incompat & !INCOMPAT_KNOWN != 0 {
            return reader.too_new(format!("the stream uses feature {}", bit_names(incompat & !INCOMPAT_KNOWN)));
        }
        let (flags, block_shift, name, base_name) = (reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?);
        if flags & !(INCREMENTAL | RESUMED) != 0 {
            return reader
                .too_new(format!("the stream has flag {}", bit_names(u64::from(flags & !(INCREMENTAL | RESUMED)))));
        }
        let zero = zero | reader.u32()?;
        let identity = Identity::read(&mut reader)?;
        let (size, created) = (reader.u64()?, reader.u64()?);
        let (base, base_size) = (Identity::read_option(&mut reader)?, reader.u64()?);
        let sender = reader.array()?;
        let zero = u64::from(zero) | reader.u64()?;
        let progress = Progress::read(&mut reader)?;
        let name = text(&mut reader, name)?;
        let base_name = text(&mut reader, base_name)?;
        reader.end()?;
        reader.require(zero == 0, "bytes that must be zero are not")?;
        reader.require(identity.id.0 != 0 && !name.is_empty(), "the snapshot has no identity")?;
        let sizes = MIN_VOLUME_SIZE..=MAX_VOLUME_SIZE;
        reader.require(sizes.contains(&size), "the size of the snapshot is impossible")?;
        let shifts = MIN_BLOCK_SIZE.trailing_zeros()..=MAX_BLOCK_SIZE.trailing_zeros();
        reader.require(shifts.contains(&u32::from(block_shift)), "its block size is impossible")?;
        let base = match (flags & INCREMENTAL != 0, base) {
            (true, Some(identity)) => {
                reader.require(sizes.contains(&base_size), "the size of the base is impossible")?;
                Some(Base { identity, size: base_size, name: base_name })
            }
            (false, None) if base_size == 0 && base_name.is_empty() => None,
            _ => return reader.damaged("its parts do not agree on whether there is a base"),
        };
        let resumed = match flags & RESUMED != 0 {
            true => {
                reader.require(progress.fits(size), "it goes on at an impossible place")?;
                Some(progress)
            }
            false => {
                reader.require(progress == Progress::default(), "it is not resumed, but says where")?;
                None
            }
        };
        Ok(StreamHeader { identity, name, size, created, block_shift, base, sender, resumed })
    }

    /// Where the stream with this header, as encoded in `bytes`, begins.
    pub fn start(&self, bytes: &[u8]) -> Progress {
        self.resumed.unwrap_or_else(|| {
            let mut chain = [0; HASH];
            chain.copy_from_slice(&bytes[bytes.len() - HASH..]);
            Progress { chain, ..Progress::default() }
        })
    }
}

fn text(reader: &mut Reader<'_>, len: u8) -> Result<String> {
    match std::str::from_utf8(reader.take(usize::from(len))?) {
        Ok(text) => Ok(text.to_string()),
        Err(_) => reader.damaged("a name is not UTF-8"),
    }
}

/// What a frame is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// The range holds the payload.
    Data,
    /// The range is zero.
    Zeros,
    /// Everything before is complete.
    Mark,
    /// The snapshot is complete.
    End,
}

/// The head of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHead {
    /// Kind.
    pub kind: FrameKind,
    /// Bytes of payload, at most [`MAX_FRAME`].
    pub payload: u32,
    /// First byte of the range; the position of a mark or end.
    pub offset: u64,
    /// Bytes of the range; 0 for a mark or end.
    pub len: u64,
}

impl FrameHead {
    /// The stored form.
    pub fn encode(&self) -> [u8; FRAME_HEAD] {
        let kind = match self.kind {
            FrameKind::Data => 1,
            FrameKind::Zeros => 2,
            FrameKind::Mark => 3,
            FrameKind::End => 4,
        };
        let mut writer = Writer::with_capacity(FRAME_HEAD);
        writer.u32(kind).u32(self.payload).u64(self.offset).u64(self.len);
        let mut head = [0; FRAME_HEAD];
        head.copy_from_slice(&writer.finish());
        head
    }

    /// Bytes of payload that follow a head: all that may be believed before the hash was looked at.
    pub fn payload_len(head: &[u8; FRAME_HEAD]) -> Result<usize> {
        let mut reader = Reader::new(OBJECT, &head[4..]);
        let payload = reader.u32()?;
        reader.require(payload as usize <= MAX_FRAME, "a frame is longer than frames may be")?;
        Ok(payload as usize)
    }

    /// Reads a head whose hash was right.
    pub fn decode(head: &[u8; FRAME_HEAD]) -> Result<FrameHead> {
        let mut reader = Reader::new(OBJECT, head);
        let (kind, zero) = (reader.u8()?, reader.array::<3>()?);
        let (payload, offset, len) = (reader.u32()?, reader.u64()?, reader.u64()?);
        let kind = match kind {
            0 => return reader.damaged("a frame of no kind"),
            1 => FrameKind::Data,
            2 => FrameKind::Zeros,
            3 => FrameKind::Mark,
            4 => FrameKind::End,
            later => return reader.too_new(format!("a frame of kind {later}")),
        };
        reader.require(is_zero(&zero), "bytes that must be zero are not")?;
        let fits = match kind {
            FrameKind::Data => len == u64::from(payload) && len > 0,
            FrameKind::Zeros => payload == 0 && len > 0,
            FrameKind::Mark => payload == 0 && len == 0,
            FrameKind::End => payload == END_PAYLOAD && len == 0,
        };
        reader.require(fits && payload as usize <= MAX_FRAME, "a frame contradicts itself")?;
        Ok(FrameHead { kind, payload, offset, len })
    }
}

/// The hash of a frame.
pub fn chain(before: &[u8; HASH], head: &[u8; FRAME_HEAD], payload: &[u8]) -> [u8; HASH] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(head).update(payload);
    *hasher.finalize().as_bytes()
}

/// Follows a stream: knows how far it has come, and refuses frames that cannot come next. Sender and receiver keep one
/// each.
#[derive(Clone, Debug)]
pub struct Sequence {
    size: u64,
    progress: Progress,
    /// End of the last range: the next begins here at the earliest.
    end: u64,
    ended: bool,
}

impl Sequence {
    /// The sequence of a stream of a snapshot of `size` bytes that has come as far as `progress`.
    pub fn new(size: u64, progress: Progress) -> Sequence {
        Sequence { size, progress, end: progress.position, ended: false }
    }

    /// How far the stream has come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether the end frame was there.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// The head and the hash of the next frame to be written.
    pub fn write(&mut self, frame: FrameHead, payload: &[u8]) -> Result<([u8; FRAME_HEAD], [u8; HASH])> {
        let head = frame.encode();
        let hash = chain(&self.progress.chain, &head, payload);
        self.accept(&head, payload, &hash).map(|_| (head, hash))
    }

    /// The payload of the end frame.
    pub fn totals(&self) -> [u8; END_PAYLOAD as usize] {
        let mut totals = [0; END_PAYLOAD as usize];
        totals[..8].copy_from_slice(&self.progress.data.to_le_bytes());
        totals[8..].copy_from_slice(&self.progress.zeros.to_le_bytes());
        totals
    }

    /// Verifies a frame and takes it for the next one. After an error nothing has changed.
    pub fn accept(&mut self, head: &[u8; FRAME_HEAD], payload: &[u8], hash: &[u8]) -> Result<FrameHead> {
        let place = |what: &str| {
            let at = self.end;
            Err(Error::damaged(OBJECT, format!("{what}, in the frame behind byte {at} of the snapshot")))
        };
        if self.ended {
            return place("a frame follows its end");
        }
        if chain(&self.progress.chain, head, payload) != hash {
            return place("a hash is wrong: something was changed, left out or added");
        }
        let frame = FrameHead::decode(head)?;
        if frame.payload as usize != payload.len() {
            return place("a payload has another length than its head says");
        }
        let Some(stop) = frame.offset.checked_add(frame.len).filter(|stop| *stop <= self.size) else {
            return place("a range reaches past the end of the snapshot");
        };
        let whole = |at: u64| at.is_multiple_of(SECTOR) || at == self.size;
        if frame.offset < self.end || !whole(frame.offset) || !whole(stop) {
            return place("a range overlaps the one before, or does not lie on whole sectors");
        }
        let mut next = self.progress;
        next.position = stop;
        match frame.kind {
            // Ranges do not overlap, so that no sum is larger than the size.
            FrameKind::Data => next.data += frame.len,
            FrameKind::Zeros => next.zeros += frame.len,
            FrameKind::Mark => {}
            FrameKind::End if frame.offset != self.size => return place("it ends before the snapshot does"),
            FrameKind::End if payload != self.totals() => return place("it does not hold as much as its end says"),
            FrameKind::End => self.ended = true,
        }
        next.chain.copy_from_slice(hash);
        self.progress = next;
        self.end = stop;
        Ok(frame)
    }
}

/// What a sender needs to go on with an interrupted stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResumeToken {
    /// The snapshot.
    pub identity: Identity,
    /// The base, if there is one.
    pub base: Option<Identity>,
    /// Where to go on.
    pub progress: Progress,
}

impl std::fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut writer = Writer::with_capacity(2 * IDENTITY + PROGRESS + 4);
        self.identity.write(&mut writer);
        Identity::write_option(&self.base, &mut writer);
        self.progress.write(&mut writer);
        writer.crc();
        write!(f, "{TOKEN}")?;
        writer.finish().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for ResumeToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<ResumeToken> {
        let wrong = || {
            Error::InvalidArgument(
                "the token is not whole; copy all that `archipelago receive --status NAME` prints".into(),
            )
        };
        let digits = text.trim().strip_prefix(TOKEN).ok_or_else(wrong)?;
        if digits.len() != 2 * (2 * IDENTITY + PROGRESS + 4) {
            return Err(wrong());
        }
        let bytes = hex::decode(digits).ok_or_else(wrong)?;
        let (body, crc) = bytes.split_at(bytes.len() - 4);
        if checksum::crc32c(body).to_le_bytes() != crc {
            return Err(wrong());
        }
        let mut reader = Reader::new("the token", body);
        let (identity, base) = (Identity::read(&mut reader)?, Identity::read_option(&mut reader)?);
        let progress = Progress::read(&mut reader)?;
        if identity.id.0 == 0 || progress.position > MAX_VOLUME_SIZE || !progress.fits(progress.position) {
            return Err(wrong());
        }
        Ok(ResumeToken { identity, base, progress })
    }
}

#[cfg(test)]
mod tests;
