//! The servers: processes on a Unix socket each, ended when dropped.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use archipelago_core::{CreateOptions, InitOptions, Location, Mode, Store, StoreOptions};

use super::super::Failure;
use super::client::Client;
use super::{Case, SIZE};

/// What the export is called, where a server gives names.
pub const EXPORT: &str = "volume";
/// Time in which a server must listen.
const START: Duration = Duration::from_secs(20);

/// A running server of a Unix socket.
pub struct Server {
    /// For the table.
    pub name: &'static str,
    socket: PathBuf,
    process: Child,
}

impl Server {
    pub fn start(name: &'static str, socket: PathBuf, command: &mut Command) -> Result<Server, Failure> {
        let program = command.get_program().to_string_lossy().into_owned();
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("{program}: {e}; `make bench` installs what is needed"))?;
        let mut server = Server { name, socket, process };
        let begin = Instant::now();
        while UnixStream::connect(&server.socket).is_err() {
            if let Some(status) = server.process.try_wait()? {
                return Err(format!("{program}: {status}").into());
            }
            if begin.elapsed() > START {
                return Err(format!("{program}: does not listen").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A client in its export.
    pub fn connect(&self, case: Case) -> io::Result<Client> {
        self.connect_to(EXPORT, case)
    }

    /// A client in an export of this name.
    pub fn connect_to(&self, export: &str, case: Case) -> io::Result<Client> {
        Client::connect(&self.socket, export, case)
    }

    /// Processor time of all its threads that there are. Exact while none of them ends.
    pub fn cpu(&self) -> io::Result<Duration> {
        let mut sum = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            // A thread may end meanwhile.
            let stat = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            sum += stat.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(sum))
    }

    /// Bytes of memory that are its own alone: what it wrote to.
    pub fn memory(&self) -> io::Result<u64> {
        let map = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.process.id()))?;
        let kib = map.lines().filter_map(|line| line.strip_prefix("Private_Dirty:"));
        Ok(kib.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).sum::<u64>() << 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `archipelago serve` over a store.
pub fn archipelago(store: &Path, socket: PathBuf) -> Result<Server, Failure> {
    let mut command = command(store)?;
    command.arg("serve").arg("--nbd").arg(format!("unix:{}", socket.display()));
    Server::start("archipelago", socket, &mut command)
}

/// The program, working with a store.
pub fn command(store: &Path) -> io::Result<Command> {
    // Beside this program unless the environment says otherwise.
    let program = match std::env::var_os("ARCHIPELAGO") {
        Some(program) => PathBuf::from(program),
        None => std::env::current_exe()?.with_file_name("archipelago"),
    };
    let mut command = Command::new(program);
    command.arg("--store").arg(format!("file:{}", store.display()));
    Ok(command)
}

/// A volume with its bytes in place.
pub fn ours(dir: &Path) -> Result<Server, Failure> {
    let path = dir.join("store");
    let location = Location::File(path.clone());
    Store::init(&location, &InitOptions::default())?;
    let store = Store::open(&location, StoreOptions::default())?;
    store.create(EXPORT, &CreateOptions { size: SIZE, block_size: None })?;
    fill(&store, EXPORT)?;
    drop(store);
    archipelago(&path, dir.join("ours.sock"))
}

/// Puts bytes in place in as much of a volume as clients ask for.
pub fn fill(store: &Store, name: &str) -> Result<(), Failure> {
    let volume = store.open_volume(name, Mode::ReadWrite)?;
    for at in (0..SIZE).step_by(4 << 20) {
        volume.write_at(&vec![7; 4 << 20], at)?;
    }
    volume.checkpoint()?;
    Ok(volume.close()?)
}

/// `nbdkit file` on a file of its own.
pub fn nbdkit_file(dir: &Path) -> Result<Server, Failure> {
    let (file, socket) = (dir.join("nbdkit"), dir.join("file.sock"));
    prepare(&file)?;
    let mut command = nbdkit(&socket);
    Server::start("nbdkit file", socket, command.arg("file").arg(file))
}

/// `nbdkit null`, as large.
pub fn nbdkit_null(dir: &Path) -> Result<Server, Failure> {
    let socket = dir.join("null.sock");
    let mut command = nbdkit(&socket);
    Server::start("nbdkit null", socket, command.arg("null").arg(SIZE.to_string()))
}

fn nbdkit(socket: &Path) -> Command {
    let mut command = Command::new("nbdkit");
    command.args(["--foreground", "--unix"]).arg(socket);
    command
}

/// `qemu-storage-daemon` with a raw file on the page cache.
pub fn qemu(dir: &Path) -> Result<Server, Failure> {
    let (file, socket) = (dir.join("qemu"), dir.join("qemu.sock"));
    prepare(&file)?;
    let mut command = Command::new("qemu-storage-daemon");
    command.arg("--blockdev").arg(format!("driver=file,node-name=file,filename={}", file.display()));
    command.args(["--blockdev", "driver=raw,node-name=raw,file=file"]);
    command.arg("--nbd-server").arg(format!("addr.type=unix,addr.path={}", socket.display()));
    command.arg("--export").arg(format!("type=nbd,id=export,node-name=raw,name={EXPORT},writable=on"));
    Server::start("qemu-storage-daemon raw", socket, &mut command)
}

/// A file, all of it written, in the pieces in which the library writes: see the file of the group `io`.
pub fn prepare(path: &Path) -> io::Result<()> {
    super::super::io::prepare(path, SIZE)
}
