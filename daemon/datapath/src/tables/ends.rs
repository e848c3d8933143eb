//! The last content of every endpoint id that was ever used, side by side: a group's endpoints mostly have ids that
//! follow each other, and so stand in few cache lines.

use fairlead_abi::Backend;

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
