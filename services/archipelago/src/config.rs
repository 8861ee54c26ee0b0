//! The configuration file, and beside it the original's. `docs/cli.md` lists their keys.
//!
//! A file that somebody else can write decides where root reads and writes, so root refuses one.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::cli::exit::Failure;
use crate::cli::size;
use crate::disk::limiter::Limits;

pub mod ini;
pub mod original;

/// The original's file, read before ours, for everybody.
pub const ORIGINAL: &str = "/etc/archipelago/archipelago.conf";
/// Read first of ours, for everybody.
pub const SYSTEM: &str = "/etc/archipelago/archipelago.toml";
/// The name in `limits` that stands for every volume that has no limits of its own.
pub const EVERY: &str = "*";
/// Longest file that is read: a configuration is a page, and the file is held in memory.
const MAX_FILE: u64 = 1 << 20;

/// What configuration files say; `None` and empty where they say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `store`: where the store is.
    pub store: Option<String>,
    /// `node_cache`: byte limit of the node cache.
    pub node_cache: Option<u64>,
    /// `max_unfolded`: journal bytes of a volume that may wait to be folded.
    pub max_unfolded: Option<u64>,
    /// `direct`: data is read and written past the page cache.
    pub direct: Option<bool>,
    /// `run_dir`: the directory below which attachments are.
    pub run_dir: Option<PathBuf>,
    /// `node`: the name of this node, if it is not the host name.
    pub node: Option<String>,
    /// `unused_time`: seconds after which an attachment ends that has nothing and that nobody uses; 0 for never.
    pub unused_time: Option<u64>,
    /// `ganeti`: what the Ganeti provider works with.
    pub ganeti: Ganeti,
    /// `serve.nbd`: where to listen.
    pub nbd: Vec<String>,
    /// `serve.vhost_user`: what to attach to virtual machines, and where.
    pub vhost_user: Vec<String>,
    /// `serve.tls_cert`: certificate for clients over TCP.
    pub tls_cert: Option<PathBuf>,
    /// `serve.tls_key`: its key.
    pub tls_key: Option<PathBuf>,
    /// `serve.tls_client_ca`: authorities of clients' certificates.
    pub tls_client_ca: Option<PathBuf>,
    /// `serve.pid_file`: where to write the process id.
    pub pid_file: Option<PathBuf>,
    /// `serve.gc_interval`: seconds between two collections; 0 for none.
    pub gc_interval: Option<u64>,
    /// `serve.gc_rate`: bytes per second that a collection reads and frees.
    pub gc_rate: Option<u64>,
    /// `serve.scrub_interval`: seconds between two scrubs; 0 for none.
    pub scrub_interval: Option<u64>,
    /// `serve.scrub_rate`: bytes per second that a scrub reads; 0 for none.
    pub scrub_rate: Option<u64>,
    /// `serve.hash_interval`: seconds between two rounds of hashing; 0 for none.
    pub hash_interval: Option<u64>,
    /// `serve.hash_rate`: bytes per second that hashing reads.
    pub hash_rate: Option<u64>,
    /// `serve.hash_age`: seconds since it was taken after which a snapshot is hashed.
    pub hash_age: Option<u64>,
    /// `serve.metrics`: where to tell figures.
    pub metrics: Option<String>,
    /// `serve.log_format`: what lines of the log look like.
    pub log_format: Option<String>,
    /// `serve.log_level`: the least important lines that are written.
    pub log_level: Option<String>,
    /// `serve.slow_io`: milliseconds from which on a request is told of as slow; 0 for never.
    pub slow_io: Option<u64>,
    /// `limits.NAME`: what a volume may do per second; [`EVERY`] stands for those that are not named.
    pub limits: BTreeMap<String, Limits>,
    /// What the original's file says.
    pub original: original::Original,
}

/// What the Ganeti provider works with (docs/ganeti.md).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ganeti {
    /// `ganeti.pools.NAME`: stores that disks may name by the parameter `pool`.
    pub pools: BTreeMap<String, String>,
    /// `ganeti.volume_naming`: by which of its two names a disk is looked for.
    pub volume_naming: Naming,
}

/// By which of its two names a disk of Ganeti is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// Whichever exists.
    #[default]
    Either,
    /// The disk's name, `VOL_CNAME`.
    Cname,
    /// The name that Ganeti made up, `VOL_NAME`.
    Name,
}

/// Reads the named file, or the default ones: the original's, the system's, then the user's, whose keys win. A named file that ends in
/// `.conf` stands for the original's, and ours are read as well. Calls `warn` for what is ignored.
pub fn load(named: Option<&Path>, warn: &mut dyn FnMut(String)) -> Result<Config, Failure> {
    let mut config = Config::default();
    if let Some(path) = named {
        let text = read(path)?.ok_or_else(|| Failure::host("open", path.display(), io::ErrorKind::NotFound.into()))?;
        if path.extension().is_none_or(|extension| extension != "conf") {
            config.merge(path, &text, warn)?;
            return Ok(config);
        }
        config.merge_original(path, &text, warn)?;
    } else if let Some(text) = read(Path::new(ORIGINAL))? {
        config.merge_original(Path::new(ORIGINAL), &text, warn)?;
    }
    for path in [Some(PathBuf::from(SYSTEM)), user_file()].into_iter().flatten() {
        if let Some(text) = read(&path)? {
            config.merge(&path, &text, warn)?;
        }
    }
    Ok(config)
}

/// Reads the files that hold for everybody: the original's, and the system's, whose keys win.
pub fn load_for_everybody(warn: &mut dyn FnMut(String)) -> Result<Config, Failure> {
    let mut config = Config::default();
    if let Some(text) = read(Path::new(ORIGINAL))? {
        config.merge_original(Path::new(ORIGINAL), &text, warn)?;
    }
    if let Some(text) = read(Path::new(SYSTEM))? {
        config.merge(Path::new(SYSTEM), &text, warn)?;
    }
    Ok(config)
}

/// The user's file: below `$XDG_CONFIG_HOME`, or `~/.config`. Relative directories are ignored, as the XDG rules ask.
fn user_file() -> Option<PathBuf> {
    let dir = |name| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let base = dir("XDG_CONFIG_HOME").or_else(|| dir("HOME").map(|home| home.join(".config")))?;
    Some(base.join("archipelago/archipelago.toml"))
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(Failure::host("open", path.display(), e)),
    };
    // Of the open file, so that it cannot be exchanged between the check and the use.
    let meta = file.metadata().map_err(|e| Failure::host("examine", path.display(), e))?;
    if nix::unistd::geteuid().is_root() {
        check_owner(path, &meta)?;
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| Failure::host("read", path.display(), e))?;
    if text.len() as u64 > MAX_FILE {
        return Err(Failure::Usage(format!("{}: is longer than 1 MiB; it cannot be a configuration", path.display())));
    }
    Ok(Some(text))
}

fn check_owner(path: &Path, meta: &Metadata) -> Result<(), Failure> {
    let refuse = |reason: &str| Err(Failure::Usage(format!("{}: {reason}", path.display())));
    if meta.mode() & 0o022 != 0 {
        return refuse("others than its owner can write it, so root does not use it; run `chmod go-w` on it");
    }
    if meta.uid() != 0 {
        return refuse("does not belong to root, so root does not use it; run `chown root` on it");
    }
    Ok(())
}

impl Config {
    /// Takes over what counts of a file of the original's.
    pub(crate) fn merge_original(
        &mut self,
        path: &Path,
        text: &str,
        warn: &mut dyn FnMut(String),
    ) -> Result<(), Failure> {
        let shown = path.display();
        let read = original::read(text, &mut |warning| warn(format!("{shown}: {warning}")));
        self.original = read.map_err(|e| Failure::Usage(format!("{shown}: line {}: {}", e.line, e.reason)))?;
        if let Some(store) = &self.original.store {
            self.store = Some(store.clone());
        }
        Ok(())
    }

    /// Takes over the keys of a file.
    pub(crate) fn merge(&mut self, path: &Path, text: &str, warn: &mut dyn FnMut(String)) -> Result<(), Failure> {
        let table: Table =
            text.parse().map_err(|e: toml::de::Error| Failure::Usage(format!("{}: {e}", path.display())))?;
        let file = KeyIn { path };
        for (key, value) in &table {
            match key.as_str() {
                "store" => self.store = Some(file.text(key, value)?),
                "node_cache" => self.node_cache = Some(file.size(key, value)?),
                "max_unfolded" => self.max_unfolded = Some(file.size(key, value)?),
                "direct" => match value {
                    Value::Boolean(direct) => self.direct = Some(*direct),
                    _ => return Err(file.wrong(key, "true or false")),
                },
                "run_dir" => self.run_dir = Some(file.absolute(key, value)?),
                "node" => self.node = Some(file.text(key, value)?),
                "unused_time" => self.unused_time = Some(file.seconds(key, value)?),
                "ganeti" => match value {
                    Value::Table(ganeti) => self.merge_ganeti(&file, ganeti, warn)?,
                    _ => return Err(file.wrong(key, "a table")),
                },
                "limits" => match value {
                    Value::Table(volumes) => self.merge_limits(&file, volumes, warn)?,
                    _ => return Err(file.wrong(key, "a table")),
                },
                "serve" => match value {
                    Value::Table(serve) => self.merge_serve(&file, serve, warn)?,
                    _ => return Err(file.wrong(key, "a table")),
                },
                _ => warn(format!("{}: unknown key `{key}` is ignored", path.display())),
            }
        }
        Ok(())
    }

    fn merge_ganeti(&mut self, file: &KeyIn<'_>, ganeti: &Table, warn: &mut dyn FnMut(String)) -> Result<(), Failure> {
        for (key, value) in ganeti {
            match (key.as_str(), value) {
                ("pools", Value::Table(pools)) => {
                    for (name, value) in pools {
                        let store = file.text(&format!("ganeti.pools.{name}"), value)?;
                        self.ganeti.pools.insert(name.clone(), store);
                    }
                }
                ("pools", _) => return Err(file.wrong("ganeti.pools", "a table")),
                ("volume_naming", value) => {
                    self.ganeti.volume_naming = match value.as_str() {
                        Some("cname") => Naming::Cname,
                        Some("name") => Naming::Name,
                        _ => return Err(file.wrong("ganeti.volume_naming", "\"cname\" or \"name\"")),
                    };
                }
                _ => warn(format!("{}: unknown key `ganeti.{key}` is ignored", file.path.display())),
            }
        }
        Ok(())
    }

    fn merge_limits(&mut self, file: &KeyIn<'_>, volumes: &Table, warn: &mut dyn FnMut(String)) -> Result<(), Failure> {
        for (name, value) in volumes {
            let Value::Table(table) = value else { return Err(file.wrong(&format!("limits.{name}"), "a table")) };
            let mut limits = Limits::default();
            for (key, value) in table {
                let shown = format!("limits.{name}.{key}");
                match key.as_str() {
                    "iops" => limits.iops = file.number(&shown, value, "a number of requests")?,
                    "iops_burst" => limits.iops_burst = file.number(&shown, value, "a number of requests")?,
                    "bps" => limits.bps = file.size(&shown, value)?,
                    "bps_burst" => limits.bps_burst = file.size(&shown, value)?,
                    _ => warn(format!("{}: unknown key `{shown}` is ignored", file.path.display())),
                }
            }
            self.limits.insert(name.clone(), limits);
        }
        Ok(())
    }

    fn merge_serve(&mut self, file: &KeyIn<'_>, serve: &Table, warn: &mut dyn FnMut(String)) -> Result<(), Failure> {
        for (key, value) in serve {
            match (key.as_str(), value) {
                ("nbd", Value::Array(list)) => {
                    self.nbd = list.iter().map(|value| file.text("serve.nbd", value)).collect::<Result<_, _>>()?;
                }
                ("nbd", value) => self.nbd = vec![file.text("serve.nbd", value)?],
                ("vhost_user", Value::Array(list)) => {
                    let texts = list.iter().map(|value| file.text("serve.vhost_user", value));
                    self.vhost_user = texts.collect::<Result<_, _>>()?;
                }
                ("vhost_user", value) => self.vhost_user = vec![file.text("serve.vhost_user", value)?],
                ("gc_interval", value) => self.gc_interval = Some(file.seconds("serve.gc_interval", value)?),
                ("gc_rate", value) => self.gc_rate = Some(file.size("serve.gc_rate", value)?),
                ("scrub_interval", value) => self.scrub_interval = Some(file.seconds("serve.scrub_interval", value)?),
                ("scrub_rate", value) => self.scrub_rate = Some(file.size("serve.scrub_rate", value)?),
                ("hash_interval", value) => self.hash_interval = Some(file.seconds("serve.hash_interval", value)?),
                ("hash_rate", value) => self.hash_rate = Some(file.size("serve.hash_rate", value)?),
                ("hash_age", value) => self.hash_age = Some(file.seconds("serve.hash_age", value)?),
                ("tls_cert", value) => self.tls_cert = Some(PathBuf::from(file.text("serve.tls_cert", value)?)),
                ("tls_key", value) => self.tls_key = Some(PathBuf::from(file.text("serve.tls_key", value)?)),
                ("tls_client_ca", value) => {
                    self.tls_client_ca = Some(PathBuf::from(file.text("serve.tls_client_ca", value)?));
                }
                ("slow_io", value) => {
                    self.slow_io = Some(file.number("serve.slow_io", value, "a number of milliseconds")?);
                }
                ("metrics", value) => self.metrics = Some(file.text("serve.metrics", value)?),
                ("log_format", value) => self.log_format = Some(file.text("serve.log_format", value)?),
                ("log_level", value) => self.log_level = Some(file.text("serve.log_level", value)?),
                ("pid_file", value) => self.pid_file = Some(PathBuf::from(file.text("serve.pid_file", value)?)),
                _ => warn(format!("{}: unknown key `serve.{key}` is ignored", file.path.display())),
            }
        }
        Ok(())
    }
}

struct KeyIn<'a> {
    path: &'a Path,
}

impl KeyIn<'_> {
    fn wrong(&self, key: &str, wanted: &str) -> Failure {
        Failure::Usage(format!("{}: `{key}` is not {wanted}", self.path.display()))
    }

    fn text(&self, key: &str, value: &Value) -> Result<String, Failure> {
        value.as_str().map(str::to_string).ok_or_else(|| self.wrong(key, "a text in quotes"))
    }

    fn absolute(&self, key: &str, value: &Value) -> Result<PathBuf, Failure> {
        let path = PathBuf::from(self.text(key, value)?);
        if path.is_absolute() { Ok(path) } else { Err(self.wrong(key, "a path that starts with /")) }
    }

    fn seconds(&self, key: &str, value: &Value) -> Result<u64, Failure> {
        self.number(key, value, "a number of seconds")
    }

    fn number(&self, key: &str, value: &Value, wanted: &str) -> Result<u64, Failure> {
        value.as_integer().and_then(|n| u64::try_from(n).ok()).ok_or_else(|| self.wrong(key, wanted))
    }

    fn size(&self, key: &str, value: &Value) -> Result<u64, Failure> {
        let size = match value {
            Value::Integer(bytes) => u64::try_from(*bytes).ok(),
            Value::String(text) => {
                let named = |e| Failure::Usage(format!("{}: `{key}`: {e}", self.path.display()));
                Some(size::parse(text).map_err(named)?)
            }
            _ => None,
        };
        size.ok_or_else(|| self.wrong(key, "a size, for example \"64M\" or 67108864"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    fn merged(texts: &[&str]) -> (Result<Config, Failure>, Vec<String>) {
        let mut warnings = Vec::new();
        let mut config = Config::default();
        for text in texts {
            if let Err(e) = config.merge(Path::new("file.toml"), text, &mut |w| warnings.push(w)) {
                return (Err(e), warnings);
            }
        }
        (Ok(config), warnings)
    }

    #[test]
    fn every_key_is_read() {
        let text = "run_dir = '/run/a'\nnode = 'node-1'\nunused_time = 60\nstore = 'file:/srv/store'\nnode_cache = '128M'\nmax_unfolded = 33554432\ndirect = true\n\
            [serve]\nnbd = ['unix:/run/a.sock', 'tcp:127.0.0.1:10809']\nvhost_user = 'unix:/run/b.sock=disk-1'\npid_file = '/run/a.pid'\n\
            gc_interval = 600\ngc_rate = '8M'\nscrub_interval = 86400\nscrub_rate = '1M'\n\
            hash_interval = 60\nhash_rate = '4M'\nhash_age = 30\nslow_io = 250\nmetrics = '127.0.0.1:9809'\nlog_format = 'json'\nlog_level = 'warn'\n\
            tls_cert = '/etc/c.pem'\ntls_key = '/etc/k.pem'\ntls_client_ca = '/etc/ca.pem'\n\
            [ganeti]\nvolume_naming = 'cname'\n[ganeti.pools]\nssd = 'file:/srv/ssd'\n\
            [limits.disk-1]\niops = 100\niops_burst = 200\nbps = '1M'\nbps_burst = 4096\n[limits.'*']\niops = 9\n";
        let (config, warnings) = merged(&[text]);
        let expected = Config {
            store: Some("file:/srv/store".into()),
            node_cache: Some(128 << 20),
            max_unfolded: Some(32 << 20),
            direct: Some(true),
            run_dir: Some("/run/a".into()),
            node: Some("node-1".into()),
            unused_time: Some(60),
            ganeti: Ganeti {
                pools: BTreeMap::from([("ssd".into(), "file:/srv/ssd".into())]),
                volume_naming: Naming::Cname,
            },
            nbd: vec!["unix:/run/a.sock".into(), "tcp:127.0.0.1:10809".into()],
            vhost_user: vec!["unix:/run/b.sock=disk-1".into()],
            tls_cert: Some("/etc/c.pem".into()),
            tls_key: Some("/etc/k.pem".into()),
            tls_client_ca: Some("/etc/ca.pem".into()),
            pid_file: Some("/run/a.pid".into()),
            gc_interval: Some(600),
            gc_rate: Some(8 << 20),
            scrub_interval: Some(86400),
            scrub_rate: Some(1 << 20),
            hash_interval: Some(60),
            hash_rate: Some(4 << 20),
            hash_age: Some(30),
            metrics: Some("127.0.0.1:9809".into()),
            log_format: Some("json".into()),
            log_level: Some("warn".into()),
            slow_io: Some(250),
            limits: BTreeMap::from([
                ("disk-1".into(), Limits { iops: 100, iops_burst: 200, bps: 1 << 20, bps_burst: 4096 }),
                (EVERY.into(), Limits { iops: 9, ..Limits::default() }),
            ]),
            original: original::Original::default(),
        };
        assert_eq!(config.unwrap(), expected);
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_later_file_wins_key_by_key() {
        let (config, _) = merged(&["store = 'file:/a'\nnode_cache = '1M'", "store = 'file:/b'"]);
        let config = config.unwrap();
        assert_eq!((config.store.as_deref(), config.node_cache), (Some("file:/b"), Some(1 << 20)));
    }

    #[test]
    fn unknown_keys_are_warned_about_and_wrong_types_refused() {
        let (config, warnings) = merged(&["stroe = 'x'\n[serve]\nport = 1\n[other]\na = 1"]);
        assert_eq!(config.unwrap(), Config::default());
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        for bad in [
            "store = 1",
            "node_cache = '10KB'",
            "run_dir = 'run'",
            "ganeti = 1",
            "[ganeti]\npools = 'a'",
            "[ganeti]\nvolume_naming = 'both'",
            "[ganeti.pools]\na = 1",
            "node_cache = -1",
            "direct = 'yes'",
            "serve = 1",
            "[serve]\nnbd = [1]",
            "[serve]\ngc_interval = -1",
            "[serve]\nslow_io = '1'",
            "limits = 1",
            "[limits]\na = 1",
            "[limits.a]\niops = '1'",
            "[limits.a]\nbps = -1",
            "= 1",
        ] {
            let (config, _) = merged(&[bad]);
            assert!(matches!(config, Err(Failure::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn s59_root_refuses_a_file_that_others_can_write() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, "store = 'file:/a'").unwrap();
        for (mode, fine) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false), (0o666, false)] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let meta = std::fs::metadata(&path).unwrap();
            let owned = meta.uid() == 0;
            assert_eq!(check_owner(&path, &meta).is_ok(), fine && owned, "{mode:o}");
        }
    }

    #[test]
    fn a_named_file_must_exist() {
        let result = load(Some(Path::new("/nonexistent/archipelago.toml")), &mut |_| {});
        assert!(matches!(result, Err(e) if e.class().code() == 3));
    }
}
