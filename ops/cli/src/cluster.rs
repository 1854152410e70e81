//! `streambus cluster`: what the cluster says of itself.

use argh::FromArgs;
use serde_json::json;
use streambus_client::blocking::ClusterDescription;

use crate::{
    CliError, Format,
    connect::{connect, local_broker},
    output::{print, table},
};

/// The cluster.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "cluster")]
pub struct ClusterCommand {
    #[argh(subcommand)]
    verb: ClusterVerb,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum ClusterVerb {
    Info(ClusterInfo),
}

/// Show the cluster's id, its brokers and its controller.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "info")]
struct ClusterInfo {
    /// any broker's address as HOST:PORT (default: 127.0.0.1:9092)
    #[argh(option, short = 'b', default = "local_broker()")]
    bootstrap: String,
    /// text or json
    #[argh(option, default = "Format::Text")]
    format: Format,
}

impl ClusterCommand {
    /// Carries the command out.
    ///
    /// # Errors
    /// [`CliError`], to be shown as it is.
    pub fn run(&self) -> Result<(), CliError> {
        let ClusterVerb::Info(info) = &self.verb;
        let described = connect(&info.bootstrap)?.describe_cluster()?;
        let text = match info.format {
            Format::Text => to_text(&described),
            Format::Json => to_json(&described),
        };
        print(&text).map(drop).map_err(CliError::Output)
    }
}

fn to_text(cluster: &ClusterDescription) -> String {
    let rows: Vec<_> = cluster
        .brokers
        .iter()
        .map(|broker| {
            let role = if Some(broker.id) == cluster.controller {
                "controller"
            } else {
                ""
            };
            vec![
                broker.id.to_string(),
                format!("{}:{}", broker.host, broker.port),
                broker.rack.clone().unwrap_or_else(|| "-".to_owned()),
                role.to_owned(),
            ]
        })
        .collect();
    format!(
        "cluster {}\n{}",
        cluster.id,
        table(&["BROKER", "ADDRESS", "RACK", "ROLE"], &rows)
    )
}

fn to_json(cluster: &ClusterDescription) -> String {
    let brokers = cluster.brokers.iter().map(|broker| {
        json!({ "id": broker.id.0, "host": broker.host, "port": broker.port, "rack": broker.rack })
    });
    let value = json!({
        "cluster_id": cluster.id,
        "controller": cluster.controller.map(|id| id.0),
        "brokers": brokers.collect::<Vec<_>>(),
    });
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use streambus_client::router::Broker;
    use streambus_proto::ids::BrokerId;

    use super::*;

    fn cluster() -> ClusterDescription {
        let broker = |id: i32, rack: Option<&str>| Broker {
            id: BrokerId(id),
            host: "127.0.0.1".to_owned(),
            port: 10_092,
            rack: rack.map(str::to_owned),
        };
        ClusterDescription {
            id: "c1".to_owned(),
            controller: Some(BrokerId(1)),
            brokers: vec![broker(0, None), broker(1, Some("a"))],
        }
    }

    #[test]
    fn the_cluster_is_shown_for_people_and_programs() {
        // Proves: both forms name every broker and the controller (golden).
        assert_eq!(
            to_text(&cluster()),
            "cluster c1\nBROKER  ADDRESS          RACK  ROLE\n0       127.0.0.1:10092  -\n\
             1       127.0.0.1:10092  a     controller\n"
        );
        assert_eq!(
            to_json(&cluster()),
            "{\"brokers\":[{\"host\":\"127.0.0.1\",\"id\":0,\"port\":10092,\"rack\":null},\
             {\"host\":\"127.0.0.1\",\"id\":1,\"port\":10092,\"rack\":\"a\"}],\
             \"cluster_id\":\"c1\",\"controller\":1}\n"
        );
    }
}
