//! Files that a node or the bench reads at its start.

use super::input::{Input, put_piece};
use super::reached::{self, reached, result};
use super::seeds_of;
use super::store::shared_memory;
use crate::samples::files::{CONFIG, identity as sample_identity, open, read_config, sealed};
use moso_bench::swf;
use moso_node::error::Error;

/// A data folder's `IDENTITY` and `SEEN`, as they are or with a right checksum around any JSON. They are refused, or the
/// folder is the one that was asked for.
pub(super) fn identity(data: &[u8]) {
    let mut input = Input(data);
    let as_it_is = input.u8().is_multiple_of(2);
    let (first, second) = (input.piece(), input.piece());
    let file = |bytes: &[u8]| match serde_json::from_slice(bytes) {
        Ok(content) if !as_it_is => sealed(&content),
        _ => bytes.to_vec(),
    };
    let dir = tempfile::tempdir_in(shared_memory()).expect("a folder for the test");
    let opened = open(dir.path(), &file(first), (!second.is_empty()).then(|| file(second)).as_deref());
    if let Err(error) = &opened {
        assert!(matches!(error, Error::Folder { .. } | Error::NewerFormat { .. }), "{error}");
        reached::text(error.to_string().replace(&dir.path().display().to_string(), ""));
    }
    if let Ok(text) = opened {
        assert!(text.contains("cluster: \"sample\"") && text.contains("node: 1"), "{text}");
        reached("opened");
    }
}

pub(super) fn identity_seeds() -> Vec<Vec<u8>> {
    let stores = r#"{"format":3,"stores":{"2":"00000000000000000000000000000002"}}"#;
    let content = sample_identity();
    let mut seeds = Vec::new();
    for (kind, first) in [(0, sealed(&content)), (1, content.to_string().into_bytes())] {
        for second in [Vec::new(), stores.into(), sealed(&serde_json::from_str(stores).expect("JSON"))] {
            let mut seed = vec![kind];
            put_piece(&mut seed, &first);
            put_piece(&mut seed, &second);
            seeds.push(seed);
        }
    }
    seeds
}

/// A configuration. Every mistake is named, or it is in force, and then what is printed of it is the same one.
pub(super) fn config(data: &[u8]) {
    let dir = tempfile::tempdir_in(shared_memory()).expect("a folder for the test");
    match read_config(dir.path(), data) {
        Ok(config) => {
            reached("ok");
            let again = read_config(dir.path(), config.to_toml().as_bytes());
            assert_eq!(again.expect("a configuration that was printed is read"), config);
        }
        Err(Error::Config(errors)) => {
            assert!(!errors.is_empty());
            let texts = errors.iter().map(|error| error.replace(&dir.path().display().to_string(), ""));
            texts.for_each(|text| reached::text(text.split('=').next().unwrap_or("")));
        }
        // No text.
        Err(Error::Io { .. }) => reached("unreadable"),
        Err(other) => panic!("{other}"),
    }
}

pub(super) fn config_seeds() -> Vec<Vec<u8>> {
    let mut seeds = seeds_of(&["file"]);
    seeds.push(CONFIG.split("\n\n").next().expect("the keys").into());
    seeds
}

/// A trace in the Standard Workload Format: it is refused, or its records are in order and name sites that there are.
pub(super) fn trace(data: &[u8]) {
    let Some(trace) = result(swf::read("fuzz", data)) else { return };
    let workload = &trace.workload;
    assert!(!workload.records.is_empty() && workload.records[0].submit_s == 0);
    assert!(workload.records.is_sorted_by_key(|record| record.submit_s));
    assert!(workload.records.iter().all(|record| usize::from(record.site) < workload.sites.len()));
    let good = |name: &String| !name.is_empty() && name.len() <= 128;
    assert!(workload.sites.iter().all(good), "{:?}", workload.sites);
    let distinct: std::collections::BTreeSet<_> = workload.sites.iter().collect();
    assert_eq!(distinct.len(), workload.sites.len(), "two sites have one name: {:?}", workload.sites);
    let _ = (workload.quiet_s(), workload.span_s(), workload.per_site());
    reached(workload.records.len().min(9));
    reached(workload.sites.len().min(9));
    reached(trace.broken.lines.min(9));
}

pub(super) fn trace_seeds() -> Vec<Vec<u8>> {
    let head = "; Version: 2.2\n; Partition:  1 grid.ici.ro   \n; Partition: 2 a b\n; Partition: 3 a/b\n;\n";
    let job = |site: &str| format!("1 7 -1 83 1 -1 -1 -1 1200 -1 -1 3 4 -1 -1 {site} -1 -1\n");
    let (one, two, three) = (job("1"), job("2"), job("3"));
    vec![
        format!("{head}{one}{two}{three}{two}").into(),
        format!("{head}{}1 2 3\n", one.repeat(120)).into(),
        format!("{one}2 5 -1 10.7 1 -1 -1 -1 -1 -1 0 -1 -1 -1 -1 9 -1 -1\n\n").into(),
    ]
}
