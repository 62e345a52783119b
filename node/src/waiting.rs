//! Lease requests that wait for work. One is woken for new work, never all: whoever is woken and leaves work behind
//! wakes the next.

use super::sync::{ArcSwap, AtomicUsize, Notify, Ordering, fence};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Waiting requests of one queue.
#[derive(Default)]
pub struct WaitRoom {
    notify: Notify,
    waiting: AtomicUsize,
}

impl WaitRoom {
    /// Wakes one request, if one waits.
    pub fn wake_one(&self) {
        // The work was filed before: whoever enters after this sees it.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.notify.notify_one();
        }
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes a place. The place is left when the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> Place {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        Place { room: self.clone() }
    }
}

/// A place in a wait room.
pub struct Place {
    room: Arc<WaitRoom>,
}

impl Place {
    /// Completes when this request is woken.
    pub async fn woken(&self) {
        self.room.notify.notified().await;
    }

    /// The room.
    pub fn room(&self) -> &Arc<WaitRoom> {
        &self.room
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The wait rooms of all queues, made when first asked for.
#[derive(Default)]
pub struct WaitRooms {
    rooms: ArcSwap<BTreeMap<u32, Arc<WaitRoom>>>,
}

impl WaitRooms {
    /// The room of a queue.
    pub fn room(&self, queue: u32) -> Arc<WaitRoom> {
        if let Some(room) = self.rooms.load().get(&queue) {
            return room.clone();
        }
        self.rooms.rcu(|rooms| {
            let mut rooms = BTreeMap::clone(rooms);
            rooms.entry(queue).or_default();
            rooms
        });
        self.rooms.load().get(&queue).expect("just made, and never removed").clone()
    }

    /// Work has come to a queue.
    pub fn wake(&self, queue: u32) {
        if let Some(room) = self.rooms.load().get(&queue) {
            room.wake_one();
        }
    }

    /// Requests waiting, by queue.
    pub fn waiting(&self) -> Vec<(u32, usize)> {
        self.rooms.load().iter().map(|(&queue, room)| (queue, room.waiting())).filter(|(_, n)| *n > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_wake_between_looking_and_waiting_is_kept() {
        let rooms = WaitRooms::default();
        let place = rooms.room(7).enter();
        rooms.wake(7);
        assert_eq!(place.woken().now_or_never(), Some(()));
        assert_eq!(place.woken().now_or_never(), None, "one wake is one look");
    }

    #[test]
    fn one_is_woken_and_passes_the_wake_on_if_it_leaves() {
        let rooms = WaitRooms::default();
        let (first, second) = (rooms.room(7).enter(), rooms.room(7).enter());
        let (mut one, mut two) = (Box::pin(first.woken()), Box::pin(second.woken()));
        assert_eq!((one.as_mut().now_or_never(), two.as_mut().now_or_never()), (None, None));
        rooms.wake(7);
        assert_eq!(two.as_mut().now_or_never(), None);
        drop(one);
        assert_eq!(two.now_or_never(), Some(()));
    }

    #[test]
    fn nobody_is_woken_for_a_queue_that_nobody_asks_for() {
        let rooms = WaitRooms::default();
        drop(rooms.room(7).enter());
        rooms.wake(7);
        rooms.wake(8);
        assert_eq!(rooms.room(7).enter().woken().now_or_never(), None);
        assert!(rooms.waiting().is_empty());
    }
}
