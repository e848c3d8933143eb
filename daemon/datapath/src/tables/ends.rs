//! The last content of every endpoint id that was ever used, side by side: a group's endpoints mostly have ids that
//! follow each other, and so stand in few cache lines. Whoever else speaks of an endpoint has its id alone.

use std::net::SocketAddr;

use fairlead_abi::Backend;

use super::life;

/// By id. Ids are given out from zero.
#[derive(Debug, Default)]
pub(super) struct Ends(Vec<Backend>);

impl Ends {
    pub(super) fn get(&self, id: u32) -> Option<&Backend> {
        self.0.get(id as usize).filter(|backend| backend.state() != Backend::FREE)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Backend> {
        self.0.get_mut(id as usize).filter(|backend| backend.state() != Backend::FREE)
    }

    /// Where an endpoint is; `None` if the id was never used.
    pub(super) fn address(&self, id: u32) -> Option<SocketAddr> {
        self.get(id).map(life::address)
    }

    pub(super) fn insert(&mut self, id: u32, backend: Backend) {
        let id = id as usize;
        if self.0.len() <= id {
            self.0.resize(id + 1, Backend::default());
        }
        self.0[id] = backend;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Backend)> {
        (0..).zip(&self.0).filter(|(_, backend)| backend.state() != Backend::FREE)
    }
}

/// Ids of a group's endpoints, in the order of their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ids(Vec<u32>);

impl Ids {
    fn place(&self, address: &SocketAddr, ends: &Ends) -> Result<usize, usize> {
        self.0.binary_search_by(|id| ends.address(*id).as_ref().cmp(&Some(address)))
    }

    /// The endpoint of this address.
    pub(super) fn get(&self, address: &SocketAddr, ends: &Ends) -> Option<u32> {
        self.place(address, ends).ok().map(|place| self.0[place])
    }

    /// Adds an endpoint, which has its address already; false if there is one of this address.
    pub(super) fn insert(&mut self, id: u32, ends: &Ends) -> bool {
        let Some(Err(place)) = ends.address(id).map(|address| self.place(&address, ends)) else { return false };
        self.0.reserve_exact(1);
        self.0.insert(place, id);
        true
    }

    /// Makes room for as many at once.
    pub(super) fn grow_to(&mut self, ids: usize) {
        self.0.reserve_exact(ids.saturating_sub(self.0.len()));
    }

    /// Takes out those that are not to stay.
    pub(super) fn split_off(&mut self, stays: impl Fn(u32) -> bool) -> Vec<u32> {
        let gone = self.0.iter().copied().filter(|id| !stays(*id)).collect();
        self.0.retain(|id| stays(*id));
        gone
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }
}
