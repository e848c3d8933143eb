//! CNI as the runtime speaks it: what it asks, and the JSON it is answered with (specification 1.0.0 and before).
//!
//! Pure: the daemon does the work in between.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{PodInterface, Request};

/// Versions of the specification that are answered, the newest last.
pub const VERSIONS: [&str; 4] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0"];

/// Error codes with a meaning for the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The configuration asks for a version that is not spoken here.
    IncompatibleVersion = 1,
    /// A required variable is absent or makes no sense.
    InvalidEnvironment = 4,
    /// The configuration cannot be decoded.
    Decode = 6,
    /// Not now; the runtime may try again.
    TryAgain = 11,
    /// The kernel or the daemon refused.
    Failed = 100,
}

/// What the plugin is asked, from its environment and standard input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// Standard input.
    pub config: Vec<u8>,
}

/// A refusal, with its code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    /// For the runtime.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl CniError {
    /// With any text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The object the runtime expects on standard output.
    pub fn json(&self, version: &str) -> Vec<u8> {
        let value = json!({ "cniVersion": version, "code": self.code as u32, "msg": self.message });
        value.to_string().into_bytes()
    }
}

#[derive(Deserialize)]
struct NetworkConfig {
    #[serde(rename = "cniVersion", default)]
    version: String,
    #[serde(rename = "type", default)]
    plugin: String,
}

/// The specification version the configuration asks for.
pub fn version(config: &[u8]) -> Result<String, CniError> {
    let config: NetworkConfig = serde_json::from_slice(config)
        .map_err(|error| CniError::new(Code::Decode, format!("cannot read the network configuration: {error}")))?;
    if VERSIONS.contains(&config.version.as_str()) {
        return Ok(config.version);
    }
    let message = format!("CNI version `{}` is not supported; supported are {}", config.version, VERSIONS.join(", "));
    Err(CniError::new(Code::IncompatibleVersion, message))
}

/// Whether the `loopback` plugin is meant, which runtimes ask for in front of every network.
pub fn is_loopback(config: &[u8]) -> bool {
    serde_json::from_slice(config).is_ok_and(|config: NetworkConfig| config.plugin == "loopback")
}

/// The answer to a successful ADD of the loopback interface.
pub fn loopback_result(version: &str, netns: &str) -> Vec<u8> {
    let answer = Answer {
        version,
        interfaces: vec![json!({ "name": "lo", "mac": mac([0; 6]), "sandbox": netns })],
        ips: vec![ip("127.0.0.1/8", 0, version)],
        routes: Vec::new(),
        dns: json!({}),
    };
    serde_json::to_vec(&answer).expect("maps with text keys are always JSON")
}

/// The answer to VERSION.
pub fn versions() -> Vec<u8> {
    json!({ "cniVersion": VERSIONS[VERSIONS.len() - 1], "supportedVersions": VERSIONS }).to_string().into_bytes()
}

/// The sandbox a call speaks of. DEL may come without a namespace.
pub fn request(call: &Call) -> Result<Request, CniError> {
    let needed = [
        ("CNI_CONTAINERID", &call.container_id, true),
        ("CNI_IFNAME", &call.ifname, true),
        ("CNI_NETNS", &call.netns, call.command != "DEL"),
    ];
    if let Some((name, ..)) = needed.iter().find(|(_, value, required)| *required && value.is_empty()) {
        let message = format!("{name} is not set, which {} needs", call.command);
        return Err(CniError::new(Code::InvalidEnvironment, message));
    }
    if call.ifname.len() > 15 || call.ifname.contains(['/', ':', ' ']) {
        let message = format!("CNI_IFNAME `{}` is no interface name", call.ifname);
        return Err(CniError::new(Code::InvalidEnvironment, message));
    }
    let argument = |key: &str| {
        let pairs = call.args.split(';').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(k, _)| *k == key).map(|(_, value)| value.to_owned()).next().unwrap_or_default()
    };
    Ok(Request {
        container_id: call.container_id.clone(),
        netns: PathBuf::from(&call.netns),
        ifname: call.ifname.clone(),
        namespace: argument("K8S_POD_NAMESPACE"),
        name: argument("K8S_POD_NAME"),
        uid: argument("K8S_POD_UID"),
    })
}

/// The answer to a successful ADD.
pub fn result(version: &str, interface: &PodInterface) -> Vec<u8> {
    let answer = Answer {
        version,
        interfaces: vec![
            json!({ "name": interface.host_interface, "mac": mac(interface.host_mac) }),
            json!({
                "name": interface.attachment.ifname,
                "mac": mac(interface.mac),
                "sandbox": interface.attachment.netns,
            }),
        ],
        ips: vec![ip(&format!("{}/32", interface.address), 1, version)],
        routes: vec![json!({ "dst": "0.0.0.0/0" })],
        dns: json!({}),
    };
    serde_json::to_vec(&answer).expect("maps with text keys are always JSON")
}

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(rename = "cniVersion")]
    version: &'a str,
    interfaces: Vec<Value>,
    ips: Vec<Value>,
    routes: Vec<Value>,
    dns: Value,
}

/// One address; before 1.0.0 the specification wants its family, too.
fn ip(address: &str, interface: usize, version: &str) -> Value {
    let mut ip = json!({ "address": address, "interface": interface });
    if version.starts_with("0.") {
        ip["version"] = Value::from("4");
    }
    ip
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// The configuration list the runtime finds in its CNI folder, with this one plugin.
pub fn conflist(plugin: &Value) -> String {
    let list = json!({
        "cniVersion": VERSIONS[VERSIONS.len() - 1],
        "name": "fairlead",
        "plugins": [plugin],
    });
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests;
