//! Bytes that nobody wrote, and damaged ones: reading them is an error or gives something, but never a panic, and what
//! can be read can be applied.

use crate::random::{run, steps};
use crate::store::{SHARD, Store};
use crate::strategies::command;
use bytes::Bytes;
use moso_queue::class::ClassKey;
use moso_queue::codec::Get;
use moso_queue::command::{Command, EntryBuilder, read_entry};
use moso_queue::dependencies::Dependencies;
use moso_queue::job::{EndedJob, Job};
use moso_queue::machine::MetaRecord;
use moso_queue::task::{EndedTask, Task};
use moso_queue::{Effects, Machine, check};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// How bytes are damaged: at a place, one is replaced, taken out or put in; or the rest is cut off.
#[derive(Clone, Debug)]
enum Damage {
    Replace(Index, u8),
    Remove(Index),
    Insert(Index, u8),
    Cut(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let byte = || prop_oneof![any::<u8>(), Just(0), Just(1), Just(255), Just(127), Just(128)];
    prop_oneof![
        6 => (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        1 => any::<Index>().prop_map(Damage::Remove),
        1 => (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        1 => any::<Index>().prop_map(Damage::Cut),
    ]
}

fn damaged(bytes: &[u8], damages: &[Damage]) -> Bytes {
    let mut bytes = bytes.to_vec();
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        match damage {
            Damage::Replace(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Damage::Remove(at) => drop(bytes.remove(at.index(bytes.len()))),
            Damage::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
        }
    }
    bytes.into()
}

/// Reads the bytes as everything there is.
fn read_as_all(bytes: &Bytes) {
    let _ = Command::decode(bytes.clone());
    let _ = read_entry(bytes.clone());
    let _ = Job::decode(1, bytes.clone());
    let _ = Task::decode(1, bytes.clone());
    let _ = EndedJob::decode(1, bytes.clone());
    let _ = EndedTask::decode(1, bytes.clone());
    let _ = ClassKey::decode(&mut Get::new(bytes.clone(), "class"));
    let _ = MetaRecord::decode(bytes.clone());
    let _ = Dependencies::decode_body(bytes.clone(), 3);
    let _ = Machine::new(SHARD).apply(bytes.clone(), &mut Effects::default(), &mut Vec::new());
}

/// Loads a store one of whose records, chosen by `at`, is damaged.
fn load_damaged(store: &Store, at: &Index, damages: &[Damage]) {
    let mut store = store.clone();
    let records: Vec<&mut Bytes> = (store.classes.values_mut())
        .chain(store.tasks.values_mut())
        .chain(store.jobs.values_mut())
        .chain(store.bodies.values_mut())
        .collect();
    if records.is_empty() {
        return;
    }
    let chosen = at.index(records.len());
    let record = records.into_iter().nth(chosen).expect("the index is below the count");
    *record = damaged(record, damages);
    let mut machine = Machine::load(SHARD, MetaRecord::decode(store.meta.clone()).unwrap());
    for (&id, record) in &store.classes {
        let _ = machine.load_class(id, record.clone());
    }
    for (&seq, record) in &store.tasks {
        let _ = machine.load_task(seq, record.clone(), || store.bodies.get(&seq).cloned());
    }
    for (&seq, record) in &store.jobs {
        let _ = machine.load_job(seq, record.clone());
    }
    let _ = check::check(&machine);
    let _ = machine.digest();
}

proptest! {
    #![proptest_config(crate::cases(1_000))]

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..200), kind in 0..12u8) {
        read_as_all(&bytes.clone().into());
        // As a command of some kind, as a record of this format, as an entry of this format.
        let mut bytes = bytes;
        bytes.insert(0, kind);
        read_as_all(&bytes.into());
    }

    #[test]
    fn commands_come_back(command in command()) {
        prop_assert_eq!(Command::decode(command.to_bytes().into()), Ok(command));
    }

    #[test]
    fn damaged_commands_keep_the_invariants(
        commands in vec((command(), vec(damage(), 0..3)), 1..40),
        times in vec(prop_oneof![0..30_000u64, any::<u64>()], 40),
    ) {
        let mut machine = Machine::new(SHARD);
        for ((command, damages), time_ms) in commands.iter().zip(times) {
            let bytes = damaged(&command.to_bytes(), damages);
            read_as_all(&bytes);
            if Command::decode(bytes.clone()).is_err() {
                continue;
            }
            let mut entry = EntryBuilder::default();
            entry.push(&bytes);
            machine.apply(entry.finish(time_ms), &mut Effects::default(), &mut Vec::new()).unwrap();
            prop_assert_eq!(check::check(&machine), Ok(()));
        }
    }

    #[test]
    fn damaged_records_are_refused_or_read(
        steps in steps(20),
        damages in vec((any::<Index>(), vec(damage(), 1..3)), 20),
    ) {
        let store = run(&steps);
        for (at, damages) in &damages {
            load_damaged(&store, at, damages);
            let ended = store.ended_jobs.values().chain(store.ended_tasks.values());
            ended.for_each(|record| read_as_all(&damaged(record, damages)));
        }
    }
}
