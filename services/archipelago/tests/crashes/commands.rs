//! Commands that die with everything else.

use std::fs::File;
use std::io::Read;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::site::Site;

/// Exit code of a check that has found something that a repair would put right.
pub const REPAIRABLE: i32 = 10;
/// Exit code of a check that has put right what it found.
pub const REPAIRED: i32 = 9;
/// Exit code of a command that is refused for what others do.
const BUSY: i32 = 5;
/// Why a collection may be refused then: the server is at it, or names change all the time.
const NOT_NOW: [&str; 2] = ["another process is collecting", "maps are made and changed faster than"];

/// How a command ended.
#[derive(Debug)]
pub enum Answer {
    /// It succeeded, and said so: what it printed, if that was JSON.
    Done(String),
    /// A collection that has to wait for another time.
    NotNow,
    /// It failed with this message.
    Refused(String),
    /// It was killed.
    Killed,
}

/// Runs the store's command, from several threads, until all of it is killed.
pub struct Commands<'a> {
    site: &'a Site,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    over: bool,
    children: Vec<Arc<Mutex<Child>>>,
}

impl<'a> Commands<'a> {
    pub fn new(site: &'a Site) -> Commands<'a> {
        Commands { site, running: Mutex::default() }
    }

    /// Runs a command to its end, with a file as its input if it needs one; `None` if commands are over.
    pub fn run(&self, arguments: &[String], input: Option<&str>) -> Option<Answer> {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = self.site.command(&arguments);
        if let Some(file) = input {
            command.stdin(File::open(file).unwrap());
        }
        let printed = if arguments.contains(&"--json") { Stdio::piped() } else { Stdio::null() };
        let (child, mut errors, output) = {
            let mut running = self.running.lock();
            if running.over {
                return None;
            }
            let mut child = command.stdout(printed).stderr(Stdio::piped()).spawn().unwrap();
            let (errors, output) = (child.stderr.take().unwrap(), child.stdout.take());
            let child = Arc::new(Mutex::new(child));
            running.children.push(child.clone());
            (child, errors, output)
        };
        let (mut text, mut said) = (String::new(), String::new());
        let read = errors.read_to_string(&mut text);
        // A document of a few lines, which the pipe holds until now.
        let heard = output.map_or(Ok(0), |mut output| output.read_to_string(&mut said));
        // Without holding the child: who kills must not wait for who dies.
        let status = loop {
            match child.lock().try_wait().unwrap() {
                Some(status) => break status,
                None => thread::sleep(Duration::from_millis(1)),
            }
        };
        self.running.lock().children.retain(|other| !Arc::ptr_eq(other, &child));
        Some(match status.code() {
            Some(0) if heard.is_ok() => Answer::Done(said),
            // A check may come between two steps of another command, also one that would repair it.
            Some(REPAIRABLE | REPAIRED) if arguments[0] == "check" => Answer::Done(said),
            Some(BUSY) if arguments[0] == "gc" && NOT_NOW.iter().any(|why| text.contains(why)) => Answer::NotNow,
            Some(code) => Answer::Refused(format!("exit code {code}: {text}{}", read.map_or("?", |_| ""))),
            None => Answer::Killed,
        })
    }

    /// Kills what runs, and lets nothing run from now on.
    pub fn kill(&self) {
        let mut running = self.running.lock();
        running.over = true;
        for child in &running.children {
            // One that has ended by itself, and was waited for, is left alone.
            let _ = child.lock().kill();
        }
    }

    /// Lets nothing new run.
    pub fn stop(&self) {
        self.running.lock().over = true;
    }
}
