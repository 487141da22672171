//! Routes and interfaces as the kernel prints them.

use std::fs;

use super::*;

#[cfg(target_endian = "little")]
#[test]
fn the_best_ipv4_default_route_is_the_one_with_the_lowest_metric() {
    let table = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0
eth1\t00000000\t010200C0\t0002\t0\t0\t1\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
short line
";
    let routes = parse_ipv4_routes(table);
    let names: Vec<&str> = routes.iter().map(|route| route.interface.as_str()).collect();
    assert_eq!(names, ["tun0", "eth0", "wlan0"]);
    assert_eq!(routes[0].gateway, None);
    assert_eq!(routes[1].gateway, Some("192.0.2.1".parse().unwrap()));
}

#[test]
fn ipv6_default_routes_leave_out_rejects_and_other_destinations() {
    let zero = "0".repeat(32);
    let hop = "fd000000000000000000000000000001";
    let table = format!(
        "{zero} 00 {zero} 00 {hop} 00000400 00000001 00000000 00000003 eth0\n\
         {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 lo\n\
         fd000000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001 eth0\n\
         {zero} 00 {zero} 00 {zero} 00000010 00000001 00000000 00000001 wg0\n"
    );
    let routes = parse_ipv6_routes(&table);
    assert_eq!(routes.len(), 2);
    assert_eq!((routes[0].interface.as_str(), routes[0].gateway, routes[0].metric), ("wg0", None, 16));
    assert_eq!(routes[1].gateway, Some("fd00::1".parse().unwrap()));
}

#[test]
fn interfaces_are_told_apart_by_what_the_kernel_says_about_them() {
    let sys = tempfile::tempdir().unwrap();
    let make = |name: &str, files: &[(&str, &str)]| {
        fs::create_dir_all(sys.path().join(name)).unwrap();
        for (file, content) in files {
            fs::write(sys.path().join(name).join(file), content).unwrap();
        }
    };
    make("eth0", &[("type", "1\n"), ("uevent", "INTERFACE=eth0\n")]);
    make("wlp2s0", &[("type", "1\n"), ("uevent", "DEVTYPE=wlan\nINTERFACE=wlp2s0\n")]);
    make("wwan0", &[("type", "65534\n")]);
    make("tun0", &[("type", "65534\n"), ("tun_flags", "0x1001\n")]);
    make("tap0", &[("type", "1\n"), ("tun_flags", "0x1002\n")]);
    make("home", &[("type", "65534\n"), ("uevent", "DEVTYPE=wireguard\n")]);

    let kinds = ["eth0", "wlp2s0", "wwan0", "tun0"].map(|name| kind_of(sys.path(), name));
    use InterfaceType::{Cellular, Ethernet, Unknown, Wifi};
    assert_eq!(kinds, [Ethernet, Wifi, Cellular, Unknown]);
    let tunnels = ["eth0", "tap0", "tun0", "home"].map(|name| is_tunnel(sys.path(), name));
    assert_eq!(tunnels, [false, false, true, true]);
    // Where the kernel says nothing (macOS) the name decides.
    assert!(is_tunnel(sys.path(), "utun3"));
    assert!(!is_tunnel(sys.path(), "en0"));
}

#[test]
fn loopback_is_reached_from_loopback_and_is_no_address_of_the_machine() {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert_eq!(source_address(loopback), Some(loopback));
    assert!(!addresses().contains(&loopback));
}
