use super::*;

const LOG: &str = "2026-01-01T00:00:00.000000001Z stdout F one\n\
                   2026-01-01T00:00:01.000000001Z stderr P tw\n\
                   2026-01-01T00:00:01.000000002Z stderr F o\n\
                   not an entry\n\
                   2026-01-01T00:00:02.000000001Z stdout F \n\
                   2026-01-01T00:00:03.000000001Z stdout F four  spaced\n";

fn read(options: Options) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("0.log");
    std::fs::write(&path, LOG).expect("written");
    let mut reader = Reader::open(&path, &options).expect("opened");
    let mut text = Vec::new();
    while reader.read(&mut text).expect("read") {}
    String::from_utf8(text).expect("text")
}

#[test]
fn entries_become_lines_and_partial_ones_join() {
    assert_eq!(read(Options::default()), "one\ntwo\n\nfour  spaced\n");
}

#[test]
fn options_choose() {
    assert_eq!(read(Options { tail: Some(1), ..Default::default() }), "four  spaced\n");
    assert_eq!(read(Options { tail: Some(0), ..Default::default() }), "");
    assert_eq!(read(Options { tail: Some(100), ..Default::default() }), "one\ntwo\n\nfour  spaced\n");
    assert_eq!(read(Options { limit: Some(5), ..Default::default() }), "one\nt");
    let since = Some("2026-01-01T00:00:02Z".parse().expect("a time"));
    assert_eq!(read(Options { since, ..Default::default() }), "\nfour  spaced\n");
    let stamped = read(Options { timestamps: true, ..Default::default() });
    assert!(stamped.contains("\n2026-01-01T00:00:01.000000001Z two\n"), "{stamped}");
}

#[tokio::test]
async fn following_survives_rotation_and_truncation() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("0.log");
    let line = |text: &str| format!("2026-01-01T00:00:00Z stdout F {text}\n");
    std::fs::write(&path, line("a")).expect("written");
    let (sender, mut receiver) = mpsc::channel(8);
    let options = Options { follow: true, ..Default::default() };
    let reading = send(path.clone(), options, || std::future::ready(true), sender);
    let writing = async {
        assert_eq!(receiver.recv().await.expect("a"), "a\n");
        std::fs::rename(&path, dir.path().join("0.log.old")).expect("renamed");
        std::fs::write(&path, line("bcdefgh")).expect("written");
        assert_eq!(receiver.recv().await.expect("b"), "bcdefgh\n");
        std::fs::write(&path, line("c")).expect("cut short");
        assert_eq!(receiver.recv().await.expect("c"), "c\n");
        drop(receiver);
    };
    let (read, ()) =
        tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(reading, writing) }).await.expect("in time");
    read.expect("no error");
}
