//! `serve`: the node daemon. Opens the store, serves its volumes as network block devices and to virtual machines, stops in good
//! order.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::json;
use signal_hook::flag;
use signal_hook::iterator::Signals;

use super::super::Context;
use super::super::args::Serve;
use super::super::exit::Failure;
use super::super::interrupt::SIGNALS;
use crate::collector::Collector;
use crate::config::{Config, EVERY};
use crate::disk::gauges::Policy;
use crate::disk::volumes::StoreExports;
use crate::hasher::{HashPlan, Hasher};
use crate::nbd::{Endpoint, Server, ServerOptions, tls};
use crate::scrubber::Scrubber;
use crate::vhost_user::{self, Attachment};

/// Milliseconds from which on a request is slow, unless the configuration says otherwise: a disk that works does none.
const SLOW_IO: u64 = 1000;

/// `serve`
pub fn run(context: &mut Context, args: &Serve) -> Result<(), Failure> {
    let addresses = if args.nbd.is_empty() { context.config().nbd.clone() } else { args.nbd.clone() };
    let endpoints = addresses.iter().map(|text| endpoint(text, args)).collect::<Result<Vec<_>, _>>()?;
    let attached =
        if args.vhost_user.is_empty() { context.config().vhost_user.clone() } else { args.vhost_user.clone() };
    let attachments = attached.iter().map(|text| attachment(text, args)).collect::<Result<Vec<_>, _>>()?;
    if endpoints.is_empty() && attachments.is_empty() {
        let reason = "nothing to serve; use --nbd unix:/PATH or --nbd tcp:127.0.0.1:10809, or --vhost-user unix:/PATH=NAME, or set \
                      serve.nbd or serve.vhost_user in the configuration";
        return Err(Failure::Usage(reason.into()));
    }
    let tls = tls_files(args, context.config())?.map(|files| tls::Config::load(&files)).transpose()?;
    crate::nbd::share_heaps();
    // Before anything is announced: a signal that comes as soon as we are ready must find its handler.
    let mut signals = watch_signals()?;
    let store = context.store()?;
    let policy = Policy { standby: args.standby, ..policy(context.config()) };
    let exports = Arc::new(StoreExports::with_policy(store.clone(), None, policy));
    for attachment in &attachments {
        // A wrong name is said now, and not to a guest later.
        store.info(&attachment.name)?;
    }
    let machines = vhost_user::Server::start(exports.clone(), &attachments)?;
    let encrypted = tls.is_some();
    let server = Server::start(exports.clone(), &endpoints, ServerOptions { tls, ..ServerOptions::default() })?;
    let pid_file = args.pid_file.as_ref().or(context.config().pid_file.as_ref());
    let _pid_file = pid_file.map(|path| PidFile::create(path)).transpose()?;
    let uris: Vec<String> = server.endpoints().iter().map(|endpoint| uri(endpoint, encrypted)).collect();
    announce(context, args, &uris, &attachments)?;
    let hasher = plan(args, context.config()).map(|plan| Hasher::start(store.clone(), plan)).transpose()?;
    let collector = Collector::start(store.clone(), context.config())?;
    let scrubber = Scrubber::start(store, context.config(), args.scrub_rate)?;

    let signal = signals.forever().next();
    if let Some(signal) = signal {
        context.note(&format!("signal {signal}: finishing what is in flight; a second one ends at once"));
    }
    drop((hasher, collector, scrubber));
    exports.end_waits();
    drop(exports);
    for name in machines.stop() {
        context.note(&format!("{name}: requests of a virtual machine did not end in time"));
    }
    let stopped = server.stop();
    if stopped.cut > 0 {
        context.note(&format!("{} clients did not finish in time and were cut off", stopped.cut));
    }
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
fn plan(args: &Serve, config: &Config) -> Option<HashPlan> {
    let interval = args.hash_interval.or(config.hash_interval).unwrap_or(0);
    HashPlan::new(interval, args.hash_rate.or(config.hash_rate), args.hash_age.or(config.hash_age))
}

/// The first signal arrives in the iterator, the second ends the process.
fn watch_signals() -> Result<Signals, Failure> {
    let failed = |e| Failure::host("register", "a signal handler", e);
    let asked = Arc::new(AtomicBool::new(false));
    for signal in SIGNALS {
        flag::register_conditional_shutdown(signal, 128 + signal, asked.clone()).map_err(failed)?;
        flag::register(signal, asked.clone()).map_err(failed)?;
    }
    Signals::new(SIGNALS).map_err(failed)
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

    fn args() -> Serve {
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
        assert_eq!(plan(&args(), &Config::default()), None);
        let config = Config { hash_interval: Some(60), hash_rate: Some(7), ..Config::default() };
        assert_eq!(plan(&args(), &config), HashPlan::new(60, Some(7), None));
        let flags = Serve { hash_interval: Some(5), hash_age: Some(9), ..args() };
        assert_eq!(plan(&flags, &config), HashPlan::new(5, Some(7), Some(9)));
        assert_eq!(plan(&Serve { hash_interval: Some(0), ..args() }, &config), None);
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
