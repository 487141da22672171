//! Datagrams with what the kernel knows beside their bytes: when they came, how many hops they had left, and
//! what a machine on the way said about one that was sent earlier.
//!
//! On systems other than Linux the bytes and the sender are all there is. Nothing is judged here.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::net::UdpSocket;

/// What a machine on the way said about a packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// Who said it; none where this machine itself did.
    pub(crate) by: Option<IpAddr>,
    /// ICMP's type and code.
    pub(crate) kind: (u8, u8),
}

/// A datagram, or the beginning of one of ours that a complaint brought back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) length: usize,
    pub(crate) from: Option<SocketAddr>,
    pub(crate) ttl: Option<u8>,
    /// When the kernel got it, since 1970 by the machine's clock.
    pub(crate) at: Option<Duration>,
    pub(crate) complaint: Option<Complaint>,
}

/// What the kernel is asked to tell with each datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// When it came.
    Times,
    /// How many hops it had left.
    Hops,
    /// Complaints about packets that were sent.
    Complaints,
}

#[cfg(target_os = "linux")]
pub(crate) use linux::{receive, wish};

#[cfg(target_os = "linux")]
mod linux {
    use std::{mem, os::fd::AsRawFd};

    use super::{Complaint, Datagram, Duration, UdpSocket, Wish, address_of, io};

    /// Room for the control messages of one datagram, in words, so that it is aligned.
    const CONTROL_WORDS: usize = 64;
    const NAME_BYTES: usize = 128;

    /// Asks for something to be told with each datagram.
    pub(crate) fn wish(socket: &impl AsRawFd, is_v4: bool, wish: Wish) -> io::Result<()> {
        let (level, name) = match (wish, is_v4) {
            (Wish::Times, _) => (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
            (Wish::Hops, true) => (libc::IPPROTO_IP, libc::IP_RECVTTL),
            (Wish::Hops, false) => (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
            (Wish::Complaints, true) => (libc::IPPROTO_IP, libc::IP_RECVERR),
            (Wish::Complaints, false) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        };
        let on: libc::c_int = 1;
        // SAFETY: the socket is open, and the pointer and length are those of one `c_int`.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                name,
                (&raw const on).cast(),
                libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("four bytes"),
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Takes one datagram without waiting, or one of the complaints.
    pub(crate) fn receive(socket: &UdpSocket, buffer: &mut [u8], is_complaint: bool) -> io::Result<Datagram> {
        let mut control = [0_u64; CONTROL_WORDS];
        let mut name = [0_u8; NAME_BYTES];
        let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: a `msghdr` of zeros is one without anything.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_name = name.as_mut_ptr().cast();
        header.msg_namelen = libc::socklen_t::try_from(NAME_BYTES).expect("small");
        header.msg_iov = &raw mut slice;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = mem::size_of_val(&control) as _;
        let flags = if is_complaint { libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT } else { libc::MSG_DONTWAIT };
        // SAFETY: every pointer in the header is to memory of ours that outlives the call, with its length.
        let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let named = name.get(..header.msg_namelen as usize).unwrap_or_default();
        let mut datagram = Datagram { length, from: address_of(named), ..Datagram::default() };
        // SAFETY: the header is as the kernel left it: its control messages lie within `control`, and these
        // macros stay within `msg_controllen`.
        let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        while !at.is_null() {
            // SAFETY: not null, so it points to a whole control message whose data has the length it says.
            let (level, kind, bytes) = unsafe {
                let data = libc::CMSG_DATA(at);
                let before = data as usize - at as usize;
                let length = ((*at).cmsg_len as usize).saturating_sub(before);
                ((*at).cmsg_level, (*at).cmsg_type, std::slice::from_raw_parts(data, length))
            };
            note(&mut datagram, (level, kind), bytes);
            // SAFETY: as for the first.
            at = unsafe { libc::CMSG_NXTHDR(&raw const header, at) };
        }
        Ok(datagram)
    }

    fn word<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
        bytes.get(at..at + N)?.try_into().ok()
    }

    pub(super) fn note(datagram: &mut Datagram, kind: (i32, i32), bytes: &[u8]) {
        match kind {
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS) if bytes.len() >= 16 => {
                let seconds = word(bytes, 0).map_or(0, i64::from_ne_bytes);
                let ns = word(bytes, 8).map_or(0, i64::from_ne_bytes);
                let seconds = u64::try_from(seconds).ok();
                let ns = u32::try_from(ns).ok().filter(|ns| *ns < 1_000_000_000);
                datagram.at = seconds.zip(ns).map(|(seconds, ns)| Duration::new(seconds, ns));
            }
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                datagram.ttl = word(bytes, 0).and_then(|hops| u8::try_from(i32::from_ne_bytes(hops)).ok());
            }
            // `sock_extended_err` of 16 bytes, and the address of who complained.
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                const LOCAL: u8 = 1;
                let [origin, kind, code, _] = word(bytes, 4).unwrap_or_default();
                let by = bytes.get(16..).and_then(address_of).map(|address| address.ip());
                let by = by.filter(|_| origin > LOCAL);
                datagram.complaint = Some(Complaint { by, kind: (kind, code) });
            }
            _ => {}
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn wish<S>(_: &S, _: bool, wish: Wish) -> io::Result<()> {
    match wish {
        Wish::Times | Wish::Hops => Ok(()),
        Wish::Complaints => Err(io::ErrorKind::Unsupported.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn receive(socket: &UdpSocket, buffer: &mut [u8], is_complaint: bool) -> io::Result<Datagram> {
    if is_complaint {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let (length, from) = socket.try_recv_from(buffer)?;
    Ok(Datagram { length, from: Some(from), ..Datagram::default() })
}

/// Reads a `sockaddr` of this system.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux hands these out"))]
fn address_of(bytes: &[u8]) -> Option<SocketAddr> {
    #[cfg(target_os = "linux")]
    const FAMILIES: [i32; 2] = [libc::AF_INET, libc::AF_INET6];
    #[cfg(not(target_os = "linux"))]
    const FAMILIES: [i32; 2] = [2, 10];
    let family = i32::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
    let port = u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]);
    if family == FAMILIES[0] {
        let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
        Some((Ipv4Addr::from(ip), port).into())
    } else if family == FAMILIES[1] {
        let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
        Some((Ipv6Addr::from(ip), port).into())
    } else {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::SystemTime;

    use tokio::io::Interest;

    use super::*;

    #[tokio::test]
    async fn a_datagram_comes_with_its_time_and_the_hops_it_had_left() {
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let receiver = UdpSocket::bind((ip, 0)).await.unwrap();
            wish(&receiver, ip.is_ipv4(), Wish::Times).unwrap();
            wish(&receiver, ip.is_ipv4(), Wish::Hops).unwrap();
            let sender = UdpSocket::bind((ip, 0)).await.unwrap();
            sender.send_to(b"hello", receiver.local_addr().unwrap()).await.unwrap();
            let mut buffer = [0; 64];
            let take = || receive(&receiver, &mut buffer, false);
            let got = receiver.async_io(Interest::READABLE, take).await.unwrap();
            assert_eq!((got.length, got.from), (5, sender.local_addr().ok()));
            assert_eq!(got.ttl, Some(64));
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            assert!(now.abs_diff(got.at.unwrap()) < Duration::from_secs(60));
            assert_eq!(got.complaint, None);
        }
    }

    #[tokio::test]
    async fn a_complaint_says_who_refused_which_packet() {
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let closed = UdpSocket::bind((ip, 0)).await.unwrap().local_addr().unwrap();
            let sender = UdpSocket::bind((ip, 0)).await.unwrap();
            wish(&sender, ip.is_ipv4(), Wish::Complaints).unwrap();
            sender.send_to(b"hello", closed).await.unwrap();
            let mut buffer = [0; 64];
            let take = || receive(&sender, &mut buffer, true);
            let got = sender.async_io(Interest::READABLE | Interest::ERROR, take).await.unwrap();
            assert_eq!(&buffer[..got.length], b"hello");
            let unreachable = if ip.is_ipv4() { (3, 3) } else { (1, 4) };
            assert_eq!(got.complaint, Some(Complaint { by: Some(ip), kind: unreachable }));
        }
    }

    #[test]
    fn control_messages_of_any_length_are_read_without_a_panic() {
        let kinds = [
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
            (libc::IPPROTO_IP, libc::IP_TTL),
            (libc::IPPROTO_IP, libc::IP_RECVERR),
        ];
        for kind in kinds {
            for length in 0..48 {
                linux::note(&mut Datagram::default(), kind, &vec![0xff; length]);
                linux::note(&mut Datagram::default(), kind, &vec![2; length]);
            }
        }
    }
}
