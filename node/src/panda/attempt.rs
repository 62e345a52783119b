//! Names of the files of a later attempt: an attempt that is lost may still write its own.

use super::generate;
use super::spec::{self, Spec};
use serde_json::Value;
use std::collections::BTreeSet;

/// What may stand before and behind the name of a file in arguments; the beginning and the end may too.
const BEFORE: [&str; 7] = ["'", "\"", "%20", ":", " ", "=", ","];
const BEHIND: [&str; 6] = ["'", "\"", "%20", ":", " ", ","];

/// Gives outputs and log of the job the names of this attempt, in its arguments too: from the second on its number stands at
/// the end, as PanDA's does. Names that differ in their last number only keep it, so that they stay apart.
pub fn name_files(job: &mut Spec, attempt: u32) {
    if attempt <= 1 {
        return;
    }
    let old: BTreeSet<String> = spec::files(job, &["output", "log"]).map(|file| spec::text(file, "lfn")).collect();
    let short: BTreeSet<&str> = old.iter().map(|name| stem(name)).collect();
    let apart = short.len() == old.len();
    let new = |name: &str| format!("{}.{attempt}", if apart { stem(name) } else { name });
    let mut arguments = spec::text(job, "jobParameters");
    for name in old.iter().filter(|name| !name.is_empty()) {
        arguments = replaced(&arguments, name, &new(name));
    }
    if job.contains_key("jobParameters") {
        job.insert("jobParameters".into(), arguments.into());
    }
    for file in job.get_mut("Files").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(file) = file.as_object_mut() else { continue };
        let (kind, name) = (spec::text(file, "type"), spec::text(file, "lfn"));
        if !matches!(kind.as_str(), "output" | "log") || name.is_empty() {
            continue;
        }
        let guid = spec::text(file, "GUID");
        if !guid.is_empty() {
            file.insert("GUID".into(), generate::guid(&format!("{guid}.{attempt}")).into());
        }
        file.insert("lfn".into(), new(&name).into());
    }
}

/// The name without a number at its end.
fn stem(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, end)) if !stem.is_empty() && !end.is_empty() && end.bytes().all(|b| b.is_ascii_digit()) => stem,
        _ => name,
    }
}

/// The text with the new name wherever the old one stands as a whole.
fn replaced(text: &str, old: &str, new: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(at) = rest.find(old) {
        out += &rest[..at];
        let behind = &rest[at + old.len()..];
        let begins = out.is_empty() || BEFORE.iter().any(|mark| out.ends_with(mark));
        let ends = behind.is_empty() || BEHIND.iter().any(|mark| behind.starts_with(mark));
        out += if begins && ends { new } else { old };
        rest = behind;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(outputs: &[&str], arguments: &str) -> Spec {
        let mut files: Vec<Value> = outputs.iter().map(|lfn| json!({"lfn": lfn, "type": "output"})).collect();
        files.push(json!({"lfn": "x.log.tgz", "type": "log", "GUID": "0-1"}));
        files.push(json!({"lfn": "in", "type": "input"}));
        let Value::Object(spec) = json!({"Files": files, "jobParameters": arguments}) else {
            unreachable!("it is one")
        };
        spec
    }

    fn named(outputs: &[&str], arguments: &str, attempt: u32) -> (Vec<String>, String) {
        let mut job = job(outputs, arguments);
        name_files(&mut job, attempt);
        let names = spec::files(&job, &["output", "log", "input"]).map(|file| spec::text(file, "lfn")).collect();
        (names, spec::text(&job, "jobParameters"))
    }

    #[test]
    fn a_later_attempt_has_names_of_its_own() {
        let arguments = "-o \"{'out': 'u._1.out'}\" --log=x.log.tgz -p \"cat%20u._1.out%20u._1.out.old\" u._1.out";
        assert_eq!(named(&["u._1.out"], arguments, 1).1, arguments);
        let (names, arguments) = named(&["u._1.out"], arguments, 3);
        assert_eq!(names, ["u._1.out.3", "x.log.tgz.3", "in"]);
        let expected =
            "-o \"{'out': 'u._1.out.3'}\" --log=x.log.tgz.3 -p \"cat%20u._1.out.3%20u._1.out.old\" u._1.out.3";
        assert_eq!(arguments, expected);
    }

    #[test]
    fn a_number_at_the_end_is_replaced_unless_names_would_meet() {
        assert_eq!(named(&["EVNT._7.pool.root.1"], "", 2).0[0], "EVNT._7.pool.root.2");
        assert_eq!(named(&["a.1", "a.2"], "'a.1' 'a.2'", 2), {
            let names = ["a.1.2", "a.2.2", "x.log.tgz.2", "in"].map(str::to_owned);
            (names.to_vec(), "'a.1.2' 'a.2.2'".to_owned())
        });
        assert_eq!((stem(".5"), stem("a."), stem("5"), stem("a.5x")), (".5", "a.", "5", "a.5x"));
        let mut none = Spec::new();
        name_files(&mut none, 2);
        assert!(none.is_empty());
    }

    #[test]
    fn the_log_has_another_identifier() {
        let (mut second, mut third) = (job(&[], ""), job(&[], ""));
        name_files(&mut second, 2);
        name_files(&mut third, 3);
        let guid = |job: &Spec| spec::files(job, &["log"]).map(|file| spec::text(file, "GUID")).next();
        assert!(guid(&second) != guid(&third) && guid(&second).is_some_and(|guid| guid.len() == 36));
    }
}
