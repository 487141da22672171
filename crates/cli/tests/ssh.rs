//! Commands over SSH as people meet them: the real server and OpenSSH's own `sshd`, at many addresses of this
//! machine that count as many hosts, and in network namespaces.

#[path = "ssh/lab.rs"]
mod lab;
#[path = "ssh/many.rs"]
mod many;
#[path = "ssh/namespaces.rs"]
mod namespaces;
#[path = "ssh/one.rs"]
mod one;
#[path = "ssh/page.rs"]
mod page;
