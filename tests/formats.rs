//! What each released version stored and sent is read by this one, and what this one writes is what the newest version of
//! the formats says. `tests/README.md` tells how a version is added.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use moso_queue::codec::Put;
use moso_tests::samples::{self, Sample};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Bytes on a line.
const LINE_BYTES: usize = 24;
/// Runs of one byte of at least this length are written as such.
const RUN_BYTES_MIN: usize = 2 * LINE_BYTES;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("formats")
}

/// The folders, oldest first: `v0.1`, ….
fn versions() -> Vec<(u32, u32, PathBuf)> {
    let mut versions = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let parts = name.strip_prefix('v').and_then(|version| version.split_once('.'));
        let (major, minor) = parts.unwrap_or_else(|| panic!("{name} is not named as a version"));
        versions.push((major.parse().unwrap(), minor.parse().unwrap(), path));
    }
    versions.sort();
    versions
}

/// A file's content: bytes in hexadecimal, a line `00 * 4096` for a run; an empty line; the values.
fn write(bytes: &[u8], text: &str) -> String {
    let (mut out, mut at) = (String::new(), 0);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let run = rest.iter().take_while(|byte| **byte == rest[0]).count();
        if run >= RUN_BYTES_MIN {
            writeln!(out, "{:02x} * {run}", rest[0]).unwrap();
            at += run;
            continue;
        }
        // Up to the next run.
        let line = &rest[..rest.len().min(LINE_BYTES)];
        let until = (1..line.len()).find(|&from| {
            rest[from..].len() >= RUN_BYTES_MIN && rest[from..][..RUN_BYTES_MIN].iter().all(|byte| *byte == rest[from])
        });
        let line = &line[..until.unwrap_or(line.len())];
        let words: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{}", words.join(" ")).unwrap();
        at += line.len();
    }
    format!("{out}\n{text}")
}

/// Bytes and values of a file.
fn parse(content: &str) -> (Vec<u8>, &str) {
    let (hex, text) = content.strip_prefix('\n').map_or_else(|| content.split_once("\n\n").unwrap(), |text| ("", text));
    let byte = |word: &str| u8::from_str_radix(word, 16).unwrap();
    let mut bytes = Vec::new();
    for line in hex.lines() {
        match line.split_once(" * ") {
            Some((word, count)) => bytes.resize(bytes.len() + count.parse::<usize>().unwrap(), byte(word)),
            None => bytes.extend(line.split(' ').map(byte)),
        }
    }
    (bytes, text)
}

/// The files of a version, by the name of the sample.
fn files(version: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for kind in std::fs::read_dir(version).unwrap() {
        let kind = kind.unwrap().path();
        for file in std::fs::read_dir(&kind).unwrap() {
            let file = file.unwrap().path();
            let part = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
            let name = format!("{}/{}", part(&kind), part(&file));
            files.insert(name, std::fs::read_to_string(&file).unwrap());
        }
    }
    files
}

/// The lines of `old` stand in `new`, in their order: fields may have been added since, none may be gone or mean
/// something else.
fn is_part(old: &str, new: &str) -> bool {
    let mut lines = new.lines();
    old.lines().all(|wanted| lines.any(|line| line == wanted))
}

#[test]
fn what_each_version_wrote_is_read() {
    let versions = versions();
    assert!(!versions.is_empty());
    for (major, minor, path) in versions {
        let files = files(&path);
        assert!(files.len() > 100, "v{major}.{minor} has {} files only", files.len());
        for (name, content) in files {
            let (bytes, text) = parse(&content);
            let value = samples::read(&name, &bytes).unwrap_or_else(|error| panic!("v{major}.{minor} {name}: {error}"));
            assert!(
                is_part(text, &value.text),
                "v{major}.{minor} {name} is read as something else:\n{}\ninstead of\n{text}",
                value.text
            );
        }
    }
}

#[test]
fn what_is_written_is_the_newest_version() {
    let (major, minor, path) = versions().pop().unwrap();
    let files = files(&path);
    let samples = samples::all();
    let names: BTreeSet<&str> = samples.iter().map(|sample| sample.name.as_str()).collect();
    assert_eq!(names.len(), samples.len(), "two samples have one name");
    for sample in &samples {
        let why = format!(
            "{} is written in another way than v{major}.{minor} did: its format needs a new version number, and the \
             formats a new folder; see README.md",
            sample.name
        );
        let content = files.get(&sample.name).unwrap_or_else(|| panic!("{why}: there is no file for it"));
        let value = samples::read(&sample.name, &sample.bytes).unwrap();
        assert_eq!(write(&sample.bytes, &value.text), *content, "{why}");
        // What was read is written as the same.
        assert!(value.bytes.is_none_or(|bytes| bytes == sample.bytes), "{} is written in two ways", sample.name);
    }
    let gone: Vec<&String> = files.keys().filter(|name| !names.contains(name.as_str())).collect();
    assert!(gone.is_empty(), "{gone:?} are not written any more");
}

/// Writes the folder of this version. What is there already is not written over: a released version never changes.
#[test]
#[ignore = "writes into the repository"]
fn write_the_folder_of_this_version() {
    let version: Vec<&str> = env!("CARGO_PKG_VERSION").split('.').collect();
    let folder = folder().join(format!("v{}.{}", version[0], version[1]));
    for Sample { name, bytes } in samples::all() {
        let value = samples::read(&name, &bytes).unwrap();
        let (path, content) = (folder.join(format!("{name}.txt")), write(&bytes, &value.text));
        match std::fs::read_to_string(&path) {
            Ok(there) if there == content => {}
            Ok(_) => panic!("{} differs: remove it, unless that version was released", path.display()),
            Err(_) => {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, content).unwrap();
            }
        }
    }
}

fn sample(name: &str) -> Vec<u8> {
    let all = samples::all();
    all.into_iter().find(|sample| sample.name == name).unwrap_or_else(|| panic!("no sample {name}")).bytes
}

/// A sample with one byte, its format's number, raised.
fn newer(name: &str, at: usize) -> Vec<u8> {
    let mut bytes = sample(name);
    bytes[at] += 1;
    bytes
}

#[track_caller]
fn refused(name: &str, bytes: &[u8], word: &str) {
    let error = samples::read(name, bytes).expect_err(name);
    assert!(error.contains(word), "{name}: {error:?} does not say {word:?}");
}

#[test]
fn newer_records_and_entries_are_refused_as_such() {
    refused("entry/all", &newer("entry/all", 0), "format 2, this program reads up to 1: upgrade");
    refused("record/job", &newer("record/job", 0), "format 3, this program reads up to 2: upgrade");
    refused("record/task", &newer("record/task", 0), "format 2, this program reads up to 1: upgrade");
    refused("record/ended_job", &newer("record/ended_job", 0), "format 3, this program reads up to 2: upgrade");
    // Behind the length of the task's part.
    refused("record/ended_task", &newer("record/ended_task", 4), "format 2, this program reads up to 1: upgrade");
    refused("meta/command-put_queue", &newer("meta/command-put_queue", 0), "version 2, this program knows 1");
    // Behind the lengths of key and value, and the key of one byte.
    refused("meta/records", &newer("meta/records", 2 + 1 + 4), "version 2");
}

#[test]
fn newer_values_and_messages_are_refused_as_such() {
    for name in ["raft/message-append", "raft/entry", "raft/hard_state", "raft/conf_state"] {
        refused(name, &newer(name, 0), "version");
    }
    for name in ["store/entry-normal", "store/position", "store/conf_state"] {
        refused(name, &newer(name, 0), "version");
    }
}

#[test]
fn newer_files_are_refused_as_such() {
    for name in ["file/identity", "file/seen"] {
        let mut sealed: serde_json::Value = serde_json::from_slice(&sample(name)).unwrap();
        let content = &mut sealed["content"];
        content["format"] = (content["format"].as_u64().unwrap() + 1).into();
        content["of the future"] = true.into();
        sealed["crc32c"] = crc32c::crc32c(content.to_string().as_bytes()).into();
        refused(name, sealed.to_string().as_bytes(), "format 5, this version reads up to 4");
    }
    let config = [sample("file/config").as_slice(), b"of_the_future = 1\n"].concat();
    refused("file/config", &config, "of_the_future");
    let config = [&b"of_the_future = 1\n"[..], &sample("file/config")].concat();
    refused("file/config", &config, "of_the_future");
}

#[test]
fn a_segment_of_a_newer_format_is_not_taken_for_damage() {
    // Both copies of the head; the checksum is the newer version's own matter.
    let mut segment = sample("log/segment");
    for at in [7, 4_096 + 7] {
        assert_eq!(segment[at], 1);
        segment[at] = 2;
    }
    refused("log/segment", &segment, "format 2, this version reads up to 1");
}

/// The layout of a greeting never changes, so that nodes of any two versions tell each other that they are different.
#[test]
fn a_greeting_of_a_newer_protocol_is_read() {
    for (name, greeting) in [("peer/frame-hello", "Hello"), ("peer/frame-ack", "Ack")] {
        let mut body = sample(name)[8..].to_vec();
        body[1] += 1;
        body.extend_from_slice(b"what a newer version adds");
        let mut frame = Vec::new();
        frame.put_u32(body.len() as u32);
        frame.put_u32(crc32c::crc32c(&body));
        frame.extend(&body);
        let text = samples::read(name, &frame).unwrap().text;
        assert!(text.contains(greeting) && text.contains("protocol: 2"), "{text}");
    }
}

/// A message with a field that this version does not know is read as if it were not there.
#[test]
fn fields_of_newer_messages_are_passed_over() {
    for Sample { name, mut bytes } in samples::all().into_iter().filter(|sample| sample.kind() == "api") {
        let text = samples::read(&name, &bytes).unwrap().text;
        // Field 1000, four bytes long.
        bytes.extend(Bytes::from_static(&[0xc2, 0x3e, 4, 1, 2, 3, 4]));
        assert_eq!(samples::read(&name, &bytes).unwrap().text, text, "{name}");
    }
}
