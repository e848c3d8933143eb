//! Random services, endpoints, changes and packets of both families, through the programs and through the model.
//!
//! Rounds of a hundred events each. `FAIRLEAD_CASES` says how many packets (10,000 if it does not), `FAIRLEAD_SEED`
//! where to start; both are printed. A round that fails is run again on fresh nodes with events left out, as long as it
//! still fails, and what is left is printed.

#[path = "random/events.rs"]
mod events;
#[path = "random/judge.rs"]
mod judge;

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fairlead_tests::harness::suite::Case;

use crate::{Kind, Subject, make};
use events::{Random, Round};
use judge::{Judge, Used};

pub(crate) const CASES: &[Case<Subject>] = &[("random_packets_go_where_the_model_says", random)];

/// How long a failure is made shorter.
const PATIENCE: Duration = Duration::from_secs(60);

fn number(name: &str) -> Result<Option<u64>> {
    env::var(name).ok().map(|text| text.parse().with_context(|| format!("{name}: `{text}` is no number"))).transpose()
}

fn random(subject: &mut Subject) -> Result<()> {
    let cases = number("FAIRLEAD_CASES")?.unwrap_or(10_000);
    let seed = match number("FAIRLEAD_SEED")? {
        Some(seed) => seed,
        None => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64,
    };
    println!("random: FAIRLEAD_SEED={seed} FAIRLEAD_CASES={cases}");
    let node = subject.plain()?;
    let (mut random, mut done, mut used) = (Random(seed), 0, Used::new());
    for number in 0.. {
        if done >= cases {
            break;
        }
        let round = Round::new(&mut random, number);
        match Judge::run(node, &round, &mut used) {
            Ok(packets) => done += packets,
            Err(error) => {
                let (shorter, error) = shorten(round, error);
                bail!("seed {seed}, round {number}: {error:#}\n{shorter}");
            }
        }
    }
    println!("random: {done} packets went where the model says");
    Ok(())
}

/// Leaves out whatever the failure does not need. What fails no more on a fresh node is given back whole.
fn shorten(mut round: Round, mut error: anyhow::Error) -> (Round, anyhow::Error) {
    let start = Instant::now();
    let fails = |round: &Round| -> Option<anyhow::Error> {
        let mut node = make(Kind::Plain).ok()?;
        Judge::run(&mut node, round, &mut Used::new()).err()
    };
    if let Some(at) = judge::place(&error) {
        round.events.truncate(at + 1);
    }
    let mut chunk = round.events.len().div_ceil(2).max(1);
    while start.elapsed() < PATIENCE {
        let mut shorter = false;
        let mut from = 0;
        while from + 1 < round.events.len() && start.elapsed() < PATIENCE {
            let mut candidate = round.clone();
            let to = (from + chunk).min(candidate.events.len() - 1);
            candidate.events.drain(from..to);
            match fails(&candidate) {
                Some(why) => (round, error, shorter) = (candidate, why, true),
                None => from += chunk,
            }
        }
        if chunk == 1 && !shorter {
            break;
        }
        chunk = (chunk / 2).max(1);
    }
    (round, error)
}
