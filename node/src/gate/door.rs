//! Who may connect to a port: so many in all, and so many of one address.

use super::line::{Guarded, Line, Use};
use super::{Gate, Reason};
use crate::limits::ACCEPT_PAUSE;
use crate::tls;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::{TcpListener, TcpStream};

#[derive(Default)]
struct Open {
    all: usize,
    /// By address; those of this machine are not counted.
    of_address: BTreeMap<IpAddr, usize>,
}

/// The door of a port.
pub struct Door {
    gate: Arc<Gate>,
    connections_max: usize,
    per_address_max: usize,
    open: Mutex<Open>,
}

/// A connection's place, given back when it is dropped.
pub struct Place {
    door: Arc<Door>,
    address: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.door.open();
        open.all -= 1;
        let Some(address) = self.address else { return };
        if let Some(count) = open.of_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                open.of_address.remove(&address);
            }
        }
    }
}

impl Door {
    /// A door for so many connections, and so many of one address.
    pub fn new(gate: Arc<Gate>, connections_max: usize, per_address_max: usize) -> Self {
        Door { gate, connections_max, per_address_max, open: Mutex::default() }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("no code panics while it holds this lock")
    }

    /// Connections open.
    pub fn connections(&self) -> usize {
        self.open().all
    }

    /// A place for a connection from this address; one from this machine counts only in all.
    ///
    /// # Errors
    /// Why there is none; it is counted.
    pub fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Place, Reason> {
        let address = address.map(|address| address.to_canonical()).filter(|address| !address.is_loopback());
        let mut open = self.open();
        let refused = match address {
            _ if open.all >= self.connections_max => Some(Reason::Connections),
            Some(address) if open.of_address.get(&address).is_some_and(|&n| n >= self.per_address_max) => {
                Some(Reason::Address)
            }
            _ => None,
        };
        if let Some(reason) = refused {
            self.gate.refusals.count(reason);
            return Err(reason);
        }
        open.all += 1;
        if let Some(address) = address {
            *open.of_address.entry(address).or_default() += 1;
        }
        Ok(Place { door: self.clone(), address })
    }

    /// The next connection that finds a place. While the node is behind they come in turns, so that many who connect again
    /// and again do not keep it from its work.
    pub async fn accept(self: &Arc<Self>, listener: &TcpListener) -> (TcpStream, Place) {
        loop {
            self.gate.pace.turn().await;
            let (stream, remote) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    if is_of_the_system(&error) {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            let Ok(place) = self.enter(Some(remote.ip())) else { continue };
            // Without it small answers wait; a socket that refuses is gone already.
            let _ = stream.set_nodelay(true);
            return (stream, place);
        }
    }

    /// Guards a connection that has a place here.
    pub fn guard(&self, line: tls::Line, kind: Use, place: Place) -> Guarded<tls::Line> {
        let caller = line.caller().clone();
        Guarded::new(line, Line::new(self.gate.clone(), kind, caller), place)
    }

    /// Counts a connection that was not let in.
    pub fn refused(&self, reason: Reason) {
        self.gate.refusals.count(reason);
    }
}

/// Whether the system lacks something, descriptors most likely: then nobody can connect for a while. Other errors are of
/// the one connection.
fn is_of_the_system(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(connections: usize, per_address: usize) -> (Arc<Gate>, Arc<Door>) {
        let gate = Gate::new(1 << 20);
        (gate.clone(), Arc::new(Door::new(gate, connections, per_address)))
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let (gate, door) = door(3, 2);
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let first = door.enter(Some(address)).unwrap();
        let _second = door.enter(Some(address)).unwrap();
        assert_eq!(door.enter(Some(address)).err(), Some(Reason::Address));
        // The same address, as a socket for both kinds of addresses writes it.
        assert_eq!(door.enter(Some("::ffff:192.0.2.1".parse().unwrap())).err(), Some(Reason::Address));
        let _third = door.enter(Some("192.0.2.2".parse().unwrap())).unwrap();
        assert_eq!(door.enter(Some("192.0.2.3".parse().unwrap())).err(), Some(Reason::Connections));
        drop(first);
        let again = door.enter(Some(address)).unwrap();
        assert_eq!((door.connections(), gate.refusals.counted(Reason::Address)), (3, 2));
        drop(again);
        assert_eq!(door.open().of_address.len(), 2);
    }

    #[test]
    fn those_of_this_machine_count_only_in_all() {
        let (_gate, door) = door(3, 1);
        let local: IpAddr = "127.0.0.5".parse().unwrap();
        let places: Vec<_> = (0..3).map(|_| door.enter(Some(local)).unwrap()).collect();
        assert_eq!(door.enter(Some(local)).err(), Some(Reason::Connections));
        drop(places);
        assert_eq!(door.connections(), 0);
    }
}
