use super::*;

fn tree(path: &str) -> Value {
    serde_json::from_slice(&v3(path).expect("document").body).expect("JSON")
}

#[test]
fn the_index_leads_to_every_document() {
    let index: Value = serde_json::from_slice(&index().body).expect("JSON");
    let paths = index["paths"].as_object().expect("paths");
    assert_eq!(
        paths.keys().collect::<Vec<_>>(),
        ["api/v1", "apis/apps/v1", "apis/coordination.k8s.io/v1", "apis/discovery.k8s.io/v1"]
    );
    for (path, entry) in paths {
        let url = entry["serverRelativeURL"].as_str().expect("url");
        assert_eq!(url, format!("/openapi/v3/{path}?hash={}", v3(path).expect("document").hash));
    }
    assert!(v3("apis/nope/v1").is_none());
}

#[test]
fn no_reference_dangles() {
    fn check(tree: &Value, schemas: &Map<String, Value>) {
        match tree {
            Value::Object(map) => {
                if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                    let name = reference.strip_prefix("#/components/schemas/").expect("a component");
                    assert!(schemas.contains_key(name), "{reference}");
                    assert_eq!(map.len(), 1, "{reference} has siblings");
                }
                map.values().for_each(|value| check(value, schemas));
            }
            Value::Array(list) => list.iter().for_each(|value| check(value, schemas)),
            _ => {}
        }
    }
    for path in ["api/v1", "apis/apps/v1", "apis/coordination.k8s.io/v1", "apis/discovery.k8s.io/v1"] {
        let document = tree(path);
        check(&document, document["components"]["schemas"].as_object().expect("schemas"));
    }
}

/// What kubectl looks for: the kind of a path, the parameter that promises field validation, and merge keys.
#[test]
fn clients_find_what_they_look_for() {
    let apps = tree("apis/apps/v1");
    let gvk = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    let collection = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments"];
    assert_eq!(collection["get"]["x-kubernetes-group-version-kind"], gvk);
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], gvk);
    let parameters = patch["parameters"].as_array().expect("parameters");
    for name in ["fieldValidation", "dryRun"] {
        assert!(parameters.iter().any(|one| one["name"] == name), "{name}");
    }
    let schemas = &apps["components"]["schemas"];
    assert_eq!(schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"], json!([gvk]));
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["items"]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
    let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    let spec = &schemas["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"];
    assert_eq!(spec["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec");
    assert_eq!(
        schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"]["x-kubernetes-patch-strategy"],
        "merge,retainKeys"
    );
}

#[test]
fn version_2_is_a_document_with_a_title() {
    let body = &v2().body;
    assert_eq!(body[..6], *b"\x0a\x032.0\x12");
    assert_eq!(usize::from(body[6]), body.len() - 7);
    assert!(body.ends_with(discovery::GIT_VERSION.as_bytes()));
}
