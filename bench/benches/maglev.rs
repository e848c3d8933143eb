//! Building a ring: what one endpoint change of a service reachable from outside costs in user space.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddrV4};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fairlead_datapath::maglev;

fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("maglev_ring");
    for endpoints in [3u32, 10, 100, 600] {
        let addresses: Vec<SocketAddrV4> =
            (0..endpoints).map(|end| SocketAddrV4::new(Ipv4Addr::from(0x0af4_0002 + end), 8080)).collect();
        group.bench_with_input(BenchmarkId::from_parameter(endpoints), &addresses, |bencher, addresses| {
            bencher.iter(|| maglev::ring(black_box(addresses)));
        });
    }
    group.finish();
}

criterion_group!(benches, build);
criterion_main!(benches);
