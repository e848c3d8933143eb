//! The cluster's processes while it runs: one that ends is said and started again, at once the first time and with growing
//! pauses if it keeps ending.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::process::{Process, Service};
use crate::progress::Progress;

/// A process that has run this long starts with a clean record.
const SETTLED: Duration = Duration::from_secs(30);
/// The longest pause between two starts.
const LONGEST: Duration = Duration::from_secs(10);
/// How long a process may take to end when asked to.
const GRACE: Duration = Duration::from_secs(12);

/// The processes in the order they were started.
#[derive(Debug, Default)]
pub(super) struct Crew {
    members: Vec<(Service, Process)>,
}

/// The same while somebody watches each of them.
#[derive(Debug)]
pub(super) struct Watched {
    members: Vec<(Service, Arc<Mutex<Process>>)>,
}

impl Crew {
    pub(super) fn add(&mut self, service: Service, process: Process) {
        self.members.push((service, process));
    }

    /// The one started last.
    pub(super) fn last(&mut self) -> Option<&mut Process> {
        self.members.last_mut().map(|(_, process)| process)
    }

    /// The one before the last, if there is one, and the last.
    pub(super) fn last_two(&mut self) -> (Option<&mut Process>, Option<&mut Process>) {
        match self.members.as_mut_slice() {
            [.., (_, before), (_, last)] => (Some(before), Some(last)),
            [(_, last)] => (None, Some(last)),
            [] => (None, None),
        }
    }

    /// Ends all, the last first.
    pub(super) async fn stop(mut self) {
        while let Some((service, mut process)) = self.members.pop() {
            process.stop(&service, GRACE).await;
        }
    }

    /// Watches each until `shutdown`.
    pub(super) fn supervise(self, tasks: &TaskTracker, shutdown: &CancellationToken, progress: &Progress) -> Watched {
        let members = self.members.into_iter().map(|(service, process)| {
            let process = Arc::new(Mutex::new(process));
            tasks.spawn(watch(service.clone(), Arc::clone(&process), shutdown.clone(), progress.clone()));
            (service, process)
        });
        Watched { members: members.collect() }
    }
}

impl Watched {
    /// Ends all, the last first. Nobody may watch any more.
    pub(super) async fn stop(self) {
        for (service, process) in self.members.iter().rev() {
            process.lock().await.stop(service, GRACE).await;
        }
    }
}

async fn watch(service: Service, process: Arc<Mutex<Process>>, shutdown: CancellationToken, progress: Progress) {
    let mut process = process.lock().await;
    let mut pause = Duration::ZERO;
    loop {
        let began = Instant::now();
        let how = tokio::select! {
            how = process.wait() => how,
            () = shutdown.cancelled() => return,
        };
        if began.elapsed() > SETTLED {
            pause = Duration::ZERO;
        }
        progress.say(format!("the {} ended ({how}); starting it again{}", service.title, in_a_while(pause)));
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
            pause = longer(pause);
            match service.start() {
                Ok(started) => {
                    *process = started;
                    break;
                }
                Err(error) => progress.say(format!("{error:#}; trying again{}", in_a_while(pause))),
            }
        }
    }
}

/// At once, then 100 ms, doubling.
fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(Duration::from_millis(100), LONGEST)
}

fn in_a_while(pause: Duration) -> String {
    if pause.is_zero() { String::new() } else { format!(" in {:.1} s", pause.as_secs_f64()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut pause = Duration::ZERO;
        let pauses: Vec<u128> = (0..9)
            .map(|_| {
                pause = longer(pause);
                pause.as_millis()
            })
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    }

    #[tokio::test]
    async fn what_ends_is_started_again_until_shutdown() {
        let dir = tempfile::tempdir().unwrap();
        let service = Service {
            title: "test",
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), "echo again; exit 3".to_owned()],
            pid_file: dir.path().join("x.pid"),
            log: dir.path().join("x.log"),
        };
        let mut crew = Crew::default();
        crew.add(service.clone(), service.start().unwrap());
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let watched = crew.supervise(&tasks, &shutdown, &Progress::new());
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::read_to_string(&service.log).unwrap_or_default().lines().count() < 3 {
            assert!(Instant::now() < deadline, "it was not started again");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shutdown.cancel();
        tasks.close();
        tasks.wait().await;
        watched.stop().await;
        assert!(!service.pid_file.exists());
    }
}
