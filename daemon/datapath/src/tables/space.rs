//! Which parts of an array are free: first fit over ranges.

use std::collections::BTreeMap;

/// Free ranges by start, never touching each other.
#[derive(Debug)]
pub(super) struct Space {
    free: BTreeMap<u32, u32>,
}

impl Space {
    /// All free.
    pub(super) fn new(len: u32) -> Self {
        Self { free: (len > 0).then_some((0, len)).into_iter().collect() }
    }

    /// The first range of this length.
    pub(super) fn take(&mut self, len: u32) -> Option<u32> {
        let (&start, &room) = self.free.iter().find(|(_, room)| **room >= len)?;
        self.free.remove(&start);
        if room > len {
            self.free.insert(start + len, room - len);
        }
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
        self.free.remove(&first);
        if first < start {
            self.free.insert(first, start - first);
        }
        if end < last {
            self.free.insert(end, last - end);
        }
    }

    /// Gives a range back.
    pub(super) fn give(&mut self, start: u32, len: u32) {
        if len == 0 {
            return;
        }
        let (mut start, mut len) = (start, len);
        if let Some(after) = self.free.remove(&(start + len)) {
            len += after;
        }
        if let Some((&before, &room)) = self.free.range(..start).next_back()
            && before + room == start
        {
            start = before;
            len += room;
        }
        self.free.insert(start, len);
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
        assert_eq!(space.take(4), Some(5));
    }
}
