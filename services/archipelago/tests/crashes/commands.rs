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

/// How a command ended.
#[derive(Debug)]
pub enum Answer {
    /// It succeeded, and said so.
    Done,
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
        let (child, mut errors) = {
            let mut running = self.running.lock();
            if running.over {
                return None;
            }
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let errors = child.stderr.take().unwrap();
            let child = Arc::new(Mutex::new(child));
            running.children.push(child.clone());
            (child, errors)
        };
        let mut text = String::new();
        let read = errors.read_to_string(&mut text);
        // Without holding the child: who kills must not wait for who dies.
        let status = loop {
            match child.lock().try_wait().unwrap() {
                Some(status) => break status,
                None => thread::sleep(Duration::from_millis(1)),
            }
        };
        self.running.lock().children.retain(|other| !Arc::ptr_eq(other, &child));
        Some(match status.code() {
            Some(0) => Answer::Done,
            // A check may come between two steps of another command.
            Some(REPAIRABLE) if arguments[0] == "check" => Answer::Done,
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
