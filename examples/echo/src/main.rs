//! A server that tells a client what arrived: which pod answered, the client's address as the pod saw it, and what was sent.
//!
//! HTTP and UDP on one port number. It is what `examples/echo.yaml` runs and what the tests ask, so it is small and static
//! and keeps its word to a terminating pod: after SIGTERM it takes no new request and ends once the running ones are
//! answered.
//!
//! ```text
//! echo [--port 8080]     serve
//! echo --version         print the version, for `kubectl exec`
//! wget …                 under this name: ask another server
//! ```

#![forbid(unsafe_code)]

mod fetch;
mod http;
mod reply;
mod udp;

use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use crate::http::Load;

/// How often a shutdown looks whether the last request is answered, and for how long it waits for that.
const DRAIN_STEP: std::time::Duration = std::time::Duration::from_millis(20);
const DRAIN_STEPS: u32 = 250;

fn main() -> ExitCode {
    let mut words = std::env::args();
    let called = words.next().unwrap_or_default();
    let args: Vec<String> = words.collect();
    if called.rsplit('/').next() == Some("wget") {
        return fetch::run(&args);
    }
    let port = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--version"] => {
            println!("echo {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        [] => Ok(8080),
        ["--port", port] => port.parse::<u16>().map_err(|_| format!("`{port}` is no port")),
        other => Err(format!("unknown arguments {other:?}; say `echo [--port PORT]` or `echo --version`")),
    };
    match port.and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until SIGTERM or SIGINT.
fn serve(port: u16) -> Result<(), String> {
    let mut awaited = SigSet::empty();
    awaited.add(Signal::SIGTERM);
    awaited.add(Signal::SIGINT);
    // Before any thread starts: they inherit the mask, so the signal always finds this one.
    awaited.thread_block().map_err(|error| format!("cannot block signals: {error}"))?;

    let (tcp, udp) = bind(port)?;
    let pod = Arc::new(reply::pod_name());
    let load = Arc::new(Load::default());
    println!("{pod} answers HTTP and UDP on port {port}");

    let (udp_pod, http_pod, http_load) = (Arc::clone(&pod), Arc::clone(&pod), Arc::clone(&load));
    thread::spawn(move || udp::serve(&udp, &udp_pod));
    thread::spawn(move || http::serve(&tcp, &http_pod, &http_load));

    let signal = awaited.wait().map_err(|error| format!("cannot wait for signals: {error}"))?;
    println!("{pod} ends after {signal}");
    load.close();
    for _ in 0..DRAIN_STEPS {
        if load.is_idle() {
            break;
        }
        thread::sleep(DRAIN_STEP);
    }
    Ok(())
}

/// Both sockets, for IPv6 and IPv4 alike, or for IPv4 alone where the kernel has no IPv6.
fn bind(port: u16) -> Result<(TcpListener, UdpSocket), String> {
    let both = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .and_then(|tcp| Ok((tcp, UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?)));
    both.or_else(|_| Ok((TcpListener::bind(("0.0.0.0", port))?, UdpSocket::bind(("0.0.0.0", port))?)))
        .map_err(|error: std::io::Error| format!("cannot listen on port {port}: {error}"))
}
