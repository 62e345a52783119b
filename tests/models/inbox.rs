//! Inboxes and the mailbox of a reactor: what is left there wakes the reactor, which never sleeps beside it.

use super::{found_out, orders};
use crossbeam::sync::Parker;
use moso_node::directory::Inbox;
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// The order of steps of `Inbox::send_within`, `Mailbox::persisted` and the others: left first, woken then; and of
/// `Reactor::run`: sleeps only after a look at all that found nothing. An unpark before the park is kept, as crossbeam's
/// parker and a thread's own do.
fn reactor<const SENDERS: usize, const EACH: usize>(leaves_first: bool) {
    let boxes: Arc<[Mutex<VecDeque<usize>>; SENDERS]> = Arc::new(std::array::from_fn(|_| Mutex::default()));
    let reader = thread::current();
    let left = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let (boxes, reader, left) = (boxes.clone(), reader.clone(), left.clone());
            thread::spawn(move || {
                for number in 0..EACH {
                    if !leaves_first {
                        reader.unpark();
                    }
                    boxes[sender].lock().unwrap().push_back(number);
                    left.fetch_add(1, Ordering::Relaxed);
                    if leaves_first {
                        reader.unpark();
                    }
                }
            })
        })
        .collect();
    let mut taken = [0; SENDERS];
    while taken.iter().sum::<usize>() < SENDERS * EACH {
        let mut any = false;
        for (sender, mailbox) in boxes.iter().enumerate() {
            while let Some(number) = { mailbox.lock().unwrap().pop_front() } {
                assert_eq!(number, taken[sender], "in the order of each sender");
                taken[sender] += 1;
                any = true;
            }
        }
        if !any {
            thread::park();
        }
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    assert_eq!(left.load(Ordering::Relaxed), SENDERS * EACH);
}

#[test]
fn a_reactor_never_sleeps_beside_what_was_left() {
    orders(10_000, || reactor::<2, 2>(true));
}

/// One sender, in all orders that there are.
#[test]
fn a_reactor_never_sleeps_beside_what_one_sender_left() {
    loom::model(|| {
        let mailbox = loom::sync::Arc::new(loom::sync::Mutex::new(VecDeque::new()));
        let (there, reader) = (mailbox.clone(), loom::thread::current());
        let sender = loom::thread::spawn(move || {
            for number in 0..2 {
                there.lock().unwrap().push_back(number);
                reader.unpark();
            }
        });
        let mut taken = 0;
        while taken < 2 {
            let number = mailbox.lock().unwrap().pop_front();
            match number {
                Some(number) => {
                    assert_eq!(number, taken);
                    taken += 1;
                }
                None => loom::thread::park(),
            }
        }
        sender.join().unwrap();
    });
}

/// The model finds what is looked for.
#[test]
#[should_panic(expected = "deadlock")]
fn a_reactor_that_is_woken_too_early_is_found_out() {
    found_out(|| reactor::<2, 2>(false));
}

/// Real threads and the real inbox, full most of the time. A wake-up that is lost costs ten minutes here.
#[test]
fn a_real_inbox_wakes_its_reader() {
    const SENDERS: u64 = 3;
    const EACH: u64 = 30_000;
    let parker = Parker::new();
    let inbox = Inbox::new(64, parker.unparker().clone());
    let mut taken = [0u64; SENDERS as usize];
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let inbox = &inbox;
            scope.spawn(move || {
                for number in 0..EACH {
                    let mut request = (sender, number);
                    // What is refused comes back whole.
                    while let Err(back) = inbox.send_within(request, if number % 2 == 0 { 50 } else { 100 }) {
                        assert_eq!(back, (sender, number));
                        request = back;
                        std::thread::yield_now();
                    }
                }
            });
        }
        while taken.iter().sum::<u64>() < SENDERS * EACH {
            let mut any = false;
            while let Some(((sender, number), _)) = inbox.take() {
                let last = &mut taken[sender as usize];
                assert_eq!(number, *last, "each sender's come in order, none twice");
                *last += 1;
                any = true;
            }
            if !any {
                parker.park_timeout(Duration::from_secs(600));
            }
        }
    });
    assert!(inbox.is_empty());
    assert_eq!(taken, [EACH; SENDERS as usize]);
}
