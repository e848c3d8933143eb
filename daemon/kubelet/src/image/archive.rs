//! An OCI image archive in memory: which blobs it holds, how they refer to each other, and what its images are called.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::ImageError;

/// The annotations that name an image; containerd's is the whole name, OCI's often only the tag.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// An archive that holds together: every digest is right and everything referred to is there.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    blobs: Vec<Blob<'a>>,
    images: Vec<Named>,
}

/// One blob, with the labels that tell containerd's garbage collector what it refers to.
#[derive(Debug)]
pub(super) struct Blob<'a> {
    pub(super) digest: String,
    pub(super) data: &'a [u8],
    pub(super) labels: HashMap<String, String>,
}

/// One image.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: i64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// An index or a manifest: whichever lists are there.
#[derive(Debug, Default, Deserialize)]
struct Node {
    #[serde(default)]
    manifests: Vec<Reference>,
    config: Option<Reference>,
    #[serde(default)]
    layers: Vec<Reference>,
}

impl<'a> Archive<'a> {
    /// Reads a tar and checks it.
    pub(super) fn read(tar: &'a [u8]) -> Result<Self, ImageError> {
        let wrong = |error: String| ImageError::Archive(error);
        let mut files: BTreeMap<String, &'a [u8]> = BTreeMap::new();
        let mut archive = tar::Archive::new(tar);
        for entry in archive.entries().map_err(|error| wrong(error.to_string()))? {
            let entry = entry.map_err(|error| wrong(error.to_string()))?;
            let path = entry.path().map_err(|error| wrong(error.to_string()))?.display().to_string();
            if entry.header().entry_type().is_file() {
                let begin = usize::try_from(entry.raw_file_position()).unwrap_or(usize::MAX);
                let length = usize::try_from(entry.size()).unwrap_or(usize::MAX);
                let data = begin.checked_add(length).and_then(|end| tar.get(begin..end));
                let data = data.ok_or_else(|| wrong(format!("{path} is cut short")))?;
                files.insert(path.trim_start_matches("./").to_owned(), data);
            }
        }
        let index = files.get("index.json").ok_or_else(|| wrong("it has no index.json".into()))?;
        let index: Node = serde_json::from_slice(index).map_err(|error| wrong(format!("index.json: {error}")))?;
        let mut read = Self { blobs: Vec::new(), images: Vec::new() };
        for manifest in &index.manifests {
            read.collect(&files, &manifest.digest)?;
            let name = NAMES.iter().find_map(|key| manifest.annotations.get(*key));
            let name = name.ok_or_else(|| wrong(format!("manifest {} has no name", manifest.digest)))?;
            read.images.push(Named {
                name: name.clone(),
                media_type: manifest.media_type.clone(),
                digest: manifest.digest.clone(),
                size: manifest.size,
            });
        }
        if read.images.is_empty() {
            return Err(wrong("its index names no image".into()));
        }
        Ok(read)
    }

    /// What is referred to comes before what refers to it.
    pub(super) fn blobs(&self) -> &[Blob<'a>] {
        &self.blobs
    }

    pub(super) fn images(&self) -> &[Named] {
        &self.images
    }

    fn collect(&mut self, files: &BTreeMap<String, &'a [u8]>, digest: &str) -> Result<(), ImageError> {
        if self.blobs.iter().any(|blob| blob.digest == digest) {
            return Ok(());
        }
        let wrong = |error: String| ImageError::Archive(error);
        let hash = digest.strip_prefix("sha256:").ok_or_else(|| wrong(format!("digest {digest} is not sha256")))?;
        let data = files.get(&format!("blobs/sha256/{hash}"));
        let data: &'a [u8] = data.ok_or_else(|| wrong(format!("blob {digest} is missing")))?;
        let found: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
        if found != hash {
            return Err(wrong(format!("blob {digest} has digest sha256:{found}")));
        }
        let mut labels = HashMap::new();
        // Layers are no JSON, configurations list nothing: both refer to nothing.
        let node: Node = if data.first() == Some(&b'{') {
            serde_json::from_slice(data).unwrap_or_default()
        } else {
            Node::default()
        };
        for (number, manifest) in node.manifests.iter().enumerate() {
            self.collect(files, &manifest.digest)?;
            labels.insert(format!("containerd.io/gc.ref.content.m.{number}"), manifest.digest.clone());
        }
        if let Some(config) = node.config.as_ref().filter(|_| !node.layers.is_empty()) {
            self.collect(files, &config.digest)?;
            labels.insert("containerd.io/gc.ref.content.config".into(), config.digest.clone());
        }
        for (number, layer) in node.layers.iter().enumerate() {
            self.collect(files, &layer.digest)?;
            labels.insert(format!("containerd.io/gc.ref.content.l.{number}"), layer.digest.clone());
        }
        self.blobs.push(Blob { digest: digest.to_owned(), data, labels });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(data: &[u8]) -> String {
        Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn archive(layer: &[u8], broken: bool) -> Vec<u8> {
        let config = b"{}".to_vec();
        let manifest = serde_json::json!({
            "config": {"digest": format!("sha256:{}", digest(&config)), "size": config.len()},
            "layers": [{"digest": format!("sha256:{}", digest(layer)), "size": layer.len()}],
        })
        .to_string();
        let index = serde_json::json!({"manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", digest(manifest.as_bytes())),
            "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "fairlead.local/x:1"},
        }]})
        .to_string();
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: String, data: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, data).expect("appended");
        };
        add("index.json".into(), index.as_bytes());
        add(format!("blobs/sha256/{}", digest(manifest.as_bytes())), manifest.as_bytes());
        add(format!("blobs/sha256/{}", digest(&config)), &config);
        add(format!("blobs/sha256/{}", digest(layer)), if broken { b"other" } else { layer });
        builder.into_inner().expect("a tar")
    }

    #[test]
    fn an_archive_is_read_in_the_order_of_reference() {
        let tar = archive(b"layer", false);
        let read = Archive::read(&tar).expect("an archive");
        assert_eq!(read.images()[0].name, "fairlead.local/x:1");
        assert_eq!(read.blobs().len(), 3);
        let last = read.blobs().last().expect("a manifest");
        assert_eq!(last.digest, read.images()[0].digest);
        assert_eq!(last.labels.len(), 2);
    }

    #[test]
    fn a_wrong_digest_is_named() {
        let tar = archive(b"layer", true);
        let error = Archive::read(&tar).expect_err("a broken archive").to_string();
        assert!(error.contains("has digest"), "{error}");
        assert!(Archive::read(b"no tar at all").is_err());
    }
}
