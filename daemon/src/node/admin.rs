//! The admin socket's service: the CNI plugin's calls, `fairlead status` and `fairlead explain`.

use std::sync::{Arc, PoisonError, RwLock};

use fairlead_datapath::Datapath;
use fairlead_network::cni::{self, Call};
use fairlead_proto::admin::v1::admin_server::Admin;
use fairlead_proto::admin::v1::{CniReply, CniRequest, ExplainReply, ExplainRequest, StatusReply, StatusRequest};
use fairlead_source::View;
use tokio::sync::Mutex;
use tonic::{Response, Status};

use super::engine::chain;
use super::facts::Facts;
use super::pods::PodNetwork;
use super::question::{self, Surroundings};

/// Answers on the daemon's own socket.
#[derive(Debug)]
pub(super) struct AdminService {
    pub(super) facts: Facts,
    pub(super) view: Arc<RwLock<View>>,
    pub(super) datapath: Arc<Mutex<Datapath>>,
    /// Absent where pods are another's.
    pub(super) network: Option<PodNetwork>,
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn cni(&self, request: tonic::Request<CniRequest>) -> Result<Response<CniReply>, Status> {
        let Some(network) = &self.network else {
            return Err(Status::failed_precondition(
                "this daemon only proxies services: pods' interfaces are another's",
            ));
        };
        let request = request.into_inner();
        let call = Call {
            command: request.command,
            container_id: request.container_id,
            netns: request.netns,
            ifname: request.ifname,
            args: request.args,
            config: request.config.to_vec(),
        };
        let version = cni::version(&call.config).unwrap_or_else(|_| "1.0.0".to_owned());
        Ok(Response::new(match network.answer(&call).await {
            Ok(json) => CniReply { json: json.into(), failed: false },
            Err(error) => {
                tracing::warn!(command = %call.command, args = %call.args, error = %error, "CNI call failed");
                CniReply { json: error.json(&version).into(), failed: true }
            }
        }))
    }

    async fn status(&self, _request: tonic::Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        Ok(Response::new(StatusReply { facts: self.facts.collect().await }))
    }

    async fn explain(&self, request: tonic::Request<ExplainRequest>) -> Result<Response<ExplainReply>, Status> {
        let asked = request.into_inner();
        let mut datapath = self.datapath.lock().await;
        let question = {
            let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
            let pods = datapath.pods().flat_map(|pod| pod.addresses.iter().copied()).collect();
            let surroundings = Surroundings { view: &view, pods, node: datapath.node_addresses() };
            question::read(&asked, &surroundings).map_err(Status::invalid_argument)?
        };
        let explanation = datapath.explain(&question).map_err(|error| Status::internal(chain(&error)))?;
        let json = serde_json::to_vec(&explanation).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ExplainReply { json: json.into() }))
    }
}
