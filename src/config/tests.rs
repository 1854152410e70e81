use super::*;

fn file(text: &str) -> Sources {
    Sources {
        file: Some(SettingsFile {
            path: "streambus.toml".to_owned(),
            text: text.to_owned(),
        }),
        ..Sources::default()
    }
}

fn variable(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn flag(flag: &str, path: &str, value: &str) -> FlagSetting {
    FlagSetting {
        flag: flag.to_owned(),
        path: path.to_owned(),
        value: value.to_owned(),
    }
}

fn error_of(sources: &Sources) -> String {
    let error = Config::load(sources)
        .expect_err("the sources are wrong")
        .to_string();
    assert!(!error.contains('\n'), "more than one line: {error}");
    error
}

#[test]
fn no_source_gives_the_defaults() {
    // Proves: defaults pass every bound and relation, and an empty environment changes nothing.
    let loaded = Config::load(&Sources::default()).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.origin("node.id"), Origin::Default);
}

#[test]
fn a_later_source_wins_and_is_remembered() {
    // Proves: flags come before variables, variables before the file, each with its origin.
    let mut sources = file("[node]\nid = 1\ncores = 3\nrack = \"a\"\n");
    sources.variables = vec![
        variable("STREAMBUS_NODE__ID", "2"),
        variable("STREAMBUS_NODE__CORES", "1_2"),
        variable("STREAMBUS_PORT", "tcp://10.0.0.1:9092"),
        variable("STREAMBUS_CONFIG", "elsewhere.toml"),
    ];
    sources.flags = vec![flag("--node-id", "node.id", "3")];
    let loaded = Config::load(&sources).unwrap();
    assert_eq!(loaded.config.node.id, 3);
    assert_eq!(loaded.config.node.cores, 12);
    assert_eq!(loaded.config.node.rack.as_deref(), Some("a"));
    assert_eq!(loaded.origin("node.id").to_string(), "flag --node-id");
    assert_eq!(
        loaded.origin("node.cores").to_string(),
        "variable STREAMBUS_NODE__CORES"
    );
    assert_eq!(loaded.origin("node.rack").to_string(), "streambus.toml:4");
    assert_eq!(loaded.origin("node.pin").to_string(), "default");
}

#[test]
fn wrong_settings_are_refused_in_one_line() {
    // Proves: each kind of mistake names the setting, the value, the place and the remedy.
    let from_variable = Sources {
        variables: vec![variable("STREAMBUS_STORAGE__WAL_FILE_BYTE", "1")],
        ..Sources::default()
    };
    let from_flag = Sources {
        flags: vec![flag("--set", "limits.connections_max", "many")],
        ..Sources::default()
    };
    let cases = [
        (
            file("[storage]\nwal_file_byte = 1\n"),
            "unknown setting storage.wal_file_byte (streambus.toml:2): did you mean \
             storage.wal_file_bytes?",
        ),
        (
            from_variable,
            "unknown setting storage.wal_file_byte (variable STREAMBUS_STORAGE__WAL_FILE_BYTE): \
             did you mean storage.wal_file_bytes?",
        ),
        (
            file("port = 9192\n"),
            "unknown setting port (streambus.toml:1): did you mean listeners.main.port?",
        ),
        (
            file("[listeners.public]\nprot = 9192\n"),
            "unknown setting listeners.public.prot (streambus.toml:2): did you mean \
             listeners.public.port?",
        ),
        (
            file("[zebra]\nstripes = 9\n"),
            "unknown setting zebra.stripes (streambus.toml:2): `streambus config show` lists all \
             settings",
        ),
        (
            from_flag,
            "limits.connections_max = many (flag --set) is refused: it must be a whole number \
             from 1 to 1000000",
        ),
        (
            file("\n[node]\nid = 1000\n"),
            "node.id = 1000 (streambus.toml:3) is refused: it must be a whole number from 0 to 999",
        ),
        (
            file("[storage]\nsync = \"never\"\n"),
            "storage.sync = \"never\" (streambus.toml:2) is refused: it must be one of dsync \
             fdatasync",
        ),
        (
            file("[listeners.main]\nport = \"9092\"\n"),
            "listeners.main.port = \"9092\" (streambus.toml:2) is refused: it must be a whole \
             number from 0 to 65535",
        ),
        (
            file("[data]\ndir = \"\"\n"),
            "data.dir = \"\" (streambus.toml:2) is refused: it must be a text of 1 to 4096 bytes \
             without control characters",
        ),
        (
            file("[node]\nid = 1.5\n"),
            "node.id = of type float (streambus.toml:2) is refused: it must be a whole number \
             from 0 to 999",
        ),
    ];
    for (sources, wanted) in cases {
        assert_eq!(error_of(&sources), wanted);
    }
}

#[test]
fn a_section_that_sets_nothing_is_refused_if_nothing_knows_it() {
    // Proves: a misspelt name tells of itself also where no setting stands under it.
    let cases = [
        (
            file("[storag]\n"),
            "unknown setting storag (streambus.toml:1): did you mean storage?",
        ),
        (
            file("[node]\n[node.zebra]\n"),
            "unknown setting node.zebra (streambus.toml:2): `streambus config show` lists all \
             settings",
        ),
        (
            file("[data]\ndir = {}\n"),
            "data.dir = of type table (streambus.toml:2) is refused: it must be a text of 1 to 4096 bytes \
             without control characters",
        ),
    ];
    for (sources, wanted) in cases {
        assert_eq!(error_of(&sources), wanted);
    }
}

#[test]
fn broken_toml_is_refused_with_its_line() {
    // Proves: a syntax error names file and line and stays on one line.
    let error = error_of(&file("[node]\nid = = 1\n"));
    assert!(
        error.starts_with("settings at streambus.toml:2 are not TOML: "),
        "{error}"
    );
}

#[test]
fn settings_that_exclude_one_another_are_refused() {
    // Proves: relations between settings are checked, with both values and both origins.
    let cases = [
        (
            "[limits]\nrequest_bytes_max = 200_000_000\n",
            "limits.request_bytes_max = 200000000 (streambus.toml:2) may not be larger than \
             limits.in_flight_bytes_per_connection_max = 134217728 (default)",
        ),
        (
            "[storage]\nblock_bytes = 5_000\n",
            "storage.block_bytes = 5000: it must be a multiple of 4096 up to 1 MiB",
        ),
        (
            "[storage]\nwal_file_bytes = 8_388_608\nwal_files_max = 3\n",
            "storage.memtable_bytes = 67108864: it must be from 1 to wal_file_bytes × (wal_files_max − 2), which is 8388608",
        ),
        (
            "[listeners.a]\nport = 9092\n[listeners.b]\nport = 10092\n",
            "core 0 of listeners.a and listeners.b.port both want port 10092",
        ),
        (
            "[listeners.A]\nport = 9092\n",
            "listener name \"A\" must be 1 to 32 of a-z, 0-9, - and _ (streambus.toml:2)",
        ),
        (
            "[listeners.main]\nadvertised_host = \"0.0.0.0\"\n",
            "listeners.main.advertised_host = \"0.0.0.0\" (streambus.toml:2) is refused: it must \
             be an address that clients can connect to; unset, it is the one they connected to",
        ),
        (
            "[node]\ncores = 8\n[listeners.main]\nport = 65000\ncore_port_first = 65530\n",
            "listeners.main.core_port_first = 65530 (streambus.toml:5) is refused: it must be low \
             enough that the last core's port is below 65536",
        ),
        (
            "[admin]\naddress = \"localhost\"\n",
            "admin.address = \"localhost\" (streambus.toml:2) is refused: it must be an IP address \
             and port such as 127.0.0.1:9644 or [::1]:9644",
        ),
    ];
    for (text, wanted) in cases {
        assert_eq!(error_of(&file(text)), wanted);
    }
}

#[test]
fn a_host_that_no_client_can_use_is_not_advertised() {
    // Proves: names and addresses are taken, and anything else is refused with what is wrong with it.
    let advertised = |host: &str| {
        let text = format!("[listeners.main]\nadvertised_host = {host:?}\n");
        Config::load(&file(&text)).map_err(|error| error.to_string())
    };
    let long = "a".repeat(64);
    for host in [
        "broker-1.example.com",
        "broker_1",
        "localhost",
        "a.",
        "10.0.0.7",
        "2001:db8::1",
        "BROKER",
    ] {
        assert!(advertised(host).is_ok(), "{host}");
    }
    for (host, reason) in [
        ("bad host", "it has ' '"),
        ("broker:9092", "it has ':'"),
        ("http://broker", "it has ':'"),
        ("[2001:db8::1]", "it has '['"),
        ("bröker", "it has 'ö'"),
        ("a..b", "not \"\""),
        (".", "not \"\""),
        ("-a.b", "\"-a\" begins or ends with -"),
        (&long, "between dots are 1 to 63 letters"),
        ("::", "an address that clients can connect to"),
    ] {
        let error = advertised(host).err().unwrap_or_default();
        let start =
            format!("listeners.main.advertised_host = {host:?} (streambus.toml:2) is refused");
        assert!(
            error.starts_with(&start) && error.contains(reason),
            "{host}: {error}"
        );
    }
}

#[test]
fn a_level_that_is_none_is_refused_wherever_it_comes_from() {
    // Proves: the file, the environment and flags are held to the same rule, and the refusal names the source.
    let level = "inof";
    let from_variable = Sources {
        variables: vec![variable("STREAMBUS_LOG__LEVEL", level)],
        ..Sources::default()
    };
    let from_flag = Sources {
        flags: vec![flag("--log-level", "log.level", level)],
        ..Sources::default()
    };
    for (sources, origin) in [
        (file("[log]\nlevel = \"inof\"\n"), "streambus.toml:2"),
        (from_variable, "variable STREAMBUS_LOG__LEVEL"),
        (from_flag, "flag --log-level"),
    ] {
        let expected = format!(
            "log.level = \"inof\" ({origin}) is refused: it must be error, warn, info, debug, trace or off, or a \
             list such as info,streambus_storage=debug; \"inof\" is no level and no part of the program"
        );
        assert_eq!(error_of(&sources), expected);
    }
}

#[test]
fn listeners_replace_the_default_one() {
    // Proves: naming a listener removes the default, and each gets its own ports by the rule.
    let loaded = Config::load(&file(
        "[listeners.inside]\nport = 9192\n[listeners.outside]\nport = 0\nadvertise = \"node\"\n\
         [listeners.fixed]\nport = 9392\ncore_port_first = 9400\nadvertised_port = 19092\n",
    ))
    .unwrap();
    let names: Vec<_> = loaded.config.listeners.keys().map(String::as_str).collect();
    assert_eq!(names, ["fixed", "inside", "outside"]);
    let listeners = &loaded.config.listeners;
    assert_eq!(listeners["inside"].core_port(2), Some(10_194));
    assert_eq!(listeners["outside"].core_port(2), Some(0));
    assert_eq!(listeners["fixed"].core_port(2), Some(9_402));
    assert_eq!(listeners["fixed"].advertised_core_port(2), Some(20_094));
    assert_eq!(listeners["inside"].advertised_core_port(2), None);
    let empty = Config::load(&file("[storage]\n[listeners.inside]\n[listeners]\n")).unwrap();
    let names: Vec<_> = empty.config.listeners.keys().map(String::as_str).collect();
    assert_eq!(names, ["inside"], "one that sets nothing is one, too");
    let high = ListenerConfig {
        port: 65_000,
        ..ListenerConfig::default()
    };
    assert_eq!(high.core_port(0), None);
}

#[test]
fn the_shown_file_reads_back_as_the_same_settings() {
    // Proves: what `config show` prints is a settings file, for odd values too.
    let mut config = Config::default();
    config.node.rack = Some("a \"quoted\" \\ rack".to_owned());
    config.listeners.insert(
        "second".to_owned(),
        ListenerConfig {
            port: 9_999,
            advertise: Advertise::Node,
            ..ListenerConfig::default()
        },
    );
    config.topics.cleanup_policy = CleanupPolicy::CompactDelete;
    config.storage.sync = SyncMode::Dsync;
    for config in [Config::default(), config] {
        let text = config.to_toml();
        assert_eq!(Config::load(&file(&text)).unwrap().config, config, "{text}");
    }
}

#[test]
fn the_shown_file_says_what_each_setting_means() {
    // Proves: documentation, bound and value stand together (golden).
    let text = Config::default().to_toml();
    let start = "# StreamBus settings. A variable STREAMBUS_SECTION__KEY comes before this file,\n\
         # a flag before both.\n\
         \n[node]\n\
         # This node's number in its cluster. Its cores are the Kafka brokers id x 1000 + core.\n\
         # A value from 0 to 999.\n\
         id = 0\n";
    assert_eq!(text.get(..start.len()), Some(start));
    assert!(
        text.contains("\n# rack =\n"),
        "an unset setting is shown too"
    );
}

#[test]
fn origins_are_shown_in_columns() {
    // Proves: `config show --origin` names the place of every value (golden of two lines).
    let loaded = Config::load(&file("[node]\nid = 7\n")).unwrap();
    let text = loaded.to_text_with_origins();
    let mut lines = text.lines();
    let trimmed = |line: Option<&str>| {
        line.unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(trimmed(lines.next()), "node.id = 7 # streambus.toml:2");
    assert_eq!(trimmed(lines.next()), "node.cluster_id = unset # default");
    assert_eq!(loaded.shown().len(), text.lines().count());
}

#[test]
fn lanes_share_a_part_of_the_descriptors() {
    // Proves how many files of tables a lane keeps open, with and without a setting of it.
    let settled = |set: Option<usize>, lanes, open_files| {
        let mut storage = StorageConfig {
            table_files_max: set,
            ..StorageConfig::default()
        };
        storage.settle(lanes, || 1 << 30, || open_files);
        storage.lane().table_files_max
    };
    let cases = [
        (None, 4, 65_536, 2_048),
        (None, 1, 256, 32),
        (None, 64, 256, 2),
        (None, 1, u64::MAX, 4_096),
        (Some(7), 4, 65_536, 7),
    ];
    for (set, lanes, open_files, expected) in cases {
        assert_eq!(
            settled(set, lanes, open_files),
            expected,
            "{set:?} {lanes} {open_files}"
        );
    }
}
