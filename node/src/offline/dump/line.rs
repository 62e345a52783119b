//! A line of the dump: fields in order, as `key=value` or as JSON.

use serde_json::Value;
use std::fmt;

/// A line.
pub struct Line {
    fields: Vec<(&'static str, Value)>,
}

impl Line {
    /// A line about a thing of this kind.
    pub fn new(kind: &'static str) -> Line {
        Line { fields: vec![("what", kind.into())] }
    }

    /// With one field more.
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Line {
        self.fields.push((key, value.into()));
        self
    }

    /// With one field more, unless it is empty or zero.
    pub fn with_some(self, key: &'static str, value: impl Into<Value>) -> Line {
        let value = value.into();
        let none = value.is_null() || value == 0 || value == "" || value == false || value == Value::Array(Vec::new());
        if none { self } else { self.with(key, value) }
    }

    /// As one JSON object.
    pub fn json(&self) -> String {
        let fields: Vec<String> = self.fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, value)) in self.fields.iter().enumerate() {
            match (at, value.as_str()) {
                (0, Some(kind)) => f.write_str(kind)?,
                (_, Some(text)) if !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '"') => {
                    write!(f, " {key}={text}")?;
                }
                _ => write!(f, " {key}={value}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_both_ways() {
        let line = Line::new("job").with("seq", 7).with("name", "a b").with("state", "ready").with_some("kill", 0);
        assert_eq!(line.to_string(), r#"job seq=7 name="a b" state=ready"#);
        let value: Value = serde_json::from_str(&line.json()).unwrap();
        assert_eq!(value, serde_json::json!({ "what": "job", "seq": 7, "name": "a b", "state": "ready" }));
        assert!(line.json().starts_with(r#"{"what":"job","seq":7"#));
    }
}
