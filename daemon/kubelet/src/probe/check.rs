//! One check of a container: a command, a request, a connection, or gRPC's health service.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;

use crate::cri::{Cri, CriError};

/// Of an answer's body or a command's output, so much goes into an event.
const SHOWN: usize = 1_024;

/// Makes the check. An error is the text that the Unhealthy event shows.
pub(crate) async fn check(
    cri: &Cri,
    probe: &Probe,
    container: &Container,
    id: &str,
    ip: &str,
    timeout: Duration,
) -> Result<(), String> {
    if let Some(exec) = &probe.exec {
        return command(cri, id, &exec.command.clone().unwrap_or_default(), timeout).await;
    }
    if let Some(get) = &probe.http_get {
        let target = http_target(get, container, ip)?;
        let (status, body) = http(&target, timeout).await?;
        return if (200..400).contains(&status) {
            Ok(())
        } else {
            let _ = body;
            Err(format!("HTTP probe failed with statuscode: {status}"))
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = tcp.host.clone().unwrap_or_else(|| ip.to_owned());
        return connect(&host, port(&tcp.port, container)?, timeout).await.map(drop);
    }
    if let Some(grpc) = &probe.grpc {
        return grpc_health(ip, grpc.port, grpc.service.clone().unwrap_or_default(), timeout).await;
    }
    Ok(())
}

async fn command(cri: &Cri, id: &str, command: &[String], timeout: Duration) -> Result<(), String> {
    match cri.exec_sync(id, command, timeout).await {
        Ok(answer) if answer.exit_code == 0 => Ok(()),
        Ok(answer) => {
            let mut output = String::from_utf8_lossy(&answer.stdout).into_owned();
            output.push_str(&String::from_utf8_lossy(&answer.stderr));
            output.truncate(output.floor_char_boundary(SHOWN));
            Err(output)
        }
        Err(CriError::Call { status, .. }) if status.code() == tonic::Code::DeadlineExceeded => {
            Err(format!("command timed out: \"{}\" timed out after {}s", command.join(" "), timeout.as_secs()))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The number of a port, which may be the name of one of the container's.
fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("container {} has no port {port:?}", container.name))
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpTarget {
    tls: bool,
    host: String,
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
}

/// A request's target, from its definition and the pod's address.
pub(crate) fn http_target(get: &HTTPGetAction, container: &Container, ip: &str) -> Result<HttpTarget, String> {
    let path = get.path.clone().unwrap_or_else(|| "/".into());
    Ok(HttpTarget {
        tls: get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
        host: get.host.clone().unwrap_or_else(|| ip.to_owned()),
        port: port(&get.port, container)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        headers: get.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone())).collect(),
    })
}

async fn connect(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, String> {
    match tokio::time::timeout(timeout, TcpStream::connect((host.trim_matches(['[', ']']), port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(format!("dial tcp {host}:{port}: connect: {error}")),
        Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}

/// Asks for a page: status code and the beginning of the body.
pub(crate) async fn http(target: &HttpTarget, timeout: Duration) -> Result<(u16, String), String> {
    let url = format!("{}://{}:{}{}", if target.tls { "https" } else { "http" }, target.host, target.port, target.path);
    let work = async {
        let stream = connect(&target.host, target.port, timeout).await?;
        if target.tls {
            let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
            let stream = unverified()?.connect(name, stream).await.map_err(|error| error.to_string())?;
            request(target, TokioIo::new(stream)).await
        } else {
            request(target, TokioIo::new(stream)).await
        }
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("Get \"{url}\": {error}")),
        Err(_) => {
            Err(format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
        }
    }
}

async fn request<T>(target: &HttpTarget, io: T) -> Result<(u16, String), String>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|error| error.to_string())?;
    let mut builder = http::Request::builder().method("GET").uri(&target.path);
    let has = |name: &str| target.headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
    if !has("host") {
        builder = builder.header("host", format!("{}:{}", target.host, target.port));
    }
    if !has("user-agent") {
        builder = builder.header("user-agent", "kube-probe/1.36");
    }
    if !has("accept") {
        builder = builder.header("accept", "*/*");
    }
    for (name, value) in &target.headers {
        builder = builder.header(name, value);
    }
    let request =
        builder.header("connection", "close").body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let ask = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let mut body = answer.into_body();
        let mut text = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if text.len() >= SHOWN {
                text.truncate(SHOWN);
                break;
            }
        }
        Ok((status, String::from_utf8_lossy(&text).into_owned()))
    };
    tokio::pin!(ask);
    tokio::select! {
        answer = &mut ask => answer,
        ended = connection => match ended {
            Ok(()) => ask.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

/// A probe's HTTPS does not look at certificates, as every kubelet's.
fn unverified() -> Result<tokio_rustls::TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)))
}

/// Accepts every certificate.
#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`; 1 is SERVING.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn grpc_health(ip: &str, port: i32, service: String, timeout: Duration) -> Result<(), String> {
    let work = async {
        let endpoint =
            tonic::transport::Endpoint::try_from(format!("http://{ip}:{port}")).map_err(|error| error.to_string())?;
        let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|error| error.to_string())?;
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = tonic_prost::ProstCodec::<HealthRequest, HealthResponse>::default();
        let request = tonic::Request::new(HealthRequest { service });
        let answer = client.unary(request, path, codec).await.map_err(|status| status.message().to_owned())?;
        match answer.into_inner().status {
            1 => Ok(()),
            other => Err(format!("service unhealthy (responded with status {other})")),
        }
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result,
        Err(_) => Err(format!("timeout: failed to connect service \"{ip}:{port}\" within {}s", timeout.as_secs())),
    }
}
