//! `moso-node verify`: is all of a stopped node's folder as it was written, and do replicas agree?

mod archive;
mod log;
mod replica;

use self::replica::Verified;
use super::finding::{Finding, Remedy, Report};
use super::folder::{ReplicaFolder, StoppedFolder};
use crate::error::Error;
use crate::store::{Applied, DamagedReplica, SharedOptions, SharedRocks, StateStore};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where replicas of a shard stand: digests are compared there.
type Positions = BTreeMap<u16, BTreeSet<(u64, u64)>>;
/// Digests by shard and position, each with the folder it is of.
type Digests = BTreeMap<(u16, u64, u64), Vec<(PathBuf, u64)>>;

/// Verifies the folders; whether all is well.
///
/// # Errors
/// Of printing.
pub fn verify(folders: &[PathBuf], out: &mut dyn Write) -> io::Result<bool> {
    let findings = findings(folders, out)?;
    match findings.len() {
        0 => writeln!(out, "all is well")?,
        count => writeln!(out, "{count} findings")?,
    }
    Ok(findings.is_empty())
}

/// Verifies the folders.
///
/// # Errors
/// Of printing.
pub fn findings(folders: &[PathBuf], out: &mut dyn Write) -> io::Result<Vec<Finding>> {
    let mut report = Report::new(out);
    let shared = match SharedRocks::new(&SharedOptions::default()) {
        Ok(shared) => shared,
        Err(error) => {
            report.finding("RocksDB", error, Remedy::AsSaid);
            return report.end();
        }
    };
    let (mut opened, mut given) = (Vec::new(), BTreeSet::new());
    for path in folders {
        report.about(path);
        if !given.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
            report.finding("folder", "is given twice", Remedy::AsSaid);
            continue;
        }
        match StoppedFolder::open(path) {
            Ok(folder) => opened.push(folder),
            Err(error @ Error::Folder { .. }) if error.to_string().contains("is damaged") => {
                report.finding("identity", error, Remedy::ReplaceNode);
            }
            Err(error) => report.finding("folder", error, Remedy::AsSaid),
        }
    }
    check_kin(&opened, &mut report);
    let positions = positions(&opened, &shared);
    let mut digests = Digests::new();
    for folder in &opened {
        report.about(&folder.path);
        verify_folder(folder, &shared, &positions, &mut digests, &mut report);
    }
    compare(&digests, &mut report);
    report.end()
}

/// Folders are compared only within a cluster, and no copies of each other.
fn check_kin(folders: &[StoppedFolder], report: &mut Report<'_>) {
    let mut seen = BTreeSet::new();
    for folder in folders {
        report.about(&folder.path);
        let identity = &folder.identity;
        if let Some(first) = folders.first().filter(|first| first.identity.cluster != identity.cluster) {
            let what = format!("of cluster {:?}, not {:?} as the first", identity.cluster, first.identity.cluster);
            report.finding("identity", what, Remedy::AsSaid);
        }
        if !seen.insert(identity.store) {
            let what = format!("store {} is that of another folder: one is a copy", identity.store);
            report.finding("identity", what, Remedy::AsSaid);
        }
    }
}

fn positions(folders: &[StoppedFolder], shared: &SharedRocks) -> Positions {
    let mut positions = Positions::new();
    for replica in folders.iter().flat_map(|folder| &folder.replicas) {
        // One that cannot be opened is reported when its folder is verified.
        let store = StateStore::open_read_only(&replica.path, replica.shard, shared);
        if let Some((applied, _)) = store.ok().and_then(|store| store.applied()) {
            positions.entry(replica.shard).or_default().insert((applied.index, applied.term));
        }
    }
    positions
}

fn verify_folder(
    folder: &StoppedFolder,
    shared: &SharedRocks,
    positions: &Positions,
    digests: &mut Digests,
    report: &mut Report<'_>,
) {
    let identity = &folder.identity;
    report.note(format_args!(
        "node {} of cluster {:?}, store {}, format {}",
        identity.node, identity.cluster, identity.store, identity.format
    ));
    let log = log::verify(&folder.path, report);
    let mut without_state: BTreeSet<u16> = log.iter().flat_map(|log| log.shards()).collect();
    let runs = |replica: &&ReplicaFolder| {
        !folder.damaged.iter().any(|damaged| (damaged.shard, damaged.peer) == (replica.shard, replica.peer))
    };
    for replica in folder.replicas.iter().filter(runs) {
        without_state.remove(&replica.shard);
        let goals: Vec<Applied> =
            positions.get(&replica.shard).into_iter().flatten().map(|&(index, term)| Applied { index, term }).collect();
        for Verified { at, digest } in replica::verify(replica, shared, log.as_ref(), &goals, report) {
            digests.entry((replica.shard, at.index, at.term)).or_default().push((folder.path.clone(), digest));
        }
    }
    for path in &folder.aside {
        report.note(format_args!("{} was set aside: remove it when nobody wants to look at it any more", name(path)));
    }
    for DamagedReplica { shard, peer, reason } in &folder.damaged {
        report.note(format_args!("shard {shard}: replica {peer} was found damaged and never runs again: {reason}"));
    }
    let aside = |shard: &u16| folder.damaged.iter().any(|replica| replica.shard == *shard);
    for shard in without_state.into_iter().filter(|shard| !aside(shard)) {
        let place = format!("shard {shard}");
        report.finding(place, "the log holds it, but its state's folder is missing", Remedy::ReplaceReplica(shard));
    }
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Replicas that applied the same entries must hold the same.
fn compare(digests: &Digests, report: &mut Report<'_>) {
    for ((shard, index, term), of) in digests.iter().filter(|(_, of)| of.len() > 1) {
        let different: BTreeSet<u64> = of.iter().map(|(_, digest)| *digest).collect();
        if different.len() == 1 {
            let replicas = of.len();
            report
                .print(format_args!("shard {shard}: {replicas} replicas agree at applied index {index}, term {term}"));
            continue;
        }
        let each: Vec<String> =
            of.iter().map(|(path, digest)| format!("{} has {digest:016x}", path.display())).collect();
        report.about(&of[0].0);
        report.finding(
            format_args!("shard {shard}, index {index}, term {term}"),
            format_args!("replicas that applied the same entries differ: {}", each.join(", ")),
            Remedy::Compare(*shard),
        );
    }
}
