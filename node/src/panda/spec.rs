//! What a job of a PanDA client is: the body of a moso job.
//!
//! A job that was submitted by itself carries its specification. The jobs of a task share one body, the task's parameters,
//! and each is made of it when it is asked for ([`super::generate`]).

use super::{attempt, fields, generate};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Body type of these jobs.
pub const BODY_TYPE: &str = "panda";
/// The format that is written.
const FORMAT: u8 = 1;

/// Fields of a job by PanDA's names; those that are not given are absent. `Files` is the list of its files.
pub type Spec = Map<String, Value>;

/// What the jobs of a task have in common.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskBody {
    /// The client's parameters.
    pub params: Map<String, Value>,
    /// Who submitted it.
    pub user: String,
    /// The queue.
    pub site: String,
    /// The client's task, if it is not this one: some of its jobs run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<u64>,
    /// Which of the client's task's jobs these are, as half-open ranges of positions; all, if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub positions: Vec<(u32, u32)>,
    /// Its sandbox is here: a pilot fetches it from the node that it talks to.
    #[serde(default)]
    pub here: bool,
    /// Attempts of these jobs in earlier parts of the client's task: their files have names of their own.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub earlier: u32,
}

/// For what is not stored when it is 0.
pub fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl TaskBody {
    /// Position within the client's task of the job at `index` of the moso task.
    pub fn position(&self, index: u32) -> u32 {
        let mut left = index;
        for &(start, end) in &self.positions {
            match left.checked_sub(end.saturating_sub(start)) {
                Some(more) => left = more,
                None => return start.saturating_add(left),
            }
        }
        left
    }
}

/// A body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    /// Of a job that was submitted by itself.
    Job(Spec),
    /// Of the jobs of a task.
    Task(TaskBody),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    panda: u8,
    #[serde(flatten)]
    body: Body,
}

impl Body {
    /// As it is stored.
    pub fn write(self) -> Vec<u8> {
        serde_json::to_vec(&Stored { panda: FORMAT, body: self }).expect("texts, numbers and lists are JSON")
    }

    /// Reads one; `None`: another program wrote it.
    pub fn read(bytes: &[u8]) -> Option<Body> {
        let stored: Stored = serde_json::from_slice(bytes).ok()?;
        (stored.panda == FORMAT).then_some(stored.body)
    }

    /// The specification of an attempt of a job: of task `task`, at `index` in it, for a caller who reaches this node at
    /// `base`.
    pub fn spec(&self, task: u64, index: u32, attempt: u32, base: &str) -> Spec {
        let (mut spec, earlier) = match self {
            Body::Job(spec) => (spec.clone(), 0),
            Body::Task(body) => {
                (generate::job(body, body.task.unwrap_or(task), body.position(index), base), body.earlier)
            }
        };
        attempt::name_files(&mut spec, attempt.saturating_add(earlier));
        spec
    }
}

/// A job as clients send it: its fields in their order, then the list of its files. `None`: it is none.
pub fn from_list(list: &[Value]) -> Option<Spec> {
    let (files, values) = list.split_last()?;
    if values.len() > fields::JOB.len() {
        return None;
    }
    let given = |names: &[&str], values: &[Value]| -> Spec {
        let pairs = names.iter().zip(values).filter(|(_, value)| !is_null(value));
        pairs.map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    };
    let mut spec = given(&fields::JOB, values);
    let file = |file: &Value| {
        let values = file.as_array()?;
        Some(Value::Object(given(&fields::FILE, &values[..values.len().min(fields::FILE.len())])))
    };
    let files: Vec<Value> = files.as_array()?.iter().map(file).collect::<Option<_>>()?;
    spec.insert("Files".into(), files.into());
    Some(spec)
}

fn is_null(value: &Value) -> bool {
    value.is_null() || value == "NULL" || value == "None"
}

/// A field as a text; empty if it is absent.
pub fn text(spec: &Spec, name: &str) -> String {
    match spec.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}

/// A field as a whole number; 0 if it is absent or none.
pub fn number(spec: &Spec, name: &str) -> i64 {
    spec.get(name).and_then(super::args::whole).unwrap_or(0)
}

/// A field as a number of the given type; 0 if it is absent, negative or too large.
pub fn count(spec: &Spec, name: &str) -> u32 {
    u32::try_from(number(spec, name)).unwrap_or(0)
}

/// Its files of this type.
pub fn files<'a>(spec: &'a Spec, kinds: &'a [&str]) -> impl Iterator<Item = &'a Spec> {
    let files = spec.get("Files").and_then(Value::as_array).into_iter().flatten();
    files.filter_map(Value::as_object).filter(|file| kinds.contains(&&*text(file, "type")))
}

/// PanDA's resource type of so many cores and so much memory, MiB.
pub fn resource_type(cores: u32, memory_mib: u32) -> &'static str {
    match (cores > 1, memory_mib / cores.max(1) > 2_000) {
        (false, false) => "SCORE",
        (false, true) => "SCORE_HIMEM",
        (true, false) => "MCORE",
        (true, true) => "MCORE_HIMEM",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_is_read_by_its_places() {
        let mut list = vec![json!("NULL"); fields::JOB.len()];
        list[9] = json!("http://x/bash-c");
        list[17] = json!(1);
        let file = json!(["NULL", "NULL", "g", "out.txt", "output", "NULL", null, "NULL", "NULL", "NULL"]);
        list.push(json!([file]));
        let spec = from_list(&list).unwrap();
        assert_eq!((text(&spec, "transformation").as_str(), number(&spec, "maxAttempt")), ("http://x/bash-c", 1));
        assert_eq!(files(&spec, &["output"]).map(|f| text(f, "lfn")).collect::<Vec<_>>(), ["out.txt"]);
        assert_eq!(spec.len(), 3);
        for bad in [json!([]), json!([1, 2]), json!(["NULL", [7]])] {
            assert_eq!(from_list(bad.as_array().unwrap()), None, "{bad}");
        }
        let mut long = vec![json!("NULL"); fields::JOB.len() + 1];
        long.push(json!([]));
        assert_eq!(from_list(&long), None);
    }

    #[test]
    fn bodies_come_back_and_others_are_none() {
        let task = TaskBody { user: "ann".into(), positions: vec![(3, 5), (9, 10)], ..TaskBody::default() };
        assert_eq!([0, 1, 2].map(|index| task.position(index)), [3, 4, 9]);
        for body in [Body::Task(task), Body::Job(Spec::new())] {
            assert_eq!(Body::read(&body.clone().write()), Some(body));
        }
        assert_eq!(TaskBody::default().position(7), 7);
        assert_eq!(Body::read(b"sh -c true"), None);
        assert_eq!(Body::read(br#"{"panda": 2, "job": {}}"#), None);
    }

    #[test]
    fn resource_types_are_pandas() {
        let found = [(1, 0), (1, 2_001), (8, 16_000), (8, 16_008)].map(|(cores, memory)| resource_type(cores, memory));
        assert_eq!(found, ["SCORE", "SCORE_HIMEM", "MCORE", "MCORE_HIMEM"]);
    }
}
