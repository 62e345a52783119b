//! The meta group's commands and records.

use super::input::{Input, put_piece};
use super::reached::{self, reached, result};
use super::seeds_of;
use crate::samples::meta::split_records;
use moso_queue::meta::{MetaCommand, MetaMachine, MetaReply, MetaView};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The typed objects, if they can be read.
fn view(machine: &MetaMachine) -> Option<MetaView> {
    result(MetaView::new(machine))
}

/// A script of commands. Whatever can be read leaves a state that is the same after a restart, and typed objects that the
/// node can read.
pub(super) fn command(data: &[u8]) {
    let mut input = Input(data);
    let (mut machine, mut stored) = (MetaMachine::new(), BTreeMap::new());
    static BOOTSTRAP: LazyLock<Vec<u8>> = LazyLock::new(|| seeds_of_commands().swap_remove(0));
    machine.apply(1, &BOOTSTRAP).expect("the first command");
    for time_ms in 2..64 {
        if input.is_empty() {
            break;
        }
        let bytes = input.piece();
        if let Some(command) = result(MetaCommand::decode(bytes)) {
            let again = MetaCommand::decode(&command.encode());
            assert_eq!(again.ok().as_ref(), Some(&command), "a command comes back as another one");
        }
        let before = machine.version();
        match machine.apply(time_ms, bytes) {
            Ok(MetaReply::Ok(object)) => reached(object.kind),
            Ok(MetaReply::Refused { code, message }) => {
                assert_eq!(machine.version(), before, "a refused command changed something");
                reached(code);
                reached::text(message.split(['"', '`']).next().unwrap_or(""));
            }
            Err(_) => assert_eq!(machine.version(), before, "an unreadable command changed something"),
        }
    }
    for (key, value) in machine.take_dirty() {
        match value {
            Some(value) => stored.insert(key, value),
            None => stored.remove(&key),
        };
    }
    let loaded = MetaMachine::load(stored.into_iter()).expect("records that were just made");
    let (mut first, mut second) = (machine.encode_records(), loaded.encode_records());
    first.sort();
    second.sort();
    assert_eq!(first, second, "the state differs after a restart");
    assert!(view(&machine).is_some(), "an object that was taken cannot be read");
}

fn seeds_of_commands() -> Vec<Vec<u8>> {
    let all = crate::samples::all();
    all.into_iter().filter(|sample| sample.name.starts_with("meta/command")).map(|sample| sample.bytes).collect()
}

pub(super) fn command_seeds() -> Vec<Vec<u8>> {
    let commands = seeds_of_commands();
    let script = |commands: &[Vec<u8>]| {
        let mut script = Vec::new();
        commands.iter().for_each(|command| put_piece(&mut script, command));
        script
    };
    let mut seeds: Vec<Vec<u8>> = commands.iter().map(|command| script(std::slice::from_ref(command))).collect();
    seeds.push(script(&commands));
    seeds
}

/// Records of a store, read at the start of a node.
pub(super) fn record(data: &[u8]) {
    let records = split_records(data);
    reached(records.len().min(16));
    let Some(machine) = result(MetaMachine::load(records.into_iter())) else { return };
    view(&machine);
    let again = MetaMachine::load(machine.encode_records().into_iter()).expect("records that were just made");
    assert_eq!(again.version(), machine.version());
    assert_eq!(again.cluster(), machine.cluster());
}

pub(super) fn record_seeds() -> Vec<Vec<u8>> {
    seeds_of(&["meta"])
}
