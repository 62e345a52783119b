//! What must hold between the keys of a configuration.

use super::{Config, Member};
use crate::limits::{CLUSTER_NAME_BYTES_MAX, MEMBERS_MAX};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Bytes of a host name, by the rules of DNS.
const HOST_BYTES_MAX: usize = 253;

/// All that is wrong.
pub(super) fn check(config: &Config) -> Result<(), Vec<String>> {
    let mut errors = Vec::new();
    check_names(config, &mut errors);
    check_members(config, &mut errors);
    let listens = [("api", &config.api), ("peer", &config.peer), ("http", &config.http), ("panda", &config.panda)];
    for (key, address) in listens {
        check_listen(key, address, config.insecure, &mut errors);
    }
    let Config { replicas, election_ticks, heartbeat_ticks, .. } = config;
    if ![1, 3, 5].contains(replicas) {
        errors.push(format!("replicas = {replicas}: must be 1, 3 or 5 (replicas)"));
    } else if !config.join && *replicas as usize > config.members.len() {
        let members = config.members.len();
        errors.push(format!("replicas = {replicas}: must be at most the number of members, {members}"));
    }
    if heartbeat_ticks >= election_ticks {
        errors.push(format!(
            "heartbeat_ticks = {heartbeat_ticks}: must be less than election_ticks, {election_ticks} (ticks)"
        ));
    }
    if config.state_memory_mib < 2 * config.state_write_buffer_mib {
        errors.push(format!(
            "state_memory_mib = {}: must be at least twice state_write_buffer_mib, {} (MiB)",
            config.state_memory_mib, config.state_write_buffer_mib
        ));
    }
    if config.disk_low_mib < config.reserve_mib {
        errors.push(format!(
            "disk_low_mib = {}: must be at least reserve_mib, {} (MiB)",
            config.disk_low_mib, config.reserve_mib
        ));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn check_names(config: &Config, errors: &mut Vec<String>) {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let name = &config.cluster;
    if name.is_empty() {
        errors.push("cluster: must be given".to_owned());
    } else if name.len() > CLUSTER_NAME_BYTES_MAX || !name.bytes().all(allowed) {
        errors.push(format!(
            "cluster = {name:?}: must be 1 to {CLUSTER_NAME_BYTES_MAX} letters, digits, '-', '_' and '.'"
        ));
    }
    if config.node == 0 {
        errors.push("node: must be given".to_owned());
    }
    if config.data.as_os_str().is_empty() {
        errors.push("data: must be given".to_owned());
    }
}

fn check_members(config: &Config, errors: &mut Vec<String>) {
    if config.members.is_empty() || config.members.len() > MEMBERS_MAX {
        errors.push(format!("members: 1 to {MEMBERS_MAX} must be given, not {}", config.members.len()));
    } else if config.node != 0 && config.own_member().is_none() {
        errors.push(format!("node = {}: is not among the members", config.node));
    }
    let mut nodes = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for Member { node, api, peer, http, .. } in &config.members {
        if nodes.insert(node, ()).is_some() {
            errors.push(format!("members: node = {node} is given twice"));
        }
        for (key, address) in [("api", api), ("peer", peer), ("http", http)] {
            if !is_host_and_port(address) {
                errors.push(format!("members: node {node}: {key} = {address:?}: must be host:port"));
            } else if let Some(other) = addresses.insert(address, (*node, key)) {
                let (other, of) = other;
                errors.push(format!("members: node {node}: {key} = {address:?}: is the {of} address of node {other}"));
            }
        }
    }
}

fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let host_ok = !host.is_empty() && host.len() <= HOST_BYTES_MAX && !host.contains(char::is_whitespace);
    host_ok && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn check_listen(key: &str, address: &str, insecure: bool, errors: &mut Vec<String>) {
    match address.parse::<SocketAddr>() {
        // Without a member of its own, that is the mistake to tell; and the front for PanDA may be off.
        Err(_) if address.is_empty() => {}
        Err(_) => errors.push(format!(
            "{key} = {address:?}: must be an IP address and a port; if others reach the node by a name, give both"
        )),
        Ok(address) if !address.ip().is_loopback() && insecure => errors.push(format!(
            "{key} = {address}: others than this machine could connect, and with insecure = true nobody is asked who he is; \
             give certificates instead (tls_ca, tls_cert, tls_key: `moso ca --help`)"
        )),
        Ok(_) => {}
    }
}

/// A node that runs asks who calls, unless it was told not to.
pub(super) fn check_secured(config: &Config) -> Result<(), Vec<String>> {
    let required = [
        ("tls_ca", &config.tls_ca),
        ("tls_cert", &config.tls_cert),
        ("tls_key", &config.tls_key),
        ("session_keys", &config.session_keys),
    ];
    let optional = [("token_keys", &config.token_keys), ("token_issuers", &config.token_issuers)];
    let is_given = |path: &std::path::Path| !path.as_os_str().is_empty();
    let errors: Vec<String> = match config.insecure {
        true => {
            let all = required.iter().chain(&optional).filter(|(_, path)| is_given(path));
            all.map(|(key, _)| format!("{key}: is of no use with insecure = true; take one of them out")).collect()
        }
        false => {
            let missing = required.iter().filter(|(_, path)| !is_given(path));
            missing
                .map(|(key, _)| {
                    format!(
                        "{key}: must be given (`moso ca --help` makes it), or insecure = true to run on loopback only"
                    )
                })
                .collect()
        }
    };
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
