//! Times as PanDA writes them: UTC, `YYYY-mm-dd HH:MM:SS`.

use super::args::whole;
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};

/// The latest time that is written: the end of the year 9999.
const MS_MAX: u64 = 253_402_300_799_000;

/// As a text; `null` for 0.
pub fn text(ms: u64) -> Value {
    match ms {
        0 | MS_MAX.. => Value::Null,
        _ => written(ms).into(),
    }
}

/// As the values that PanDA's clients decode; `null` for 0.
pub fn value(ms: u64) -> Value {
    match ms {
        0 | MS_MAX.. => Value::Null,
        _ => json!({ "__datetime__": written(ms).replace(' ', "T") }),
    }
}

fn written(ms: u64) -> String {
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string();
    text.trim_end_matches('Z').replace('T', " ")
}

/// Unix ms of a time that is a text or the seconds since 1970; `None` if it is neither.
pub fn read(value: &Value) -> Option<u64> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => {
            let text = text.trim().trim_start_matches("datetime/");
            if let Ok(time) = humantime::parse_rfc3339_weak(text) {
                return Some(time.duration_since(UNIX_EPOCH).ok()?.as_millis() as u64);
            }
            text.parse().ok()?
        }
        _ => return None,
    };
    (seconds > 0.0 && seconds < MS_MAX as f64 / 1_000.0).then_some((seconds * 1_000.0) as u64)
}

/// A length of time in ms, of one in seconds.
pub fn seconds(value: Option<&Value>) -> u64 {
    let seconds = value.and_then(|v| v.as_f64().or_else(|| whole(v).map(|n| n as f64))).unwrap_or(0.0);
    if seconds > 0.0 && seconds < 1e12 { (seconds * 1_000.0) as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back() {
        assert_eq!(text(1_795_463_728_000), "2026-11-23 19:55:28");
        assert_eq!(read(&json!("2026-11-23 19:55:28")), Some(1_795_463_728_000));
        assert_eq!(read(&json!("datetime/2026-11-23 19:55:28.213106")), Some(1_795_463_728_213));
        assert_eq!(read(&json!(1795463728.7204523)), Some(1_795_463_728_720));
        assert_eq!(read(&json!("1795463728.5")), Some(1_795_463_728_500));
        for bad in [json!("x"), json!(-1), json!(1e300), json!(null), json!("")] {
            assert_eq!(read(&bad), None, "{bad}");
        }
        assert_eq!((text(0), value(u64::MAX)), (Value::Null, Value::Null));
        assert_eq!((seconds(Some(&json!("3"))), seconds(Some(&json!(1.5)))), (3_000, 1_500));
    }
}
