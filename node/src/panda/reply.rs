//! Answers: the envelope of the present API, and the key-value pairs of the old calls.

use crate::request::Fault;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use moso_proto::Code;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

/// PanDA's status codes of a pilot's calls.
pub mod status {
    /// Done.
    pub const OK: i64 = 0;
    /// No answer in time: come again.
    pub const TIMEOUT: i64 = 10;
    /// No jobs.
    pub const NO_JOBS: i64 = 20;
    /// Failed.
    pub const FAILED: i64 = 30;
    /// The caller may not.
    pub const NO_PERMISSION: i64 = 70;
    /// A key is missing.
    pub const NO_KEY: i64 = 80;
    /// A proxy or token is missing.
    pub const NO_PROXY: i64 = 90;
}

/// A call that was refused: nothing was changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Why.
    pub message: String,
    /// More for the program that called.
    pub data: Value,
    /// The same call may succeed later.
    pub is_retryable: bool,
}

impl Refusal {
    /// Refused with these words.
    pub fn new(message: impl Into<String>) -> Self {
        Refusal { message: message.into(), data: Value::Null, is_retryable: false }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Refusal { is_retryable: fault.code.is_retryable(), ..Refusal::new(fault.message) }
    }
}

/// A call that was done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Done {
    /// For people; some clients read it.
    pub message: String,
    /// For programs.
    pub data: Value,
}

impl Done {
    /// With this data.
    pub fn with(data: impl Into<Value>) -> Self {
        Done { message: String::new(), data: data.into() }
    }

    /// With these words.
    pub fn says(message: impl Into<String>) -> Self {
        Done { message: message.into(), data: Value::Null }
    }
}

/// What a call of the present API comes to.
pub type Answer = Result<Done, Refusal>;

/// The envelope of an answer.
pub fn envelope(answer: Answer) -> Value {
    match answer {
        Ok(Done { message, data }) => {
            let mut value = json!({ "success": true, "message": message });
            // Some pilots look for the command at the top.
            if let Some(command) = data.get("command").filter(|_| data.get("StatusCode").is_some()) {
                value["command"] = command.clone();
            }
            value["data"] = data;
            value
        }
        Err(Refusal { message, data, .. }) => json!({ "success": false, "message": message, "data": data }),
    }
}

/// The answer of the present API: always 200 (PanDA), unless the same call may succeed later: then 503, so that programs come
/// again.
pub fn respond(answer: Answer) -> Response {
    let retryable = answer.as_ref().is_err_and(|refusal| refusal.is_retryable);
    let code = if retryable { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    text(code, envelope(answer).to_string())
}

/// A text, as PanDA sends even JSON.
pub fn text(code: StatusCode, body: impl Into<String>) -> Response {
    (code, [(header::CONTENT_TYPE, "text/plain")], body.into()).into_response()
}

/// No such call.
pub fn forbidden(method: &str) -> Response {
    let method: String = method.chars().filter(|c| c.is_ascii_graphic()).take(80).collect();
    text(StatusCode::FORBIDDEN, format!("ERROR : method {method} is forbidden"))
}

/// Keys and values in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs(pub Vec<(&'static str, Value)>);

impl Pairs {
    /// A status code and nothing else.
    pub fn status(code: i64) -> Self {
        Pairs(vec![("StatusCode", code.into())])
    }

    /// Adds a pair.
    pub fn push(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.push((key, value.into()));
    }

    /// As Python's `urlencode` writes them.
    pub fn urlencoded(&self) -> String {
        let mut out = form_urlencoded::Serializer::new(String::new());
        for (key, value) in &self.0 {
            match value {
                Value::String(text) => out.append_pair(key, text),
                Value::Null => out.append_pair(key, "None"),
                Value::Bool(true) => out.append_pair(key, "True"),
                Value::Bool(false) => out.append_pair(key, "False"),
                other => out.append_pair(key, &other.to_string()),
            };
        }
        out.finish()
    }

    /// The answer of an old call: JSON if the caller asked for it, else as a form.
    pub fn respond(&self, json: bool) -> Response {
        if json {
            let body = serde_json::to_string(self).expect("texts and numbers are JSON");
            return ([(header::CONTENT_TYPE, "application/json")], body).into_response();
        }
        text(StatusCode::OK, self.urlencoded())
    }
}

impl Serialize for Pairs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl From<Pairs> for Value {
    fn from(pairs: Pairs) -> Value {
        Value::Object(pairs.0.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }
}

/// The status code of an old call for a fault.
pub fn status_of(fault: &Fault) -> i64 {
    match fault.code {
        Code::Forbidden => status::NO_PERMISSION,
        code if code.is_retryable() => status::TIMEOUT,
        _ => status::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_written_both_ways() {
        let mut pairs = Pairs::status(0);
        pairs.push("command", "ls -l");
        pairs.push("nucleus", Value::Null);
        assert_eq!(pairs.urlencoded(), "StatusCode=0&command=ls+-l&nucleus=None");
        assert_eq!(serde_json::to_string(&pairs).unwrap(), r#"{"StatusCode":0,"command":"ls -l","nucleus":null}"#);
    }

    #[test]
    fn the_command_stands_at_the_top_too() {
        let value = envelope(Ok(Done::with(json!({"StatusCode": 0, "command": "NULL"}))));
        assert_eq!((&value["command"], &value["data"]["command"]), (&json!("NULL"), &json!("NULL")));
        assert!(envelope(Ok(Done::with(7))).get("command").is_none());
        let refused = envelope(Err(Refusal::new("no")));
        assert_eq!(refused, json!({"success": false, "message": "no", "data": null}));
    }
}
