//! What it takes to put a change of services in force: one endpoint of one service, all services at once, and the whole way
//! from the API server.
//!
//! Time counts from where the change is decided to where the kernel holds it: for ours, a call of the library that the
//! node daemon uses; for a peer, the program that kube-proxy starts, with what it hands it.

mod all;
mod cluster;
mod memory;
mod one;
mod ours;
mod patch;

pub(crate) use all::ChangeAll;
pub(crate) use memory::Memory;
pub(crate) use one::ChangeOne;
pub(crate) use patch::ChangePatch;

use anyhow::{Context, Result, bail};

use crate::options::{Options, Peer};
use crate::peers::Proxy;
use crate::peers::services::Spec;
use crate::results::Cell;
use crate::workload::Case;

/// The cells' name of ours: programming is one for all ways in.
const OURS: &str = "fairlead";

/// Most services that a peer of netfilter is given: beyond, one change takes seconds and all of them minutes.
const MOST: u32 = 10_000;

/// Numbers of services.
fn services(options: &Options) -> Vec<u32> {
    match (options.services.is_empty(), options.quick) {
        (false, _) => options.services.clone(),
        (true, true) => vec![1000, 10_000],
        (true, false) => vec![1000, 10_000, 100_000],
    }
}

/// Who can be programmed, as cells name them.
fn proxies(options: &Options) -> Vec<(&'static str, Peer)> {
    let mut proxies: Vec<(&'static str, Peer)> = Vec::new();
    for peer in &options.peers {
        match Proxy::of(*peer) {
            Proxy::Ours if proxies.iter().all(|(name, _)| *name != OURS) => proxies.push((OURS, *peer)),
            Proxy::Iptables | Proxy::IptablesNft | Proxy::Nftables => proxies.push((peer.name(), *peer)),
            _ => {}
        }
    }
    proxies
}

/// A cell for each of them and each number of services. A run that has to be quick leaves out those of netfilter with
/// many.
fn cases(options: &Options) -> Vec<Case> {
    let numbers = services(options);
    let is_short = |name: &str, number: u32| !options.quick || name == OURS || number <= 1000;
    proxies(options)
        .into_iter()
        .flat_map(|(name, _)| numbers.iter().map(move |number| (name, *number)))
        .filter(|(name, number)| is_short(name, *number))
        .map(|(name, number)| Case {
            cell: Cell::with_services(name, number, options.endpoints),
            reference: None,
            baseline: None,
        })
        .collect()
}

/// The services of a cell.
fn spec(cell: &Cell) -> Result<Spec> {
    let services = cell.services.context("the cell has services")?;
    Ok(Spec { services, endpoints: cell.endpoints.unwrap_or(2) })
}

/// Who programs the services of a cell; why not here.
fn proxy(options: &Options, cell: &Cell) -> Result<Proxy> {
    let found = proxies(options).into_iter().find(|(name, _)| *name == cell.peer);
    let (_, peer) = found.context("nobody programs this")?;
    let services = cell.services.unwrap_or(0);
    if let Some(reason) = options.refusal(peer, services) {
        bail!("{reason}");
    }
    let proxy = Proxy::of(peer);
    if proxy != Proxy::Ours && services > MOST {
        bail!("with more than {MOST} services one change takes seconds and all of them minutes");
    }
    Ok(proxy)
}
