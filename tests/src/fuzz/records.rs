//! Stored records of a shard's state.

use super::input::{Input, put_piece};
use super::reached::{self, reached, result};
use super::seeds_of;
use crate::samples::{self, Sample};
use bytes::Bytes;
use moso_proto::ShardId;
use moso_queue::machine::MetaRecord;
use moso_queue::{Machine, check};

const KINDS: [&str; 8] = ["job", "task", "class", "dependencies", "shard", "ended_job", "ended_task", "submission"];

/// One record: the first byte says of which kind. There is one encoding of each value.
pub(super) fn record(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    let Some(what) = KINDS.get(usize::from(kind)) else { return };
    reached(what);
    let Some(value) = result(samples::read(&format!("record/{what}"), bytes)) else { return };
    if let Some(again) = value.bytes {
        assert_eq!(again, bytes, "{what} is written as other bytes");
    }
}

fn tagged(sample: Sample) -> Vec<u8> {
    let name = sample.name.trim_start_matches("record/");
    let kind = KINDS.iter().position(|kind| *kind == name).expect("all records are listed");
    [&[kind as u8], sample.bytes.as_slice()].concat()
}

pub(super) fn record_seeds() -> Vec<Vec<u8>> {
    samples::all().into_iter().filter(|sample| sample.kind() == "record").map(tagged).collect()
}

/// A store of any records, read at the start of a node. Its checksums are right, so what the records say need not fit
/// together for a defect only; still nothing may panic.
pub(super) fn load(data: &[u8]) {
    let mut input = Input(data);
    let record = MetaRecord {
        now_ms: input.u64(),
        next_seq: input.u64(),
        ended_jobs: u64::from(input.u32()),
        dedup_floor_ms: input.u64(),
    };
    let mut machine = Machine::load(ShardId(1), record);
    while !input.is_empty() {
        let (kind, number) = (input.u8() % 4, input.u16());
        let bytes = Bytes::copy_from_slice(input.piece());
        let seq = u64::from(number);
        let outcome = match kind {
            0 => machine.load_class(u32::from(number), bytes),
            1 => {
                let body = Bytes::copy_from_slice(input.piece());
                machine.load_task(seq, bytes, || (!body.is_empty()).then_some(body))
            }
            2 => machine.load_job(seq, bytes),
            _ => {
                let mut both = [0; 32];
                let length = bytes.len().min(32);
                both[..length].copy_from_slice(&bytes[..length]);
                let (id, record) = both.split_at(16);
                machine.load_submission(
                    id.try_into().expect("half of 32 bytes"),
                    record.try_into().expect("half of 32 bytes"),
                );
                Ok(())
            }
        };
        result(outcome);
    }
    match check::check(&machine) {
        Ok(()) => reached("in order"),
        Err(why) => reached::text(why.split(':').nth(1).unwrap_or("")),
    }
    let _ = machine.digest();
    let _ = machine.memory_bytes();
}

pub(super) fn load_seeds() -> Vec<Vec<u8>> {
    let all = samples::all();
    let bytes = |name: &str| {
        let named = all.iter().find(|sample| sample.name == format!("record/{name}"));
        named.map(|sample| sample.bytes.clone()).expect("a sample of each record")
    };
    let mut seed = Vec::new();
    seed.extend(1_800_000_000_000u64.to_le_bytes());
    seed.extend(2_000u64.to_le_bytes());
    seed.extend(11u32.to_le_bytes());
    seed.extend(1_700_000_000_000u64.to_le_bytes());
    for (kind, number, name) in [(0u8, 4u16, "class"), (1, 1, "task"), (2, 2, "job"), (3, 0, "submission")] {
        seed.push(kind);
        seed.extend(number.to_le_bytes());
        put_piece(&mut seed, &bytes(name));
        if kind == 1 {
            put_piece(&mut seed, &bytes("dependencies"));
        }
    }
    vec![seed, seeds_of(&["record"]).concat()]
}
