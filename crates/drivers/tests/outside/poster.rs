//! The poster against a scripted ingest on this machine.

use std::{net::SocketAddr, time::Duration};

use caelum_drivers::{
    poster::{EventPoster, PostError},
    tls::Authority,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::servers::Web;

const ACCEPTED: &str = r#"{"status":"accepted","accepted":2,"duplicate":0,"ack_through":2}"#;

/// Answers each request on one connection after the other with the next of these, and returns what came.
async fn ingest(answers: Vec<String>) -> (SocketAddr, tokio::task::JoinHandle<(usize, Vec<String>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut connections, mut requests) = (0, Vec::new());
        let mut answers = answers.into_iter().peekable();
        while answers.peek().is_some() {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections += 1;
            while answers.peek().is_some() {
                let mut request = Vec::new();
                // The tests' bodies end in this line.
                while !request.ends_with(b"\n{\"end\":1}\n") {
                    match stream.read_u8().await {
                        Ok(byte) => request.push(byte),
                        Err(_) => break,
                    }
                }
                if request.is_empty() {
                    break;
                }
                requests.push(String::from_utf8(request).unwrap());
                stream.write_all(answers.next().unwrap().as_bytes()).await.unwrap();
            }
        }
        (connections, requests)
    });
    (address, task)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

fn poster(address: SocketAddr) -> EventPoster {
    EventPoster::new(&format!("http://{address}/events"), "secret-token", "").unwrap()
}

fn body() -> Vec<u8> {
    b"{\"a\":1}\n{\"end\":1}\n".to_vec()
}

#[tokio::test]
async fn events_go_out_with_the_token_over_one_kept_connection() {
    let (address, task) = ingest(vec![answer("202 Accepted", "", ACCEPTED); 3]).await;
    let poster = poster(address);
    for _ in 0..3 {
        let accepted = poster.post(body()).await.unwrap();
        assert_eq!((accepted.accepted, accepted.ack_through), (2, Some(2)));
    }
    let (connections, requests) = task.await.unwrap();
    assert_eq!((connections, requests.len()), (1, 3));
    let request = requests[0].to_lowercase();
    assert!(request.starts_with("post /events http/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: bearer secret-token\r\n"));
    assert!(request.contains("content-type: application/x-ndjson\r\n"));
    assert!(!format!("{poster:?}").contains("secret-token"), "the token stays out of logs");
}

#[tokio::test]
async fn refusals_say_whether_and_when_to_try_again() {
    let error = |code: &str| format!(r#"{{"error":{{"code":"{code}","message":"m","request_id":"r"}}}}"#);
    let cases = [
        ("429 X", "Retry-After: 7\r\n", "rate_limited", true, false, Some(7)),
        ("503 X", "Retry-After: 1\r\n", "overloaded", true, false, Some(1)),
        ("500 X", "", "internal", true, false, None),
        ("401 X", "", "unauthorized", false, true, None),
        ("403 X", "", "forbidden_client", false, true, None),
        ("413 X", "", "payload_too_large", false, false, None),
    ];
    for (status, headers, code, transient, about_sender, after_s) in cases {
        let (address, _task) = ingest(vec![answer(status, headers, &error(code))]).await;
        let refused = poster(address).post(body()).await.unwrap_err();
        assert_eq!(refused.is_transient(), transient, "{refused}");
        assert_eq!(refused.is_about_the_sender(), about_sender, "{refused}");
        assert_eq!(refused.retry_after(), after_s.map(Duration::from_secs));
        assert_eq!(refused.status().map(|status| status.to_string()).as_deref(), Some(&status[..3]));
        assert!(refused.to_string().contains(code), "{refused}");
    }
}

#[tokio::test]
async fn a_batch_without_one_good_event_names_the_bad_ones() {
    let refusal = r#"{"error":{"code":"invalid_request","message":"none was good","request_id":"r",
        "details":{"rejected":[{"index":1,"code":"invalid_timestamp","message":"too late"}]}}}"#;
    let (address, _task) = ingest(vec![answer("400 Bad Request", "", refusal)]).await;
    let refused = poster(address).post(body()).await.unwrap_err();
    assert!(!refused.is_transient() && !refused.is_about_the_sender());
    assert_eq!(refused.rejected()[0].code, "invalid_timestamp");
}

#[tokio::test]
async fn a_page_instead_of_an_answer_is_no_acceptance_and_tried_again() {
    for page in [answer("200 OK", "", "<html>log in</html>"), answer("302 X", "Location: /login\r\n", "")] {
        let (address, _task) = ingest(vec![page]).await;
        let error = poster(address).post(body()).await.unwrap_err();
        assert!(matches!(error, PostError::Foreign { .. }) && error.is_transient(), "{error}");
    }
}

#[tokio::test]
async fn a_dead_ingest_is_unreachable_with_the_cause_in_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = poster(address).post(body()).await.unwrap_err();
    assert!(error.is_transient());
    assert!(error.to_string().ends_with("connection refused"), "{error}");
}

#[tokio::test]
async fn an_ingest_with_a_certificate_of_our_own_authority_is_trusted_and_no_other() {
    let authority = Authority::create("ours").unwrap();
    let issued = authority.issue_server(&[], &["127.0.0.1".parse().unwrap()], 30).unwrap();
    let web = Web::new(&answer("202 Accepted", "", ACCEPTED)).secured(&issued).start().await;
    let url = format!("https://{web}/events");
    let trusting = EventPoster::new(&url, "t", authority.certificate_pem()).unwrap();
    assert_eq!(trusting.post(body()).await.unwrap().accepted, 2);
    let stranger = EventPoster::new(&url, "t", "").unwrap();
    let error = stranger.post(body()).await.unwrap_err();
    assert!(error.to_string().ends_with("certificate from an unknown authority"), "{error}");
}

#[test]
fn addresses_and_tokens_that_cannot_work_are_refused_at_once() {
    for (url, token) in [("ftp://x/", "t"), ("not a url", "t"), ("http://x/", "a\nb")] {
        assert!(EventPoster::new(url, token, "").is_err(), "{url} {token:?}");
    }
}
