//! One store that comes to an end again and again, whatever is running, and is looked at each time.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use archipelago_core::blocker::sim::Syncs;
use archipelago_service::nbd::wire::option;

use crate::commands::{Commands, REPAIRABLE, REPAIRED};
use crate::disk::Disk;
use crate::filesystem::Image;
use crate::hashes::check_hash;
use crate::history::{Change, Kind, Random, SECTOR, Versions, check, versions};
use crate::life::{End, Life};
use crate::listing::{listed, send, succeeds};
use crate::load::{Done, Progress, SIZE, draw, load};
use crate::names::{Content, Map, Names, Realm};
use crate::operators::{LOADED, Numbers, Scene, Tally, keep_house, keep_snapshots, keep_volumes, look_around};
use crate::raw_client::{go, opt};
use crate::site::{MIB, Server, Site};

/// Bytes of the image that is imported under load, and of the snapshot that differs from the golden one.
const IMPORT: u64 = 2 * MIB;
const SECOND: u64 = 9 * MIB + 512;

/// What a run did.
#[derive(Default)]
pub struct Figures {
    /// Ends under load.
    pub cuts: u64,
    pub kills: u64,
    /// Ends that came while the store recovered from another.
    pub cuts_in_recovery: u64,
    pub kills_in_recovery: u64,
    pub changes: u64,
    pub flushes: u64,
    /// Sectors in which a change had to be found.
    pub sectors: u64,
    pub snapshots: u64,
    pub steps: u64,
    /// By the server on its own account, if they found something to remove.
    pub collections: u64,
    pub tally: Tally,
}

/// A store, and what is known of it.
pub struct Run {
    server: Option<Server>,
    /// Where the store lies, unless it is in a plain directory.
    disk: Option<Disk>,
    dropped: Syncs,
    site: Site,
    /// What the volumes under load hold, without what lies behind [`SIZE`].
    holds: [Versions; 3],
    golden: Realm,
    snapshots: Realm,
    volumes: Realm,
    nothing: [Realm; 2],
    image: (String, Arc<Versions>),
    streams: [(String, Arc<Versions>); 2],
    numbers: Numbers,
    /// Collections that the servers' log has told of so far.
    collected: u64,
    pub figures: Figures,
}

impl Drop for Run {
    fn drop(&mut self) {
        // A process that waits for a frozen disk cannot die.
        if let Some(disk) = &self.disk {
            disk.power.off();
        }
        if thread::panicking() {
            println!("{}", self.site.log());
        }
    }
}

impl Run {
    /// A store on a disk that forgets; `dropped` syncs do nothing.
    pub fn on_a_disk(random: &mut Random, dropped: Syncs) -> Run {
        let site = Site::without_store();
        fs::create_dir(site.path("store")).unwrap();
        let disk = Disk::mount(&site.path("store"), Image::default());
        let mut run = Run::new(site, Some(disk), random);
        run.dropped = dropped;
        run.mount_with_bugs();
        run
    }

    /// A store in a directory of this machine's own disk.
    pub fn in_a_directory(random: &mut Random) -> Run {
        Run::new(Site::without_store(), None, random)
    }

    /// A fresh volume, a clone of an imported image, and a volume of small blocks.
    fn new(site: Site, disk: Option<Disk>, random: &mut Random) -> Run {
        // Small, so that checkpoints run all the time; and the server collects and hashes as often as it can be told to.
        fs::create_dir_all(site.path("xdg/archipelago")).unwrap();
        let configuration = "max_unfolded = \"2M\"\n[serve]\ngc_interval = 1\nhash_interval = 1\nhash_age = 0\n";
        fs::write(site.path("xdg/archipelago/archipelago.toml"), configuration).unwrap();
        let numbers = Numbers::new(0);
        let mut image = vec![0; SIZE as usize];
        for _ in 0..100 {
            let change = Change { kind: Kind::Write, ..draw(random, numbers.fetch_add(1, Ordering::SeqCst) + 1) };
            let at = change.offset as usize;
            image[at..at + change.len as usize].copy_from_slice(&change.payload());
        }
        fs::write(site.path("image"), &image).unwrap();
        fs::write(site.path("small"), &image[..IMPORT as usize]).unwrap();
        let size = SIZE.to_string();
        site.ok(&["init"]);
        site.ok(&["import", &site.text("image"), "golden.import", "--format", "raw", "--snapshot", "golden"]);
        site.ok(&["remove", "golden.import"]);
        // A second one, to be sent as what differs.
        site.ok(&["clone", "golden", "golden.clone"]);
        site.ok(&["resize", "golden.clone", &SECOND.to_string(), "--shrink"]);
        site.ok(&["snapshot", "golden.clone", "golden-2"]);
        site.ok(&["remove", "golden.clone"]);
        let streams = ["whole", "differs"].map(|name| site.text(name));
        send(&site, &["golden"], &streams[0]).unwrap();
        send(&site, &["golden-2", "--from", "golden"], &streams[1]).unwrap();
        site.ok(&["create", LOADED[0], "--size", &size]);
        site.ok(&["clone", "golden", LOADED[1]]);
        site.ok(&["create", LOADED[2], "--size", &size, "--block-size", "64K"]);
        let (empty, content) = (vec![0; (SIZE / SECTOR) as usize], versions(&image).unwrap());
        let imported = Arc::new(content[..(IMPORT / SECTOR) as usize].to_vec());
        let second = Arc::new(content[..(SECOND / SECTOR) as usize].to_vec());
        let contents = [Arc::new(content.clone()), second];
        let known = |name: &str, content: &Arc<Versions>| {
            let size = Some(content.len() as u64 * SECTOR);
            (name.to_string(), Map { size, snapshot: true, content: Content::Known(content.clone()) })
        };
        let golden = Names::from([known("golden", &contents[0]), known("golden-2", &contents[1])]);
        let loaded = |i| Map { size: Some(SIZE), snapshot: false, content: Content::Loaded(i) };
        let loaded: Names = LOADED.iter().enumerate().map(|(i, name)| (name.to_string(), loaded(i))).collect();
        Run {
            server: None,
            disk,
            dropped: Syncs::None,
            holds: [empty.clone(), content, empty],
            golden: Realm::new(&["golden"], golden),
            snapshots: Realm::new(&["snap-"], Names::new()),
            volumes: Realm::new(&["idle-", "loaded-"], loaded),
            nothing: [(); 2].map(|()| Realm::new(&[], Names::new())),
            image: (site.text("small"), imported),
            streams: [(streams[0].clone(), contents[0].clone()), (streams[1].clone(), contents[1].clone())],
            numbers,
            collected: 0,
            figures: Figures::default(),
            site,
        }
    }

    /// Keeps the files of a store that is not as it should be, and says where.
    pub fn keep(mut self) -> String {
        self.server = None;
        let kept = self.site.path("kept");
        if let Some(disk) = &mut self.disk {
            // What is on a disk in memory is gone with the test, so it is copied; it may be off.
            disk.replace(Image::clone);
            let copied =
                std::process::Command::new("cp").arg("-a").args([self.site.path("store"), kept.clone()]).status();
            self.disk = None;
            if !copied.is_ok_and(|status| status.success()) {
                return "its files could not be copied".to_string();
            }
        }
        self.site.dir.disable_cleanup(true);
        format!("the store is kept in {}", self.site.dir.path().display())
    }

    /// Serves, loads, ends, and looks at what is left.
    ///
    /// # Errors
    /// Something is not as it should be.
    pub fn cycle(&mut self, random: &mut Random) -> Result<(), String> {
        if self.server.is_none() {
            self.server = Some(self.start()?);
        }
        let life = Life::draw(self.disk.is_some(), random);
        let done = self.live(life, random)?;
        match life.end {
            End::Cut(_) => self.figures.cuts += 1,
            _ => self.figures.kills += 1,
        }
        self.apply(life.end);
        let mut ends = vec![life.end];
        for _ in 0..random.below(3) {
            // Where something is wrong, it is found below.
            ends.push(self.recover_in_vain(random));
        }
        if random.below(2) == 0 {
            // Nothing has recovered yet, and what recovery needs has to be kept.
            succeeds(&self.site, &["gc"]).map_err(|e| format!("{e}\nbefore recovery, after {life:?} and {ends:?}"))?;
        }
        if random.below(2) == 0 {
            // What can be repaired now, recovery has to put right if the check does not.
            let (arguments, right): (&[&str], i32) = match random.below(2) {
                0 => (&["check"], REPAIRABLE),
                _ => (&["check", "--repair"], REPAIRED),
            };
            let found = self.site.run(arguments);
            if !matches!(found.status.code(), Some(code) if code == 0 || code == right) {
                let text =
                    [found.stdout, found.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
                let what = format!("{arguments:?} before recovery: {}: {text}", found.status);
                return Err(format!("{what}\nafter {life:?} and {ends:?}"));
            }
        }
        let server = self.start()?;
        self.server = Some(server);
        self.look(&done, random).map_err(|e| format!("{e}\nafter {life:?} and {ends:?}"))?;
        self.hash_one(random)?;
        // No checksum that was made before says anything wrong of what is there now.
        succeeds(&self.site, &["scrub"]).map_err(|e| format!("{e}\nafter {life:?} and {ends:?}"))?;
        self.read_log()?;
        self.go_on(random)
    }

    /// A server that clients can connect to.
    fn start(&self) -> Result<Server, String> {
        let mut server = self.site.start("nbd");
        match server.wait_until_ready() {
            line if line.contains("\"ready\"") => Ok(server),
            line => Err(format!("the server did not start: {line}{}", self.site.log())),
        }
    }

    /// All that runs, until the end. Afterwards no process of the store is left, and a disk that was cut is off.
    fn live(&mut self, life: Life, random: &mut Random) -> Result<[Done; 3], String> {
        let (site, numbers) = (&self.site, &self.numbers);
        let (commands, progress, over) = (Commands::new(site), <[Progress; 3]>::default(), AtomicBool::new(false));
        let pinned = self.golden.now.iter().chain(self.snapshots.now.iter().take(2));
        let pinned: Vec<(String, u64, Arc<Versions>)> = pinned
            .filter_map(|(name, map)| match (&map.content, map.size) {
                (Content::Known(content), Some(size)) => Some((name.clone(), size, content.clone())),
                _ => None,
            })
            .collect();
        let (image, streams, tally) = (&self.image, &self.streams, &self.figures.tally);
        let (commands, progress, over) = (&commands, &progress, &over);
        let scene = &Scene { site, commands, progress, over, pinned: &pinned, image, streams, tally };
        let [looking, keeping] = &mut self.nothing;
        let realms = [&mut self.snapshots, &mut self.volumes, looking, keeping];
        let (server, disk) = (self.server.as_mut().ok_or("no server")?, self.disk.as_ref());
        let (done, errors) = thread::scope(|scope| {
            let load = |(volume, progress)| {
                let seed = random.next();
                scope.spawn(move || load(site, volume, seed, numbers, progress))
            };
            let loads: Vec<_> = LOADED.into_iter().zip(progress).map(load).collect();
            // The life is one under load, so it begins when all are connected and at work.
            let at_work = |p: &Progress| p.answered.load(Ordering::SeqCst) > 0;
            while !progress.iter().all(at_work) && !loads.iter().any(|l| l.is_finished()) {
                thread::sleep(Duration::from_millis(1));
            }
            let work = [keep_snapshots, keep_volumes, look_around, keep_house];
            let operators: Vec<_> = work
                .into_iter()
                .zip(realms)
                .map(|(work, realm)| {
                    let mut random = Random(random.next());
                    scope.spawn(move || work(realm, scene, &mut random))
                })
                .collect();
            let wrong = || loads.iter().any(|l| l.is_finished()) || operators.iter().any(|o| o.is_finished());
            if life.stopping {
                over.store(true, Ordering::SeqCst);
                server.begin_stop();
            }
            match disk {
                Some(disk) => {
                    disk.power.freeze_after(life.steps);
                    disk.power.wait(|| if life.stopping { server.has_ended() } else { wrong() });
                }
                None => thread::sleep(life.time),
            }
            if matches!(life.end, End::CommandsKilled) {
                commands.kill();
                thread::sleep(life.pause);
            }
            over.store(true, Ordering::SeqCst);
            match life.end {
                End::ServerKilled => commands.stop(),
                _ => commands.kill(),
            }
            server.begin_kill();
            if let Some(disk) = disk {
                disk.power.off();
            }
            let done: Vec<Done> = loads.into_iter().filter_map(|l| l.join().ok()).collect();
            let errors: Vec<String> = operators
                .into_iter()
                .filter_map(|o| o.join().unwrap_or_else(|_| Err("an operator gave up".to_string())).err())
                .collect();
            (done, errors)
        });
        server.kill();
        self.server = None;
        match errors.first() {
            Some(error) => Err(format!("{error}{}", self.site.log())),
            None => done.try_into().map_err(|_| format!("a load ended with an error{}", self.site.log())),
        }
    }

    /// Makes of the disk what the end leaves of it.
    fn apply(&mut self, end: End) {
        let Some(disk) = &mut self.disk else { return };
        self.figures.steps += disk.power.steps();
        disk.replace(|image| match end {
            End::Cut(seed) => image.survivor(seed),
            _ => {
                let mut image = image.clone();
                image.inodes.forget(|_| false);
                image
            }
        });
        self.mount_with_bugs();
    }

    fn mount_with_bugs(&mut self) {
        if let Some(disk) = &self.disk {
            disk.drop_syncs(self.dropped);
        }
    }

    /// Lets a server open the volumes, which recovers them, and ends that in the middle.
    fn recover_in_vain(&mut self, random: &mut Random) -> End {
        let (steps, life) = (random.below(80), Duration::from_millis(random.below(40)));
        let mut server = self.site.start("nbd");
        let site = &self.site;
        let beside: Option<&[&str]> = match random.below(4) {
            0 => Some(&["gc"]),
            1 => Some(&["check", "--repair"]),
            _ => None,
        };
        let mut beside = beside.map(|arguments| {
            let mut command = site.command(arguments);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        });
        let disk = self.disk.as_ref();
        thread::scope(|scope| {
            if let Some(disk) = disk {
                disk.power.freeze_after(steps);
            }
            let began = Instant::now();
            let openers: Vec<_> = LOADED.iter().map(|volume| scope.spawn(move || open(site, volume))).collect();
            let opened = || openers.iter().all(|o| o.is_finished());
            match disk {
                Some(disk) => drop(disk.power.wait(opened)),
                None => {
                    while !opened() && began.elapsed() < life {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
            }
            server.begin_kill();
            if let Some(beside) = &mut beside {
                beside.kill().unwrap();
            }
            if let Some(disk) = disk {
                disk.power.off();
            }
        });
        server.kill();
        if let Some(beside) = &mut beside {
            beside.wait().unwrap();
        }
        let end = match (&self.disk, random.below(4)) {
            (Some(_), 1..) => End::Cut(random.next() | 2),
            _ => End::Killed,
        };
        match end {
            End::Cut(_) => self.figures.cuts_in_recovery += 1,
            _ => self.figures.kills_in_recovery += 1,
        }
        self.apply(end);
        end
    }

    /// Looks at everything, and settles what was open.
    fn look(&mut self, done: &[Done; 3], random: &mut Random) -> Result<(), String> {
        let listed = listed(&self.site, random)?;
        for realm in [&mut self.golden, &mut self.snapshots, &mut self.volumes] {
            realm.settle(&listed)?;
        }
        let realms = [&self.golden, &self.snapshots, &self.volumes];
        if let Some(name) = listed.keys().find(|name| !realms.iter().any(|realm| realm.has(name))) {
            return Err(format!("{name}: nobody made it"));
        }
        let mut settled: BTreeMap<String, Arc<Versions>> = BTreeMap::new();
        for (name, map) in realms.iter().flat_map(|realm| &realm.now) {
            let failed = |e| format!("{name}: {e}");
            let size = map.size.unwrap_or_default();
            let mut client = self.site.connect(name).map_err(failed)?;
            let found = versions(&client.try_read_all(size).map_err(failed)?).map_err(failed)?;
            match &map.content {
                Content::Known(content) => {
                    if found != **content {
                        return Err(failed(format!(
                            "differs from what it was in sector {:?}",
                            differs(&found, content)
                        )));
                    }
                    self.figures.sectors += found.len() as u64;
                }
                Content::Taken(taken) => {
                    let done = &done[taken.volume];
                    let last = done.changes.partition_point(|c| c.number <= taken.to);
                    let must = |c: &Change| c.number <= taken.from && (!taken.late || done.is_durable(c));
                    let failed = |e| failed(format!("{taken:?}: {e}"));
                    let head = head(&found).map_err(failed)?;
                    let sectors =
                        check(&head, &self.holds[taken.volume], &done.changes[..last], must).map_err(failed)?;
                    self.figures.sectors += sectors as u64;
                    self.figures.snapshots += 1;
                    settled.insert(name.clone(), Arc::new(found));
                }
                Content::Loaded(volume) => {
                    let done = &done[*volume];
                    let head = head(&found).map_err(failed)?;
                    // Where the machine goes on, what was answered is there. The disk that forgets is a FUSE file system, of which
                    // nobody believes that.
                    let machine_goes_on = self.disk.is_none();
                    let sectors = done.check(&head, &self.holds[*volume], machine_goes_on).map_err(failed)?;
                    self.figures.sectors += sectors as u64;
                    self.figures.changes += done.changes.len() as u64;
                    self.figures.flushes += done.flushes;
                    // From now on it is durable, whatever of it was.
                    client.flush();
                    settled.insert(name.clone(), Arc::new(head));
                }
            }
        }
        for (name, content) in settled {
            match self.snapshots.now.get_mut(&name) {
                Some(map) => map.content = Content::Known(content),
                None => {
                    let volume =
                        LOADED.iter().position(|loaded| *loaded == name).ok_or("a volume that is not loaded")?;
                    self.holds[volume] = content.to_vec();
                }
            }
        }
        Ok(())
    }

    /// Hashes a snapshot: whatever was hashed before the end, or only begun, it is the hash of what it holds.
    fn hash_one(&self, random: &mut Random) -> Result<(), String> {
        let snapshots: Vec<_> = self.golden.now.iter().chain(&self.snapshots.now).collect();
        let (name, map) = snapshots[random.below(snapshots.len() as u64) as usize];
        let Content::Known(content) = &map.content else { return Err(format!("{name}: was not looked at")) };
        let said = succeeds(&self.site, &["hash", name, "--json"])?;
        check_hash(&said, content).map_err(|e| format!("hash {name}: {e}"))
    }

    /// A server can tell only here that a collection of its own failed, or that it could not hash.
    fn read_log(&mut self) -> Result<(), String> {
        let log = self.site.log();
        if let Some(what) =
            ["collection: ", "hashing"].iter().find(|what| log.contains(&format!("archipelago: {what}")))
        {
            return Err(format!("the server had trouble with {what}{log}"));
        }
        let collected = log.matches("archipelago: collected ").count() as u64;
        self.figures.collections += collected - self.collected;
        self.collected = collected;
        Ok(())
    }

    /// Now and then the server stops well, and the clone is made anew.
    fn go_on(&mut self, random: &mut Random) -> Result<(), String> {
        self.site.wait_until_nothing_is_open();
        // Clean, whatever is left over by commands that came to nothing.
        succeeds(&self.site, &["check"])?;
        if random.below(5) == 0 {
            succeeds(&self.site, &["remove", LOADED[1]])?;
            succeeds(&self.site, &["clone", "golden", LOADED[1]])?;
            if let Some(Map { content: Content::Known(content), .. }) = self.golden.now.get("golden") {
                self.holds[1] = content.to_vec();
            }
            if let Some(map) = self.volumes.now.get_mut(LOADED[1]) {
                map.size = Some(SIZE);
            }
        }
        if random.below(2) == 0
            && let Some(mut server) = self.server.take()
        {
            match server.stop() {
                0 => {}
                code => return Err(format!("the server stopped with {code}{}", self.site.log())),
            }
            // Nobody else collects now, so it has to be possible; nothing may seem to be missing afterwards.
            succeeds(&self.site, &["gc"])?;
            succeeds(&self.site, &["check"])?;
        }
        Ok(())
    }
}

/// Asks a server that may not be there yet to open a volume; whatever happens is right.
fn open(site: &Site, volume: &str) {
    let began = Instant::now();
    let stream = loop {
        match UnixStream::connect(site.path("nbd")) {
            Ok(stream) => break stream,
            Err(_) if began.elapsed() > Duration::from_secs(2) => return,
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    };
    let mut request = 3u32.to_be_bytes().to_vec();
    request.extend(opt(option::GO, &go(volume, &[])));
    let _ = (&stream).write_all(&request);
    // The greeting, and the beginning of the answer, which comes when the volume is open.
    let _ = (&stream).read_exact(&mut [0; 18 + 20]);
}

/// The part of a loaded volume that its load writes to; behind it there are zeros.
fn head(found: &Versions) -> Result<Versions, String> {
    let (head, tail) = found.split_at_checked((SIZE / SECTOR) as usize).ok_or("it is too short")?;
    match tail.iter().position(|version| *version != 0) {
        None => Ok(head.to_vec()),
        Some(at) => Err(format!("sector {} behind its end is of change {}", head.len() + at, tail[at])),
    }
}

fn differs(found: &Versions, expected: &Versions) -> Option<usize> {
    (0..found.len().max(expected.len())).find(|at| found.get(*at) != expected.get(*at))
}
