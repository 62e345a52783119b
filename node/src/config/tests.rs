use super::{Cli, Config};
use crate::error::Error;
use clap::Parser;
use std::path::PathBuf;

const GOOD: &str = r#"
cluster = "grid"
node = 2
data = "/data"
replicas = 1
[[members]]
node = 1
api = "127.0.0.1:1001"
peer = "127.0.0.1:1002"
http = "127.0.0.1:1003"
[[members]]
node = 2
api = "127.0.0.1:2001"
peer = "127.0.0.1:2002"
http = "127.0.0.1:2003"
zone = "b"
"#;

fn read(text: &str, flags: &[&str], env: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    std::fs::write(&path, text).unwrap();
    let args = ["moso-node", "--config", path.to_str().unwrap()];
    let cli = Cli::try_parse_from(args.iter().chain(flags)).unwrap();
    let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Config::read(&cli, env).map_err(|error| match error {
        Error::Config(errors) => errors,
        other => panic!("{other}"),
    })
}

/// The one mistake in a configuration that is good but for `line`, put before the members.
fn mistake(line: &str) -> String {
    let key = line.split([' ', '=']).next().unwrap();
    let kept: Vec<_> = GOOD.lines().take(6).filter(|known| !known.starts_with(&format!("{key} "))).collect();
    let members = GOOD.lines().skip(5).collect::<Vec<_>>().join("\n");
    let text = format!(
        "{}\n{line}\n{members}",
        kept[..kept.len() - usize::from(kept.last() == Some(&"[[members]]"))].join("\n")
    );
    let errors = read(&text, &[], &[]).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.into_iter().next().unwrap()
}

#[test]
fn a_short_file_is_enough() {
    let config = read(GOOD, &[], &[]).unwrap();
    assert_eq!((config.node, config.api.as_str(), config.peer.as_str()), (2, "127.0.0.1:2001", "127.0.0.1:2002"));
    assert_eq!(config.data, PathBuf::from("/data"));
    assert_eq!((config.shards, config.heartbeat_ticks), (64, 3));
    assert!((1..=8).contains(&config.reactors) && config.api_threads >= 1);
    assert_eq!(config.own_member().unwrap().zone, "b");
}

#[test]
fn what_is_printed_reads_as_the_same() {
    let config = read(GOOD, &[], &[]).unwrap();
    assert_eq!(read(&config.to_toml(), &[], &[]).unwrap(), config);
}

#[test]
fn flags_go_before_environment_before_file() {
    let env = [
        ("MOSO_NODE_NODE", "1"),
        ("MOSO_NODE_SHARDS", "8"),
        ("MOSO_NODE_CLUSTER", "12"),
        ("MOSO_NODE_LISTEN_ANYWHERE", "true"),
        ("MOSO_NODE_DATA", "/env"),
        ("MOSO_NODE_CONFIG", "ignored"),
        ("MOSO_NODE", "a program"),
        ("HOME", "/"),
    ];
    let config = read(GOOD, &["--data", "/flag", "--http", "0.0.0.0:80"], &env).unwrap();
    assert!(!config.insecure);
    assert_eq!((config.node, config.shards, config.cluster.as_str()), (1, 8, "12"));
    assert_eq!((config.data, config.http.as_str()), (PathBuf::from("/flag"), "0.0.0.0:80"));
    assert_eq!(config.api, "127.0.0.1:1001");
    let errors = read(GOOD, &[], &[("MOSO_NODE_SHARD", "8"), ("MOSO_NODE_RAFT_TICK_MS", "soon")]).unwrap_err();
    assert!(errors[0].starts_with("MOSO_NODE_SHARD: shard: unknown key"), "{errors:?}");
    assert_eq!(errors[1], r#"raft_tick_ms = "soon": must be a whole number from 10 to 10000 (ms)"#);
    assert!(read(GOOD, &[], &[("MOSO_NODE_MEMBERS", "[]")]).is_err());
}

#[test]
fn mistakes_name_key_value_range_and_unit() {
    assert_eq!(mistake("shards = 0"), "shards = 0: must be a whole number from 1 to 4095 (shards)");
    assert_eq!(mistake("shards = 4096"), "shards = 4096: must be a whole number from 1 to 4095 (shards)");
    assert_eq!(mistake("node = 65536"), "node = 65536: must be a whole number from 1 to 65535 (node number)");
    assert_eq!(mistake("node = 3"), "node = 3: is not among the members");
    assert_eq!(mistake("raft_tick_ms = 0.5"), "raft_tick_ms = 0.5: must be a whole number from 10 to 10000 (ms)");
    assert_eq!(mistake("raft_tick_us = 1"), "raft_tick_us: unknown key; raft_tick_ms is given in ms");
    assert_eq!(mistake("block_cache = 1"), "block_cache: unknown key; block_cache_mib is given in MiB");
    assert!(mistake("colour = 1").starts_with("colour: unknown key; known are cluster, data,"));
    assert_eq!(mistake("cluster = 5"), "cluster = 5: must be a text in quotes");
    assert!(mistake("cluster = \"a b\"").starts_with("cluster = \"a b\": must be 1 to 64 letters"));
    assert_eq!(mistake("listen_anywhere = 1"), "listen_anywhere = 1: must be true or false");
    assert_eq!(mistake("replicas = 2"), "replicas = 2: must be 1, 3 or 5 (replicas)");
    assert_eq!(mistake("replicas = 3"), "replicas = 3: must be at most the number of members, 2");
    assert!(mistake("heartbeat_ticks = 20").contains("must be less than election_ticks, 20 (ticks)"));
    assert_eq!(mistake("disk_low_mib = 63"), "disk_low_mib = 63: must be at least reserve_mib, 64 (MiB)");
    assert_eq!(mistake("disk_stuck_ms = 99"), "disk_stuck_ms = 99: must be a whole number from 100 to 50000 (ms)");
    assert!(mistake("state_write_buffer_mib = 100").contains("at least twice"));
    assert!(mistake("insecure = true\napi = \"0.0.0.0:1\"").contains("give certificates instead"));
    assert!(read(&GOOD.replacen("node = 2", "node = 2\napi = \"0.0.0.0:1\"", 1), &[], &[]).is_ok());
    assert!(mistake("api = \"host:1\"").starts_with("api = \"host:1\": must be an IP address and a port"));
}

#[test]
fn members_are_checked() {
    let with = |from: &str, to: &str| read(&GOOD.replacen(from, to, 1), &[], &[]).unwrap_err().join("\n");
    assert_eq!(with("[[members]]\nnode = 1", "[[members]]\nnode = 2"), "members: node = 2 is given twice");
    assert!(with("[[members]]\nnode = 1", "[[members]]\nnode = 0").contains("from 1 to 65535"));
    assert!(with("127.0.0.1:1002", "127.0.0.1:2002").contains("is the peer address of node 1"));
    assert!(with("127.0.0.1:1002", "nowhere").contains("must be host:port"));
    assert!(with("127.0.0.1:1002", "host:0").contains("must be host:port"));
    assert!(with("zone", "zoo").contains("number 2: zoo: unknown key"));
    assert!(with("http = \"127.0.0.1:1003\"", "").contains("number 1: http is missing"));
    let errors = read("", &[], &[]).unwrap_err();
    assert!(errors.iter().any(|error| error.starts_with("members: 1 to")), "{errors:?}");
    assert_eq!(errors.iter().filter(|error| error.ends_with("must be given")).count(), 3, "{errors:?}");
    assert!(read("members = 3", &[], &[]).unwrap_err()[0].contains("[[members]] tables"));
    assert!(read("node = ", &[], &[]).unwrap_err()[0].contains("node.toml"));
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = GOOD.replace("replicas = 1", "replicas = 9\nshards = -1\nfoo = 1");
    assert_eq!(read(&text, &[], &[]).unwrap_err().len(), 3);
}

#[test]
fn a_folder_can_be_looked_at_without_a_configuration() {
    let parse = |args: &[&str]| Cli::try_parse_from(["moso-node"].iter().chain(args));
    assert!(parse(&["verify", "/a", "/b"]).unwrap().offline.is_some());
    assert!(parse(&["dump", "/a", "--shard", "3", "--log", "--from", "5", "--json"]).unwrap().offline.is_some());
    assert!(parse(&["verify"]).is_err() && parse(&[]).is_err());
    assert!(parse(&["--config", "f", "verify", "/a"]).is_err());
}

#[test]
fn a_missing_file_is_named() {
    let cli = Cli { config: Some(PathBuf::from("/nowhere/node.toml")), ..Cli::default() };
    let error = Config::read(&cli, []).unwrap_err().to_string();
    assert!(error.contains("/nowhere/node.toml"), "{error}");
}
