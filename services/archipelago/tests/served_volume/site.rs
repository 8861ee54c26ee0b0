//! A store in a temporary directory, its command, its server, and clients of it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use archipelago_service::nbd::wire::{command, option, reply};
use serde_json::Value;
use tempfile::TempDir;

use crate::raw_client::{self, go};

pub const MIB: u64 = 1 << 20;
/// Longest wait for another process; far above what it takes, so that a loaded machine does not fail a test.
const PATIENCE: Duration = Duration::from_secs(120);
/// Largest single read of [`Client::read_all`] in bytes; the protocol's limit is 32 MiB.
const READ: u64 = 4 << 20;

/// A store.
pub struct Site {
    pub dir: TempDir,
}

impl Site {
    pub fn new() -> Site {
        let site = Site::without_store();
        site.ok(&["init"]);
        site
    }

    /// A store is still to be made.
    pub fn without_store() -> Site {
        Site { dir: TempDir::new().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn uri(&self, volume: &str) -> String {
        format!("nbd+unix:///{volume}?socket={}", self.text("nbd"))
    }

    /// The command; nothing of the machine's configuration is seen.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_archipelago"));
        command.args(arguments).args(["--store", &format!("file:{}", self.text("store"))]);
        command.env_remove("ARCHIPELAGO_STORE").env("XDG_CONFIG_HOME", self.path("xdg")).stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs it successfully, and returns what it printed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it with `--json`, and returns the document.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
    }

    /// Runs it, checks the exit code, and returns the error's text.
    #[track_caller]
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        message
    }

    /// Volumes that any process has open.
    pub fn open_volumes(&self) -> Vec<String> {
        let status = self.json(&["status"]);
        let processes = status["processes"].as_array().unwrap();
        let volumes = processes.iter().flat_map(|p| p["volumes"].as_array().unwrap());
        volumes.map(|v| v.as_str().unwrap_or_default().to_string()).collect()
    }

    /// A client may be gone before the server has heard of it, so this takes a moment.
    #[track_caller]
    pub fn wait_until_nothing_is_open(&self) {
        wait_for("all volumes to be closed", || self.open_volumes().is_empty());
    }

    /// Starts a server and waits until clients can connect.
    pub fn serve(&self) -> Server {
        self.serve_at("nbd")
    }

    pub fn serve_at(&self, socket: &str) -> Server {
        let mut server = self.start(socket);
        let line = server.wait_until_ready();
        assert!(line.contains("\"ready\""), "the server did not start: {line}{}", self.log());
        server
    }

    /// Starts one with these options.
    pub fn serve_with(&self, options: &[&str]) -> Server {
        let mut server = self.start_with("nbd", options);
        let line = server.wait_until_ready();
        assert!(line.contains("\"ready\""), "the server did not start: {line}{}", self.log());
        server
    }

    /// Starts a server, and does not wait.
    pub fn start(&self, socket: &str) -> Server {
        self.start_with(socket, &[])
    }

    /// Starts one with more options, and does not wait.
    pub fn start_with(&self, socket: &str, options: &[&str]) -> Server {
        let began = Instant::now();
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let address = format!("unix:{}", self.text(socket));
        let mut command = self.command(&[&["serve", "--json", "--nbd", &address], options].concat());
        let child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        Server { child, began, start: Duration::ZERO }
    }

    /// What servers had to say, for error messages.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).map_or(String::new(), |text| format!("\nthe server's log:\n{text}"))
    }

    /// A connection in transmission, or the server's reason to refuse it.
    pub fn connect(&self, volume: &str) -> Result<Client, String> {
        self.connect_at("nbd", volume)
    }

    pub fn connect_at(&self, socket: &str, volume: &str) -> Result<Client, String> {
        let stream = UnixStream::connect(self.path(socket)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = raw_client::Client(stream);
        client.greet(3);
        let (kind, text) = client.ask(option::GO, &go(volume, &[])).pop().unwrap();
        if kind == reply::ACK { Ok(Client(client)) } else { Err(String::from_utf8_lossy(&text).into_owned()) }
    }
}

/// A server's process. Killed if a test fails before it is stopped.
pub struct Server {
    child: Child,
    began: Instant,
    /// From its start to its readiness.
    pub start: Duration,
}

impl Server {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until clients can connect; returns the line that says so, or an empty one if it ended before.
    pub fn wait_until_ready(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.start = self.began.elapsed();
        line
    }

    pub fn kill(&mut self) {
        self.begin_kill();
        self.child.wait().unwrap();
    }

    /// It may take a while to die: as long as a call of the system is under way.
    pub fn begin_kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Asks it to stop, and does not wait.
    pub fn begin_stop(&mut self) {
        assert!(Command::new("kill").arg(self.id().to_string()).status().unwrap().success());
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Asks it to stop, and returns how it ended: its exit code, or 128 and the signal.
    pub fn stop(&mut self) -> i32 {
        self.begin_stop();
        wait_for("the server to stop", || self.has_ended());
        let ended = self.child.wait().unwrap();
        ended.code().unwrap_or_else(|| 128 + ended.signal().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that sends one request at a time.
pub struct Client(pub raw_client::Client);

impl Client {
    #[track_caller]
    fn done(&mut self) {
        let (error, _) = self.0.simple();
        assert_eq!(error, 0, "the server answered with an error");
    }

    #[track_caller]
    pub fn read(&mut self, offset: u64, len: u64) -> Vec<u8> {
        self.0.request(command::READ, 0, 1, offset, len as u32);
        self.done();
        self.0.take_vec(len as usize)
    }

    #[track_caller]
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        self.0.request(command::WRITE, 0, 1, offset, data.len() as u32);
        self.0.send(data);
        self.done();
    }

    #[track_caller]
    pub fn flush(&mut self) {
        self.0.request(command::FLUSH, 0, 1, 0, 0);
        self.done();
    }

    /// As [`Client::read_all`], but the server may refuse.
    pub fn try_read_all(&mut self, size: u64) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        for offset in (0..size).step_by(READ as usize) {
            let len = READ.min(size - offset);
            self.0.request(command::READ, 0, 1, offset, len as u32);
            match self.0.simple() {
                (0, _) => all.extend(self.0.take_vec(len as usize)),
                (error, _) => return Err(format!("reading {len} bytes at {offset}: error {error}")),
            }
        }
        Ok(all)
    }

    #[track_caller]
    pub fn read_all(&mut self, size: u64) -> Vec<u8> {
        self.try_read_all(size).unwrap()
    }
}

#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a client, which must be installed; returns whether it succeeded, and what it printed.
pub fn outcome(package: &str, program: &str, arguments: &[&str]) -> (bool, String) {
    let patience = PATIENCE.as_secs().to_string();
    let mut command = Command::new("timeout");
    // mke2fs is where users do not look for programs.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = command.arg(patience).arg(program).args(arguments).env("PATH", path).output().expect("timeout runs");
    let code = output.status.code();
    assert!(code != Some(127), "{program} is needed for this test: apt-get install {package}");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(code != Some(124), "{program} {arguments:?} hangs: {text}");
    (output.status.success(), text)
}

/// The same; it must succeed.
#[track_caller]
pub fn tool(package: &str, program: &str, arguments: &[&str]) -> String {
    let (success, text) = outcome(package, program, arguments);
    assert!(success, "{program} {arguments:?}: {text}");
    text
}

/// Runs a script with libnbd's module, whichever interpreter has it. The script finds the address in `uri`.
#[track_caller]
pub fn python(uri: &str, script: &str) -> String {
    let has_nbd =
        |python: &&str| Command::new(python).args(["-c", "import nbd"]).output().is_ok_and(|o| o.status.success());
    let python = ["python3", "/usr/bin/python3"].into_iter().find(has_nbd);
    let python = python.expect("Python's nbd module is needed for this test: apt-get install python3-libnbd");
    let head = "import nbd, sys\nuri = sys.argv[1]\n";
    tool("python3-libnbd", python, &["-c", &format!("{head}{script}"), uri])
}

/// The sum of a served disk, read by a client of its own.
pub fn sha256(uri: &str) -> String {
    let script = "exec nbdcopy -- \"$0\" - | sha256sum";
    assert!(outcome("libnbd-bin", "nbdcopy", &["--version"]).0);
    let text = tool("coreutils", "bash", &["-o", "pipefail", "-c", script, uri]);
    text.split_whitespace().next().unwrap().to_string()
}
