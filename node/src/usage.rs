//! What this process uses. A figure that the system does not tell is 0: these are for people, nothing depends on them.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::statvfs::statvfs;
use nix::sys::time::TimeVal;
use std::fs;
use std::path::Path;

/// Resident memory, bytes.
pub fn rss_bytes() -> u64 {
    figure("/proc/self/status", "VmRSS:") * 1024
}

/// CPU time of all threads since the start, user and system, µs.
pub fn cpu_us() -> u64 {
    cpu_us_of(UsageWho::RUSAGE_SELF)
}

/// CPU time of the thread that asks, user and system, µs.
pub fn thread_cpu_us() -> u64 {
    cpu_us_of(UsageWho::RUSAGE_THREAD)
}

fn cpu_us_of(who: UsageWho) -> u64 {
    let us = |time: TimeVal| time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64;
    getrusage(who).map_or(0, |usage| us(usage.user_time()) + us(usage.system_time()))
}

/// Bytes that this process caused to be written to disks since the start.
pub fn written_bytes() -> u64 {
    figure("/proc/self/io", "write_bytes:")
}

/// Bytes that this process may still write to the file system of `path`.
pub fn disk_free_bytes(path: &Path) -> u64 {
    statvfs(path).map_or(0, |disk| disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Open file descriptors of this process.
pub fn open_fds() -> u64 {
    // Reading the folder opens one more.
    fs::read_dir("/proc/self/fd").map_or(0, |fds| (fds.count() as u64).saturating_sub(1))
}

/// The first number behind `key` in a file of `key number unit` lines.
fn figure(file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let number = text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn memory_and_processor_time_grow_with_use() {
        let rss = rss_bytes();
        let used = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(rss > 0 && rss_bytes() >= rss + (32 << 20), "{} after {rss}", rss_bytes());
        let cpu = cpu_us();
        let mut sum = 0u64;
        while cpu_us() < cpu + 1_000 {
            sum = used.iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)));
        }
        assert!(sum > 0);
    }

    #[test]
    fn disks_and_descriptors_are_counted() {
        let mut file = tempfile::tempfile().unwrap();
        let before = open_fds();
        let held: Vec<_> = (0..10).map(|_| file.try_clone().unwrap()).collect();
        assert!(open_fds() >= before + 10 - 5, "other tests of this process may close some");
        drop(held);
        file.write_all(&[1; 4096]).unwrap();
        file.sync_all().unwrap();
        assert!(disk_free_bytes(Path::new("/")) > 0);
        assert_eq!(disk_free_bytes(Path::new("/nowhere")), 0);
        assert_eq!(figure("/nowhere", "a"), 0);
    }
}
