//! `serve`: the node daemon. Opens the store, serves its volumes as network block devices and to virtual machines, reads its configuration
//! again when it is asked to, stops in good order.
//!
//! | File | Its job |
//! |---|---|
//! | `plan` | what is to be done, by flags and configuration |
//! | `running` | what does it, and how it goes over to another plan |
//! | `events` | signals, and questions of other processes |

mod events;
mod plan;
mod running;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use archipelago_core::Location;
use serde_json::json;
use tracing::info;

use self::events::{Event, Events};
pub use self::events::{Question, Reloaded};
use self::plan::Plan;
use self::running::Running;
use super::super::args::Serve;
use super::super::exit::Failure;
use super::super::{Context, note};
use crate::config::{self, Config, EVERY};
use crate::disk::gauges::Policy;
use crate::hasher::HashPlan;
use crate::log;
use crate::nbd::{Endpoint, tls};
use crate::notify::Manager;
use crate::vhost_user::Attachment;

/// Milliseconds from which on a request is slow, unless the configuration says otherwise: a disk that works does none.
const SLOW_IO: u64 = 1000;

/// `serve`
pub fn run(context: &mut Context, args: &Serve) -> Result<(), Failure> {
    let plan = Plan::new(args, context.config())?;
    log::set(plan.log);
    crate::nbd::share_heaps();
    // Before anything is announced: a signal that comes as soon as we are ready must find its handler.
    let events = Events::begin()?;
    let manager = Manager::from_environment();
    let store = context.store()?;
    let backend = match context.location()? {
        Location::File(_) => "file",
        Location::Rados(_) => "rados",
    };
    let (encrypted, attachments) = (plan.tls.is_some(), plan.attachments.clone());
    let mut running = Running::start(store.clone(), backend, plan)?;
    events.answer_for(&store, &running.exports);
    drop(store);
    let pid_file = args.pid_file.as_ref().or(context.config().pid_file.as_ref());
    let _pid_file = pid_file.map(|path| PidFile::create(path)).transpose()?;
    let uris: Vec<String> = running.endpoints().iter().map(|endpoint| uri(endpoint, encrypted)).collect();
    if let Some(endpoint) = running.metrics() {
        info!(%endpoint, "figures are at /metrics");
    }
    announce(context, args, &uris, &attachments)?;
    manager.ready();

    let file = context.config_file().map(Path::to_path_buf);
    loop {
        match events.next(manager.pause()) {
            None => manager.alive(),
            Some(Event::Reload(asker)) => {
                manager.reloading();
                let read = || Plan::new(args, &config::load(file.as_deref(), &mut |warning| note(&warning))?);
                let outcome = running.reload(read).map_err(|failure| failure.to_string());
                // Who asked may have given up.
                asker.map(|asker| asker.send(outcome));
                manager.ready();
            }
            Some(Event::Stop(signal)) => {
                info!(signal, "finishing what is in flight; a second signal ends at once");
                break;
            }
        }
    }
    manager.stopping();
    running.stop();
    Ok(())
}

/// Limits of volumes, and from when on a request is slow.
pub(super) fn policy(config: &Config) -> Policy {
    Policy {
        limits: config.limits.clone().into_iter().collect(),
        default: config.limits.get(EVERY).copied().unwrap_or_default(),
        slow: Duration::from_millis(config.slow_io.unwrap_or(SLOW_IO)),
        standby: None,
    }
}

/// How snapshots are hashed in the background. Not at all unless it is asked for: everything is read once for it.
fn hash_plan(args: &Serve, config: &Config) -> Option<HashPlan> {
    let interval = args.hash_interval.or(config.hash_interval).unwrap_or(0);
    HashPlan::new(interval, args.hash_rate.or(config.hash_rate), args.hash_age.or(config.hash_age))
}

/// Reads `unix:/PATH` or `tcp:ADDRESS:PORT`.
fn endpoint(text: &str, args: &Serve) -> Result<Endpoint, Failure> {
    let refuse = |reason: &str| Err(Failure::Usage(format!("--nbd {text}: {reason}")));
    match text.split_once(':') {
        Some(("unix", path)) if Path::new(path).is_absolute() => {
            Ok(Endpoint::Unix { path: PathBuf::from(path), mode: args.socket_mode })
        }
        Some(("unix", _)) => refuse("the path of a socket starts with /"),
        Some(("tcp", address)) => match address.parse::<SocketAddr>() {
            Ok(address) => Ok(Endpoint::Tcp { address, allow_remote: args.allow_remote }),
            Err(_) => refuse("write a numeric address and a port, for example tcp:127.0.0.1:10809"),
        },
        _ => refuse("write unix:/PATH or tcp:ADDRESS:PORT"),
    }
}

/// Files for TLS, each from its flag or the configuration; `None` without any.
fn tls_files(args: &Serve, config: &Config) -> Result<Option<tls::Files>, Failure> {
    let one = |flag: &Option<PathBuf>, key: &Option<PathBuf>| flag.as_ref().or(key.as_ref()).cloned();
    let certificate = one(&args.tls_cert, &config.tls_cert);
    let key = one(&args.tls_key, &config.tls_key);
    let client_authorities = one(&args.tls_client_ca, &config.tls_client_ca);
    match (certificate, key, client_authorities) {
        (None, None, None) => Ok(None),
        (Some(certificate), Some(key), client_authorities) => {
            Ok(Some(tls::Files { certificate, key, client_authorities }))
        }
        _ => Err(Failure::Usage("TLS needs a certificate and its key: --tls-cert and --tls-key".into())),
    }
}

/// Reads `unix:/PATH=NAME`.
fn attachment(text: &str, args: &Serve) -> Result<Attachment, Failure> {
    // Names have no `=` at which they could be cut wrongly, paths may.
    let parts = text.strip_prefix("unix:").and_then(|rest| rest.rsplit_once('='));
    match parts {
        Some((path, name)) if Path::new(path).is_absolute() && !name.is_empty() => Ok(Attachment {
            endpoint: Endpoint::Unix { path: PathBuf::from(path), mode: args.socket_mode },
            name: name.to_string(),
        }),
        _ => Err(Failure::Usage(format!("--vhost-user {text}: write unix:/PATH=NAME"))),
    }
}

/// How clients name a volume; NAME stands for its name.
fn uri(endpoint: &Endpoint, encrypted: bool) -> String {
    match endpoint {
        Endpoint::Unix { path, .. } => format!("nbd+unix:///NAME?socket={}", percent_encoded(&path.to_string_lossy())),
        Endpoint::Tcp { address, .. } => format!("nbd{}://{address}/NAME", if encrypted { "s" } else { "" }),
    }
}

/// A path as a value in a query: what has a meaning there, and what is not printable ASCII, is encoded.
fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~@:+,=".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Prints where volumes are served, and tells whoever waits that they are.
fn announce(context: &mut Context, args: &Serve, uris: &[String], attachments: &[Attachment]) -> Result<(), Failure> {
    if context.out.json {
        let attached: Vec<_> = attachments
            .iter()
            .map(|attachment| json!({ "name": attachment.name, "socket": attachment.endpoint.to_string() }))
            .collect();
        let pid = std::process::id();
        context.out.document(&json!({ "ready": true, "pid": pid, "uris": uris, "vhost_user": attached }))?;
    } else {
        for uri in uris {
            context.out.line(uri)?;
        }
        for Attachment { endpoint, name } in attachments {
            context.out.line(&format!("vhost-user-blk {endpoint} {name}"))?;
        }
        if args.ready_fd.is_none() {
            context.out.line("ready")?;
        }
    }
    context.out.flush()?;
    if let Some(fd) = args.ready_fd {
        // Through /proc, so that no descriptor that belongs to somebody else in this process is ever closed.
        let path = format!("/proc/self/fd/{fd}");
        let written = OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(b"ready\n"));
        written.map_err(|e| Failure::host("write descriptor", fd, e))?;
    }
    Ok(())
}

/// A file that holds the process id while the daemon runs.
struct PidFile(PathBuf);

impl PidFile {
    /// Written under another name first, so that nobody reads half a number and no link in a shared directory is followed.
    fn create(path: &Path) -> Result<PidFile, Failure> {
        let failed = |e| Failure::host("write", path.display(), e);
        let mut name = path.as_os_str().to_os_string();
        name.push(format!(".{}.new", std::process::id()));
        let new = PathBuf::from(name);
        let written = File::create_new(&new).and_then(|mut file| {
            writeln!(file, "{}", std::process::id())?;
            fs::rename(&new, path)
        });
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written.map_err(failed)?;
        Ok(PidFile(path.to_path_buf()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Another daemon may have been started over it; then the file is its own.
        let ours = format!("{}\n", std::process::id());
        if fs::read_to_string(&self.0).is_ok_and(|text| text == ours) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn args() -> Serve {
        Serve {
            nbd: vec![],
            vhost_user: vec![],
            socket_mode: 0o600,
            allow_remote: false,
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            pid_file: None,
            scrub_rate: None,
            ready_fd: None,
            hash_interval: None,
            hash_rate: None,
            hash_age: None,
            standby: None,
            metrics: None,
            metrics_allow_remote: false,
            log_format: None,
            log_level: None,
        }
    }

    #[test]
    fn addresses_become_uris() {
        for (text, expected) in [
            ("unix:/run/a.sock", "nbd+unix:///NAME?socket=/run/a.sock"),
            ("unix:/run/a b&c.sock", "nbd+unix:///NAME?socket=/run/a%20b%26c.sock"),
            ("tcp:127.0.0.1:10809", "nbd://127.0.0.1:10809/NAME"),
            ("tcp:[::1]:10809", "nbd://[::1]:10809/NAME"),
        ] {
            let endpoint = endpoint(text, &args()).unwrap();
            assert_eq!(uri(&endpoint, false), expected);
            assert_eq!(uri(&endpoint, true), expected.replace("nbd://", "nbds://"));
        }
        for bad in ["", "unix:", "unix:relative", "tcp:", "tcp:127.0.0.1", "tcp:localhost:1", "http://a", "/run/a.sock"]
        {
            assert!(matches!(endpoint(bad, &args()), Err(Failure::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn disks_are_attached_by_socket_and_name() {
        let attached = attachment("unix:/run/a=b.sock=disk-1", &args()).unwrap();
        assert_eq!(attached.name, "disk-1");
        assert_eq!(attached.endpoint, Endpoint::Unix { path: "/run/a=b.sock".into(), mode: 0o600 });
        for bad in
            ["", "unix:", "unix:/run/a.sock", "unix:/run/a.sock=", "unix:a.sock=disk-1", "tcp:127.0.0.1:1=disk-1"]
        {
            assert!(matches!(attachment(bad, &args()), Err(Failure::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn flags_win_over_the_configuration_and_nothing_is_hashed_unasked() {
        assert_eq!(hash_plan(&args(), &Config::default()), None);
        let config = Config { hash_interval: Some(60), hash_rate: Some(7), ..Config::default() };
        assert_eq!(hash_plan(&args(), &config), HashPlan::new(60, Some(7), None));
        let flags = Serve { hash_interval: Some(5), hash_age: Some(9), ..args() };
        assert_eq!(hash_plan(&flags, &config), HashPlan::new(5, Some(7), Some(9)));
        assert_eq!(hash_plan(&Serve { hash_interval: Some(0), ..args() }, &config), None);
    }

    #[test]
    fn tls_needs_a_certificate_and_its_key_wherever_they_are_named() {
        let file = |name: &str| Some(PathBuf::from(name));
        assert_eq!(tls_files(&args(), &Config::default()).unwrap(), None);
        let config = Config { tls_key: file("k"), tls_client_ca: file("ca"), ..Config::default() };
        assert!(matches!(tls_files(&args(), &config), Err(Failure::Usage(_))));
        let flags = Serve { tls_cert: file("c"), ..args() };
        assert!(matches!(tls_files(&flags, &Config::default()), Err(Failure::Usage(_))));
        let (certificate, key) = ("c".into(), "k".into());
        let expected = tls::Files { certificate, key, client_authorities: file("ca") };
        assert_eq!(tls_files(&flags, &config).unwrap(), Some(expected));
    }

    #[test]
    fn a_pid_file_lives_as_long_as_its_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pid");
        let file = PidFile::create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        let file = PidFile::create(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert!(path.exists(), "it belongs to another process now");
    }
}
