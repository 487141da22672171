//! This machine's own condition: processors, memory, disks, interfaces, temperatures.
//!
//! A [`HostSampler`] keeps what the rates need from one sample to the next. It blocks on files in `/proc`
//! and `/sys` for about a millisecond, so async callers run it on a blocking thread. It does not judge:
//! levels are made by `engine::health`.

use std::{collections::HashMap, ffi::CString, mem::MaybeUninit, path::Path, time::Instant};

use caelum_model::{
    UnixMs,
    host::{DiskSample, HostIdentity, HostSample, InterfaceSample, TemperatureSample, Usage},
};
use sysinfo::{
    Components, CpuRefreshKind, Disk, DiskRefreshKind, Disks, MemoryRefreshKind, RefreshKind, System,
};

/// Bounds on what one sample lists; hosts of a thousand containers have a thousand interfaces.
const MAX_DISKS: usize = 64;
const MAX_INTERFACES: usize = 64;
const MAX_TEMPERATURES: usize = 64;

/// Why this machine cannot be sampled.
#[derive(Debug, thiserror::Error)]
#[error("sample this machine: {0}")]
pub struct HostError(#[from] sysinfo::Error);

/// Bytes and errors an interface has counted since it came up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Traffic {
    received: u64,
    sent: u64,
    receive_errors: u64,
    send_errors: u64,
}

/// Takes samples, one after the other.
pub struct HostSampler {
    system: System,
    disks: Disks,
    components: Components,
    #[cfg(not(target_os = "linux"))]
    networks: sysinfo::Networks,
    traffic: HashMap<String, Traffic>,
    last: Option<Instant>,
}

impl HostSampler {
    /// A sampler whose first sample has no rates yet; processor shares count from here.
    pub fn new() -> Result<Self, HostError> {
        let cpu = CpuRefreshKind::nothing().with_usage();
        let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(cpu))?;
        Ok(Self {
            system,
            disks: Disks::new()?,
            components: Components::new()?,
            #[cfg(not(target_os = "linux"))]
            networks: sysinfo::Networks::new()?,
            traffic: HashMap::new(),
            last: None,
        })
    }

    /// What does not change while the machine is up.
    pub fn identity(&self) -> HostIdentity {
        let name = or_unknown(System::name());
        let os = System::os_version().map_or_else(|_| name.clone(), |version| format!("{name} {version}"));
        let cpus = self.system.cpus();
        HostIdentity {
            hostname: hostname(),
            os,
            kernel: or_unknown(System::kernel_version()),
            arch: System::cpu_arch(),
            cpu: cpus.first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default(),
            cpu_cores: u32::try_from(cpus.len()).unwrap_or(u32::MAX),
            addresses: crate::netinfo::addresses().iter().map(ToString::to_string).collect(),
            ssh_host_keys: Vec::new(),
        }
    }

    /// The machine now. `at_ms` is only written into the sample; rates use a clock that cannot jump.
    pub fn sample(&mut self, at_ms: UnixMs) -> HostSample {
        let now = Instant::now();
        let elapsed_s = self.last.replace(now).map(|last| now.duration_since(last).as_secs_f64());
        self.system.refresh_cpu_usage();
        self.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram().with_swap());
        let load = System::load_average().ok();
        HostSample {
            at_ms,
            cpu_percent: percent(self.system.global_cpu_usage()),
            cpu_core_percent: self.system.cpus().iter().map(|cpu| percent(cpu.usage())).collect(),
            memory: Usage {
                total_bytes: self.system.total_memory(),
                used_bytes: self.system.total_memory().saturating_sub(self.system.available_memory()),
            },
            swap: Usage { total_bytes: self.system.total_swap(), used_bytes: self.system.used_swap() },
            load_average: load.map_or([0.0; 3], |load| [load.one, load.five, load.fifteen]),
            disks: self.sample_disks(elapsed_s),
            interfaces: self.sample_interfaces(elapsed_s),
            process_count: self.count_processes(),
            uptime_seconds: System::uptime().unwrap_or_default(),
            temperatures: self.sample_temperatures(),
        }
    }

    fn sample_disks(&mut self, elapsed_s: Option<f64>) -> Vec<DiskSample> {
        let kind = DiskRefreshKind::nothing().with_storage().with_io_usage();
        self.disks.refresh_specifics(true, kind);
        let samples = self.disks.iter().filter(|disk| is_directory(disk)).map(|disk| {
            let usage = disk.usage();
            DiskSample {
                mount: disk.mount_point().to_string_lossy().into_owned(),
                device: disk.name().to_string_lossy().into_owned(),
                file_system: disk.file_system().to_string_lossy().into_owned(),
                space: space_of(disk.mount_point()).unwrap_or(Usage {
                    total_bytes: disk.total_space(),
                    used_bytes: disk.total_space().saturating_sub(disk.available_space()),
                }),
                read_bytes_per_s: rate(usage.read_bytes, elapsed_s),
                written_bytes_per_s: rate(usage.written_bytes, elapsed_s),
            }
        });
        keep_real_disks(samples.collect())
    }

    fn sample_interfaces(&mut self, elapsed_s: Option<f64>) -> Vec<InterfaceSample> {
        let mut now = self.read_traffic();
        // Interfaces that never carried anything are switched off or placeholders of the kernel.
        now.retain(|_, traffic| traffic.received > 0 || traffic.sent > 0);
        let mut samples: Vec<InterfaceSample> = now
            .iter()
            .map(|(name, traffic)| {
                // An interface that just appeared has no rate yet.
                let before = self.traffic.get(name).unwrap_or(traffic);
                InterfaceSample {
                    name: name.clone(),
                    received_bytes_per_s: rate(traffic.received.saturating_sub(before.received), elapsed_s),
                    sent_bytes_per_s: rate(traffic.sent.saturating_sub(before.sent), elapsed_s),
                    receive_errors: traffic.receive_errors,
                    send_errors: traffic.send_errors,
                }
            })
            .collect();
        samples.sort_by(|a, b| a.name.cmp(&b.name));
        samples.truncate(MAX_INTERFACES);
        self.traffic = now;
        samples
    }

    #[cfg(target_os = "linux")]
    fn read_traffic(&self) -> HashMap<String, Traffic> {
        // One file, where sysinfo would read twelve an interface.
        parse_net_dev(&std::fs::read_to_string("/proc/net/dev").unwrap_or_default())
    }

    #[cfg(not(target_os = "linux"))]
    fn read_traffic(&mut self) -> HashMap<String, Traffic> {
        self.networks.refresh(true);
        let networks = self.networks.iter().filter(|(name, _)| !name.to_string_lossy().starts_with("lo"));
        networks
            .map(|(name, network)| {
                let traffic = Traffic {
                    received: network.total_received(),
                    sent: network.total_transmitted(),
                    receive_errors: network.total_errors_on_received(),
                    send_errors: network.total_errors_on_transmitted(),
                };
                (name.to_string_lossy().into_owned(), traffic)
            })
            .collect()
    }

    /// Counts directories instead of reading a file of each process.
    #[cfg(target_os = "linux")]
    fn count_processes(&self) -> u64 {
        let is_number = |name: &[u8]| name.iter().all(u8::is_ascii_digit);
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter(|entry| is_number(entry.file_name().as_encoded_bytes())).count() as u64
    }

    #[cfg(not(target_os = "linux"))]
    fn count_processes(&mut self) -> u64 {
        let kind = sysinfo::ProcessRefreshKind::nothing().without_tasks();
        self.system.refresh_processes_specifics(sysinfo::ProcessesToUpdate::All, true, kind);
        self.system.processes().len() as u64
    }

    fn sample_temperatures(&mut self) -> Vec<TemperatureSample> {
        self.components.refresh(true);
        let mut samples: Vec<TemperatureSample> = self
            .components
            .iter()
            .filter_map(|component| {
                let celsius = component.temperature().filter(|celsius| celsius.is_finite())?;
                Some(TemperatureSample {
                    label: component.label().to_owned(),
                    celsius: f64::from(celsius),
                    critical_celsius: component.critical().filter(|c| c.is_finite()).map(f64::from),
                })
            })
            .collect();
        samples.sort_by(|a, b| a.label.cmp(&b.label));
        samples.truncate(MAX_TEMPERATURES);
        samples
    }
}

fn percent(share: f32) -> f64 {
    if share.is_finite() { f64::from(share).clamp(0.0, 100.0) } else { 0.0 }
}

fn rate(bytes: u64, elapsed_s: Option<f64>) -> f64 {
    elapsed_s.filter(|elapsed| *elapsed > 0.0).map_or(0.0, |elapsed| bytes as f64 / elapsed)
}

/// Containers mount single files (`/etc/hosts`) from the host's disk; those are no file systems of ours.
fn is_directory(disk: &Disk) -> bool {
    disk.mount_point().is_dir()
}

/// Space as `df` counts it: what is set aside for root is neither used nor there to be used. Without this, a
/// disk with large reserves looks nearly full when it is empty.
fn space_of(mount: &Path) -> Option<Usage> {
    let path = CString::new(mount.as_os_str().as_encoded_bytes()).ok()?;
    let mut stat = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends in a zero byte, and the pointer is valid for one `statvfs`, which a call that
    // succeeds has filled; all its fields are integers, for which zero is a value.
    let stat = unsafe { (libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) == 0).then(|| stat.assume_init())? };
    // The widths of these fields differ from system to system.
    let [unit, blocks, free, available] =
        [stat.f_frsize as u64, stat.f_blocks as u64, stat.f_bfree as u64, stat.f_bavail as u64];
    let used = blocks.saturating_sub(free);
    let bytes = |blocks: u64| blocks.saturating_mul(unit);
    Some(Usage { total_bytes: bytes(used.saturating_add(available)), used_bytes: bytes(used) })
}

/// Leaves out what is no disk, and all but the shortest mount point of each device. The root stays
/// whatever it stands on: in a container it is an overlay.
fn keep_real_disks(mut samples: Vec<DiskSample>) -> Vec<DiskSample> {
    /// File systems whose device is a name of their own instead of a path below `/dev`.
    const NAMED: [&str; 3] = ["zfs", "bcachefs", "apfs"];
    samples.retain(|disk| {
        let is_device = disk.device.starts_with("/dev/") && !disk.device.starts_with("/dev/loop");
        let is_real = is_device || NAMED.contains(&disk.file_system.as_str()) || disk.mount == "/";
        is_real && disk.space.total_bytes > 0
    });
    samples.sort_by(|a, b| (a.mount.len(), &a.mount).cmp(&(b.mount.len(), &b.mount)));
    let mut kept: Vec<DiskSample> = Vec::new();
    for sample in samples {
        if kept.iter().all(|other| other.device != sample.device && other.mount != sample.mount) {
            kept.push(sample);
        }
    }
    kept.truncate(MAX_DISKS);
    kept
}

/// `/proc/net/dev`: two lines of headings, then `name: rx bytes packets errs … tx bytes packets errs …`.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
fn parse_net_dev(table: &str) -> HashMap<String, Traffic> {
    const RECEIVED: usize = 0;
    const RECEIVE_ERRORS: usize = 2;
    const SENT: usize = 8;
    const SEND_ERRORS: usize = 10;
    table
        .lines()
        .filter_map(|line| {
            let (name, counters) = line.split_once(':')?;
            let counters: Vec<u64> =
                counters.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
            let name = name.trim();
            (name != "lo" && counters.len() > SEND_ERRORS).then(|| {
                let traffic = Traffic {
                    received: counters[RECEIVED],
                    sent: counters[SENT],
                    receive_errors: counters[RECEIVE_ERRORS],
                    send_errors: counters[SEND_ERRORS],
                };
                (name.to_owned(), traffic)
            })
        })
        .collect()
}

/// The name the machine gives itself; `unknown` where it gives none.
pub fn hostname() -> String {
    or_unknown(System::host_name())
}

fn or_unknown(value: Result<String, sysinfo::Error>) -> String {
    value.unwrap_or_else(|_| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(mount: &str, device: &str, file_system: &str) -> DiskSample {
        DiskSample {
            mount: mount.to_owned(),
            device: device.to_owned(),
            file_system: file_system.to_owned(),
            space: Usage { total_bytes: 100, used_bytes: 10 },
            ..DiskSample::default()
        }
    }

    #[test]
    fn a_sample_of_this_machine_is_plausible() {
        let mut sampler = HostSampler::new().unwrap();
        let identity = sampler.identity();
        assert!(!identity.hostname.is_empty() && !identity.arch.is_empty());
        let sample = sampler.sample(7);
        assert_eq!(sample.at_ms, 7);
        assert_eq!(sample.cpu_core_percent.len(), identity.cpu_cores as usize);
        assert!(sample.memory.used_bytes > 0 && sample.memory.used_bytes < sample.memory.total_bytes);
        assert!(sample.process_count > 0 && sample.uptime_seconds > 0);
        assert!(sample.disks.iter().any(|disk| disk.mount == "/"), "{:?}", sample.disks);
        assert!(sample.interfaces.iter().all(|interface| interface.name != "lo"));
    }

    #[test]
    fn the_first_sample_has_no_rates() {
        let sample = HostSampler::new().unwrap().sample(0);
        assert!(sample.disks.iter().all(|disk| disk.read_bytes_per_s == 0.0));
        assert!(sample.interfaces.iter().all(|interface| interface.received_bytes_per_s == 0.0));
    }

    #[test]
    fn each_device_appears_once_and_a_container_keeps_its_root() {
        let kept = keep_real_disks(vec![
            disk("/data", "/dev/sda1", "ext4"),
            disk("/", "overlay", "overlay"),
            disk("/var/lib/docker/overlay2/abc/merged", "overlay", "overlay"),
            disk("/data/deeper", "/dev/sda1", "ext4"),
            disk("/dev/shm", "tmpfs", "tmpfs"),
            disk("/snap/x/1", "/dev/loop3", "squashfs"),
            disk("/tank", "tank", "zfs"),
        ]);
        let mounts: Vec<&str> = kept.iter().map(|disk| disk.mount.as_str()).collect();
        assert_eq!(mounts, ["/", "/data", "/tank"]);
    }

    #[test]
    fn interface_counters_are_read_by_their_columns() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop\n    \
            lo: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n  eth0: 100 2 3 0 0 0 0 0 200 5 6 0 0 0 0 0\n";
        let traffic = parse_net_dev(table);
        assert_eq!(traffic.len(), 1);
        let expected = Traffic { received: 100, sent: 200, receive_errors: 3, send_errors: 6 };
        assert_eq!(traffic["eth0"], expected);
    }
}
