//! The air in memory: for tests, with as much trouble as they wish.
//!
//! Bytes are copied, counted and limited as over UDP; a listener that does not listen loses what it has no
//! room for. Subnets hear their own broadcasts only; single addresses are reached from everywhere.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, mpsc};

use super::{Air, Destination, SendReport, udp::too_large};

/// Datagrams that wait at a listener.
const WAITING_MAX: usize = 1_024;

/// A datagram on its way to one listener.
#[derive(Clone, Copy, Debug)]
pub struct Flight<'a> {
    /// From where.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// What.
    pub bytes: &'a [u8],
}

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Arrives,
    /// It is lost.
    Lost,
    /// It arrives twice.
    Doubled,
}

type Rule = Box<dyn FnMut(Flight<'_>) -> Fate + Send>;
type Letter = (Vec<u8>, SocketAddr);

/// What the airs of one world share.
#[derive(Clone, Default)]
pub struct Ether {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    listeners: Vec<Listener>,
    rule: Option<Rule>,
    bytes: u64,
}

struct Listener {
    addr: SocketAddr,
    subnet: u32,
    letters: mpsc::Sender<Letter>,
}

impl fmt::Debug for Ether {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Ether")
            .field("listeners", &state.listeners.len())
            .field("bytes", &state.bytes)
            .finish()
    }
}

impl Ether {
    /// A world without listeners, in which everything arrives.
    pub fn new() -> Self {
        Self::default()
    }

    /// A listener and speaker at an address, on a subnet. An earlier one at the address is silenced.
    pub fn air(&self, addr: SocketAddr, subnet: u32) -> MemoryAir {
        let (letters, inbox) = mpsc::channel(WAITING_MAX);
        let mut state = self.lock();
        state.listeners.retain(|listener| listener.addr != addr);
        state.listeners.push(Listener { addr, subnet, letters });
        MemoryAir { ether: self.clone(), addr, subnet, inbox: AsyncMutex::new(inbox) }
    }

    /// Decides from now on what becomes of each datagram.
    pub fn rule(&self, rule: impl FnMut(Flight<'_>) -> Fate + Send + 'static) {
        self.lock().rule = Some(Box::new(rule));
    }

    /// How much was sent, bytes; what is sent to many counts once for each.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener and speaker in memory.
#[derive(Debug)]
pub struct MemoryAir {
    ether: Ether,
    addr: SocketAddr,
    subnet: u32,
    inbox: AsyncMutex<mpsc::Receiver<Letter>>,
}

impl Drop for MemoryAir {
    fn drop(&mut self) {
        // A later air at the same address has closed our inbox; it is not ours to remove.
        if !self.inbox.get_mut().is_closed() {
            self.ether.lock().listeners.retain(|listener| listener.addr != self.addr);
        }
    }
}

#[async_trait::async_trait]
impl Air for MemoryAir {
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let letter = self.inbox.lock().await.recv().await;
        let (bytes, from) = letter.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotConnected, format!("another listens at {}", self.addr))
        })?;
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        Ok((length, from))
    }

    async fn send(&self, to: Destination, bytes: &[u8]) -> SendReport {
        let mut report = SendReport::default();
        if let Some(failure) = too_large(to, bytes) {
            report.failures.push(failure);
            return report;
        }
        let mut state = self.ether.lock();
        let State { listeners, rule, bytes: sent } = &mut *state;
        for listener in listeners.iter() {
            let is_meant = match to {
                Destination::Everyone | Destination::EveryoneSecond => listener.subnet == self.subnet,
                Destination::One(addr) => listener.addr == addr,
            };
            if !is_meant {
                continue;
            }
            *sent += bytes.len() as u64;
            let flight = Flight { from: self.addr, to: listener.addr, bytes };
            let copies = match rule.as_mut().map_or(Fate::Arrives, |rule| rule(flight)) {
                Fate::Arrives => 1,
                Fate::Lost => 0,
                Fate::Doubled => 2,
            };
            for _ in 0..copies {
                // Who does not listen loses it, as over UDP.
                drop(listener.letters.try_send((bytes.to_vec(), self.addr)));
            }
        }
        report.sent = 1;
        report
    }

    fn source(&self) -> SocketAddr {
        self.addr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[tokio::test]
    async fn a_rule_loses_and_doubles_and_bytes_are_counted() {
        let ether = Ether::new();
        let speaker = ether.air(addr("10.0.0.1:1"), 0);
        let listener = ether.air(addr("10.0.0.2:1"), 0);
        let to = Destination::One(addr("10.0.0.2:1"));
        ether.rule(|flight| match flight.bytes {
            b"lost" => Fate::Lost,
            b"doubled" => Fate::Doubled,
            _ => Fate::Arrives,
        });
        for word in ["lost", "doubled", "once"] {
            assert_eq!(speaker.send(to, word.as_bytes()).await.sent, 1);
        }
        let mut heard = Vec::new();
        for _ in 0..3 {
            let mut buffer = [0; 16];
            let (length, _) = listener.receive(&mut buffer).await.unwrap();
            heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        assert_eq!(heard, ["doubled", "doubled", "once"]);
        assert_eq!(ether.bytes(), 4 + 7 + 4);
    }

    #[tokio::test]
    async fn another_subnet_hears_what_is_sent_to_it_alone() {
        let ether = Ether::new();
        let here = ether.air(addr("10.0.0.1:1"), 0);
        let there = ether.air(addr("10.0.1.1:1"), 1);
        here.send(Destination::Everyone, b"all").await;
        here.send(Destination::One(addr("10.0.1.1:1")), b"you").await;
        let mut buffer = [0; 16];
        let (length, from) = there.receive(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..length], from), (&b"you"[..], addr("10.0.0.1:1")));
    }

    #[tokio::test]
    async fn a_later_air_at_an_address_silences_the_earlier() {
        let ether = Ether::new();
        let earlier = ether.air(addr("10.0.0.1:1"), 0);
        let later = ether.air(addr("10.0.0.1:1"), 0);
        assert!(earlier.receive(&mut [0; 16]).await.is_err());
        drop(earlier);
        later.send(Destination::Everyone, b"x").await;
        assert_eq!(later.receive(&mut [0; 16]).await.unwrap().0, 1);
    }
}
