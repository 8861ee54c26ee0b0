//! `export`: a volume or snapshot becomes a file.
//!
//! A file appears under its name only when it is complete and synced; until then it has another name in the same directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use archipelago_core::{Error, Mode, Volume};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::Serialize;

use super::super::Context;
use super::super::args::{Export, ExportFormat};
use super::super::exit::Failure;
use super::super::interrupt::Interrupt;
use super::super::output::exact;
use super::super::progress::Progress;
use crate::import::PIECE;
use crate::import::zeros::data_runs;

/// Extents asked for at once: enough to make the call cheap, few enough to keep in memory.
const EXTENTS: usize = 4096;

/// What scripts are told.
#[derive(Serialize)]
struct Document<'a> {
    name: &'a str,
    file: String,
    format: &'static str,
    size: u64,
    written: u64,
}

/// `export`
pub fn run(context: &mut Context, args: &Export) -> Result<(), Failure> {
    let ExportFormat::Raw = args.format;
    let interrupt = Interrupt::install()?;
    let to_stdout = args.file == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        return Err(Failure::Usage("standard output is a terminal; name a file or use a pipe".into()));
    }
    if !to_stdout {
        check_place(&args.file, args.force)?;
    }
    let store = context.store()?;
    let volume = store.open_volume(&args.name, Mode::ReadOnly).map_err(advise)?;
    let size = volume.size();
    let progress = Progress::new(context.out.json, Some(size));
    let mut watch = |position| {
        progress.at(position);
        interrupt.check()
    };
    if to_stdout {
        let mut sink = Stream { context, position: 0 };
        read_data(&volume, size, &mut sink, &mut watch)?;
        sink.zeros_to(size)?;
        // No document: standard output is the disk.
        return sink.context.out.flush();
    }
    let partial = Partial::create(&args.file)?;
    let mut sink = Sparse { file: &partial.file, path: &partial.path, written: 0 };
    sink.file.set_len(size).map_err(|e| Failure::host("set the size of", partial.path.display(), e))?;
    read_data(&volume, size, &mut sink, &mut watch)?;
    let written = sink.written;
    partial.publish(&args.file, args.force)?;
    drop(progress);
    if context.out.json {
        let file = args.file.display().to_string();
        return context.out.document(&Document { name: &args.name, file, format: "raw", size, written });
    }
    context.out.line(&format!("Exported {}: {}, {} written", args.name, exact(size), exact(written)))
}

/// A volume in use is not read behind its user's back.
fn advise(error: Error) -> Failure {
    match error {
        Error::OpenElsewhere { name, owner, .. } => {
            let advice = "take a snapshot with `archipelago snapshot` and export that";
            Error::OpenElsewhere { name, owner, advice }.into()
        }
        error => error.into(),
    }
}

/// Refuses a place that could not be used at the end, before anything is copied.
fn check_place(path: &Path, force: bool) -> Result<(), Failure> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Failure::host("examine", path.display(), e)),
        Ok(meta) if !meta.is_file() => {
            Err(Failure::Usage(format!("{}: is not a regular file; export to - and write it with dd", path.display())))
        }
        Ok(_) if force => Ok(()),
        Ok(_) => Err(Failure::FileExists(path.display().to_string())),
    }
}

/// Where data goes, in the order of offsets.
trait Sink {
    fn write(&mut self, data: &[u8], offset: u64) -> Result<(), Failure>;
}

struct Sparse<'a> {
    file: &'a File,
    path: &'a Path,
    written: u64,
}

impl Sink for Sparse<'_> {
    fn write(&mut self, data: &[u8], offset: u64) -> Result<(), Failure> {
        self.written += data.len() as u64;
        self.file.write_all_at(data, offset).map_err(|e| Failure::host("write", self.path.display(), e))
    }
}

struct Stream<'a> {
    context: &'a mut Context,
    position: u64,
}

impl Stream<'_> {
    fn zeros_to(&mut self, offset: u64) -> Result<(), Failure> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while self.position < offset {
            let n = (offset - self.position).min(ZEROS.len() as u64);
            self.context.out.write_all(&ZEROS[..n as usize])?;
            self.position += n;
        }
        Ok(())
    }
}

impl Sink for Stream<'_> {
    fn write(&mut self, data: &[u8], offset: u64) -> Result<(), Failure> {
        self.zeros_to(offset)?;
        self.context.out.write_all(data)?;
        self.position += data.len() as u64;
        Ok(())
    }
}

/// Hands everything that is not zero to the sink.
fn read_data(
    volume: &Volume,
    size: u64,
    sink: &mut dyn Sink,
    watch: &mut dyn FnMut(u64) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut buf = vec![0; PIECE.min(size) as usize];
    let mut at = 0;
    while at < size {
        watch(at)?;
        let extents = volume.extents(at, size - at, EXTENTS)?;
        let before = at;
        for extent in extents {
            let end = extent.offset.saturating_add(extent.len).min(size);
            while !extent.zero && at < end {
                watch(at)?;
                // Up to the next multiple of the piece, so that reads stay aligned with blocks.
                let n = (PIECE - at % PIECE).min(end - at) as usize;
                volume.read_at(&mut buf[..n], at)?;
                for run in data_runs(&buf[..n]) {
                    sink.write(&buf[run.clone()], at + run.start as u64)?;
                }
                at += n as u64;
            }
            at = at.max(end);
        }
        if at == before {
            return Err(Error::damaged(volume.name(), format!("its map says nothing about offset {at}")).into());
        }
    }
    watch(size)
}

/// The file while it is incomplete; removed unless published.
struct Partial {
    file: File,
    path: PathBuf,
    published: bool,
}

impl Partial {
    fn create(target: &Path) -> Result<Partial, Failure> {
        let Some(name) = target.file_name() else {
            return Err(Failure::Usage(format!("{}: is not a file name", target.display())));
        };
        let mut partial = std::ffi::OsString::from(".");
        partial.push(name);
        partial.push(format!(".{}.partial", std::process::id()));
        let path = target.with_file_name(partial);
        // Never an existing file or link: the directory may be writable for others.
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.map_err(|e| Failure::host("make", path.display(), e))?;
        Ok(Partial { file, path, published: false })
    }

    /// Syncs the file and gives it its name.
    fn publish(mut self, target: &Path, force: bool) -> Result<(), Failure> {
        let failed = |op, e| Failure::host(op, target.display(), e);
        self.file.sync_all().map_err(|e| failed("sync", e))?;
        self.rename(target, force)?;
        self.published = true;
        let directory = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|d| d.sync_all()).map_err(|e| failed("sync the directory of", e))
    }

    fn rename(&self, target: &Path, force: bool) -> Result<(), Failure> {
        let failed = |e| Failure::host("rename to", target.display(), e);
        if force {
            return fs::rename(&self.path, target).map_err(failed);
        }
        match renameat2(AT_FDCWD, &self.path, AT_FDCWD, target, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) => Err(Failure::FileExists(target.display().to_string())),
            // A file system without it: a link refuses an existing name as well.
            Err(Errno::EINVAL | Errno::ENOSYS) => {
                fs::hard_link(&self.path, target).map_err(failed)?;
                fs::remove_file(&self.path).map_err(failed)
            }
            Err(e) => Err(failed(e.into())),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published {
            // It has nothing that is not in the store; a name left behind starts with a dot and says what it is.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn names(dir: &TempDir) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_when_it_is_complete_and_never_over_another() {
        let dir = TempDir::new().unwrap();
        let target = dir.path().join("disk.raw");
        let partial = Partial::create(&target).unwrap();
        partial.file.write_all_at(b"new", 0).unwrap();
        assert!(!target.exists());
        partial.publish(&target, false).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");

        fs::write(&target, b"old").unwrap();
        assert!(matches!(check_place(&target, false), Err(Failure::FileExists(_))));
        let late = Partial::create(&target).unwrap().publish(&target, false);
        assert!(matches!(late, Err(Failure::FileExists(_))));
        assert_eq!((fs::read(&target).unwrap(), names(&dir)), (b"old".to_vec(), vec!["disk.raw".to_string()]));

        Partial::create(&target).unwrap().publish(&target, true).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"");
    }

    #[test]
    fn an_export_that_is_given_up_leaves_nothing() {
        let dir = TempDir::new().unwrap();
        drop(Partial::create(&dir.path().join("disk.raw")).unwrap());
        assert!(names(&dir).is_empty());
    }

    #[test]
    fn devices_and_links_are_never_replaced() {
        let dir = TempDir::new().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("elsewhere", &link).unwrap();
        for path in [&link, Path::new("/dev/null"), dir.path()] {
            assert!(matches!(check_place(path, true), Err(Failure::Usage(_))), "{}", path.display());
        }
    }
}
