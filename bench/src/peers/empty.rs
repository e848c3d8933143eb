//! Programs that do nothing, where ours would be: what the kernel takes to call them.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::TcAttachType;

use crate::programs;
use crate::rig::node::{self, Node, Side};

/// Attached as long as it is there.
#[derive(Debug)]
pub(crate) struct Empty {
    _ebpf: Ebpf,
}

impl Empty {
    /// Attaches to both sides of every interface of a node that a proxy would attach to.
    pub(crate) fn new(node: &Node) -> Result<Self> {
        let interfaces = [Side::Pod.interface(), Side::Stranger.interface(), Side::Outside.interface(), node::BACKEND];
        node.net.run(|| {
            let mut ebpf = programs::open()?;
            let program = programs::tc(&mut ebpf, "empty_tc")?;
            for interface in interfaces {
                for side in [TcAttachType::Ingress, TcAttachType::Egress] {
                    program.attach(interface, side).with_context(|| format!("{interface} takes no tc program"))?;
                }
            }
            Ok(Self { _ebpf: ebpf })
        })
    }
}
