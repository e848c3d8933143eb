//! `fairlead cni`: what the container runtime runs per sandbox. It passes its input to the daemon and prints the answer.
//!
//! Without a daemon ADD asks the runtime to try again, while DEL removes the interface by itself and succeeds: the address
//! is released when the next daemon finds its interface gone. Runtimes want a `loopback` plugin as well: it needs no
//! daemon and is answered here.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use fairlead_network::cni::{self, Call, CniError, Code};
use fairlead_proto::admin::v1::CniRequest;
use serde::Deserialize;
use serde_json::json;

use crate::admin;
use crate::layout::Layout;
use crate::process::own_program;

/// How long a sandbox may wait for the daemon; the runtime's own patience is longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The network configuration this plugin writes for itself.
#[derive(Debug, Deserialize)]
struct PluginConfig {
    socket: PathBuf,
}

/// The configuration list for a daemon's socket.
pub(crate) fn conflist(socket: &std::path::Path) -> String {
    cni::conflist(&json!({ "type": "fairlead", "socket": socket }))
}

/// Puts links to this program where the runtime looks for its plugins.
pub(crate) fn install(layout: &Layout) -> Result<()> {
    let program = own_program()?;
    for plugin in ["fairlead", "loopback"] {
        let link = layout.cni_bin().join(plugin);
        if std::fs::read_link(&link).is_ok_and(|target| target == program) {
            continue;
        }
        // Absent is as good as removed.
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&program, &link).with_context(|| format!("cannot create {}", link.display()))?;
    }
    Ok(())
}

/// Answers one call, as the environment has it.
pub(crate) fn run() -> ExitCode {
    let mut config = Vec::new();
    if let Err(error) = std::io::stdin().read_to_end(&mut config) {
        return refuse(&CniError::new(Code::Decode, format!("cannot read standard input: {error}")), "1.0.0");
    }
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let call = Call {
        command: variable("CNI_COMMAND"),
        container_id: variable("CNI_CONTAINERID"),
        netns: variable("CNI_NETNS"),
        ifname: variable("CNI_IFNAME"),
        args: variable("CNI_ARGS"),
        config,
    };
    if call.command == "VERSION" {
        return print(&cni::versions(), ExitCode::SUCCESS);
    }
    let version = match cni::version(&call.config) {
        Ok(version) => version,
        Err(error) => return refuse(&error, "1.0.0"),
    };
    let answered = if cni::is_loopback(&call.config) { loopback(&call, &version) } else { answer(call) };
    match answered {
        Ok(reply) => reply,
        Err(error) => refuse(&error, &version),
    }
}

fn loopback(call: &Call, version: &str) -> Result<ExitCode, CniError> {
    if call.command != "ADD" {
        return Ok(ExitCode::SUCCESS);
    }
    let request = cni::request(call)?;
    fairlead_network::loopback_up(&request.netns)
        .map_err(|error| CniError::new(Code::Failed, format!("{:#}", anyhow::Error::from(error))))?;
    Ok(print(&cni::loopback_result(version, &call.netns), ExitCode::SUCCESS))
}

fn answer(call: Call) -> Result<ExitCode, CniError> {
    if !matches!(call.command.as_str(), "ADD" | "DEL" | "CHECK") {
        let message = format!("CNI_COMMAND `{}` is none of ADD, DEL, CHECK, VERSION", call.command);
        return Err(CniError::new(Code::InvalidEnvironment, message));
    }
    let request = cni::request(&call)?;
    let config: PluginConfig = serde_json::from_slice(&call.config).map_err(|error| {
        CniError::new(Code::Decode, format!("the network configuration names no daemon socket: {error}"))
    })?;
    let deleting = call.command == "DEL";
    match ask(&config, call) {
        Ok(reply) => Ok(reply),
        Err(error) if deleting && error.code == Code::TryAgain => {
            fairlead_network::remove_interface(&request.container_id, &request.ifname)
                .map_err(|error| CniError::new(Code::Failed, error.to_string()))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error),
    }
}

fn ask(config: &PluginConfig, call: Call) -> Result<ExitCode, CniError> {
    let later = |error: String| CniError::new(Code::TryAgain, error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| later(error.to_string()))?;
    let reply = runtime.block_on(async {
        let asked = async {
            let mut client = admin::connect(&config.socket).await.map_err(|error| format!("{error:#}"))?;
            let request = CniRequest {
                command: call.command,
                container_id: call.container_id,
                netns: call.netns,
                ifname: call.ifname,
                args: call.args,
                config: call.config.into(),
            };
            client.cni(request).await.map_err(|status| status.message().to_owned())
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .unwrap_or_else(|_| Err("the node daemon did not answer in time".to_owned()))
    });
    let reply = reply.map_err(later)?.into_inner();
    Ok(print(&reply.json, if reply.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }))
}

fn refuse(error: &CniError, version: &str) -> ExitCode {
    print(&error.json(version), ExitCode::FAILURE)
}

fn print(text: &[u8], code: ExitCode) -> ExitCode {
    // A runtime that has closed our output does not want the answer.
    let _ = std::io::stdout().write_all(text);
    code
}
