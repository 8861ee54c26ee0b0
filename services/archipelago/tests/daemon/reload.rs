//! A configuration that is read again: what changes, what stays, and what is refused.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use archipelago_service::nbd::wire::command;
use serde_json::{Value, json};

use crate::certificates::Certificates;
use crate::exposition::parse;
use crate::server::{Server, configure, site};

const CONFIG: &str = "[serve]\nnbd = 'unix:DIR/nbd.sock'\nmetrics = 'unix:DIR/metrics.sock'\n";

fn reload(server: &Server) -> std::process::Output {
    let file = server.site.text("a.toml");
    server.site.run(&["reload", "--config", &file, "--json"])
}

#[track_caller]
fn reloaded(server: &Server) -> Value {
    let output = reload(server);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(server: &Server) -> String {
    let output = reload(server);
    assert_ne!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn exports_come_and_go_and_connections_stay() {
    let server = Server::start(CONFIG, &[]);
    let mut client = server.client("nbd.sock", "disk-1");
    server.configure(
        "[serve]\nnbd = ['unix:DIR/other.sock']\nvhost_user = 'unix:DIR/vhost.sock=disk-2'\nmetrics = 'unix:DIR/metrics.sock'\n",
    );
    assert_eq!(reloaded(&server)["reloaded"][0]["pid"], json!(server.child.id()));
    assert!(!server.site.path("nbd.sock").exists(), "nobody new comes by what is gone");
    assert!(server.site.path("other.sock").exists() && server.site.path("vhost.sock").exists());
    client.request(command::READ, 0, 1, 0, 512);
    assert_eq!(client.simple(), (0, 1));
    client.take_vec(512);
    drop(server.client("other.sock", "disk-1"));
    // And back.
    server.configure(CONFIG);
    reloaded(&server);
    assert!(!server.site.path("other.sock").exists() && !server.site.path("vhost.sock").exists());
    drop(server.client("nbd.sock", "disk-2"));
    let page = parse(&server.page());
    assert_eq!(page.value("archipelago_config_reloads_total", &[("result", "success")]), 2.0);
    server.stop();
}

#[test]
fn a_configuration_that_is_wrong_is_refused_and_changes_nothing() {
    let server = Server::start(CONFIG, &[]);
    let mut client = server.client("nbd.sock", "disk-1");
    // Another server's socket, so that one of several cannot be had.
    let _taken = std::os::unix::net::UnixListener::bind(server.site.path("taken.sock")).unwrap();
    for (config, reason) in [
        ("[serve", "a.toml"),
        ("[serve]\nnbd = 5\n", "serve.nbd"),
        ("[serve]\n", "nothing to serve"),
        ("[serve]\nnbd = 'tcp:0.0.0.0:0'\n", "other machines"),
        ("[serve]\nnbd = ['unix:DIR/new.sock', 'unix:DIR/taken.sock']\n", "is listening there already"),
        (
            "[serve]\nnbd = 'unix:DIR/new.sock'\nvhost_user = 'unix:DIR/taken.sock=disk-1'\n",
            "is listening there already",
        ),
        ("[serve]\nnbd = 'unix:DIR/new.sock'\nvhost_user = 'unix:DIR/v.sock=no-such-disk'\n", "no-such-disk"),
        ("[serve]\nnbd = 'unix:DIR/new.sock'\nmetrics = 'unix:DIR/taken.sock'\n", "is listening there already"),
        ("[serve]\nnbd = 'unix:DIR/new.sock'\nlog_level = 'loud'\n", "loud"),
        ("[serve]\nnbd = 'unix:DIR/new.sock'\ntls_cert = 'DIR/none.pem'\ntls_key = 'DIR/none.pem'\n", "none.pem"),
    ] {
        server.configure(config);
        let message = refused(&server);
        assert!(message.contains(reason), "{config}: {message}");
        assert!(!server.site.path("new.sock").exists(), "{config}");
        // Those that were there serve on, old clients and new.
        client.request(command::READ, 0, 1, 0, 512);
        assert_eq!(client.simple(), (0, 1));
        client.take_vec(512);
        drop(server.client("nbd.sock", "disk-2"));
    }
    let page = parse(&server.page());
    assert_eq!(
        page.value("archipelago_config_reloads_total", &[("result", "failure")]),
        8.0,
        "two were no files that the command itself could read"
    );
    assert_eq!(page.value("archipelago_config_last_reload_successful", &[]), 0.0);
    // A file that root must not trust, by its mode.
    server.configure(CONFIG);
    reloaded(&server);
    assert_eq!(parse(&server.page()).value("archipelago_config_last_reload_successful", &[]), 1.0);
    server.stop();
}

#[test]
fn limits_log_and_jobs_follow_and_what_cannot_is_told() {
    let server = Server::start(CONFIG, &[]);
    let _client = server.client("nbd.sock", "disk-1");
    server.site.ok(&["limit", "disk-2", "--iops", "77"]);
    server.configure(&format!(
        "node_cache = '8M'\n{CONFIG}log_format = 'json'\ngc_interval = 1\n[limits.disk-1]\niops = 500\n[limits.disk-2]\niops = 5\n"
    ));
    let answer = reloaded(&server);
    let later = answer["reloaded"][0]["later"].as_array().unwrap();
    assert_eq!(later.len(), 1);
    assert!(later[0].as_str().unwrap().contains("node_cache"), "{later:?}");
    assert_eq!(server.site.json(&["limit", "disk-1"])["limits"]["iops"], 500);
    assert_eq!(server.site.json(&["limit", "disk-2"])["limits"]["iops"], 77, "what was set live stays");
    let line: Value = serde_json::from_str(&server.line_with("was read again")).unwrap();
    assert_eq!(line["level"], "info");
    crate::command_line::wait_for("a collection", || {
        parse(&server.page()).value("archipelago_job_runs_total", &[("job", "collector")]) > 0.0
    });
    server.stop();
}

#[test]
fn sighup_reads_it_again_too() {
    let server = Server::start(CONFIG, &[]);
    server.configure("[serve]\nnbd = 'unix:DIR/other.sock'\n");
    server.signal("-HUP");
    server.line_with("was read again");
    assert!(server.site.path("other.sock").exists() && !server.site.path("metrics.sock").exists());
    server.configure("[serve");
    server.signal("-HUP");
    server.line_with("the one before stays");
    drop(server.client("other.sock", "disk-1"));
    server.stop();
}

#[test]
fn a_reload_needs_a_server_and_may_name_it() {
    let server = Server::start(CONFIG, &[]);
    let file = server.site.text("a.toml");
    let pid = server.child.id().to_string();
    let text = server.site.ok(&["reload", "--config", &file, "--pid", &pid]);
    assert_eq!(text, format!("pid {pid}: the configuration was read again\n"));
    let other = server.site.run(&["reload", "--config", &file, "--pid", "1"]);
    assert_eq!(other.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&other.stderr).contains("no process 1"));
    server.stop();
    let site = site("");
    configure(&site, "");
    assert_eq!(site.run(&["reload", "--config", &site.text("a.toml")]).status.code(), Some(3));
}

/// Whether a client with these certificates may see the disk.
fn is_let_in(server: &Server, certificates: &Certificates, who: &str) -> bool {
    let address = server.announced[0].strip_prefix("nbds://").unwrap().strip_suffix("/NAME").unwrap().to_string();
    let uri = format!("nbds://{address}/disk-1?tls-certificates={}", certificates.client(who).display());
    let output = Command::new("timeout").args(["120", "nbdinfo", &uri]).output().unwrap();
    assert_ne!(output.status.code(), Some(127), "nbdinfo is needed for this test: `make deps` installs it");
    output.status.success()
}

#[test]
fn certificates_are_read_again_without_cutting_anybody_off() {
    let certificates = Certificates::new();
    let path = |name: &str| certificates.path(name).display().to_string();
    let config = |authority: &str| {
        format!(
            "[serve]\nnbd = 'tcp:127.0.0.1:0'\ntls_cert = '{}'\ntls_key = '{}'\ntls_client_ca = '{}'\n",
            path("server.pem"),
            path("server.key"),
            path(authority)
        )
    };
    let server = Server::start(&config("ca.pem"), &[]);
    assert!(is_let_in(&server, &certificates, "client") && !is_let_in(&server, &certificates, "stranger"));
    let address = server.announced[0].strip_prefix("nbds://").unwrap().strip_suffix("/NAME").unwrap().to_string();
    let uri = format!("nbds://{address}/disk-1?tls-certificates={}", certificates.client("client").display());
    let script = format!(
        "import nbd, sys\nh = nbd.NBD()\nh.set_uri_allow_local_file(True)\nh.connect_uri('{uri}')\n\
         h.pwrite(b'a' * 512, 0)\nprint('connected', flush=True)\nsys.stdin.readline()\n\
         assert h.pread(512, 0) == b'a' * 512\nh.shutdown()\nprint('served', flush=True)\n"
    );
    let mut python = Command::new(crate::python::interpreter())
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(python.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "connected");

    // The same files with other contents, and another authority.
    server.configure(&config("other.pem"));
    reloaded(&server);
    assert!(!is_let_in(&server, &certificates, "client") && is_let_in(&server, &certificates, "stranger"));
    python.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(lines.next().unwrap(), "served");
    assert!(python.wait().unwrap().success());

    // An address that others reach must not lose its certificates.
    server.configure(&config("nowhere.pem"));
    assert!(refused(&server).contains("nowhere.pem"));
    assert!(is_let_in(&server, &certificates, "stranger"));
    server.stop();
}
