//! Pods: their host-side interfaces, and what the programs know of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fairlead_abi::Pod;

use crate::interface::interfaces;
use crate::tables::to_mapped;
use crate::{Datapath, DatapathError, PodInterface, attach, frames};

impl Datapath {
    /// Attaches to a pod's host-side interface and lets its sockets be translated. Idempotent; again with other
    /// addresses takes these up.
    pub fn attach_pod(&mut self, pod: &PodInterface) -> Result<(), DatapathError> {
        let known = self.pods.get(&pod.name);
        if known == Some(pod) {
            return Ok(());
        }
        if known.is_none_or(|known| known.ifindex != pod.ifindex) {
            attach::pod(&mut self.ebpf, &self.pins, &pod.name)?;
        }
        if let Some(known) = self.pods.remove(&pod.name) {
            self.forget_addresses(&known, pod)?;
        }
        let record = self.record(pod)?;
        for addr in &pod.addresses {
            self.kernel.put_pod(to_mapped(*addr), &record)?;
        }
        if pod.netns_cookie != 0 {
            self.kernel.put_netns(pod.netns_cookie, &record)?;
        }
        self.pods.insert(pod.name.clone(), pod.clone());
        Ok(())
    }

    /// Forgets a pod, by the name of its host-side interface, which may be gone already. Idempotent.
    pub fn detach_pod(&mut self, name: &str) -> Result<(), DatapathError> {
        if let Some(pod) = self.pods.remove(name) {
            let nobody = PodInterface { addresses: Vec::new(), netns_cookie: 0, ..pod.clone() };
            self.forget_addresses(&pod, &nobody)?;
        }
        attach::detach(&self.pins, name)
    }

    /// Makes these pods, and no others, the ones attached: after a restart, with the pods that are really there.
    pub fn retain_pods(&mut self, pods: &[PodInterface]) -> Result<(), DatapathError> {
        let names: BTreeSet<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
        let mut known = attach::pinned_interfaces(&self.pins, "tc_from_pod")?;
        known.extend(self.pods.keys().cloned());
        for name in known {
            if !names.contains(name.as_str()) {
                self.detach_pod(&name)?;
            }
        }
        for pod in pods {
            self.attach_pod(pod)?;
        }
        for cookie in self.kernel.netns()? {
            if !pods.iter().any(|pod| pod.netns_cookie == cookie) {
                self.kernel.drop_netns(cookie)?;
            }
        }
        let addresses: BTreeSet<_> = pods.iter().flat_map(|pod| &pod.addresses).map(|addr| to_mapped(*addr)).collect();
        for address in self.kernel.pods()? {
            if !addresses.contains(&address) {
                self.kernel.drop_pod(address)?;
            }
        }
        Ok(())
    }

    /// Takes out of the tables what a pod had and, under its new description, has not.
    fn forget_addresses(&mut self, old: &PodInterface, new: &PodInterface) -> Result<(), DatapathError> {
        for addr in old.addresses.iter().filter(|addr| !new.addresses.contains(addr)) {
            // Another pod may have got the address before we heard of this one's end.
            if !self.pods.values().any(|pod| pod.addresses.contains(addr)) {
                self.kernel.drop_pod(to_mapped(*addr))?;
            }
        }
        let cookie = old.netns_cookie;
        if cookie != 0 && cookie != new.netns_cookie && !self.pods.values().any(|pod| pod.netns_cookie == cookie) {
            self.kernel.drop_netns(cookie)?;
        }
        Ok(())
    }

    /// What the programs are told of a pod.
    fn record(&self, pod: &PodInterface) -> Result<Pod, DatapathError> {
        let mut record = Pod { mac: pod.mac, ..Pod::default() };
        for addr in pod.addresses.iter().rev() {
            match addr {
                IpAddr::V4(addr) => record.v4 = addr.octets(),
                IpAddr::V6(addr) => record.v6 = addr.octets(),
            }
        }
        // Who skips the host's stack must know the next hop's hardware address by himself.
        if self.config.redirect && pod.mac != [0; 6] {
            let interface = interfaces()?.remove(&pod.name).unwrap_or_default();
            record.host_mac = interface.mac;
            record.ifindex = pod.ifindex;
            record.frames = frames::longest(&pod.name, &interface);
        }
        Ok(record)
    }

    /// Pods attached now.
    pub fn pods(&self) -> impl Iterator<Item = &PodInterface> {
        self.pods.values()
    }

    /// Host-side interfaces of the pods whose sockets the hooks translate.
    pub(crate) fn pod_interfaces(&self) -> Vec<(String, u32)> {
        self.pods.values().filter(|pod| pod.netns_cookie != 0).map(|pod| (pod.name.clone(), pod.ifindex)).collect()
    }
}
