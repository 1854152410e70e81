//! How settings are changed: all at once (`AlterConfigs`) or one by one (`IncrementalAlterConfigs`).

use std::collections::BTreeSet;

use streambus_proto::error_code::ErrorCode;

use super::command::Refusal;
use super::config_value::{Kind, list_items};
use super::image::ConfigMap;

/// A change of settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alteration {
    /// These settings and no others.
    Replace(Vec<(String, Option<String>)>),
    /// These changes; the rest stays.
    Edit(Vec<ConfigEdit>),
}

impl Alteration {
    /// The settings that it gives a value.
    pub(super) fn names_with_values(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Alteration::Replace(pairs) => Box::new(pairs.iter().map(|(name, _)| name.as_str())),
            Alteration::Edit(edits) => {
                let given = edits.iter().filter(|edit| edit.op != ConfigOp::Delete);
                Box::new(given.map(|edit| edit.name.as_str()))
            }
        }
    }
}

/// One change of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEdit {
    /// The setting.
    pub name: String,
    /// What is done.
    pub op: ConfigOp,
    /// With which value; only a deletion needs none.
    pub value: Option<String>,
}

/// What is done with a setting. The numbers are Kafka's.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ConfigOp {
    /// It gets the value.
    Set = 0,
    /// It goes back to what it is without.
    Delete = 1,
    /// The items are added to the list.
    Append = 2,
    /// The items are taken off the list.
    Subtract = 3,
}

impl ConfigOp {
    /// The operation of a number.
    pub fn of(code: i8) -> Option<ConfigOp> {
        match code {
            0 => Some(ConfigOp::Set),
            1 => Some(ConfigOp::Delete),
            2 => Some(ConfigOp::Append),
            3 => Some(ConfigOp::Subtract),
            _ => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            ConfigOp::Set => "SET",
            ConfigOp::Delete => "DELETE",
            ConfigOp::Append => "APPEND",
            ConfigOp::Subtract => "SUBTRACT",
        }
    }
}

/// The rules of one kind of settings.
pub(super) struct Rules<'a> {
    /// What they are the settings of, for messages: "topic" or "broker".
    pub(super) noun: &'static str,
    /// Whether a name is known, and of which type; else why not.
    pub(super) kind: &'a dyn Fn(&str) -> Result<Kind, String>,
    /// Whether the value is good for the name; else why not.
    pub(super) check: &'a dyn Fn(&str, &str) -> Result<(), String>,
    /// The value that holds now: what a list grows from and shrinks from.
    pub(super) current: &'a dyn Fn(&str) -> String,
}

/// The settings that an alteration leads to.
///
/// # Errors
/// `INVALID_CONFIG` for a setting that may not be, `INVALID_REQUEST` for a change that means nothing.
pub(super) fn altered(
    before: &ConfigMap,
    alteration: &Alteration,
    rules: &Rules<'_>,
) -> Result<ConfigMap, Refusal> {
    match alteration {
        Alteration::Replace(pairs) => replaced(pairs, rules),
        Alteration::Edit(edits) => edited(before, edits, rules),
    }
}

/// The settings of pairs where each name may stand once and each value must be there.
pub(super) fn replaced(
    pairs: &[(String, Option<String>)],
    rules: &Rules<'_>,
) -> Result<ConfigMap, Refusal> {
    let mut after = ConfigMap::new();
    for (name, value) in pairs {
        let value = present(name, value.as_ref(), rules)?;
        (rules.check)(name, value).map_err(invalid)?;
        if after.insert(name.clone(), value.clone()).is_some() {
            return Err(duplicate(name));
        }
    }
    Ok(after)
}

fn edited(
    before: &ConfigMap,
    edits: &[ConfigEdit],
    rules: &Rules<'_>,
) -> Result<ConfigMap, Refusal> {
    let mut after = before.clone();
    let mut seen = BTreeSet::new();
    for edit in edits {
        let name = &edit.name;
        if !seen.insert(name) {
            return Err(duplicate(name));
        }
        let kind = (rules.kind)(name).map_err(invalid)?;
        let value = match edit.op {
            ConfigOp::Delete => {
                after.remove(name);
                continue;
            }
            ConfigOp::Set => present(name, edit.value.as_ref(), rules)?.clone(),
            ConfigOp::Append | ConfigOp::Subtract => {
                if kind != Kind::List {
                    return Err(invalid(format!(
                        "Can't {} to key {name} because its type is not LIST.",
                        edit.op.word()
                    )));
                }
                let items = present(name, edit.value.as_ref(), rules)?;
                let current = after
                    .get(name)
                    .cloned()
                    .unwrap_or_else(|| (rules.current)(name));
                changed_list(&current, items, edit.op)
            }
        };
        (rules.check)(name, &value).map_err(invalid)?;
        after.insert(name.clone(), value);
    }
    Ok(after)
}

fn changed_list(current: &str, items: &str, op: ConfigOp) -> String {
    let mut list = list_items(current);
    for item in list_items(items) {
        match op {
            ConfigOp::Append if !list.contains(&item) => list.push(item),
            ConfigOp::Subtract => list.retain(|kept| *kept != item),
            _ => {}
        }
    }
    list.join(",")
}

fn present<'a>(
    name: &str,
    value: Option<&'a String>,
    rules: &Rules<'_>,
) -> Result<&'a String, Refusal> {
    value.ok_or_else(|| {
        let noun = rules.noun;
        invalid(format!(
            "Null value not supported for {noun} configs: {}",
            name.escape_default()
        ))
    })
}

fn invalid(message: String) -> Refusal {
    Refusal::new(ErrorCode::InvalidConfig, message)
}

fn duplicate(name: &str) -> Refusal {
    let shown = name.escape_default();
    let message = format!("Error due to duplicate config keys: {shown} stands more than once");
    Refusal::new(ErrorCode::InvalidRequest, message)
}
