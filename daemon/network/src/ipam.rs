//! Which pod has which address: one file per address, so that taking and releasing one touches no other.
//!
//! A file is there before the interface and goes after it. Addresses are handed out in turn rather than lowest first, so
//! that a released one rests as long as possible before somebody else answers under it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::Request;
use crate::attach::host_name;
use crate::error::NetworkError;
use crate::netlink::LinkInfo;

/// An address in use, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The runtime's identifier of the sandbox.
    pub container_id: String,
    /// Name of the interface inside.
    pub ifname: String,
    /// Path of the network namespace.
    pub netns: PathBuf,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
}

impl Attachment {
    /// Name of the interface's host end.
    pub fn host_interface(&self) -> String {
        host_name(&self.container_id, &self.ifname)
    }

    /// Namespace and name, for people.
    pub fn pod(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The table of addresses in use.
#[derive(Debug)]
pub(crate) struct Ipam {
    dir: PathBuf,
    cidr: Ipv4Net,
    used: BTreeMap<Ipv4Addr, Attachment>,
    last: Option<Ipv4Addr>,
}

impl Ipam {
    /// Reads what is in use. A file that cannot be read belongs to no interface (it is written whole or not at all), so it
    /// is removed.
    pub(crate) fn open(state_dir: &Path, cidr: Ipv4Net) -> Result<Self, NetworkError> {
        let dir = state_dir.join("addresses");
        let failed = |source| NetworkError::State { path: dir.clone(), source };
        std::fs::create_dir_all(&dir).map_err(failed)?;
        let mut used = BTreeMap::new();
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let read = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Attachment>(&bytes).ok());
            match read {
                Some(attachment) => {
                    used.insert(attachment.address, attachment);
                }
                None => std::fs::remove_file(&path).map_err(failed)?,
            }
        }
        let last = used.keys().next_back().copied();
        Ok(Self { dir, cidr, used, last })
    }

    /// The address of this sandbox: the one it has, or a free one.
    pub(crate) fn allocate(&mut self, request: &Request) -> Result<Attachment, NetworkError> {
        if let Some(present) = self.find(&request.container_id, &request.ifname) {
            return Ok(present.clone());
        }
        let address = self.free().ok_or(NetworkError::Exhausted { cidr: self.cidr, used: self.used.len() })?;
        let attachment = Attachment {
            address,
            container_id: request.container_id.clone(),
            ifname: request.ifname.clone(),
            netns: request.netns.clone(),
            namespace: request.namespace.clone(),
            name: request.name.clone(),
            uid: request.uid.clone(),
        };
        write_atomically(&self.dir.join(address.to_string()), &attachment)?;
        self.used.insert(address, attachment.clone());
        self.last = Some(address);
        Ok(attachment)
    }

    /// Frees a sandbox's address; nothing happens when it has none.
    pub(crate) fn release(&mut self, container_id: &str, ifname: &str) -> Result<(), NetworkError> {
        let Some(address) = self.find(container_id, ifname).map(|attachment| attachment.address) else {
            return Ok(());
        };
        let path = self.dir.join(address.to_string());
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(NetworkError::State { path, source }),
            _ => {
                self.used.remove(&address);
                Ok(())
            }
        }
    }

    /// What a sandbox has.
    pub(crate) fn find(&self, container_id: &str, ifname: &str) -> Option<&Attachment> {
        self.used.values().find(|a| a.container_id == container_id && a.ifname == ifname)
    }

    /// Everything in use, by address.
    pub(crate) fn all(&self) -> Vec<Attachment> {
        self.used.values().cloned().collect()
    }

    /// What is in use without an interface on the host.
    pub(crate) fn missing(&self, links: &[LinkInfo]) -> Vec<Attachment> {
        let there = |attachment: &&Attachment| {
            let name = attachment.host_interface();
            !links.iter().any(|link| link.name == name)
        };
        self.used.values().filter(there).cloned().collect()
    }

    /// Whether an interface belongs to an address in use.
    pub(crate) fn knows(&self, host_interface: &str) -> bool {
        self.used.values().any(|attachment| attachment.host_interface() == host_interface)
    }

    /// The next free address after the one given last, going round. The first host address stays free for the node.
    fn free(&self) -> Option<Ipv4Addr> {
        let first = u32::from(self.cidr.network()).checked_add(2)?;
        let end = u32::from(self.cidr.broadcast());
        let start = match self.last.map(u32::from) {
            Some(last) if (first..end).contains(&last) => last + 1,
            _ => first,
        };
        (start..end).chain(first..start).map(Ipv4Addr::from).find(|address| !self.used.contains_key(address))
    }
}

/// Writes a whole file or none: a reader sees the old or the new text.
pub(crate) fn write_atomically<T: Serialize>(path: &Path, value: &T) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::State { path: path.to_owned(), source };
    let text = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside).map_err(failed)?;
    file.write_all(&text).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}

#[cfg(test)]
mod tests;
