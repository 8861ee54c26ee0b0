//! Which maps an old store has: the names of their header objects.

use super::OldStore;
use super::error::LegacyError;
use super::names::{self, Kind};
use super::tree::{Named, Tree};

/// Most maps of one store: their names are sorted in memory.
pub const MAX_MAPS: usize = 4_000_000;

/// What the directory of maps holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// Objects that may be headers of maps, in byte order of their names. What is not one shows when it is read.
    pub maps: Vec<String>,
    /// Paths of files that no lookup of the original would find, shortened to the first few.
    pub strays: Vec<String>,
    /// How many of these there are.
    pub stray_count: u64,
}

/// Strays that are named; the others are only counted.
const NAMED_STRAYS: usize = 20;

/// Longest list of digests that is looked for among blocks, where each object of its length has to be read: that of a file
/// of 32 GiB. Longer ones are found by name.
const MAX_LIST: u64 = 256 << 10;

/// Lists the maps whose name `wanted` accepts; with `lists` also lists of digests that lie among blocks.
pub fn list(
    store: &OldStore,
    wanted: &dyn Fn(&str) -> bool,
    lists: bool,
    watch: &mut dyn FnMut() -> Result<(), LegacyError>,
) -> Result<Listing, LegacyError> {
    let mut listing = Listing::default();
    let tree = &store.maps;
    let subdirectories = |dirs: &[String]| -> Result<Vec<String>, LegacyError> {
        let mut found = Vec::new();
        for (name, what) in tree.names_in(dirs)? {
            // Whatever else lies there (lost+found, locks) is not part of the store.
            let Some(name) = two_digits(name) else { continue };
            match what {
                Named::Directory => found.push(name),
                Named::Link => return Err(tree.is_link(&[dirs, &[name]].concat())),
                Named::Other => {}
            }
        }
        Ok(found)
    };
    for first in subdirectories(&[])? {
        for second in subdirectories(std::slice::from_ref(&first))? {
            watch()?;
            for third in subdirectories(&[first.clone(), second.clone()])? {
                let dirs = [first.clone(), second.clone(), third];
                for (name, _) in tree.names_in(&dirs)? {
                    add(&mut listing, store, &dirs, name, wanted, lists)?;
                }
            }
        }
    }
    listing.maps.sort_unstable();
    // One found both where old Pithos kept it and where it was migrated to is one map.
    listing.maps.dedup();
    Ok(listing)
}

fn two_digits(name: Vec<u8>) -> Option<String> {
    let digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    if name.len() == 2 && name.iter().all(digit) { String::from_utf8(name).ok() } else { None }
}

fn add(
    listing: &mut Listing,
    store: &OldStore,
    dirs: &[String; 3],
    name: Vec<u8>,
    wanted: &dyn Fn(&str) -> bool,
    lists: bool,
) -> Result<(), LegacyError> {
    let name = match String::from_utf8(name) {
        Ok(name) if names::check(&name).is_ok() && Tree::belongs(&name, dirs) => name,
        other => {
            let name = other.unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
            listing.stray_count += 1;
            if listing.strays.len() < NAMED_STRAYS {
                listing.strays.push(format!("{}/{}", dirs.join("/"), name.escape_debug()));
            }
            return Ok(());
        }
    };
    let map = match names::classify(&name) {
        Kind::Map => true,
        // In a directory of maps it is one; among blocks only its content tells, which `is_map` looks at.
        Kind::Digest => !store.together || is_map(store, &name, lists)?,
        Kind::OldBlock | Kind::Block | Kind::MapData | Kind::Side => false,
    };
    if map && wanted(&name) {
        if listing.maps.len() == MAX_MAPS {
            let text = format!("has more than {MAX_MAPS} maps; choose some with --pattern");
            return Err(LegacyError::refused(&store.maps.path().display().to_string(), text));
        }
        listing.maps.push(name);
    }
    Ok(())
}

/// Whether an object among blocks, named by a digest, is a map: by its signature, or because the digest is that of the list it holds.
fn is_map(store: &OldStore, name: &str, lists: bool) -> Result<bool, LegacyError> {
    let Some(object) = store.maps.find(name)? else { return Ok(false) };
    let mut start = [0; super::header::HEADER_LEN];
    let len = object.read(&mut start, 0)?;
    if start[..len].starts_with(b"AMF.") {
        return Ok(true);
    }
    // A block of a list's length is as likely to be a block, so the list has to prove itself.
    let may_be = lists && object.len <= MAX_LIST && object.len.is_multiple_of(32);
    Ok(may_be && super::map::root_of_list(&object)? == names::digest(name))
}
