//! Planning map writes: one endpoint change must cost the same with one service as with many.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use fairlead_bench::{CAPACITY, filled, service};
use fairlead_datapath::tables::Tables;
use fairlead_datapath::{Site, wants};

fn one_endpoint(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan_one_endpoint");
    for services in [1u32, 1000, 10_000, 100_000] {
        let mut tables = filled(services);
        let mut round = 0;
        let mut now = Instant::now();
        group.bench_function(BenchmarkId::from_parameter(services), |bencher| {
            bencher.iter(|| {
                round += 1;
                now += Duration::from_secs(6);
                tables.tick(now, Duration::from_secs(30));
                let service = service(services / 2, round % 2, 2);
                tables.plan(&service.name, &wants(&service, &Site::default()), now)
            });
        });
    }
    group.finish();
}

/// From a service to what the tables should hold, the first half of every plan.
fn desired(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("desired");
    for endpoints in [2u32, 10, 60] {
        let service = service(7, 0, endpoints);
        let site = Site::default();
        group.bench_function(BenchmarkId::from_parameter(endpoints), |bencher| {
            bencher.iter(|| wants(black_box(&service), &site));
        });
    }
    group.finish();
}

fn everything(criterion: &mut Criterion) {
    let services: Vec<_> = (0..10_000).map(|number| service(number, 0, 2)).collect();
    criterion.bench_function("plan_10000_services", |bencher| {
        bencher.iter_batched(
            || Tables::new(CAPACITY),
            |mut tables| {
                let now = Instant::now();
                services
                    .iter()
                    .map(|service| tables.plan(&service.name, &wants(service, &Site::default()), now).steps.len())
                    .sum::<usize>()
            },
            BatchSize::LargeInput,
        );
    });
}

criterion_group!(benches, desired, one_endpoint, everything);
criterion_main!(benches);
