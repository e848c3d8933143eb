//! Building a ring: what one endpoint change of a service reachable from outside costs in user space.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fairlead_datapath::{Member, maglev};

fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("maglev_ring");
    for endpoints in [3u32, 10, 100, 600] {
        let member = |end: u32| (SocketAddr::from((Ipv4Addr::from(0x0af4_0002 + end), 8080)), 1);
        let members: Vec<Member> = (0..endpoints).map(member).collect();
        let size = maglev::ring_size(members.len());
        group.bench_with_input(BenchmarkId::from_parameter(endpoints), &members, |bencher, members| {
            bencher.iter(|| maglev::ring(black_box(members), size));
        });
    }
    group.finish();
}

criterion_group!(benches, build);
criterion_main!(benches);
