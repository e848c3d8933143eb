use super::*;
use crate::netlink::Kind;

fn request(container: &str) -> Request {
    Request {
        container_id: container.to_owned(),
        netns: PathBuf::from("/run/netns/x"),
        ifname: "eth0".to_owned(),
        namespace: "default".to_owned(),
        name: container.to_owned(),
        uid: "1".to_owned(),
    }
}

fn open(dir: &Path) -> Ipam {
    Ipam::open(dir, "10.244.7.0/29".parse().unwrap()).unwrap()
}

#[test]
fn addresses_go_round_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut ipam = open(dir.path());
    let taken: Vec<_> =
        ["a", "b", "c"].iter().map(|name| ipam.allocate(&request(name)).unwrap().address.octets()[3]).collect();
    assert_eq!(taken, [2, 3, 4]);
    ipam.release("a", "eth0").unwrap();
    drop(ipam);
    let mut ipam = open(dir.path());
    assert_eq!(ipam.all().len(), 2);
    let next: Vec<_> =
        ["d", "e", "f"].iter().map(|name| ipam.allocate(&request(name)).unwrap().address.octets()[3]).collect();
    assert_eq!(next, [5, 6, 2], "a released address is the last to be used again");
    assert!(matches!(ipam.allocate(&request("g")), Err(NetworkError::Exhausted { used: 5, .. })));
}

#[test]
fn asking_twice_gives_the_same_address() {
    let dir = tempfile::tempdir().unwrap();
    let mut ipam = open(dir.path());
    let first = ipam.allocate(&request("a")).unwrap();
    assert_eq!(ipam.allocate(&request("a")).unwrap(), first);
    ipam.release("a", "eth0").unwrap();
    ipam.release("a", "eth0").unwrap();
    assert!(ipam.find("a", "eth0").is_none());
}

#[test]
fn a_torn_file_is_dropped_and_its_address_is_free() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).allocate(&request("a")).unwrap();
    std::fs::write(dir.path().join("addresses/10.244.7.3"), "{\"addr").unwrap();
    std::fs::write(dir.path().join("addresses/10.244.7.new"), "").unwrap();
    let ipam = open(dir.path());
    assert_eq!(ipam.all().len(), 1);
    assert_eq!(std::fs::read_dir(dir.path().join("addresses")).unwrap().count(), 1);
}

#[test]
fn an_address_without_interface_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut ipam = open(dir.path());
    let kept = ipam.allocate(&request("a")).unwrap();
    let lost = ipam.allocate(&request("b")).unwrap();
    let link = LinkInfo {
        name: kept.host_interface(),
        index: 5,
        mtu: 1500,
        mac: [0; 6],
        alias: String::new(),
        kind: Kind::Veth,
        elsewhere: true,
    };
    assert_eq!(ipam.missing(&[link]), [lost]);
    assert!(ipam.knows(&kept.host_interface()));
}
