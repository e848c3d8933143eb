//! A delta from the wire to the node's view: what lies between the control plane's message and the data path.
//!
//! The cases are the sizes of one Service: a pod that comes or goes changes one slice of up to a hundred endpoints, and
//! the Service is joined anew from all its slices.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use fairlead_proto::push::v1;
use fairlead_source::View;
use fairlead_source::push::decode;

/// Most endpoints the control plane puts into one slice.
const SLICE: usize = 100;

fn object(kind: v1::Kind, name: &str, json: &str) -> v1::Object {
    let object = v1::ObjectRef { kind: kind.into(), namespace: "default".into(), name: name.into() };
    v1::Object { object: Some(object), json: json.to_owned().into() }
}

fn service() -> v1::Object {
    let json = r#"{"apiVersion":"v1","kind":"Service","metadata":{"namespace":"default","name":"web"},"spec":{
        "clusterIP":"10.96.0.7","clusterIPs":["10.96.0.7"],"ports":[{"name":"http","port":80,"protocol":"TCP"}]}}"#;
    object(v1::Kind::Service, "web", json)
}

/// Slice `number` of a Service with so many endpoints; the first endpoint is ready or not.
fn slice(number: usize, endpoints: usize, ready: bool) -> v1::Object {
    let name = format!("web-{number}");
    let first = number * SLICE;
    let endpoints: Vec<String> = (first..endpoints.min(first + SLICE))
        .map(|index| {
            let ready = ready || index > first;
            format!(
                r#"{{"addresses":["10.{}.{}.{}"],"conditions":{{"ready":{ready},"serving":{ready},"terminating":false}},
                "nodeName":"node-{}","targetRef":{{"kind":"Pod","namespace":"default","name":"web-{index}"}}}}"#,
                index >> 16,
                (index >> 8) & 255,
                index & 255,
                index % 10,
            )
        })
        .collect();
    let json = format!(
        r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"namespace":"default","name":"{name}",
        "resourceVersion":"1","labels":{{"kubernetes.io/service-name":"web"}}}},"addressType":"IPv4",
        "ports":[{{"name":"http","port":8080,"protocol":"TCP"}}],"endpoints":[{}]}}"#,
        endpoints.join(",")
    );
    object(v1::Kind::EndpointSlice, &name, &json)
}

fn delta(revision: u64, put: Vec<v1::Object>) -> v1::Update {
    v1::Update { revision, complete: true, put, ..v1::Update::default() }
}

fn one_endpoint_changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("view/endpoint_changes");
    for endpoints in [10usize, 100, 1_000, 5_000] {
        let mut view = View::new("node-1");
        let slices = endpoints.div_ceil(SLICE);
        let state = std::iter::once(service()).chain((0..slices).map(|number| slice(number, endpoints, true)));
        view.apply(decode::update(delta(1, state.collect()), false));
        let messages = [false, true].map(|ready| delta(2, vec![slice(0, endpoints, ready)]));
        let mut turn = 0;
        group.bench_function(BenchmarkId::from_parameter(endpoints), |bencher| {
            bencher.iter_batched(
                || {
                    turn ^= 1;
                    messages[turn].clone()
                },
                |message| black_box(view.apply(decode::update(message, false))),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, one_endpoint_changes);
criterion_main!(benches);
