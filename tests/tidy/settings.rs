//! Every setting that clients see is of one class: it has its effect, which a test shows; it is
//! refused with the reason, which a test shows; or it names what does not exist here, and says so.

use streambus::metadata::config_value::Effect;
use streambus::metadata::{broker_config, topic_config};

use crate::{assert_none, sources};

#[test]
fn every_setting_has_its_effect_or_says_that_it_has_none() {
    // Proves that the named tests exist and that settings without effect are documented so.
    let folders = ["src", "storage/src", "tests"];
    let sources: Vec<_> = folders.into_iter().flat_map(sources).collect();
    let tests: Vec<&str> = sources
        .iter()
        .flat_map(|source| source.text.split("#[test]").skip(1))
        .filter_map(|after| after.split_once("fn ")?.1.split_once('('))
        .map(|(name, _)| name)
        .collect();
    let topics = topic_config::TABLE
        .iter()
        .map(|def| ("topic", def.name, def.effect, def.documentation));
    let brokers =
        broker_config::all().map(|def| ("broker", def.name, def.effect, def.documentation));
    let mut breaches = Vec::new();
    for (owner, name, effect, documentation) in topics.chain(brokers) {
        let says_so = documentation.to_lowercase().contains("no effect: ");
        let breach = match effect {
            Effect::Has { test } | Effect::Refused { test } if !tests.contains(&test) => {
                format!("there is no test {test}")
            }
            Effect::Has { .. } | Effect::Refused { .. } if says_so => {
                "it has its test, and its documentation says that it has no effect".to_owned()
            }
            Effect::Absent if !says_so => {
                format!("its documentation does not say \"No effect: ...\": {documentation}")
            }
            _ => continue,
        };
        breaches.push(format!("{owner} setting {name}: {breach}"));
    }
    assert_none("settings do what they say", &breaches);
}
