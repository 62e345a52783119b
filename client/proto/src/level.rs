//! Feature levels: which kinds of words the cluster's logs and objects may hold.
//!
//! Nodes of several versions run side by side while a cluster is upgraded node by node. A word that an older node cannot
//! read must not reach it, so a new kind of command, setting or field has a level of its own, and is refused until the
//! cluster is at that level. The cluster goes to the highest level that all its nodes know, by itself, and never back: from
//! then on a node that does not know the level cannot run in it.

/// Highest level known to this program.
pub const LEVEL: u32 = 2;

/// Level of a cluster that has not said otherwise.
pub const FIRST: u32 = 1;

/// From this level on the cluster says at which level it is.
pub const LEVELS: u32 = 2;

/// From this level on the meta group keeps an audit log, and users have rates and can be locked.
pub const AUDIT: u32 = 2;

/// From this level on PanDA's own programs are served, and results carry all that their pilots tell.
pub const PANDA: u32 = 2;
