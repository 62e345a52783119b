//! A pilot's update: what it says of the job, and the report that is stored with its end.

use super::args::Args;
use super::{spec, time};
use bytes::Bytes;
use moso_queue::codec::cut;
use moso_queue::job::Report;
use moso_queue::limits::{DETAILS_BYTES_MAX, OUTPUT_BYTES_MAX, TEXT_BYTES_MAX};
use serde_json::{Map, Value};

/// Names of an old call's arguments that are not those of the present API in other letters.
const RENAMED: [(&str, &str); 4] =
    [("state", "job_status"), ("xml", "job_output_report"), ("metaData", "meta_data"), ("attemptNr", "attempt_nr")];
/// Arguments that say nothing which the job's record does not.
const KNOWN: [&str; 4] = ["job_id", "job_status", "attempt_nr", "timestamp"];
/// Arguments that are JSON written as a text.
const TEXTS_OF_JSON: [&str; 2] = ["job_output_report", "meta_data"];
/// The large ones, in the order in which they are left out of a report that is too large.
const LARGE: [&str; 5] = ["meta_data", "stdout", "pilot_log", "job_output_report", "job_metrics"];
/// Sources of an update's error pairs.
const SOURCES: [&str; 7] = ["pilot", "exe", "sup", "ddm", "brokerage", "job_dispatcher", "task_buffer"];

/// The arguments of an old call under the names of the present API.
pub fn renamed(args: Args) -> Args {
    let name = |key: String| match RENAMED.iter().find(|(old, _)| *old == key) {
        Some((_, new)) => (*new).to_owned(),
        None => snake(&key),
    };
    Args { map: args.map.into_iter().map(|(key, value)| (name(key), value)).collect(), texts: true }
}

/// `totRCHAR` as `tot_rchar`.
fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    let mut after_small = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && after_small {
            out.push('_');
        }
        after_small = !c.is_ascii_uppercase();
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// The report of an attempt's end.
pub fn report(args: &Args) -> Report {
    let stdout = ["stdout", "pilot_log"].iter().map(|name| args.loose_text(name)).find(|text| !text.is_empty());
    let memory = ["max_pss", "max_rss"].iter().filter_map(|name| args.loose(name)).find(|&kib| kib > 0);
    Report {
        exit_code: args.loose("trans_exit_code").and_then(|code| i32::try_from(code).ok()).unwrap_or(0),
        errors: errors(args),
        output: last(stdout.unwrap_or_default(), OUTPUT_BYTES_MAX),
        cpu_ms: time::seconds(args.get("cpu_consumption_time")),
        memory_peak_kib: memory.unwrap_or(0).unsigned_abs(),
        started_ms: args.get("start_time").and_then(time::read).unwrap_or(0),
        details: details(args),
    }
}

/// PanDA's error pairs that are not zero.
fn errors(args: &Args) -> Vec<(Box<str>, i32, Box<str>)> {
    let pair = |source: &&str| {
        let code = args.loose(&format!("{source}_error_code")).and_then(|code| i32::try_from(code).ok())?;
        let text = args.loose_text(&format!("{source}_error_diag"));
        (code != 0).then(|| ((*source).into(), code, cut(&text, TEXT_BYTES_MAX).into()))
    };
    SOURCES.iter().filter_map(pair).collect()
}

/// The end of a text.
pub fn last(text: String, max: usize) -> Bytes {
    let start = text.ceil_char_boundary(text.len().saturating_sub(max));
    Bytes::copy_from_slice(&text.as_bytes()[start..])
}

/// All else that the update says, as a JSON object of bounded size.
fn details(args: &Args) -> Bytes {
    let mut map = Map::new();
    for (key, value) in &args.map {
        let empty = value.is_null() || value == "" || value == "None";
        if empty || KNOWN.contains(&key.as_str()) {
            continue;
        }
        let parsed = value.as_str().filter(|_| TEXTS_OF_JSON.contains(&key.as_str()));
        let parsed = parsed.and_then(|text| serde_json::from_str(text).ok());
        map.insert(key.clone(), parsed.unwrap_or_else(|| value.clone()));
    }
    let mut bytes = write(&map);
    for name in LARGE {
        if bytes.len() <= DETAILS_BYTES_MAX {
            break;
        }
        if let Some(value) = map.remove(name) {
            map.insert(format!("{name}_left_out_bytes"), value.to_string().len().into());
            bytes = write(&map);
        }
    }
    if bytes.len() > DETAILS_BYTES_MAX {
        bytes = format!("{{\"left_out_bytes\":{}}}", bytes.len()).into_bytes();
    }
    if map.is_empty() { Bytes::new() } else { bytes.into() }
}

fn write(map: &Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(map).expect("what was read as JSON is written as JSON")
}

/// Whether a failed attempt of a job that was submitted by itself may be tried again (PanDA's retry in place): the pilot says
/// so by a negative code, or the error is the machine's.
pub fn may_retry(args: &Args) -> bool {
    let code = args.loose("pilot_error_code").unwrap_or(0);
    code < 0 || matches!(code, 1_200 | 1_201 | 1_213)
}

/// The files of an output report, by name.
pub fn outputs(details: &Map<String, Value>) -> impl Iterator<Item = (&String, &spec::Spec)> {
    let files = details.get("job_output_report").and_then(Value::as_object).into_iter().flatten();
    files.filter_map(|(lfn, file)| Some((lfn, file.as_object()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn args(value: Value) -> Args {
        let Value::Object(map) = value else { panic!("an object") };
        renamed(Args { map, texts: true })
    }

    #[test]
    fn old_names_become_new_ones() {
        for (old, new) in [
            ("jobId", "job_id"),
            ("schedulerID", "scheduler_id"),
            ("totRCHAR", "tot_rchar"),
            ("maxRSS", "max_rss"),
            ("pilotErrorDiag", "pilot_error_diag"),
            ("cpu_architecture_level", "cpu_architecture_level"),
            ("nEvents", "n_events"),
        ] {
            assert_eq!(snake(old), new);
        }
    }

    #[test]
    fn the_final_update_is_the_report() {
        let found = report(&args(json!({
            "jobId": "7", "state": "failed", "attemptNr": 1, "transExitCode": "3", "pilotErrorCode": 1368,
            "pilotErrorDiag": "it failed", "exeErrorCode": 0, "startTime": 1795463728.5, "cpuConsumptionTime": "2",
            "maxPSS": 100, "xml": "{\"out\": {\"guid\": \"G\"}}", "metaData": "", "stdout": "words", "node": "vm",
        })));
        assert_eq!((found.exit_code, found.cpu_ms, found.memory_peak_kib), (3, 2_000, 100));
        assert_eq!(found.errors, [("pilot".into(), 1368, "it failed".into())]);
        assert_eq!((found.started_ms, &found.output[..]), (1_795_463_728_500, &b"words"[..]));
        let details: Value = serde_json::from_slice(&found.details).unwrap();
        assert_eq!(details["job_output_report"]["out"]["guid"], "G");
        assert_eq!(details["node"], "vm");
        assert!(details.get("meta_data").is_none() && details.get("job_id").is_none());
        assert_eq!(report(&args(json!({"jobId": 1}))), Report::default());
    }

    #[test]
    fn a_report_is_bounded() {
        let long = "é".repeat(DETAILS_BYTES_MAX);
        let found = report(&args(json!({"metaData": long, "xml": "{\"f\": {}}", "stdout": "x".repeat(9_000)})));
        let details: Value = serde_json::from_slice(&found.details).unwrap();
        assert!(
            details["meta_data_left_out_bytes"].as_u64().unwrap() > 500_000 && details["job_output_report"].is_object()
        );
        assert_eq!(found.output.len(), OUTPUT_BYTES_MAX);
        let found = report(&args(json!({"something": "x".repeat(DETAILS_BYTES_MAX)})));
        assert!(found.details.len() < 100);
        assert_eq!(&last("aéb".into(), 2)[..], b"b");
    }
}
