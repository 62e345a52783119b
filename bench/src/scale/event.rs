//! The parts of a discrete-event simulation: virtual time, a heap of events, servers with a queue.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Virtual time, ns.
pub type Ns = u64;

/// µs as ns.
pub fn us(us: f64) -> Ns {
    (us * 1e3).round() as Ns
}

/// s as ns.
pub fn s(s: f64) -> Ns {
    (s * 1e9).round() as Ns
}

struct Entry<E> {
    at: Ns,
    number: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    /// The heap gives the greatest first: the earliest, and of these the one that was put in first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// What is to happen, by time. Events of one moment come in the order in which they were put in, so that a run depends
/// on its seed alone.
pub struct Events<E> {
    heap: BinaryHeap<Entry<E>>,
    now: Ns,
    number: u64,
}

impl<E> Events<E> {
    /// None, at time 0.
    pub fn new() -> Self {
        Events { heap: BinaryHeap::new(), now: 0, number: 0 }
    }

    /// The time of the last event taken.
    pub fn now(&self) -> Ns {
        self.now
    }

    /// Events put in so far.
    pub fn count(&self) -> u64 {
        self.number
    }

    /// Puts an event in; one that is late happens now.
    pub fn at(&mut self, at: Ns, event: E) {
        self.number += 1;
        self.heap.push(Entry { at: at.max(self.now), number: self.number, event });
    }

    /// Takes the next event; the time becomes its time.
    pub fn next(&mut self) -> Option<E> {
        let Entry { at, event, .. } = self.heap.pop()?;
        self.now = at;
        Some(event)
    }
}

/// Equal servers before which work queues, first come first served: threads, cores. Work is handed over in the order of
/// time, so its end is known at once.
pub struct Servers {
    /// When each is free.
    free: BinaryHeap<Reverse<Ns>>,
    busy: Ns,
}

impl Servers {
    /// `count` free ones.
    pub fn new(count: usize) -> Self {
        Servers { free: std::iter::repeat_n(Reverse(0), count.max(1)).collect(), busy: 0 }
    }

    /// Hands work over; returns when it is done.
    pub fn serve(&mut self, now: Ns, work: Ns) -> Ns {
        self.busy += work;
        let mut first = self.free.peek_mut().expect("there is at least one server");
        let done = first.0.max(now) + work;
        first.0 = done;
        done
    }

    /// When work that came now would begin.
    pub fn next_free(&self, now: Ns) -> Ns {
        self.free.peek().map_or(now, |first| first.0.max(now))
    }

    /// Work handed over so far.
    pub fn busy(&self) -> Ns {
        self.busy
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_as_they_were_put_in() {
        let mut events = Events::new();
        for (at, event) in [(30, "d"), (10, "a"), (20, "b"), (20, "c")] {
            events.at(at, event);
        }
        let mut seen = Vec::new();
        while let Some(event) = events.next() {
            seen.push((events.now(), event));
            if event == "d" {
                // Too late to be before.
                events.at(5, "e");
            }
        }
        assert_eq!(seen, [(10, "a"), (20, "b"), (20, "c"), (30, "d"), (30, "e")]);
        assert_eq!(events.count(), 5);
    }

    #[test]
    fn work_waits_for_a_free_server() {
        let mut servers = Servers::new(2);
        assert_eq!([servers.serve(0, 10), servers.serve(0, 20), servers.serve(0, 5)], [10, 20, 15]);
        assert_eq!((servers.next_free(12), servers.next_free(40)), (15, 40));
        assert_eq!(servers.serve(40, 1), 41);
        assert_eq!((servers.busy(), servers.count()), (36, 2));
    }

    #[test]
    fn one_server_has_the_waits_of_an_m_m_1_queue() {
        use rand::{Rng, SeedableRng, rngs::StdRng};
        let mut rng = StdRng::seed_from_u64(1);
        let mut draw = |mean: f64| (-mean * (1.0 - rng.random::<f64>()).ln()) as Ns;
        let (mut servers, mut now, mut waited) = (Servers::new(1), 0, 0.0);
        let jobs = 200_000;
        for _ in 0..jobs {
            now += draw(10_000.0);
            let work = draw(8_000.0);
            waited += (servers.serve(now, work) - now) as f64;
        }
        // Mean time in the system: service / (1 - utilisation).
        let mean = waited / f64::from(jobs);
        assert!((mean / 40_000.0 - 1.0).abs() < 0.1, "{mean}");
    }
}
