use std::{
    io::{Read, Write},
    net::TcpStream,
};

use serde_json::{Value, json};
use streambus_proto::ids::TopicId;

use super::*;
use crate::{CoreMetrics, LowSpace, State, Troubles};

fn started(health: &Arc<Health>) -> OpsThread {
    let config = OpsConfig {
        admin_address: Some(([127, 0, 0, 1], 0).into()),
    };
    let handles = Handles {
        registry: Registry::new(),
        health: health.clone(),
        log_lines_dropped: Some(Dropped::default()),
    };
    start(&config, handles).unwrap()
}

/// Status and body of one request.
fn ask(ops: &OpsThread, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(ops.admin_address().unwrap()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

#[test]
fn readiness_follows_the_state() {
    // Proves: ready only while serving, live in every state, and the report says why not.
    let health = Arc::new(Health::new(2));
    let ops = started(&health);
    let status = |path: &str| ask(&ops, "GET", path).0;
    for (state, live, ready) in [
        (State::Starting, 200, 503),
        (State::Recovering, 200, 503),
        (State::Ready, 200, 200),
        (State::Draining, 200, 503),
    ] {
        health.set(state);
        assert_eq!(
            (status("/health/live"), status("/health/ready")),
            (live, ready),
            "{state:?}"
        );
        assert_eq!(status("/health"), 200);
    }
    let report: Value = serde_json::from_str(&ask(&ops, "GET", "/health").1).unwrap();
    let wanted = json!({
        "state": "draining", "live": true, "ready": false,
        "reason": "stopping: finishing what is under way",
        "cores": 2, "cores_stalled": [], "degraded": false, "damage": null, "low_space": null,
        "version": env!("CARGO_PKG_VERSION"),
    });
    assert_eq!(report, wanted);
    ops.stop();
}

#[test]
fn a_node_that_takes_no_produce_says_why() {
    // Proves: little space is degraded and no reason to restart or to send clients elsewhere, and the report
    // names the directory, both numbers, the setting and when it ends.
    let health = Arc::new(Health::new(2));
    let ops = started(&health);
    health.set(State::Ready);
    let low_space = Some(LowSpace {
        directory: "/data".to_owned(),
        free_bytes: 7,
        min_free_bytes: 80,
        resume_bytes: 90,
    });
    let troubles = Troubles {
        low_space,
        ..Troubles::default()
    };
    health.set_troubles(1, troubles);
    let (status, body) = ask(&ops, "GET", "/health/ready");
    let report: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &report["degraded"]), (200, &json!(true)));
    let wanted =
        json!({"directory": "/data", "free_bytes": 7, "min_free_bytes": 80, "resume_bytes": 90});
    assert_eq!(report["low_space"], wanted);
    let reason = report["reason"].as_str().unwrap();
    for part in ["/data", "7 bytes", "storage.min_free_bytes=80", "at 90"] {
        assert!(reason.contains(part), "{part} is not in {reason}");
    }
}

#[test]
fn every_family_has_a_series_from_the_start() {
    // Proves: none is in the table only, and an alert on a rare one has a zero to compare with. The series of
    // APIs and codes but "other" come when they are first counted, those of a topic with the topic.
    let registry = Registry::new();
    let core = CoreMetrics::new(&registry, 0, 1);
    core.topics.begin(TopicId([1; 16]), "orders");
    let config = OpsConfig {
        admin_address: Some(([127, 0, 0, 1], 0).into()),
    };
    let handles = Handles {
        registry,
        health: Arc::new(Health::new(1)),
        log_lines_dropped: Some(Dropped::default()),
    };
    let ops = start(&config, handles).unwrap();
    let (_, body) = ask(&ops, "GET", "/metrics");
    for family in families::ALL {
        let is_series = |line: &str| {
            let rest = line.strip_prefix(family.name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']) || rest.starts_with("_count{"))
        };
        assert!(body.lines().any(is_series), "{}\n{body}", family.name);
    }
}

#[test]
fn metrics_are_served_as_text() {
    // Proves: what is registered is scraped, with the figures that only the ops thread knows.
    let ops = started(&Arc::new(Health::new(1)));
    let (status, body) = ask(&ops, "GET", "/metrics");
    assert_eq!(status, 200);
    for line in ["streambus_ready 0", "streambus_log_lines_dropped_total 0"] {
        assert!(
            body.lines().any(|known| known == line),
            "{line} is missing in\n{body}"
        );
    }
    assert!(body.contains("streambus_build_info{version="));
}

#[test]
fn wrong_requests_get_json_errors() {
    // Proves: an unknown address and a wrong method are told apart, in words, as JSON.
    let ops = started(&Arc::new(Health::new(1)));
    let (status, body) = ask(&ops, "GET", "/helth");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (404, Some("not_found"))
    );
    let (status, body) = ask(&ops, "POST", "/metrics");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (405, Some("method_not_allowed"))
    );
    assert_eq!(body["error"]["message"], "/metrics takes GET, not POST");
}

#[test]
fn a_busy_port_is_one_line_with_a_remedy() {
    // Proves: the second node on an admin port is told what to do, and nothing is left running.
    let ops = started(&Arc::new(Health::new(1)));
    let config = OpsConfig {
        admin_address: ops.admin_address(),
    };
    let handles = Handles {
        registry: Registry::new(),
        health: Arc::new(Health::new(1)),
        log_lines_dropped: None,
    };
    let error = start(&config, handles)
        .err()
        .expect("the port is taken")
        .to_string();
    let wanted = format!(
        "cannot listen on the admin address {}: address already in use; stop what listens there, \
         or set admin.address to another port (0 chooses a free one)",
        ops.admin_address().unwrap()
    );
    assert_eq!(error, wanted);
}

#[test]
fn a_stop_does_not_wait_for_idle_connections() {
    // Proves: a client that connects and says nothing holds nobody up; the port is free after.
    let ops = started(&Arc::new(Health::new(1)));
    let address = ops.admin_address().unwrap();
    let _silent = TcpStream::connect(address).unwrap();
    ask(&ops, "GET", "/health");
    let start = Instant::now();
    ops.stop();
    assert!(start.elapsed() < STOP_TIMEOUT * 2, "{:?}", start.elapsed());
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn without_an_address_nothing_listens() {
    // Proves: admin.enabled = false leaves a thread that still stops.
    let handles = Handles {
        registry: Registry::new(),
        health: Arc::new(Health::new(1)),
        log_lines_dropped: None,
    };
    let ops = super::start(
        &OpsConfig {
            admin_address: None,
        },
        handles,
    )
    .unwrap();
    assert_eq!(ops.admin_address(), None);
    ops.stop();
}
