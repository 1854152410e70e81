//! Making, changing and removing topics.

use std::io::{BufRead, IsTerminal, stderr, stdin};

use argh::FromArgs;
use streambus_client::{
    blocking::{ConfigChange, ConfigOperation, ConfigResource, NewTopic, Outcome},
    error::ClientError,
};
use streambus_proto::error_code::ErrorCode;

use crate::{
    CliError,
    connect::{connect, local_broker, pair},
    output::count,
};

/// Make a topic.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "create")]
pub(super) struct Create {
    /// the topic's name
    #[argh(positional)]
    name: String,
    /// how many partitions (default: the broker's)
    #[argh(option, short = 'p')]
    partitions: Option<i32>,
    /// how many replicas of each (default: the broker's)
    #[argh(option, short = 'r')]
    replication_factor: Option<i16>,
    /// a setting as NAME=VALUE; may be repeated; -c and --config are the same
    #[argh(option, short = 's')]
    set: Vec<String>,
    /// the same as --set
    #[argh(option, short = 'c', hidden_help)]
    config: Vec<String>,
    /// no error if it is there already
    #[argh(switch)]
    if_not_exists: bool,
    /// any broker's address as HOST:PORT (default: 127.0.0.1:9092)
    #[argh(option, short = 'b', default = "local_broker()")]
    bootstrap: String,
}

impl Create {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let settings = self.set.iter().chain(&self.config);
        let configs = settings.map(|text| pair("--set", text));
        let new = NewTopic {
            name: self.name.clone(),
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            configs: configs.collect::<Result<_, _>>()?,
            ..NewTopic::default()
        };
        let mut client = connect(&self.bootstrap)?;
        let outcomes = client.create_topics(std::slice::from_ref(&new), false)?;
        let tolerated = self.if_not_exists.then_some(ErrorCode::TopicAlreadyExists);
        let mut made = false;
        check(outcomes, tolerated, |_| made = true)?;
        if !made {
            eprintln!("topic {} was there already", self.name);
            return Ok(());
        }
        let topic = client.wait_for_topic(&self.name)?;
        eprintln!(
            "topic {} created with {}",
            self.name,
            count(topic.partitions.len() as u64, "partition")
        );
        Ok(())
    }
}

/// Change a topic: more partitions, other settings.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "alter")]
pub(super) struct Alter {
    /// the topic's name
    #[argh(positional)]
    name: String,
    /// how many partitions it shall have, more than now
    #[argh(option, short = 'p')]
    partitions: Option<i32>,
    /// a setting as NAME=VALUE; may be repeated; -c and --config are the same
    #[argh(option, short = 's')]
    set: Vec<String>,
    /// the same as --set
    #[argh(option, short = 'c', hidden_help)]
    config: Vec<String>,
    /// a setting to go back to its default; may be repeated
    #[argh(option, short = 'd')]
    unset: Vec<String>,
    /// any broker's address as HOST:PORT (default: 127.0.0.1:9092)
    #[argh(option, short = 'b', default = "local_broker()")]
    bootstrap: String,
}

impl Alter {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let set = self.set.iter().chain(&self.config).map(|text| {
            let (name, value) = pair("--set", text)?;
            Ok(ConfigChange {
                name,
                operation: ConfigOperation::Set(value),
            })
        });
        let mut changes = set.collect::<Result<Vec<_>, CliError>>()?;
        changes.extend(self.unset.iter().map(|name| ConfigChange {
            name: name.clone(),
            operation: ConfigOperation::Delete,
        }));
        if changes.is_empty() && self.partitions.is_none() {
            return Err(CliError::Refused(
                "nothing to alter: give --partitions, --set or --unset".to_owned(),
            ));
        }
        let mut client = connect(&self.bootstrap)?;
        if !changes.is_empty() {
            client.alter_configs(&ConfigResource::Topic(self.name.clone()), &changes, false)?;
        }
        if let Some(partitions) = self.partitions {
            client.create_partitions(&self.name, partitions, &[])?;
        }
        eprintln!("topic {} altered", self.name);
        Ok(())
    }
}

/// Remove topics and all their records.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "delete")]
pub(super) struct Delete {
    /// the topics' names
    #[argh(positional)]
    names: Vec<String>,
    /// do not ask (only a terminal is asked)
    #[argh(switch, short = 'y')]
    yes: bool,
    /// no error if one is not there
    #[argh(switch)]
    if_exists: bool,
    /// any broker's address as HOST:PORT (default: 127.0.0.1:9092)
    #[argh(option, short = 'b', default = "local_broker()")]
    bootstrap: String,
}

impl Delete {
    pub(super) fn run(&self) -> Result<(), CliError> {
        if self.names.is_empty() {
            return Err(CliError::Refused("name the topics to delete".to_owned()));
        }
        if !self.yes && stdin().is_terminal() && stderr().is_terminal() && !self.confirmed()? {
            return Err(CliError::Refused("nothing was deleted".to_owned()));
        }
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let outcomes = connect(&self.bootstrap)?.delete_topics(&names)?;
        let tolerated = self.if_exists.then_some(ErrorCode::UnknownTopicOrPartition);
        check(outcomes, tolerated, |name| {
            eprintln!("topic {name} deleted");
        })
    }

    fn confirmed(&self) -> Result<bool, CliError> {
        eprint!("delete {} and all records? [y/N] ", self.names.join(", "));
        let mut answer = String::new();
        stdin()
            .lock()
            .read_line(&mut answer)
            .map_err(CliError::Input)?;
        Ok(is_yes(&answer))
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// Tells of each name it worked for; then the first refusal that isn't
/// tolerated.
fn check(
    outcomes: Vec<Outcome>,
    tolerated: Option<ErrorCode>,
    mut done: impl FnMut(&str),
) -> Result<(), CliError> {
    let mut refused = None;
    for (what, outcome) in outcomes {
        match outcome {
            Ok(()) => done(&what),
            Err(refusal) if Some(refusal.code) == tolerated => {}
            Err(refusal) => {
                refused.get_or_insert(ClientError::Refused { what, refusal });
            }
        }
    }
    refused.map_or(Ok(()), |error| Err(error.into()))
}

#[cfg(test)]
mod tests {
    use streambus_client::error::Refusal;

    use super::*;

    #[test]
    fn only_the_named_refusal_is_tolerated() {
        // Proves: --if-not-exists forgives exactly one code, and what worked is told all the same.
        let checked = |code, tolerated| {
            let refusal = Refusal {
                code,
                message: None,
            };
            let outcomes = vec![("b".to_owned(), Err(refusal)), ("a".to_owned(), Ok(()))];
            let mut done = Vec::new();
            let result = check(outcomes, tolerated, |name| done.push(name.to_owned()));
            (result.is_ok(), done)
        };
        let tolerated = Some(ErrorCode::TopicAlreadyExists);
        let names = vec!["a".to_owned()];
        assert_eq!(
            checked(ErrorCode::TopicAlreadyExists, tolerated),
            (true, names.clone())
        );
        assert_eq!(
            checked(ErrorCode::TopicAlreadyExists, None),
            (false, names.clone())
        );
        assert_eq!(
            checked(ErrorCode::InvalidPartitions, tolerated),
            (false, names)
        );
    }

    #[test]
    fn only_a_clear_yes_deletes() {
        // Proves: an empty or unclear answer keeps the records.
        for (answer, wanted) in [
            ("y\n", true),
            ("YES\n", true),
            ("\n", false),
            ("yep\n", false),
        ] {
            assert_eq!(is_yes(answer), wanted, "{answer}");
        }
    }
}
