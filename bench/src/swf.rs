//! Reads traces in the Standard Workload Format of the Parallel Workloads Archive.
//!
//! A job is a line of 18 numbers; comments start with `;` and name, among others, the partitions, which are the sites.
//! A line that is not a job is counted and skipped; more than one in a hundred means that the file is something else.

use crate::workload::{Record, Workload};
use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Fields of a line.
const FIELDS: usize = 18;
/// Bytes of a line: 18 numbers or a comment are far shorter.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Jobs read: all are held in memory.
const RECORDS_MAX: usize = 20_000_000;
/// Broken lines that are described.
const BROKEN_SHOWN: usize = 5;

/// Lines that were skipped.
#[derive(Debug, Default)]
pub struct Broken {
    /// How many.
    pub lines: u64,
    /// The first few: line number and what is wrong.
    pub first: Vec<String>,
}

/// A trace.
#[derive(Debug)]
pub struct Trace {
    /// Its jobs.
    pub workload: Workload,
    /// Its broken lines.
    pub broken: Broken,
}

/// Reads a trace file; a name that ends in `.gz` is unpacked on the way.
///
/// # Errors
/// When it cannot be read, has no job, or more than 1 % of its job lines are broken.
pub fn read_file(path: &Path) -> Result<Trace> {
    let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let packed = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"));
    let trace =
        if packed { read(&name, BufReader::new(MultiGzDecoder::new(file))) } else { read(&name, BufReader::new(file)) };
    trace.with_context(|| path.display().to_string())
}

/// Reads a trace.
///
/// # Errors
/// As [`read_file`].
pub fn read(name: &str, mut from: impl BufRead) -> Result<Trace> {
    let mut builder = Builder::default();
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let mut limited = from.by_ref().take(LINE_BYTES_MAX);
        let bytes = limited.read_until(b'\n', &mut line)? as u64;
        if bytes == 0 {
            break;
        }
        if bytes == LINE_BYTES_MAX {
            bail!("line {number} is longer than {LINE_BYTES_MAX} bytes: this is no trace");
        }
        builder.add(number, String::from_utf8_lossy(&line).trim())?;
    }
    builder.finish(name)
}

#[derive(Default)]
struct Builder {
    partitions: BTreeMap<u32, String>,
    /// Records with the partition's number in place of the site's position.
    records: Vec<(u32, Record)>,
    broken: Broken,
}

impl Builder {
    fn add(&mut self, number: u64, line: &str) -> Result<()> {
        if let Some(comment) = line.strip_prefix(';') {
            self.add_comment(comment);
            return Ok(());
        }
        if line.is_empty() {
            return Ok(());
        }
        match parse_job(line) {
            Ok(record) => self.records.push(record),
            Err(what) => {
                self.broken.lines += 1;
                if self.broken.first.len() < BROKEN_SHOWN {
                    self.broken.first.push(format!("line {number}: {what}"));
                }
            }
        }
        if self.records.len() > RECORDS_MAX {
            bail!("the trace has more than {RECORDS_MAX} jobs");
        }
        Ok(())
    }

    /// `Partition: 11 physik.uni-karlsruhe.de`
    fn add_comment(&mut self, comment: &str) {
        let Some((key, value)) = comment.split_once(':') else {
            return;
        };
        let mut words = value.split_whitespace();
        if key.trim() == "Partition"
            && let Some(number) = words.next().and_then(|word| word.parse().ok())
            && let Some(name) = words.next()
        {
            self.partitions.insert(number, name.to_owned());
        }
    }

    fn finish(mut self, name: &str) -> Result<Trace> {
        let jobs = self.records.len() as u64;
        if self.broken.lines * 100 > jobs + self.broken.lines {
            bail!(
                "{} of {} job lines are broken ({})",
                self.broken.lines,
                jobs + self.broken.lines,
                self.broken.first.join("; ")
            );
        }
        if jobs == 0 {
            bail!("there is no job in it");
        }
        self.records.sort_by_key(|(_, record)| record.submit_s);
        let first = self.records[0].1.submit_s;
        let used: BTreeSet<u32> = self.records.iter().map(|(site, _)| *site).collect();
        if used.len() > usize::from(u16::MAX) {
            bail!("it has {} sites; {} are the most", used.len(), u16::MAX);
        }
        let position: BTreeMap<u32, u16> = used.iter().copied().zip(0..).collect();
        let place = |(site, record): &(u32, Record)| Record {
            site: position[site],
            submit_s: record.submit_s - first,
            ..*record
        };
        Ok(Trace {
            workload: Workload {
                name: name.to_owned(),
                sites: site_names(&used, &self.partitions),
                records: self.records.iter().map(place).collect(),
            },
            broken: self.broken,
        })
    }
}

/// Queue names: the partitions' where they are known, made valid and distinct.
fn site_names(used: &BTreeSet<u32>, partitions: &BTreeMap<u32, String>) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut names = Vec::new();
    for number in used {
        let fallback = || format!("site-{number:03}");
        let name = partitions.get(number).cloned().unwrap_or_else(fallback);
        let good = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
        let mut name: String = name.chars().map(|c| if good(c) { c } else { '-' }).take(100).collect();
        if !taken.insert(name.clone()) {
            name = format!("{name}-{number}");
            taken.insert(name.clone());
        }
        names.push(name);
    }
    names
}

fn parse_job(line: &str) -> std::result::Result<(u32, Record), String> {
    let mut fields = [0.0f64; FIELDS];
    let mut count = 0;
    for word in line.split_whitespace() {
        let number: f64 =
            word.parse().map_err(|_| format!("{:?} is not a number", word.chars().take(20).collect::<String>()))?;
        if count < FIELDS {
            fields[count] = number;
        }
        count += 1;
    }
    if count != FIELDS {
        return Err(format!("{count} fields, not {FIELDS}"));
    }
    let submit = fields[1];
    if !(0.0..f64::from(u32::MAX)).contains(&submit) {
        return Err(format!("submitted at {submit}"));
    }
    // -1 is "unknown" everywhere: it becomes 0.
    let number = |field: usize| fields[field].clamp(0.0, f64::from(u32::MAX)) as u32;
    let record = Record {
        submit_s: submit as u32,
        run_s: number(3),
        wall_s: number(8),
        user: number(11),
        group: number(12),
        site: 0,
        // 0: failed, 5: cancelled.
        failed: fields[10] == 0.0 || fields[10] == 5.0,
    };
    Ok((number(15), record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const HEAD: &str = "; Version: 2.2\n; Partition:  1 grid.ici.ro   \n; Partition: 2 a b\n;\n";
    const JOB: &str = "1 7 -1 83 1 -1 -1 -1 1200 -1 -1 3 4 -1 -1 1 -1 -1\n";

    #[test]
    fn fields_and_sites_are_read() {
        let text = format!(
            "{HEAD}{JOB}2 5 -1 -1 1 -1 -1 -1 -1 -1 0 -1 -1 -1 -1 9 -1 -1\n\n3 9 -1 10.7 1 -1 -1 -1 60 -1 1 5 6 -1 -1 2 -1 -1\n"
        );
        let Trace { workload, broken } = read("t", text.as_bytes()).expect("a trace");
        assert_eq!(broken.lines, 0);
        assert_eq!(workload.sites, ["grid.ici.ro", "a", "site-009"]);
        let record = |submit_s, run_s, wall_s, user, group, site, failed| Record {
            submit_s,
            run_s,
            wall_s,
            user,
            group,
            site,
            failed,
        };
        assert_eq!(
            workload.records,
            [record(0, 0, 0, 0, 0, 2, true), record(2, 83, 1200, 3, 4, 0, false), record(4, 10, 60, 5, 6, 1, false),]
        );
    }

    #[test]
    fn a_packed_file_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("t.swf.gz");
        let file = File::create(&path).expect("a file");
        let mut packer = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        packer.write_all(JOB.as_bytes()).expect("written");
        packer.finish().expect("written");
        assert_eq!(read_file(&path).expect("a trace").workload.records.len(), 1);
    }

    #[test]
    fn few_broken_lines_are_named_and_skipped() {
        let text = format!("{}{}1 2 3\n", HEAD, JOB.repeat(150));
        let trace = read("t", text.as_bytes()).expect("a trace");
        assert_eq!(trace.workload.records.len(), 150);
        assert_eq!(trace.broken.lines, 1);
        assert_eq!(trace.broken.first, ["line 155: 3 fields, not 18"]);
    }

    #[test]
    fn many_broken_lines_are_an_error() {
        let broken = JOB.replace("83", "x");
        let text = format!("{}{}", JOB.repeat(98), broken.repeat(2));
        let error = read("t", text.as_bytes()).expect_err("2 %").to_string();
        assert!(error.starts_with("2 of 100 job lines are broken"), "{error}");
        assert!(error.contains("line 99: \"x\" is not a number"), "{error}");
    }

    #[test]
    fn no_trace_is_an_error() {
        assert!(read("t", &b""[..]).is_err());
        assert!(read("t", HEAD.as_bytes()).is_err());
        let long = vec![b'1'; LINE_BYTES_MAX as usize + 1];
        assert!(read("t", &long[..]).is_err());
        assert!(read("t", &[0xff, 0xfe, b'\n'][..]).is_err());
        assert!(read("t", JOB.replace(" 7 ", " -7 ").as_bytes()).is_err());
        assert!(read("t", JOB.replace(" 7 ", " NaN ").as_bytes()).is_err());
    }

    #[test]
    fn equal_partition_names_stay_apart() {
        let used = BTreeSet::from([1, 2]);
        let names = BTreeMap::from([(1, "x/y".to_owned()), (2, "x.y/".to_owned())]);
        assert_eq!(site_names(&used, &names), ["x-y", "x.y-"]);
        let names = BTreeMap::from([(1, "x".to_owned()), (2, "x".to_owned())]);
        assert_eq!(site_names(&used, &names), ["x", "x-2"]);
    }

    /// The grid trace is large and not part of the repository.
    #[test]
    fn the_grid_trace_is_read_whole() {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces/LCG-2005.swf.gz");
        let path = std::env::var_os("MOSO_TRACE").map_or(beside, Into::into);
        if !path.exists() {
            println!("skipped: {} is not there; set MOSO_TRACE", path.display());
            return;
        }
        let Trace { workload, broken } = read_file(&path).expect("a trace");
        assert_eq!(broken.lines, 0, "{broken:?}");
        assert_eq!(workload.records.len(), 188_041);
        assert_eq!(workload.sites.len(), 170);
        assert_eq!(workload.sites[39], "lxgate13.cern.ch");
        let mean = workload.records.iter().map(|r| f64::from(r.run_s)).sum::<f64>() / 188_041.0;
        assert!((7_900.0..8_100.0).contains(&mean), "{mean}");
    }
}
