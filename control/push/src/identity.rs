//! Who is at the other end.

use fairlead_api::Status;
use fairlead_api::status::Reason;

/// The peer's authenticated name; the server puts it into the request's extensions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Common name of the client certificate.
    pub user: String,
    /// Its organisations.
    pub groups: Vec<String>,
}

impl PeerIdentity {
    /// The node this peer is: `system:node:NAME` in `system:nodes`.
    pub fn node(&self) -> Result<&str, Status> {
        let name = self.user.strip_prefix("system:node:").filter(|name| !name.is_empty());
        match name {
            Some(name) if self.groups.iter().any(|group| group == "system:nodes") => Ok(name),
            _ => {
                let why = format!(
                    "only nodes may use the push service; {:?} is not system:node:NAME in group system:nodes",
                    self.user
                );
                Err(Status::new(Reason::Forbidden, why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_in_the_nodes_group_is_a_node() {
        let peer = |user: &str, group: &str| PeerIdentity { user: user.into(), groups: vec![group.into()] };
        assert_eq!(peer("system:node:n1", "system:nodes").node().expect("a node"), "n1");
        for (user, group) in
            [("system:node:n1", "system:masters"), ("system:node:", "system:nodes"), ("admin", "system:nodes")]
        {
            let status = peer(user, group).node().expect_err("refused");
            assert_eq!(status.reason, Reason::Forbidden);
            assert!(status.message.contains(user), "{}", status.message);
        }
    }
}
