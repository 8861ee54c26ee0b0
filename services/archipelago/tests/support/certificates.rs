//! Certificates for a server on 127.0.0.1 and its clients, made by openssl.
#![allow(dead_code, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;

use archipelago_service::nbd::tls::Files;

/// A directory with an authority, a server, and a directory for each client, as GnuTLS' and libnbd's clients want it: `client` has what it
/// needs, `stranger` has a certificate by another authority, that of `expired` is over, `nobody` has none.
pub struct Certificates(tempfile::TempDir);

impl Certificates {
    pub fn new() -> Certificates {
        let made = Certificates(tempfile::tempdir().unwrap());
        made.authority("ca");
        made.authority("other");
        made.signed("server", "ca", "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n", "30");
        for (who, by, days) in [("client", "ca", "30"), ("stranger", "other", "30"), ("expired", "ca", "-1")] {
            made.signed(who, by, "extendedKeyUsage=clientAuth\n", days);
        }
        for who in ["client", "stranger", "expired", "nobody"] {
            let dir = made.client(who);
            std::fs::create_dir(&dir).unwrap();
            std::fs::copy(made.path("ca.pem"), dir.join("ca-cert.pem")).unwrap();
            if who != "nobody" {
                std::fs::rename(made.path(&format!("{who}.pem")), dir.join("client-cert.pem")).unwrap();
                std::fs::rename(made.path(&format!("{who}.key")), dir.join("client-key.pem")).unwrap();
            }
        }
        made
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The directory of a client.
    pub fn client(&self, who: &str) -> PathBuf {
        self.path(&format!("for-{who}"))
    }

    /// What the server needs.
    pub fn files(&self, asks_clients: bool) -> Files {
        let client_authorities = asks_clients.then(|| self.path("ca.pem"));
        Files { certificate: self.path("server.pem"), key: self.path("server.key"), client_authorities }
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl").args(arguments).current_dir(self.0.path()).output();
        let output = output.expect("openssl is needed for this test: apt-get install openssl");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn key(&self, name: &str) -> String {
        let key = format!("{name}.key");
        self.openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key]);
        assert!(Path::new(&self.path(&key)).exists());
        key
    }

    fn authority(&self, name: &str) {
        let key = self.key(name);
        let (subject, out) = (format!("/CN=authority {name}"), format!("{name}.pem"));
        self.openssl(&["req", "-x509", "-new", "-key", &key, "-subj", &subject, "-days", "30", "-out", &out]);
    }

    fn signed(&self, name: &str, by: &str, extensions: &str, days: &str) {
        let key = self.key(name);
        let (request, extra, out) = (format!("{name}.csr"), format!("{name}.ext"), format!("{name}.pem"));
        std::fs::write(self.path(&extra), extensions).unwrap();
        self.openssl(&["req", "-new", "-key", &key, "-subj", &format!("/CN={name}"), "-out", &request]);
        let (authority, authority_key) = (format!("{by}.pem"), format!("{by}.key"));
        let mut arguments = vec!["x509", "-req", "-in", &request, "-CA", &authority, "-CAkey", &authority_key];
        arguments.extend(["-CAcreateserial", "-days", days, "-extfile", &extra, "-out", &out]);
        self.openssl(&arguments);
    }
}
