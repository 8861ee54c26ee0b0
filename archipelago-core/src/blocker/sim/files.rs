//! Inodes and directories of a simulated disk: what each call does to them, and what a power cut leaves.

use std::collections::{BTreeMap, BTreeSet};
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

    /// Inodes that a crash could bring back under a name, with repetitions; without changes there are none that have no name now.
    fn may_return(&self) -> impl Iterator<Item = u64> {
        let pending = self.pending.iter().filter_map(|change| match change {
            EntryChange::Put(_, ino) => Some(*ino),
            _ => None,
        });
        let durable = self.durable.values().copied().filter(|_| !self.pending.is_empty());
        durable.chain(pending)
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

/// Inodes of one piece of a [`Table`].
const PIECE: usize = 32;

/// Inodes by number. A clone shares all pieces, and a change copies one: after each call the whole may be kept.
#[derive(Clone, Default)]
struct Table {
    pieces: Vec<Arc<[Option<Arc<Inode>>; PIECE]>>,
}

impl Table {
    fn get(&self, ino: u64) -> Option<&Arc<Inode>> {
        self.pieces.get(ino as usize / PIECE)?[ino as usize % PIECE].as_ref()
    }

    fn get_mut(&mut self, ino: u64) -> Option<&mut Arc<Inode>> {
        // Looked at before it is copied.
        self.get(ino)?;
        Arc::make_mut(&mut self.pieces[ino as usize / PIECE])[ino as usize % PIECE].as_mut()
    }

    fn insert(&mut self, ino: u64, inode: Arc<Inode>) {
        let piece = ino as usize / PIECE;
        if piece >= self.pieces.len() {
            self.pieces.resize_with(piece + 1, Arc::default);
        }
        Arc::make_mut(&mut self.pieces[piece])[ino as usize % PIECE] = Some(inode);
    }

    fn remove(&mut self, ino: u64) {
        if self.get(ino).is_some() {
            Arc::make_mut(&mut self.pieces[ino as usize / PIECE])[ino as usize % PIECE] = None;
        }
    }

    fn iter(&self) -> impl Iterator<Item = (u64, &Arc<Inode>)> {
        let all = self.pieces.iter().flat_map(|piece| piece.iter());
        (0..).zip(all).filter_map(|(ino, inode)| Some((ino, inode.as_ref()?)))
    }

    fn such_as(&self, test: impl Fn(&Inode) -> bool) -> Vec<u64> {
        self.iter().filter(|(_, inode)| test(inode)).map(|(ino, _)| ino).collect()
    }

    /// Things that a clone has to touch.
    fn weight(&self) -> usize {
        self.pieces.len()
    }
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
    inodes: Table,
    next: u64,
}

impl Files {
    /// A disk with an empty root directory.
    pub(super) fn new() -> Files {
        let root = Inode { links: 1, node: Node::Directory(Directory::default()) };
        let mut inodes = Table::default();
        inodes.insert(ROOT, Arc::new(root));
        Files { inodes, next: ROOT + 1 }
    }

    pub(super) fn get(&self, ino: u64) -> Option<&Inode> {
        self.inodes.get(ino).map(|inode| &**inode)
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
            Node::File(content) if inode.links > 0 || open(ino) => content.current().count(),
            _ => 0,
        });
        counts.sum()
    }

    /// Drops the inodes that are not `open` and that nothing can lead to any more.
    pub(super) fn collect(&mut self, open: impl Fn(u64) -> bool) {
        let nameless = |(ino, inode): (u64, &Arc<Inode>)| (inode.links == 0 && ino != ROOT).then_some(ino);
        let mut unwanted: BTreeSet<u64> = self.inodes.iter().filter_map(nameless).collect();
        if unwanted.is_empty() {
            return;
        }
        for (_, inode) in self.inodes.iter() {
            if let Node::Directory(directory) = &inode.node {
                for ino in directory.may_return() {
                    unwanted.remove(&ino);
                }
            }
        }
        for ino in unwanted.into_iter().filter(|ino| !open(*ino)) {
            self.inodes.remove(ino);
        }
    }

    /// What a power cut leaves: everything in the result is durable, and nothing in it is without a name.
    pub(super) fn survivor(&self, seed: u64) -> Files {
        // Names that lead to each inode.
        let mut links = vec![0; self.next as usize];
        links[ROOT as usize] = 1;
        let mut todo = vec![ROOT];
        let mut found = Vec::new();
        while let Some(ino) = todo.pop() {
            let Some(inode) = self.inodes.get(ino) else { continue };
            let fate = || Fate::new(seed, ino);
            let node = match &inode.node {
                Node::Link(_) => None,
                Node::File(content) if content.is_settled() => None,
                Node::File(content) => Some(Node::File(Content::settled(content.survivor(&mut fate())))),
                Node::Directory(directory) => {
                    let entries = directory.survivor(&mut fate());
                    for child in entries.values() {
                        let count = &mut links[*child as usize];
                        *count += 1;
                        if *count == 1 {
                            todo.push(*child);
                        }
                    }
                    let changed = !directory.pending.is_empty();
                    let settled = || Directory { current: entries.clone(), durable: entries, pending: Vec::new() };
                    changed.then(|| Node::Directory(settled()))
                }
            };
            found.push((ino, inode, node));
        }
        let mut inodes = Table::default();
        for (ino, inode, node) in found {
            let links = links[ino as usize];
            let inode = match node {
                // Nothing about it changes.
                None if inode.links == links => inode.clone(),
                None => Arc::new(Inode { links, node: inode.node.clone() }),
                Some(node) => Arc::new(Inode { links, node }),
            };
            inodes.insert(ino, inode);
        }
        Files { inodes, next: self.next }
    }

    fn content_mut(&mut self, ino: u64) -> Option<&mut Content> {
        match &mut Arc::make_mut(self.inodes.get_mut(ino)?).node {
            Node::File(content) => Some(content),
            _ => None,
        }
    }

    fn directory_mut(&mut self, ino: u64) -> Option<&mut Directory> {
        match &mut Arc::make_mut(self.inodes.get_mut(ino)?).node {
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
        if let Some(inode) = ino.and_then(|ino| self.inodes.get_mut(ino)) {
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
        let dirty = |inode: &Inode| matches!(&inode.node, Node::File(content) if content.is_dirty());
        for ino in self.inodes.such_as(dirty) {
            self.content_mut(ino).into_iter().for_each(each);
        }
    }

    /// See [`Content::evict`], for all files.
    pub(super) fn evict(&mut self) {
        for ino in self.inodes.such_as(|inode| matches!(&inode.node, Node::File(content) if content.is_lossy())) {
            self.content_mut(ino).into_iter().for_each(Content::evict);
        }
    }

    fn sync_directories(&mut self) {
        let changed =
            |inode: &Inode| matches!(&inode.node, Node::Directory(directory) if !directory.pending.is_empty());
        for ino in self.inodes.such_as(changed) {
            self.directory_mut(ino).into_iter().for_each(Directory::sync);
        }
    }
}

impl State for Files {
    type Op = Op;

    fn weight(&self) -> usize {
        self.inodes.weight()
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
