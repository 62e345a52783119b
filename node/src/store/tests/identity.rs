use crate::error::Error;
use crate::store::{DataFolder, StoreId};
use std::fs;
use std::path::Path;

fn refusal(path: &Path, cluster: &str, node: u32) -> String {
    DataFolder::open(path, cluster, node).unwrap_err().to_string()
}

#[test]
fn a_folder_keeps_its_identity() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/data");
    let first = DataFolder::open(&path, "grid", 1).unwrap().identity().clone();
    assert_eq!(DataFolder::open(&path, "grid", 1).unwrap().identity(), &first);
    let other = DataFolder::open(&dir.path().join("other"), "grid", 1).unwrap();
    assert_ne!(other.identity().store, first.store);
}

#[test]
fn a_folder_of_another_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    DataFolder::open(dir.path(), "grid", 1).unwrap();
    assert!(refusal(dir.path(), "other", 1).contains("node 1 of cluster \"grid\", not to node 1 of cluster \"other\""));
    assert!(refusal(dir.path(), "grid", 2).contains("not to node 2"));
}

#[test]
fn a_folder_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let held = DataFolder::open(dir.path(), "grid", 1).unwrap();
    assert!(refusal(dir.path(), "grid", 1).contains("in use"));
    drop(held);
    DataFolder::open(dir.path(), "grid", 1).unwrap();
}

#[test]
fn a_folder_without_identity_must_be_empty() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("log")).unwrap();
    assert!(refusal(dir.path(), "grid", 1).contains("\"log\" but no IDENTITY"));
    fs::remove_dir(dir.path().join("log")).unwrap();
    fs::write(dir.path().join("node.toml"), "").unwrap();
    // A crash before the rename leaves this.
    fs::write(dir.path().join("IDENTITY.new"), "{").unwrap();
    DataFolder::open(dir.path(), "grid", 1).unwrap();
    assert!(!dir.path().join("IDENTITY.new").exists());
}

#[test]
fn a_file_in_the_way_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "").unwrap();
    assert!(refusal(&path, "grid", 1).contains("cannot be made"));
    fs::create_dir(dir.path().join("LOCK")).unwrap();
    assert!(refusal(dir.path(), "grid", 1).contains("not writable"));
}

#[test]
fn damage_and_newer_formats_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    DataFolder::open(dir.path(), "grid", 1).unwrap();
    let path = dir.path().join("IDENTITY");
    let intact = fs::read_to_string(&path).unwrap();
    for damaged in [intact.replace("\"grid\"", "\"grin\""), intact[..intact.len() / 2].to_owned(), String::new()] {
        fs::write(&path, damaged).unwrap();
        assert!(refusal(dir.path(), "grid", 1).contains("IDENTITY is damaged"));
    }
    let content = r#"{"format":9,"future":true}"#;
    let newer = format!(r#"{{"crc32c":{},"content":{content}}}"#, crc32c::crc32c(content.as_bytes()));
    fs::write(&path, newer).unwrap();
    let error = DataFolder::open(dir.path(), "grid", 1).unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 9, .. }), "{error}");
}

#[test]
fn a_node_that_comes_back_with_another_store_is_known_even_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(dir.path(), "grid", 1).unwrap();
    let (old, new) = (StoreId(7), StoreId(8));
    let seen = folder.seen().unwrap();
    seen.meet(2, old).unwrap();
    seen.meet(3, new).unwrap();
    seen.meet(2, old).unwrap();
    for seen in [seen, folder.seen().unwrap()] {
        let error = seen.meet(2, new).unwrap_err().to_string();
        assert!(error.contains("node 2") && error.contains("new number"), "{error}");
        seen.meet(3, new).unwrap();
    }
    fs::write(dir.path().join("SEEN"), "[]").unwrap();
    assert!(folder.seen().unwrap_err().to_string().contains("SEEN is damaged"));
}

#[test]
fn an_incarnation_comes_once() {
    let dir = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(dir.path(), "test", 1).unwrap();
    let incarnations = folder.incarnations().unwrap();
    assert!(!incarnations.is_new(1).unwrap(), "the founding one");
    assert!(incarnations.is_new(5).unwrap());
    assert!(!incarnations.is_new(5).unwrap());
    assert!(!folder.incarnations().unwrap().is_new(4).unwrap(), "kept on disk");
    assert!(folder.incarnations().unwrap().is_new(6).unwrap());
}

#[test]
fn a_folder_that_is_filled_is_a_nodes_only_when_all_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let fill = |content: fn(&Path) -> crate::error::Result<()>| DataFolder::fill(&path, "grid", 1, content);
    let failed = fill(|path| {
        fs::create_dir(path.join("log")).unwrap();
        assert!(refusal(path, "grid", 1).contains("in use"));
        Err(Error::Config(vec!["enough".into()]))
    });
    assert!(failed.unwrap_err().to_string().contains("enough"));
    // As after a crash: no start, and no second try on what is left.
    assert!(refusal(&path, "grid", 1).contains("a restore into it did not end"));
    let again = fill(|_| panic!("not called")).unwrap_err().to_string();
    assert!(again.contains("remove all that is in it"), "{again}");

    fs::remove_dir_all(&path).unwrap();
    let filled = fill(|path| {
        fs::create_dir(path.join("log")).unwrap();
        Ok(())
    });
    let identity = filled.unwrap().identity().clone();
    assert_eq!(DataFolder::open(&path, "grid", 1).unwrap().identity(), &identity);
    assert!(fill(|_| Ok(())).unwrap_err().to_string().contains("holds node 1 of cluster \"grid\""));
    let full = dir.path().join("full");
    fs::create_dir_all(full.join("things")).unwrap();
    assert!(DataFolder::fill(&full, "grid", 1, |_| Ok(())).unwrap_err().to_string().contains("things"));
}
