//! Generates the messages from `tables/`.

use std::path::Path;
use std::{env, fs};

#[path = "generator/mod.rs"]
mod generator;

fn main() {
    println!("cargo::rerun-if-changed=tables");
    println!("cargo::rerun-if-changed=generator");
    let mut paths: Vec<_> = fs::read_dir("tables")
        .expect("the tables are beside this script")
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    let mut apis: Vec<_> = paths
        .iter()
        .map(|path| generator::table::parse(&fs::read_to_string(path).expect("a table is text")))
        .collect();
    apis.sort_by_key(|api| api.key);
    let mut messages = String::new();
    for api in &apis {
        generator::emit::message(&mut messages, api.key, &api.request);
        generator::emit::message(&mut messages, api.key, &api.response);
    }
    let mut keys = String::new();
    generator::emit::apis(&mut keys, &apis);
    generator::emit::every_message(&mut keys, &apis);
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("messages.rs"), messages).expect("OUT_DIR is writable");
    fs::write(Path::new(&out).join("apis.rs"), keys).expect("OUT_DIR is writable");
}
