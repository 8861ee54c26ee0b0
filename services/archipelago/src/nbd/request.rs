//! Decides whether a request may be run: bounds, flags and permissions, before any device sees it.

use super::errors::{EINVAL, ENOSPC, ENOTSUP, EPERM};
use super::limits::MAX_PAYLOAD;
use super::wire::{Form, Request, command, command_flag as flag};

/// What requests are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Size of the device in bytes.
    pub size: u64,
    /// Writing is refused.
    pub read_only: bool,
    /// What was agreed on.
    pub form: Form,
    /// `base:allocation` was agreed on.
    pub base_allocation: bool,
}

/// An error of the protocol, with a text for clients that take structured replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    /// See [`super::errors`].
    pub error: u32,
    /// May be empty.
    pub text: &'static str,
}

/// Whether the request may be run on a device with these facts.
pub fn check(request: &Request, facts: &Facts) -> Result<(), Failure> {
    let fail = |error, text| Err(Failure { error, text });
    let extended = facts.form == Form::Extended;
    let allowed = match request.command {
        command::READ if facts.form >= Form::Structured => flag::FUA | flag::DF,
        command::WRITE if extended => flag::FUA | flag::PAYLOAD_LEN,
        command::BLOCK_STATUS if extended && facts.base_allocation => flag::FUA | flag::REQ_ONE | flag::PAYLOAD_LEN,
        command::READ | command::WRITE | command::FLUSH | command::TRIM | command::CACHE => flag::FUA,
        command::WRITE_ZEROES => flag::FUA | flag::NO_HOLE | flag::FAST_ZERO,
        command::BLOCK_STATUS => flag::FUA | flag::REQ_ONE,
        _ => return fail(EINVAL, "unknown command"),
    };
    if request.flags & !allowed != 0 {
        return fail(EINVAL, "a flag is unknown or does not belong to the command");
    }
    if request.command == command::FLUSH {
        return match (request.offset, request.len) {
            (0, 0) => Ok(()),
            _ => fail(EINVAL, "a flush has no range"),
        };
    }
    let writes = matches!(request.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
    if writes && facts.read_only {
        return fail(EPERM, "the export is read-only");
    }
    if request.len == 0 {
        return fail(EINVAL, "the length is 0");
    }
    if matches!(request.command, command::READ | command::WRITE) && request.len > u64::from(MAX_PAYLOAD) {
        return fail(EINVAL, "more than 32 MiB in one request");
    }
    if request.offset.checked_add(request.len).is_none_or(|end| end > facts.size) {
        let error = match request.command {
            command::WRITE | command::WRITE_ZEROES => ENOSPC,
            _ => EINVAL,
        };
        return fail(error, "the range reaches past the end of the export");
    }
    if request.command == command::BLOCK_STATUS && !facts.base_allocation {
        return fail(EINVAL, "base:allocation was not chosen for this export");
    }
    if request.command == command::WRITE_ZEROES && request.has(flag::FAST_ZERO | flag::NO_HOLE) {
        return fail(ENOTSUP, "keeping room for zeros may be as slow as writing them");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts { size: 1 << 20, read_only: false, form: Form::Structured, base_allocation: true };

    fn outcome(facts: &Facts, command: u16, flags: u16, offset: u64, len: u64) -> u32 {
        check(&Request { flags, command, cookie: 7, offset, len, payload: 0 }, facts).err().map_or(0, |f| f.error)
    }

    #[test]
    fn s51_a_range_that_ends_at_the_end_is_accepted_and_one_byte_more_is_not() {
        for (command, error) in [
            (command::READ, EINVAL),
            (command::WRITE, ENOSPC),
            (command::TRIM, EINVAL),
            (command::CACHE, EINVAL),
            (command::WRITE_ZEROES, ENOSPC),
            (command::BLOCK_STATUS, EINVAL),
        ] {
            assert_eq!(outcome(&FACTS, command, 0, (1 << 20) - 3, 3), 0);
            assert_eq!(outcome(&FACTS, command, 0, (1 << 20) - 3, 4), error, "{command}");
            assert_eq!(outcome(&FACTS, command, 0, 1 << 20, 1), error, "{command}");
        }
    }

    #[test]
    fn s51_an_offset_whose_end_overflows_is_past_the_end() {
        for offset in [u64::MAX, u64::MAX - 1, u64::MAX - 4095, 1 << 63] {
            assert_eq!(outcome(&FACTS, command::READ, 0, offset, 4096), EINVAL);
            assert_eq!(outcome(&FACTS, command::WRITE, 0, offset, 4096), ENOSPC);
        }
        let huge = Facts { size: u64::MAX, ..FACTS };
        assert_eq!(outcome(&huge, command::READ, 0, u64::MAX, 1), EINVAL);
        assert_eq!(outcome(&huge, command::READ, 0, u64::MAX - 1, 1), 0);
    }

    #[test]
    fn s51_a_length_of_zero_is_invalid_but_for_flush() {
        for command in [0, 1, 4, 5, 6, 7] {
            assert_eq!(outcome(&FACTS, command, 0, 0, 0), EINVAL, "{command}");
        }
        assert_eq!(outcome(&FACTS, command::FLUSH, 0, 0, 0), 0);
        assert_eq!(outcome(&FACTS, command::FLUSH, 0, 1, 0), EINVAL);
        assert_eq!(outcome(&FACTS, command::FLUSH, 0, 0, 1), EINVAL);
    }

    #[test]
    fn s51_a_payload_above_the_limit_is_invalid_but_a_trim_may_be_as_long_as_it_likes() {
        let facts = Facts { size: 1 << 40, ..FACTS };
        assert_eq!(outcome(&facts, command::READ, 0, 0, MAX_PAYLOAD.into()), 0);
        assert_eq!(outcome(&facts, command::READ, 0, 0, u64::from(MAX_PAYLOAD) + 1), EINVAL);
        assert_eq!(outcome(&facts, command::WRITE, 0, 0, u64::from(MAX_PAYLOAD) + 1), EINVAL);
        for command in [command::TRIM, command::WRITE_ZEROES, command::CACHE, command::BLOCK_STATUS] {
            assert_eq!(outcome(&facts, command, 0, 0, u32::MAX.into()), 0);
        }
    }

    #[test]
    fn s51_unaligned_ranges_are_accepted_since_the_smallest_request_is_a_byte() {
        assert_eq!(outcome(&FACTS, command::READ, 0, 1, 1), 0);
        assert_eq!(outcome(&FACTS, command::WRITE, 0, 511, 513), 0);
    }

    #[test]
    fn s51_every_flag_is_invalid_where_it_does_not_belong() {
        let belongs = |command, bit: u16| {
            bit == flag::FUA
                || command == command::READ && bit == flag::DF
                || command == command::WRITE_ZEROES && (bit == flag::NO_HOLE || bit == flag::FAST_ZERO)
                || command == command::BLOCK_STATUS && bit == flag::REQ_ONE
        };
        for command in [0u16, 1, 4, 5, 6, 7] {
            for bit in (0..16).map(|n| 1u16 << n) {
                let expected = if belongs(command, bit) { 0 } else { EINVAL };
                assert_eq!(outcome(&FACTS, command, bit, 0, 4096), expected, "command {command} flag {bit:#x}");
            }
        }
        let simple = Facts { form: Form::Simple, ..FACTS };
        assert_eq!(outcome(&simple, command::READ, flag::DF, 0, 4096), EINVAL);
    }

    #[test]
    fn s51_with_extended_headers_a_write_has_its_payload_and_lengths_have_64_bits() {
        let facts = Facts { size: 1 << 50, form: Form::Extended, ..FACTS };
        assert_eq!(outcome(&facts, command::WRITE, flag::PAYLOAD_LEN, 0, 4096), 0);
        assert_eq!(outcome(&facts, command::WRITE, 0, 0, 4096), 0, "qemu forgets the flag");
        assert_eq!(outcome(&facts, command::BLOCK_STATUS, flag::PAYLOAD_LEN, 0, 4096), 0);
        let without = Facts { base_allocation: false, ..facts };
        assert_eq!(outcome(&without, command::BLOCK_STATUS, flag::PAYLOAD_LEN, 0, 4096), EINVAL);
        for command in [command::READ, command::TRIM, command::CACHE, command::WRITE_ZEROES] {
            assert_eq!(outcome(&facts, command, flag::PAYLOAD_LEN, 0, 4096), EINVAL);
        }
        for command in [command::TRIM, command::CACHE, command::WRITE_ZEROES, command::BLOCK_STATUS] {
            assert_eq!(outcome(&facts, command, 0, 0, 1 << 50), 0);
            assert_ne!(outcome(&facts, command, 0, 1, 1 << 50), 0);
            assert_ne!(outcome(&facts, command, 0, 1, u64::MAX), 0);
        }
        assert_eq!(outcome(&facts, command::READ, 0, 0, (1 << 32) + 4096), EINVAL);
    }

    #[test]
    fn s51_unknown_commands_are_invalid() {
        for command in 8..=u16::MAX {
            assert_eq!(outcome(&FACTS, command, 0, 0, 1), EINVAL);
        }
    }

    #[test]
    fn s54_a_read_only_export_refuses_write_trim_and_zeroing() {
        let facts = Facts { read_only: true, ..FACTS };
        for command in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
            assert_eq!(outcome(&facts, command, 0, 0, 4096), EPERM);
            assert_eq!(outcome(&facts, command, 0, u64::MAX, 0), EPERM, "whatever its range");
        }
        for command in [command::READ, command::CACHE, command::BLOCK_STATUS] {
            assert_eq!(outcome(&facts, command, 0, 0, 4096), 0);
        }
        assert_eq!(outcome(&facts, command::FLUSH, 0, 0, 0), 0);
    }

    #[test]
    fn s53_trim_and_zeroing_are_bounded_by_the_export() {
        assert_eq!(outcome(&FACTS, command::TRIM, 0, 0, 1 << 20), 0);
        assert_eq!(outcome(&FACTS, command::TRIM, 0, 0, (1 << 20) + 1), EINVAL);
        assert_eq!(outcome(&FACTS, command::WRITE_ZEROES, 0, 4096, 1 << 20), ENOSPC);
    }

    #[test]
    fn block_status_without_its_context_is_invalid() {
        let facts = Facts { base_allocation: false, ..FACTS };
        assert_eq!(outcome(&facts, command::BLOCK_STATUS, 0, 0, 4096), EINVAL);
    }

    #[test]
    fn fast_zeroing_that_must_keep_room_is_not_offered() {
        assert_eq!(outcome(&FACTS, command::WRITE_ZEROES, flag::FAST_ZERO | flag::NO_HOLE, 0, 4096), ENOTSUP);
        assert_eq!(outcome(&FACTS, command::WRITE_ZEROES, flag::FAST_ZERO, 0, 4096), 0);
        assert_eq!(outcome(&FACTS, command::WRITE_ZEROES, flag::NO_HOLE, 0, 4096), 0);
    }
}
