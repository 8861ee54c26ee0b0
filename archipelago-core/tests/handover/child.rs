//! The processes that hand a volume to one another: copies of this test program that take one command per line and answer each with a line.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use archipelago_core::{Error, Location, Result, Sharing, Standby, Store, StoreOptions};

use crate::history::{Death, Kind, asked, ended, held, now};
use crate::random::Random;

/// Name of the volume.
pub const DISK: &str = "disk-1";
/// Places of the volume that are written, each of which a disk writes whole or not at all.
pub const SLOTS: u64 = 48;
/// Bytes of one.
const ATOM: u64 = 512;
/// Threads of one process that use the volume at once. Each has slots of its own: nothing is said of requests that overlap.
const THREADS: u64 = 2;
/// Set in a child: the store, its log, its number, and a seed.
const STORE: &str = "ARCHIPELAGO_HANDOVER_STORE";
const LOG: &str = "ARCHIPELAGO_HANDOVER_LOG";
const NUMBER: &str = "ARCHIPELAGO_HANDOVER_NUMBER";
const SEED: &str = "ARCHIPELAGO_HANDOVER_CHILD_SEED";
/// Starts a line that is an answer; the test harness prints others.
const MARK: &str = "@@";

/// Where a slot is: in any sector of a block, some of them in one.
pub fn place(slot: u64) -> u64 {
    slot / 2 * 8192 + slot % 2 * 4096 + slot % 8 * ATOM
}

/// Small limits, so that journals are folded while the volume changes hands.
pub fn options() -> StoreOptions {
    StoreOptions { max_unfolded: 256 << 10, first_segment: 64 << 10, ..StoreOptions::default() }
}

/// A child process.
pub struct Process {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub number: u64,
    pub log: PathBuf,
}

impl Process {
    /// Starts one, which stands by for the volume when this returns.
    pub fn start(location: &Location, dir: &Path, number: u64, seed: u64) -> Process {
        let log = dir.join(format!("log-{number}"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_process", "--exact", "--nocapture"])
            .env(STORE, location.to_string())
            .env(LOG, &log)
            .env(NUMBER, number.to_string())
            .env(SEED, seed.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut process = Process { child, commands, answers, number, log };
        process.answer().expect("it stands by");
        process
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives a command.
    pub fn send(&mut self, command: &str) {
        writeln!(self.commands, "{command}").unwrap();
    }

    /// Waits for an answer, or an errno.
    pub fn answer(&mut self) -> std::result::Result<String, i32> {
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "process {} ended", self.number);
            if let Some((_, answer)) = line.trim_end_matches('\n').split_once(MARK) {
                return match answer.split_once(' ') {
                    Some(("ok", text)) => Ok(text.to_string()),
                    Some(("err", errno)) => Err(errno.parse().unwrap()),
                    _ => panic!("{line}"),
                };
            }
        }
    }

    /// Gives a command and waits for its answer.
    pub fn say(&mut self, command: &str) -> std::result::Result<String, i32> {
        self.send(command);
        self.answer()
    }

    /// Gives a command that must succeed.
    pub fn ok(&mut self, command: &str) -> String {
        self.say(command).unwrap_or_else(|errno| {
            panic!("process {}: {command}: {}", self.number, std::io::Error::from_raw_os_error(errno))
        })
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the process is a child that was not waited for yet, so the number is its own.
        #[allow(unsafe_code)]
        let code = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(code, 0);
    }

    /// Kills it.
    pub fn kill(&mut self) -> Death {
        let killed = now();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Death { killed, dead: now() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes commands until there are no more, if this is a child.
pub fn run() {
    let Ok(location) = std::env::var(STORE) else { return };
    let number = |key: &str| std::env::var(key).unwrap().parse::<u64>().unwrap();
    let store = Store::open(&location.parse().unwrap(), options()).unwrap();
    let standby = store.stand_by(DISK, Sharing::Shared).unwrap();
    let log = OpenOptions::new().append(true).create(true).open(std::env::var(LOG).unwrap()).unwrap();
    let mut child = Worker { standby, log, number: number(NUMBER), random: Random(number(SEED)), next: 0 };
    println!("\n{MARK}ok ");
    for line in std::io::stdin().lines() {
        match child.obey(&line.unwrap()) {
            Ok(text) => println!("\n{MARK}ok {text}"),
            Err(error) => println!("\n{MARK}err {}", error.errno()),
        }
    }
    // Not one destructor runs.
    std::process::exit(0);
}

/// What a child has at hand.
struct Worker {
    standby: Standby,
    log: File,
    number: u64,
    random: Random,
    next: u64,
}

impl Worker {
    fn obey(&mut self, line: &str) -> Result<String> {
        let words: Vec<_> = line.split(' ').collect();
        match words[0] {
            "run" => {
                let count = words[1].parse::<u64>().unwrap();
                let (first, seed) = (self.next, self.random.next());
                let this = &*self;
                let failed = std::thread::scope(|scope| {
                    let threads: Vec<_> = (0..THREADS)
                        .map(|thread| {
                            scope.spawn(move || {
                                let mut random = Random(seed ^ (thread << 56));
                                let mut numbers = (0..count).map(|n| first + n * THREADS + thread);
                                numbers.try_for_each(|id| this.request(id, thread, &mut random)).err()
                            })
                        })
                        .collect();
                    threads.into_iter().filter_map(|thread| thread.join().unwrap()).last()
                });
                self.next += count * THREADS;
                failed.map_or(Ok(String::new()), Err)
            }
            // How long it takes to have the volume and write to it.
            "touch" => {
                let begun = Instant::now();
                self.standby.hold()?.write_at(&[0; ATOM as usize], place(SLOTS))?;
                Ok(begun.elapsed().as_micros().to_string())
            }
            "sharing" => {
                let sharing = match words[1] {
                    "exclusive" => Sharing::Exclusive,
                    "shared" => Sharing::Shared,
                    _ => Sharing::Closed,
                };
                self.standby.set_sharing(sharing).map(|()| String::new())
            }
            "flush" => self.standby.flush().map(|()| String::new()),
            "owns" => Ok(self.standby.state().owns.to_string()),
            "size" => Ok(self.standby.size().to_string()),
            "close" => self.standby.close().map(|()| String::new()),
            other => panic!("{other}: no such command"),
        }
    }

    fn note(&self, line: String) {
        // One call, so that lines of threads stay whole, and what was written outlives a kill.
        (&self.log).write_all(line.as_bytes()).unwrap();
    }

    /// One request, drawn at random.
    fn request(&self, id: u64, thread: u64, random: &mut Random) -> Result<()> {
        let slot = random.below(SLOTS / THREADS) * THREADS + thread;
        let kind = match random.below(20) {
            0..2 => Kind::Flush,
            2..8 => Kind::Read,
            _ => Kind::Write,
        };
        let value = if kind == Kind::Write { (self.number << 32) + id + 1 } else { 0 };
        self.note(asked(id, kind, slot, value));
        if kind == Kind::Flush && random.below(2) == 0 {
            // Whoever has the volume.
            let flushed = self.standby.flush();
            self.note(ended(id, flushed.as_ref().map(|()| 0).map_err(Error::errno)));
            return flushed;
        }
        let volume = match self.standby.hold() {
            Ok(volume) => volume,
            Err(error) => {
                self.note(ended(id, Err(error.errno())));
                return Err(error);
            }
        };
        self.note(held(id));
        let mut bytes = value.to_le_bytes().repeat(ATOM as usize / 8);
        let done = match kind {
            Kind::Write => volume.write_at(&bytes, place(slot)),
            Kind::Read => volume.read_at(&mut bytes, place(slot)),
            Kind::Flush => volume.flush(),
        };
        let shown = done.as_ref().map(|()| if kind == Kind::Read { value_of(&bytes) } else { 0 });
        // While it is still held: until here nobody else may have it.
        self.note(ended(id, shown.map_err(|error| error.errno())));
        done
    }
}

/// The value that fills an atom.
pub fn value_of(bytes: &[u8]) -> u64 {
    assert!(bytes.chunks(8).all(|word| word == &bytes[..8]), "an atom of two writes");
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}
