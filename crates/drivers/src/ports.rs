//! Listening sockets, with an answer to "who has this port?" when one cannot be had.
//!
//! The holder is looked up on Linux only, and only processes that this user may look into are found.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that wait to be accepted before the kernel refuses more.
const BACKLOG: i32 = 1024;

/// A socket that is listened on.
pub type Listener = TcpListener;

/// Who listens where we wanted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// What it runs.
    pub program: String,
}

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Someone else listens there.
    #[error("listen on {addr}: the port is taken{}", describe(holder.as_ref()))]
    Busy {
        /// What was asked for.
        addr: SocketAddr,
        /// Who has it, if that could be found out.
        holder: Option<Holder>,
    },
    /// Low ports need a privilege.
    #[error("listen on {addr}: not permitted (ports below 1024 need CAP_NET_BIND_SERVICE or root)")]
    NotPermitted {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// The address belongs to none of this machine's interfaces.
    #[error("listen on {addr}: this machine has no such address")]
    NotOurs {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// Anything else.
    #[error("listen on {addr}: {source}")]
    Io {
        /// What was asked for.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

fn describe(holder: Option<&Holder>) -> String {
    holder.map_or_else(String::new, |holder| format!(" by {} (pid {})", holder.program, holder.pid))
}

/// Listens. Must be called inside the runtime. `[::]` takes IPv6 connections only.
pub fn bind(addr: SocketAddr) -> Result<TcpListener, BindError> {
    listen(addr).map_err(|source| bind_error(addr, source, find_holder))
}

/// What the system's refusal means, and who has the port if that is why.
pub(crate) fn bind_error(
    addr: SocketAddr,
    source: io::Error,
    find: fn(SocketAddr) -> Option<Holder>,
) -> BindError {
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Busy { addr, holder: find(addr) },
        io::ErrorKind::PermissionDenied => BindError::NotPermitted { addr },
        io::ErrorKind::AddrNotAvailable => BindError::NotOurs { addr },
        _ => BindError::Io { addr, source },
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier run that linger in TIME-WAIT must not keep the next run from starting.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        // Each family has a socket of its own, so that each can fail with its own message.
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// The process that listens on this address or on one that covers it.
#[cfg(target_os = "linux")]
pub fn find_holder(addr: SocketAddr) -> Option<Holder> {
    holder_in(["/proc/net/tcp", "/proc/net/tcp6"], LISTEN, addr)
}

/// The process that has this UDP address or one that covers it.
#[cfg(target_os = "linux")]
pub fn find_udp_holder(addr: SocketAddr) -> Option<Holder> {
    holder_in(["/proc/net/udp", "/proc/net/udp6"], UNCONNECTED, addr)
}

/// State of a TCP socket that listens, and of a UDP socket without a peer, as Linux writes them.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux has these tables"))]
const LISTEN: &str = "0A";
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux has these tables"))]
const UNCONNECTED: &str = "07";

#[cfg(target_os = "linux")]
fn holder_in(tables: [&str; 2], state: &str, addr: SocketAddr) -> Option<Holder> {
    let inodes: Vec<u64> = tables
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|table| inodes_in(&table, state, addr))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let holds = std::fs::read_dir(entry.path().join("fd")).ok()?.flatten().any(|fd| {
            std::fs::read_link(fd.path())
                .is_ok_and(|to| links.iter().any(|link| to.as_os_str() == link.as_str()))
        });
        holds.then(|| Holder { pid, program: program_of(pid) })
    })
}

/// The process that listens there; not known on this system.
#[cfg(not(target_os = "linux"))]
pub fn find_holder(_addr: SocketAddr) -> Option<Holder> {
    None
}

/// The process that has it; not known on this system.
#[cfg(not(target_os = "linux"))]
pub fn find_udp_holder(_addr: SocketAddr) -> Option<Holder> {
    None
}

#[cfg(target_os = "linux")]
fn program_of(pid: u32) -> String {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let name =
        exe.as_deref().and_then(std::path::Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let comm =
        || std::fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|comm| comm.trim_end().to_owned());
    name.or_else(comm).unwrap_or_else(|| "an unknown program".to_owned())
}

/// Sockets of a table of `/proc/net` in a state and where `wanted` would be.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
fn inodes_in(table: &str, wanted_state: &str, wanted: SocketAddr) -> Vec<u64> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let local = parse_hex_address(fields.nth(1)?)?;
            let state = fields.nth(1)?;
            let inode = fields.nth(5)?.parse().ok()?;
            (state == wanted_state && overlaps(local, wanted)).then_some(inode)
        })
        .collect()
}

fn overlaps(held: SocketAddr, wanted: SocketAddr) -> bool {
    held.port() == wanted.port()
        && (held.ip().to_canonical() == wanted.ip().to_canonical()
            || held.ip().is_unspecified()
            || wanted.ip().is_unspecified())
}

/// `0100007F:1F90`: words in the machine's own byte order, the port in hexadecimal.
fn parse_hex_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word =
        |at: usize| Some(u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_addresses_are_read_in_the_machines_byte_order() {
        let little = cfg!(target_endian = "little");
        let text = if little { "0100007F:1F90" } else { "7F000001:1F90" };
        assert_eq!(parse_hex_address(text), Some("127.0.0.1:8080".parse().unwrap()));
        let any = "00000000000000000000000000000000:0050";
        assert_eq!(parse_hex_address(any), Some("[::]:80".parse().unwrap()));
        for bad in ["", "xyz", "0100007F", "0100007F:zz", "01:0050"] {
            assert_eq!(parse_hex_address(bad), None);
        }
    }

    #[test]
    fn a_wildcard_listener_covers_every_address_of_its_port() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(overlaps(addr("0.0.0.0:80"), addr("127.0.0.1:80")));
        assert!(overlaps(addr("[::]:80"), addr("127.0.0.1:80")));
        assert!(overlaps(addr("[::ffff:127.0.0.1]:80"), addr("127.0.0.1:80")));
        assert!(!overlaps(addr("127.0.0.1:80"), addr("127.0.0.2:80")));
        assert!(!overlaps(addr("0.0.0.0:80"), addr("127.0.0.1:81")));
    }

    #[tokio::test]
    async fn a_taken_port_names_the_process_that_has_it() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = first.local_addr().unwrap();
        let error = bind(addr).unwrap_err();
        let BindError::Busy { holder, .. } = &error else { panic!("{error}") };
        if cfg!(target_os = "linux") {
            let holder = holder.as_ref().expect("our own sockets can be looked into");
            assert_eq!(holder.pid, std::process::id());
            assert!(error.to_string().contains(&format!("(pid {})", holder.pid)), "{error}");
        }
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_said_to_be_so() {
        let error = bind("203.0.113.1:0".parse().unwrap()).unwrap_err();
        assert!(matches!(error, BindError::NotOurs { .. }), "{error}");
    }

    #[tokio::test]
    async fn the_ipv6_wildcard_leaves_ipv4_to_a_socket_of_its_own() {
        let six = bind("[::]:0".parse().unwrap()).unwrap();
        let port = six.local_addr().unwrap().port();
        let four = bind(SocketAddr::from(([0, 0, 0, 0], port))).unwrap();
        tokio::net::TcpStream::connect(("::1", port)).await.unwrap();
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        drop((six, four));
    }
}
