//! The quality-of-service class of a pod, which decides its cgroup and its badness when memory runs out.

use k8s_openapi::api::core::v1::PodSpec;

use crate::quantity;

/// The three classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// Guaranteed: every container limits cpu and memory and requests as much. BestEffort: nobody asks for anything.
pub(crate) fn of(spec: &PodSpec) -> Qos {
    let mut any = false;
    let mut guaranteed = true;
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let resources = container.resources.clone().unwrap_or_default();
        let requests = resources.requests.unwrap_or_default();
        let limits = resources.limits.unwrap_or_default();
        for name in ["cpu", "memory"] {
            let limit = limits.get(name).and_then(quantity::milli).filter(|value| *value > 0);
            let request = requests.get(name).and_then(quantity::milli).filter(|value| *value > 0);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(containers: &str, class: Qos) {
        let spec: PodSpec =
            serde_json::from_str(&format!(r#"{{"containers":{containers}}}"#)).expect("a pod spec in JSON");
        assert_eq!(of(&spec), class, "{containers}");
    }

    #[test]
    fn classes_follow_requests_and_limits() {
        check(r#"[{"name":"a"}]"#, Qos::BestEffort);
        check(r#"[{"name":"a","resources":{"limits":{"cpu":"1","memory":"1Gi"}}}]"#, Qos::Guaranteed);
        check(
            r#"[{"name":"a","resources":{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"1000m","memory":"1024Mi"}}}]"#,
            Qos::Guaranteed,
        );
        check(r#"[{"name":"a","resources":{"limits":{"cpu":"1","memory":"1Gi"}}},{"name":"b"}]"#, Qos::Burstable);
        check(r#"[{"name":"a","resources":{"requests":{"cpu":"1m"}}}]"#, Qos::Burstable);
    }
}
