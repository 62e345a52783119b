//! What a pilot gets with a job: PanDA's keys, in its order.

use super::reply::{Pairs, status};
use super::spec::{self, Spec};
use serde_json::Value;

/// A job as it is leased.
pub struct Leased<'a> {
    /// PandaID.
    pub job: u64,
    /// Attempt, which comes back in each update.
    pub attempt: u32,
    /// Jobs given out by this node so far.
    pub sent: u64,
    /// Its specification.
    pub spec: &'a Spec,
    /// Where its outputs go if it does not say so.
    pub endpoint: &'a str,
}

/// A text field; PanDA's word if it is absent.
fn text(spec: &Spec, name: &str) -> String {
    Some(spec::text(spec, name)).filter(|text| !text.is_empty()).unwrap_or_else(|| "NULL".to_owned())
}

/// A field of each file, separated by commas.
fn list<'a>(files: &[&'a Spec], value: impl Fn(&'a Spec) -> String) -> String {
    files.iter().map(|&file| value(file)).collect::<Vec<_>>().join(",")
}

fn field(name: &'static str) -> impl Fn(&Spec) -> String {
    move |file| spec::text(file, name)
}

fn token(name: &'static str) -> impl Fn(&Spec) -> String {
    move |file| text(file, name)
}

/// The keys.
pub fn of(leased: &Leased<'_>) -> Pairs {
    let Leased { job, attempt, sent, spec, endpoint } = leased;
    let mut out = Pairs::status(status::OK);
    out.push("PandaID", *job);
    for (key, name) in [
        ("prodSourceLabel", "prodSourceLabel"),
        ("swRelease", "AtlasRelease"),
        ("homepackage", "homepackage"),
        ("transformation", "transformation"),
        ("jobName", "jobName"),
        ("jobDefinitionID", "jobDefinitionID"),
        ("cloud", "cloud"),
    ] {
        out.push(key, text(spec, name));
    }
    inputs_and_outputs(&mut out, spec, endpoint);
    out.push("jobPars", spec::text(spec, "jobParameters"));
    out.push("attemptNr", *attempt);
    input_details(&mut out, spec, endpoint);
    for (key, name) in [("destinationSE", "destinationSE"), ("prodUserID", "prodUserID")] {
        out.push(key, text(spec, name));
    }
    for key in ["maxCpuCount", "minRamCount", "maxDiskCount"] {
        out.push(key, spec::number(spec, key));
    }
    for (key, name) in [
        ("cmtConfig", "cmtConfig"),
        ("processingType", "processingType"),
        ("transferType", "transferType"),
        ("sourceSite", "sourceSite"),
    ] {
        out.push(key, text(spec, name));
    }
    out.push("currentPriority", spec::number(spec, "currentPriority"));
    let task = if spec.contains_key("jediTaskID") { "jediTaskID" } else { "taskID" };
    out.push("taskID", text(spec, task));
    out.push("coreCount", spec::number(spec, "coreCount").max(1));
    for key in ["jobsetID", "reqID", "nucleus"] {
        out.push(key, text(spec, key));
    }
    out.push("maxWalltime", spec::number(spec, "maxWalltime"));
    out.push("resource_type", text(spec, "resource_type"));
    out.push("ioIntensity", Value::Null);
    out.push("ioIntensityUnit", Value::Null);
    out.push("nSent", *sent);
    if spec.contains_key("container_name") {
        out.push("container_name", spec::text(spec, "container_name"));
    }
    out
}

fn inputs_and_outputs(out: &mut Pairs, spec: &Spec, endpoint: &str) {
    let inputs: Vec<_> = spec::files(spec, &["input"]).collect();
    let outputs: Vec<_> = spec::files(spec, &["output", "log"]).collect();
    let se = |file: &Spec| Some(spec::text(file, "destinationSE")).filter(|se| !se.is_empty());
    let log = spec::files(spec, &["log"]).next();
    out.push("inFiles", list(&inputs, field("lfn")));
    out.push("dispatchDblock", list(&inputs, token("dispatchDBlock")));
    out.push("dispatchDBlockToken", list(&inputs, token("dispatchDBlockToken")));
    out.push("dispatchDBlockTokenForOut", list(&outputs, token("dispatchDBlockToken")));
    out.push("outFiles", list(&outputs, field("lfn")));
    out.push("destinationDblock", list(&outputs, token("destinationDBlock")));
    out.push("destinationDBlockToken", list(&outputs, token("destinationDBlockToken")));
    out.push("prodDBlocks", list(&inputs, token("prodDBlock")));
    out.push("prodDBlockToken", list(&inputs, token("prodDBlockToken")));
    out.push("realDatasets", list(&outputs, token("dataset")));
    out.push("realDatasetsIn", list(&inputs, token("dataset")));
    out.push("fileDestinationSE", list(&outputs, |file| se(file).unwrap_or_else(|| endpoint.to_owned())));
    out.push("logFile", log.map(|log| spec::text(log, "lfn")).unwrap_or_default());
    out.push("logGUID", log.map(|log| spec::text(log, "GUID")).unwrap_or_default());
}

fn input_details(out: &mut Pairs, spec: &Spec, endpoint: &str) {
    let inputs: Vec<_> = spec::files(spec, &["input"]).collect();
    let outputs: Vec<_> = spec::files(spec, &["output"]).collect();
    let all: Vec<_> = spec::files(spec, &["output", "log"]).collect();
    let log = spec::files(spec, &["log"]).next();
    let se = |file: &Spec| Some(spec::text(file, "destinationSE")).filter(|se| !se.is_empty());
    let place = |file: &Spec| se(file).unwrap_or_else(|| endpoint.to_owned());
    out.push("GUID", list(&inputs, field("GUID")));
    out.push("checksum", list(&inputs, field("checksum")));
    out.push("fsize", list(&inputs, field("fsize")));
    out.push("scopeIn", list(&inputs, field("scope")));
    out.push("scopeOut", list(&outputs, field("scope")));
    out.push("scopeLog", log.map(|log| spec::text(log, "scope")).unwrap_or_default());
    out.push("ddmEndPointIn", list(&inputs, place));
    out.push("ddmEndPointOut", list(&all, place));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pairs(spec: Value) -> serde_json::Map<String, Value> {
        let Value::Object(spec) = spec else { panic!("an object") };
        let leased = Leased { job: 7, attempt: 2, sent: 1, spec: &spec, endpoint: "SITE_DISK" };
        let Value::Object(map) = Value::from(of(&leased)) else { panic!("an object") };
        map
    }

    #[test]
    fn lists_of_files_are_parallel() {
        let found = pairs(json!({"transformation": "http://x/y", "jobParameters": "a b", "Files": [
            {"lfn": "in", "type": "input", "scope": "s", "fsize": 3, "checksum": "ad:00000001", "destinationSE": "D"},
            {"lfn": "out", "type": "output", "scope": "u", "destinationSE": "D"},
            {"lfn": "log", "type": "log", "GUID": "g", "scope": "l"},
        ]}));
        for (key, value) in [
            ("inFiles", "in"),
            ("fsize", "3"),
            ("ddmEndPointIn", "D"),
            ("outFiles", "out,log"),
            ("ddmEndPointOut", "D,SITE_DISK"),
            ("scopeOut", "u"),
            ("scopeLog", "l"),
            ("logFile", "log"),
            ("logGUID", "g"),
            ("realDatasets", "NULL,NULL"),
        ] {
            assert_eq!(found[key], value, "{key}");
        }
        assert_eq!((&found["PandaID"], &found["attemptNr"]), (&json!(7), &json!(2)));
    }

    #[test]
    fn an_empty_specification_has_all_keys() {
        let found = pairs(json!({}));
        assert_eq!(
            (&found["outFiles"], &found["swRelease"], &found["coreCount"]),
            (&json!(""), &json!("NULL"), &json!(1))
        );
        assert_eq!(found.len(), 53, "{:?}", found.keys());
    }
}
