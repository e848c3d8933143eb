//! Which parts of an array are free: the tightest range that is long enough, so that small ones fill small gaps.

use std::collections::{BTreeMap, BTreeSet};

/// Free ranges, never touching each other.
#[derive(Debug)]
pub(super) struct Space {
    /// Lengths by start.
    free: BTreeMap<u32, u32>,
    /// The same, length first.
    by_len: BTreeSet<(u32, u32)>,
    /// The sum of lengths.
    room: u32,
}

impl Space {
    /// All free.
    pub(super) fn new(len: u32) -> Self {
        let mut space = Self { free: BTreeMap::new(), by_len: BTreeSet::new(), room: 0 };
        space.insert(0, len);
        space
    }

    fn insert(&mut self, start: u32, len: u32) {
        if len > 0 {
            self.free.insert(start, len);
            self.by_len.insert((len, start));
            self.room += len;
        }
    }

    fn remove(&mut self, start: u32) -> Option<u32> {
        let len = self.free.remove(&start)?;
        self.by_len.remove(&(len, start));
        self.room -= len;
        Some(len)
    }

    /// How much is free.
    pub(super) fn room(&self) -> u32 {
        self.room
    }

    /// A range of this length.
    pub(super) fn take(&mut self, len: u32) -> Option<u32> {
        let &(room, start) = self.by_len.range((len, 0)..).next()?;
        self.remove(start);
        self.insert(start + len, room - len);
        Some(start)
    }

    /// A range known to be in use, taken while nothing else was; what is taken already stays so.
    pub(super) fn take_exact(&mut self, start: u32, len: u32) {
        if len == 0 {
            return;
        }
        let Some((&first, &room)) = self.free.range(..=start).next_back() else { return };
        let (end, last) = (start + len, first + room);
        if end > last {
            return;
        }
        self.remove(first);
        self.insert(first, start - first);
        self.insert(end, last - end);
    }

    /// Gives a range back.
    pub(super) fn give(&mut self, start: u32, len: u32) {
        if len == 0 {
            return;
        }
        let (mut start, mut len) = (start, len);
        len += self.remove(start + len).unwrap_or(0);
        if let Some((&before, &room)) = self.free.range(..start).next_back()
            && before + room == start
        {
            self.remove(before);
            start = before;
            len += room;
        }
        self.insert(start, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_grows_together() {
        let mut space = Space::new(10);
        let parts: Vec<u32> = (0..5).map(|_| space.take(2).unwrap()).collect();
        assert_eq!(space.take(1), None);
        for part in [0, 4, 2, 1, 3] {
            space.give(parts[part], 2);
        }
        assert_eq!(space.free, BTreeMap::from([(0, 10)]));
        space.take_exact(3, 2);
        assert_eq!(space.free, BTreeMap::from([(0, 3), (5, 5)]));
        assert_eq!((space.take(4), space.take(2)), (Some(5), Some(0)));
        assert_eq!((space.by_len.len(), space.room()), (space.free.len(), 2));
    }
}
