use crate::store::value;
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType};

const KEY: &[u8] = b"key";

fn entry(kind: EntryType, context: &'static [u8]) -> Entry {
    Entry {
        entry_type: kind,
        term: 7,
        index: 9,
        data: Bytes::from_static(b"payload"),
        context: Bytes::from_static(context),
        ..Entry::default()
    }
}

#[test]
fn entries_come_back() {
    for entry in [
        entry(EntryType::EntryNormal, b""),
        entry(EntryType::EntryConfChangeV2, b"context"),
        entry(EntryType::EntryConfChange, b""),
    ] {
        let mut bytes = Vec::new();
        value::encode_entry(KEY, &entry, &mut bytes).unwrap();
        assert_eq!(value::decode_entry(KEY, 9, bytes.into()), Ok(entry));
    }
}

#[test]
fn a_context_is_kept_only_for_configuration_changes() {
    let mut bytes = Vec::new();
    assert!(value::encode_entry(KEY, &entry(EntryType::EntryNormal, b"x"), &mut bytes).is_err());
    let mut large = entry(EntryType::EntryConfChangeV2, b"");
    large.context = vec![0; crate::limits::ENTRY_CONTEXT_BYTES_MAX + 1].into();
    assert!(value::encode_entry(KEY, &large, &mut bytes).is_err());
}

#[test]
fn every_changed_or_missing_byte_of_an_entry_is_noticed() {
    let mut bytes = Vec::new();
    value::encode_entry(KEY, &entry(EntryType::EntryConfChangeV2, b"context"), &mut bytes).unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        assert!(value::decode_entry(KEY, 9, damaged.into()).is_err(), "byte {at}");
        assert!(value::decode_entry(KEY, 9, Bytes::copy_from_slice(&bytes[..at])).is_err(), "cut at {at}");
    }
    assert_eq!(value::decode_entry(b"kez", 9, bytes.into()), Err("wrong checksum"));
}

#[test]
fn positions_and_configurations_come_back_and_damage_is_noticed() {
    let conf_state = ConfState {
        voters: vec![1, 2, u64::MAX],
        learners: vec![4],
        voters_outgoing: vec![],
        learners_next: vec![5],
        auto_leave: true,
        ..ConfState::default()
    };
    let position = value::encode_position(KEY, 8, 9);
    let conf = value::encode_conf_state(KEY, &conf_state).unwrap();
    assert_eq!(value::decode_position(KEY, &position), Ok((8, 9)));
    assert_eq!(value::decode_conf_state(KEY, &conf), Ok(conf_state));
    let damages = |bytes: &[u8], fails: &dyn Fn(&[u8]) -> bool| {
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(fails(&damaged) && fails(&bytes[..at]), "byte {at}");
        }
    };
    damages(&position, &|bytes| value::decode_position(KEY, bytes).is_err());
    damages(&conf, &|bytes| value::decode_conf_state(KEY, bytes).is_err());
}
