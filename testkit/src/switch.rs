//! A network in user space: hosts in namespaces, joined by TUN devices whose packets pass through this
//! process, which delays, loses and throttles them as it is told.
//!
//! Kernels without `netem` exist, and a rule here changes between two packets. What it did to each packet is
//! known to it: [`Switch::held`] says how long packets were really held, which on a busy machine is a little
//! more than was asked for.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use caelum_engine::hash::mix;

use crate::lab::Host;

/// Largest packet.
const PACKET_MAX: usize = 1_500;
/// Longest queue in front of a throttled way; what does not fit is lost, as a router does it.
const QUEUE_MAX: Duration = Duration::from_millis(400);
/// `TUNSETIFF` of `linux/if_tun.h`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
/// `IFF_TUN | IFF_NO_PI`.
const TUN_WITHOUT_HEADER: i16 = 0x0001 | 0x1000;
/// Packets whose time in the switch is remembered.
const HELD_MAX: usize = 4_096;

/// What happens to packets of one way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rule {
    /// From this host only.
    pub from: Option<Ipv4Addr>,
    /// To this host only.
    pub to: Option<Ipv4Addr>,
    /// Held for this long …
    pub delay: Duration,
    /// … and up to this much more, by chance.
    pub jitter: Duration,
    /// Share that is lost, 0 to 1.
    pub loss: f64,
    /// Bits a second that pass.
    pub bits_per_s: Option<u64>,
}

impl Rule {
    /// Everything from and to a host, half of the delay each way.
    pub fn around(host: Ipv4Addr, rule: Self) -> [Self; 2] {
        [Self { from: Some(host), to: None, ..rule }, Self { from: None, to: Some(host), ..rule }]
    }

    fn is_about(&self, from: Ipv4Addr, to: Ipv4Addr) -> bool {
        self.from.is_none_or(|host| host == from) && self.to.is_none_or(|host| host == to)
    }
}

/// The network; gone when dropped.
pub struct Switch {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    news: Condvar,
    is_over: AtomicBool,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    /// When each throttled rule has room again.
    free_at: Vec<Option<Instant>>,
    devices: BTreeMap<Ipv4Addr, Arc<File>>,
    waiting: BinaryHeap<Reverse<Packet>>,
    sent: u64,
    chance: u64,
    held: Vec<(Ipv4Addr, Ipv4Addr, Duration)>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    due: Instant,
    number: u64,
    came: Instant,
    from: Ipv4Addr,
    to: Ipv4Addr,
    bytes: Vec<u8>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Switch {
    /// A network without hosts; chance comes from the seed.
    pub fn new(seed: u64) -> Self {
        let state = State { chance: seed, ..State::default() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            news: Condvar::new(),
            is_over: AtomicBool::new(false),
        });
        let delivering = Arc::clone(&shared);
        thread::spawn(move || deliver(&delivering));
        Self { shared }
    }

    /// Plugs a host in under this address, of a network of 24 bits.
    pub fn plug(&self, host: &Host, address: Ipv4Addr) -> Result<()> {
        let device = Arc::new(host.inside(open_tun)?);
        let lines = format!("address add {address}/24 dev tun0\nlink set tun0 mtu {PACKET_MAX} up");
        host.configure(&lines)?;
        self.shared.state().devices.insert(address, Arc::clone(&device));
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || take_in(&shared, &device));
        Ok(())
    }

    /// These rules hold from now on, all that are about a packet together. Packets on their way are not
    /// touched.
    pub fn set(&self, rules: Vec<Rule>) {
        let mut state = self.shared.state();
        state.free_at = vec![None; rules.len()];
        state.rules = rules;
    }

    /// How long the newest packets from one host to another were really held.
    pub fn held(&self, from: Ipv4Addr, to: Ipv4Addr) -> Vec<Duration> {
        let state = self.shared.state();
        state.held.iter().filter(|(a, b, _)| (*a, *b) == (from, to)).map(|(.., held)| *held).collect()
    }

    /// Forgets how long packets were held.
    pub fn forget_held(&self) {
        self.shared.state().held.clear();
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.shared.news.notify_all();
    }
}

fn open_tun() -> Result<File> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun").context(
        "open /dev/net/tun: the lab needs the kernel's TUN devices (`modprobe tun`, and the device in a container)",
    )?;
    let mut request = [0_u8; 40];
    request[..4].copy_from_slice(b"tun0");
    request[16..18].copy_from_slice(&TUN_WITHOUT_HEADER.to_ne_bytes());
    // SAFETY: the request is an ifreq of 40 bytes, which the kernel reads and fills in during the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) } != 0 {
        bail!("make a TUN device: {}", std::io::Error::last_os_error());
    }
    Ok(device)
}

/// Reads what a host sends, until the switch is gone.
fn take_in(shared: &Shared, device: &File) {
    let mut buffer = [0; PACKET_MAX + 64];
    while !shared.is_over.load(Ordering::Relaxed) {
        let mut reader = device;
        // A host that is gone takes its device with it.
        let Ok(length) = reader.read(&mut buffer) else { return };
        let bytes = &buffer[..length];
        // IPv4 only: of IPv6 there is nothing but questions for neighbours.
        if length < 20 || bytes[0] >> 4 != 4 {
            continue;
        }
        let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        shared.state().route(address(12), address(16), bytes);
        shared.news.notify_one();
    }
}

impl State {
    fn random(&mut self) -> f64 {
        self.chance = mix(self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15));
        (self.chance >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn route(&mut self, from: Ipv4Addr, to: Ipv4Addr, bytes: &[u8]) {
        let came = Instant::now();
        if !self.devices.contains_key(&to) {
            return;
        }
        let mut due = came;
        for at in 0..self.rules.len() {
            let rule = self.rules[at];
            if !rule.is_about(from, to) {
                continue;
            }
            if self.random() < rule.loss {
                return;
            }
            due += rule.delay + rule.jitter.mul_f64(self.random());
            if let Some(rate) = rule.bits_per_s {
                let free_at = self.free_at[at].unwrap_or(came).max(came);
                if free_at - came > QUEUE_MAX {
                    return;
                }
                let takes = Duration::from_secs_f64(bytes.len() as f64 * 8.0 / rate.max(1) as f64);
                self.free_at[at] = Some(free_at + takes);
                due += free_at + takes - came;
            }
        }
        self.sent += 1;
        let packet = Packet { due, number: self.sent, came, from, to, bytes: bytes.to_vec() };
        self.waiting.push(Reverse(packet));
    }
}

/// Hands packets over when they are due, until the switch is gone.
fn deliver(shared: &Shared) {
    let mut state = shared.state();
    while !shared.is_over.load(Ordering::Relaxed) {
        let now = Instant::now();
        let wait = state.waiting.peek().map(|Reverse(packet)| packet.due.saturating_duration_since(now));
        state = match wait {
            Some(Duration::ZERO) => {
                let Some(Reverse(packet)) = state.waiting.pop() else { continue };
                let device = state.devices.get(&packet.to).cloned();
                if state.held.len() >= HELD_MAX {
                    state.held.clear();
                }
                state.held.push((packet.from, packet.to, packet.came.elapsed()));
                drop(state);
                if let Some(device) = device {
                    // A host that is gone hears nothing.
                    drop((&*device).write(&packet.bytes));
                }
                shared.state()
            }
            Some(wait) => shared.news.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
            None => shared.news.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

/// Names that a host's programs ask this server for.
pub fn resolve_by(host: &Host, server: Ipv4Addr) -> Result<Names> {
    let folder = std::path::PathBuf::from("/etc/netns").join(host.name());
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    std::fs::write(folder.join("resolv.conf"), format!("nameserver {server}\n"))
        .with_context(|| format!("write {}", folder.display()))?;
    Ok(Names { folder })
}

/// A host's own `resolv.conf`; gone when dropped.
#[derive(Debug)]
pub struct Names {
    folder: std::path::PathBuf,
}

impl Drop for Names {
    fn drop(&mut self) {
        // A folder that stays is of a namespace that is gone.
        drop(std::fs::remove_dir_all(&self.folder));
    }
}
