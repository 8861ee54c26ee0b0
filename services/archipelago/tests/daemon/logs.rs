//! What is written, and what never is.

use serde_json::Value;

use crate::server::{Server, configure, site};

const CONFIG: &str = "[serve]\nnbd = 'unix:DIR/nbd.sock'\nslow_io = 0\n";

#[test]
fn lines_are_text_logfmt_or_json_by_flag_and_by_configuration() {
    let text = Server::start(CONFIG, &[]).stop();
    assert_eq!(text, ["archipelago: finishing what is in flight; a second signal ends at once signal=15"]);

    let logfmt = Server::start(CONFIG, &["--log-format", "logfmt"]).stop();
    let line = logfmt.last().unwrap();
    assert!(line.starts_with("ts=2") && line.contains("Z level=info msg=\"finishing what is in flight; "), "{line}");
    assert!(line.ends_with(" signal=15"), "{line}");

    let json = Server::start(&format!("{CONFIG}log_format = 'json'\n"), &[]).stop();
    let line: Value = serde_json::from_str(json.last().unwrap()).unwrap();
    assert_eq!((&line["level"], &line["signal"]), (&Value::from("info"), &Value::from(15)));

    assert!(Server::start(CONFIG, &["--log-level", "warn"]).stop().is_empty());
}

#[test]
fn s11_no_key_is_ever_in_the_log() {
    let site = site("");
    // A key with something wrong in it is what an error might quote.
    let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQ";
    let key = format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n");
    std::fs::write(site.path("key.pem"), &key).unwrap();
    std::fs::write(site.path("cert.pem"), &key).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(site.path("key.pem"), mode).unwrap();
    configure(&site, CONFIG);
    let server = Server::start_at(site, &["--log-level", "debug"], &[]);
    server.configure(&format!("{CONFIG}tls_cert = 'DIR/cert.pem'\ntls_key = 'DIR/key.pem'\n"));
    let file = server.site.text("a.toml");
    let output = server.site.run(&["reload", "--config", &file]);
    assert_eq!(output.status.code(), Some(2));
    server.line_with("refused");
    let log = server.stop().join("\n") + &String::from_utf8_lossy(&output.stderr);
    assert!(!log.contains(secret) && log.contains("cert.pem"), "{log}");
}
