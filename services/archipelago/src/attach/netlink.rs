//! Generic netlink, as far as one family of the kernel needs it: messages of attributes, one question and its answer at a time.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Bytes of a message before its attributes: those of netlink, and those of generic netlink.
const HEAD: usize = 16;
const GENERIC_HEAD: usize = 4;
/// Longest answer: a family says little about itself.
const MAX_ANSWER: usize = 64 << 10;
/// Longest wait for the kernel, in seconds: it waits for a device to be given up.
const PATIENCE: i64 = 30;
/// Messages to one question.
const MAX_MESSAGES: usize = 64;

const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// An attribute of attributes.
const NESTED: u16 = 1 << 15;

/// The family of families, the question about one, and its attributes.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// Attributes in the making.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// With one more.
    pub fn with(mut self, kind: u16, data: &[u8]) -> Attributes {
        let len = (data.len() + 4) as u16;
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// With a text, which ends in a zero.
    pub fn with_text(self, kind: u16, text: &str) -> Attributes {
        self.with(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// With attributes inside of one.
    pub fn with_nested(self, kind: u16, inner: Attributes) -> Attributes {
        self.with(kind | NESTED, &inner.0)
    }
}

/// The data of the first attribute of a kind.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let (head, _) = attributes.split_at_checked(4)?;
        let (len, found) = (u16::from_ne_bytes([head[0], head[1]]), u16::from_ne_bytes([head[2], head[3]]));
        let len = usize::from(len);
        let data = attributes.get(4..len)?;
        if found & !NESTED == kind {
            return Some(data);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

/// A family of the kernel, and a socket to it.
pub struct Family {
    socket: OwnedFd,
    id: u16,
}

impl Family {
    /// By its name; `None` if this kernel has none of that name.
    pub fn open(name: &str) -> io::Result<Option<Family>> {
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkGeneric)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
        let mut family = Family { socket, id: CONTROL };
        let answer = family.ask(GET_FAMILY, Attributes::default().with_text(FAMILY_NAME, name), FAMILY_ID);
        match answer {
            Ok(Some(id)) => {
                let id = id.get(..2).and_then(|id| id.try_into().ok());
                family.id = id.map(u16::from_ne_bytes).ok_or(io::ErrorKind::InvalidData)?;
                Ok(Some(family))
            }
            Ok(None) => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a command and waits until it was carried out. What the answer has as an attribute of the kind `wanted`, if it has it.
    pub fn ask(&self, command: u8, attributes: Attributes, wanted: u16) -> io::Result<Option<Vec<u8>>> {
        let len = HEAD + GENERIC_HEAD + attributes.0.len();
        let mut message = Vec::with_capacity(len);
        message.extend((len as u32).to_ne_bytes());
        message.extend(self.id.to_ne_bytes());
        message.extend((REQUEST | ACKNOWLEDGE).to_ne_bytes());
        // Sequence number, which nobody else counts here; and the port, which the kernel knows.
        message.extend([0; 8]);
        message.extend([command, 1, 0, 0]);
        message.extend(attributes.0);
        sendto(self.socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let (mut answer, mut found) = (vec![0; MAX_ANSWER], None);
        for _ in 0..MAX_MESSAGES {
            let n = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            let mut rest = &answer[..n];
            while let Some((head, body, after)) = split(rest) {
                rest = after;
                if head != ERROR {
                    found = body.get(GENERIC_HEAD..).and_then(|body| find(body, wanted)).map(Vec::from).or(found);
                    continue;
                }
                let number =
                    body.get(..4).and_then(|number| number.try_into().ok()).map_or(-libc::EPROTO, i32::from_ne_bytes);
                return if number == 0 { Ok(found) } else { Err(io::Error::from_raw_os_error(-number)) };
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// The kind and the body of the first message, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEAD..len)?;
    Some((kind, body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_in_what_was_made_of_them() {
        let inner = Attributes::default().with(1, &7u32.to_ne_bytes());
        let made = Attributes::default().with_text(2, "nbd").with_nested(3, inner).with(4, &[9; 4]);
        assert_eq!(made.0.len() % 4, 0);
        assert_eq!(find(&made.0, 2), Some(&b"nbd\0"[..]));
        assert_eq!(find(find(&made.0, 3).unwrap(), 1), Some(&7u32.to_ne_bytes()[..]));
        assert_eq!(find(&made.0, 4), Some(&[9; 4][..]));
        assert_eq!(find(&made.0, 5), None);
        for cut in 0..made.0.len() {
            // What is cut short has nothing past the cut.
            assert!(find(&made.0[..cut], 4).is_none());
        }
        assert_eq!(find(&[0, 0, 0, 0, 1, 1, 1, 1], 9), None);
    }

    #[test]
    fn the_kernel_tells_of_families_that_it_has_and_of_none_that_it_has_not() {
        assert!(Family::open("nlctrl").unwrap().is_some());
        assert!(Family::open("nobody-has-this").unwrap().is_none());
    }
}
