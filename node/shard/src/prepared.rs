//! A copy of a leader's state that may take the place of a replica's.

use crate::output::Position;
use crate::replica::Replica;

/// At most one copy, as a machine, and where in the log it stands.
pub(crate) struct Prepared<M>(Option<(M, Position)>);

impl<M> Prepared<M> {
    /// None.
    pub(crate) fn none() -> Self {
        Prepared(None)
    }

    /// Takes a copy, instead of an earlier one. `false`: the earlier one is being taken up, and this one is dropped.
    pub(crate) fn put(&mut self, replica: &mut Replica, machine: M, at: Position) -> bool {
        let free = !replica.takes_snapshot();
        if free {
            replica.expect_snapshot(Some(at));
            self.0 = Some((machine, at));
        }
        free
    }

    /// Drops the copy. `false`: it is being taken up.
    pub(crate) fn forget(&mut self, replica: &mut Replica) -> bool {
        let free = !replica.takes_snapshot();
        if free {
            replica.expect_snapshot(None);
            self.0 = None;
        }
        free
    }

    /// The copy at `at`, whose snapshot was taken.
    ///
    /// # Panics
    /// If there is another one or none: only the snapshot of a copy that is here is taken.
    pub(crate) fn take(&mut self, at: Position) -> M {
        let (machine, prepared_at) = self.0.take().expect("only a snapshot whose copy is here is taken");
        assert_eq!(prepared_at, at, "only the snapshot of the copy that is here is taken");
        machine
    }
}
