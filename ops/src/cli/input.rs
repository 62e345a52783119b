//! What users type: lengths of time, sizes, points in time, variables.

use std::time::Duration;

/// Longest time that may be given: added to any time it stays one that can be printed and computed with.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// `10m`, `2h`, `1h30m`, `90s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time > DURATION_MAX => Err("at most 100 years".into()),
        Ok(time) => Ok(time),
        Err(error) => Err(format!("{error}; write 90s, 10m, 2h or 1d")),
    }
}

/// A length of time of at least a second, in s.
pub fn seconds(text: &str) -> Result<u32, String> {
    let seconds = duration(text)?.as_secs();
    match u32::try_from(seconds) {
        Ok(0) => Err("at least 1s".into()),
        Ok(seconds) => Ok(seconds),
        Err(_) => Err("too long".into()),
    }
}

/// `500M`, `2G`, `1T`, or a number of MiB; gives MiB.
pub fn mebibytes(text: &str) -> Result<u32, String> {
    let text = text.trim_end_matches("iB").trim_end_matches('B');
    let (digits, factor) = match text.char_indices().last() {
        Some((end, 'M' | 'm')) => (&text[..end], 1),
        Some((end, 'G' | 'g')) => (&text[..end], 1024),
        Some((end, 'T' | 't')) => (&text[..end], 1024 * 1024),
        _ => (text, 1),
    };
    let number: u32 = digits.parse().map_err(|_| "write 500M, 2G, 1T, or a number of MiB".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

/// A point in time: after a length of time from now, or a date such as `2030-01-31T12:00:00Z`. Gives Unix ms.
pub fn moment(text: &str) -> Result<u64, String> {
    if let Ok(wait) = duration(text) {
        return Ok(super::text::now_ms().saturating_add(wait.as_millis() as u64));
    }
    let time = humantime::parse_rfc3339_weak(text)
        .map_err(|_| "write a wait (10m, 2h) or a time in UTC (2030-01-31T12:00:00Z)".to_owned())?;
    time.duration_since(std::time::UNIX_EPOCH).map(|time| time.as_millis() as u64).map_err(|_| "before 1970".to_owned())
}

/// `NAME=VALUE`.
pub fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(seconds("2h"), Ok(7200));
        for bad in ["", "10", "x", "-1s", "99999999999d"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        assert!(seconds("10ms").is_err() && seconds("200y").is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!(mebibytes("500"), Ok(500));
        assert_eq!(mebibytes("500M"), Ok(500));
        assert_eq!(mebibytes("2G"), Ok(2048));
        assert_eq!(mebibytes("2GiB"), Ok(2048));
        assert_eq!(mebibytes("1TB"), Ok(1024 * 1024));
        for bad in ["", "G", "x", "-1", "9999T", "é"] {
            assert!(mebibytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn points_in_time() {
        assert_eq!(moment("2023-11-14T22:13:20Z"), Ok(1_700_000_000_000));
        assert!(moment("1h").unwrap() >= crate::cli::text::now_ms() + 3_500_000);
        assert!(moment("1960-01-01T00:00:00Z").is_err() && moment("soon").is_err());
    }

    #[test]
    fn assignments() {
        assert_eq!(assignment("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(assignment("a="), Ok(("a".into(), String::new())));
        assert!(assignment("a").is_err() && assignment("=b").is_err());
    }
}
