//! Programs on packets that are never sent (`BPF_PROG_TEST_RUN`), on the real tables.

use std::time::Duration;

use aya::programs::{ProgramFd, SchedClassifier, TestRun, TestRunOptions, TestRunResult};

use crate::{Datapath, DatapathError, loader};

/// As much of `struct __sk_buff` as is given: up to and with `ifindex`.
const SK_BUFF: usize = 44;
const SK_BUFF_IFINDEX: usize = 40;
/// `struct xdp_md`, and where it has `data_end` and `ingress_ifindex`.
const XDP_MD: usize = 24;
const XDP_MD_DATA_END: usize = 4;
const XDP_MD_IFINDEX: usize = 12;

impl Datapath {
    /// Runs a program on a packet: its verdict, and the packet as the program left it.
    pub fn run(&mut self, name: &'static str, packet: &[u8]) -> Result<(u32, Vec<u8>), DatapathError> {
        self.run_with(name, packet, None)
    }

    /// The same as on a packet that came in by, or leaves by, this interface of ours. Kernels before 5.14, and drivers
    /// without XDP, take no interface for XDP programs; there it runs without.
    pub fn run_on(&mut self, name: &'static str, ifindex: u32, packet: &[u8]) -> Result<(u32, Vec<u8>), DatapathError> {
        let is_xdp = is_xdp(name);
        let context = if is_xdp {
            let mut context = vec![0; XDP_MD];
            let len = u32::try_from(packet.len()).unwrap_or(u32::MAX);
            context[XDP_MD_DATA_END..][..4].copy_from_slice(&len.to_ne_bytes());
            context[XDP_MD_IFINDEX..][..4].copy_from_slice(&ifindex.to_ne_bytes());
            context
        } else {
            let mut context = vec![0; SK_BUFF];
            context[SK_BUFF_IFINDEX..][..4].copy_from_slice(&ifindex.to_ne_bytes());
            context
        };
        match self.run_with(name, packet, Some(&context)) {
            Err(_) if is_xdp => self.run_with(name, packet, None),
            other => other,
        }
    }

    /// The mean time of a run over many on the same buffer: what one run leaves is what the next one gets.
    pub fn time(&mut self, name: &'static str, packet: &[u8], repeat: u32) -> Result<Duration, DatapathError> {
        let options = TestRunOptions { data_in: Some(packet), repeat, ..TestRunOptions::default() };
        Ok(self.test_run(name, options)?.duration)
    }

    /// A program for packets, to be called by another one: see `BPF_MAP_TYPE_PROG_ARRAY`.
    pub fn program(&mut self, name: &'static str) -> Result<ProgramFd, DatapathError> {
        let failed = |source| DatapathError::Program { program: name, source: Box::new(source) };
        let fd = if is_xdp(name) {
            loader::ready_xdp(&mut self.ebpf, name)?.fd()
        } else {
            loader::program::<SchedClassifier>(&mut self.ebpf, name)?.fd()
        };
        fd.map_err(failed)?.try_clone().map_err(|source| failed(source.into()))
    }

    /// Programs that are loaded, with the instructions the kernel holds of each, after what it knows to be dead is gone,
    /// and those the verifier went through (since Linux 5.16).
    pub fn instructions(&self) -> Vec<(&'static str, u32, Option<u32>)> {
        loader::instructions(&self.ebpf)
    }

    fn run_with(
        &mut self,
        name: &'static str,
        packet: &[u8],
        context: Option<&[u8]>,
    ) -> Result<(u32, Vec<u8>), DatapathError> {
        let mut out = vec![0; packet.len() + 256];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: context,
            ..TestRunOptions::default()
        };
        let result = self.test_run(name, options)?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }

    fn test_run(&mut self, name: &'static str, options: TestRunOptions<'_>) -> Result<TestRunResult, DatapathError> {
        let result = if is_xdp(name) {
            loader::ready_xdp(&mut self.ebpf, name)?.test_run(options)
        } else {
            loader::program::<SchedClassifier>(&mut self.ebpf, name)?.test_run(options)
        };
        result.map_err(|source| DatapathError::Run { program: name, source: Box::new(source) })
    }
}

fn is_xdp(name: &str) -> bool {
    loader::XDP.contains(&name) || loader::XDP_FRAGS.contains(&name)
}
