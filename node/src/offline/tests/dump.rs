use super::{ENTRIES, folder};
use crate::offline::dump::{DumpOptions, dump};
use serde_json::Value;
use std::path::Path;

fn lines(path: &Path, options: DumpOptions) -> Vec<String> {
    let mut out = Vec::new();
    assert!(dump(path, &options, &mut out).unwrap());
    String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
}

fn whole() -> DumpOptions {
    DumpOptions { to: u64::MAX, ..DumpOptions::default() }
}

#[test]
fn everything_is_printed_once_and_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = folder(dir.path(), 1, ENTRIES);
    let json = lines(&path, DumpOptions { json: true, ..whole() });
    let values: Vec<Value> = json.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |what: &str| values.iter().filter(|value| value["what"] == what).count();
    let kinds = ["entry", "job", "task", "class", "session", "body", "ended_job", "submission", "replica", "error"];
    assert_eq!(kinds.map(count), [60, 20, 20, 1, 1, 20, 20, 20, 1, 0]);
    let entry = values.iter().find(|value| value["what"] == "entry" && value["index"] == 2).unwrap();
    assert_eq!(entry["commands"][0]["lease"], serde_json::json!([2, 3]));
    assert_eq!(lines(&path, whole()).len(), json.len());
}

#[test]
fn a_part_can_be_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = folder(dir.path(), 1, ENTRIES);
    let log = lines(&path, DumpOptions { log: true, from: 58, to: 59, ..whole() });
    assert_eq!(log.len(), 3, "{log:?}");
    assert!(log[0].starts_with("log shard=1 first=1 last=60 "), "{log:?}");
    assert!(log[1].starts_with("entry shard=1 index=58 term=3 "), "{log:?}");
    let state = lines(&path, DumpOptions { state: true, ..whole() });
    assert!(state.iter().all(|line| !line.starts_with("entry")), "{state:?}");
    assert!(state.iter().any(|line| line.starts_with("job shard=1 seq=3 task=1 state=")), "{state:?}");
    assert!(lines(&path, DumpOptions { shard: Some(2), ..whole() }).is_empty());
}
