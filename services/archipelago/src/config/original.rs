//! The configuration file of the original Archipelago, read unchanged: what of it counts here, and what does not.
//!
//! What counts are the directories of its file blockers, from which `import-legacy` reads, and the group and permission bits that a new
//! store gets. Everything else belongs to processes and shared memory that do not exist here. `docs/cli.md` has the table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::ini::{self, Entry, Section, Wrong};

/// What the file says that counts here; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Original {
    /// `STORE`: where the store is. The original ignores the key.
    pub store: Option<String>,
    /// `archip_dir` of the blocker that the mapper keeps its maps with.
    pub maps: Option<PathBuf>,
    /// `archip_dir` of the blocker that the mapper keeps blocks with.
    pub blocks: Option<PathBuf>,
    /// `GROUP`.
    pub group: Option<String>,
    /// Permission bits of files under `UMASK`.
    pub mode: Option<u32>,
}

const GENERAL: &str = "ARCHIPELAGO";
const PEERS: &str = "PEERS";
const SEGMENT: &str = "XSEG";

/// Keys without meaning here, by section.
const GENERAL_IGNORED: [&str; 2] = ["user", "blktap_enabled"];
const SEGMENT_IGNORED: [&str; 8] = [
    "segment_ports",
    "segment_dynports",
    "segment_size",
    "segment_type",
    "segment_name",
    "segment_alignment",
    "vtool_start",
    "vtool_end",
];
const PEERS_IGNORED: [&str; 1] = ["order"];
/// Of every role. The ports of blockers and of the mapper only say which blocker is which.
const ROLE_IGNORED: [&str; 8] =
    ["portno_start", "portno_end", "nr_ops", "nr_threads", "log_level", "umask", "threshold", "logfile"];
/// Keys of a type of role: those that count, and those without meaning.
const TYPES: [(&str, &[&str], &[&str]); 5] = [
    (
        "file_blocker",
        &["archip_dir", "lock_dir", "portno_start", "portno_end"],
        &["fdcache", "direct", "pithos_migrate", "unique_str", "prefix"],
    ),
    ("rados_blocker", &[], &["pool", "cephx_id"]),
    ("mapperd", &["blockerb_port", "blockerm_port"], &[]),
    ("vlmcd", &[], &["blocker_port", "mapper_port"]),
    ("poold", &[], &["logging_conf", "socket_path", "pidfile"]),
];

/// Reads the file, and says through `warn` what of it has no meaning here.
pub fn read(text: &str, warn: &mut dyn FnMut(String)) -> Result<Original, Wrong> {
    let sections = ini::parse(text)?;
    let mut file = Reader { ignored: BTreeMap::new(), unknown: Vec::new() };
    let mut original = Original::default();
    if let Some(general) = sections.get(GENERAL) {
        file.general(general, &mut original)?;
    }
    if let Some(segment) = sections.get(SEGMENT) {
        file.sort(SEGMENT, segment, &[], &SEGMENT_IGNORED);
    }
    let roles = match sections.get(PEERS) {
        Some(peers) => file.roles(peers, &sections)?,
        None => BTreeMap::new(),
    };
    file.backends(&roles, &mut original, warn)?;
    for (name, section) in &sections {
        if ![GENERAL, SEGMENT, PEERS].contains(&name.as_str()) && !roles.contains_key(name.as_str()) {
            file.unknown.push((section.line, format!("[{name}] is no role that ROLES names")));
        }
    }
    file.tell(warn);
    Ok(original)
}

/// What is left out while the file is read.
struct Reader {
    /// Keys without meaning, by section.
    ignored: BTreeMap<String, BTreeSet<String>>,
    /// Lines that mean nothing to the original either.
    unknown: Vec<(usize, String)>,
}

impl Reader {
    /// Notes the keys of a section that do not count.
    fn sort(&mut self, name: &str, section: &Section, counts: &[&str], ignored: &[&str]) {
        for (key, entry) in &section.entries {
            if counts.contains(&key.as_str()) {
                continue;
            }
            if ignored.contains(&key.as_str()) {
                self.ignored.entry(name.to_string()).or_default().insert(entry.key.clone());
            } else {
                self.unknown.push((entry.line, format!("unknown key `{}` in [{name}]", entry.key)));
            }
        }
    }

    fn general(&mut self, section: &Section, original: &mut Original) -> Result<(), Wrong> {
        self.sort(GENERAL, section, &["store", "group", "umask"], &GENERAL_IGNORED);
        let text = |key| section.get(key).filter(|entry| !entry.value.is_empty()).map(|entry| entry.value.clone());
        original.store = text("store");
        original.group = text("group");
        original.mode = section.get("umask").map(mode).transpose()?;
        Ok(())
    }

    /// The roles that run, with their sections.
    fn roles<'a>(
        &mut self,
        peers: &Section,
        sections: &'a BTreeMap<String, Section>,
    ) -> Result<BTreeMap<&'a str, &'a Section>, Wrong> {
        self.sort(PEERS, peers, &["roles"], &PEERS_IGNORED);
        let mut roles = BTreeMap::new();
        let Some(entry) = peers.get("roles") else { return Ok(roles) };
        for name in entry.value.split_whitespace() {
            let Some((name, section)) = sections.get_key_value(name) else {
                return Err(Wrong::at(entry.line, format!("`{}` names {name}, and there is no [{name}]", entry.key)));
            };
            roles.insert(name.as_str(), section);
        }
        Ok(roles)
    }

    /// Finds the directories of the blockers that the mapper works with.
    fn backends(
        &mut self,
        roles: &BTreeMap<&str, &Section>,
        original: &mut Original,
        warn: &mut dyn FnMut(String),
    ) -> Result<(), Wrong> {
        let mut blockers = Vec::new();
        let mut mapper = None;
        for (name, section) in roles {
            let Some(kind) = section.get("type") else {
                return Err(Wrong::at(section.line, format!("[{name}] has no `type`")));
            };
            let Some((kind, counts, ignored)) = TYPES.iter().find(|(known, ..)| *known == kind.value) else {
                return Err(Wrong::at(kind.line, format!("`type` of [{name}]: {:?} is no type of role", kind.value)));
            };
            let counts = [&["type"], *counts].concat();
            self.sort(name, section, &counts, &[&ROLE_IGNORED, *ignored].concat());
            match *kind {
                "mapperd" => mapper = mapper.or(Some((*name, *section))),
                "file_blocker" => blockers.push((*name, *section)),
                "rados_blocker" => {
                    let pool = section.get("pool").map_or("?", |entry| &entry.value);
                    warn(format!(
                        "line {}: the pool {pool} of [{name}] is not read by this program; export its objects to a directory, see \
                         docs/import-legacy.md",
                        section.line
                    ));
                }
                _ => {}
            }
            if let Some(locks) = section.get("lock_dir") {
                warn(format!(
                    "line {}: locks in {} are not looked at by `import-legacy`; make sure that the original does not run",
                    locks.line, locks.value
                ));
            }
        }
        let Some((name, mapper)) = mapper else { return Ok(()) };
        for (key, place) in [("blockerm_port", &mut original.maps), ("blockerb_port", &mut original.blocks)] {
            let Some(entry) = mapper.get(key) else { continue };
            let port = number(entry)?;
            for (_, blocker) in &blockers {
                if ports(blocker)?.is_some_and(|(first, last)| (first..=last).contains(&port)) {
                    *place = blocker.get("archip_dir").map(directory).transpose()?;
                }
            }
            if place.is_none() && !roles.values().any(|role| role.get("pool").is_some()) {
                warn(format!("line {}: no file blocker has the port {port} of `{key}` in [{name}]", entry.line));
            }
        }
        Ok(())
    }

    fn tell(self, warn: &mut dyn FnMut(String)) {
        for (line, what) in self.unknown {
            warn(format!("line {line}: {what} is ignored"));
        }
        if self.ignored.is_empty() {
            return;
        }
        let list = |(section, keys): (&String, &BTreeSet<String>)| {
            format!("[{section}] {}", keys.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
        };
        let all: Vec<String> = self.ignored.iter().map(list).collect();
        warn(format!("without meaning here, and ignored: {}", all.join("; ")));
    }
}

/// The ports of a role.
fn ports(section: &Section) -> Result<Option<(u64, u64)>, Wrong> {
    let Some(first) = section.get("portno_start") else { return Ok(None) };
    let first = number(first)?;
    Ok(Some((first, section.get("portno_end").map_or(Ok(first), number)?)))
}

fn number(entry: &Entry) -> Result<u64, Wrong> {
    entry
        .value
        .parse()
        .map_err(|_| Wrong::at(entry.line, format!("`{}`: {:?} is not a number", entry.key, entry.value)))
}

fn directory(entry: &Entry) -> Result<PathBuf, Wrong> {
    let path = Path::new(&entry.value);
    if !path.is_absolute() || entry.value.contains(['\n', '\0']) {
        return Err(Wrong::at(entry.line, format!("`{}`: {:?} is not an absolute path", entry.key, entry.value)));
    }
    Ok(path.to_path_buf())
}

/// Permission bits of files under a mask, which is written `0o22`, `022` or `18`.
fn mode(entry: &Entry) -> Result<u32, Wrong> {
    let text = entry.value.as_str();
    let octal = text.strip_prefix("0o").or_else(|| text.strip_prefix("0O")).or_else(|| text.strip_prefix('0'));
    let mask = match octal {
        Some("") => Ok(0),
        Some(digits) => u32::from_str_radix(digits, 8),
        None => text.parse(),
    };
    match mask {
        Ok(mask) if mask & 0o600 == 0 && mask <= 0o777 => Ok(0o666 & !mask),
        Ok(_) => Err(Wrong::at(entry.line, format!("`{}`: {text} locks the owner out of his own files", entry.key))),
        Err(_) => Err(Wrong::at(entry.line, format!("`{}`: {text:?} is not a mask; write 0o007, 007 or 7", entry.key))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a site has: every section and key of the original's manual.
    const WHOLE: &str = "\
[ARCHIPELAGO]
USER = archipelago
GROUP = synnefo
BLKTAP_ENABLED = True
UMASK = 0o027

[XSEG]
SEGMENT_PORTS = 2048
SEGMENT_DYNPORTS = 1024
SEGMENT_SIZE = 2048
SEGMENT_TYPE = posix
SEGMENT_NAME = archipelago
SEGMENT_ALIGNMENT = 12
VTOOL_START = 1003
VTOOL_END = 1022

[PEERS]
ROLES = blockerb blockerm mapperd vlmcd pool
ORDER = pool blockerb blockerm mapperd vlmcd

[blockerb]
type = file_blocker
portno_start = 1000
portno_end = 1000
log_level = 3
nr_ops = 64
nr_threads = 64
archip_dir = /srv/archip/blocks
fdcache = 512
direct = True
pithos_migrate = False

[blockerm]
type = file_blocker
portno_start = 1002
portno_end = 1002
archip_dir = /srv/archip/maps
lock_dir = /srv/archip/locks
unique_str = node1_1002

[mapperd]
type = mapperd
portno_start = 1001
portno_end = 1001
blockerb_port = 1000
blockerm_port = 1002

[vlmcd]
type = vlmcd
portno_start = 500
portno_end = 999
blocker_port = 1000
mapper_port = 1001
umask = 0o007
threshold = 1000
logfile = /var/log/archipelago/vlmcd.log

[pool]
type = poold
portno_start = 1
portno_end = 200
socket_path = /var/run/archipelago/poold.socket
";

    /// Number of the line in which the text begins.
    fn line_of(text: &str) -> usize {
        WHOLE[..WHOLE.find(text).unwrap()].matches('\n').count() + 1
    }

    fn read_all(text: &str) -> (Result<Original, Wrong>, Vec<String>) {
        let mut warnings = Vec::new();
        let read = read(text, &mut |warning| warnings.push(warning));
        (read, warnings)
    }

    #[test]
    fn a_whole_file_is_accepted_and_what_counts_is_taken() {
        let (original, warnings) = read_all(WHOLE);
        let expected = Original {
            store: None,
            maps: Some("/srv/archip/maps".into()),
            blocks: Some("/srv/archip/blocks".into()),
            group: Some("synnefo".into()),
            mode: Some(0o640),
        };
        assert_eq!(original.unwrap(), expected);
        assert_eq!(warnings.len(), 2, "{warnings:#?}");
        assert!(
            warnings[0].starts_with(&format!("line {}:", line_of("lock_dir")))
                && warnings[0].contains("/srv/archip/locks"),
            "{warnings:#?}"
        );
        assert!(!warnings[1].contains("archip_dir") && !warnings[1].contains("GROUP"), "{warnings:#?}");
    }

    #[test]
    fn every_key_without_meaning_is_named_in_one_warning() {
        let (_, warnings) = read_all(WHOLE);
        for word in
            ["USER", "BLKTAP_ENABLED", "SEGMENT_SIZE", "VTOOL_END", "ORDER", "nr_ops", "unique_str", "socket_path"]
        {
            assert!(warnings[1].contains(word), "{word}: {warnings:#?}");
        }
    }

    #[test]
    fn what_the_original_does_not_know_either_is_warned_about_by_line() {
        let text = WHOLE.replace("USER = archipelago", "USR = archipelago") + "[other]\ntype = vlmcd\n";
        let (original, warnings) = read_all(&text);
        assert!(original.is_ok());
        assert!(warnings.iter().any(|w| w.starts_with("line 2: unknown key `USR`")), "{warnings:#?}");
        assert!(warnings.iter().any(|w| w.contains("[other] is no role")), "{warnings:#?}");
    }

    #[test]
    fn pools_are_warned_about_and_their_export_is_named() {
        let text = WHOLE
            .replace("type = file_blocker", "type = rados_blocker")
            .replace("archip_dir = /srv/archip/blocks", "pool = blocks")
            .replace("archip_dir = /srv/archip/maps", "pool = maps");
        let (original, warnings) = read_all(&text);
        let original = original.unwrap();
        assert_eq!((original.maps, original.blocks), (None, None));
        assert!(warnings.iter().any(|w| w.contains("the pool maps of [blockerm]")), "{warnings:#?}");
    }

    #[test]
    fn mistakes_are_named_by_their_line() {
        for (from, to, word) in [
            ("archip_dir = /srv/archip/maps", "archip_dir = maps", "absolute"),
            ("blockerm_port = 1002", "blockerm_port = x", "number"),
            ("type = poold", "type = poolx", "type"),
            ("UMASK = 0o027", "UMASK = 0o900", "mask"),
            ("UMASK = 0o027", "UMASK = 0o277", "owner"),
            ("ROLES = blockerb", "ROLES = blockerx", "[blockerx]"),
            ("USER = archipelago", "USER", "KEY = VALUE"),
        ] {
            let (original, _) = read_all(&WHOLE.replacen(from, to, 1));
            let wrong = original.expect_err(to);
            assert_eq!(wrong.line, line_of(from), "{wrong:?}");
            assert!(wrong.reason.contains(word), "{wrong:?}");
        }
    }

    #[test]
    fn masks_are_read_in_each_of_their_forms() {
        for (text, bits) in [("0o22", 0o644), ("022", 0o644), ("18", 0o644), ("0o007", 0o660), ("0", 0o666)] {
            let entry = Entry { key: "UMASK".into(), value: text.into(), line: 1 };
            assert_eq!(mode(&entry), Ok(bits), "{text}");
        }
    }
}
