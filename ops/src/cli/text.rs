//! Numbers as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time in UTC, from Unix ms; empty for 0.
pub fn time(ms: u64) -> String {
    // The largest time that humantime prints: the year 9999.
    if ms == 0 || ms > 253_402_300_799_000 {
        return String::new();
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// A length of time in its two largest units; empty for 0.
pub fn span_ms(ms: u64) -> String {
    match ms {
        0 => String::new(),
        1..1_000 => format!("{ms}ms"),
        1_000..60_000 if !ms.is_multiple_of(1_000) => format!("{:.1}s", ms as f64 / 1_000.0),
        _ => {
            let text = humantime::format_duration(Duration::from_secs(ms / 1_000)).to_string();
            text.split(' ').take(2).collect::<Vec<_>>().join(" ")
        }
    }
}

/// The time between two points in Unix ms; with no end, until now; empty without a start.
pub fn between_ms(start: u64, end: u64) -> String {
    let end = if end == 0 { now_ms() } else { end };
    match start {
        0 => String::new(),
        _ => span_ms(end.saturating_sub(start).max(1)),
    }
}

/// A number of bytes.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    match unit {
        "B" => format!("{bytes} B"),
        unit => format!("{value:.1} {unit}"),
    }
}

/// A number; empty for 0, where 0 means "none".
pub fn some(number: u64) -> String {
    match number {
        0 => String::new(),
        number => number.to_string(),
    }
}

/// Unix time in ms by this machine's clock.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_spans() {
        assert_eq!(time(0), "");
        assert_eq!(time(u64::MAX), "");
        assert_eq!(time(1_700_000_000_123), "2023-11-14T22:13:20Z");
        assert_eq!(span_ms(0), "");
        assert_eq!(span_ms(250), "250ms");
        assert_eq!(span_ms(1_500), "1.5s");
        assert_eq!(span_ms(60_000), "1m");
        assert_eq!(span_ms(5_025_000), "1h 23m");
        assert_eq!(between_ms(0, 5), "");
        assert_eq!(between_ms(1_000, 3_000), "2s");
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }
}
