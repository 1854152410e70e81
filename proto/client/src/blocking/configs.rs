//! Settings of topics and brokers.

use streambus_proto::ids::BrokerId;
use streambus_proto::messages::describe_configs_request::{
    DescribeConfigsRequest, DescribeConfigsResource,
};
use streambus_proto::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};

use super::Client;
use crate::error::ClientError;

/// Whose settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigResource {
    /// A topic's.
    Topic(String),
    /// A broker's.
    Broker(BrokerId),
    /// Those that hold for all brokers unless one has its own.
    AllBrokers,
}

impl ConfigResource {
    /// The protocol's number for the kind of resource, and its name.
    fn to_wire(&self) -> (i8, String) {
        match self {
            ConfigResource::Topic(name) => (2, name.clone()),
            ConfigResource::Broker(id) => (4, id.to_string()),
            ConfigResource::AllBrokers => (4, String::new()),
        }
    }

    /// Only a broker itself knows all of its settings.
    fn broker(&self) -> Option<BrokerId> {
        match self {
            ConfigResource::Broker(id) => Some(*id),
            ConfigResource::Topic(_) | ConfigResource::AllBrokers => None,
        }
    }
}

/// A setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value; `None` if it has none or must not be told.
    pub value: Option<String>,
    /// Where the value comes from, as the protocol numbers it: 1 this topic, 2 this broker, 3 all
    /// brokers, 4 the broker's file, 5 the default.
    pub source: i8,
    /// Whether it cannot be changed while the broker runs.
    pub read_only: bool,
    /// Whether its value is a secret.
    pub is_sensitive: bool,
    /// What it does, if that was asked for.
    pub documentation: Option<String>,
}

/// What to do to a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigOperation {
    /// Give it this value.
    Set(String),
    /// Go back to the default.
    Delete,
    /// Add to a list.
    Append(String),
    /// Remove from a list.
    Subtract(String),
}

/// A change of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChange {
    /// The setting.
    pub name: String,
    /// What to do to it.
    pub operation: ConfigOperation,
}

impl Client {
    /// The settings of a resource, by name.
    ///
    /// # Errors
    /// [`ClientError::Refused`], among others because there is no such resource.
    pub fn describe_configs(
        &mut self,
        resource: &ConfigResource,
        with_documentation: bool,
    ) -> Result<Vec<ConfigEntry>, ClientError> {
        let (resource_type, resource_name) = resource.to_wire();
        let wanted = DescribeConfigsResource {
            resource_type,
            resource_name: resource_name.as_str().into(),
            configuration_keys: None,
        };
        let request = DescribeConfigsRequest {
            resources: vec![wanted].into(),
            include_documentation: with_documentation,
            ..Default::default()
        };
        self.with_patience(|client| {
            let reply = client.call(resource.broker(), &request)?;
            let mut entries = Vec::new();
            for result in &reply.read()?.results {
                let message = result.error_message.as_deref();
                ClientError::check(resource_name.as_str(), result.error_code, message)?;
                entries.extend(result.configs.iter().map(|config| ConfigEntry {
                    name: config.name.into_owned(),
                    value: config.value.map(std::borrow::Cow::into_owned),
                    source: config.config_source,
                    read_only: config.read_only,
                    is_sensitive: config.is_sensitive,
                    documentation: config.documentation.map(std::borrow::Cow::into_owned),
                }));
            }
            entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            Ok(entries)
        })
    }

    /// Changes settings of a resource, all or none; the others stay as they are.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub fn alter_configs(
        &mut self,
        resource: &ConfigResource,
        changes: &[ConfigChange],
        validate_only: bool,
    ) -> Result<(), ClientError> {
        let (resource_type, resource_name) = resource.to_wire();
        let configs = changes.iter().map(|change| {
            let (config_operation, value) = match &change.operation {
                ConfigOperation::Set(value) => (0, Some(value)),
                ConfigOperation::Delete => (1, None),
                ConfigOperation::Append(value) => (2, Some(value)),
                ConfigOperation::Subtract(value) => (3, Some(value)),
            };
            AlterableConfig {
                name: change.name.as_str().into(),
                config_operation,
                value: value.map(|value| value.as_str().into()),
            }
        });
        let altered = AlterConfigsResource {
            resource_type,
            resource_name: resource_name.as_str().into(),
            configs: configs.collect(),
        };
        let request = IncrementalAlterConfigsRequest {
            resources: vec![altered].into(),
            validate_only,
        };
        self.with_patience(|client| {
            let reply = client.call(resource.broker(), &request)?;
            for result in &reply.read()?.responses {
                let message = result.error_message.as_deref();
                ClientError::check(resource_name.as_str(), result.error_code, message)?;
            }
            Ok(())
        })
    }
}
