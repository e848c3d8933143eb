//! The daemon's own socket, `DIR/fairlead.sock`: the CNI plugin and the operator's commands talk to the daemon here.
//!
//! Only root may connect; the file's mode says so.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use fairlead_proto::admin::v1::admin_client::AdminClient;
use fairlead_proto::admin::v1::admin_server::{Admin, AdminServer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server};

/// A connection to the daemon of a data directory.
pub(crate) async fn connect(socket: &Path) -> Result<AdminClient<Channel>> {
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display()))
        .with_context(|| format!("{} is no socket path", socket.display()))?;
    // The transport's error repeats its cause at every level: the innermost is the one that tells.
    let channel = endpoint.connect().await.map_err(|error| {
        let error = anyhow::Error::from(error);
        let (path, cause) = (socket.display(), error.root_cause());
        anyhow::anyhow!("no node daemon answers on {path} (is `fairlead up` or `fairlead node` running?): {cause}")
    })?;
    Ok(AdminClient::new(channel))
}

/// Takes the socket's path over, from a daemon that was killed as well.
pub(crate) fn listen(socket: &Path) -> Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", socket.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot restrict {} to root", socket.display()))?;
    Ok(listener)
}

/// Answers until `shutdown`, and lets calls under way end.
pub(crate) async fn serve(listener: UnixListener, service: impl Admin, shutdown: CancellationToken) {
    let served = Server::builder()
        .add_service(AdminServer::new(service))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(error = %error, "admin socket closed");
    }
}
