//! The state folders of one replica: the one in use, copies of a leader's that may take its place, and the one that was
//! in use before, until the log has begun anew behind the copy.

use super::state::{Records, StateStore};

struct Folder {
    number: u64,
    /// A copy that was cut off in the middle is not.
    whole: bool,
    store: StateStore,
}

/// The state folders of one replica. They survive crashes; which of them is in use does not.
pub struct Folders {
    folders: Vec<Folder>,
    used: u64,
    next: u64,
}

impl Default for Folders {
    fn default() -> Folders {
        let empty = Folder { number: 0, whole: true, store: StateStore::default() };
        Folders { folders: vec![empty], used: 0, next: 1 }
    }
}

impl Folders {
    /// Number of the folder in use.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// The store in use.
    pub fn store(&mut self) -> &mut StateStore {
        let used = self.used;
        let folder = self.folders.iter_mut().find(|folder| folder.number == used);
        &mut folder.expect("the folder in use is there").store
    }

    /// Takes in a copy, in place of one that was cut off; returns the number of its folder.
    pub fn receive(&mut self, copy: Records, whole: bool) -> u64 {
        self.folders.retain(|folder| folder.whole);
        let number = self.next;
        self.next += 1;
        self.folders.push(Folder { number, whole, store: StateStore::of(copy) });
        number
    }

    /// From now on this folder is in use.
    pub fn switch(&mut self, number: u64) {
        self.used = number;
    }

    /// Removes a copy that is of no use.
    pub fn discard(&mut self, number: u64) {
        let used = self.used;
        self.folders.retain(|folder| folder.number != number || folder.number == used);
    }

    /// Removes what was in use before, and older copies.
    pub fn discard_older(&mut self) {
        let used = self.used;
        self.folders.retain(|folder| folder.number >= used);
    }

    /// Forgets what was not flushed.
    pub fn crash(&mut self) {
        self.folders.iter_mut().for_each(|folder| folder.store.crash());
    }

    /// After a start: of whole folders the one counts that has applied least, but not less than was cut off the log. The
    /// others go. `false`: there is none.
    pub fn recover(&mut self, truncated: u64) -> bool {
        let reaches = self.folders.iter().filter(|folder| folder.whole && folder.store.applied() >= truncated);
        let Some(number) = reaches.min_by_key(|folder| folder.store.applied()).map(|folder| folder.number) else {
            return false;
        };
        self.used = number;
        self.folders.retain(|folder| folder.number == number);
        true
    }

    /// Folders, copies included.
    pub fn len(&self) -> usize {
        self.folders.len()
    }
}
