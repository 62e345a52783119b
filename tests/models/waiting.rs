//! Lease requests that wait: while jobs and requests that fit are there, somebody is awake.

use super::{found_out, orders};
use moso_node::waiting::WaitRooms;
use moso_queue::ReadyIndex;
use moso_queue::class::{ClassId, ClassKey};
use moso_queue::ready::Wanted;
use moso_tests::model::{ordered, scheduled};
use shuttle::{future, thread};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const QUEUE: u32 = 1;

type Index = scheduled::ready::ReadyIndex;
type Room = scheduled::waiting::WaitRoom;

fn key() -> Arc<ClassKey> {
    Arc::new(ClassKey { queue: QUEUE, ..Default::default() })
}

fn look(index: &Index) -> Option<u64> {
    let mut out = Vec::new();
    let wanted = scheduled::ready::Wanted { fits: &|_| true, rank: &|_| 0, by_age: false, max: 1 };
    index.pop(QUEUE, &wanted, &mut out);
    out.first().map(|popped| popped.seq)
}

/// As `Dispatcher::wake_next`.
fn wake_next(index: &Index, room: &Room) {
    if index.summary(QUEUE).ready > 0 {
        room.wake_one();
    }
}

/// As `Dispatcher::lease`, but for the time after which a request looks by itself: here nothing else wakes it.
async fn lease(index: &Index, room: &Arc<Room>, passes_on: bool) -> u64 {
    let place = room.enter();
    loop {
        if let Some(seq) = look(index) {
            if passes_on {
                wake_next(index, room);
            }
            return seq;
        }
        place.woken().await;
    }
}

/// As many requests as jobs; each job wakes one.
fn requests<const JOBS: u64>(passes_on: bool) {
    let (index, room) = (Arc::new(Index::default()), Arc::new(Room::default()));
    let asking: Vec<_> = (0..JOBS)
        .map(|_| {
            let (index, room) = (index.clone(), room.clone());
            thread::spawn(move || future::block_on(lease(&index, &room, passes_on)))
        })
        .collect();
    for seq in 1..=JOBS {
        index.push(seq, ClassId(0), &key(), 0);
        room.wake_one();
    }
    let mut seqs: Vec<u64> = asking.into_iter().map(|request| request.join().unwrap()).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=JOBS).collect::<Vec<_>>());
    assert_eq!(room.waiting(), 0, "places are left");
}

#[test]
fn while_there_are_jobs_no_request_sleeps() {
    orders(20_000, || requests::<2>(true));
    orders(20_000, || requests::<3>(true));
}

/// The model finds what is looked for: two words while nobody is asleep yet are kept as one, so who takes it and does not
/// pass it on leaves another request asleep beside a job.
#[test]
#[should_panic(expected = "deadlock")]
fn a_request_that_does_not_pass_the_word_on_is_found_out() {
    found_out(|| requests::<3>(false));
}

/// A request that gives up passes on what it was woken for.
#[test]
fn a_request_that_gives_up_takes_no_word_with_it() {
    orders(2_000, || {
        let (index, room) = (Arc::new(Index::default()), Arc::new(Room::default()));
        let stays = {
            let (index, room) = (index.clone(), room.clone());
            thread::spawn(move || future::block_on(lease(&index, &room, true)))
        };
        let leaves = {
            let (index, room) = (index.clone(), room.clone());
            thread::spawn(move || {
                let place = room.enter();
                // Its time is up: it looks, is asleep for a moment, and ends without a last look.
                let found = look(&index);
                if found.is_none() {
                    future::block_on(async {
                        let mut woken = Box::pin(place.woken());
                        std::future::poll_fn(|context| {
                            let _ = woken.as_mut().poll(context);
                            std::task::Poll::Ready(())
                        })
                        .await;
                    });
                }
                wake_next(&index, &room);
                found
            })
        };
        (1..=2).for_each(|seq| {
            index.push(seq, ClassId(0), &key(), 0);
            room.wake_one();
        });
        let stayed = stays.join().unwrap();
        assert!(leaves.join().unwrap() != Some(stayed));
    });
}

/// Rooms are made by whoever asks first, at the same time or not; nobody is left in a room that no word reaches.
#[test]
fn two_that_make_a_room_share_it() {
    orders(1_000, || {
        let rooms = Arc::new(scheduled::waiting::WaitRooms::default());
        let making: Vec<_> = (0..3)
            .map(|queue| {
                let rooms = rooms.clone();
                thread::spawn(move || rooms.room(queue % 2))
            })
            .collect();
        let made: Vec<_> = making.into_iter().map(|room| room.join().unwrap()).collect();
        assert!(Arc::ptr_eq(&made[0], &made[2]) && Arc::ptr_eq(&made[0], &rooms.room(0)));
        assert!(Arc::ptr_eq(&made[1], &rooms.room(1)) && !Arc::ptr_eq(&made[0], &made[1]));
    });
}

/// All orders, with memory as weak as it may be: work is filed with a relaxed store and seen with a relaxed load, as the
/// index counts; only the fences of the room keep one from missing the other.
#[test]
fn work_and_waiting_do_not_miss_each_other() {
    use loom::sync::atomic::AtomicUsize;
    loom::model(|| {
        let room = loom::sync::Arc::new(Arc::new(ordered::waiting::WaitRoom::default()));
        let work = loom::sync::Arc::new(AtomicUsize::new(0));
        let (room_there, work_there) = (room.clone(), work.clone());
        let request = loom::thread::spawn(move || {
            let place = room_there.enter();
            if work_there.load(Relaxed) == 0 {
                loom::future::block_on(place.woken());
            }
        });
        work.store(1, Relaxed);
        room.wake_one();
        request.join().unwrap();
    });
}

fn real_look(index: &ReadyIndex) -> Option<u64> {
    let mut out = Vec::new();
    index.pop(QUEUE, &Wanted { fits: &|_| true, rank: &|_| 0, by_age: false, max: 1 }, &mut out);
    out.first().map(|popped| popped.seq)
}

/// Real threads, the real index, the real rooms: many requests for few jobs at a time. A request that slept for seconds
/// beside a job was not woken.
#[test]
fn real_requests_are_woken() {
    const JOBS: u64 = 20_000;
    const REQUESTS: u64 = 16;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_time().build().unwrap();
    let (index, rooms) = (Arc::new(ReadyIndex::default()), Arc::new(WaitRooms::default()));
    let room = rooms.room(QUEUE);
    let asking: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let (index, room) = (index.clone(), room.clone());
            runtime.spawn(async move {
                let mut taken = Vec::new();
                while (taken.len() as u64) < JOBS / REQUESTS {
                    let place = room.enter();
                    loop {
                        let found = real_look(&index);
                        if let Some(seq) = found {
                            taken.push(seq);
                            if index.summary(QUEUE).ready > 0 {
                                room.wake_one();
                            }
                            break;
                        }
                        // Far longer than a loaded machine lets a thread wait.
                        let woken = tokio::time::timeout(Duration::from_secs(60), place.woken()).await;
                        assert!(woken.is_ok() || index.summary(QUEUE).ready == 0, "asleep beside a job");
                    }
                }
                taken
            })
        })
        .collect();
    for seq in 1..=JOBS {
        index.push(seq, ClassId(0), &key(), 0);
        room.wake_one();
        if seq % 64 == 0 {
            index.tidy();
            std::thread::yield_now();
        }
    }
    let mut taken: Vec<u64> = asking.into_iter().flat_map(|request| runtime.block_on(request).unwrap()).collect();
    taken.sort_unstable();
    assert_eq!(taken, (1..=JOBS).collect::<Vec<_>>());
}
