use super::*;
use crate::Attachment;

fn call() -> Call {
    Call {
        command: "ADD".to_owned(),
        container_id: "abc".to_owned(),
        netns: "/run/netns/x".to_owned(),
        ifname: "eth0".to_owned(),
        args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u-1".to_owned(),
        config: Vec::new(),
    }
}

#[test]
fn arguments_name_the_pod() {
    let request = request(&call()).unwrap();
    assert_eq!((request.namespace.as_str(), request.name.as_str()), ("default", "web-0"));
    assert_eq!(request.uid, "u-1");
}

#[test]
fn what_is_missing_is_named() {
    let bare = Call { netns: String::new(), ..call() };
    let error = request(&bare).unwrap_err();
    assert_eq!(error.code, Code::InvalidEnvironment);
    assert!(error.message.contains("CNI_NETNS"), "{error}");
    assert!(request(&Call { command: "DEL".to_owned(), ..bare }).is_ok());
    assert!(request(&Call { ifname: "../eth0".to_owned(), ..call() }).is_err());
}

#[test]
fn versions_we_do_not_speak_are_refused() {
    assert_eq!(version(br#"{"cniVersion":"0.4.0"}"#).unwrap(), "0.4.0");
    assert_eq!(version(br#"{"cniVersion":"0.1.0"}"#).unwrap_err().code, Code::IncompatibleVersion);
    assert_eq!(version(b"{").unwrap_err().code, Code::Decode);
}

#[test]
fn a_result_reads_as_the_specification_says() {
    let interface = PodInterface {
        host_interface: "flr1".to_owned(),
        ifindex: 7,
        address: [10, 244, 0, 9].into(),
        mac: [10, 0x58, 10, 244, 0, 9],
        host_mac: [14, 0x58, 10, 244, 0, 9],
        netns_cookie: None,
        mtu: 1500,
        attachment: Attachment {
            address: [10, 244, 0, 9].into(),
            container_id: "abc".to_owned(),
            ifname: "eth0".to_owned(),
            netns: "/run/netns/x".into(),
            namespace: "default".to_owned(),
            name: "web-0".to_owned(),
            uid: "u-1".to_owned(),
        },
    };
    let new: Value = serde_json::from_slice(&result("1.0.0", &interface)).unwrap();
    assert_eq!(new["ips"][0], json!({ "address": "10.244.0.9/32", "interface": 1 }));
    assert_eq!(new["interfaces"][1]["sandbox"], "/run/netns/x");
    assert_eq!(new["interfaces"][1]["mac"], "0a:58:0a:f4:00:09");
    let old: Value = serde_json::from_slice(&result("0.3.1", &interface)).unwrap();
    assert_eq!(old["ips"][0]["version"], "4");
}

#[test]
fn the_loopback_plugin_is_told_by_its_type() {
    assert!(is_loopback(br#"{"cniVersion":"0.3.1","name":"cni-loopback","type":"loopback"}"#));
    assert!(!is_loopback(br#"{"cniVersion":"1.0.0","name":"fairlead","type":"fairlead"}"#));
    let result: Value = serde_json::from_slice(&loopback_result("0.3.1", "/run/netns/x")).unwrap();
    assert_eq!(result["ips"][0], json!({ "address": "127.0.0.1/8", "interface": 0, "version": "4" }));
}
