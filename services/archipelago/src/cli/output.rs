//! Standard output: documents for scripts, tables for people.

use std::io::{self, BufWriter, StdoutLock, Write};

use archipelago_core::{VolumeInfo, time};
use serde::Serialize;

use super::exit::Failure;
use super::size;

/// Standard output of one command.
pub struct Output {
    /// Whether scripts read it.
    pub json: bool,
    out: BufWriter<StdoutLock<'static>>,
}

impl Output {
    /// Takes standard output.
    pub fn new(json: bool) -> Output {
        Output { json, out: BufWriter::new(io::stdout().lock()) }
    }

    /// Prints a line.
    pub fn line(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.out, "{line}").map_err(Failure::Output)
    }

    /// Prints a JSON document on a line.
    pub fn document(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        self.value(document)?;
        self.raw("\n")
    }

    /// Prints text as it is.
    pub fn raw(&mut self, text: &str) -> Result<(), Failure> {
        self.write_all(text.as_bytes())
    }

    /// Prints bytes as they are.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(Failure::Output)
    }

    /// Standard output for who writes bytes to it.
    pub fn stream(&mut self) -> &mut dyn Write {
        &mut self.out
    }

    fn value(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.out, value).map_err(|e| Failure::Output(e.into()))
    }

    /// Writes everything out; the only place where the last error shows.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.flush()
    }

    /// Writes out what was printed so far.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(Failure::Output)
    }
}

/// A JSON array that is printed while it grows.
#[derive(Default)]
pub struct Array {
    started: bool,
}

impl Array {
    /// Prints the next element.
    pub fn push(&mut self, out: &mut Output, element: &impl Serialize) -> Result<(), Failure> {
        out.raw(if self.started { ",\n" } else { "[" })?;
        self.started = true;
        out.value(element)
    }

    /// Prints the end.
    pub fn end(self, out: &mut Output) -> Result<(), Failure> {
        out.raw(if self.started { "]" } else { "[]" })
    }
}

/// A volume as scripts see it.
#[derive(Debug, Serialize)]
pub struct VolumeDocument {
    /// The engine's facts.
    #[serde(flatten)]
    pub info: VolumeInfo,
    /// Bytes that no other map uses; null if not asked for.
    pub unique: Option<u64>,
    /// Bytes that another map uses as well; null if not asked for.
    pub shared: Option<u64>,
}

impl From<VolumeInfo> for VolumeDocument {
    fn from(info: VolumeInfo) -> VolumeDocument {
        VolumeDocument { info, unique: None, shared: None }
    }
}

/// The kind of a volume in a word, the same as in JSON.
pub fn kind(info: &VolumeInfo) -> String {
    format!("{:?}", info.kind).to_lowercase()
}

/// A time for people; `-` if it is not known.
pub fn time(seconds: u64) -> String {
    if seconds == 0 { "-".into() } else { time::format_utc(seconds) }
}

/// A size for people, exact as well: `10.0 GiB (10737418240 bytes)`.
pub fn exact(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", size::human(bytes))
}

/// How a column is aligned.
#[derive(Clone, Copy)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table that is printed in parts; columns never become narrower from one part to the next.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    widths: Vec<usize>,
    rows: Vec<Vec<String>>,
    headed: bool,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[(&'static str, Align)]) -> Table {
        let widths = columns.iter().map(|(title, _)| title.len()).collect();
        Table { columns: columns.to_vec(), widths, rows: Vec::new(), headed: false }
    }

    /// Adds a row with as many cells as there are columns.
    pub fn row(&mut self, cells: Vec<String>) {
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        self.rows.push(cells);
    }

    /// Prints the rows added since the last time; before the first, the titles.
    pub fn print(&mut self, out: &mut Output) -> Result<(), Failure> {
        if self.rows.is_empty() {
            return Ok(());
        }
        if !self.headed {
            self.headed = true;
            let titles = self.columns.iter().map(|(title, _)| title.to_string()).collect();
            self.rows.insert(0, titles);
        }
        for row in std::mem::take(&mut self.rows) {
            let mut line = String::new();
            for (((_, align), width), cell) in self.columns.iter().zip(&self.widths).zip(&row) {
                match align {
                    Align::Left => line.push_str(&format!("{cell:<width$}  ")),
                    Align::Right => line.push_str(&format!("{cell:>width$}  ")),
                }
            }
            out.line(line.trim_end())?;
        }
        Ok(())
    }
}
