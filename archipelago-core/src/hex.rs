//! Hex digits, as they stand in names and messages: lower-case, two for a byte, and nothing else, so that nothing has two spellings.

use std::fmt::Write;

/// The digits of these bytes.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The bytes that are written so; `None` for any other text.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_one_spelling() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        assert_eq!(decode(&encode(&all)), Some(all));
        assert_eq!((encode(&[0x0a, 0xf0]), decode("")), ("0af0".to_string(), Some(Vec::new())));
        for wrong in ["0", "0A", "+1", "-1", " 1", "1g", "\u{e4}", "0x", "123"] {
            assert_eq!(decode(wrong), None, "{wrong:?}");
        }
    }
}
