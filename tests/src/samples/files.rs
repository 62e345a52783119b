//! Files of a node: who a data folder belongs to, and the configuration.

use super::{Sample, Value, unknown};
use moso_node::config::{Cli, Config};
use moso_node::store::identity::FOLDER_FORMAT;
use moso_node::store::{DataFolder, StoreId};
use serde_json::{Value as Json, json};
use std::path::Path;

const CLUSTER: &str = "sample";

/// Content beside its checksum, as the files of a data folder are.
pub(crate) fn sealed(content: &Json) -> Vec<u8> {
    let crc = crc32c::crc32c(content.to_string().as_bytes());
    let mut bytes = serde_json::to_vec_pretty(&json!({ "crc32c": crc, "content": content })).expect("JSON");
    bytes.push(b'\n');
    bytes
}

/// The content of an `IDENTITY` that [`open`] takes.
pub(crate) fn identity() -> Json {
    let store = StoreId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef).to_string();
    json!({ "format": FOLDER_FORMAT, "cluster": CLUSTER, "node": 1, "store": store })
}

fn seen() -> Json {
    json!({ "format": FOLDER_FORMAT, "stores": { "2": StoreId(2).to_string(), "3": StoreId(3).to_string() } })
}

/// Opens a folder that holds these files.
pub(crate) fn open(dir: &Path, identity: &[u8], seen: Option<&[u8]>) -> moso_node::error::Result<String> {
    let write = |name, bytes| {
        std::fs::write(dir.join(name), bytes)
            .map_err(|source| moso_node::error::Error::Io { what: format!("writing {name}"), source })
    };
    write("IDENTITY", identity)?;
    if let Some(seen) = seen {
        write("SEEN", seen)?;
    }
    let folder = DataFolder::open(dir, CLUSTER, 1)?;
    Ok(format!("{:#?}\n{:#?}\n", folder.identity(), folder.seen()?).replace(&dir.display().to_string(), "DIR"))
}

/// The configuration in force for this file.
pub(crate) fn read_config(dir: &Path, text: &[u8]) -> moso_node::error::Result<Config> {
    let path = dir.join("node.toml");
    std::fs::write(&path, text)
        .map_err(|source| moso_node::error::Error::Io { what: format!("writing {}", path.display()), source })?;
    Config::read(&Cli { config: Some(path), ..Cli::default() }, [])
}

/// A configuration with every key.
pub(crate) const CONFIG: &str = r#"cluster = "sample"
node = 2
data = "data/2"
api = "127.0.0.1:7402"
peer = "127.0.0.1:7502"
http = "127.0.0.1:7602"
listen_anywhere = false
shards = 6
replicas = 3
reactors = 2
api_threads = 4
raft_tick_ms = 100
election_ticks = 20
heartbeat_ticks = 3
log_segment_mib = 16
state_write_buffer_mib = 16
state_memory_mib = 192
block_cache_mib = 64

[[members]]
node = 1
api = "127.0.0.1:7401"
peer = "127.0.0.1:7501"
http = "127.0.0.1:7601"
zone = "rack-1"

[[members]]
node = 2
api = "127.0.0.1:7402"
peer = "127.0.0.1:7502"
http = "127.0.0.1:7602"

[[members]]
node = 3
api = "127.0.0.1:7403"
peer = "127.0.0.1:7503"
http = "127.0.0.1:7603"
zone = "rack-3"
"#;

pub(super) fn all() -> Vec<Sample> {
    vec![
        Sample::new("file", "identity", sealed(&identity())),
        Sample::new("file", "seen", sealed(&seen())),
        Sample::new("file", "config", CONFIG),
    ]
}

pub(super) fn read(what: &str, bytes: &[u8]) -> Result<Value, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let text = match what {
        "identity" => open(dir.path(), bytes, None),
        "seen" => open(dir.path(), &sealed(&identity()), Some(bytes)),
        "config" => read_config(dir.path(), bytes).map(|config| config.to_toml()),
        _ => return Err(unknown(what)),
    };
    match text {
        Ok(text) => Ok(Value { text, bytes: None }),
        Err(error) => Err(error.to_string().replace(&dir.path().display().to_string(), "DIR")),
    }
}
