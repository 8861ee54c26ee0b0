//! The other processes: copies of this test program that take one command per line and answer each with a line.
//!
//! The `hammer` command writes forever: write n (from 1) fills sector (n-1) % SECTORS with the number n. So the state after any
//! number of writes is known, and [`prefix_of`] tells whether what was read is such a state: a snapshot must be one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use archipelago_core::{Background, CollectOptions, CreateOptions, Error, Location, Mode, Store, StoreOptions, Volume};

/// Bytes that are written at once.
pub const SECTOR: u64 = 4096;
/// Sectors of the volume that is written.
pub const SECTORS: u64 = 64;
/// Set in a child: the directory of the store.
const STORE: &str = "ARCHIPELAGO_TEST_STORE";
/// Starts a line that is an answer; the test harness prints others.
const MARK: &str = "@@";
/// The hammer flushes after so many writes, in no step with the number of sectors.
const FLUSH_EVERY: u64 = 37;

/// How every process opens the store.
pub fn options() -> StoreOptions {
    StoreOptions {
        node_cache: 4 << 20,
        background: Background::Thread,
        max_unfolded: 4 << 20,
        first_segment: 1 << 20,
        direct: false,
        seed: None,
    }
}

/// A child process.
pub struct Process {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Process {
    /// Starts one; it has the store open when this returns.
    pub fn start(root: &Path) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_process", "--exact", "--nocapture"])
            .env(STORE, root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut process = Process { child, commands, answers };
        process.answer().expect("the store is open");
        process
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives a command and waits for its answer, or for its errno.
    pub fn say(&mut self, command: &str) -> Result<String, i32> {
        self.send(command);
        self.answer()
    }

    /// Gives a command that must succeed.
    pub fn ok(&mut self, command: &str) -> String {
        self.say(command).unwrap_or_else(|errno| panic!("{command}: {}", io::Error::from_raw_os_error(errno)))
    }

    /// Gives a command that must fail.
    pub fn errno(&mut self, command: &str) -> i32 {
        self.say(command).expect_err(command)
    }

    /// Gives a command to each, all at once, and waits for all answers.
    pub fn all(processes: &mut [Process], command: impl Fn(usize) -> String) -> Vec<Result<String, i32>> {
        for (n, process) in processes.iter_mut().enumerate() {
            process.send(&command(n));
        }
        processes.iter_mut().map(Process::answer).collect()
    }

    fn send(&mut self, command: &str) {
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
    }

    fn answer(&mut self) -> Result<String, i32> {
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "the child ended");
            if let Some((_, answer)) = line.trim_end_matches('\n').split_once(MARK) {
                return match answer.split_once(' ') {
                    Some(("ok", text)) => Ok(text.to_string()),
                    Some(("err", errno)) => Err(errno.parse().unwrap()),
                    _ => panic!("{line}"),
                };
            }
        }
    }

    /// Lets it end by itself, without closing what it has open.
    pub fn end(mut self) {
        self.commands = None;
        self.child.wait().unwrap();
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// First number of each sector of the part that is written; every sector must be of one write.
pub fn sectors(volume: &Volume) -> Vec<u64> {
    let mut bytes = vec![0; (SECTORS * SECTOR) as usize];
    volume.read_at(&mut bytes, 0).unwrap();
    let value = |sector: &[u8]| {
        let first = &sector[..8];
        assert!(sector.chunks(8).all(|c| c == first), "a sector of two writes");
        u64::from_le_bytes(first.try_into().unwrap())
    };
    bytes.chunks(SECTOR as usize).map(value).collect()
}

/// What a sector holds after the first `writes` writes.
pub fn value_after(writes: u64, sector: u64) -> u64 {
    let passed = writes.saturating_sub(sector).div_ceil(SECTORS);
    if passed == 0 { 0 } else { (passed - 1) * SECTORS + sector + 1 }
}

/// The number of writes after which the sectors hold this, if there is one.
pub fn prefix_of(sectors: &[u64]) -> Option<u64> {
    let writes = sectors.iter().copied().max().unwrap_or(0);
    (0..).zip(sectors).all(|(sector, &value)| value == value_after(writes, sector)).then_some(writes)
}

/// Writes every sector as it is after the first `writes` writes.
pub fn complete(volume: &Volume, writes: u64) {
    for sector in 0..SECTORS {
        put(volume, sector, value_after(writes, sector)).unwrap();
    }
}

/// The number in a file that [`put_number`] wrote.
pub fn read_number(path: &Path) -> u64 {
    std::fs::read(path).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
}

fn put(volume: &Volume, sector: u64, value: u64) -> Result<(), Error> {
    volume.write_at(&value.to_le_bytes().repeat(SECTOR as usize / 8), sector * SECTOR)
}

/// The thread that writes forever.
struct Hammer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Hammer {
    /// Goes on after the first `done` writes. After each flush the number of writes in it is put into `acknowledged`.
    fn start(volume: Volume, mut done: u64, acknowledged: Option<File>) -> Hammer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                put(&volume, done % SECTORS, done + 1).unwrap();
                done += 1;
                if done.is_multiple_of(FLUSH_EVERY) {
                    volume.flush().unwrap();
                    if let Some(file) = &acknowledged {
                        file.write_all_at(&done.to_le_bytes(), 0).unwrap();
                    }
                }
            }
            done
        });
        Hammer { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// What a child has at hand.
struct State {
    store: Store,
    volume: Option<Volume>,
    hammer: Option<Hammer>,
}

/// Takes commands until there are no more, if this is a child.
pub fn run() {
    let Some(root) = std::env::var_os(STORE) else { return };
    let store = Store::open(&Location::File(root.into()), options()).unwrap();
    let mut state = State { store, volume: None, hammer: None };
    println!("{MARK}ok ");
    for line in io::stdin().lines() {
        match state.obey(&line.unwrap()) {
            Ok(text) => println!("{MARK}ok {text}"),
            Err(error) => println!("{MARK}err {}", error.errno()),
        }
    }
    // Not one destructor runs.
    std::process::exit(0);
}

impl State {
    fn obey(&mut self, line: &str) -> Result<String, Error> {
        let words: Vec<_> = line.split(' ').collect();
        let number = |n: usize| words[n].parse::<u64>().unwrap();
        let done = String::new();
        match words[0] {
            "create" => {
                self.store.create(words[1], &CreateOptions { size: number(2), block_size: None })?;
                return Ok(done);
            }
            "open" => {
                let mode = if words[2] == "rw" { Mode::ReadWrite } else { Mode::ReadOnly };
                self.volume = Some(self.store.open_volume(words[1], mode)?);
                return Ok(done);
            }
            "remove" => return self.store.remove(words[1]).map(|()| done),
            "gc" => {
                let report = self.store.collect(&CollectOptions::default(), &mut |_| true)?;
                return Ok(format!("{} {}", report.freed().objects, report.pinned));
            }
            "snapshot" => return self.store.snapshot(words[1], words[2]).map(|info| info.name),
            "stop" => return Ok(self.hammer.take().unwrap().stop().to_string()),
            "close" => {
                self.volume.take().unwrap().close()?;
                return Ok(done);
            }
            _ => {}
        }
        let volume = self.volume.as_ref().unwrap();
        match words[0] {
            "hammer" => {
                let from = if words.len() > 1 { number(1) } else { 0 };
                let file = words.get(2).map(|path| {
                    let file = File::create(path).unwrap();
                    file.write_all_at(&from.to_le_bytes(), 0).unwrap();
                    file
                });
                self.hammer = Some(Hammer::start(volume.clone(), from, file));
                Ok(done)
            }
            "write" => put(volume, number(1), number(2)).map(|()| done),
            "read" => Ok(sectors(volume)[number(1) as usize].to_string()),
            "prefix" => Ok(prefix_of(&sectors(volume)).map_or("none".into(), |n| n.to_string())),
            "flush" => volume.flush().map(|()| done),
            "size" => Ok(volume.size().to_string()),
            "name" => Ok(volume.name()),
            other => panic!("{other}: no such command"),
        }
    }
}

#[test]
fn states_of_the_hammer_are_told_from_others() {
    let state = |writes| (0..SECTORS).map(|s| value_after(writes, s)).collect::<Vec<_>>();
    let mut expected = vec![0; SECTORS as usize];
    for writes in 0..3 * SECTORS {
        assert_eq!(state(writes), expected);
        assert_eq!(prefix_of(&expected), Some(writes));
        let mut hole = expected.clone();
        if writes > 1 {
            let sector = ((writes - 2) % SECTORS) as usize;
            hole[sector] = hole[sector].saturating_sub(SECTORS);
            assert_eq!(prefix_of(&hole), None, "a lost write");
        }
        expected[(writes % SECTORS) as usize] = writes + 1;
    }
}
