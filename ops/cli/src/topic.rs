//! `streambus topic`: make, look at, change and remove topics, and put records in and out.

mod admin;
mod consume;
mod delivery;
mod describe;
mod produce;

use argh::FromArgs;

use crate::CliError;

/// Topics and their records.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "topic")]
pub struct TopicCommand {
    #[argh(subcommand)]
    verb: TopicVerb,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum TopicVerb {
    Create(admin::Create),
    List(describe::List),
    Describe(describe::Describe),
    Alter(admin::Alter),
    Delete(admin::Delete),
    Produce(produce::Produce),
    Consume(consume::Consume),
}

impl TopicCommand {
    /// Carries the command out.
    ///
    /// # Errors
    /// [`CliError`], to be shown as it is.
    pub fn run(&self) -> Result<(), CliError> {
        match &self.verb {
            TopicVerb::Create(create) => create.run(),
            TopicVerb::List(list) => list.run(),
            TopicVerb::Describe(describe) => describe.run(),
            TopicVerb::Alter(alter) => alter.run(),
            TopicVerb::Delete(delete) => delete.run(),
            TopicVerb::Produce(produce) => produce.run(),
            TopicVerb::Consume(consume) => consume.run(),
        }
    }
}
