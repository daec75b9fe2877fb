//! Keys that are ready to be worked on: by priority with ageing, and fair between groups.
//!
//! Each level is a ring of groups that have something waiting at that level, each group a list
//! in order of arrival. Taking turns round the ring is what is fair; leaving a group out while
//! it has as many running as it may is what caps it.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::time::Instant;

/// How much a key matters, against others in the same queue.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum Priority {
    /// Can wait: initial lists, resyncs.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Before the usual.
    High,
    /// Somebody waits for it. Also cuts short a back-off.
    Urgent,
}

pub(crate) const LEVELS: usize = 4;
pub(crate) const NIL: u32 = u32::MAX;

impl Priority {
    /// 0 comes first.
    fn level(self) -> usize {
        match self {
            Self::Urgent => 0,
            Self::High => 1,
            Self::Normal => 2,
            Self::Low => 3,
        }
    }
}

/// Where an entry is in its list. Lives in the entry, so that queueing allocates nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Links {
    pub(crate) group: u32,
    pub(crate) priority: Priority,
    pub(crate) since: Instant,
    prev: u32,
    next: u32,
}

impl Links {
    pub(crate) fn new(group: u32, now: Instant) -> Self {
        Self { group, priority: Priority::default(), since: now, prev: NIL, next: NIL }
    }
}

/// Something that has links; entries of the queue do.
pub(crate) trait Linked {
    fn links(&self) -> &Links;
    fn links_mut(&mut self) -> &mut Links;
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

struct Group {
    name: u64,
    lists: [List; LEVELS],
    in_ring: [bool; LEVELS],
    /// Entries of the queue that belong to it, whatever they do.
    members: usize,
    queued: usize,
    running: usize,
}

impl Group {
    fn new(name: u64, members: usize) -> Self {
        Self {
            name,
            lists: [List { head: NIL, tail: NIL }; LEVELS],
            in_ring: [false; LEVELS],
            members,
            queued: 0,
            running: 0,
        }
    }
}

/// The number of the group that needs no name.
const SOLE: u32 = 0;

pub(crate) struct Ready {
    rings: [VecDeque<u32>; LEVELS],
    groups: Vec<Group>,
    names: HashMap<u64, u32>,
    free: Vec<u32>,
    cap: usize,
    ageing: Duration,
    len: usize,
}

impl Ready {
    /// With a first group, [`SOLE`], that is never left: the one of queues without groups.
    pub(crate) fn new(cap: usize, ageing: Duration) -> Self {
        Self {
            rings: Default::default(),
            groups: vec![Group::new(0, 1)],
            names: HashMap::new(),
            free: Vec::new(),
            cap: cap.max(1),
            ageing,
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds a member to the group that all keys are in unless somebody tells them apart.
    pub(crate) fn join_sole(&mut self) -> u32 {
        self.groups[SOLE as usize].members += 1;
        SOLE
    }

    /// Adds a member to the group with this name and answers the group's number, which holds
    /// until the last member has [left](Self::leave).
    pub(crate) fn join(&mut self, name: u64) -> u32 {
        if let Some(group) = self.names.get(&name) {
            self.groups[*group as usize].members += 1;
            return *group;
        }
        let new = Group::new(name, 1);
        let number = if let Some(number) = self.free.pop() {
            self.groups[number as usize] = new;
            number
        } else {
            self.groups.push(new);
            u32::try_from(self.groups.len() - 1).expect("fewer than 2^32 groups")
        };
        self.names.insert(name, number);
        number
    }

    /// Takes a member out of its group.
    pub(crate) fn leave(&mut self, number: u32) {
        self.groups[number as usize].members -= 1;
        self.forget_if_empty(number);
    }

    fn forget_if_empty(&mut self, number: u32) {
        let group = &self.groups[number as usize];
        if group.members == 0 && group.in_ring == [false; LEVELS] {
            self.names.remove(&group.name);
            self.free.push(number);
        }
    }

    pub(crate) fn push<E: Linked>(&mut self, entries: &mut [E], at: u32) {
        let links = *entries[at as usize].links();
        let level = links.priority.level();
        let group = &mut self.groups[links.group as usize];
        let list = &mut group.lists[level];
        let before = list.tail;
        list.tail = at;
        if before == NIL {
            list.head = at;
        } else {
            entries[before as usize].links_mut().next = at;
        }
        let own = entries[at as usize].links_mut();
        (own.prev, own.next) = (before, NIL);
        group.queued += 1;
        self.len += 1;
        if !group.in_ring[level] && group.running < self.cap {
            group.in_ring[level] = true;
            self.rings[level].push_back(links.group);
        }
    }

    pub(crate) fn unlink<E: Linked>(&mut self, entries: &mut [E], at: u32) {
        let links = *entries[at as usize].links();
        let group = &mut self.groups[links.group as usize];
        let list = &mut group.lists[links.priority.level()];
        if links.prev == NIL {
            list.head = links.next;
        } else {
            entries[links.prev as usize].links_mut().next = links.next;
        }
        if links.next == NIL {
            list.tail = links.prev;
        } else {
            entries[links.next as usize].links_mut().prev = links.prev;
        }
        group.queued -= 1;
        self.len -= 1;
    }

    /// Takes the next one out; its group then has one more running.
    pub(crate) fn pop<E: Linked>(&mut self, entries: &mut [E]) -> Option<u32> {
        let level = self.next_level(entries)?;
        let number = self.rings[level].pop_front()?;
        let group = &mut self.groups[number as usize];
        let at = group.lists[level].head;
        group.in_ring[level] = false;
        group.running += 1;
        self.unlink(entries, at);
        self.enter_ring(number, level);
        Some(at)
    }

    /// One of the group's running ones has ended. Answers whether that lets another one in.
    pub(crate) fn ended(&mut self, number: u32) -> bool {
        let group = &mut self.groups[number as usize];
        let was_full = group.running >= self.cap;
        group.running -= 1;
        if !was_full || group.queued == 0 {
            return false; // whoever waits in it waits in the rings already
        }
        for level in 0..LEVELS {
            self.enter_ring(number, level);
        }
        true
    }

    fn enter_ring(&mut self, number: u32, level: usize) {
        let group = &mut self.groups[number as usize];
        if group.lists[level].head != NIL && group.running < self.cap && !group.in_ring[level] {
            group.in_ring[level] = true;
            self.rings[level].push_back(number);
        }
    }

    /// The level whose turn it is: the one whose first entry has waited longest, where each
    /// level below the top costs one ageing period.
    fn next_level<E: Linked>(&mut self, entries: &[E]) -> Option<usize> {
        let mut best: Option<(Instant, usize)> = None;
        for level in 0..LEVELS {
            if self.rings[level].is_empty() {
                continue;
            }
            let Some(at) = self.front(level) else { continue };
            let handicap = self.ageing * u32::try_from(level).unwrap_or(0);
            let turn = entries[at as usize].links().since + handicap;
            if best.is_none_or(|(earliest, _)| turn < earliest) {
                best = Some((turn, level));
            }
        }
        best.map(|(_, level)| level)
    }

    /// The first entry of a level, after throwing out groups that are full or have nothing.
    fn front(&mut self, level: usize) -> Option<u32> {
        while let Some(number) = self.rings[level].front().copied() {
            let group = &mut self.groups[number as usize];
            if group.lists[level].head != NIL && group.running < self.cap {
                return Some(group.lists[level].head);
            }
            group.in_ring[level] = false;
            self.rings[level].pop_front();
            self.forget_if_empty(number);
        }
        None
    }
}
