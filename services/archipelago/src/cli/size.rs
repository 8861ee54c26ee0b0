//! Sizes as people write and read them.

/// Suffixes and their powers of 1024.
const UNITS: [(char, u32); 5] = [('K', 1), ('M', 2), ('G', 3), ('T', 4), ('P', 5)];
/// Most digits after the point: more cannot make a difference in a whole number of bytes, and 10^18 fits in 64 bits.
const MAX_FRACTION: usize = 18;

/// Reads a size in bytes: `4096`, `512M`, `1TiB`, `1.5G`. K, M, G, T and P are powers of 1024, with or without `iB`, in
/// either case. The decimal forms (`KB`, `MB`, ...) are refused rather than guessed.
pub fn parse(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let power = power(suffix).map_err(|reason| format!("{text:?}: {reason}"))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (fraction.is_empty() && number.contains('.')) || fraction.contains('.') {
        return Err(format!("{text:?}: not a size; write for example 4096, 512M, 1.5G or 10TiB"));
    }
    if fraction.len() > MAX_FRACTION {
        return Err(format!("{text:?}: has more than {MAX_FRACTION} digits after the point"));
    }
    let too_large = || format!("{text:?}: is larger than the largest size, 16 EiB");
    let unit = 1024u128.pow(power);
    let whole: u128 = whole.parse().map_err(|_| too_large())?;
    let part = fraction.parse::<u128>().unwrap_or(0) * unit;
    let scale = 10u128.pow(fraction.len() as u32);
    if !part.is_multiple_of(scale) {
        return Err(format!("{text:?}: is not a whole number of bytes; use a smaller unit"));
    }
    let bytes = whole.checked_mul(unit).and_then(|bytes| bytes.checked_add(part / scale)).ok_or_else(too_large)?;
    u64::try_from(bytes).map_err(|_| too_large())
}

fn power(suffix: &str) -> Result<u32, String> {
    let suffix = suffix.to_ascii_uppercase();
    let mut rest = suffix.chars();
    let Some(letter) = rest.next() else { return Ok(0) };
    let unit = UNITS.iter().find(|(unit, _)| *unit == letter);
    match (unit, rest.as_str()) {
        (None, "") if letter == 'B' => Ok(0),
        (Some((_, power)), "" | "IB") => Ok(*power),
        (Some(_), "B") => {
            Err(format!("the decimal unit {suffix} is not accepted; write {letter}iB for powers of 1024"))
        }
        _ => Err("unknown unit; use K, M, G, T or P, powers of 1024".into()),
    }
}

/// A size for people, to one decimal: `10.0 GiB`; below 1 KiB in bytes.
pub fn human(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = 'B';
    for (letter, _) in UNITS.into_iter().chain([('E', 6)]) {
        value /= 1024.0;
        unit = letter;
        // 1023.96 would be printed as 1024.0.
        if value < 1023.95 {
            break;
        }
    }
    format!("{value:.1} {unit}iB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_as_documented() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512B", 512),
            ("1K", 1024),
            ("10g", 10 << 30),
            ("512M", 512 << 20),
            ("1TiB", 1 << 40),
            ("1.5G", 3 << 29),
            ("0.5KiB", 512),
            ("4P", 4 << 50),
            ("18446744073709551615", u64::MAX),
            ("1.0", 1),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused_with_a_reason() {
        for (text, word) in [
            ("", "not a size"),
            ("G", "not a size"),
            (".5G", "not a size"),
            ("1.G", "not a size"),
            ("1.2.3G", "not a size"),
            ("-1", "unknown unit"),
            ("1 G", "unknown unit"),
            ("1X", "unknown unit"),
            ("1GG", "unknown unit"),
            ("10KB", "KiB"),
            ("10gb", "GiB"),
            ("1.3G", "whole number"),
            ("1.5", "whole number"),
            ("16384P", "larger"),
            ("18446744073709551616", "larger"),
            ("999999999999999999999999999999999999999999P", "larger"),
            ("1.0000000000000000000P", "digits"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_shown_to_one_decimal_and_never_as_1024() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10 << 30, "10.0 GiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (3 << 29, "1.5 GiB"),
            (4 << 50, "4.0 PiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_size_or_an_error(text in "[0-9.KMGTPiB ]{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn plain_numbers_read_as_themselves(bytes: u64) {
            prop_assert_eq!(parse(&bytes.to_string()), Ok(bytes));
        }
    }
}
