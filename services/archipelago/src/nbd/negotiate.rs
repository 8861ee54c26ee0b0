//! The negotiation as a state machine: one option in, answers out. No input or output of its own.
//!
//! ```text
//!            INFO, LIST, SET_META_CONTEXT, ... (answered)
//!              +------+
//!              v      |
//! greeting -> options +-- GO, EXPORT_NAME --> transmission
//!                     +-- ABORT, refused EXPORT_NAME, too many options --> closed
//!                     +-- STARTTLS --> TLS --> options, of which nothing holds that was said before
//! ```

use std::sync::Arc;

use super::limits::{MAX_OPTIONS, MAX_PAYLOAD, MAX_STRING};
use super::wire::{self, BadOption, Form, flag, handshake, info, option, reply};
use crate::disk::device::{Device, ExportError, Exports};
use crate::disk::limits::MAX_LISTED;

/// What was agreed when the negotiation ends with an export.
pub struct Session {
    /// The export.
    pub device: Arc<dyn Device>,
    /// In which form requests and replies are.
    pub form: Form,
    /// Block status is answered.
    pub base_allocation: bool,
}

/// What to do after the answers to an option were sent.
pub enum Step {
    /// Wait for the next option.
    Continue,
    /// Go on encrypted, and call [`Negotiation::encrypted`].
    Encrypt,
    /// Serve the export.
    Transmit(Session),
    /// Close the connection.
    Close,
}

/// Why a server answers every option with an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It has all the connections that it may have.
    Full(usize),
    /// It is stopping.
    Stopping,
}

/// What a server says to encryption.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encryption {
    /// It has none.
    Unknown,
    /// It answers nothing before.
    Required,
    /// It has begun.
    Begun,
}

/// The state of one negotiation.
pub struct Negotiation<'a> {
    exports: &'a dyn Exports,
    fixed: bool,
    no_zeroes: bool,
    encryption: Encryption,
    form: Form,
    options: u32,
    /// The export last asked for, kept open so that INFO, SET_META_CONTEXT and GO open it once.
    held: Option<(String, Arc<dyn Device>)>,
    /// The export for which `base:allocation` was chosen.
    context_for: Option<String>,
}

/// The 18 bytes with which a server begins.
pub fn greeting() -> [u8; 18] {
    let mut out = [0; 18];
    out[..8].copy_from_slice(&wire::GREETING.to_be_bytes());
    out[8..16].copy_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
    out[16..].copy_from_slice(&(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES).to_be_bytes());
    out
}

impl<'a> Negotiation<'a> {
    /// A negotiation with a client that answered the greeting with `flags`. `None` if it sets a flag that is not known.
    pub fn new(exports: &'a dyn Exports, encryption: Encryption, flags: u32) -> Option<Negotiation<'a>> {
        let fixed = u32::from(handshake::FIXED_NEWSTYLE);
        let no_zeroes = u32::from(handshake::NO_ZEROES);
        if flags & !(fixed | no_zeroes) != 0 {
            return None;
        }
        Some(Negotiation {
            exports,
            fixed: flags & fixed != 0,
            no_zeroes: flags & no_zeroes != 0,
            encryption,
            form: Form::Simple,
            options: 0,
            held: None,
            context_for: None,
        })
    }

    /// The client speaks encrypted from here on. What it said before may have been anybody's words: none of it holds.
    pub fn encrypted(&mut self) {
        self.encryption = Encryption::Begun;
        self.form = Form::Simple;
        (self.held, self.context_for) = (None, None);
    }

    /// Answers one option. The answers are appended to `out` and must be sent whatever the step.
    pub fn option(&mut self, code: u32, data: &[u8], refusal: Option<Refusal>, out: &mut Vec<u8>) -> Step {
        if let Some(step) = self.admit(code, refusal, out) {
            return step;
        }
        let result = match code {
            option::EXPORT_NAME => return self.export_name(data, out),
            option::ABORT => {
                wire::encode_option_reply(out, code, reply::ACK, &[]);
                return Step::Close;
            }
            option::INFO | option::GO => match self.info(code, data, out) {
                Ok(Some(session)) => return Step::Transmit(session),
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            },
            option::STARTTLS => match self.start_tls(data) {
                Ok(()) => {
                    wire::encode_option_reply(out, code, reply::ACK, &[]);
                    return Step::Encrypt;
                }
                Err(error) => Err(error),
            },
            option::LIST => self.list(data, out),
            option::STRUCTURED_REPLY => self.agree(code, Form::Structured, data, out),
            option::EXTENDED_HEADERS => self.agree(code, Form::Extended, data, out),
            option::LIST_META_CONTEXT => self.list_contexts(data, out),
            option::SET_META_CONTEXT => self.set_context(data, out),
            _ => Err((reply::ERR_UNSUP, "this server does not offer the option".to_string())),
        };
        if let Err((kind, text)) = result {
            wire::encode_option_reply(out, code, kind, &[wire::bounded_text(&text).as_bytes()]);
        }
        Step::Continue
    }

    /// Answers an option whose data is longer than is looked at.
    pub fn too_big(&mut self, code: u32, refusal: Option<Refusal>, out: &mut Vec<u8>) -> Step {
        if let Some(step) = self.admit(code, refusal, out) {
            return step;
        }
        if code == option::EXPORT_NAME {
            return Step::Close;
        }
        wire::encode_option_reply(out, code, reply::ERR_TOO_BIG, &[b"the option has more than 64 KiB of data"]);
        Step::Continue
    }

    /// What must hold for any option at all.
    fn admit(&mut self, code: u32, refusal: Option<Refusal>, out: &mut Vec<u8>) -> Option<Step> {
        self.options += 1;
        if self.options > MAX_OPTIONS || (!self.fixed && code != option::EXPORT_NAME) {
            return Some(Step::Close);
        }
        let plain = self.encryption == Encryption::Required && !matches!(code, option::STARTTLS | option::ABORT);
        let (kind, text) = match refusal {
            Some(Refusal::Full(most)) => (
                reply::ERR_POLICY,
                format!("the server has its {most} connections; close one, or let the server have more"),
            ),
            Some(Refusal::Stopping) => (reply::ERR_SHUTDOWN, "the server is stopping".to_string()),
            None if plain => (reply::ERR_TLS_REQD, "this server answers encrypted clients only: use TLS".to_string()),
            None => return None,
        };
        if code == option::EXPORT_NAME {
            return Some(Step::Close);
        }
        wire::encode_option_reply(out, code, kind, &[text.as_bytes()]);
        Some(if refusal.is_some() { Step::Close } else { Step::Continue })
    }

    fn start_tls(&self, data: &[u8]) -> OptionResult<()> {
        without_data(data)?;
        match self.encryption {
            Encryption::Required => Ok(()),
            Encryption::Begun => Err((reply::ERR_INVALID, "the connection is encrypted already".to_string())),
            Encryption::Unknown => Err((reply::ERR_UNSUP, "this server has no TLS here".to_string())),
        }
    }

    /// Opens an export, or takes the one that is held. Returns its full name.
    fn open(&mut self, name: &str) -> OptionResult<(String, Arc<dyn Device>)> {
        let name = match name {
            "" => self
                .exports
                .default_export()
                .ok_or_else(|| (reply::ERR_UNKNOWN, "there is no default export; give a name".to_string()))?,
            name => name.to_string(),
        };
        if let Some((held, device)) = &self.held
            && *held == name
        {
            return Ok((name, Arc::clone(device)));
        }
        // Closed before the next is opened: a negotiation holds one export at most.
        self.held = None;
        let device = self.exports.open(&name).map_err(|error| match error {
            ExportError::Unknown(text) | ExportError::Failed(text) => (reply::ERR_UNKNOWN, text),
            ExportError::Refused(text) => (reply::ERR_POLICY, text),
        })?;
        self.held = Some((name.clone(), Arc::clone(&device)));
        Ok((name, device))
    }

    fn session(&mut self, name: &str, device: Arc<dyn Device>) -> Session {
        let base_allocation = self.context_for.as_deref() == Some(name);
        Session { device, form: self.form, base_allocation }
    }

    fn export_name(&mut self, data: &[u8], out: &mut Vec<u8>) -> Step {
        let Ok(name) = wire::decode_export_name(data) else { return Step::Close };
        let Ok((name, device)) = self.open(name) else { return Step::Close };
        out.extend_from_slice(&device.size().to_be_bytes());
        out.extend_from_slice(&self.transmission_flags(&name, &*device).to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; 124]);
        }
        Step::Transmit(self.session(&name, device))
    }

    fn info(&mut self, code: u32, data: &[u8], out: &mut Vec<u8>) -> OptionResult<Option<Session>> {
        let query = wire::decode_info(data)?;
        let (name, device) = self.open(query.name)?;
        let mut fact = |kind: u16, parts: &[&[u8]]| {
            let kind = kind.to_be_bytes();
            let all: Vec<&[u8]> = std::iter::once(&kind[..]).chain(parts.iter().copied()).collect();
            wire::encode_option_reply(out, code, reply::INFO, &all);
        };
        let flags = self.transmission_flags(&name, &*device);
        fact(info::EXPORT, &[&device.size().to_be_bytes(), &flags.to_be_bytes()]);
        if query.wants_name {
            fact(info::NAME, &[name.as_bytes()]);
        }
        if query.wants_description {
            fact(info::DESCRIPTION, &[wire::bounded_text(&device.description()).as_bytes()]);
        }
        if query.wants_block_size {
            let preferred = match device.block_size() {
                size if size.is_power_of_two() && (512..=MAX_PAYLOAD).contains(&size) => size,
                _ => 4096,
            };
            fact(info::BLOCK_SIZE, &[&1u32.to_be_bytes(), &preferred.to_be_bytes(), &MAX_PAYLOAD.to_be_bytes()]);
        }
        wire::encode_option_reply(out, code, reply::ACK, &[]);
        Ok((code == option::GO).then(|| self.session(&name, device)))
    }

    fn list(&mut self, data: &[u8], out: &mut Vec<u8>) -> OptionResult<()> {
        without_data(data)?;
        for name in self.exports.list().iter().take(MAX_LISTED) {
            if name.len() <= MAX_STRING {
                let len = (name.len() as u32).to_be_bytes();
                wire::encode_option_reply(out, option::LIST, reply::SERVER, &[&len, name.as_bytes()]);
            }
        }
        wire::encode_option_reply(out, option::LIST, reply::ACK, &[]);
        Ok(())
    }

    /// Structured replies, or extended headers, which have them in.
    fn agree(&mut self, code: u32, form: Form, data: &[u8], out: &mut Vec<u8>) -> OptionResult<()> {
        without_data(data)?;
        if form == self.form {
            return Err((reply::ERR_INVALID, "this was agreed on already".to_string()));
        }
        if form < self.form {
            return Err((reply::ERR_EXT_HEADER_REQD, "extended headers were agreed on already".to_string()));
        }
        self.form = form;
        wire::encode_option_reply(out, code, reply::ACK, &[]);
        Ok(())
    }

    fn transmission_flags(&self, name: &str, device: &dyn Device) -> u16 {
        let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::CAN_MULTI_CONN | flag::SEND_CACHE;
        if self.form >= Form::Structured {
            flags |= flag::SEND_DF;
        }
        if self.form == Form::Extended && self.context_for.as_deref() == Some(name) {
            flags |= flag::BLOCK_STAT_PAYLOAD;
        }
        flags
            | if device.read_only() {
                flag::READ_ONLY
            } else {
                flag::SEND_FUA | flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO
            }
    }

    fn list_contexts(&mut self, data: &[u8], out: &mut Vec<u8>) -> OptionResult<()> {
        let query = self.context_query(data)?;
        self.open(query.name)?;
        if query.empty || query.exact || query.wildcard {
            // In a listing the number has no meaning and is 0.
            context(out, option::LIST_META_CONTEXT, 0);
        }
        wire::encode_option_reply(out, option::LIST_META_CONTEXT, reply::ACK, &[]);
        Ok(())
    }

    fn set_context(&mut self, data: &[u8], out: &mut Vec<u8>) -> OptionResult<()> {
        // Each attempt, failed or not, takes the place of the one before.
        self.context_for = None;
        let query = self.context_query(data)?;
        let (name, _) = self.open(query.name)?;
        if query.exact {
            context(out, option::SET_META_CONTEXT, wire::BASE_ALLOCATION_ID);
            self.context_for = Some(name);
        }
        wire::encode_option_reply(out, option::SET_META_CONTEXT, reply::ACK, &[]);
        Ok(())
    }

    fn context_query<'d>(&self, data: &'d [u8]) -> OptionResult<wire::ContextQuery<'d>> {
        if self.form < Form::Structured {
            return Err((reply::ERR_INVALID, "ask for structured replies first".to_string()));
        }
        Ok(wire::decode_contexts(data)?)
    }
}

/// An error answer: its type and its text.
type OptionResult<T> = Result<T, (u32, String)>;

impl From<BadOption> for (u32, String) {
    fn from(bad: BadOption) -> (u32, String) {
        match bad {
            BadOption::Malformed(text) => (reply::ERR_INVALID, text.to_string()),
            BadOption::TooBig(text) => (reply::ERR_TOO_BIG, text.to_string()),
        }
    }
}

fn without_data(data: &[u8]) -> OptionResult<()> {
    match data {
        [] => Ok(()),
        _ => Err((reply::ERR_INVALID, "the option takes no data".to_string())),
    }
}

fn context(out: &mut Vec<u8>, code: u32, id: u32) {
    wire::encode_option_reply(out, code, reply::META_CONTEXT, &[&id.to_be_bytes(), wire::BASE_ALLOCATION.as_bytes()]);
}
