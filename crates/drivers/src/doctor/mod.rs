//! What `caelum doctor` looks at outside this process. Nothing is judged here, and nothing stays open.

mod machine;
mod network;

pub use machine::{firewalls, free_bytes, is_clock_synchronised, open_files_max};
pub use network::{Heard, Loopback, PortState, ask_everybody, loopbacks, tcp_port, udp_port};
