use fairlead_source::ReportError;

use super::*;

/// Refuses so many calls, then takes everything.
#[derive(Default)]
struct Fake {
    refuse: Mutex<usize>,
    taken: Mutex<Vec<Report>>,
}

#[async_trait::async_trait]
impl Reporter for Fake {
    async fn report(&self, reports: Vec<Report>) -> Result<Vec<Outcome>, ReportError> {
        let mut refuse = self.refuse.lock().expect("not poisoned");
        if *refuse > 0 {
            *refuse -= 1;
            return Err(ReportError::Unreachable { reason: "away".into() });
        }
        let outcomes = reports.iter().map(|_| Outcome { code: 200, ..Default::default() }).collect();
        self.taken.lock().expect("not poisoned").extend(reports);
        Ok(outcomes)
    }
}

fn name(uid: &str) -> PodName {
    PodName { namespace: "n".into(), name: "p".into(), uid: uid.into() }
}

fn phase(phase: &str) -> PodStatus {
    PodStatus { phase: Some(phase.into()), ..Default::default() }
}

#[tokio::test]
async fn what_was_refused_is_said_again_and_only_the_latest() {
    let outbox = Outbox::new("n1");
    let fake = Arc::new(Fake { refuse: Mutex::new(3), taken: Mutex::default() });
    let shutdown = CancellationToken::new();
    outbox.pod_status(&name("u"), phase("Pending"));
    outbox.pod_gone(&name("u"));
    let running = outbox.clone().run(fake.clone(), shutdown.clone());
    let change = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        outbox.pod_status(&name("u"), phase("Running"));
        tokio::time::sleep(Duration::from_secs(2)).await;
        shutdown.cancel();
    };
    tokio::join!(running, change);
    let taken = fake.taken.lock().expect("not poisoned");
    assert_eq!(taken.len(), 2, "{taken:?}");
    let Report::PodStatus(pod) = &taken[0] else { panic!("the status comes first") };
    assert_eq!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Running"));
    assert!(matches!(&taken[1], Report::PodGone { uid, .. } if uid == "u"));
}

#[test]
fn transient_refusals_are_kept_and_final_ones_are_not() {
    let batch = vec![
        Report::PodGone { namespace: "n".into(), name: "a".into(), uid: "1".into() },
        Report::PodGone { namespace: "n".into(), name: "b".into(), uid: "2".into() },
        Report::PodGone { namespace: "n".into(), name: "c".into(), uid: "3".into() },
    ];
    let outcomes = [404, 503].map(|code| Outcome { code, ..Default::default() });
    let again = unsettled(&batch, &outcomes);
    assert_eq!(again.len(), 2, "the one refused for now, and the one without an answer");
}
