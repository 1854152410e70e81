//! Whole-system proof: tidy rules, simulation, clusters, clients, fuzzing.
