//! The whole way of a change: an EndpointSlice is patched at the API server, and traffic moves. In between are the store,
//! the push to the node, its tables and the programs that read them.

use std::collections::BTreeMap;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::OURS;
use super::cluster::Cluster;
use crate::options::Options;
use crate::results::{Better, Cell, Histogram, quantile};
use crate::stage::Stage;
use crate::workload::{Case, Figure, Sample, Workload};

/// Of every service.
const ENDPOINTS: u32 = 3;
/// Changes stand alone: what one of them leaves to do is done before the next.
const PAUSE: Duration = Duration::from_millis(20);
/// Of the daemon's idleness, from which its work is told apart.
const IDLE: Duration = Duration::from_millis(200);
/// A change that takes longer is lost.
const LOST: Duration = Duration::from_secs(5);

/// One change at a time.
#[derive(Debug, Default)]
pub(crate) struct ChangePatch {
    clusters: BTreeMap<Cell, (Cluster, u32)>,
}

impl Workload for ChangePatch {
    fn name(&self) -> &'static str {
        "change-patch"
    }

    fn title(&self) -> &'static str {
        "An EndpointSlice patched at the API server, until traffic moves"
    }

    fn figures(&self) -> &'static [Figure] {
        const FIGURES: [Figure; 3] = [
            Figure { name: "p50", unit: "ns", better: Better::Lower },
            Figure { name: "p99", unit: "ns", better: Better::Lower },
            Figure { name: "cpu of the node", unit: "ns", better: Better::Lower },
        ];
        &FIGURES
    }

    fn cases(&self, options: &Options) -> Vec<Case> {
        if !super::proxies(options).iter().any(|(name, _)| *name == OURS) {
            return Vec::new();
        }
        let numbers = match (options.services.is_empty(), options.quick) {
            (false, _) => options.services.clone(),
            (true, true) => vec![10, 1000],
            (true, false) => vec![10, 1000, 5000],
        };
        let case =
            |number| Case { cell: Cell::with_services(OURS, number, ENDPOINTS), reference: None, baseline: None };
        numbers.into_iter().map(case).collect()
    }

    fn prepare(&mut self, stage: &mut Stage, cell: &Cell) -> Result<()> {
        let services = cell.services.context("the cell has services")?;
        let cluster = Cluster::new(stage, &format!("change-patch-{services}"), services, ENDPOINTS)?;
        self.clusters.insert(cell.clone(), (cluster, 0));
        Ok(())
    }

    fn run(&mut self, _stage: &mut Stage, cell: &Cell, time: Duration) -> Result<Sample> {
        let (cluster, set) = self.clusters.get_mut(cell).context("nothing was prepared")?;
        let before = cluster.computed()?;
        std::thread::sleep(IDLE);
        let idle = (cluster.computed()? - before).as_secs_f64() / IDLE.as_secs_f64();

        let (start, before) = (Instant::now(), cluster.computed()?);
        let mut times = Vec::new();
        while times.is_empty() || start.elapsed() < time {
            *set = 1 - *set;
            times.push(change(cluster, *set)?.as_nanos() as f64);
            std::thread::sleep(PAUSE);
        }
        let computed = (cluster.computed()? - before).as_secs_f64() - idle * start.elapsed().as_secs_f64();
        let mut histogram = Histogram::default();
        times.iter().for_each(|time| histogram.record(*time as u64));
        times.sort_by(f64::total_cmp);
        let cpu = computed.max(0.0) * 1e9 / times.len() as f64;
        let figures = vec![quantile(&times, 0.5), quantile(&times, 0.99), cpu];
        Ok(Sample { figures, histogram: Some(histogram), failures: 0 })
    }
}

/// Moves the service to its other set of endpoints; how long that took, as a client sees it.
fn change(cluster: &Cluster, set: u32) -> Result<Duration> {
    let (asking, asked) = channel();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| cluster.client().run(|| until(cluster, set, asking)));
        // From the first answer of the old set on; an error comes out of the client.
        let _ = asked.recv();
        let start = Instant::now();
        let patched = cluster.patch(set * ENDPOINTS, ENDPOINTS);
        let moved = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))?;
        patched?;
        Ok(moved?.saturating_duration_since(start))
    })
}

/// Asks, each time as a new flow, until the set answers; when that was.
fn until(cluster: &Cluster, set: u32, asking: Sender<()>) -> Result<Instant> {
    let start = Instant::now();
    let mut begun = Some(asking);
    while start.elapsed() < LOST {
        let answered = cluster.ask(&cluster.socket()?)?;
        if u32::from(answered) / ENDPOINTS == set {
            return Ok(Instant::now());
        }
        if let Some(asking) = begun.take() {
            let _ = asking.send(());
        }
    }
    bail!("traffic did not move within {LOST:?}")
}
