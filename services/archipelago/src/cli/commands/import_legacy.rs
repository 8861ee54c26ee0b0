//! `import-legacy`: volumes and snapshots of a store of the original Archipelago.
//!
//! Maps are examined first, all of them, so that what is refused is known before hours of reading. Then they are imported one
//! by one; one that fails does not stop the others.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use archipelago_core::{Error, Store, name};
use serde::Serialize;

use super::super::Context;
use super::super::args::ImportLegacy;
use super::super::exit::{ErrorFields, Failure};
use super::super::interrupt::Interrupt;
use super::super::output::{Align, Array, Table, exact};
use super::super::progress::Progress;
use super::super::size;
use crate::import::legacy::build::{Built, Damage, Job, Ways};
use crate::import::legacy::examine::{Examined, examine};
use crate::import::legacy::expect::expect;
use crate::import::legacy::known::Known;
use crate::import::legacy::list::list;
use crate::import::legacy::map::Assume;
use crate::import::legacy::names::{self, PREFIX};
use crate::import::legacy::{LegacyError, OldStore};

/// Most bytes of the file of sizes: a line for each map of the largest store.
const MAX_SIZES_FILE: u64 = 512 << 20;
/// Most maps of one import: half a gigabyte for what is known of them.
const MAX_SELECTED: usize = 1_000_000;

/// What scripts are told about one map.
#[derive(Default, Serialize)]
struct Document {
    object: String,
    name: String,
    state: &'static str,
    version: Option<u32>,
    kind: Option<&'static str>,
    size: Option<u64>,
    block_size: Option<u64>,
    epoch: Option<u64>,
    entries: Option<u64>,
    blocks: Option<u64>,
    content: Option<u64>,
    unwritten: Option<u64>,
    missing: Option<u64>,
    locked_by: Option<String>,
    present: Option<u64>,
    reflinked: Option<u64>,
    linked: Option<u64>,
    copied: Option<u64>,
    damaged: u64,
    damages: Vec<Damage>,
    error: Option<ErrorFields>,
}

impl Document {
    fn unreadable(object: &str, name: &str, failure: &Failure) -> Document {
        let (object, name) = (object.to_string(), name.to_string());
        Document { object, name, state: "refused", error: Some(failure.json()), ..Document::default() }
    }

    fn examined(map: &Examined, name: &str, state: &'static str) -> Document {
        let header = &map.map.header;
        Document {
            object: map.map.object.clone(),
            name: name.to_string(),
            state,
            version: Some(header.version.number()),
            kind: Some(kind(map)),
            size: Some(header.size),
            block_size: Some(header.block_size),
            epoch: Some(header.epoch),
            entries: Some(header.entries),
            blocks: Some(map.blocks),
            content: Some(map.content),
            unwritten: Some(map.unwritten),
            missing: Some(map.missing),
            locked_by: map.locked_by.clone(),
            ..Document::default()
        }
    }

    fn count(&mut self, ways: &Ways) {
        (self.present, self.reflinked) = (Some(ways.present), Some(ways.reflinked));
        (self.linked, self.copied) = (Some(ways.linked), Some(ways.copied));
    }
}

/// What a person is told of how blocks came into the store, or would.
fn in_words(ways: &Ways) -> String {
    let all = [
        (ways.present, "there already"),
        (ways.reflinked, "reflinked"),
        (ways.linked, "linked"),
        (ways.copied, "copied"),
    ];
    let some: Vec<String> =
        all.iter().filter(|(bytes, _)| *bytes > 0).map(|(bytes, how)| format!("{} {how}", exact(*bytes))).collect();
    if some.is_empty() { "nothing copied".into() } else { some.join(", ") }
}

fn kind(map: &Examined) -> &'static str {
    if map.map.header.read_only { "snapshot" } else { "volume" }
}

/// What the arguments ask for.
struct Request<'a> {
    args: &'a ImportLegacy,
    renames: HashMap<&'a str, &'a str>,
    sizes: HashMap<String, u64>,
    interrupt: Interrupt,
    old: Arc<OldStore>,
}

/// `import-legacy`
pub fn run(context: &mut Context, args: &ImportLegacy) -> Result<(), Failure> {
    let interrupt = Interrupt::install()?;
    let mut renames = HashMap::new();
    for (old, new) in &args.rename {
        name::check(new)?;
        if renames.insert(old.as_str(), new.as_str()).is_some() {
            return Err(Failure::Usage(format!("{old}: two new names")));
        }
    }
    let sizes = sizes(args)?;
    let known = &context.config().original;
    let directory = |given: &Option<PathBuf>, known: &Option<PathBuf>, option: &str| {
        given.clone().or_else(|| known.clone()).ok_or_else(|| {
            Failure::Usage(format!(
                "no directory is named; use {option} DIR, or the configuration file of the original"
            ))
        })
    };
    let maps = directory(&args.maps, &known.maps, "--maps")?;
    let old = Arc::new(OldStore::open(&maps, &directory(&args.blocks, &known.blocks, "--blocks")?)?);
    let request = Request { args, renames, sizes, interrupt, old };
    if args.names.is_empty() && args.pattern.is_empty() && !args.all {
        return request.list(context);
    }
    request.import(context)
}

/// The sizes of maps that do not record them.
fn sizes(args: &ImportLegacy) -> Result<HashMap<String, u64>, Failure> {
    let mut sizes: HashMap<String, u64> = args.v0_size.iter().cloned().collect();
    let Some(file) = &args.v0_sizes else { return Ok(sizes) };
    let shown = file.display().to_string();
    let length = std::fs::metadata(file).map_err(|e| Failure::host("open", &shown, e))?.len();
    if length > MAX_SIZES_FILE {
        return Err(Failure::Usage(format!("{shown}: has more than {MAX_SIZES_FILE} bytes")));
    }
    let text = std::fs::read_to_string(file).map_err(|e| Failure::host("read", &shown, e))?;
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = || Failure::Usage(format!("{shown}: line {number} is not a name and a size in bytes"));
        let (name, size) = line.trim().split_once(char::is_whitespace).ok_or_else(wrong)?;
        sizes.insert(name.to_string(), size.trim().parse().map_err(|_| wrong())?);
    }
    Ok(sizes)
}

impl Request<'_> {
    /// Prints what is there, map by map.
    fn list(&self, context: &mut Context) -> Result<(), Failure> {
        let objects = self.objects(context)?;
        let mut array = Array::default();
        let mut table = table();
        for object in &objects {
            let document = match self.examine(object) {
                Ok(None) => continue,
                Ok(Some(map)) => Document::examined(&map, map.map.volume(), "listed"),
                Err(failure @ Failure::Signal(_)) => return Err(failure),
                Err(failure) => Document::unreadable(object, volume_name(object), &failure),
            };
            if context.out.json {
                array.push(&mut context.out, &document)?;
                continue;
            }
            table.row(row(&document));
            table.print(&mut context.out)?;
        }
        if context.out.json {
            array.end(&mut context.out)?;
            return context.out.raw("\n");
        }
        Ok(())
    }

    fn import(&self, context: &mut Context) -> Result<(), Failure> {
        let objects = self.objects(context)?;
        if let Some((old, _)) = self.args.rename.iter().find(|(old, _)| !objects.iter().any(|o| known_as(o, old))) {
            return Err(Failure::Usage(format!("{old}: to be renamed, but not among what is imported")));
        }
        if objects.len() > MAX_SELECTED {
            let text =
                format!("{} maps at once; at most {MAX_SELECTED} are: choose some with --pattern", objects.len());
            return Err(Failure::Usage(text));
        }
        let store = context.store()?;
        let known = Arc::new(Known::default());
        let mut run =
            Run { request: self, context, store, known, array: Array::default(), first: None, counts: [0; 3] };
        let maps = run.examine_all(&objects)?;
        let result = run.import_all(&maps);
        let Run { array, first, counts: [imported, present, failed], .. } = run;
        if context.out.json {
            // What was done before a signal is a result as well.
            array.end(&mut context.out)?;
            context.out.raw("\n")?;
        }
        result?;
        if !context.out.json && !self.args.dry_run {
            context.out.line(&format!("{imported} imported, {present} were there already, {failed} failed"))?;
        }
        match first {
            Some(class) => Err(Failure::Reported(class)),
            None => Ok(()),
        }
    }

    /// The objects that may be maps, in byte order.
    fn objects(&self, context: &Context) -> Result<Vec<String>, Failure> {
        let args = self.args;
        let mut objects = Vec::new();
        for name in &args.names {
            objects.push(self.resolve(name)?);
        }
        if args.names.is_empty() || !args.pattern.is_empty() {
            let wanted = |object: &str| {
                args.pattern.is_empty()
                    || args.pattern.iter().any(|p| names::matches(p, object) || names::matches(p, volume_name(object)))
            };
            let listing =
                list(&self.old, &wanted, args.assume_v0, &mut || self.watch()).map_err(|e| self.failure(e))?;
            for stray in &listing.strays {
                context.note(&format!("{stray}: not where the original looks for it; ignored"));
            }
            let more = listing.stray_count - listing.strays.len() as u64;
            if more > 0 {
                context.note(&format!("{more} more files are not where the original looks for them; ignored"));
            }
            objects.extend(listing.maps);
        }
        objects.sort_unstable();
        objects.dedup();
        Ok(objects)
    }

    /// The object that the original would open under a name: the plain one, or that of release 0.3.
    fn resolve(&self, name: &str) -> Result<String, Failure> {
        let prefixed = format!("{PREFIX}{name}");
        for object in [name, &prefixed] {
            if names::check(object).is_ok() && self.old.maps.find(object).map_err(|e| self.failure(e))?.is_some() {
                return Ok(object.to_string());
            }
        }
        Err(LegacyError::NotFound(name.to_string()).into())
    }

    fn examine(&self, object: &str) -> Result<Option<Examined>, Failure> {
        let size = self.sizes.get(object).or_else(|| self.sizes.get(volume_name(object)));
        let assume = Assume { v0: self.args.assume_v0, v0_size: size.copied() };
        examine(&self.old, object, assume, &mut || self.watch()).map_err(|e| self.failure(e))
    }

    fn watch(&self) -> Result<(), LegacyError> {
        self.interrupt.check().map_err(|_| LegacyError::Stopped)
    }

    /// A stopped import is a stopped command, and says by which signal.
    fn failure(&self, error: LegacyError) -> Failure {
        match self.interrupt.check() {
            Err(signal) => signal,
            Ok(()) => error.into(),
        }
    }

    /// Name of a map in the new store.
    fn target(&self, object: &str) -> String {
        let plain = volume_name(object);
        self.renames.get(object).or_else(|| self.renames.get(plain)).map_or(plain, |new| new).to_string()
    }

    /// Refuses what could be examined, but not be imported.
    fn check(&self, map: &Examined, target: &str, taken: &HashSet<String>) -> Result<(), Failure> {
        let object = &map.map.object;
        if let Err(error) = name::check(target) {
            return Err(Failure::Usage(format!("{error}; give it another with --rename {object}=NEW")));
        }
        if taken.contains(target) {
            return Err(Failure::Usage(format!("{object}: another map is imported as {target}; rename one of them")));
        }
        if let Some(owner) = &map.locked_by
            && !self.args.ignore_locks
        {
            return Err(LegacyError::Locked { map: object.clone(), owner: owner.clone() }.into());
        }
        if let Some((index, block)) = &map.first_missing
            && !self.args.skip_damaged
        {
            let (offset, len) = map.map.range(*index);
            let what = format!("block {block} is missing ({} of {} are)", map.missing, map.blocks);
            return Err(LegacyError::Block { map: object.clone(), offset, len, what }.into());
        }
        Ok(())
    }
}

/// Name of the volume of a header object.
fn volume_name(object: &str) -> &str {
    object.strip_prefix(PREFIX).unwrap_or(object)
}

fn known_as(object: &str, name: &str) -> bool {
    object == name || volume_name(object) == name
}

/// An import on its way.
struct Run<'a, 'b> {
    request: &'a Request<'a>,
    context: &'b mut Context,
    store: Store,
    /// Blocks that were read.
    known: Arc<Known>,
    array: Array,
    /// What the first that failed failed with.
    first: Option<super::super::exit::Class>,
    /// Imported, there already, failed.
    counts: [u64; 3],
}

/// A map that is to be imported, and its new name.
struct Wanted {
    map: Examined,
    name: String,
}

impl Run<'_, '_> {
    fn failed(&mut self, mut document: Document, failure: &Failure) -> Result<(), Failure> {
        self.counts[2] += 1;
        self.first.get_or_insert(failure.class());
        self.context.report(failure);
        document.error = Some(failure.json());
        self.print(&document)
    }

    fn print(&mut self, document: &Document) -> Result<(), Failure> {
        if self.context.out.json {
            return self.array.push(&mut self.context.out, document);
        }
        Ok(())
    }

    fn examine_all(&mut self, objects: &[String]) -> Result<Vec<Wanted>, Failure> {
        let mut taken = HashSet::new();
        let mut maps = Vec::new();
        for object in objects {
            let name = self.request.target(object);
            let map = match self.request.examine(object) {
                Ok(Some(map)) => map,
                // Removed in the original. Somebody who asks for it by name has to know.
                Ok(None) if self.request.args.names.iter().any(|named| known_as(object, named)) => {
                    let failure = Failure::from(LegacyError::NotFound(object.clone()));
                    self.failed(Document::unreadable(object, &name, &failure), &failure)?;
                    continue;
                }
                Ok(None) => continue,
                Err(failure @ Failure::Signal(_)) => return Err(failure),
                Err(failure) => {
                    self.failed(Document::unreadable(object, &name, &failure), &failure)?;
                    continue;
                }
            };
            match self.request.check(&map, &name, &taken) {
                Ok(()) => {
                    taken.insert(name.clone());
                    maps.push(Wanted { map, name });
                }
                Err(failure) => self.failed(Document::examined(&map, &name, "refused"), &failure)?,
            }
        }
        Ok(maps)
    }

    fn import_all(&mut self, maps: &[Wanted]) -> Result<(), Failure> {
        if !self.request.args.dry_run {
            return maps.iter().try_for_each(|wanted| self.import_one(wanted));
        }
        let (mut table, mut sum) = (table(), Ways::default());
        for wanted in maps {
            match self.expect_one(wanted, &mut sum) {
                Ok(document) => {
                    table.row(row(&document));
                    self.print(&document)?;
                }
                Err(failure @ Failure::Signal(_)) => return Err(failure),
                Err(failure) => self.failed(Document::examined(&wanted.map, &wanted.name, "refused"), &failure)?,
            }
        }
        if self.context.out.json {
            return Ok(());
        }
        table.print(&mut self.context.out)?;
        self.context.out.line(&format!("At most: {}", in_words(&sum)))
    }

    /// Says what would be done with a map.
    fn expect_one(&self, wanted: &Wanted, sum: &mut Ways) -> Result<Document, Failure> {
        let mut document = Document::examined(&wanted.map, &wanted.name, "would_import");
        if self.store.info(&wanted.name).is_ok() {
            document.state = "would_compare";
            return Ok(document);
        }
        let (request, link) = (self.request, self.request.args.link);
        let ways = expect(&self.store, &request.old, &wanted.map, link, &self.known, &mut || request.watch())
            .map_err(|error| request.failure(error))?;
        document.count(&ways);
        sum.add_all(&ways);
        Ok(document)
    }

    /// Imports one map, unless it is there. Fails only with what ends the whole command.
    fn import_one(&mut self, wanted: &Wanted) -> Result<(), Failure> {
        let job = Job {
            store: &self.store,
            old: &self.request.old,
            map: &wanted.map,
            name: &wanted.name,
            link: self.request.args.link,
            skip_damaged: self.request.args.skip_damaged,
            known: &self.known,
        };
        let progress = Progress::new(self.context.out.json, Some(wanted.map.map.header.size));
        let mut watch = |position| {
            progress.at(position);
            self.request.watch()
        };
        let done = match job.remove_leftover().map_err(LegacyError::from).and_then(|()| job.present(&mut watch)) {
            Ok(None) => job.build(&mut watch).map(Some),
            Ok(Some(true)) => Ok(None),
            Ok(Some(false)) => Err(Error::Exists(format!(
                "{} (and differs from {} in the old store; --rename gives that another name)",
                wanted.name, wanted.map.map.object
            ))
            .into()),
            Err(error) => Err(error),
        };
        drop(progress);
        let mut document = Document::examined(&wanted.map, &wanted.name, "failed");
        match done.map_err(|error| self.request.failure(error)) {
            Ok(Some(built)) => {
                self.counts[0] += 1;
                document.state = "imported";
                self.report_built(document, &built)
            }
            Ok(None) => {
                self.counts[1] += 1;
                document.state = "present";
                self.print(&document)?;
                if self.context.out.json {
                    return Ok(());
                }
                self.context.out.line(&format!("{}: there already, with the same content", wanted.name))
            }
            Err(failure @ Failure::Signal(_)) => Err(failure),
            Err(failure) => self.failed(document, &failure),
        }
    }

    fn report_built(&mut self, mut document: Document, built: &Built) -> Result<(), Failure> {
        for damage in &built.damages {
            let end = damage.offset + damage.len;
            self.context
                .note(&format!("{}: bytes {} to {end} are zeros now: {}", document.name, damage.offset, damage.what));
        }
        let unnamed = built.damage_count - built.damages.len() as u64;
        if unnamed > 0 {
            self.context.note(&format!("{}: {unnamed} more blocks are zeros now", document.name));
        }
        if !self.context.out.json {
            let size = document.size.map(exact).unwrap_or_default();
            let what = in_words(&built.ways);
            self.context.out.line(&format!("Imported {}: {size}, {what}", document.name))?;
            return self.context.out.flush();
        }
        document.count(&built.ways);
        (document.damaged, document.damages) = (built.damage_count, built.damages.clone());
        self.print(&document)
    }
}

fn table() -> Table {
    Table::new(&[
        ("NAME", Align::Left),
        ("VERSION", Align::Right),
        ("KIND", Align::Left),
        ("SIZE", Align::Right),
        ("EPOCH", Align::Right),
        ("BLOCKS", Align::Right),
        ("MISSING", Align::Right),
        ("NOTES", Align::Left),
    ])
}

fn row(document: &Document) -> Vec<String> {
    let number = |value: Option<u64>| value.map_or("-".to_string(), |value| value.to_string());
    let mut notes = Vec::new();
    if document.state.starts_with("would_") {
        notes.push(document.state.replace('_', " "));
    }
    if document.name != volume_name(&document.object) {
        notes.push(format!("from {}", document.object));
    }
    if let (Some(present), Some(reflinked)) = (document.present, document.reflinked) {
        let (linked, copied) = (document.linked.unwrap_or_default(), document.copied.unwrap_or_default());
        notes.push(in_words(&Ways { present, reflinked, linked, copied }));
    }
    if let Some(owner) = &document.locked_by {
        notes.push(format!("locked by {}", owner.escape_debug()));
    }
    if let Some(error) = &document.error {
        notes.push(error.message.clone());
    }
    vec![
        document.name.clone(),
        number(document.version.map(u64::from)),
        document.kind.unwrap_or("-").to_string(),
        document.size.map_or("-".to_string(), size::human),
        number(document.epoch),
        number(document.blocks),
        number(document.missing),
        notes.join("; "),
    ]
}
