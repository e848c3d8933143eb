//! `cargo xtask image`: a static binary becomes an OCI image archive.
//!
//! The archive is an image layout in a tar file: one layer, one configuration, one manifest, all named by digest. It is
//! reproducible (fixed times, sorted entries), so an unchanged binary gives an unchanged image.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::place;

/// Arguments of `cargo xtask image`.
#[derive(Debug, Args)]
pub(crate) struct ImageArguments {
    /// The static binary; it becomes /NAME in the image.
    binary: PathBuf,
    /// What pods call the image, such as example.org/tool:1.
    #[arg(long)]
    name: String,
    /// The archive to write.
    #[arg(long)]
    out: PathBuf,
    /// What runs, word by word; the binary itself unless given.
    #[arg(long, num_args = 1.., allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// A further static binary, HOST-PATH:PATH-IN-IMAGE.
    #[arg(long, value_parser = pair)]
    add: Vec<(String, String)>,
    /// A symbolic link, PATH-IN-IMAGE:TARGET.
    #[arg(long, value_parser = pair)]
    link: Vec<(String, String)>,
}

/// What goes into an image.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    /// `registry/name:tag`.
    pub(crate) name: String,
    /// What runs.
    pub(crate) entrypoint: Vec<String>,
    /// The file system, in any order.
    pub(crate) files: Vec<(String, Content)>,
}

/// One entry of the file system.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// An executable or a plain file with these bytes and this mode.
    File(Vec<u8>, u32),
    /// A symbolic link.
    Link(String),
    /// A folder with this mode; parents of files are made without being named.
    Folder(u32),
}

pub(crate) fn command(arguments: &ImageArguments) -> Result<()> {
    let file_name = arguments.binary.file_name().context("the binary has no file name")?.to_string_lossy().into_owned();
    let own = format!("/{file_name}");
    let mut image = Image { name: arguments.name.clone(), ..Image::default() };
    image.entrypoint = if arguments.entrypoint.is_empty() { vec![own.clone()] } else { arguments.entrypoint.clone() };
    image.files.push((own, Content::File(read_static(&arguments.binary)?, 0o755)));
    for (host, inside) in &arguments.add {
        image.files.push((inside.clone(), Content::File(read_static(Path::new(host))?, 0o755)));
    }
    image.files.extend(arguments.link.iter().map(|(path, to)| (path.clone(), Content::Link(to.clone()))));
    image.write(&place::absolute(&arguments.out))?;
    println!("{} is {}", arguments.out.display(), image.name);
    Ok(())
}

/// The bytes of a binary that needs no loader and no library: in an image there are none.
///
/// # Errors
/// It cannot be read, is no x86-64 program, or is linked dynamically.
pub(crate) fn read_static(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    match interpreter(&bytes) {
        None => bail!("{} is no 64-bit ELF program", path.display()),
        Some(Some(loader)) => bail!(
            "{} needs {loader} and would not start in an image; build it with `-C target-feature=+crt-static`",
            path.display()
        ),
        Some(None) => Ok(bytes),
    }
}

/// The loader a program asks for; the outer `None` means that it is no program at all.
fn interpreter(elf: &[u8]) -> Option<Option<String>> {
    const INTERP: u32 = 3;
    let word = |at: usize| Some(u64::from_le_bytes(elf.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    if elf.get(..5)? != b"\x7fELF\x02" {
        return None;
    }
    let (table, size, count) = (usize::try_from(word(32)?).ok()?, usize::from(half(54)?), usize::from(half(56)?));
    for index in 0..count {
        let at = table.checked_add(index * size)?;
        let kind = u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?);
        if kind == INTERP {
            let (start, length) = (usize::try_from(word(at + 8)?).ok()?, usize::try_from(word(at + 32)?).ok()?);
            let name = elf.get(start..start.checked_add(length)?)?;
            return Some(Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()));
        }
    }
    Some(None)
}

impl Image {
    /// Writes the archive, whole or not at all.
    ///
    /// # Errors
    /// The name is no image name or the file cannot be written.
    pub(crate) fn write(&self, out: &Path) -> Result<()> {
        ensure!(
            self.name.rsplit('/').next().is_some_and(|last| last.contains(':'))
                && !self.name.contains(char::is_whitespace),
            "`{}` is no image name; give it as NAME:TAG, such as fairlead.local/echo:1",
            self.name
        );
        let archive = self.archive()?;
        // The same bytes stay the same file, so that whoever embeds it is not built again.
        if fs::read(out).is_ok_and(|old| old == archive) {
            return Ok(());
        }
        if let Some(folder) = out.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let partial = out.with_extension("partial");
        let write = || fs::File::create(&partial).and_then(|mut file| file.write_all(&archive));
        write().and_then(|()| fs::rename(&partial, out)).with_context(|| format!("cannot write {}", out.display()))
    }

    fn archive(&self) -> Result<Vec<u8>> {
        let layer = self.layer()?;
        let tag = self.name.rsplit(':').next().unwrap_or_default();
        let config = serde_json::to_vec(&json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image" }],
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        }))?;
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["platform"] = json!({ "architecture": "amd64", "os": "linux" });
        // containerd takes the full name from the first annotation, other tools the tag from the second.
        entry["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": tag,
        });
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        }))?;

        let mut files = vec![
            ("index.json".to_owned(), index),
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ];
        for blob in [config, layer, manifest] {
            files.push((format!("blobs/sha256/{}", hex(&blob)), blob));
        }
        files.sort();
        let mut tar = Builder::new(Vec::new());
        for (path, bytes) in files {
            append(&mut tar, &path, EntryType::Regular, 0o644, &bytes, None)?;
        }
        tar.into_inner().context("cannot finish the archive")
    }

    /// The file system as one uncompressed layer, parents before children.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut entries = std::collections::BTreeMap::new();
        for (path, content) in &self.files {
            let path = path.trim_matches('/');
            for (at, _) in path.match_indices('/') {
                entries.entry(path[..at].to_owned()).or_insert(&Content::Folder(0o755));
            }
            entries.insert(path.to_owned(), content);
        }
        let mut tar = Builder::new(Vec::new());
        for (path, content) in entries {
            match content {
                Content::File(bytes, mode) => append(&mut tar, &path, EntryType::Regular, *mode, bytes, None)?,
                Content::Link(to) => append(&mut tar, &path, EntryType::Symlink, 0o777, &[], Some(to))?,
                Content::Folder(mode) => append(&mut tar, &format!("{path}/"), EntryType::Directory, *mode, &[], None)?,
            }
        }
        tar.into_inner().context("cannot finish the layer")
    }
}

fn append(
    tar: &mut Builder<Vec<u8>>,
    path: &str,
    kind: EntryType,
    mode: u32,
    bytes: &[u8],
    link: Option<&str>,
) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    let placed = match link {
        Some(to) => tar.append_link(&mut header, path, to),
        None => tar.append_data(&mut header, path, bytes),
    };
    placed.with_context(|| format!("cannot put {path} into an archive"))
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", hex(blob))
}

fn hex(blob: &[u8]) -> String {
    Sha256::digest(blob).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (left, right) = text.split_once(':').ok_or_else(|| format!("`{text}` has no colon"))?;
    Ok((left.to_owned(), right.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn sample(files: Vec<(String, Content)>) -> Image {
        Image { name: "fairlead.local/echo:1".to_owned(), entrypoint: vec!["/echo".to_owned()], files }
    }

    fn unpack(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut tar = tar::Archive::new(archive);
        let entries = tar.entries().expect("a tar file");
        entries
            .map(|entry| {
                let mut entry = entry.expect("an entry");
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).expect("its bytes");
                (entry.path().expect("a path").to_string_lossy().into_owned(), bytes)
            })
            .collect()
    }

    #[test]
    fn order_of_files_does_not_change_an_image() {
        let echo = ("/echo".to_owned(), Content::File(b"x".to_vec(), 0o755));
        let shell = ("/bin/sh".to_owned(), Content::Link("busybox".to_owned()));
        let one = sample(vec![echo.clone(), shell.clone()]).archive().expect("an archive");
        let other = sample(vec![shell, echo]).archive().expect("an archive");
        assert_eq!(one, other);
    }

    #[test]
    fn every_blob_is_named_by_its_digest_and_found_from_the_index() {
        let archive = sample(vec![("/a/b/c".to_owned(), Content::File(b"x".to_vec(), 0o755))]).archive().expect("one");
        let files = unpack(&archive);
        let get = |path: &str| files.iter().find(|(name, _)| name == path).map(|(_, bytes)| bytes.clone());
        for (path, bytes) in files.iter().filter(|(path, _)| path.starts_with("blobs/")) {
            assert_eq!(path, &format!("blobs/sha256/{}", hex(bytes)));
        }
        let blob = |value: &Value| {
            let name = value["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
            get(&format!("blobs/sha256/{name}")).expect("the blob is there")
        };
        let index: Value = serde_json::from_slice(&get("index.json").expect("an index")).expect("JSON");
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "fairlead.local/echo:1");
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).expect("JSON");
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).expect("JSON");
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&layer));
        let paths: Vec<String> = unpack(&layer).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["a/", "a/b/", "a/b/c"]);
    }

    #[test]
    fn a_name_without_a_tag_is_refused() {
        let mut image = sample(vec![]);
        image.name = "localhost:5000/echo".to_owned();
        let refused = image.write(Path::new("/nonexistent/out")).expect_err("there is no tag");
        assert!(format!("{refused:#}").contains("NAME:TAG"), "{refused:#}");
    }

    #[test]
    fn a_dynamic_binary_is_refused_with_the_cure() {
        let own = std::env::current_exe().expect("this test runs from a file");
        let refused = read_static(&own).expect_err("test programs are dynamic");
        assert!(format!("{refused:#}").contains("crt-static"), "{refused:#}");
        assert_eq!(interpreter(b"#!/bin/sh"), None);
    }
}
