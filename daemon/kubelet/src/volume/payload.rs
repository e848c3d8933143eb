//! What a volume of objects holds: relative path, content and mode of each file. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Volume};

use super::Source;
use crate::pod::field;

/// Mode of a file whose volume does not say.
const MODE: u32 = 0o644;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
}

/// Files by relative path.
pub(crate) type Files = BTreeMap<String, File>;

/// The volume's kind and files; `None` for a kind of volume that holds no objects. An error says what is missing.
pub(super) fn payload(source: &Source<'_>, volume: &Volume) -> Result<Option<(&'static str, Files)>, String> {
    let mut files = Files::new();
    if let Some(map) = &volume.config_map {
        let mode = mode(map.default_mode);
        config_map(source, &map.name, map.items.as_deref(), map.optional, mode, &mut files)?;
        return Ok(Some(("configmap", files)));
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        self::secret(source, name, secret.items.as_deref(), secret.optional, mode(secret.default_mode), &mut files)?;
        return Ok(Some(("secret", files)));
    }
    if let Some(downward) = &volume.downward_api {
        self::downward(source, downward.items.as_deref(), mode(downward.default_mode), &mut files)?;
        return Ok(Some(("downward-api", files)));
    }
    let Some(projected) = &volume.projected else { return Ok(None) };
    let default = mode(projected.default_mode);
    for part in projected.sources.iter().flatten() {
        if let Some(map) = &part.config_map {
            config_map(source, &map.name, map.items.as_deref(), map.optional, default, &mut files)?;
        } else if let Some(secret) = &part.secret {
            self::secret(source, &secret.name, secret.items.as_deref(), secret.optional, default, &mut files)?;
        } else if let Some(downward) = &part.downward_api {
            self::downward(source, downward.items.as_deref(), default, &mut files)?;
        } else if part.service_account_token.is_some() {
            return Err("serviceAccountToken: this cluster does not issue service account tokens yet".into());
        } else {
            return Err("a source of this projected volume is of a kind this node does not support".into());
        }
    }
    Ok(Some(("projected", files)))
}

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(MODE) & 0o777
}

fn config_map(
    source: &Source<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
    files: &mut Files,
) -> Result<(), String> {
    let namespace = source.pod.metadata.namespace.as_deref().unwrap_or_default();
    let Some(map) = source.lookup.config_map(namespace, name) else {
        return if optional == Some(true) { Ok(()) } else { Err(format!("configmap \"{name}\" not found")) };
    };
    let mut all: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    all.extend(map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes())));
    all.extend(map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())));
    select(all, items, optional, mode, files)
}

fn secret(
    source: &Source<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
    files: &mut Files,
) -> Result<(), String> {
    let namespace = source.pod.metadata.namespace.as_deref().unwrap_or_default();
    let Some(secret) = source.lookup.secret(namespace, name) else {
        return if optional == Some(true) { Ok(()) } else { Err(format!("secret \"{name}\" not found")) };
    };
    let all = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    select(all, items, optional, mode, files)
}

/// All keys, or those the items name, at the paths they name.
fn select(
    mut all: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
    files: &mut Files,
) -> Result<(), String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        files.extend(all.into_iter().map(|(key, content)| (key, File { content, mode })));
        return Ok(());
    };
    for item in items {
        let Some(content) = all.get_mut(&item.key) else {
            if optional == Some(true) {
                continue;
            }
            return Err(format!("references non-existent config key: {}", item.key));
        };
        let mode = item.mode.map_or(mode, |own| self::mode(Some(own)));
        files.insert(inside(&item.path)?, File { content: content.clone(), mode });
    }
    Ok(())
}

fn downward(
    source: &Source<'_>,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: u32,
    files: &mut Files,
) -> Result<(), String> {
    for item in items.unwrap_or_default() {
        let value = if let Some(reference) = &item.field_ref {
            field::field(source.pod, &reference.field_path, source.ips, source.node)
                .ok_or_else(|| format!("unsupported fieldPath: {}", reference.field_path))?
        } else if let Some(selector) = &item.resource_field_ref {
            let own = selector.container_name.as_deref().unwrap_or_default();
            field::resource(source.pod, own, selector, source.node)
                .ok_or_else(|| format!("unsupported container resource: {}", selector.resource))?
        } else {
            String::new()
        };
        let mode = item.mode.map_or(mode, |own| self::mode(Some(own)));
        files.insert(inside(&item.path)?, File { content: value.into_bytes(), mode });
    }
    Ok(())
}

/// A path that stays inside the volume.
fn inside(path: &str) -> Result<String, String> {
    let bad = path.is_empty() || path.starts_with('/') || path.split('/').any(|part| part == "..");
    if bad { Err(format!("path \"{path}\" must be relative and may not contain '..'")) } else { Ok(path.to_owned()) }
}
