//! Settings for load balancers in front of several servers, as text: HAProxy and nginx.
//!
//! # Purpose
//! Every server serves every page, every agent and every event, and a session holds on all of them: a balancer
//! needs no stickiness. What it needs is to know soon which servers are well, and to leave connections alone
//! that last: live pages (server-sent events) and links (WebSockets).
//!
//! # Rules
//! - HAProxy asks `/api/fleet/cluster/health` every two seconds; two bad answers and a server is out. Where no
//!   server is well by that, because what they coordinate by is away for all of them, those that can serve at
//!   all (`/health`) are used.
//! - nginx without a paid module asks nobody: it leaves a server out for a few seconds after a failed try, and
//!   tries the next.
//! - TLS is passed through unless asked otherwise: agents, joins and browsers then see Caelum's own
//!   certificates. Where the balancer ends TLS, agents must reach the servers themselves.
//! - Only what was checked is written: names of letters and digits, places without spaces.

use std::fmt::Write as _;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HAProxy, 2.2 or newer.
    Haproxy,
    /// nginx, 1.18 or newer.
    Nginx,
}

/// Where TLS ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// At the servers.
    #[default]
    Passthrough,
    /// At the balancer, with a certificate of its own; from there on it is TLS again.
    Terminate,
}

/// What is balanced.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which program.
    pub kind: Kind,
    /// Where TLS ends.
    pub tls: Tls,
    /// The port that the balancer listens on.
    pub port: u16,
    /// Name and `host:port` of each server.
    pub servers: Vec<(String, String)>,
}

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There is nobody to balance between.
    #[error("no server is known that others can reach")]
    NoServers,
    /// It would not be a line of the configuration.
    #[error("{0:?} is no HOST:PORT")]
    Place(String),
}

/// The configuration.
pub fn write(plan: &Plan) -> Result<String, PlanError> {
    if plan.servers.is_empty() {
        return Err(PlanError::NoServers);
    }
    for (_, place) in &plan.servers {
        let is_host = |host: &str| {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte))
        };
        let is_place =
            place.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok());
        if !is_place {
            return Err(PlanError::Place(place.clone()));
        }
    }
    let servers: Vec<(String, &str)> = plan
        .servers
        .iter()
        .map(|(name, place)| {
            let name = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' });
            (name.take(64).collect(), place.as_str())
        })
        .collect();
    Ok(match plan.kind {
        Kind::Haproxy => haproxy(plan, &servers),
        Kind::Nginx => nginx(plan, &servers),
    })
}

fn haproxy(plan: &Plan, servers: &[(String, &str)]) -> String {
    let mut text = String::from(
        "# HAProxy in front of Caelum. Check it with: haproxy -c -f FILE\n\
         #\n\
         # Every server serves everything and knows every session: nothing is sticky. A server that is cut off\n\
         # answers 503 to the check and is out within 5 seconds; its connections are closed, and pages and\n\
         # agents open others at once.\n",
    );
    let is_ended = plan.tls == Tls::Terminate;
    text.push_str(if is_ended {
        "#\n# TLS ends here, with a certificate of your own, and is made anew to the servers, whose authority is\n\
         # secrets/ca.pem of any server. Agents show certificates of their own and must reach the servers\n\
         # themselves. Servers see the address of this machine instead of their visitors'.\n\n"
    } else {
        "#\n# TLS is passed through: browsers, agents and joining machines see the servers' own certificates.\n\n"
    });
    let mode = if is_ended { "http" } else { "tcp" };
    let log = if is_ended { "httplog" } else { "tcplog" };
    let _ = write!(
        text,
        "global\n    log stderr format raw daemon\n    # As many connections as the limit of open files allows.\n\n\
         defaults\n    mode {mode}\n    log global\n    option {log}\n    option dontlognull\n    \
         timeout connect 2s\n    timeout check 2s\n    # Live pages and links last; both say something every few \
         seconds.\n    timeout client 1h\n    timeout server 1h\n    timeout tunnel 24h\n    retries 3\n    \
         # Another server is tried at once, not the same one again a second later.\n    \
         option redispatch 1\n\nfrontend caelum\n"
    );
    let port = plan.port;
    if is_ended {
        let _ = writeln!(text, "    bind :{port} ssl crt /etc/haproxy/caelum.pem alpn h2,http/1.1");
    } else {
        let _ = writeln!(text, "    bind :{port}");
    }
    text.push_str(
        "    # Where what the servers coordinate by is away for all of them, they serve on.\n    \
         use_backend caelum_any if { nbsrv(caelum) eq 0 }\n    default_backend caelum\n",
    );
    let tls = if is_ended {
        "ssl verify required ca-file /etc/haproxy/caelum-ca.pem"
    } else {
        "check-ssl verify none"
    };
    for (backend, uri) in [("caelum", "/api/fleet/cluster/health"), ("caelum_any", "/health")] {
        let _ = write!(
            text,
            "\nbackend {backend}\n    balance leastconn\n    option httpchk\n    http-check send meth GET uri \
             {uri} ver HTTP/1.1 hdr Host caelum\n    http-check expect status 200\n    default-server check {tls} \
             inter 2s fastinter 500ms downinter 1s fall 2 rise 2 on-marked-down shutdown-sessions\n"
        );
        for (name, place) in servers {
            let _ = writeln!(text, "    server {name} {place}");
        }
    }
    text
}

fn nginx(plan: &Plan, servers: &[(String, &str)]) -> String {
    let mut text = String::from(
        "# nginx in front of Caelum: the whole nginx.conf. Check it with: nginx -t -c FILE\n\
         #\n\
         # Every server serves everything and knows every session: nothing is sticky. This nginx asks nobody how\n\
         # he is (that takes a paid module): a server that does not answer is left out for five seconds, and the\n\
         # next one is tried at once.\n",
    );
    let mut upstream = String::from("    upstream caelum {\n        least_conn;\n");
    for (name, place) in servers {
        let _ = writeln!(upstream, "        server {place} max_fails=1 fail_timeout=5s; # {name}");
    }
    upstream.push_str("    }\n");
    let port = plan.port;
    match plan.tls {
        Tls::Passthrough => {
            let _ = write!(
                text,
                "#\n# TLS is passed through: browsers, agents and joining machines see the servers' own\n\
                 # certificates. Debian: apt-get install libnginx-mod-stream, and this line first:\n\
                 #   load_module modules/ngx_stream_module.so;\n\n\
                 events {{\n    worker_connections 8192;\n}}\n\nstream {{\n{upstream}\n    server {{\n        \
                 listen {port};\n        proxy_pass caelum;\n        proxy_connect_timeout 2s;\n        # Live \
                 pages and links last; both say something every few seconds.\n        proxy_timeout 1h;\n        \
                 proxy_next_upstream on;\n    }}\n}}\n"
            );
        }
        Tls::Terminate => {
            let _ = write!(
                text,
                "#\n# TLS ends here, with a certificate of your own, and is made anew to the servers, whose\n\
                 # authority is secrets/ca.pem of any server; every server's certificate has the name localhost.\n\
                 # Agents show certificates of their own and must reach the servers themselves.\n\n\
                 events {{\n    worker_connections 8192;\n}}\n\nhttp {{\n    map $http_upgrade \
                 $caelum_connection {{\n        default upgrade;\n        '' '';\n    }}\n{upstream}\n    server \
                 {{\n        listen {port} ssl;\n        ssl_certificate /etc/nginx/caelum.crt;\n        \
                 ssl_certificate_key /etc/nginx/caelum.key;\n        client_max_body_size 64m;\n\n        \
                 location / {{\n            proxy_pass https://caelum;\n            proxy_ssl_verify on;\n            \
                 proxy_ssl_trusted_certificate /etc/nginx/caelum-ca.pem;\n            proxy_ssl_name \
                 localhost;\n            proxy_ssl_server_name on;\n            proxy_ssl_session_reuse on;\n            \
                 proxy_http_version 1.1;\n            proxy_set_header Host $http_host;\n            \
                 proxy_set_header Upgrade $http_upgrade;\n            proxy_set_header Connection \
                 $caelum_connection;\n            proxy_connect_timeout 2s;\n            # Live pages and links \
                 last; both say something every few seconds, at once and not gathered.\n            \
                 proxy_read_timeout 1h;\n            proxy_send_timeout 1h;\n            proxy_buffering off;\n            \
                 proxy_request_buffering off;\n            proxy_next_upstream error timeout http_502 \
                 http_503;\n        }}\n    }}\n}}\n"
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(kind: Kind, tls: Tls) -> Plan {
        let servers = [("n-a", "192.0.2.1:8080"), ("n b\n", "[2001:db8::1]:8080")];
        let servers = servers.map(|(name, place)| (name.to_owned(), place.to_owned())).to_vec();
        Plan { kind, tls, port: 8443, servers }
    }

    #[test]
    fn every_server_is_named_and_nothing_is_sticky() {
        for kind in [Kind::Haproxy, Kind::Nginx] {
            for tls in [Tls::Passthrough, Tls::Terminate] {
                let text = write(&plan(kind, tls)).expect("written");
                assert!(text.contains("192.0.2.1:8080") && text.contains("[2001:db8::1]:8080"), "{text}");
                let mut said = text.lines().filter(|line| !line.trim_start().starts_with('#'));
                assert!(
                    !said.any(|line| ["cookie", "ip_hash", "stick"].iter().any(|word| line.contains(word)))
                );
                assert!(text.contains("8443") && text.contains("n-b-"), "{text}");
            }
        }
    }

    #[test]
    fn haproxy_asks_the_servers_how_they_are() {
        let text = write(&plan(Kind::Haproxy, Tls::Passthrough)).expect("written");
        assert!(
            text.contains("uri /api/fleet/cluster/health") && text.contains("expect status 200"),
            "{text}"
        );
        assert!(text.contains("timeout tunnel"));
    }

    #[test]
    fn what_would_be_another_line_is_refused() {
        for place in ["192.0.2.1:8080\n    server evil", "host", ":80", "a b:80", "a;b:80", "a:99999"] {
            let servers = vec![("n-a".to_owned(), place.to_owned())];
            let refused = write(&Plan { servers, ..plan(Kind::Nginx, Tls::Terminate) });
            assert_eq!(refused, Err(PlanError::Place(place.to_owned())));
        }
        assert_eq!(
            write(&Plan { servers: Vec::new(), ..plan(Kind::Haproxy, Tls::Passthrough) }),
            Err(PlanError::NoServers)
        );
    }
}
