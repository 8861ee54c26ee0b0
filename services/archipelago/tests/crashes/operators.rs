//! Those who run commands while volumes are under load: one takes snapshots, one keeps volumes that nobody writes to,
//! one collects, repairs and hashes, one only looks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::commands::{Answer, Commands};
use crate::hashes::check_hash;
use crate::history::{Random, SECTOR, Versions};
use crate::load::{Progress, SIZE};
use crate::names::{Content, Map, Names, Realm, Taken};
use crate::site::{MIB, Site};

/// Maps that an operator keeps at most.
const KEPT: usize = 5;
/// Options with which a command is another one, for the tally.
const KINDS: [&str; 4] = ["--group", "--repair", "--dry-run", "--data"];

/// Names of the volumes under load, and how far their loads are.
pub const LOADED: [&str; 3] = ["loaded-0", "loaded-1", "loaded-2"];

/// What all operators of one cycle see.
pub struct Scene<'a> {
    pub site: &'a Site,
    pub commands: &'a Commands<'a>,
    pub progress: &'a [Progress; 3],
    /// The server had its end.
    pub over: &'a AtomicBool,
    /// Snapshots that stay for this cycle: name, size in bytes, content.
    pub pinned: &'a [(String, u64, Arc<Versions>)],
    /// An image for `import`, and streams for `receive`: file and content.
    pub image: &'a (String, Arc<Versions>),
    pub streams: &'a [(String, Arc<Versions>)],
    pub tally: &'a Tally,
}

/// Commands that were told to have succeeded, and those that were interrupted, by name.
#[derive(Default)]
pub struct Tally(parking_lot::Mutex<BTreeMap<String, (u32, u32)>>);

impl Tally {
    fn count(&self, command: &str, told: bool) {
        let mut counts = self.0.lock();
        let count = counts.entry(command.to_string()).or_default();
        *(if told { &mut count.0 } else { &mut count.1 }) += 1;
    }

    /// One line: each command with both numbers.
    pub fn summary(&self) -> String {
        let counts = self.0.lock();
        let text: Vec<String> = counts.iter().map(|(c, (told, cut))| format!("{c} {told}+{cut}")).collect();
        text.join(", ")
    }
}

/// A command, and what names are when it has done its work.
struct Plan {
    arguments: Vec<String>,
    /// A file.
    input: Option<String>,
    after: Names,
    /// Snapshots of loaded volumes among these, whose bounds are known only afterwards.
    taken: Vec<String>,
    /// What the snapshot holds that is hashed.
    hashed: Option<Arc<Versions>>,
}

impl Plan {
    fn new(arguments: &[&str], after: Names) -> Plan {
        let arguments = arguments.iter().map(|a| a.to_string()).collect();
        Plan { arguments, input: None, after, taken: Vec::new(), hashed: None }
    }
}

/// How an operator chooses its next command.
type Choose = fn(&mut Realm, &Scene<'_>, &mut Random) -> Plan;

/// Runs commands until the end.
///
/// # Errors
/// A command failed although nothing was in its way, or said something wrong.
fn operate(realm: &mut Realm, choose: Choose, scene: &Scene<'_>, random: &mut Random) -> Result<(), String> {
    loop {
        let mut plan = choose(realm, scene, random);
        let Some(answer) = scene.commands.run(&plan.arguments, plan.input.as_deref()) else { return Ok(()) };
        let late = scene.over.load(Ordering::SeqCst);
        for name in &plan.taken {
            let Some(Map { content: Content::Taken(taken), .. }) = plan.after.get_mut(name) else { continue };
            taken.late = late;
            // Whatever was sent to the server before its end may be in it; one that was asked for by a command that died may be
            // taken any time later.
            let issued = scene.progress[taken.volume].issued.load(Ordering::SeqCst);
            taken.to = if late || !matches!(answer, Answer::Done(_)) { u32::MAX } else { issued };
        }
        let kind = plan.arguments.iter().find(|argument| KINDS.contains(&argument.as_str()));
        let command = format!("{}{}", plan.arguments[0], kind.map_or(String::new(), |kind| format!(" {kind}")));
        match &answer {
            Answer::NotNow => {}
            _ => scene.tally.count(&command, matches!(answer, Answer::Done(_))),
        }
        match answer {
            Answer::Done(said) => {
                if let Some(content) = plan.hashed {
                    check_hash(&said, &content).map_err(|e| format!("{:?}: {e}", plan.arguments))?;
                }
                realm.now = plan.after;
            }
            Answer::NotNow => {}
            Answer::Refused(error) if !late => return Err(format!("{:?}: {error}", plan.arguments)),
            Answer::Refused(_) | Answer::Killed => {
                realm.maybe = Some(plan.after);
                return Ok(());
            }
        }
    }
}

/// Takes, renames and removes snapshots of the volumes under load.
pub fn keep_snapshots(realm: &mut Realm, scene: &Scene<'_>, random: &mut Random) -> Result<(), String> {
    operate(realm, choose_for_snapshots, scene, random)
}

fn choose_for_snapshots(realm: &mut Realm, scene: &Scene<'_>, random: &mut Random) -> Plan {
    let free: Vec<String> =
        realm.now.keys().filter(|name| !scene.pinned.iter().any(|(pinned, ..)| pinned == *name)).cloned().collect();
    let mut after = realm.now.clone();
    if free.is_empty() || realm.now.len() < KEPT && random.below(3) > 0 {
        // One, or several of one instant, all or none.
        let count = if random.below(3) == 0 { 2 + random.below(2) as usize } else { 1 };
        let first = random.below(3) as usize;
        let mut taken = Vec::new();
        for volume in (0..count).map(|i| (first + i) % LOADED.len()) {
            let name = realm.fresh();
            let from = scene.progress[volume].answered.load(Ordering::SeqCst);
            let content = Content::Taken(Taken { volume, from, to: u32::MAX, late: true });
            after.insert(name.clone(), Map { size: None, snapshot: true, content });
            taken.push((LOADED[volume], name));
        }
        let names = taken.iter().map(|(_, name)| name.clone()).collect();
        let plan = match &taken[..] {
            [(volume, name)] => Plan::new(&["snapshot", volume, name], after),
            _ => {
                let pairs: Vec<String> = taken.iter().map(|(volume, name)| format!("{volume}={name}")).collect();
                let pairs = pairs.iter().map(String::as_str);
                Plan::new(&["snapshot", "--group"].into_iter().chain(pairs).collect::<Vec<_>>(), after)
            }
        };
        return Plan { taken: names, ..plan };
    }
    let name = &free[random.below(free.len() as u64) as usize];
    let map = after.remove(name);
    if random.below(2) == 0 {
        return Plan::new(&["remove", name], after);
    }
    let new = realm.fresh();
    after.extend(map.map(|map| (new.clone(), map)));
    Plan::new(&["rename", name, &new], after)
}

/// Clones, imports, receives, snapshots, renames, resizes, compacts and removes volumes that nobody has open, and resizes those under load.
pub fn keep_volumes(realm: &mut Realm, scene: &Scene<'_>, random: &mut Random) -> Result<(), String> {
    operate(realm, choose_for_volumes, scene, random)
}

fn choose_for_volumes(realm: &mut Realm, scene: &Scene<'_>, random: &mut Random) -> Plan {
    let mut after = realm.now.clone();
    let mut pick = |names: Vec<&String>| -> Option<String> {
        (!names.is_empty()).then(|| names[random.below(names.len() as u64) as usize].clone())
    };
    let idle = |(name, map): &(&String, &Map)| !map.snapshot && !LOADED.contains(&name.as_str());
    let volume = pick(realm.now.iter().filter(idle).map(|(name, _)| name).collect());
    let any = pick(realm.now.keys().filter(|name| !LOADED.contains(&name.as_str())).collect());
    let full = realm.now.len() >= KEPT + LOADED.len();
    match (random.below(14), volume, any) {
        (0..=1, _, Some(name)) => {
            after.remove(&name);
            Plan::new(&["remove", &name], after)
        }
        (2..=3, _, Some(name)) => {
            let new = realm.fresh();
            let map = after.remove(&name);
            after.extend(map.map(|map| (new.clone(), map)));
            Plan::new(&["rename", &name, &new], after)
        }
        (4..=5, Some(name), _) => resize(&name, SECTOR * random.below((SIZE + 4 * MIB) / SECTOR).max(1), after),
        (6, ..) => {
            let name = LOADED[random.below(3) as usize];
            resize(name, SIZE + SECTOR * random.below(4 * MIB / SECTOR), after)
        }
        (7, Some(name), _) => Plan::new(&["compact", &name, "--max-extents", "0"], after),
        (8, Some(name), _) if !full => {
            let new = realm.fresh();
            let map = after.get(&name).cloned();
            after.extend(map.map(|map| (new.clone(), Map { snapshot: true, ..map })));
            Plan::new(&["snapshot", &name, &new], after)
        }
        (9, ..) if !full => {
            let (new, (file, content)) = (realm.fresh(), scene.image);
            let size = Some(content.len() as u64 * SECTOR);
            after.insert(new.clone(), Map { size, snapshot: false, content: Content::Known(content.clone()) });
            Plan::new(&["import", file, &new, "--format", "raw"], after)
        }
        (10, ..) if !full => {
            let new = realm.fresh();
            let (file, content) = &scene.streams[random.below(scene.streams.len() as u64) as usize];
            let size = Some(content.len() as u64 * SECTOR);
            after.insert(new.clone(), Map { size, snapshot: true, content: Content::Known(content.clone()) });
            Plan { input: Some(file.clone()), ..Plan::new(&["receive", &new], after) }
        }
        (_, _, Some(name)) if full => {
            after.remove(&name);
            Plan::new(&["remove", &name], after)
        }
        _ => {
            let new = realm.fresh();
            let (source, size, content) = &scene.pinned[random.below(scene.pinned.len() as u64) as usize];
            let map = Map { size: Some(*size), snapshot: false, content: Content::Known(content.clone()) };
            after.insert(new.clone(), map);
            Plan::new(&["clone", source, &new], after)
        }
    }
}

fn resize(name: &str, size: u64, mut after: Names) -> Plan {
    if let Some(map) = after.get_mut(name) {
        map.size = Some(size);
        if let Content::Known(content) = &mut map.content {
            let mut resized = content.to_vec();
            resized.resize((size / SECTOR) as usize, 0);
            *content = Arc::new(resized);
        }
    }
    Plan::new(&["resize", name, &size.to_string(), "--shrink"], after)
}

/// Looks at everything, and changes nothing.
pub fn look_around(realm: &mut Realm, scene: &Scene<'_>, random: &mut Random) -> Result<(), String> {
    operate(realm, choose_for_looking, scene, random)
}

fn choose_for_looking(_: &mut Realm, scene: &Scene<'_>, random: &mut Random) -> Plan {
    let snapshot = &scene.pinned[random.below(scene.pinned.len() as u64) as usize].0;
    let file = scene.site.text("exported");
    let arguments = match random.below(9) {
        0 => vec!["status"],
        1 => vec!["list", "--usage"],
        2 => vec!["mapinfo", snapshot],
        3 => vec!["send", "--dry-run", snapshot],
        4 => vec!["send", snapshot],
        5 => vec!["send", "golden-2", "--from", "golden"],
        6 => vec!["check"],
        7 => vec!["check", "--data"],
        _ => vec!["export", snapshot, &file, "--force"],
    };
    Plan::new(&arguments, Names::new())
}

/// Collects, repairs, scrubs, and hashes snapshots.
pub fn keep_house(realm: &mut Realm, scene: &Scene<'_>, random: &mut Random) -> Result<(), String> {
    operate(realm, choose_for_the_house, scene, random)
}

fn choose_for_the_house(_: &mut Realm, scene: &Scene<'_>, random: &mut Random) -> Plan {
    match random.below(12) {
        0..=2 => Plan::new(&["gc"], Names::new()),
        3 => Plan::new(&["gc", "--grace", "0"], Names::new()),
        4 => Plan::new(&["gc", "--dry-run"], Names::new()),
        5..=6 => Plan::new(&["check", "--repair"], Names::new()),
        7..=8 => Plan::new(&["scrub"], Names::new()),
        _ => {
            let (name, _, content) = &scene.pinned[random.below(scene.pinned.len() as u64) as usize];
            Plan { hashed: Some(content.clone()), ..Plan::new(&["hash", name, "--json"], Names::new()) }
        }
    }
}

/// A number that no two changes of a run share.
pub type Numbers = AtomicU32;
