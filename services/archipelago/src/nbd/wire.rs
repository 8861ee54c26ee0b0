//! The bytes of the protocol: numbers, decoders and encoders. No input or output, no policy. All integers are big-endian.

use super::limits::{MAX_ERROR_TEXT, MAX_QUERIES, MAX_STRING};

/// First eight bytes that a server sends (`NBDMAGIC`).
pub const GREETING: u64 = 0x4e42_444d_4147_4943;
/// Second eight bytes of the greeting, and the start of every option (`IHAVEOPT`).
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Start of every answer to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of every request after `EXTENDED_HEADERS`.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Start of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;
/// Start of a chunk after `EXTENDED_HEADERS`.
pub const EXTENDED_CHUNK_MAGIC: u32 = 0x6e8a_278c;

/// Handshake flags of server and client.
pub mod handshake {
    /// Options have answers.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// The answer to `EXPORT_NAME` is not padded.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Options of the negotiation.
pub mod option {
    /// Enter an export, without a way to fail but closing.
    pub const EXPORT_NAME: u32 = 1;
    /// Give up.
    pub const ABORT: u32 = 2;
    /// Names of exports.
    pub const LIST: u32 = 3;
    /// Go on encrypted.
    pub const STARTTLS: u32 = 5;
    /// Facts about an export.
    pub const INFO: u32 = 6;
    /// Facts about an export, and enter it.
    pub const GO: u32 = 7;
    /// Ask for structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Which meta contexts there are.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose meta contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Ask for requests and replies with lengths of 64 bits.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of answers to options.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// An export's name.
    pub const SERVER: u32 = 2;
    /// A fact about an export.
    pub const INFO: u32 = 3;
    /// A meta context.
    pub const META_CONTEXT: u32 = 4;
    /// Unknown option.
    pub const ERR_UNSUP: u32 = (1 << 31) + 1;
    /// Not allowed by the server.
    pub const ERR_POLICY: u32 = (1 << 31) + 2;
    /// Malformed, or at the wrong time.
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    /// Nothing is answered that is not encrypted.
    pub const ERR_TLS_REQD: u32 = (1 << 31) + 5;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    /// The server is stopping.
    pub const ERR_SHUTDOWN: u32 = (1 << 31) + 7;
    /// Too long.
    pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;
    /// Headers of 64 bits were agreed on; there is no way back.
    pub const ERR_EXT_HEADER_REQD: u32 = (1 << 31) + 10;
}

/// Types of facts about an export.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// Its name.
    pub const NAME: u16 = 1;
    /// A line for people.
    pub const DESCRIPTION: u16 = 2;
    /// Sizes of requests.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags.
pub mod flag {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// No writing.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is known.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// FUA is known.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM is known.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES is known.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// DF is known.
    pub const SEND_DF: u16 = 1 << 7;
    /// Connections share one cache.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE is known.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// FAST_ZERO is known.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// BLOCK_STATUS may name its contexts in a payload.
    pub const BLOCK_STAT_PAYLOAD: u16 = 1 << 12;
}

/// Commands.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write; the payload follows the request.
    pub const WRITE: u16 = 1;
    /// Say goodbye.
    pub const DISC: u16 = 2;
    /// Make writes durable.
    pub const FLUSH: u16 = 3;
    /// Give up room.
    pub const TRIM: u16 = 4;
    /// Read ahead.
    pub const CACHE: u16 = 5;
    /// Make a range read as zeros.
    pub const WRITE_ZEROES: u16 = 6;
    /// Ask what is allocated.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of commands.
pub mod command_flag {
    /// Durable before the reply.
    pub const FUA: u16 = 1 << 0;
    /// Keep room for zeros.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One data chunk.
    pub const DF: u16 = 1 << 2;
    /// One extent.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Fail rather than be slow.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// A payload follows, as long as the request says.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Types of chunks of structured replies.
pub mod chunk {
    /// Nothing.
    pub const NONE: u16 = 0;
    /// Data at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeros at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extents with lengths of 64 bits.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// An error.
    pub const ERROR: u16 = (1 << 15) + 1;
    /// An error at an offset.
    pub const ERROR_OFFSET: u16 = (1 << 15) + 2;
    /// Chunk flag: the last of its reply.
    pub const DONE: u16 = 1;
}

/// The one meta context: what is allocated and what reads as zeros.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Number by which block status replies name [`BASE_ALLOCATION`].
pub const BASE_ALLOCATION_ID: u32 = 1;
/// State of an extent in [`BASE_ALLOCATION`] that is neither allocated nor other than zero (`HOLE` and `ZERO`).
pub const STATE_HOLE_ZERO: u32 = 3;

/// Bytes of an option's header.
pub const OPTION_HEADER: usize = 16;
/// Bytes of a request without its payload.
pub const REQUEST: usize = 28;
/// Bytes of a request without its payload after `EXTENDED_HEADERS`.
pub const EXTENDED_REQUEST: usize = 32;

/// Cuts integers and byte strings off the front of received bytes; `None` where they end too early.
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    /// A 16-bit integer.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// A 32-bit integer.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A 64-bit integer.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

/// What is wrong with an option's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadOption {
    /// It does not have the form that it must have.
    Malformed(&'static str),
    /// It exceeds a limit.
    TooBig(&'static str),
}

/// A string of the protocol of `len` bytes.
fn string<'a>(cursor: &mut Cursor<'a>, len: u32) -> Result<&'a str, BadOption> {
    if len as usize > MAX_STRING {
        return Err(BadOption::TooBig("a name or query has more than 4096 bytes"));
    }
    let bytes =
        cursor.bytes(len as usize).ok_or(BadOption::Malformed("a length reaches past the end of the option"))?;
    std::str::from_utf8(bytes).map_err(|_| BadOption::Malformed("a name or query is not UTF-8"))
}

/// The export name that is the whole data of `EXPORT_NAME`.
pub fn decode_export_name(data: &[u8]) -> Result<&str, BadOption> {
    string(&mut Cursor(data), u32::try_from(data.len()).unwrap_or(u32::MAX))
}

/// Data of `INFO` and `GO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InfoQuery<'a> {
    /// Export.
    pub name: &'a str,
    /// Whether [`info::NAME`] was asked for.
    pub wants_name: bool,
    /// Whether [`info::DESCRIPTION`] was asked for.
    pub wants_description: bool,
    /// Whether [`info::BLOCK_SIZE`] was asked for.
    pub wants_block_size: bool,
}

/// Decodes the data of `INFO` and `GO`: name length, name, count, that many types.
pub fn decode_info(data: &[u8]) -> Result<InfoQuery<'_>, BadOption> {
    let short = BadOption::Malformed("the option ends too early");
    let mut cursor = Cursor(data);
    let len = cursor.u32().ok_or(short)?;
    let name = string(&mut cursor, len)?;
    let count = cursor.u16().ok_or(short)?;
    if cursor.0.len() != usize::from(count) * 2 {
        return Err(BadOption::Malformed("the count of information types does not match the option's length"));
    }
    let mut query = InfoQuery { name, wants_name: false, wants_description: false, wants_block_size: false };
    while let Some(kind) = cursor.u16() {
        match kind {
            info::NAME => query.wants_name = true,
            info::DESCRIPTION => query.wants_description = true,
            info::BLOCK_SIZE => query.wants_block_size = true,
            _ => {}
        }
    }
    Ok(query)
}

/// Data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContextQuery<'a> {
    /// Export.
    pub name: &'a str,
    /// No query was given.
    pub empty: bool,
    /// [`BASE_ALLOCATION`] was asked for by its full name.
    pub exact: bool,
    /// All of `base:` was asked for.
    pub wildcard: bool,
}

/// Decodes the data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`: name length, name, count, that many queries.
pub fn decode_contexts(data: &[u8]) -> Result<ContextQuery<'_>, BadOption> {
    let short = BadOption::Malformed("the option ends too early");
    let mut cursor = Cursor(data);
    let len = cursor.u32().ok_or(short)?;
    let name = string(&mut cursor, len)?;
    let count = cursor.u32().ok_or(short)?;
    if count as usize > MAX_QUERIES {
        return Err(BadOption::TooBig("more than 256 meta context queries"));
    }
    let mut query = ContextQuery { name, empty: count == 0, exact: false, wildcard: false };
    for _ in 0..count {
        let len = cursor.u32().ok_or(short)?;
        match string(&mut cursor, len)? {
            BASE_ALLOCATION => query.exact = true,
            "base:" => query.wildcard = true,
            _ => {}
        }
    }
    if !cursor.0.is_empty() {
        return Err(BadOption::Malformed("bytes follow the last meta context query"));
    }
    Ok(query)
}

/// Appends an answer to `option`.
pub fn encode_option_reply(out: &mut Vec<u8>, option: u32, kind: u32, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(len as u32).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// At most [`MAX_ERROR_TEXT`] bytes of `text`, cut between characters.
pub fn bounded_text(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_ERROR_TEXT)]
}

/// In which form requests and replies are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Form {
    /// Requests with lengths of 32 bits, simple replies.
    Simple,
    /// The same requests; replies in chunks where they have data.
    Structured,
    /// Requests with lengths of 64 bits, all replies in chunks.
    Extended,
}

impl Form {
    /// Bytes of a request without its payload.
    pub fn request(self) -> usize {
        match self {
            Form::Simple | Form::Structured => REQUEST,
            Form::Extended => EXTENDED_REQUEST,
        }
    }
}

/// What a reply gives back of its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The client's mark. Nothing is derived from it, and it need not be unique.
    pub cookie: u64,
    /// The request's offset.
    pub offset: u64,
}

/// A request of the transmission phase, as received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// See [`command_flag`].
    pub flags: u16,
    /// See [`command`].
    pub command: u16,
    /// See [`Mark`].
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Bytes that follow the request.
    pub payload: u64,
}

impl Request {
    /// Whether it has all of these flags.
    pub fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    /// What its reply gives back.
    pub fn mark(&self) -> Mark {
        Mark { cookie: self.cookie, offset: self.offset }
    }
}

/// Decodes a request of [`Form::request`] bytes. `None` if the magic number is wrong, after which nothing of the stream can be trusted.
pub fn decode_request(form: Form, bytes: &[u8]) -> Option<Request> {
    let mut cursor = Cursor(bytes);
    let magic = if form == Form::Extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
    if cursor.u32()? != magic {
        return None;
    }
    let (flags, command, cookie, offset) = (cursor.u16()?, cursor.u16()?, cursor.u64()?, cursor.u64()?);
    let len = if form == Form::Extended { cursor.u64()? } else { cursor.u32()?.into() };
    // After a write there is always one; qemu does not set the flag there.
    let carries = command == command::WRITE || form == Form::Extended && flags & command_flag::PAYLOAD_LEN != 0;
    Some(Request { flags, command, cookie, offset, len, payload: if carries { len } else { 0 } })
}

/// The payload of a BLOCK_STATUS: the length that it asks about, and the contexts that it asks for. `None` if it has not that form, or
/// names anything but [`BASE_ALLOCATION_ID`], once.
pub fn decode_status_payload(bytes: &[u8]) -> Option<u64> {
    let mut cursor = Cursor(bytes);
    let len = cursor.u64()?;
    (cursor.u32()? == BASE_ALLOCATION_ID && cursor.0.is_empty()).then_some(len)
}

/// A simple reply without its data.
pub fn encode_simple(cookie: u64, error: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out[4..8].copy_from_slice(&error.to_be_bytes());
    out[8..].copy_from_slice(&cookie.to_be_bytes());
    out
}

/// The header of a chunk with `len` bytes of content, after `EXTENDED_HEADERS`.
pub fn encode_extended_chunk(mark: Mark, flags: u16, kind: u16, len: u64) -> [u8; 32] {
    let mut out = [0; 32];
    out[..4].copy_from_slice(&EXTENDED_CHUNK_MAGIC.to_be_bytes());
    out[4..6].copy_from_slice(&flags.to_be_bytes());
    out[6..8].copy_from_slice(&kind.to_be_bytes());
    out[8..16].copy_from_slice(&mark.cookie.to_be_bytes());
    out[16..24].copy_from_slice(&mark.offset.to_be_bytes());
    out[24..].copy_from_slice(&len.to_be_bytes());
    out
}

/// The header of a chunk with `len` bytes of content.
pub fn encode_chunk(cookie: u64, flags: u16, kind: u16, len: u32) -> [u8; 20] {
    let mut out = [0; 20];
    out[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
    out[4..6].copy_from_slice(&flags.to_be_bytes());
    out[6..8].copy_from_slice(&kind.to_be_bytes());
    out[8..16].copy_from_slice(&cookie.to_be_bytes());
    out[16..].copy_from_slice(&len.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info_data(name: &[u8], kinds: &[u16]) -> Vec<u8> {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend_from_slice(name);
        data.extend_from_slice(&(kinds.len() as u16).to_be_bytes());
        kinds.iter().for_each(|k| data.extend_from_slice(&k.to_be_bytes()));
        data
    }

    fn context_data(name: &str, queries: &[&str]) -> Vec<u8> {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend_from_slice(name.as_bytes());
        data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
        for query in queries {
            data.extend_from_slice(&(query.len() as u32).to_be_bytes());
            data.extend_from_slice(query.as_bytes());
        }
        data
    }

    #[test]
    fn a_request_is_decoded_field_by_field() {
        let mut bytes = [0u8; REQUEST];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        for (i, b) in bytes.iter_mut().enumerate().skip(4) {
            *b = i as u8;
        }
        let request = decode_request(Form::Structured, &bytes).unwrap();
        let expected = Request {
            flags: 0x0405,
            command: 0x0607,
            cookie: 0x0809_0a0b_0c0d_0e0f,
            offset: 0x1011_1213_1415_1617,
            len: 0x1819_1a1b,
            payload: 0,
        };
        assert_eq!(request, expected);
        bytes[0] ^= 1;
        assert_eq!(decode_request(Form::Structured, &bytes), None);
    }

    #[test]
    fn an_extended_request_has_a_length_of_64_bits_and_a_payload_if_it_says_so() {
        let mut bytes = [0u8; EXTENDED_REQUEST];
        bytes[..4].copy_from_slice(&EXTENDED_REQUEST_MAGIC.to_be_bytes());
        for (i, b) in bytes.iter_mut().enumerate().skip(4) {
            *b = i as u8;
        }
        bytes[5] = command_flag::FUA as u8;
        let decode = |bytes: &[u8]| decode_request(Form::Extended, bytes);
        let request = decode(&bytes).unwrap();
        assert_eq!((request.offset, request.len, request.payload), (0x1011_1213_1415_1617, 0x1819_1a1b_1c1d_1e1f, 0));
        assert_eq!(request.mark(), Mark { cookie: 0x0809_0a0b_0c0d_0e0f, offset: 0x1011_1213_1415_1617 });
        bytes[5] = command_flag::PAYLOAD_LEN as u8;
        assert_eq!(decode(&bytes).unwrap().payload, request.len);
        assert_eq!(decode(&bytes[..31]), None);
        assert_eq!(decode_request(Form::Simple, &bytes), None, "the other magic number");
    }

    #[test]
    fn s51_a_status_payload_names_the_one_context_once() {
        let payload = |ids: &[u32]| {
            let ids = ids.iter().flat_map(|id| id.to_be_bytes());
            7u64.to_be_bytes().into_iter().chain(ids).collect::<Vec<u8>>()
        };
        assert_eq!(decode_status_payload(&payload(&[1])), Some(7));
        for bad in [&[][..], &[2], &[1, 1], &[1, 2]] {
            assert_eq!(decode_status_payload(&payload(bad)), None, "{bad:?}");
        }
        for cut in 0..12 {
            assert_eq!(decode_status_payload(&payload(&[1])[..cut]), None);
        }
    }

    #[test]
    fn s51_every_truncation_of_an_info_option_is_refused() {
        let data = info_data(b"disk", &[info::NAME, info::BLOCK_SIZE, 77]);
        let query = decode_info(&data).unwrap();
        assert!(query.wants_name && query.wants_block_size && !query.wants_description);
        for cut in 0..data.len() {
            assert!(decode_info(&data[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [&data[..], &[0]].concat();
        assert!(decode_info(&longer).is_err());
    }

    #[test]
    fn s51_every_truncation_of_a_context_option_is_refused() {
        let data = context_data("disk", &["base:", BASE_ALLOCATION, "qemu:dirty-bitmap:x"]);
        let query = decode_contexts(&data).unwrap();
        assert!(query.exact && query.wildcard && !query.empty);
        for cut in 0..data.len() {
            assert!(decode_contexts(&data[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [&data[..], &[0]].concat();
        assert!(decode_contexts(&longer).is_err());
    }

    #[test]
    fn s51_an_export_name_may_have_4096_bytes_and_no_more() {
        let longest = "n".repeat(MAX_STRING);
        assert_eq!(decode_export_name(longest.as_bytes()), Ok(longest.as_str()));
        assert!(decode_info(&info_data(longest.as_bytes(), &[])).is_ok());
        let longer = "n".repeat(MAX_STRING + 1);
        assert!(matches!(decode_export_name(longer.as_bytes()), Err(BadOption::TooBig(_))));
        assert!(matches!(decode_info(&info_data(longer.as_bytes(), &[])), Err(BadOption::TooBig(_))));
        assert!(matches!(decode_contexts(&context_data(&longer, &[])), Err(BadOption::TooBig(_))));
    }

    #[test]
    fn s51_a_name_length_of_four_gigabytes_is_refused_without_reading_it() {
        let data = [&u32::MAX.to_be_bytes()[..], b"abc\0\0"].concat();
        assert!(matches!(decode_info(&data), Err(BadOption::TooBig(_))));
        assert!(matches!(decode_contexts(&data), Err(BadOption::TooBig(_))));
    }

    #[test]
    fn s51_a_count_of_queries_beyond_the_limit_is_refused() {
        let most = vec!["base:"; MAX_QUERIES];
        assert!(decode_contexts(&context_data("", &most)).is_ok());
        let more = vec!["base:"; MAX_QUERIES + 1];
        assert!(matches!(decode_contexts(&context_data("", &more)), Err(BadOption::TooBig(_))));
    }

    #[test]
    fn a_name_that_is_not_utf8_is_refused() {
        assert!(matches!(decode_export_name(&[0xff, 0xfe]), Err(BadOption::Malformed(_))));
    }

    #[test]
    fn s51_error_text_is_cut_between_characters() {
        let text = "ä".repeat(MAX_ERROR_TEXT);
        assert_eq!(bounded_text(&text).len(), MAX_ERROR_TEXT);
        let odd = format!("x{text}");
        assert_eq!(bounded_text(&odd).len(), MAX_ERROR_TEXT - 1);
        assert_eq!(bounded_text("short"), "short");
    }

    #[test]
    fn random_option_data_never_panics() {
        // A fixed xorshift sequence: every failure repeats.
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for round in 0..20_000 {
            let mut data = Vec::new();
            for _ in 0..round % 64 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Mostly small bytes, so that lengths are often plausible.
                data.push(if state & 3 == 0 { (state >> 8) as u8 } else { (state >> 8) as u8 & 7 });
            }
            let _ = (decode_info(&data), decode_contexts(&data), decode_export_name(&data));
        }
    }
}
