//! What `cargo xtask bench --gate` counts instructions of: fixed work, on paths that run for every change.
//!
//! `count programs` loads the BPF programs and prints the instructions of each; it takes root. `count path NAME` does the
//! work of one path; run under callgrind, told to collect inside of `counted_*` alone, it gives a count that is the same
//! whatever else the machine does. `count paths` names them. Without arguments, as cargo runs it among the benchmarks, it
//! does nothing.

use std::error::Error;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use fairlead_bench::{CAPACITY, filled, service};
use fairlead_datapath::tables::Tables;
use fairlead_datapath::{Config, Datapath, Member, Site, Want, maglev, wants};
use fairlead_proto::push::v1;
use fairlead_source::push::decode;
use fairlead_source::{Service, View};

/// Services among which one changes.
const SERVICES: u32 = 1000;
/// Changes counted.
const CHANGES: u32 = 100;

type Work = (&'static str, fn());

/// Name of each path, and its work.
const PATHS: [Work; 5] = [
    ("desired", desired),
    ("map-writes", map_writes),
    ("all-services", all_services),
    ("maglev", ring),
    ("delta", delta),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["programs", bpffs, cgroup] => programs(Path::new(bpffs), Path::new(cgroup)),
        ["paths"] => {
            PATHS.iter().for_each(|(name, _)| println!("{name}"));
            Ok(())
        }
        ["path", name] => {
            let (_, work) = PATHS.iter().find(|(known, _)| known == name).ok_or("no such path")?;
            work();
            Ok(())
        }
        _ => Ok(()),
    }
}

/// One line for each program: its name, its instructions as the kernel holds them, and as many as the verifier followed.
fn programs(bpffs: &Path, cgroup: &Path) -> Result<(), Box<dyn Error>> {
    let datapath = Datapath::open(Config::new(bpffs, cgroup))?;
    for (name, held, followed) in datapath.instructions() {
        println!("{name} {held} {}", followed.unwrap_or(0));
    }
    drop(datapath);
    fairlead_datapath::remove(bpffs)?;
    Ok(())
}

/// A service before and after its last endpoint became another one, alternating.
fn changed(turn: u32) -> Service {
    service(SERVICES / 2, turn % 2, 2)
}

/// From a service to what the tables should hold.
fn desired() {
    let services: Vec<Service> = (0..CHANGES).map(changed).collect();
    let site = Site::default();
    counted_desired(&services, &site);
}

#[inline(never)]
fn counted_desired(services: &[Service], site: &Site) {
    services.iter().for_each(|service| drop(black_box(wants(service, site))));
}

/// From what they should hold to the writes that take them there.
fn map_writes() {
    let mut tables = filled(SERVICES);
    let changes: Vec<(Service, Vec<Want>)> = (0..CHANGES)
        .map(|turn| {
            let service = changed(turn);
            let wants = wants(&service, &Site::default());
            (service, wants)
        })
        .collect();
    counted_map_writes(&mut tables, &changes, Instant::now());
}

#[inline(never)]
fn counted_map_writes(tables: &mut Tables, changes: &[(Service, Vec<Want>)], start: Instant) {
    let mut now = start;
    for (service, wants) in changes {
        now += Duration::from_secs(6);
        tables.tick(now, Duration::from_secs(30));
        black_box(tables.plan(&service.name, wants, now));
    }
}

/// The same for all services at once.
fn all_services() {
    let services: Vec<Service> = (0..SERVICES).map(|number| service(number, 0, 2)).collect();
    let mut tables = Tables::new(CAPACITY);
    counted_all_services(&mut tables, &services, &Site::default(), Instant::now());
}

#[inline(never)]
fn counted_all_services(tables: &mut Tables, services: &[Service], site: &Site, now: Instant) {
    for service in services {
        black_box(tables.plan(&service.name, &wants(service, site), now));
    }
}

/// A ring for endpoints of a service that is reached from outside.
fn ring() {
    let member = |end: u32| (SocketAddr::from((Ipv4Addr::from(0x0af4_0002 + end), 8080)), 1);
    let members: Vec<Member> = (0..10).map(member).collect();
    counted_ring(&members, maglev::ring_size(members.len()));
}

#[inline(never)]
fn counted_ring(members: &[Member], size: u32) {
    black_box(maglev::ring(members, size));
}

/// From a message of the control plane to the node's view.
fn delta() {
    let object = |kind: v1::Kind, name: &str, json: String| {
        let object = v1::ObjectRef { kind: kind.into(), namespace: "default".into(), name: name.into() };
        v1::Object { object: Some(object), json: json.into() }
    };
    let service = object(
        v1::Kind::Service,
        "web",
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"namespace":"default","name":"web"},"spec":{
        "clusterIP":"10.96.0.7","clusterIPs":["10.96.0.7"],"ports":[{"name":"http","port":80,"protocol":"TCP"}]}}"#
            .to_owned(),
    );
    let slice = |ready: bool| {
        let endpoint = |number: u32| {
            format!(
                r#"{{"addresses":["10.244.0.{number}"],"conditions":{{"ready":{}}},"nodeName":"node-1"}}"#,
                ready || number > 0
            )
        };
        let endpoints: Vec<String> = (0..10).map(endpoint).collect();
        let json = format!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"namespace":"default",
            "name":"web-0","labels":{{"kubernetes.io/service-name":"web"}}}},"addressType":"IPv4",
            "ports":[{{"name":"http","port":8080,"protocol":"TCP"}}],"endpoints":[{}]}}"#,
            endpoints.join(",")
        );
        object(v1::Kind::EndpointSlice, "web-0", json)
    };
    let update = |revision, put: Vec<v1::Object>| v1::Update { revision, complete: true, put, ..v1::Update::default() };
    let mut view = View::new("node-1");
    view.apply(decode::update(update(1, vec![service, slice(true)]), false));
    let messages: Vec<v1::Update> =
        (0..CHANGES).map(|turn| update(u64::from(turn) + 2, vec![slice(turn % 2 == 1)])).collect();
    counted_delta(&mut view, messages);
}

#[inline(never)]
fn counted_delta(view: &mut View, messages: Vec<v1::Update>) {
    for message in messages {
        black_box(view.apply(decode::update(message, false)));
    }
}
