//! The configuration files, and what they point at.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::Findings;
use crate::cli::exit::Failure;
use crate::config::{self, Config};

/// Reads the configuration; what is wrong with it is a finding.
pub fn load(named: Option<&Path>, findings: &mut Findings) -> Config {
    let mut warnings = Vec::new();
    let loaded = config::load(named, &mut |warning| warnings.push(warning));
    for warning in warnings {
        findings.note("configuration", warning, "docs/cli.md lists the keys that count");
    }
    match loaded {
        Ok(config) => config,
        Err(failure) => {
            let advice = match failure {
                Failure::Usage(_) => "correct the file; docs/cli.md lists the keys",
                _ => "name another file with --config, or let this user read it",
            };
            findings.error("configuration", failure.to_string(), advice);
            Config::default()
        }
    }
}

/// Looks at what it points at.
pub fn examine(config: &Config, findings: &mut Findings) {
    let sockets = config.nbd.iter().filter_map(|text| text.strip_prefix("unix:"));
    let attached = config.vhost_user.iter().filter_map(|text| text.strip_prefix("unix:"));
    let attached = attached.filter_map(|text| text.rsplit_once('=')).map(|(path, _)| path);
    for path in sockets.chain(attached) {
        socket(Path::new(path), findings);
    }
    for text in &config.nbd {
        let known = text.starts_with("unix:/")
            || text.strip_prefix("tcp:").is_some_and(|a| a.parse::<std::net::SocketAddr>().is_ok());
        if !known {
            let what = format!("serve.nbd: {text:?} is no address");
            findings.error("configuration", what, "write unix:/PATH or tcp:ADDRESS:PORT with a numeric address");
        }
    }
    if let Some(path) = &config.pid_file
        && let Ok(text) = fs::read_to_string(path)
        && !text.trim().parse::<u32>().is_ok_and(|pid| Path::new("/proc").join(pid.to_string()).exists())
    {
        let what = format!("{}: names a process that is gone", path.display());
        findings.warning("pid-file", what, "nothing has to be done: the next `archipelago serve` writes it anew");
    }
}

/// A socket that is there, and nobody listens on.
fn socket(path: &Path, findings: &mut Findings) {
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => findings.warning(
            "socket",
            format!("{}: nobody listens there: its server was killed", path.display()),
            "start `archipelago serve` again, which takes the socket over",
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => findings.warning(
            "socket",
            format!("{}: this user may not connect", path.display()),
            "see --socket-mode of `archipelago serve`",
        ),
        _ => {}
    }
    let Some(directory) = path.parent() else { return };
    if !directory.is_dir() {
        let what = format!("{}: its directory is not there", path.display());
        findings.error(
            "socket",
            what,
            format!("make {}, or `RuntimeDirectory=` in the unit of the service", directory.display()),
        );
    }
}
