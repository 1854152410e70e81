//! `streambus health`: what a running node says of itself.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use argh::FromArgs;
use serde_json::Value;

use crate::{
    CliError, Format, as_called,
    output::{count, print},
};

/// Where a node answers operators by default.
const ADMIN: &str = "127.0.0.1:9644";
/// A person waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// A report is about a kilobyte. What is longer is no report.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Ask a running node whether it serves, takes produce, and whether its data is sound.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "health")]
pub struct HealthCommand {
    /// the node's admin address as HOST:PORT (default: 127.0.0.1:9644)
    #[argh(option, default = "ADMIN.to_owned()")]
    admin: String,
    /// text or json
    #[argh(option, default = "Format::Text")]
    format: Format,
}

impl HealthCommand {
    /// Carries the command out; returns whether the node serves, takes produce, and its data is sound.
    ///
    /// # Errors
    /// [`CliError`] if the node can't be asked, to be shown as it is.
    pub fn run(&self) -> Result<bool, CliError> {
        let answer = ask(&self.admin).map_err(|why| {
            CliError::Refused(format!(
                "cannot ask {}: {why}; is a node running whose admin.address this is? --admin names another",
                self.admin
            ))
        })?;
        let text = match self.format {
            Format::Text => as_called(&to_text(&answer)),
            Format::Json => format!("{answer}\n"),
        };
        print(&text).map_err(CliError::Output)?;
        Ok(is_good(&answer))
    }
}

fn ask(admin: &str) -> Result<Value, String> {
    let words = |error: std::io::Error| error.to_string();
    let addresses: Vec<SocketAddr> = admin.to_socket_addrs().map_err(words)?.collect();
    let address = addresses.first().ok_or("the name has no address")?;
    let mut stream = TcpStream::connect_timeout(address, PATIENCE).map_err(words)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(words)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(words)?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(words)?;
    let mut answer = String::new();
    let mut limited = stream.take(ANSWER_BYTES_MAX);
    limited.read_to_string(&mut answer).map_err(words)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answers")?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(format!("it answers {}", head.lines().next().unwrap_or("")));
    }
    serde_json::from_str(body).map_err(|_| "its answer is no health report".to_owned())
}

fn is_good(report: &Value) -> bool {
    report["ready"] == true && report["degraded"] != true
}

fn to_text(report: &Value) -> String {
    let word = |field: &str| report[field].as_str().unwrap_or("unknown").to_owned();
    let mut text = word("state");
    if report["reason"].is_string() {
        text = format!("{text}: {}", word("reason"));
    }
    text.push('\n');
    let damage = &report["damage"];
    if let (Some(places), Some(file), Some(position)) = (
        damage["places"].as_u64(),
        damage["file"].as_str(),
        damage["position"].as_u64(),
    ) {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "degraded: {}, the first in {file} at byte {position}; reads of them are refused\n\
             stop the node, then see `streambus storage verify`",
            count(places, "damaged place")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_told_in_words() {
        // Proves the words and the verdict for a sound node, a damaged one, one without space, and one that does
        // not serve.
        let sound = json!({"state": "ready", "ready": true, "reason": null, "degraded": false, "damage": null});
        assert_eq!(
            (to_text(&sound).as_str(), is_good(&sound)),
            ("ready\n", true)
        );
        let damaged = json!({
            "state": "ready", "ready": true, "reason": null, "degraded": true,
            "damage": {"places": 2, "file": "/d/table-1.tbl", "position": 4096},
        });
        assert!(!is_good(&damaged));
        let text = to_text(&damaged);
        assert!(
            text.contains("2 damaged places, the first in /d/table-1.tbl at byte 4096"),
            "{text}"
        );
        let low = json!({
            "state": "ready", "ready": true, "reason": "produce is refused: no space", "degraded": true,
            "damage": null,
        });
        let expected = ("ready: produce is refused: no space\n", false);
        assert_eq!((to_text(&low).as_str(), is_good(&low)), expected);
        let stopping = json!({"state": "draining", "ready": false, "reason": "stopping"});
        let expected = ("draining: stopping\n", false);
        assert_eq!((to_text(&stopping).as_str(), is_good(&stopping)), expected);
    }
}
