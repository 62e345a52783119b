//! The cluster with a script in the place of the node program.

use super::*;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

/// Writes a program that gets the configuration as `$2`.
fn program(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("fake-node");
    let mut file = std::fs::File::create(&path).unwrap();
    write!(file, "#!/bin/sh\n{script}\n").unwrap();
    drop(file);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn options(folder: &Path, script: &str) -> LocalOptions {
    LocalOptions {
        data: Some(folder.join("data")),
        binary: Some(program(folder, script)),
        ready_timeout: Duration::from_millis(300),
        ..LocalOptions::default()
    }
}

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_node_that_dies_shows_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), "echo \"bad disk at $2\" >&2; exit 3");
    let Err(error) = LocalCluster::start(options).await else {
        panic!("started");
    };
    let text = error.to_string();
    assert!(matches!(error, LocalError::Died { .. }), "{text}");
    assert!(text.contains("bad disk at") && text.contains("node-"), "{text}");
}

#[tokio::test]
async fn a_node_that_hangs_is_given_up_and_killed() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("echo $$ >> {}/pids; exec sleep 600", folder.path().display());
    let Err(error) = LocalCluster::start(options(folder.path(), &script)).await else {
        panic!("started");
    };
    assert!(matches!(error, LocalError::NotReady { .. }), "{error}");
    let pids = std::fs::read_to_string(folder.path().join("pids")).unwrap_or_default();
    assert!(pids.lines().all(|pid| !exists(pid.parse().unwrap())));
}

#[tokio::test]
async fn a_port_taken_by_another_is_chosen_again() {
    let folder = tempfile::tempdir().unwrap();
    let script =
        format!("echo run >> {}/runs; echo 'Address already in use (os error 98)'; exit 1", folder.path().display());
    let options = LocalOptions { nodes: 1, ..options(folder.path(), &script) };
    assert!(LocalCluster::start(options).await.is_err());
    let runs = std::fs::read_to_string(folder.path().join("runs")).unwrap();
    assert_eq!(runs.lines().count(), STARTS_MAX as usize);
    assert!(!folder.path().join("data/cluster.toml").exists());
}

#[tokio::test]
async fn nodes_are_killed_stopped_paused_and_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster {
        processes: (0..3).map(|_| None).collect(),
        record: Record::new("test", 3, 6, 3, false).unwrap(),
        options: LocalOptions::default(),
        credentials: None,
        binary: program(folder.path(), "trap 'exit 0' TERM; while :; do sleep 0.01; done"),
        folder: folder.path().to_owned(),
        _temporary: None,
    };
    for node in 1..=3 {
        cluster.start_node(node).unwrap();
    }
    let first = cluster.pid(1).unwrap();
    cluster.kill(1).unwrap();
    assert!(!exists(first) && cluster.pid(1).is_none());
    assert!(matches!(cluster.kill(1), Err(LocalError::NoNode(1))));
    assert!(matches!(cluster.pause(4), Err(LocalError::NoNode(4))));
    cluster.start_node(1).unwrap();
    let (again, second, third) = (cluster.pid(1).unwrap(), cluster.pid(2).unwrap(), cluster.pid(3).unwrap());
    // The shell is paused before or after it has set its trap; both ends are ends.
    cluster.pause(2).unwrap();
    cluster.stop_node(2).await.unwrap();
    assert!(!exists(second));
    cluster.check().unwrap();
    drop(cluster);
    assert!(!exists(again) && !exists(third));
}

#[tokio::test]
async fn a_folder_keeps_its_shape() {
    let folder = tempfile::tempdir().unwrap();
    let record = Record::new("test", 3, 6, 3, false).unwrap();
    record.write(folder.path(), &Plain, None).unwrap();
    let same = LocalOptions::default();
    assert_eq!(matching(record.clone(), &same, folder.path()).unwrap(), record);
    let other = LocalOptions { shards: 7, ..LocalOptions::default() };
    assert!(matching(record, &other, folder.path()).is_err());
    for bad in [(0, 6, None), (3, 0, None), (3, 5000, None), (2, 6, Some(3))] {
        let options = LocalOptions { nodes: bad.0, shards: bad.1, replicas: bad.2, ..LocalOptions::default() };
        assert!(matches!(new_record(&options), Err(LocalError::Options(_))), "{bad:?}");
    }
}

#[test]
fn a_missing_program_is_named() {
    let error = find_binary(Some(Path::new("/nowhere/moso-node"))).unwrap_err();
    assert!(error.to_string().contains("/nowhere/moso-node"));
}
