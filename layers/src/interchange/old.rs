//! Docker's first form of an archive: a file `repositories`, and for each layer a directory with its archive and a
//! configuration that names the layer below.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Platform;
use super::load::{MAX_DOCUMENTS, Parts, invalid};
use crate::error::{Error, Result};
use crate::store::AddedLayer;

/// Which names stand for which layer: `{"tools": {"1": "<id>"}}`.
type Repositories = BTreeMap<String, BTreeMap<String, String>>;

/// What the configuration of one layer says about how it was made.
#[derive(Deserialize, Default)]
struct Made {
    created: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    container_config: Option<MadeBy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MadeBy {
    cmd: Option<Vec<String>>,
}

/// An image: its layers by id, the lowest first, with their configurations.
pub(super) struct OldImage {
    pub(super) names: Vec<String>,
    pub(super) layers: Vec<String>,
    configs: Vec<Map<String, Value>>,
}

/// Keys of a configuration that belong to the form and not to the image.
const FORM: [&str; 7] = ["id", "parent", "Size", "parent_id", "layer_id", "throwaway", "container"];

fn object(bytes: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json { what: "config", source })
}

/// The images that `repositories` names. Several names of one are one image.
pub(super) fn images(parts: &Parts, repositories: &[u8]) -> Result<Vec<OldImage>> {
    let all: Repositories = serde_json::from_slice(repositories)
        .map_err(|source| Error::Json { what: "list of repositories", source })?;
    let mut named: BTreeMap<&String, Vec<String>> = BTreeMap::new();
    for (repository, tags) in &all {
        for (tag, id) in tags {
            let name = crate::image::normalise(&format!("{repository}:{tag}"))?;
            named.entry(id).or_default().push(name);
        }
    }
    let mut documents = 0;
    named.into_iter().map(|(id, names)| image(parts, id, names, &mut documents)).collect()
}

fn image(parts: &Parts, id: &str, names: Vec<String>, documents: &mut usize) -> Result<OldImage> {
    let (mut layers, mut configs, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    let mut next = Some(id.to_owned());
    while let Some(id) = next {
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(invalid(format!("{id:?} is not the id of a layer")));
        }
        if !seen.insert(id.clone()) {
            return Err(invalid(format!("the layer {id:?} is above itself")));
        }
        *documents += 1;
        if *documents > MAX_DOCUMENTS {
            return Err(Error::Limit { what: "layers of an archive", limit: MAX_DOCUMENTS as u64 });
        }
        let name = format!("{id}/json");
        let bytes = parts
            .document(&name)?
            .ok_or_else(|| Error::NotFound { what: "part of the archive", name: name.clone() })?;
        let config = object(&bytes)?;
        next = config.get("parent").and_then(Value::as_str).filter(|p| !p.is_empty()).map(str::to_owned);
        layers.push(id);
        configs.push(config);
    }
    layers.reverse();
    configs.reverse();
    Ok(OldImage { names, layers, configs })
}

impl OldImage {
    /// The configuration as Docker makes it of these: that of the topmost layer, with what the others say about how
    /// they were made as the history.
    pub(super) fn config(&self, added: &[AddedLayer]) -> Result<Vec<u8>> {
        let mut history = Vec::new();
        for config in &self.configs {
            let made: Made = serde_json::from_value(Value::Object(config.clone()))
                .map_err(|source| Error::Json { what: "config", source })?;
            let command = made.container_config.and_then(|c| c.cmd).unwrap_or_default().join(" ");
            let facts = [
                ("created", made.created),
                ("author", made.author),
                ("comment", made.comment),
                ("created_by", Some(command)),
            ];
            let facts = facts.into_iter().filter_map(|(key, value)| {
                Some((key.to_owned(), Value::from(value.filter(|v| !v.is_empty())?)))
            });
            history.push(Value::Object(facts.collect()));
        }
        let mut config = self.configs.last().cloned().unwrap_or_default();
        for key in FORM {
            config.remove(key);
        }
        let here = Platform::default();
        for (key, value) in [("architecture", here.architecture), ("os", here.os)] {
            let is_said = config.get(key).and_then(Value::as_str).is_some_and(|v| !v.is_empty());
            if !is_said {
                config.insert(key.to_owned(), value.into());
            }
        }
        let diff_ids: Vec<String> = added.iter().map(|l| l.diff_id.to_string()).collect();
        config.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids}));
        config.insert("history".to_owned(), history.into());
        serde_json::to_vec(&config).map_err(|source| Error::Json { what: "config", source })
    }
}
