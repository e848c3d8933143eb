//! Uplinks: attached when they are there, watched for addresses, forgotten when they are gone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fairlead_abi::{SOURCES_MAX, SourcePool};

use crate::interface::{Interface, interfaces};
use crate::{Datapath, DatapathError, Uplink, attach};

/// Key of `UPLINKS` for the addresses of any uplink: no interface has this index.
const ANY: u32 = 0;

impl Datapath {
    /// Attaches again to the uplinks of an earlier daemon, so that their addresses are known before the first
    /// synchronisation, and forgets those that are gone.
    pub(crate) fn adopt_uplinks(&mut self) -> Result<(), DatapathError> {
        let mut names = attach::pinned_interfaces(&self.pins, "tc_uplink")?;
        names.extend(attach::pinned_interfaces(&self.pins, "xdp_service")?);
        let there = interfaces()?;
        // Where the kernel has no links for tc, nothing is pinned of an uplink without XDP.
        let listed = self.kernel.uplinks()?;
        names.extend(there.iter().filter(|(_, found)| listed.contains(&found.ifindex)).map(|(name, _)| name.clone()));
        for name in names {
            match there.get(&name) {
                Some(interface) => self.put_uplink(&name, interface).map(drop)?,
                None => attach::detach(&self.pins, &name)?,
            }
            self.wanted_uplinks.insert(name);
        }
        let known: Vec<u32> = self.uplinks.values().map(|uplink| uplink.ifindex).collect();
        let is_stale = |ifindex: &u32| *ifindex != ANY && !known.contains(ifindex);
        for stale in self.kernel.uplinks()?.into_iter().filter(is_stale) {
            self.kernel.drop_uplink(stale)?;
        }
        self.put_any()
    }

    /// Attaches to an uplink; again for one already attached returns it as it is. NodePorts answer on its addresses
    /// from then on. One that is not there is an error, but attached by [`Datapath::refresh`] when it appears.
    pub fn attach_uplink(&mut self, name: &str) -> Result<Uplink, DatapathError> {
        self.wanted_uplinks.insert(name.to_owned());
        if let Some(uplink) = self.uplinks.get(name) {
            return Ok(uplink.clone());
        }
        let interface = interfaces()?.remove(name).ok_or_else(|| DatapathError::NoInterface(name.to_owned()))?;
        let uplink = self.put_uplink(name, &interface)?;
        self.replan()?;
        Ok(uplink)
    }

    /// Detaches from an uplink; nothing happens if it is not attached.
    pub fn detach_uplink(&mut self, name: &str) -> Result<(), DatapathError> {
        self.wanted_uplinks.remove(name);
        self.forget_uplink(name)?;
        self.replan()
    }

    /// Uplinks attached now, those of an earlier daemon included.
    pub fn uplinks(&self) -> Vec<Uplink> {
        self.uplinks.values().cloned().collect()
    }

    /// Uplinks that are to be attached as soon as they are there.
    pub fn missing_uplinks(&self) -> Vec<String> {
        self.wanted_uplinks.iter().filter(|name| !self.uplinks.contains_key(*name)).cloned().collect()
    }

    /// Looks at the interfaces again: attaches uplinks that have appeared, forgets those that vanished, and takes up
    /// changed addresses. True if anything was different.
    pub fn refresh(&mut self) -> Result<bool, DatapathError> {
        let there = interfaces()?;
        let mut changed = false;
        let mut first_error = None;
        for name in self.wanted_uplinks.clone() {
            let interface = there.get(&name);
            let known = self.uplinks.get(&name);
            if let (Some(known), Some(interface)) = (known, interface)
                && known.ifindex == interface.ifindex
            {
                if known.addresses == interface.addresses {
                    continue;
                }
                self.kernel.put_uplink(interface.ifindex, &self.pool(&interface.addresses))?;
                if let Some(known) = self.uplinks.get_mut(&name) {
                    known.addresses.clone_from(&interface.addresses);
                }
                self.put_any()?;
                changed = true;
                continue;
            }
            if known.is_some() {
                self.forget_uplink(&name)?;
                changed = true;
            }
            if let Some(interface) = interface {
                match self.put_uplink(&name, interface) {
                    Ok(uplink) => {
                        tracing::info!(uplink = name, mode = %uplink.mode, reason = uplink.reason, "uplink attached");
                        changed = true;
                    }
                    Err(error) => first_error = first_error.or(Some(error)),
                }
            }
        }
        if changed {
            self.replan()?;
        }
        first_error.map_or(Ok(changed), Err)
    }

    /// Addresses on which NodePorts answer now.
    pub fn node_port_addresses(&self) -> Vec<IpAddr> {
        self.site.node_port_addresses.clone()
    }

    /// Addresses of the node: those configured and those of its uplinks.
    pub fn node_addresses(&self) -> Vec<IpAddr> {
        let uplinks = self.uplinks.values().flat_map(|uplink| uplink.addresses.iter().copied());
        let all: BTreeSet<IpAddr> = self.config.node_addresses.iter().copied().chain(uplinks).collect();
        all.into_iter().collect()
    }

    fn put_uplink(&mut self, name: &str, interface: &Interface) -> Result<Uplink, DatapathError> {
        self.kernel.put_uplink(interface.ifindex, &self.pool(&interface.addresses))?;
        let (mode, reason) = attach::uplink(&mut self.ebpf, &self.pins, name, interface, self.config.uplink_mode)?;
        let addresses = interface.addresses.clone();
        let uplink = Uplink { name: name.to_owned(), ifindex: interface.ifindex, addresses, mode, reason };
        self.uplinks.insert(name.to_owned(), uplink.clone());
        self.put_any()?;
        Ok(uplink)
    }

    fn forget_uplink(&mut self, name: &str) -> Result<(), DatapathError> {
        if let Some(uplink) = self.uplinks.remove(name) {
            self.kernel.drop_uplink(uplink.ifindex)?;
            self.put_any()?;
        }
        attach::detach(&self.pins, name)
    }

    /// What flows are given that leave by no uplink: a pod's to itself, through a service.
    fn put_any(&mut self) -> Result<(), DatapathError> {
        let all: Vec<IpAddr> = self.uplinks.values().flat_map(|uplink| uplink.addresses.iter().copied()).collect();
        self.kernel.put_uplink(ANY, &self.pool(&all))
    }

    /// What flows are given that leave by an uplink of these addresses.
    fn pool(&self, addresses: &[IpAddr]) -> SourcePool {
        let mut pool = SourcePool { v4: [[0; 4]; SOURCES_MAX], v6: [[0; 16]; SOURCES_MAX], v4_len: 0, v6_len: 0 };
        // The first is the one that the host's own sockets use: an address that was added for us comes after it.
        let first = [false, true].map(|ipv6| {
            let mut all = addresses.iter().filter(|addr| addr.is_ipv6() == ipv6);
            let any = all.clone().next();
            all.find(|addr| !self.config.source_addresses.contains(addr)).or(any)
        });
        for addr in first.into_iter().flatten().chain(&self.config.source_addresses) {
            match addr {
                IpAddr::V4(addr) => push(&mut pool.v4, &mut pool.v4_len, addr.octets()),
                IpAddr::V6(addr) => push(&mut pool.v6, &mut pool.v6_len, addr.octets()),
            }
        }
        pool
    }
}

/// Adds an address, unless it is there or there is no room.
fn push<A: PartialEq>(places: &mut [A], len: &mut u32, addr: A) {
    let used = *len as usize;
    if used < places.len() && !places[..used].contains(&addr) {
        places[used] = addr;
        *len += 1;
    }
}
