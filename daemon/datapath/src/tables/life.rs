//! How endpoints come and go.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use fairlead_abi::{Backend, MemberKey};

use super::{Ended, Group, Plan, REST, Refusal, Step, Tables, to_mapped};
use crate::desired::Want;

impl Tables {
    /// Makes an endpoint of a group active, under the id it has or had there.
    pub(super) fn put_backend(
        &mut self,
        group_id: u32,
        group: &mut Group,
        address: SocketAddr,
        want: &Want,
        plan: &mut Plan,
    ) -> Result<(), Refusal> {
        let local = if want.local.binary_search(&address).is_ok() { Backend::LOCAL } else { 0 };
        let flags = local | if address.is_ipv6() { Backend::IPV6 } else { 0 };
        let (id, generation) = match group.backends.get(&address, &self.backends) {
            Some(id) => (id, self.backends.get(id).map_or(1, Backend::generation)),
            None => self.revive(group_id, address)?,
        };
        let backend = Backend {
            addr: bytes(address),
            port: address.port().to_be_bytes(),
            proto: want.label.proto,
            flags,
            life: Backend::life(generation, Backend::ACTIVE),
            group: group_id,
            given: 0,
        };
        if self.backends.get(id) != Some(&backend) {
            self.backends.insert(id, backend);
            plan.steps.push(Step::Backend(id, backend));
        }
        group.backends.insert(id, &self.backends);
        let member = MemberKey { group: group_id, addr: to_mapped(address.ip()) };
        if want.decapsulate && local != 0 && !self.members.contains_key(&member) {
            self.members.insert(member, id);
            plan.steps.push(Step::Join(member, id));
        }
        Ok(())
    }

    /// The id of an endpoint that came back before anybody took its place, or a new one; and its generation. What was
    /// going to one that is not gone yet goes on.
    fn revive(&mut self, group: u32, address: SocketAddr) -> Result<(u32, u32), Refusal> {
        if let Some(id) = self.left.remove(&(group, address)) {
            self.since.remove(&id);
            let backend = self.backends.get(id).copied().unwrap_or_default();
            let generation = backend.generation();
            return Ok((id, if backend.state() == Backend::GONE { after(generation) } else { generation }));
        }
        let id = self.backend_ids.take(1).ok_or(Refusal::Full("endpoints"))?;
        Ok((id, self.backends.get(id).map_or(1, |old| after(old.generation()))))
    }

    /// Lets an endpoint take no new flows.
    pub(super) fn drain_backend(&mut self, group: u32, id: u32, now: Instant, plan: &mut Plan) {
        let Some(backend) = self.backends.get_mut(id) else { return };
        let address = address(backend);
        backend.life = Backend::life(backend.generation(), Backend::DRAINING);
        plan.steps.push(Step::Backend(id, *backend));
        plan.ended.push(Ended { address, proto: backend.proto, backend: id, generation: backend.generation() });
        self.left.insert((group, address), id);
        self.since.insert(id, now);
        self.draining.push_back((now, id));
    }

    /// What time does: endpoints whose drain is over are gone, and ids that have rested are free for others. The plan's
    /// `ended` are those gone now.
    pub fn tick(&mut self, now: Instant, drain: Duration) -> Plan {
        self.wake(now);
        let mut plan = Plan::default();
        while let Some((since, id)) = self.draining.front().copied()
            && now.duration_since(since) >= drain
        {
            self.draining.pop_front();
            if self.since.get(&id) == Some(&since) {
                self.end_backend(id, now, &mut plan);
            }
        }
        while let Some((since, id)) = self.gone.front().copied()
            && now.duration_since(since) >= REST
        {
            self.gone.pop_front();
            if self.since.get(&id) == Some(&since)
                && let Some(backend) = self.backends.get(id)
            {
                self.left.remove(&(backend.group, address(backend)));
                self.since.remove(&id);
                self.backend_ids.give(id, 1);
            }
        }
        plan
    }

    fn end_backend(&mut self, id: u32, now: Instant, plan: &mut Plan) {
        let Some(backend) = self.backends.get_mut(id).filter(|backend| backend.state() != Backend::GONE) else {
            return;
        };
        backend.life = Backend::life(backend.generation(), Backend::GONE);
        let backend = *backend;
        plan.steps.push(Step::Backend(id, backend));
        let address = address(&backend);
        plan.ended.push(Ended { address, proto: backend.proto, backend: id, generation: backend.generation() });
        let member = MemberKey { group: backend.group, addr: to_mapped(address.ip()) };
        if self.members.get(&member) == Some(&id) {
            self.members.remove(&member);
            plan.steps.push(Step::Leave(member));
        }
        self.since.insert(id, now);
        self.gone.push_back((now, id));
    }
}

/// The generation after this one.
fn after(generation: u32) -> u32 {
    (generation + 1) & 0x00ff_ffff
}

/// The address in the form of [`Backend::addr`].
fn bytes(address: SocketAddr) -> fairlead_abi::V6 {
    match address {
        SocketAddr::V4(address) => {
            let mut addr = [0; 16];
            addr[..4].copy_from_slice(&address.ip().octets());
            addr
        }
        SocketAddr::V6(address) => address.ip().octets(),
    }
}

/// An endpoint's address and port.
pub(super) fn address(backend: &Backend) -> SocketAddr {
    let port = u16::from_be_bytes(backend.port);
    if backend.flags & Backend::IPV6 != 0 {
        return (Ipv6Addr::from(backend.addr), port).into();
    }
    let [a, b, c, d, ..] = backend.addr;
    (Ipv4Addr::new(a, b, c, d), port).into()
}
