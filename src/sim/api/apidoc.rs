//! The schema a node publishes about itself, made from the table.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::schema::{ENDPOINTS, Format, Param, Version};

/// Returns the text of `/pve-docs/api-viewer/apidoc.js`.
pub(super) fn script(release: Version) -> String {
    let mut root = Tree::default();
    for endpoint in ENDPOINTS
        .iter()
        .filter(|endpoint| endpoint.since <= release)
    {
        let mut properties = Map::new();
        for param in endpoint.params_in(release) {
            properties.insert(param.name.to_owned(), described(param, release));
        }
        let info = json!({
            "method": endpoint.method,
            "parameters": {"additionalProperties": 0, "properties": properties},
        });
        root.put(endpoint.path, endpoint.method, info);
    }
    let start = match release >= (8, 0) {
        true => "const apiSchema = ",
        false => "var pveapi = ",
    };
    let tree = Value::Array(root.children(""));
    format!("{start}{tree}\n;\n")
}

fn described(param: &Param, release: Version) -> Value {
    let mut text = json!({"type": param.kind_in(release).word()});
    if param.optional {
        text["optional"] = json!(1);
    }
    if let Some(least) = param.least {
        text["minimum"] = json!(least);
    }
    if let Some(most) = param.most {
        text["maximum"] = json!(most);
    }
    if let Some(longest) = param.longest {
        text["maxLength"] = json!(longest);
    }
    if !param.words.is_empty() {
        text["enum"] = json!(param.words);
    }
    if let Format::Property(property) = param.format
        && param.kind_in(release) == param.kind
    {
        let mut format = Map::new();
        for key in property.keys.iter().filter(|key| key.since <= release) {
            let mut sub = described(key, release);
            if property.default_key == Some(key.name) {
                sub["default_key"] = json!(1);
            }
            format.insert(key.name.to_owned(), sub);
        }
        for (name, stands_for, named) in property.aliases {
            if !format.contains_key(*stands_for) {
                continue;
            }
            let mut alias = json!({"alias": stands_for});
            if let Some(named) = named {
                alias["keyAlias"] = json!(named);
            }
            format.insert((*name).to_owned(), alias);
        }
        text["format"] = Value::Object(format);
    }
    text
}

/// The paths as a tree, as the file has them.
#[derive(Default)]
struct Tree {
    info: Map<String, Value>,
    below: BTreeMap<String, Tree>,
}

impl Tree {
    fn put(&mut self, path: &str, method: &str, info: Value) {
        let mut here = self;
        for segment in path.split('/').skip(1) {
            here = here.below.entry(segment.to_owned()).or_default();
        }
        here.info.insert(method.to_owned(), info);
    }

    fn children(&self, path: &str) -> Vec<Value> {
        self.below
            .iter()
            .map(|(segment, tree)| {
                let path = format!("{path}/{segment}");
                let mut node = json!({
                    "path": path, "text": segment, "leaf": u8::from(tree.below.is_empty()),
                });
                if !tree.info.is_empty() {
                    node["info"] = Value::Object(tree.info.clone());
                }
                if !tree.below.is_empty() {
                    node["children"] = json!(tree.children(&path));
                }
                node
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_as_the_release_does_and_is_json() {
        for (release, start) in [((6, 4), "var pveapi = "), ((8, 4), "const apiSchema = ")] {
            let text = script(release);
            let json = text.strip_prefix(start).expect("the start");
            let json = json.trim_end().trim_end_matches(';');
            let tree: Value = serde_json::from_str(json).expect("JSON");
            assert!(tree.as_array().is_some_and(|tree| !tree.is_empty()));
            assert_eq!(text.contains("tpmstate0"), release >= (7, 1));
        }
    }
}
