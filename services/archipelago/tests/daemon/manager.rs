//! What a service manager is told.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::server::{Server, site};

#[test]
fn a_manager_hears_ready_reloading_stopping_and_that_the_daemon_lives() {
    let site = site("[serve]\nnbd = 'unix:DIR/nbd.sock'\n");
    let heard = UnixDatagram::bind(site.path("notify")).unwrap();
    heard.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let next = || {
        let mut buf = [0; 200];
        let n = heard.recv(&mut buf).unwrap();
        String::from_utf8_lossy(&buf[..n]).into_owned()
    };
    let socket = site.text("notify");
    let server = Server::start_at(site, &[], &[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", "200000")]);
    assert!(next().starts_with("READY=1\n"));
    assert_eq!(next(), "WATCHDOG=1\n");
    server.signal("-HUP");
    let skipping = || loop {
        let text = next();
        if text != "WATCHDOG=1\n" {
            return text;
        }
    };
    assert!(skipping().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(skipping().starts_with("READY=1\n"));
    server.signal("-TERM");
    assert!(skipping().starts_with("STOPPING=1\n"));
    drop(server);
}
