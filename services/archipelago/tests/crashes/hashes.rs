//! What `hash` has to say of a snapshot, worked out from what the snapshot holds: the same each time, whatever came in between.

use archipelago_core::digest::Digest;
use archipelago_core::merkle::TopHash;
use serde_json::Value;

use crate::history::{Versions, bytes};

/// Block sizes of the maps of a run, in bytes: each gives another hash.
const BLOCKS: [usize; 2] = [4 << 20, 64 << 10];

/// Checks a document of `hash --json`.
///
/// # Errors
/// It is not about this content.
pub fn check_hash(document: &str, content: &Versions) -> Result<(), String> {
    let value: Value = serde_json::from_str(document).map_err(|e| format!("{e}: {document}"))?;
    let disk = bytes(content);
    let total = value["total"].as_u64().ok_or("no total")?;
    let block = BLOCKS.into_iter().find(|block| disk.len().div_ceil(*block) as u64 == total);
    let block = block.ok_or_else(|| format!("{total} blocks of {} bytes", disk.len()))?;
    let mut top = TopHash::default();
    disk.chunks(block).for_each(|block| top.push(Digest::of(block).0));
    let expected = top.finish().to_string();
    match value["top_hash"] == expected {
        true => Ok(()),
        false => Err(format!("the hash of what it holds is {expected}: {document}")),
    }
}

#[test]
fn the_hash_of_other_content_is_found_out() {
    let mut content = vec![0; 9 << 11];
    content[5000] = 7;
    let disk = bytes(&content);
    let mut top = TopHash::default();
    disk.chunks(BLOCKS[0]).for_each(|block| top.push(Digest::of(block).0));
    let document = format!("{{\"total\":3,\"top_hash\":\"{}\"}}", top.finish());
    check_hash(&document, &content).unwrap();
    content[5000] = 8;
    check_hash(&document, &content).unwrap_err();
    check_hash(&document.replace(":3,", ":5,"), &content).unwrap_err();
}
