//! A server with a configuration file of its own.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use archipelago_service::nbd::wire::{option, reply};

use crate::command_line::{Site, wait_for};
use crate::raw_client::{Client, go};

pub struct Server {
    pub site: Site,
    pub child: Child,
    /// Lines of standard error so far.
    pub log: Arc<Mutex<Vec<String>>>,
    /// What it announced.
    pub announced: Vec<String>,
    reader: Option<JoinHandle<()>>,
}

/// A store with two volumes, and a configuration.
pub fn site(config: &str) -> Site {
    let site = Site::new();
    for name in ["disk-1", "disk-2"] {
        site.ok(&["create", name, "--size", "8M"]);
    }
    configure(&site, config);
    site
}

pub fn configure(site: &Site, config: &str) {
    std::fs::write(site.path("a.toml"), config.replace("DIR", &site.text(""))).unwrap();
}

impl Server {
    pub fn start(config: &str, arguments: &[&str]) -> Server {
        Server::start_at(site(config), arguments, &[])
    }

    pub fn start_at(site: Site, arguments: &[&str], environment: &[(&str, &str)]) -> Server {
        let file = site.text("a.toml");
        let arguments = [&["serve", "--config", &file], arguments].concat();
        let mut child = site
            .command(&arguments)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (log, stderr) = (Arc::new(Mutex::new(Vec::new())), child.stderr.take().unwrap());
        let lines = log.clone();
        let reader = std::thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| lines.lock().unwrap().push(line));
        });
        let mut announced = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            if line == "ready" {
                break;
            }
            announced.push(line);
        }
        Server { site, child, log, announced, reader: Some(reader) }
    }

    pub fn configure(&self, config: &str) {
        configure(&self.site, config);
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    pub fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// The first line of the log with this text.
    pub fn line_with(&self, text: &str) -> String {
        let mut found = None;
        wait_for(&format!("{text:?} in the log"), || {
            found = self.lines().into_iter().find(|line| line.contains(text));
            found.is_some()
        });
        found.unwrap()
    }

    /// A client with a disk open, over the socket of this name.
    pub fn client(&self, socket: &str, disk: &str) -> Client {
        let mut client = Client(UnixStream::connect(self.site.path(socket)).unwrap());
        client.greet(3);
        assert_eq!(client.ask(option::GO, &go(disk, &[])).last().unwrap().0, reply::ACK);
        client
    }

    /// What is answered on the socket for figures.
    pub fn page(&self) -> String {
        use std::io::Write;
        let mut stream = UnixStream::connect(self.site.path("metrics.sock")).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("version=0.0.4"), "{head}");
        body.to_string()
    }

    /// Ends it in good order, and returns its log.
    pub fn stop(mut self) -> Vec<String> {
        self.signal("-TERM");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        self.reader.take().unwrap().join().unwrap();
        self.lines()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed leaves no process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
