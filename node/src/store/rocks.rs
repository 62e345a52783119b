//! What all RocksDB instances of a node share: memory, and the threads that flush and compact.

use crate::error::Error;
use crate::limits;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, Env, ErrorKind, LogLevel, Options,
    WriteBufferManager,
};
use std::path::Path;

const MIB: usize = 1 << 20;

/// Memory of a node's state stores. Bytes unless the name says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct SharedOptions {
    /// Blocks of all stores that are kept after being read.
    pub block_cache_bytes: usize,
    /// Not yet flushed writes of all stores. Beyond it the store written to is flushed; nobody waits for that.
    pub memtable_bytes: usize,
    /// One memtable of one column family; four may wait to be flushed.
    pub write_buffer_bytes: usize,
    /// Open files of one store. A node with many shards stays below its limit of open files.
    pub open_files: i32,
}

impl Default for SharedOptions {
    fn default() -> Self {
        SharedOptions {
            block_cache_bytes: 64 * MIB,
            memtable_bytes: 192 * MIB,
            write_buffer_bytes: 16 * MIB,
            open_files: 128,
        }
    }
}

/// What all state stores of a node share.
pub struct SharedRocks {
    database: Options,
    scanned: Options,
    looked_up: Options,
    filed: Options,
    memtables: WriteBufferManager,
}

impl SharedRocks {
    /// Makes cache, memtable budget and threads. One per process: RocksDB's threads are the process's.
    ///
    /// # Errors
    /// `Fatal` if RocksDB cannot make its environment.
    pub fn new(options: &SharedOptions) -> Result<SharedRocks, Error> {
        let mut env = Env::new().map_err(|error| Error::fatal("making RocksDB's environment", error))?;
        env.set_high_priority_background_threads(1);
        env.set_background_threads(1);
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        let memtables = WriteBufferManager::new_write_buffer_manager(options.memtable_bytes, false);

        let mut database = base_options(&env);
        database.create_missing_column_families(true);
        // With several column families and no WAL, only an atomic flush leaves a prefix of what was written.
        database.set_atomic_flush(true);
        database.set_write_buffer_manager(&memtables);
        database.set_max_open_files(options.open_files);

        let mut scanned = table_options(options, &cache, false);
        // Records are written and deleted within minutes; a scan at start should not walk over the dead.
        scanned.add_compact_on_deletion_collector_factory(4_096, 2_048, 0.5);
        let looked_up = table_options(options, &cache, true);
        let filed = filed_options(options, &cache);
        Ok(SharedRocks { database, scanned, looked_up, filed, memtables })
    }

    /// Bytes of memtables of all state stores.
    pub fn memtable_bytes(&self) -> usize {
        self.memtables.get_usage()
    }

    pub(super) fn database(&self) -> &Options {
        &self.database
    }

    /// A column family that is read as a whole, at start.
    pub(super) fn scanned(&self, name: &str) -> ColumnFamilyDescriptor {
        ColumnFamilyDescriptor::new(name, self.scanned.clone())
    }

    /// A column family of records that are filed by day, and read by key.
    pub(super) fn filed(&self, name: &str) -> ColumnFamilyDescriptor {
        ColumnFamilyDescriptor::new(name, self.filed.clone())
    }

    /// A column family that is read by key.
    pub(super) fn looked_up(&self, name: &str) -> ColumnFamilyDescriptor {
        ColumnFamilyDescriptor::new(name, self.looked_up.clone())
    }
}

/// What is filed by day and number comes nearly in the order of its keys: a merge of new tables takes in the last one
/// written before, and of each day the ended tasks, which lie behind its jobs. So tables and the first level are small,
/// and merges are few.
fn filed_options(shared: &SharedOptions, cache: &Cache) -> Options {
    let mut options = table_options(shared, cache, true);
    options.set_level_zero_file_num_compaction_trigger(12);
    options.set_target_file_size_base(8 * MIB as u64);
    options.set_target_file_size_multiplier(2);
    options.set_max_bytes_for_level_base(64 * MIB as u64);
    options
}

/// Options of every instance.
pub(super) fn base_options(env: &Env) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_env(env);
    // One flush and one compaction per instance; the threads are shared.
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(MIB as u64);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(MIB);
    options.set_stats_dump_period_sec(0);
    never_stall(&mut options);
    options
}

/// A stalled write would stop the reactor and with it the heartbeats of all its shards. Admission is checked before work
/// enters the log, not here.
fn never_stall(options: &mut Options) {
    options.set_level_zero_slowdown_writes_trigger(1 << 20);
    options.set_level_zero_stop_writes_trigger(1 << 20);
    options.set_soft_pending_compaction_bytes_limit(512 << 30);
    options.set_hard_pending_compaction_bytes_limit(2 << 40);
}

fn table_options(shared: &SharedOptions, cache: &Cache, point_reads: bool) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    if point_reads {
        table.set_bloom_filter(10.0, false);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(shared.write_buffer_bytes);
    options.set_max_write_buffer_number(4);
    options.set_compression_type(DBCompressionType::Lz4);
    never_stall(&mut options);
    options
}

/// An instance that cannot be opened: the replica's end if its files are damaged or missing, else the operator must act.
pub(super) fn open_error(path: &Path, shard: u16, error: rocksdb::Error) -> Error {
    let missing = error.to_string().contains("No such file or directory");
    if missing || matches!(error.kind(), ErrorKind::Corruption) {
        return Error::damaged(shard, crate::salvage::STATE_STORE, 0, format!("{}: {error}", path.display()));
    }
    Error::Folder { path: path.to_owned(), reason: format!("RocksDB cannot open it: {error}") }
}

/// A failed write. RocksDB goes on by itself when a full disk has space for its largest memtable again, which it looks for
/// every 5 s; until then it refuses writes, and says why.
/// A block found damaged while others are merged is the replica's end.
pub(super) fn write_error(shard: u16, what: &'static str, error: rocksdb::Error) -> Error {
    let reason = error.to_string();
    if matches!(error.kind(), ErrorKind::Corruption) {
        return Error::damaged(shard, crate::salvage::STATE_STORE, 0, reason);
    }
    let full = ["No space left on device", "Disk quota exceeded", "Space limit reached"];
    match full.iter().any(|words| reason.contains(words)) {
        true => Error::NoSpace { what, reason },
        false => Error::fatal(what, reason),
    }
}

/// A failed read: damaged blocks are the replica's end, anything else is the disk's.
pub(super) fn read_error(shard: u16, what: &'static str, at: u64, error: rocksdb::Error) -> Error {
    match error.kind() {
        ErrorKind::Corruption => Error::damaged(shard, what, at, error.to_string()),
        _ => Error::Read { what, reason: error.to_string() },
    }
}

/// Rows that one call may return.
pub(super) fn rows(limit: usize) -> usize {
    limit.min(limits::ROWS_READ_MAX)
}
