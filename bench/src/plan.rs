//! In which order samples are taken: round by round, and within a round at random, so that nothing that happens on the
//! machine meets one peer more than another. The same seed gives the same order.
//!
//! All cells of a workload follow each other within a round, because they are divided by each other.

/// A sample to take: round, workload and cell, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// 0 is for warming up and not counted.
    pub round: usize,
    /// Place in the list of workloads.
    pub workload: usize,
    /// Place in the list of the workload's cells.
    pub cell: usize,
}

/// The turns of one round; `cells` is the number of cells of each workload.
pub fn round(seed: u64, round: usize, cells: &[usize]) -> Vec<Turn> {
    // Rounds draw from sequences of their own: the order of the tenth does not depend on how many there are.
    let mut draw = Draw::new(Draw::new(seed).number() ^ round as u64);
    let mut workloads: Vec<usize> = (0..cells.len()).collect();
    draw.shuffle(&mut workloads);
    let mut turns = Vec::with_capacity(cells.iter().sum());
    for workload in workloads {
        let mut order: Vec<usize> = (0..cells[workload]).collect();
        draw.shuffle(&mut order);
        turns.extend(order.into_iter().map(|cell| Turn { round, workload, cell }));
    }
    turns
}

/// Numbers drawn from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// A sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // Of use for small ends; the bias is one in 2^64 / end.
        self.number() % end
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_round_has_every_cell_once_and_each_workload_in_one_piece() {
        for number in 0..50 {
            let turns = round(7, number, &[3, 0, 5]);
            let seen: BTreeSet<_> = turns.iter().map(|turn| (turn.workload, turn.cell)).collect();
            assert_eq!((turns.len(), seen.len()), (8, 8));
            let changes = turns.windows(2).filter(|pair| pair[0].workload != pair[1].workload).count();
            assert_eq!(changes, 1, "{turns:?}");
        }
    }

    #[test]
    fn the_order_is_the_seeds_and_differs_from_round_to_round() {
        assert_eq!(round(7, 3, &[9, 9]), round(7, 3, &[9, 9]));
        assert_ne!(round(7, 3, &[9, 9]), round(8, 3, &[9, 9]));
        let cells = |number| round(7, number, &[9]).iter().map(|turn| turn.cell).collect::<Vec<_>>();
        assert_ne!(cells(3), cells(4));
    }

    #[test]
    fn every_place_in_the_order_is_as_likely_as_any_other() {
        let mut first = [0u32; 4];
        (0..4000).for_each(|number| first[round(1, number, &[4])[0].cell] += 1);
        assert!(first.iter().all(|times| (850..1150).contains(times)), "{first:?}");
    }
}
