//! `send` and `receive`: a snapshot on its way from one store to another, through standard output and standard input.

use std::io::{self, IsTerminal, Read};
use std::thread;
use std::time::Duration;

use archipelago_core::{Error, ResumeToken, SendOptions, SendPlan};
use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};

use super::super::Context;
use super::super::args::{Receive, Send};
use super::super::exit::Failure;
use super::super::interrupt::Interrupt;
use super::super::output::{VolumeDocument, exact};
use super::super::progress::Progress;

/// Bytes read from standard input at a time.
const PIECE: usize = 1 << 20;
/// Pieces read ahead: one is taken while the next is read.
const READ_AHEAD: usize = 2;
/// How long a wait for input may last before it is asked whether to go on.
const TICK: Duration = Duration::from_millis(100);

/// `send`
pub fn send(context: &mut Context, args: &Send) -> Result<(), Failure> {
    let resume = args.resume.as_deref().map(str::parse::<ResumeToken>).transpose()?;
    let options = SendOptions { from: args.from.clone(), resume };
    if args.dry_run {
        let plan = context.store()?.send_plan(&args.snapshot, &options)?;
        if context.out.json {
            return context.out.document(&plan);
        }
        return context.out.line(&summary("Would send at most", &plan));
    }
    let interrupt = Interrupt::install()?;
    if io::stdout().is_terminal() {
        return Err(Failure::Usage("standard output is a terminal; use a pipe or redirect it to a file".into()));
    }
    let store = context.store()?;
    let total = store.send_plan(&args.snapshot, &options)?.size;
    let progress = Progress::new(context.out.json, Some(total));
    let sent = store.send(&args.snapshot, &options, context.out.stream(), &mut |position| {
        progress.at(position);
        interrupt.check().map_err(|_| stopped())
    });
    drop(progress);
    // A stopped stream is a stopped command, and says by which signal.
    interrupt.check()?;
    let text = summary("Sent", &sent?);
    // Standard output is the stream.
    if !context.out.json && io::stderr().is_terminal() {
        context.note(&text);
    }
    Ok(())
}

fn summary(what: &str, plan: &SendPlan) -> String {
    let from = plan.from.as_ref().map_or(String::new(), |from| format!(" since {from}"));
    format!("{what} {}{from}: {} of data, {} of zeros", plan.name, exact(plan.data), exact(plan.zeros))
}

/// What ends a transfer in the engine when a signal came.
fn stopped() -> Error {
    Error::Io { op: "continue", object: "the stream".into(), source: io::Error::from_raw_os_error(libc::EINTR) }
}

/// `receive`
pub fn receive(context: &mut Context, args: &Receive) -> Result<(), Failure> {
    if args.status {
        return status(context, &args.name);
    }
    let interrupt = Interrupt::install()?;
    if io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "standard input is a terminal; pipe the output of `archipelago send` into it".into(),
        ));
    }
    let store = context.store()?;
    let progress = Progress::new(context.out.json, None);
    let mut input = Input::start(&interrupt)?;
    let received = store.receive(&args.name, &mut input, &mut |position| {
        progress.at(position);
        interrupt.check().map_err(|_| stopped())
    });
    drop(progress);
    let info = match received {
        Ok(info) => info,
        Err(error) => {
            let kept = store.receive_status(&args.name).is_ok();
            interrupt.check().map_err(|signal| if kept { signal.kept() } else { signal })?;
            if kept {
                context.note(&format!("what was received is kept; see `archipelago receive --status {}`", args.name));
            }
            return Err(error.into());
        }
    };
    if context.out.json {
        return context.out.document(&VolumeDocument::from(info));
    }
    context.out.line(&format!("Received {}: {}", info.name, exact(info.size)))
}

fn status(context: &mut Context, name: &str) -> Result<(), Failure> {
    let status = context.store()?.receive_status(name)?;
    let out = &mut context.out;
    if out.json {
        return out.document(&status);
    }
    out.line(&format!("snapshot:  {}", status.snapshot))?;
    out.line(&format!("base:      {}", status.base.as_deref().unwrap_or("-")))?;
    out.line(&format!("size:      {}", exact(status.size)))?;
    out.line(&format!("received:  {} ({} of data)", exact(status.position), exact(status.data)))?;
    let at_work = status.open_by.map_or("nobody; it was interrupted".to_string(), |owner| owner.to_string());
    out.line(&format!("received by: {at_work}"))?;
    out.line(&format!("volume:    {}", status.partial))?;
    out.line(&format!("token:     {}", status.token))
}

/// Standard input, read on a thread of its own: a silent pipe must not keep the command from being interrupted.
struct Input<'a> {
    pieces: Receiver<io::Result<Vec<u8>>>,
    interrupt: &'a Interrupt,
    piece: Vec<u8>,
    at: usize,
}

impl Input<'_> {
    fn start(interrupt: &Interrupt) -> Result<Input<'_>, Failure> {
        let (send, pieces) = bounded(READ_AHEAD);
        let read = move || {
            let mut input = io::stdin().lock();
            loop {
                let mut piece = vec![0; PIECE];
                let read = match input.read(&mut piece) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read,
                };
                let last = !matches!(read, Ok(n) if n > 0);
                let message = read.map(|n| {
                    piece.truncate(n);
                    piece
                });
                // Nobody listens after the receiver gave up.
                if send.send(message).is_err() || last {
                    return;
                }
            }
        };
        let started = thread::Builder::new().name("stream reader".into()).spawn(read);
        started.map_err(|e| Failure::host("start", "a thread to read standard input", e))?;
        Ok(Input { pieces, interrupt, piece: Vec::new(), at: 0 })
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.pieces.recv_timeout(TICK) {
                Ok(piece) => (self.piece, self.at) = (piece?, 0),
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
                // Not of kind `Interrupted`, after which a reader tries again.
                Err(RecvTimeoutError::Timeout) if self.interrupt.check().is_err() => {
                    return Err(io::Error::other("stopped by a signal"));
                }
                Err(RecvTimeoutError::Timeout) => continue,
            }
            if self.piece.is_empty() {
                return Ok(0);
            }
        }
        let n = buf.len().min(self.piece.len() - self.at);
        buf[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
