//! Inodes and directories of a simulated disk: what each call does to them, and what a power cut leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Change, Content, Fate, State};

/// Number of the root directory.
pub(super) const ROOT: u64 = 1;

type Entries = BTreeMap<String, u64>;

/// A change of one directory.
#[derive(Clone)]
enum EntryChange {
    Put(String, u64),
    Drop(String),
    /// A rename inside the directory: both names at once.
    Move(String, String),
}

fn change_entries(entries: &mut Entries, change: &EntryChange) {
    match change {
        EntryChange::Put(name, ino) => {
            entries.insert(name.clone(), *ino);
        }
        EntryChange::Drop(name) => {
            entries.remove(name);
        }
        EntryChange::Move(from, to) => {
            if let Some(ino) = entries.remove(from) {
                entries.insert(to.clone(), ino);
            }
        }
    }
}

/// A directory: what is seen is always what is durable with all pending changes.
#[derive(Clone, Default)]
pub(super) struct Directory {
    current: Arc<Entries>,
    durable: Arc<Entries>,
    pending: Vec<EntryChange>,
}

impl Directory {
    pub(super) fn entries(&self) -> &Entries {
        &self.current
    }

    fn change(&mut self, change: EntryChange) {
        change_entries(Arc::make_mut(&mut self.current), &change);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        self.durable = self.current.clone();
        self.pending.clear();
    }

    fn survivor(&self, fate: &mut Fate) -> Arc<Entries> {
        let mut entries = self.durable.clone();
        for change in &self.pending[..fate.prefix(self.pending.len())] {
            change_entries(Arc::make_mut(&mut entries), change);
        }
        entries
    }

    /// Every inode that some outcome of a crash could lead to, with repetitions.
    fn reachable(&self) -> impl Iterator<Item = u64> {
        let pending = self.pending.iter().filter_map(|change| match change {
            EntryChange::Put(_, ino) => Some(*ino),
            _ => None,
        });
        self.current.values().chain(self.durable.values()).copied().chain(pending)
    }
}

#[derive(Clone)]
pub(super) enum Node {
    File(Content),
    Directory(Directory),
    /// A symbolic link. Its text is part of the inode: whoever finds the entry after a power cut finds all of it.
    Link(String),
}

#[derive(Clone)]
pub(super) struct Inode {
    /// Names that lead to it in the current view.
    pub(super) links: u32,
    pub(super) node: Node,
}

/// One state-changing call, with paths resolved to inodes.
pub(super) enum Op {
    /// A call that had no effect: a dropped sync or a planned failure.
    Nothing,
    Change {
        ino: u64,
        change: Change,
    },
    Sync {
        ino: u64,
    },
    SyncDirectory {
        ino: u64,
    },
    SyncAll {
        files: bool,
        directories: bool,
    },
    FailedSync {
        ino: u64,
    },
    FailedSyncAll,
    Create {
        dir: u64,
        name: String,
        directory: bool,
    },
    Symlink {
        dir: u64,
        name: String,
        target: String,
    },
    Link {
        dir: u64,
        name: String,
        ino: u64,
    },
    Unlink {
        dir: u64,
        name: String,
    },
    Rename {
        from_dir: u64,
        from: String,
        to_dir: u64,
        to: String,
    },
}

/// All of the disk but what a power cut takes away: open files and locks.
#[derive(Clone)]
pub(super) struct Files {
    inodes: BTreeMap<u64, Arc<Inode>>,
    next: u64,
}

impl Files {
    /// A disk with an empty root directory.
    pub(super) fn new() -> Files {
        let root = Inode { links: 1, node: Node::Directory(Directory::default()) };
        Files { inodes: BTreeMap::from([(ROOT, Arc::new(root))]), next: ROOT + 1 }
    }

    pub(super) fn get(&self, ino: u64) -> Option<&Inode> {
        self.inodes.get(&ino).map(|inode| &**inode)
    }

    pub(super) fn file(&self, ino: u64) -> Option<&Content> {
        match &self.get(ino)?.node {
            Node::File(content) => Some(content),
            _ => None,
        }
    }

    pub(super) fn directory(&self, ino: u64) -> Option<&Directory> {
        match &self.get(ino)?.node {
            Node::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Number that the next inode gets.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Pages in use by files that have a name or are `open`.
    pub(super) fn used(&self, open: impl Fn(u64) -> bool) -> u64 {
        let counts = self.inodes.iter().map(|(ino, inode)| match &inode.node {
            Node::File(content) if inode.links > 0 || open(*ino) => content.current().count(),
            _ => 0,
        });
        counts.sum()
    }

    /// Drops the inodes that are not `open` and that nothing can lead to any more.
    pub(super) fn collect(&mut self, open: impl Fn(u64) -> bool) {
        let mut wanted: std::collections::BTreeSet<u64> =
            self.inodes.keys().copied().filter(|ino| open(*ino)).collect();
        wanted.insert(ROOT);
        for inode in self.inodes.values() {
            if let Node::Directory(directory) = &inode.node {
                wanted.extend(directory.reachable());
            }
        }
        self.inodes.retain(|ino, _| wanted.contains(ino));
    }

    /// What a power cut leaves: everything in the result is durable, and nothing in it is without a name.
    pub(super) fn survivor(&self, seed: u64) -> Files {
        let mut inodes: BTreeMap<u64, Arc<Inode>> = BTreeMap::new();
        let mut links: BTreeMap<u64, u32> = BTreeMap::from([(ROOT, 1)]);
        let mut todo = vec![ROOT];
        while let Some(ino) = todo.pop() {
            let Some(inode) = self.inodes.get(&ino) else { continue };
            let mut fate = Fate::new(seed, ino);
            let node = match &inode.node {
                Node::File(content) if content.is_settled() => {
                    inodes.insert(ino, inode.clone());
                    continue;
                }
                Node::Link(target) => Node::Link(target.clone()),
                Node::File(content) => Node::File(Content::settled(content.survivor(&mut fate))),
                Node::Directory(directory) => {
                    let entries = directory.survivor(&mut fate);
                    for child in entries.values() {
                        let count = links.entry(*child).or_insert(0);
                        *count += 1;
                        if *count == 1 {
                            todo.push(*child);
                        }
                    }
                    Node::Directory(Directory { current: entries.clone(), durable: entries, pending: Vec::new() })
                }
            };
            inodes.insert(ino, Arc::new(Inode { links: 0, node }));
        }
        for (ino, inode) in &mut inodes {
            let count = links.get(ino).copied().unwrap_or(0);
            if inode.links != count {
                Arc::make_mut(inode).links = count;
            }
        }
        Files { inodes, next: self.next }
    }

    fn content_mut(&mut self, ino: u64) -> Option<&mut Content> {
        match &mut Arc::make_mut(self.inodes.get_mut(&ino)?).node {
            Node::File(content) => Some(content),
            _ => None,
        }
    }

    fn directory_mut(&mut self, ino: u64) -> Option<&mut Directory> {
        match &mut Arc::make_mut(self.inodes.get_mut(&ino)?).node {
            Node::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn create(&mut self, dir: u64, name: &str, node: Node) {
        let ino = self.next;
        self.next += 1;
        self.inodes.insert(ino, Arc::new(Inode { links: 1, node }));
        self.change_directory(dir, EntryChange::Put(name.to_string(), ino));
    }

    fn count_link(&mut self, ino: Option<u64>, more: bool) {
        if let Some(inode) = ino.and_then(|ino| self.inodes.get_mut(&ino)) {
            let links = &mut Arc::make_mut(inode).links;
            *links = if more { *links + 1 } else { links.saturating_sub(1) };
        }
    }

    fn change_directory(&mut self, dir: u64, change: EntryChange) {
        if let Some(directory) = self.directory_mut(dir) {
            directory.change(change);
        }
    }

    fn entry(&self, dir: u64, name: &str) -> Option<u64> {
        self.directory(dir)?.entries().get(name).copied()
    }

    /// Calls `each` for the files with something to write. Looks before it copies: most are settled.
    fn for_dirty(&mut self, each: fn(&mut Content)) {
        for inode in self.inodes.values_mut() {
            if matches!(&inode.node, Node::File(content) if content.is_dirty())
                && let Node::File(content) = &mut Arc::make_mut(inode).node
            {
                each(content);
            }
        }
    }

    fn sync_directories(&mut self) {
        for inode in self.inodes.values_mut() {
            if matches!(&inode.node, Node::Directory(directory) if !directory.pending.is_empty())
                && let Node::Directory(directory) = &mut Arc::make_mut(inode).node
            {
                directory.sync();
            }
        }
    }
}

impl State for Files {
    type Op = Op;

    fn weight(&self) -> usize {
        self.inodes.len()
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Nothing => {}
            Op::Change { ino, change } => {
                if let Some(content) = self.content_mut(*ino) {
                    content.apply(change);
                }
            }
            Op::Sync { ino } => {
                if let Some(content) = self.content_mut(*ino) {
                    content.sync();
                }
            }
            Op::FailedSync { ino } => {
                if let Some(content) = self.content_mut(*ino) {
                    content.lose_pending();
                }
            }
            Op::SyncDirectory { ino } => {
                if let Some(directory) = self.directory_mut(*ino) {
                    directory.sync();
                }
            }
            Op::SyncAll { files, directories } => {
                if *files {
                    self.for_dirty(Content::sync);
                }
                if *directories {
                    self.sync_directories();
                }
            }
            Op::FailedSyncAll => self.for_dirty(Content::lose_pending),
            Op::Create { dir, name, directory } => {
                let node = match directory {
                    true => Node::Directory(Directory::default()),
                    false => Node::File(Content::default()),
                };
                self.create(*dir, name, node);
            }
            Op::Symlink { dir, name, target } => self.create(*dir, name, Node::Link(target.clone())),
            Op::Link { dir, name, ino } => {
                self.count_link(Some(*ino), true);
                self.change_directory(*dir, EntryChange::Put(name.clone(), *ino));
            }
            Op::Unlink { dir, name } => {
                self.count_link(self.entry(*dir, name), false);
                self.change_directory(*dir, EntryChange::Drop(name.clone()));
            }
            Op::Rename { from_dir, from, to_dir, to } => {
                self.count_link(self.entry(*to_dir, to), false);
                if from_dir == to_dir {
                    self.change_directory(*from_dir, EntryChange::Move(from.clone(), to.clone()));
                } else if let Some(ino) = self.entry(*from_dir, from) {
                    self.change_directory(*from_dir, EntryChange::Drop(from.clone()));
                    self.change_directory(*to_dir, EntryChange::Put(to.clone(), ino));
                }
            }
        }
    }
}
