//! Tells a service manager how a daemon is: datagrams to the socket that `NOTIFY_SOCKET` names, as systemd reads them. Without one, nobody is told.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that the daemon lives.
    watchdog: Option<Duration>,
}

impl Manager {
    /// As the environment says.
    pub fn from_environment() -> Manager {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let number = |name| variable(name).and_then(|value: OsString| value.to_str()?.parse::<u64>().ok());
        let Some(path) = variable("NOTIFY_SOCKET") else { return Manager::default() };
        let socket = address(path.as_bytes()).and_then(|address| Ok((UnixDatagram::unbound()?, address)));
        if let Err(error) = &socket {
            tracing::warn!(%error, "the service manager cannot be told anything");
        }
        // The watchdog may be meant for another process of the unit.
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0).map(Duration::from_micros);
        Manager { socket: socket.ok(), watchdog }
    }

    /// How long to wait at most until [`Manager::alive`]: half of what it waits.
    pub fn pause(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }

    /// The daemon serves.
    pub fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving\n");
    }

    /// The daemon reads its configuration; [`Manager::ready`] is next.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}\n", now.as_micros()));
    }

    /// The daemon ends.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=finishing what is in flight\n");
    }

    /// The daemon lives.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            self.tell("WATCHDOG=1\n");
        }
    }

    fn tell(&self, text: &str) {
        // A manager that does not listen any more has no more use for it.
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
    }
}

/// A path, or a name without one that begins with `@`.
fn address(path: &[u8]) -> io::Result<SocketAddr> {
    match path {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "NOTIFY_SOCKET is neither a path nor an abstract name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_of_each_state_in_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        let next = || {
            let mut buf = [0; 200];
            let n = heard.recv(&mut buf).unwrap();
            String::from_utf8(buf[..n].to_vec()).unwrap()
        };
        let socket = Some((UnixDatagram::unbound().unwrap(), address(path.as_os_str().as_bytes()).unwrap()));
        let manager = Manager { socket, watchdog: Some(Duration::from_secs(4)) };
        assert_eq!(manager.pause(), Some(Duration::from_secs(2)));
        manager.ready();
        assert!(next().starts_with("READY=1\n"));
        manager.reloading();
        let text = next();
        let micros = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
        assert!(micros.parse::<u64>().unwrap() > 0);
        manager.alive();
        assert_eq!(next(), "WATCHDOG=1\n");
        manager.stopping();
        assert!(next().starts_with("STOPPING=1\n"));
        // One that is gone is no error.
        drop(heard);
        manager.ready();
    }

    #[test]
    fn sockets_are_paths_or_abstract_names() {
        assert_eq!(address(b"@a").unwrap().as_abstract_name(), Some(b"a".as_slice()));
        assert!(address(b"/run/a").unwrap().as_pathname().is_some());
        assert!(address(b"vsock:2:1").is_err() && address(b"").is_err());
    }
}
