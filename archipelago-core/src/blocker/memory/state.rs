//! What a backend in memory holds, how each step changes it, and what a power cut leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::blocker::sim::{Change, Content, Fate, Pages, State, Taken};
use crate::blocker::{Object, Record, RecordKey, VolumeId};
use crate::digest::Digest;

/// Headers and names of one `create_named`.
pub(super) type Batch = Arc<[(VolumeId, String, Vec<u8>)]>;

#[derive(Clone)]
pub(super) struct Stored {
    content: Content,
    /// That it exists is durable.
    durable: bool,
}

/// A record: what is read, and what else a power cut may leave in its place.
#[derive(Clone)]
struct Slot {
    current: Arc<Record>,
    /// `None` while its creation is not durable.
    durable: Option<Arc<Record>>,
    /// A commit that failed, and of which nobody knows whether it reached the disk.
    doubtful: Option<Arc<Record>>,
}

/// One step. Calls of several steps issue one after the other.
pub(super) enum Op {
    /// A step that had no effect: a dropped sync or a planned failure.
    Nothing,
    Create {
        object: Object,
        head: Vec<u8>,
        len: u64,
        durable: bool,
    },
    Change {
        object: Object,
        change: Change,
    },
    Sync(Object),
    FailedSync(Object),
    Remove(Object),
    NewRecord {
        key: RecordKey,
        bytes: Vec<u8>,
        durable: bool,
    },
    Headers(Batch),
    HeadersDurable(Batch),
    Names(Batch),
    NamesDurable(Batch),
    UnbindAll(Batch),
    Commit {
        key: RecordKey,
        record: Arc<Record>,
        durable: bool,
    },
    FailedCommit {
        key: RecordKey,
        record: Arc<Record>,
    },
    /// What is there becomes durable, and what may have reached the disk instead does not come back.
    Settle(RecordKey),
    CopyToTrash(VolumeId),
    DropHeader(VolumeId),
    RemoveRecord(RecordKey),
    Bind {
        name: String,
        volume: VolumeId,
        durable: bool,
    },
    Unbind(String),
}

/// Everything but the locks.
#[derive(Clone, Default)]
pub(super) struct Held {
    // Shared with the moments that are kept, until they change: most calls change only objects.
    objects: Arc<BTreeMap<Object, Arc<Stored>>>,
    records: Arc<BTreeMap<RecordKey, Slot>>,
    names: Arc<BTreeMap<String, VolumeId>>,
    /// Names that a crash may lose.
    loose: Arc<BTreeSet<String>>,
}

impl Held {
    pub(super) fn content(&self, object: Object) -> Option<&Content> {
        self.objects.get(&object).map(|stored| &stored.content)
    }

    pub(super) fn objects(&self, volume: VolumeId) -> Vec<Object> {
        let kinds = [
            Object::Log(volume, 0)..=Object::Log(volume, u32::MAX),
            Object::Pack(volume, 0)..=Object::Pack(volume, u32::MAX),
            Object::Data(volume, 0)..=Object::Data(volume, u64::MAX),
            Object::Redirect(volume, 0)..=Object::Redirect(volume, u64::MAX),
            Object::Sum(volume, 0)..=Object::Sum(volume, u64::MAX),
        ];
        kinds.into_iter().flat_map(|kind| self.objects.range(kind)).map(|(object, _)| *object).collect()
    }

    pub(super) fn contents(&self, first: u8) -> Vec<Digest> {
        let bound = |rest| {
            let mut digest = [rest; 32];
            digest[0] = first;
            Object::Content(Digest(digest))
        };
        let digest = |object: &Object| if let Object::Content(digest) = object { Some(*digest) } else { None };
        self.objects.range(bound(0)..=bound(0xff)).filter_map(|(object, _)| digest(object)).collect()
    }

    pub(super) fn tables(&self) -> Vec<Object> {
        let all = Object::Index(0)..=Object::Lease(u64::MAX, u64::MAX);
        self.objects.range(all).map(|(object, _)| *object).collect()
    }

    /// In the order of [`Object`].
    pub(super) fn all_objects(&self) -> impl Iterator<Item = Object> {
        self.objects.keys().copied()
    }

    pub(super) fn taken(&self) -> impl Iterator<Item = Taken<Object>> {
        self.objects.iter().map(|(object, stored)| {
            let pages = stored.content.current();
            Taken { what: *object, len: pages.len(), pages: pages.numbers() }
        })
    }

    pub(super) fn record(&self, key: RecordKey) -> Option<&Record> {
        self.records.get(&key).map(|slot| &*slot.current)
    }

    /// Whether a power cut would leave the record as it is.
    pub(super) fn is_settled(&self, key: RecordKey) -> bool {
        self.records.get(&key).is_some_and(Slot::is_settled)
    }

    pub(super) fn record_keys(&self) -> impl Iterator<Item = RecordKey> {
        self.records.keys().copied()
    }

    pub(super) fn names(&self) -> &BTreeMap<String, VolumeId> {
        &self.names
    }

    /// Pages that objects take.
    pub(super) fn used(&self) -> u64 {
        self.objects.values().map(|stored| stored.content.current().count()).sum()
    }

    /// What a power cut leaves; everything in the result is durable.
    pub(super) fn survivor(&self, seed: u64) -> Held {
        let mut objects = BTreeMap::new();
        for (object, stored) in &*self.objects {
            if stored.durable && stored.content.is_settled() {
                objects.insert(*object, stored.clone());
                continue;
            }
            let mut fate = Fate::new(seed, salt(object));
            if stored.durable || fate.coin() {
                let content = Content::settled(stored.content.survivor(&mut fate));
                objects.insert(*object, Arc::new(Stored { content, durable: true }));
            }
        }
        let mut records = BTreeMap::new();
        for (key, slot) in &*self.records {
            if slot.is_settled() {
                records.insert(*key, slot.clone());
            } else if let Some(record) = slot.survivor(&mut Fate::new(seed, salt(key))) {
                records.insert(*key, Slot { current: record.clone(), durable: Some(record), doubtful: None });
            }
        }
        let survives = |name: &String, volume: &VolumeId| {
            // A name is another way to a header: there is no name without one.
            let header = records.contains_key(&RecordKey::Header(*volume));
            (header || records.contains_key(&RecordKey::Trash(*volume)))
                && (!self.loose.contains(name) || Fate::new(seed, salt(name)).coin())
        };
        let names = self.names.iter().filter(|(name, volume)| survives(name, volume));
        let names = Arc::new(names.map(|(name, volume)| (name.clone(), *volume)).collect());
        Held { objects: Arc::new(objects), records: Arc::new(records), names, loose: Arc::default() }
    }

    /// See [`Content::evict`], for all objects.
    pub(super) fn evict(&mut self) {
        for stored in Arc::make_mut(&mut self.objects).values_mut().filter(|stored| stored.content.is_lossy()) {
            Arc::make_mut(stored).content.evict();
        }
    }

    fn change(&mut self, object: Object, change: impl FnOnce(&mut Stored)) {
        if let Some(stored) = Arc::make_mut(&mut self.objects).get_mut(&object) {
            change(Arc::make_mut(stored));
        }
    }

    fn bind(&mut self, name: &str, volume: VolumeId, durable: bool) {
        Arc::make_mut(&mut self.names).insert(name.to_string(), volume);
        if !durable {
            Arc::make_mut(&mut self.loose).insert(name.to_string());
        }
    }

    fn unbind(&mut self, name: &str) {
        Arc::make_mut(&mut self.names).remove(name);
        Arc::make_mut(&mut self.loose).remove(name);
    }
}

impl Slot {
    fn new(bytes: Vec<u8>, durable: bool) -> Slot {
        let record = Arc::new(Record { version: 1, bytes });
        Slot { durable: durable.then(|| record.clone()), current: record, doubtful: None }
    }

    /// Whether a power cut would change nothing.
    fn is_settled(&self) -> bool {
        self.doubtful.is_none() && self.durable.as_ref().is_some_and(|durable| Arc::ptr_eq(durable, &self.current))
    }

    fn survivor(&self, fate: &mut Fate) -> Option<Arc<Record>> {
        match fate {
            Fate::Durable => self.durable.clone(),
            Fate::Everything => Some(self.current.clone()),
            Fate::Random(_) => {
                if fate.coin() {
                    self.durable.clone()
                } else if fate.coin() && self.doubtful.is_some() {
                    self.doubtful.clone()
                } else {
                    Some(self.current.clone())
                }
            }
        }
    }
}

/// A number of a thing's own, the same in every run (the standard hasher does not promise that).
fn salt(thing: &impl std::fmt::Debug) -> u64 {
    let text = format!("{thing:?}");
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

impl State for Held {
    type Op = Op;

    fn weight(&self) -> usize {
        self.objects.len() + self.records.len() + self.names.len() + self.loose.len()
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Nothing => {}
            Op::Create { object, head, len, durable } => {
                let content = Content::settled(Pages::starting(head, *len));
                Arc::make_mut(&mut self.objects).insert(*object, Arc::new(Stored { content, durable: *durable }));
            }
            Op::Change { object, change } => {
                let new = || Arc::new(Stored { content: Content::default(), durable: false });
                let stored = Arc::make_mut(&mut self.objects).entry(*object).or_insert_with(new);
                Arc::make_mut(stored).content.apply(change);
            }
            Op::Sync(object) => self.change(*object, |stored| {
                stored.content.sync();
                stored.durable = true;
            }),
            Op::FailedSync(object) => self.change(*object, |stored| stored.content.lose_pending()),
            Op::Remove(object) => {
                Arc::make_mut(&mut self.objects).remove(object);
            }
            Op::NewRecord { key, bytes, durable } => {
                Arc::make_mut(&mut self.records).insert(*key, Slot::new(bytes.clone(), *durable));
            }
            Op::Headers(batch) => {
                for (volume, _, bytes) in batch.iter() {
                    Arc::make_mut(&mut self.records)
                        .insert(RecordKey::Header(*volume), Slot::new(bytes.clone(), false));
                }
            }
            Op::HeadersDurable(batch) => {
                for (volume, _, _) in batch.iter() {
                    if let Some(slot) = Arc::make_mut(&mut self.records).get_mut(&RecordKey::Header(*volume)) {
                        slot.durable = Some(slot.current.clone());
                    }
                }
            }
            Op::Names(batch) => batch.iter().for_each(|(volume, name, _)| self.bind(name, *volume, false)),
            Op::NamesDurable(batch) => batch.iter().for_each(|(_, name, _)| {
                Arc::make_mut(&mut self.loose).remove(name);
            }),
            Op::UnbindAll(batch) => batch.iter().for_each(|(_, name, _)| self.unbind(name)),
            Op::Commit { key, record, durable } => {
                if let Some(slot) = Arc::make_mut(&mut self.records).get_mut(key) {
                    slot.current = record.clone();
                    if *durable {
                        (slot.durable, slot.doubtful) = (Some(record.clone()), None);
                    }
                }
            }
            Op::FailedCommit { key, record } => {
                if let Some(slot) = Arc::make_mut(&mut self.records).get_mut(key) {
                    slot.doubtful = Some(record.clone());
                }
            }
            Op::Settle(key) => {
                if let Some(slot) = Arc::make_mut(&mut self.records).get_mut(key) {
                    (slot.durable, slot.doubtful) = (Some(slot.current.clone()), None);
                }
            }
            Op::CopyToTrash(volume) => {
                if let Some(slot) = self.records.get(&RecordKey::Header(*volume)).cloned() {
                    Arc::make_mut(&mut self.records).insert(RecordKey::Trash(*volume), slot);
                }
            }
            Op::DropHeader(volume) => {
                Arc::make_mut(&mut self.records).remove(&RecordKey::Header(*volume));
            }
            Op::RemoveRecord(key) => {
                Arc::make_mut(&mut self.records).remove(key);
            }
            Op::Bind { name, volume, durable } => self.bind(name, *volume, *durable),
            Op::Unbind(name) => self.unbind(name),
        }
    }
}
