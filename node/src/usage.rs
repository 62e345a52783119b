//! What this process uses.

use std::path::Path;

fn proc_value(file: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Resident memory, bytes.
pub fn rss_bytes() -> u64 {
    proc_value("/proc/self/status", "VmRSS:") * 1024
}

/// Bytes that this process had written to disk, as the kernel counts them.
pub fn written_bytes() -> u64 {
    proc_value("/proc/self/io", "write_bytes:")
}

/// CPU time of all threads since start, user and system, µs.
pub fn cpu_us() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| {
        [usage.user_time(), usage.system_time()]
            .iter()
            .map(|t| t.tv_sec() as u64 * 1_000_000 + t.tv_usec() as u64)
            .sum()
    })
}

/// Free bytes of the file system that holds `path`.
pub fn disk_free_bytes(path: &Path) -> u64 {
    nix::sys::statvfs::statvfs(path).map_or(0, |s| s.blocks_available() as u64 * s.fragment_size() as u64)
}
