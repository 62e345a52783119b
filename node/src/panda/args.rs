//! The arguments of a call, with PanDA's words for those that are missing or of the wrong type.

use super::reply::Refusal;
use serde_json::{Map, Value};

/// Arguments by name.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// All of them, by the names of the present API.
    pub map: Map<String, Value>,
    /// They came as texts, in a query or a form: a number may be written as a text.
    pub texts: bool,
}

/// Python's name of a value's type.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

fn mistyped(name: &str, wanted: &str, value: &Value) -> Refusal {
    Refusal::new(format!("Type error: '{name}' must be of type {wanted}, got {}.", type_of(value)))
}

/// A whole number written as a number or a text, as Python's `int(float(x))` reads it.
pub fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().and_then(rounded)),
        Value::String(text) => {
            let text = text.trim();
            text.parse().ok().or_else(|| text.parse::<f64>().ok().and_then(rounded))
        }
        Value::Bool(yes) => Some(i64::from(*yes)),
        _ => None,
    }
}

fn rounded(number: f64) -> Option<i64> {
    (number.is_finite() && number.abs() < 9.0e18).then_some(number as i64)
}

impl Args {
    /// The argument, unless it is absent or null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let absent = |value: &Value| value.is_null() || self.texts && value == "None";
        self.map.get(name).filter(|value| !absent(value))
    }

    fn required<T>(&self, name: &str, found: Option<T>) -> Result<T, Refusal> {
        found.ok_or_else(|| Refusal::new(format!("Argument error: missing a required argument: '{name}'")))
    }

    /// A whole number, if it is given.
    pub fn opt_int(&self, name: &str) -> Result<Option<i64>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some(value @ Value::Number(_)) => whole(value).map(Some).ok_or_else(|| mistyped(name, "int", value)),
            Some(value) if self.texts => whole(value).map(Some).ok_or_else(|| mistyped(name, "int", value)),
            Some(value) => Err(mistyped(name, "int", value)),
        }
    }

    /// A whole number.
    pub fn int(&self, name: &str) -> Result<i64, Refusal> {
        self.required(name, self.opt_int(name)?)
    }

    /// The id of a job or task.
    pub fn id(&self, name: &str) -> Result<u64, Refusal> {
        let id = self.int(name)?;
        u64::try_from(id).map_err(|_| Refusal::new(format!("Type error: '{name}' must be of type int, got {id}.")))
    }

    /// A text, if it is given.
    pub fn opt_text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(mistyped(name, "str", value)),
        }
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<&str, Refusal> {
        self.required(name, self.opt_text(name)?)
    }

    /// Yes or no; absent: no.
    pub fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(yes)) => Ok(*yes),
            Some(Value::String(text)) if self.texts => Ok(matches!(text.to_ascii_lowercase().as_str(), "true" | "1")),
            Some(value) => Err(mistyped(name, "bool", value)),
        }
    }

    /// An object.
    pub fn object(&self, name: &str) -> Result<&Map<String, Value>, Refusal> {
        match self.required(name, self.get(name))? {
            Value::Object(map) => Ok(map),
            value => Err(mistyped(name, "dict", value)),
        }
    }

    /// A list; of a query one value may stand for it.
    pub fn list(&self, name: &str) -> Result<Vec<Value>, Refusal> {
        match self.required(name, self.get(name))? {
            Value::Array(list) => Ok(list.clone()),
            value if self.texts => Ok(vec![value.clone()]),
            value => Err(mistyped(name, "list", value)),
        }
    }

    /// A list of ids, at most `max`.
    pub fn ids(&self, name: &str, max: usize) -> Result<Vec<u64>, Refusal> {
        let list = self.list(name)?;
        if list.len() > max {
            return Err(Refusal::new(format!("Argument error: '{name}' has {} items, at most {max}", list.len())));
        }
        let id = |value: &Value| whole(value).and_then(|id| u64::try_from(id).ok());
        list.iter().map(|value| id(value).ok_or_else(|| mistyped(name, "list of int", value))).collect()
    }

    /// A number that may be written in any way; anything else counts as not given.
    pub fn loose(&self, name: &str) -> Option<i64> {
        self.get(name).and_then(whole)
    }

    /// A text, or what else is given as a text; empty if absent.
    pub fn loose_text(&self, name: &str) -> String {
        match self.get(name) {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        }
    }

    /// As [`Args::loose_text`], at most so many bytes and without control characters: a name for people.
    pub fn loose_name(&self, name: &str) -> String {
        let text = self.loose_text(name);
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        moso_queue::codec::cut(&text, 128).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn args(value: Value, texts: bool) -> Args {
        let Value::Object(map) = value else { panic!("an object") };
        Args { map, texts }
    }

    #[test]
    fn mistakes_have_pandas_words() {
        let json = args(json!({"job_id": "303", "x": 1.5, "n": null, "l": 1, "o": []}), false);
        let message = |refusal: Refusal| refusal.message;
        assert_eq!(message(json.int("job_id").unwrap_err()), "Type error: 'job_id' must be of type int, got str.");
        assert_eq!(message(json.int("n").unwrap_err()), "Argument error: missing a required argument: 'n'");
        assert_eq!(message(json.text("x").unwrap_err()), "Type error: 'x' must be of type str, got float.");
        assert_eq!(message(json.list("l").unwrap_err()), "Type error: 'l' must be of type list, got int.");
        assert_eq!(message(json.object("o").unwrap_err()), "Type error: 'o' must be of type dict, got list.");
        assert!(json.id("missing").is_err());
    }

    #[test]
    fn texts_are_cast_in_queries_only() {
        let query = args(json!({"job_id": "303.0", "ids": "7", "many": ["7", "8"], "yes": "True", "no": "None"}), true);
        assert_eq!(query.int("job_id").unwrap(), 303);
        assert_eq!(query.ids("ids", 9).unwrap(), [7]);
        assert_eq!(query.ids("many", 9).unwrap(), [7, 8]);
        assert!(query.ids("many", 1).is_err());
        assert!(query.flag("yes").unwrap() && query.get("no").is_none());
        assert_eq!(whole(&json!("1e300")), None);
        assert_eq!(whole(&json!(" 12 ")), Some(12));
    }
}
