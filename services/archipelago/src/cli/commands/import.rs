//! `import`: a disk image becomes a volume.
//!
//! The data goes to a volume of another name, which takes the asked-for name at the end: whoever opens NAME never sees half an
//! image. When the import fails or is interrupted the other volume is removed. Only a process that was killed leaves it
//! behind, visible in `list` as `NAME.importing`, for `remove`.

use archipelago_core::limits::{MAX_NAME, MAX_VOLUME_SIZE};
use archipelago_core::{CreateOptions, Error, Mode, Store, Volume, name};
use serde::Serialize;

use super::super::Context;
use super::super::args::{Import, ImportFormat};
use super::super::exit::Failure;
use super::super::interrupt::Interrupt;
use super::super::output::{VolumeDocument, exact};
use super::super::progress::Progress;
use crate::import::{Copied, Image, ImageError, Target, copy, qcow2, raw};

/// Ends the name of a volume that is being imported.
const SUFFIX: &str = ".importing";

/// What scripts are told: the volume, and what the import did.
#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    volume: VolumeDocument,
    snapshot: Option<String>,
    written: u64,
}

/// `import`
pub fn run(context: &mut Context, args: &Import) -> Result<(), Failure> {
    let interrupt = Interrupt::install()?;
    let store = context.store()?;
    for name in [Some(&args.name), args.snapshot.as_ref()].into_iter().flatten() {
        // Before hours of copying rather than after.
        name::check(name)?;
        must_be_free(&store, name)?;
    }
    if args.snapshot.as_ref() == Some(&args.name) {
        return Err(Failure::Usage("the snapshot needs another name than the volume".into()));
    }
    let image = match args.format {
        ImportFormat::Raw => raw::open(&args.file)?,
        ImportFormat::Qcow2 => qcow2::open(&args.file)?,
    };
    let progress = Progress::new(context.out.json, image.size());
    let temporary = temporary_name(&args.name);
    let mut importing = Importing { store: &store, name: temporary, volume: None, made: false, snapshot: None };
    let max_size = args.max_size.unwrap_or(MAX_VOLUME_SIZE);
    let copied = match importing.run(image, args, max_size, &interrupt, &progress) {
        Ok(copied) => copied,
        Err(failure) => {
            drop(progress);
            importing.undo(context);
            return Err(failure);
        }
    };
    drop(progress);
    let volume = VolumeDocument::from(store.info(&args.name)?);
    if context.out.json {
        return context.out.document(&Document { volume, snapshot: args.snapshot.clone(), written: copied.written });
    }
    context.out.line(&format!("Imported {}: {}, {} written", args.name, exact(copied.size), exact(copied.written)))
}

fn must_be_free(store: &Store, name: &str) -> Result<(), Failure> {
    match store.info(name) {
        Ok(_) => Err(Error::Exists(name.to_string()).into()),
        Err(Error::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `NAME.importing`. A name too long for that is cut, and told from others with the same start by a hash of the whole.
fn temporary_name(name: &str) -> String {
    if name.len() + SUFFIX.len() <= MAX_NAME {
        return format!("{name}{SUFFIX}");
    }
    // FNV-1a: the same in every release, unlike the standard library's hash.
    let hash = name.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let tail = format!(".{hash:08x}{SUFFIX}");
    let mut cut = MAX_NAME - tail.len();
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}{tail}", &name[..cut])
}

/// An import on its way, and what of it exists in the store so far.
struct Importing<'a> {
    store: &'a Store,
    name: String,
    volume: Option<Volume>,
    made: bool,
    snapshot: Option<String>,
}

impl Importing<'_> {
    fn run(
        &mut self,
        image: Box<dyn Image>,
        args: &Import,
        max_size: u64,
        interrupt: &Interrupt,
        progress: &Progress,
    ) -> Result<Copied, Failure> {
        let copied = copy(image, self, max_size, &mut |position| {
            progress.at(position);
            interrupt.check().map_err(|_| ImageError::Stopped)
        });
        // A stopped copy is a stopped command, and says by which signal.
        interrupt.check()?;
        let copied = copied?;
        if let Some(volume) = self.volume.take() {
            volume.flush()?;
            volume.close()?;
        }
        interrupt.check()?;
        if let Some(snapshot) = &args.snapshot {
            self.store.snapshot(&self.name, snapshot)?;
            self.snapshot = Some(snapshot.clone());
        }
        self.store.rename(&self.name, &args.name)?;
        Ok(copied)
    }

    /// Removes what was made, and only that.
    fn undo(&mut self, context: &Context) {
        if let Some(volume) = self.volume.take() {
            // What it holds goes away with it, so a failed flush does not matter.
            let _ = volume.close();
        }
        let made = self.made.then_some(&self.name);
        for name in self.snapshot.iter().chain(made) {
            match self.store.remove(name) {
                Ok(()) | Err(Error::NotFound(_)) => {}
                Err(error) => context.note(&format!("could not tidy up: {error}; remove {name} by hand")),
            }
        }
    }
}

impl Target for Importing<'_> {
    fn set_size(&mut self, size: u64) -> Result<(), Error> {
        if let Some(volume) = &self.volume {
            return volume.resize(size, false);
        }
        self.store.create(&self.name, &CreateOptions { size, block_size: None }).map_err(|error| match error {
            Error::Exists(name) => {
                Error::Exists(format!("{name} (another import, at work or killed; if killed, remove it)"))
            }
            error => error,
        })?;
        self.made = true;
        self.volume = Some(self.store.open_volume(&self.name, Mode::ReadWrite)?);
        Ok(())
    }

    fn write(&mut self, data: &[u8], offset: u64) -> Result<(), Error> {
        match &self.volume {
            Some(volume) => volume.write_at(data, offset),
            None => Err(Error::NotOpen(self.name.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_are_valid_and_differ_where_the_names_do() {
        assert_eq!(temporary_name("debian"), "debian.importing");
        let long = "a".repeat(MAX_NAME);
        let other = format!("{}b", "a".repeat(MAX_NAME - 1));
        let wide = "é".repeat(MAX_NAME / 2);
        assert_ne!(temporary_name(&long), temporary_name(&other));
        for name in [&long, &other, &wide, &"b".repeat(72), &"b".repeat(73)] {
            let temporary = temporary_name(name);
            name::check(&temporary).expect(&temporary);
            assert!(temporary.ends_with(SUFFIX));
        }
    }
}
