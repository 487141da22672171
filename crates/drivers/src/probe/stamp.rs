//! `stamp://` targets: a train of numbered packets to a reflector, both ways told apart (RFC 8762).

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::{Duration, Instant},
};

use caelum_engine::{
    stamp::{ReflectedPacket, Reply, Train},
    target::PACKETS_MAX,
};
use caelum_model::event::ErrorStage;
use tokio::{io::Interest, net::UdpSocket};

use super::{Failure, Measurement, words};
use crate::{
    ancillary,
    fault::describe,
    stamp::{self, Moments},
};

/// Packets in a train where the target does not say.
const PACKETS_USUAL: u16 = 10;
/// Time between two: the rhythm of a voice codec.
const SPACING: Duration = Duration::from_millis(20);
/// After the last packet, an answer may take this many times the slowest one so far before it counts as
/// lost, but never less than [`SHORTEST_WAIT`].
const PATIENCE: u32 = 4;
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// The longest answer of which anything is read.
const ANSWER_MAX: usize = 512;

/// Sends the train and leaves what came back in the measurement.
pub(super) async fn send_train(
    address: SocketAddr,
    packets: Option<u16>,
    timeout: Duration,
    measurement: &mut Measurement,
) -> Result<(), Failure> {
    let failed = |detail: String| Failure::new(ErrorStage::Tcp, detail);
    let socket = stamp::socket_to(address).await.map_err(|error| failed(describe(&error)))?;
    let moments = Moments::begin();
    let mut sender = Sender { socket, moments, train: Train::new(moments.error()), complaint: None };
    let packets = packets.unwrap_or(PACKETS_USUAL).clamp(1, PACKETS_MAX);
    sender.run(packets, timeout).await.map_err(|error| failed(describe(&error)))?;
    let outcome = sender.train.outcome();
    measurement.rtt = Some(outcome.rtt);
    measurement.details.one_way = outcome.one_way;
    if outcome.rtt.received == 0 {
        return Err(failed(match sender.complaint {
            Some(error) if error.kind() == ErrorKind::ConnectionRefused => {
                format!("nothing reflects STAMP packets at {address}")
            }
            Some(error) => describe(&error),
            None => format!("none of {packets} packets came back within {}", words(timeout)),
        }));
    }
    Ok(())
}

struct Sender {
    socket: UdpSocket,
    moments: Moments,
    train: Train,
    /// What the network said about a packet that it could not deliver.
    complaint: Option<io::Error>,
}

impl Sender {
    async fn run(&mut self, packets: u16, timeout: Duration) -> io::Result<()> {
        let started = Instant::now();
        let mut last_sent = started;
        for number in 0..packets {
            last_sent = Instant::now();
            let packet = self.train.send(self.moments.now());
            match self.socket.send(&packet.encode()).await {
                Ok(_) => {}
                // An error that an earlier packet brought back is that packet's loss.
                Err(error) if is_about_the_path(&error) => self.complaint = Some(error),
                Err(error) => return Err(error),
            }
            let until = started + SPACING * u32::from(number + 1);
            if number + 1 < packets {
                self.receive(until).await?;
            }
        }
        while !self.train.is_whole() {
            let slowest = self.train.slowest_ns().and_then(|ns| u64::try_from(ns).ok());
            let patience = match (slowest, &self.complaint) {
                (Some(ns), _) => (Duration::from_nanos(ns) * PATIENCE).max(SHORTEST_WAIT),
                // Whoever says that nobody is there says it again.
                (None, Some(_)) => SHORTEST_WAIT,
                (None, None) => timeout,
            };
            let patience = patience.min(timeout);
            let deadline = last_sent + patience;
            if Instant::now() >= deadline {
                break;
            }
            self.receive_one(deadline).await?;
        }
        Ok(())
    }

    async fn receive(&mut self, until: Instant) -> io::Result<()> {
        while Instant::now() < until {
            self.receive_one(until).await?;
        }
        Ok(())
    }

    /// Waits for one datagram at most until then, and notes it if it answers one of ours.
    async fn receive_one(&mut self, until: Instant) -> io::Result<()> {
        let mut buffer = [0; ANSWER_MAX];
        let take = || ancillary::receive(&self.socket, &mut buffer, false);
        let taken = self.socket.async_io(Interest::READABLE, take);
        match tokio::time::timeout_at(until.into(), taken).await {
            Err(_) => Ok(()),
            Ok(Err(error)) if is_about_the_path(&error) => {
                self.complaint = Some(error);
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Ok(Ok(datagram)) => {
                let came = self.moments.of(datagram.at);
                if let Some(answer) = ReflectedPacket::parse(&buffer[..datagram.length.min(ANSWER_MAX)])
                    && self.train.receive(&answer, came) == Reply::Foreign
                {
                    tracing::trace!(code = "stamp.foreign", "an answer to nothing that was asked");
                }
                Ok(())
            }
        }
    }
}

fn is_about_the_path(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::ConnectionRefused
    )
}
