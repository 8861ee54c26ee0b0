//! NBD over TLS: what the clients that people use see, and what a client gets that does not play along.
// Helpers outside of test functions may stop the test, too.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/memory_disk.rs"]
mod memory_disk;
#[path = "support/python.rs"]
mod python;
#[path = "support/raw_client.rs"]
mod raw_client;

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago_service::nbd::tls::{self, TlsError};
use archipelago_service::nbd::wire::{self, option, reply};
use archipelago_service::nbd::{Endpoint, Server, ServerOptions};
use certificates::Certificates;
use memory_disk::{MemoryDisk, MemoryExports};
use raw_client::{contexts, go, opt};

const MIB: u64 = 1 << 20;
/// Seconds after which a client counts as hung.
const PATIENCE: &str = "120";

struct Fixture {
    certificates: Certificates,
    server: Server,
    address: SocketAddr,
}

/// A server on TCP that asks clients for certificates, or does not.
fn serve(asks: bool) -> Fixture {
    serve_with(asks, ServerOptions::default())
}

fn serve_with(asks: bool, options: ServerOptions) -> Fixture {
    let certificates = Certificates::new();
    let tls = Some(tls::Config::load(&certificates.files(asks)).unwrap());
    let exports = MemoryExports::one(MemoryDisk::new(64 * MIB, false));
    let endpoint = Endpoint::Tcp { address: "127.0.0.1:0".parse().unwrap(), allow_remote: false };
    let server = Server::start(exports, &[endpoint], ServerOptions { tls, ..options }).unwrap();
    let Some(Endpoint::Tcp { address, .. }) = server.endpoints().pop() else { panic!("no address") };
    Fixture { certificates, server, address }
}

impl Fixture {
    /// For clients of libnbd with the certificates in a directory.
    fn uri(&self, who: &str) -> String {
        format!("nbds://{}/disk?tls-certificates={}", self.address, self.certificates.client(who).display())
    }

    fn connect(&self) -> Raw {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut raw = Raw(stream);
        assert_eq!(&raw.take(18)[..8], b"NBDMAGIC");
        raw.send(&3u32.to_be_bytes());
        raw
    }
}

/// A client that does not encrypt.
struct Raw(TcpStream);

impl Raw {
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn take(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The type and the text of the one answer to an option.
    fn ask(&mut self, code: u32, data: &[u8]) -> (u32, String) {
        self.send(&opt(code, data));
        let head = self.take(20);
        let field = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!((&head[..8], field(8)), (&wire::OPTION_REPLY_MAGIC.to_be_bytes()[..], code));
        let text = self.take(field(16) as usize);
        (field(12), String::from_utf8_lossy(&text).into_owned())
    }

    /// What comes until the server closes the connection.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest);
        rest
    }
}

/// Runs a client; whether it succeeded, and all that it printed.
fn outcome(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("timeout").arg(PATIENCE).arg(program).args(arguments).output().expect("timeout runs");
    assert!(output.status.code() != Some(127), "{program} is needed for this test: `make deps` installs it");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn run(program: &str, arguments: &[&str]) -> String {
    let (good, text) = outcome(program, arguments);
    assert!(good, "{program} {arguments:?}: {text}");
    text
}

/// An option of qemu's tools with the certificates of a client.
fn credentials(directory: &Path) -> String {
    format!("tls-creds-x509,id=tls,endpoint=client,dir={}", directory.display())
}

#[test]
fn libnbd_reads_and_writes_over_tls_with_a_certificate() {
    let fixture = serve(true);
    let text = run("nbdinfo", &[&fixture.uri("client")]);
    assert!(text.contains("with TLS") && text.contains("export-size: 67108864"), "{text}");
    let image = fixture.certificates.path("image");
    let data: Vec<u8> = (0..9 * MIB as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&image, &data).unwrap();
    let image = image.display().to_string();
    run("nbdcopy", &[&image, &fixture.uri("client")]);
    let back = fixture.certificates.path("back");
    run("nbdcopy", &[&fixture.uri("client"), &back.display().to_string()]);
    assert!(std::fs::read(&back).unwrap()[..data.len()] == data);
    let script = format!(
        "import nbd\n\
         h = nbd.NBD()\n\
         h.set_uri_allow_local_file(True)\n\
         h.add_meta_context('base:allocation')\n\
         h.connect_uri('{}')\n\
         assert h.get_tls_negotiated()\n\
         seen = []\n\
         h.block_status(h.get_size(), 0, lambda name, offset, entries, error: seen.extend(entries))\n\
         assert sum(seen[::2]) == h.get_size(), seen\n\
         h.pwrite(b'x' * 3000000, 12345)\n\
         h.flush()\n\
         assert h.pread(3000000, 12345) == b'x' * 3000000\n\
         h.shutdown()\n",
        fixture.uri("client")
    );
    run(python::interpreter(), &["-c", &script]);
}

#[test]
fn qemu_reads_and_writes_over_tls_with_a_certificate() {
    let fixture = serve(true);
    let object = credentials(&fixture.certificates.client("client"));
    let port = fixture.address.port();
    let disk =
        format!("driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={port},export=disk,tls-creds=tls");
    let commands =
        ["write -P 0x5a 1M 5M", "flush", "read -P 0x5a 1M 5M", "write -z 2M 1M", "read -P 0 2M 1M", "discard 8M 1M"];
    let mut arguments = vec!["--object", &object, "--image-opts", &disk];
    for command in &commands {
        arguments.extend(["-c", command]);
    }
    let text = run("qemu-io", &arguments);
    assert!(!text.contains("failed"), "{text}");
    let text = run("qemu-img", &["info", "--object", &object, "--image-opts", &disk]);
    assert!(text.contains("64 MiB"), "{text}");
    let out = fixture.certificates.path("out").display().to_string();
    run("qemu-img", &["convert", "--object", &object, "--image-opts", "-O", "raw", &disk, &out]);
    let image = std::fs::read(&out).unwrap();
    let mib = MIB as usize;
    assert!(image[mib..2 * mib].iter().all(|b| *b == 0x5a) && image[2 * mib..3 * mib].iter().all(|b| *b == 0));
}

#[test]
fn s55_a_client_needs_a_certificate_by_the_right_authority_that_has_not_expired() {
    let fixture = serve(true);
    for who in ["nobody", "stranger", "expired"] {
        let (good, text) = outcome("nbdinfo", &[&fixture.uri(who)]);
        assert!(!good, "{who}: {text}");
    }
    // Who does not offer TLS at all is told what to do.
    let (good, text) = outcome("qemu-img", &["info", &format!("nbd://{}/disk", fixture.address)]);
    assert!(!good && text.contains("answers encrypted clients only: use TLS"), "{text}");
    run("nbdinfo", &[&fixture.uri("client")]);
    // A server that asks nobody still encrypts.
    let open = serve(false);
    let text = run("nbdinfo", &[&open.uri("nobody")]);
    assert!(text.contains("with TLS"), "{text}");
    assert!(!outcome("nbdinfo", &[&format!("nbd://{}/disk", open.address)]).0);
}

#[test]
fn s51_nothing_is_answered_before_tls_but_how_to_begin_it() {
    let fixture = serve(true);
    let mut client = fixture.connect();
    for (code, data) in [
        (option::LIST, vec![]),
        (option::INFO, go("disk", &[])),
        (option::GO, go("disk", &[])),
        (option::STRUCTURED_REPLY, vec![]),
        (option::EXTENDED_HEADERS, vec![]),
        (option::SET_META_CONTEXT, contexts("disk", &[wire::BASE_ALLOCATION])),
        (12_345, vec![]),
    ] {
        assert_eq!(client.ask(code, &data).0, reply::ERR_TLS_REQD, "option {code}");
    }
    assert_eq!(client.ask(option::STARTTLS, &[0]).0, reply::ERR_INVALID);
    assert_eq!(client.ask(option::ABORT, &[]).0, reply::ACK);
    let mut client = fixture.connect();
    client.send(&opt(option::EXPORT_NAME, b"disk"));
    assert!(client.rest().is_empty(), "this option has no error, so the connection is closed");
}

#[test]
fn s51_what_is_sent_in_the_clear_after_starttls_is_never_an_option() {
    let fixture = serve(false);
    // Somebody on the way adds options to the packet that begins TLS.
    let mut client = fixture.connect();
    let mut both = opt(option::STARTTLS, &[]);
    both.extend(opt(option::LIST, &[]));
    both.extend(opt(option::GO, &go("disk", &[])));
    client.send(&both);
    let answers = client.rest();
    assert_eq!(answers[12..16], reply::ACK.to_be_bytes());
    let name = answers.windows(4).any(|w| w == b"disk");
    let others = answers[20..].windows(8).any(|w| w == wire::OPTION_REPLY_MAGIC.to_be_bytes());
    assert!(!name && !others, "{answers:x?}");
}

#[test]
fn s51_a_client_that_does_not_go_on_with_tls_is_closed_at_its_deadline() {
    let options = ServerOptions { negotiation_time: Duration::from_millis(400), ..ServerOptions::default() };
    let fixture = serve_with(true, options);
    for first in [&[][..], &[0x16], &[0x16, 3, 1, 0x40, 0]] {
        let mut client = fixture.connect();
        assert_eq!(client.ask(option::STARTTLS, &[]).0, reply::ACK);
        client.send(first);
        let begin = Instant::now();
        client.rest();
        assert!(begin.elapsed() < Duration::from_secs(10), "{first:x?}");
    }
    for cut in 0..16 {
        let mut client = fixture.connect();
        client.send(&opt(option::STARTTLS, &[])[..cut]);
    }
    let begin = Instant::now();
    while fixture.server.connections() > 0 {
        assert!(begin.elapsed() < Duration::from_secs(10), "a connection was left behind");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn s55_keys_that_others_can_use_and_files_that_do_not_fit_are_refused() {
    let certificates = Certificates::new();
    let files = certificates.files(true);
    for mode in [0o604, 0o620, 0o666] {
        std::fs::set_permissions(&files.key, Permissions::from_mode(mode)).unwrap();
        let refused = tls::Config::load(&files).unwrap_err();
        assert!(matches!(refused, TlsError::OpenKey(_)) && refused.to_string().contains("chmod 600"), "{refused}");
    }
    for mode in [0o600, 0o400, 0o640] {
        std::fs::set_permissions(&files.key, Permissions::from_mode(mode)).unwrap();
        tls::Config::load(&files).unwrap();
    }
    let client = certificates.client("client");
    let other = tls::Files { key: client.join("client-key.pem"), ..files.clone() };
    let text = tls::Config::load(&other).unwrap_err().to_string();
    assert!(text.contains("does not fit the certificate"), "{text}");
    let swapped = tls::Files { certificate: files.key.clone(), key: files.key.clone(), ..files.clone() };
    let text = tls::Config::load(&swapped).unwrap_err().to_string();
    assert!(text.contains("holds no certificate"), "{text}");
    let swapped = tls::Files { key: files.certificate.clone(), ..files.clone() };
    std::fs::set_permissions(&files.certificate, Permissions::from_mode(0o600)).unwrap();
    let text = tls::Config::load(&swapped).unwrap_err().to_string();
    assert!(text.contains("holds no private key"), "{text}");
    let missing = tls::Files { client_authorities: Some(certificates.path("missing")), ..files };
    assert!(matches!(tls::Config::load(&missing), Err(TlsError::Read { .. })));
}

#[test]
fn a_stop_answers_clients_over_tls_and_ends_them() {
    let fixture = serve(true);
    let uri = fixture.uri("client");
    let mut copy = Command::new(python::interpreter());
    copy.args([
        "-c",
        &format!(
            "import nbd\nh = nbd.NBD()\nh.set_uri_allow_local_file(True)\nh.connect_uri('{uri}')\nh.pwrite(b'x' * 100000, 0)\nprint('ready', flush=True)\n\
             import time\ntime.sleep(0.5)\ntry:\n  h.pread(1, 0)\n  print('answered')\nexcept nbd.Error:\n  print('ended')\n"
        ),
    ]);
    let mut client = copy.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut seen = [0; 6];
    client.stdout.as_mut().unwrap().read_exact(&mut seen).unwrap();
    let stopped = fixture.server.stop();
    assert_eq!((stopped.cut, stopped.stuck), (0, 0));
    let mut rest = String::new();
    client.stdout.as_mut().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest.trim(), "ended");
    client.wait().unwrap();
    let _kept = Arc::new(fixture.certificates);
}
