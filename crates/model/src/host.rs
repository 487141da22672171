//! What a machine says about itself: who it is and how it fares at one moment.

use serde::{Deserialize, Serialize};

use crate::UnixMs;

/// Facts that do not change while the machine is up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostIdentity {
    /// Name the machine gives itself.
    pub hostname: String,
    /// Operating system with version, e.g. `Debian GNU/Linux 12`.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Instruction set, e.g. `x86_64`.
    pub arch: String,
    /// Processor name.
    pub cpu: String,
    /// Logical processors.
    pub cpu_cores: u32,
    /// Addresses of the machine's own interfaces, loopback left out, most useful first.
    pub addresses: Vec<String>,
    /// Keys that its SSH server shows: `ssh-ed25519 AAAA…`; none where it has no such server, or did not say.
    #[serde(default)]
    pub ssh_host_keys: Vec<String>,
}

/// Bytes used of bytes there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Usage {
    /// All there is, bytes.
    pub total_bytes: u64,
    /// In use, bytes (for memory: what is not available to new work).
    pub used_bytes: u64,
}

impl Usage {
    /// Share in use, 0 to 100; none where there is nothing to use (no swap).
    pub fn percent(&self) -> Option<f64> {
        (self.total_bytes > 0).then(|| self.used_bytes as f64 * 100.0 / self.total_bytes as f64)
    }
}

/// One mounted file system.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DiskSample {
    /// Where it is mounted.
    pub mount: String,
    /// The device.
    pub device: String,
    /// File system type.
    pub file_system: String,
    /// Space.
    pub space: Usage,
    /// Bytes read per second since the last sample.
    pub read_bytes_per_s: f64,
    /// Bytes written per second since the last sample.
    pub written_bytes_per_s: f64,
}

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InterfaceSample {
    /// Interface name.
    pub name: String,
    /// Bytes received per second since the last sample.
    pub received_bytes_per_s: f64,
    /// Bytes sent per second since the last sample.
    pub sent_bytes_per_s: f64,
    /// Receive errors since the interface came up.
    pub receive_errors: u64,
    /// Send errors since the interface came up.
    pub send_errors: u64,
}

/// One temperature sensor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TemperatureSample {
    /// What the sensor sits on.
    pub label: String,
    /// Degrees Celsius.
    pub celsius: f64,
    /// Where the maker says it is too hot.
    pub critical_celsius: Option<f64>,
}

/// How a machine fares at one moment. Rates are since the sample before; the first sample has zero rates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostSample {
    /// When it was taken, by the machine's own clock.
    pub at_ms: UnixMs,
    /// All processors together, 0 to 100.
    pub cpu_percent: f64,
    /// Each processor, 0 to 100.
    pub cpu_core_percent: Vec<f64>,
    /// Memory; used = total − available.
    pub memory: Usage,
    /// Swap.
    pub swap: Usage,
    /// Runnable processes averaged over 1, 5 and 15 minutes.
    pub load_average: [f64; 3],
    /// File systems on real devices.
    pub disks: Vec<DiskSample>,
    /// Interfaces, loopback left out.
    pub interfaces: Vec<InterfaceSample>,
    /// Processes.
    pub process_count: u64,
    /// Since boot, s.
    pub uptime_seconds: u64,
    /// Sensors, where there are any.
    pub temperatures: Vec<TemperatureSample>,
}

impl HostSample {
    /// The fullest file system's share, 0 to 100; none where no disk is known.
    pub fn disk_percent(&self) -> Option<f64> {
        self.disks.iter().filter_map(|disk| disk.space.percent()).reduce(f64::max)
    }
}
