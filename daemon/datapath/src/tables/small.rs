//! Maps of few entries, one for each of a hundred thousand Services: sorted, and not a byte more than the entries take.

/// Entries sorted by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SmallMap<K, V>(Vec<(K, V)>);

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> SmallMap<K, V> {
    fn place(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(key))
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.place(key).ok().map(|place| &self.0[place].1)
    }

    /// Returns what was there.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.place(&key) {
            Ok(place) => Some(std::mem::replace(&mut self.0[place].1, value)),
            Err(place) => {
                self.0.reserve_exact(1);
                self.0.insert(place, (key, value));
                None
            }
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.place(key).ok()?;
        Some(self.0.remove(place).1)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_sorted_and_take_no_room_to_spare() {
        let mut map = SmallMap::default();
        for (key, value) in [(3, 'c'), (1, 'a'), (2, 'b')] {
            assert_eq!(map.insert(key, value), None);
        }
        assert_eq!(map.insert(2, 'x'), Some('b'));
        assert_eq!(map.0, [(1, 'a'), (2, 'x'), (3, 'c')]);
        assert_eq!((map.get(&3), map.get(&4)), (Some(&'c'), None));
        assert_eq!(map.0.capacity(), 3);
        assert_eq!((map.remove(&1), map.remove(&1)), (Some('a'), None));
        assert_eq!(map.keys().copied().collect::<Vec<_>>(), [2, 3]);
    }
}
