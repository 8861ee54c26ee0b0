//! Commands and structures of the ublk driver, byte by byte (docs/block-devices.md, from the kernel's `linux/ublk_cmd.h`).

/// Bytes of a command to the control device, which fills the room that a long submission has for commands.
pub const CONTROL_COMMAND: usize = 80;
/// Bytes of a command to a queue.
pub const QUEUE_COMMAND: usize = 16;
/// Bytes of what is told about a device.
pub const DEVICE_INFO: usize = 64;
/// Bytes of the parameters of a device that are set here.
pub const PARAMETERS: usize = 60;
/// Bytes of the driver's features.
pub const FEATURES: usize = 8;
/// Bytes of the description of a request.
pub const DESCRIPTION: usize = 24;
/// Descriptions for which a queue has room in what is mapped, whatever its depth.
const DESCRIPTIONS: usize = 4096;
/// Bytes of a sector, whatever those of the device are.
pub const SECTOR: u64 = 512;
/// No device yet: the kernel chooses its number.
pub const ANY_DEVICE: u32 = u32::MAX;
/// How a queue's command ends when the device is stopped.
pub const ABORTED: i32 = -libc::ENODEV;

/// The kernel's numbers of commands say their direction and the size of their structure.
const fn reads(number: u32) -> u32 {
    libc::_IOR::<[u8; 32]>(b'u' as u32, number) as u32
}

const fn changes(number: u32) -> u32 {
    libc::_IOWR::<[u8; 32]>(b'u' as u32, number) as u32
}

const fn of_queue(number: u32) -> u32 {
    libc::_IOWR::<[u8; QUEUE_COMMAND]>(b'u' as u32, number) as u32
}

/// Commands to the control device.
pub mod control {
    #![allow(missing_docs)]
    use super::{changes, reads};

    pub const GET_DEVICE_INFO: u32 = reads(0x02);
    pub const ADD: u32 = changes(0x04);
    pub const DELETE: u32 = changes(0x05);
    pub const START: u32 = changes(0x06);
    pub const STOP: u32 = changes(0x07);
    pub const SET_PARAMETERS: u32 = changes(0x08);
    pub const START_RECOVERY: u32 = changes(0x10);
    pub const END_RECOVERY: u32 = changes(0x11);
    pub const GET_FEATURES: u32 = reads(0x13);
    pub const UPDATE_SIZE: u32 = changes(0x15);
}

/// Wait for the first request with a number.
pub const FETCH: u32 = of_queue(0x20);
/// Give a request back, and wait for the next one with its number.
pub const COMMIT_AND_FETCH: u32 = of_queue(0x21);

/// Features, as bits.
pub mod feature {
    #![allow(missing_docs)]
    /// A device outlives its server.
    pub const RECOVERY: u64 = 1 << 3;
    /// What was under way when its server died is asked for again.
    pub const REISSUE: u64 = 1 << 4;
    /// Commands have numbers as above.
    pub const ENCODED: u64 = 1 << 6;
    /// Another size while it is in use.
    pub const UPDATE_SIZE: u64 = 1 << 10;
}

/// What a device is, and how it is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number.
    pub id: u32,
    /// Queues.
    pub queues: u16,
    /// Requests of each.
    pub depth: u16,
    /// Bytes of the largest.
    pub max_request: u32,
    /// In which state it is.
    pub state: u16,
    /// The process that serves it, or served it last.
    pub pid: i32,
    /// Features.
    pub flags: u64,
    /// By what its maker knows it; the kernel keeps it.
    pub key: u64,
}

/// In which state a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not begun, or stopped.
    Stopped,
    /// It has a server, or the kernel has not noticed yet that this died.
    Served,
    /// Its server is gone; requests wait for another one.
    Waiting,
}

impl DeviceInfo {
    /// In which state it is.
    pub fn state(&self) -> State {
        match self.state {
            1 => State::Served,
            2 => State::Waiting,
            _ => State::Stopped,
        }
    }

    /// As the kernel has it.
    pub fn encode(&self) -> [u8; DEVICE_INFO] {
        let mut bytes = [0; DEVICE_INFO];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.queues.to_ne_bytes());
        put(2, &self.depth.to_ne_bytes());
        put(4, &self.state.to_ne_bytes());
        put(8, &self.max_request.to_ne_bytes());
        put(12, &self.id.to_ne_bytes());
        put(16, &self.pid.to_ne_bytes());
        put(24, &self.flags.to_ne_bytes());
        put(32, &self.key.to_ne_bytes());
        bytes
    }

    /// Of what the kernel says.
    pub fn decode(bytes: &[u8; DEVICE_INFO]) -> DeviceInfo {
        DeviceInfo {
            queues: u16::from_ne_bytes(part(bytes, 0)),
            depth: u16::from_ne_bytes(part(bytes, 2)),
            state: u16::from_ne_bytes(part(bytes, 4)),
            max_request: u32::from_ne_bytes(part(bytes, 8)),
            id: u32::from_ne_bytes(part(bytes, 12)),
            pid: i32::from_ne_bytes(part(bytes, 16)),
            flags: u64::from_ne_bytes(part(bytes, 24)),
            key: u64::from_ne_bytes(part(bytes, 32)),
        }
    }
}

/// `N` bytes from `at`, which lie in `bytes`.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// What a device looks like to those who use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Writing is refused.
    pub read_only: bool,
    /// Bytes of the device; what is left over of a sector is not there.
    pub size: u64,
    /// Bytes of the blocks that the disk prefers, a power of two.
    pub block_size: u32,
    /// Bytes of the largest request.
    pub max_request: u32,
    /// Sectors of the longest discard or write-zeroes.
    pub max_range: u32,
}

impl Parameters {
    /// As the kernel has them: those of all devices, then those of discards.
    pub fn encode(&self) -> [u8; PARAMETERS] {
        const BASIC: u32 = 1 << 0;
        const DISCARD: u32 = 1 << 1;
        const READ_ONLY: u32 = 1 << 0;
        const WRITE_BACK: u32 = 1 << 2;
        const FUA: u32 = 1 << 3;
        let mut bytes = [0; PARAMETERS];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        let attributes = if self.read_only { READ_ONLY } else { WRITE_BACK | FUA };
        let block = self.block_size.trailing_zeros() as u8;
        put(0, &(PARAMETERS as u32).to_ne_bytes());
        put(4, &(BASIC | if self.read_only { 0 } else { DISCARD }).to_ne_bytes());
        put(8, &attributes.to_ne_bytes());
        // Powers of two: logical and physical block, best and least request.
        put(12, &[SECTOR.trailing_zeros() as u8, block, block, block]);
        put(16, &(self.max_request / SECTOR as u32).to_ne_bytes());
        put(24, &(self.size / SECTOR).to_ne_bytes());
        if !self.read_only {
            put(44, &self.block_size.to_ne_bytes());
            put(48, &self.max_range.to_ne_bytes());
            put(52, &self.max_range.to_ne_bytes());
            put(56, &1u16.to_ne_bytes());
        }
        bytes
    }
}

/// A command to the control device, about a device, with a structure at an address, and a word.
pub fn control_command(device: u32, address: u64, len: usize, word: u64) -> [u8; CONTROL_COMMAND] {
    let mut bytes = [0; CONTROL_COMMAND];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &device.to_ne_bytes());
    // About no queue.
    put(4, &u16::MAX.to_ne_bytes());
    put(6, &(len as u16).to_ne_bytes());
    put(8, &address.to_ne_bytes());
    put(16, &word.to_ne_bytes());
    bytes
}

/// A command to a queue about the request with a number: how it ended, and where the buffer of the next one is.
pub fn queue_command(queue: u16, number: u16, result: i32, buffer: u64) -> [u8; QUEUE_COMMAND] {
    let mut bytes = [0; QUEUE_COMMAND];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &queue.to_ne_bytes());
    put(2, &number.to_ne_bytes());
    put(4, &result.to_ne_bytes());
    put(8, &buffer.to_ne_bytes());
    bytes
}

/// What is asked for.
pub mod operation {
    #![allow(missing_docs)]
    pub const READ: u8 = 0;
    pub const WRITE: u8 = 1;
    pub const FLUSH: u8 = 2;
    pub const DISCARD: u8 = 3;
    pub const WRITE_ZEROES: u8 = 5;
}

/// How it is asked for, as bits.
pub mod flag {
    #![allow(missing_docs)]
    pub const FUA: u32 = 1 << 13;
    /// Room is to be kept.
    pub const NO_UNMAP: u32 = 1 << 15;
}

/// A request, as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// What is asked for.
    pub operation: u8,
    /// How.
    pub flags: u32,
    /// How many sectors.
    pub sectors: u32,
    /// The first of them.
    pub start: u64,
}

impl Description {
    /// Of what the kernel says.
    pub fn decode(bytes: &[u8; DESCRIPTION]) -> Description {
        let word = u32::from_ne_bytes(part(bytes, 0));
        Description {
            operation: word as u8,
            flags: word & !0xff,
            sectors: u32::from_ne_bytes(part(bytes, 4)),
            start: u64::from_ne_bytes(part(bytes, 8)),
        }
    }
}

/// Where the descriptions of a queue are mapped, and how many bytes of them, which are whole pages.
pub fn descriptions(queue: u16, depth: u16, page: usize) -> (i64, usize) {
    let room = (DESCRIPTIONS * DESCRIPTION).next_multiple_of(page);
    (i64::from(queue) * room as i64, (usize::from(depth) * DESCRIPTION).next_multiple_of(page))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", target_endian = "little"))]
    fn commands_have_the_kernels_numbers() {
        assert_eq!(control::GET_DEVICE_INFO, 0x8020_7502);
        assert_eq!(control::ADD, 0xc020_7504);
        assert_eq!(control::GET_FEATURES, 0x8020_7513);
        assert_eq!((FETCH, COMMIT_AND_FETCH), (0xc010_7520, 0xc010_7521));
        let command = control_command(7, 0x1122_3344_5566_7788, 64, 9);
        assert_eq!(hex(&command[..32]), "07000000ffff4000887766554433221109000000000000000000000000000000");
        assert_eq!(command[32..], [0; 48]);
        assert_eq!(hex(&queue_command(1, 2, -5, 0x1000)), "01000200fbffffff0010000000000000");
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn what_is_told_about_a_device_is_what_was_said() {
        let info = DeviceInfo {
            id: 3,
            queues: 2,
            depth: 64,
            max_request: 512 << 10,
            state: 2,
            pid: 4021,
            flags: feature::RECOVERY | feature::REISSUE,
            key: 0x0102_0304_0506_0708,
        };
        let bytes = info.encode();
        assert_eq!(
            hex(&bytes[..40]),
            "02004000020000000000080003000000b50f00000000000018000000000000000807060504030201"
        );
        assert_eq!(bytes[40..], [0; 24]);
        assert_eq!((DeviceInfo::decode(&bytes), info.state()), (info, State::Waiting));
        assert_eq!(DeviceInfo { state: 1, ..info }.state(), State::Served);
        assert_eq!(DeviceInfo::default().state(), State::Stopped);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn parameters_say_what_a_disk_can() {
        let parameters = Parameters {
            read_only: false,
            size: (64 << 20) + 1000,
            block_size: 4096,
            max_request: 512 << 10,
            max_range: 2 << 20,
        };
        let bytes = parameters.encode();
        assert_eq!(hex(&bytes[..16]), "3c000000030000000c000000090c0c0c");
        assert_eq!(hex(&bytes[16..40]), "000400000000000001000200000000000000000000000000");
        assert_eq!(hex(&bytes[40..]), "0000000000100000000020000000200001000000");
        let bytes = Parameters { read_only: true, ..parameters }.encode();
        assert_eq!(hex(&bytes[..16]), "3c0000000100000001000000090c0c0c");
        assert_eq!(bytes[40..], [0; 20]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn requests_are_read_as_the_kernel_describes_them() {
        let mut bytes = [0; DESCRIPTION];
        bytes[..16].copy_from_slice(&[1, 0x20, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
        let wanted = Description { operation: operation::WRITE, flags: flag::FUA, sectors: 8, start: 1 << 16 };
        assert_eq!(Description::decode(&bytes), wanted);
        bytes[..2].copy_from_slice(&[5, 0x80]);
        assert_eq!(Description::decode(&bytes).flags, flag::NO_UNMAP);
    }

    #[test]
    fn descriptions_of_queues_lie_apart() {
        assert_eq!(descriptions(0, 64, 4096), (0, 4096));
        assert_eq!(descriptions(2, 256, 4096), (2 * 98_304, 8192));
        // Pages of 64 KiB.
        assert_eq!(descriptions(1, 64, 65_536), (131_072, 65_536));
    }
}
