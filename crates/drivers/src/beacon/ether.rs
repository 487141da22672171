//! A network in memory, with the same limits as the real one.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use caelum_model::beacon::DATAGRAM_SENT_MAX;
use tokio::sync::mpsc;

use super::{Air, Destination, SendReport};

/// Datagrams that wait for whoever does not read; more are lost, as in a kernel.
const WAITING_MAX: usize = 1_024;

type Mailbox = mpsc::Sender<(Vec<u8>, SocketAddr)>;

/// The network.
#[derive(Clone, Default)]
pub struct Ether {
    hosts: Arc<Mutex<HashMap<SocketAddr, (u32, Mailbox)>>>,
    bytes: Arc<AtomicU64>,
}

impl Ether {
    /// Bytes that were sent so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A host with this address; hosts of one subnet hear what is sent to everyone.
    pub fn air(&self, addr: SocketAddr, subnet: u32) -> MemoryAir {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        self.hosts().insert(addr, (subnet, sender));
        MemoryAir { ether: self.clone(), addr, subnet, mail: tokio::sync::Mutex::new(receiver) }
    }

    fn hosts(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, (u32, Mailbox)>> {
        self.hosts.lock().expect("no code panics while it holds this lock")
    }
}

/// A host's air in memory.
pub struct MemoryAir {
    ether: Ether,
    addr: SocketAddr,
    subnet: u32,
    mail: tokio::sync::Mutex<mpsc::Receiver<(Vec<u8>, SocketAddr)>>,
}

#[async_trait]
impl Air for MemoryAir {
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self.mail.lock().await.recv().await {
            Some((bytes, from)) => {
                let length = bytes.len().min(buffer.len());
                buffer[..length].copy_from_slice(&bytes[..length]);
                Ok((length, from))
            }
            // Another host has taken the address.
            None => std::future::pending().await,
        }
    }

    async fn send(&self, to: Destination, bytes: &[u8]) -> SendReport {
        let mut report = SendReport::default();
        if bytes.len() > DATAGRAM_SENT_MAX {
            report.failures.push(format!("{} bytes are more than a datagram may have", bytes.len()));
            return report;
        }
        for (addr, (subnet, mailbox)) in self.ether.hosts().iter() {
            let is_meant = match to {
                Destination::Everyone | Destination::EveryoneSecond => {
                    *subnet == self.subnet && *addr != self.addr
                }
                Destination::One(one) => one == *addr,
            };
            if is_meant {
                // A full mailbox loses datagrams, as a kernel does.
                drop(mailbox.try_send((bytes.to_vec(), self.addr)));
            }
        }
        report.sent = 1;
        self.ether.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        report
    }

    fn source(&self) -> SocketAddr {
        self.addr
    }
}
