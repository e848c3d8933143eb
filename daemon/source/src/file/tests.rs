//! A directory as a source: by example, through real files, and by property.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::update::ObjectName;
use crate::view::View;
use crate::{Service, ServiceName};

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: {ip}\n  ports:\n  - port: 80\n    name: http\n"
    )
}

fn slice(name: &str, address: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  labels:\n    kubernetes.io/service-name: {name}\naddressType: IPv4\nports:\n- name: http\n  port: 8080\nendpoints:\n- addresses: [{address}]\n"
    )
}

/// A directory, and a view of what it says.
struct Rig {
    directory: TempDir,
    folder: Folder,
    told: Told,
    view: View,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let folder = Folder::new(directory.path().to_owned(), "n1".to_owned());
        Self { directory, folder, told: Told::default(), view: View::new("n1") }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).expect("written");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.directory.path().join(name)).expect("removed");
    }

    /// Looks until the directory stands still, and applies what there is to tell.
    fn look(&mut self) -> Option<Update> {
        let until = Instant::now() + Duration::from_secs(20);
        while !self.folder.look().expect("the directory can be read").settled {
            assert!(Instant::now() < until, "it never settles");
            std::thread::sleep(Duration::from_millis(10));
        }
        let update = self.told.update(self.folder.desired());
        if let Some(update) = &update {
            self.view.apply(update.clone());
        }
        update
    }

    fn services(&self) -> Vec<String> {
        self.view.services().map(|one| one.name.to_string()).collect()
    }

    fn service(&self, name: &str) -> Option<Arc<Service>> {
        self.view.service(&ServiceName { namespace: "default".into(), name: name.into() })
    }

    fn address(&self, name: &str) -> String {
        self.service(name).map(|one| one.cluster_ips[0].to_string()).unwrap_or_default()
    }

    fn rejected(&self) -> Vec<String> {
        self.view.rejected().map(|one| format!("{}: {}", one.object, one.reason)).collect()
    }
}

fn sizes(update: Option<&Update>) -> (usize, usize, usize) {
    update.map_or((0, 0, 0), |update| (update.put.len(), update.removed.len(), update.rejected.len()))
}

#[test]
fn yaml_json_lists_and_many_documents_are_read() {
    let mut rig = Rig::new();
    let both = format!("# Two.\n---\n{}---\n{}", service("web", "10.96.0.1"), slice("web", "10.244.0.2"));
    rig.write("a.yaml", &both);
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api", "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.2", "ports": [{"port": 443}]}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "api"}}]}"#;
    rig.write("b.json", list);
    rig.write(
        "c.yml",
        &format!("apiVersion: v1\nkind: List\nitems:\n- {}", service("dns", "10.96.0.3").trim().replace('\n', "\n  ")),
    );
    rig.write(
        "node.yaml",
        "kind: Node\napiVersion: v1\nmetadata: {name: n1}\n---\nkind: Node\napiVersion: v1\nmetadata: {name: n2}\n",
    );
    for (name, text) in [(".hidden.yaml", "]["), ("web.yaml~", "]["), ("notes.txt", "]["), (".#a.yaml", "][")] {
        rig.write(name, text);
    }
    fs::create_dir(rig.directory.path().join("folder.yaml")).expect("a directory");
    let update = rig.look().expect("a snapshot");
    assert!(update.snapshot && update.first && update.complete);
    assert_eq!(rig.services(), ["default/dns", "default/web", "shop/api"]);
    assert_eq!(rig.service("web").map(|one| one.ports[0].endpoints.len()), Some(1));
    assert_eq!(rig.rejected(), Vec::<String>::new());
    assert_eq!(rig.view.node().and_then(|node| node.metadata.name.clone()).as_deref(), Some("n1"));
    assert!(rig.look().is_none(), "nothing has changed");
}

#[test]
fn updates_are_proportional_to_the_change() {
    let mut rig = Rig::new();
    let text = |changed: &str| {
        let services = (0..200).map(|n| service(&format!("s{n}"), &format!("10.96.0.{n}"))).map(|one| one + "---\n");
        services
            .collect::<String>()
            .replace("10.96.0.0\n", "10.96.1.1\n")
            .replace("10.96.0.7\n", &format!("{changed}\n"))
    };
    rig.write("all.yaml", &text("10.96.2.1"));
    assert_eq!(sizes(rig.look().as_ref()), (200, 0, 0));
    rig.write("all.yaml", &format!("# A comment moves every line.\n{}", text("10.96.2.2")));
    assert_eq!(sizes(rig.look().as_ref()), (1, 0, 0));
    assert_eq!(rig.address("s7"), "10.96.2.2");
    rig.write("more.yaml", &service("more", "10.96.3.1"));
    assert_eq!(sizes(rig.look().as_ref()), (1, 0, 0));
    rig.remove("more.yaml");
    assert_eq!(sizes(rig.look().as_ref()), (0, 1, 0));
    rig.write("all.yaml", "# Nothing any more.\n");
    assert_eq!(sizes(rig.look().as_ref()), (0, 200, 0));
    assert_eq!(rig.services(), Vec::<String>::new());
}

#[test]
fn last_good_what_is_malformed_is_refused_by_name_and_line_and_the_rest_works_on() {
    let mut rig = Rig::new();
    rig.write("a.yaml", &format!("{}---\n{}", service("a", "10.96.0.1"), service("b", "10.96.0.2")));
    rig.look();
    // A document that is no YAML: what it may have been stays, the others of the file are taken.
    rig.write(
        "a.yaml",
        &format!("{}---\nkind: [Service\n---\n{}", service("a", "10.96.0.11"), service("c", "10.96.0.3")),
    );
    rig.look();
    assert_eq!(rig.services(), ["default/a", "default/b", "default/c"]);
    assert_eq!(rig.address("a"), "10.96.0.11");
    let [trouble] = &rig.rejected()[..] else { panic!("{:?}", rig.rejected()) };
    assert!(trouble.starts_with("file a.yaml: line 1"), "{trouble}");
    // Repaired without `b`: now it is gone.
    rig.write("a.yaml", &service("a", "10.96.0.12"));
    rig.look();
    assert_eq!((rig.services(), rig.rejected()), (vec!["default/a".to_owned()], Vec::new()));
}

#[test]
fn last_good_a_bad_object_keeps_its_last_form() {
    let mut rig = Rig::new();
    rig.write("a.yaml", &service("a", "10.96.0.1"));
    rig.write("b.yaml", &service("b", "10.96.0.2"));
    rig.look();
    let cases = [
        ("port: 80", "port: eighty", "file"),
        ("port: 80", "port: 70000", "70000 is not between 1 and 65535"),
        ("10.96.0.9", "10.96.0.999", "`10.96.0.999` is not an IP address"),
        ("clusterIP: 10.96.0.9", "ipFamilies: [IPv5]\n  clusterIP: 10.96.0.9", "`IPv5`"),
        ("clusterIP: 10.96.0.9\n", "\n", "spec.clusterIP: there is none"),
        ("port: 80", "protocol: tcp\n    port: 80", "`tcp`"),
    ];
    for (good, bad, reason) in cases {
        rig.write("a.yaml", &service("a", "10.96.0.9").replace(good, bad));
        rig.look();
        assert_eq!(rig.address("a"), "10.96.0.1", "{bad}");
        let [told] = &rig.rejected()[..] else { panic!("{bad}: {:?}", rig.rejected()) };
        assert!(told.starts_with("Service default/a: "), "{told}");
        assert!(reason == "file" && told.contains("a.yaml, line 1: ") || told.contains(reason), "{told}");
    }
    assert_eq!(rig.services(), ["default/a", "default/b"]);
    rig.write("a.yaml", &service("a", "10.96.0.9"));
    rig.look();
    assert_eq!((rig.address("a"), rig.rejected()), ("10.96.0.9".to_owned(), Vec::new()));
}

#[test]
fn of_two_files_with_one_object_the_first_by_name_counts() {
    let mut rig = Rig::new();
    rig.write("b.yaml", &service("web", "10.96.0.2"));
    rig.look();
    assert_eq!(rig.address("web"), "10.96.0.2");
    rig.write("a.yaml", &service("web", "10.96.0.1"));
    rig.look();
    assert_eq!(rig.address("web"), "10.96.0.1");
    assert_eq!(rig.rejected(), ["file b.yaml: line 1: Service default/web is in a.yaml already, which counts"]);
    rig.remove("a.yaml");
    rig.look();
    assert_eq!((rig.address("web"), rig.rejected()), ("10.96.0.2".to_owned(), Vec::new()));
}

#[test]
fn a_file_that_is_replaced_or_renamed_takes_nothing_away_meanwhile() {
    let mut rig = Rig::new();
    rig.write("a.yaml", &service("web", "10.96.0.1"));
    rig.look();
    // As some editors do: the old file goes before the new one comes.
    rig.remove("a.yaml");
    assert_eq!(rig.folder.look().map(|looked| looked.settled).ok(), Some(false));
    assert!(rig.told.update(rig.folder.desired()).is_none(), "not gone yet");
    rig.write("b.yaml", &service("web", "10.96.0.1"));
    let update = rig.look();
    assert_eq!(sizes(update.as_ref()), (0, 0, 0), "the same object from another file is no change");
    assert_eq!(rig.services(), ["default/web"]);
    // Emptied in order to be filled.
    rig.write("b.yaml", "");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(rig.folder.look().map(|looked| looked.settled).ok(), Some(false));
    assert!(rig.told.update(rig.folder.desired()).is_none());
}

#[test]
fn what_means_nothing_here_is_left_out() {
    let mut rig = Rig::new();
    rig.write(
        "a.yaml",
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: other}\n---\n\n---\n# empty\n",
    );
    rig.write("b.yaml", "just words\n");
    rig.write("c.yaml", "apiVersion: v1\nkind: Service\nmetadata: {}\n");
    rig.write("d.json", "{\n\"kind\": ");
    rig.look();
    assert_eq!(rig.services(), Vec::<String>::new());
    let rejected = rig.rejected();
    let starts =
        ["file b.yaml: line 1: ", "file c.yaml: line 1: a Service without a metadata.name", "file d.json: line 2: "];
    assert_eq!(rejected.len(), starts.len(), "{rejected:?}");
    for (told, expected) in rejected.iter().zip(starts) {
        assert!(told.starts_with(expected), "{told}");
    }
}

#[test]
fn anchors_and_merge_keys_are_carried_out() {
    let mut rig = Rig::new();
    rig.write(
        "a.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  clusterIP: 10.96.0.1\n  ports:\n  - &first {name: a, port: 80, protocol: UDP}\n  - {<<: *first, name: b, port: 81}\n",
    );
    rig.look();
    let service = rig.service("web").unwrap_or_else(|| panic!("{:?}", rig.rejected()));
    assert_eq!(service.ports[1].protocol, crate::Protocol::Udp);
}

#[test]
fn ten_thousand_services_are_read_in_seconds() {
    let mut rig = Rig::new();
    let text = |changed: &str| {
        (0..10_000)
            .map(|n| {
                let address = format!("10.{}.{}.{}", 128 + n / 65_536, n / 256 % 256, n % 256);
                let endpoint = if n == 4_711 { changed } else { "10.244.0.2" };
                format!("{}---\n{}---\n", service(&format!("s{n}"), &address), slice(&format!("s{n}"), endpoint))
            })
            .collect::<String>()
    };
    rig.write("all.yaml", &text("10.244.0.2"));
    let began = Instant::now();
    assert_eq!(sizes(rig.look().as_ref()), (20_000, 0, 0));
    let first = began.elapsed();
    rig.write("all.yaml", &text("10.244.0.3"));
    let began = Instant::now();
    assert_eq!(sizes(rig.look().as_ref()), (1, 0, 0));
    println!("10,000 services: {first:?}; one endpoint of them changed: {:?}", began.elapsed());
    assert_eq!(rig.services().len(), 10_000);
    assert!(first < Duration::from_secs(60), "{first:?}");
}

/// The source as the daemon runs it: watch, task and all.
#[tokio::test(flavor = "multi_thread")]
async fn a_watched_directory_tells_of_its_changes() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).expect("written");
    write("a.yaml", &service("a", "10.96.0.1"));
    let source = File::open(directory.path().to_owned(), "n1").expect("it is there");
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let mut feed = Box::new(source).start(&tasks, shutdown.clone());
    let mut view = View::new("n1");
    let mut next = async || {
        let update = tokio::time::timeout(Duration::from_secs(5), feed.updates.recv()).await;
        let update = update.expect("in time").expect("an update");
        feed.acknowledgements.give(update.revision, update.rejected.clone());
        view.apply(update);
        view.services().map(|one| one.name.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(next().await, ["a"]);
    write("b.yaml", &service("b", "10.96.0.2"));
    assert_eq!(next().await, ["a", "b"]);
    fs::remove_file(directory.path().join("a.yaml")).expect("removed");
    assert_eq!(next().await, ["b"]);
    let moved = directory.path().join("c.yaml.new");
    fs::write(&moved, service("c", "10.96.0.3")).expect("written");
    fs::rename(moved, directory.path().join("c.yaml")).expect("renamed");
    assert_eq!(next().await, ["b", "c"]);
    assert_eq!(*feed.contact.borrow(), Contact::Up);
    // LAST-GOOD: a directory that is gone removes nothing.
    fs::remove_dir_all(directory.path()).expect("removed");
    let lost =
        tokio::time::timeout(Duration::from_secs(20), feed.contact.wait_for(|one| matches!(one, Contact::Lost(_))))
            .await;
    assert!(lost.is_ok_and(|lost| lost.is_ok()), "contact is lost");
    assert!(feed.updates.try_recv().is_err(), "and nothing is removed");
    fs::create_dir(directory.path()).expect("made again");
    write("d.yaml", &service("d", "10.96.0.4"));
    // What was in the old one is missed a moment later.
    while view.services().map(|one| one.name.name.clone()).collect::<Vec<_>>() != ["d"] {
        let update = tokio::time::timeout(Duration::from_secs(20), feed.updates.recv()).await;
        view.apply(update.expect("in time").expect("an update"));
    }
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
}

#[test]
fn what_was_told_and_then_said_by_another_file_counts_again_when_that_is_gone() {
    let mut rig = Rig::new();
    rig.write("b.yaml", &service("web", "10.96.0.2"));
    rig.look();
    assert_eq!(rig.address("web"), "10.96.0.2");
    for _ in 0..2 {
        rig.write("a.yaml", &service("web", "10.96.0.1"));
        rig.look();
        assert_eq!(rig.address("web"), "10.96.0.1", "the first by name counts");
        rig.remove("a.yaml");
        rig.look();
        assert_eq!(rig.address("web"), "10.96.0.2");
    }
}

#[test]
fn a_directory_must_be_there() {
    let error = File::open("/nowhere/at/all".into(), "n1").expect_err("it is not");
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}

fn gather(files: &BTreeMap<usize, manifest::Manifest>) -> desired::Gathering {
    let mut gathering = desired::Gathering::default();
    for (file, manifest) in files {
        for (line, found) in manifest.found() {
            let manifest::Found::Object(name, said) = found else { panic!("{found:?}") };
            gathering.object(&format!("{file}.yaml").into(), line, name, said);
        }
    }
    gathering
}

/// A file, read as if nothing were known of it.
fn anew(texts: &BTreeMap<usize, String>, name: &str, hasher: &std::hash::RandomState) -> (usize, manifest::Manifest) {
    let file = name.trim_end_matches(".yaml").parse().expect("a number");
    (file, manifest::read(manifest::Language::Yaml, &texts[&file], "n1", &manifest::Manifest::default(), hasher))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever files say one after the other, the updates lead where reading the last state afresh leads: of the
    /// objects in it, that is, since what is refused may keep an older form.
    #[test]
    fn converge_updates_lead_where_a_fresh_reading_leads(history in prop::collection::vec((0..3_usize, prop::collection::vec((0..5_u8, 0..4_u8), 0..4)), 1..12)) {
        let hasher = std::hash::RandomState::new();
        let mut files: BTreeMap<usize, manifest::Manifest> = BTreeMap::new();
        let (mut told, mut view) = (Told::default(), View::new("n1"));
        let mut texts: BTreeMap<usize, String> = BTreeMap::new();
        for (file, objects) in history {
            let text: String = objects.iter().map(|(name, ip)| service(&format!("s{name}"), &format!("10.96.{name}.{ip}")) + "---\n").collect();
            let before = files.remove(&file).unwrap_or_default();
            files.insert(file, manifest::read(manifest::Language::Yaml, &text, "n1", &before, &hasher));
            texts.insert(file, text);
            let mut gathering = gather(&files);
            for lacking in gathering.lacking().clone() {
                let (file, manifest) = anew(&texts, &lacking, &hasher);
                files.insert(file, manifest);
                gathering = gather(&files);
            }
            if let Some(update) = told.update(gathering.finish()) {
                view.apply(update);
            }
        }
        let mut fresh = View::new("n1");
        let files = texts.keys().map(|file| anew(&texts, &format!("{file}.yaml"), &hasher)).collect();
        let last = gather(&files).finish();
        fresh.apply(Told::default().update(last.clone()).expect("the first is always told"));
        prop_assert_eq!(view.services().collect::<Vec<_>>(), fresh.services().collect::<Vec<_>>());
        prop_assert_eq!(view.rejected().collect::<Vec<_>>(), fresh.rejected().collect::<Vec<_>>());
        prop_assert!(last.keys().all(|name| !matches!(**name, ObjectName::Pod(..))));
    }
}
