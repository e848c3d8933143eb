//! `kill -9` under a load of creates: what was acknowledged is there afterwards, and revisions go on.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use fairlead_store::{Outcome, Store, Txn, Value, open};

/// Set for the child: the file it writes to.
const FILE: &str = "FAIRLEAD_STORE_KILL_TEST_FILE";
const WRITERS: usize = 16;
/// Acknowledged creates after which the child is killed.
const CREATES: usize = 500;

/// The child: creates keys for ever and prints each one once it is acknowledged. Does nothing when run as a test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(path) = std::env::var_os(FILE) else { return };
    let store = Arc::new(open(Path::new(&path)).unwrap());
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        async move {
            for number in 0.. {
                let key = format!("/k/{writer}/{number}");
                let txn = Txn::create(&*key, Value::plain(vec![b'x'; 700]));
                let Outcome::Committed { revision, .. } = store.txn(txn).await.unwrap() else { panic!("{key}") };
                // One write per line: a line is there whole or not at all.
                use std::io::Write;
                std::io::stdout().write_all(format!("ack {key} {revision}\n").as_bytes()).unwrap();
            }
        }
    });
    futures::future::join_all(writers).await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    for round in 0..3 {
        if round > 0 {
            // The child creates the same keys again: start from an empty store of the same history.
            let store = open(&path).unwrap();
            let last = acknowledged.iter().map(|(_, revision)| *revision).max().unwrap();
            assert!(store.revision().await.unwrap().get() >= last);
            let rest = store.range(fairlead_store::Range { prefix: "/k/".into(), ..Default::default() }).await.unwrap();
            let clear = rest.entries.iter().fold(Txn::default(), |txn, entry| txn.delete(&*entry.key));
            store.txn(clear).await.unwrap();
        }
        acknowledged = kill_under_load(&path);
        assert!(acknowledged.len() >= CREATES, "too few creates: {}", acknowledged.len());
        let store = open(&path).unwrap();
        let mut last = 0;
        for (key, revision) in &acknowledged {
            let entry = store.get(key).await.unwrap();
            assert_eq!(entry.map(|entry| entry.modified.get()), Some(*revision), "{key} was acknowledged");
            last = last.max(*revision);
        }
        assert!(store.revision().await.unwrap().get() >= last);
    }
}

fn kill_under_load(path: &Path) -> Vec<(String, u64)> {
    let mut child = Command::new(std::env::current_exe().expect("the test knows its own path"))
        .args(["--exact", "child", "--nocapture"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the test can run itself");
    let lines = BufReader::new(child.stdout.take().expect("standard output is piped")).lines();
    let mut acknowledged = Vec::new();
    for line in lines.map_while(Result::ok) {
        let mut words = line.split(' ').skip_while(|word| *word != "ack").skip(1);
        if let (Some(key), Some(Ok(revision))) = (words.next(), words.next().map(str::parse)) {
            acknowledged.push((key.to_owned(), revision));
        }
        // In the middle of its work; what it printed before it died is read to the end.
        if acknowledged.len() == CREATES {
            child.kill().expect("the child still runs");
        }
    }
    child.wait().expect("the child can be waited for");
    acknowledged
}
