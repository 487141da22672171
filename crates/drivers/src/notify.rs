//! Notices on their way to people: an HTTP request, a mail, or a line of the log.
//!
//! One call is one attempt. Whether and when there is another is `engine::alert`'s word. Redirects are not
//! followed: what is told is for this address only.

use std::time::Duration;

use caelum_model::alert::{ChannelKind, MailTls, Notice, NoticeKind, WebhookForm};
use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        authentication::Credentials,
        client::{Tls, TlsParameters},
    },
};
use reqwest::{Client, redirect};
use serde_json::{Value, json};

use crate::{
    poster::chain,
    tls::{self, TlsError},
};

/// The header by which a receiver knows a notice again that was sent twice.
pub const NOTICE_HEADER: &str = "Caelum-Notice";
/// For one attempt.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most of a refusal that is shown, characters.
const SHOWN_MAX: usize = 200;

/// Why a notice was not sent; it is still there.
#[derive(Debug, thiserror::Error)]
#[error("tell {place}: {detail}")]
pub struct NotifyError {
    /// Whom, without secrets.
    pub place: String,
    /// What happened.
    pub detail: String,
}

/// Sends notices.
#[derive(Clone, Debug)]
pub struct Notifier {
    client: Client,
    cluster_name: String,
}

impl Notifier {
    /// A sender that trusts this machine's authorities and those given as PEM.
    pub fn new(cluster_name: &str, extra_authorities_pem: &str) -> Result<Self, TlsError> {
        let tls = tls::client_config(tls::root_store(extra_authorities_pem)?)?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .redirect(redirect::Policy::none())
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("caelum/", env!("CARGO_PKG_VERSION")))
            .build()
            .expect("the TLS settings are rustls's own");
        Ok(Self { client, cluster_name: cluster_name.to_owned() })
    }

    /// Tries once to send a notice.
    pub async fn send(&self, to: &ChannelKind, notice: &Notice) -> Result<(), NotifyError> {
        match to {
            ChannelKind::Webhook { url, form } => self.post(url, *form, notice).await,
            ChannelKind::Mail { server, .. } => {
                let sent = tokio::time::timeout(TIMEOUT, self.mail(to, notice)).await;
                let failed = |detail: String| NotifyError { place: format!("mail server {server}"), detail };
                sent.unwrap_or_else(|_| Err("timed out".to_owned())).map_err(failed)
            }
            ChannelKind::Log => {
                self.log(notice);
                Ok(())
            }
        }
    }

    async fn post(&self, url: &str, form: WebhookForm, notice: &Notice) -> Result<(), NotifyError> {
        let failed = |detail: String| NotifyError { place: place_of(url), detail };
        let request = self.client.post(url).header(NOTICE_HEADER, &notice.notice_id);
        let response = request
            .json(&body(form, notice, &self.cluster_name))
            .send()
            .await
            .map_err(|error| failed(chain(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let said = response.text().await.unwrap_or_default();
        let said: String = said.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect();
        Err(failed(format!("{status}: {said}")))
    }

    async fn mail(&self, to: &ChannelKind, notice: &Notice) -> Result<(), String> {
        let ChannelKind::Mail { server, port, from, to, user, password, tls } = to else { return Ok(()) };
        let mut message = Message::builder()
            .from(mailbox(from)?)
            .subject(headline(notice, &self.cluster_name))
            .message_id(Some(format!("<{}@caelum>", notice.notice_id)))
            .header(ContentType::TEXT_PLAIN);
        for receiver in to {
            message = message.to(mailbox(receiver)?);
        }
        let message = message.body(text(notice, &self.cluster_name)).map_err(|error| error.to_string())?;
        let parameters = || TlsParameters::new(server.clone()).map_err(|error| error.to_string());
        let (protection, usual) = match tls {
            MailTls::Tls => (Tls::Wrapper(parameters()?), 465),
            MailTls::Starttls => (Tls::Required(parameters()?), 587),
            MailTls::None => (Tls::None, 25),
        };
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(server)
            .port(port.unwrap_or(usual))
            .tls(protection)
            .timeout(Some(TIMEOUT));
        if let (Some(user), Some(password)) = (user, password) {
            transport = transport.credentials(Credentials::new(user.clone(), password.clone()));
        }
        transport.build().send(message).await.map(drop).map_err(|error| error.to_string())
    }

    fn log(&self, notice: &Notice) {
        let (id, text) = (&notice.notice_id, &notice.text);
        match notice.kind {
            NoticeKind::Recovery => tracing::info!(code = "notice.recovery", notice_id = id, "{text}"),
            kind => tracing::warn!(code = "notice.failure", notice_id = id, kind = kind.as_str(), "{text}"),
        }
    }
}

/// Scheme and host of an address: the rest of a webhook's is its secret.
pub fn place_of(url: &str) -> String {
    match reqwest::Url::parse(url) {
        Ok(url) => format!("{}://{}", url.scheme(), url.host_str().unwrap_or("?")),
        Err(_) => "an address that is none".to_owned(),
    }
}

fn mailbox(address: &str) -> Result<Mailbox, String> {
    address.parse().map_err(|error| format!("{address} is no mail address: {error}"))
}

/// Whether a channel can be used at all, without trying it.
pub fn check(kind: &ChannelKind) -> Result<(), String> {
    match kind {
        ChannelKind::Log => Ok(()),
        ChannelKind::Webhook { url, .. } => match reqwest::Url::parse(url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.host_str().is_some() => Ok(()),
            Ok(_) => Err("the address must begin with http:// or https://".to_owned()),
            Err(error) => Err(format!("the address is none: {error}")),
        },
        ChannelKind::Mail { server, from, to, .. } => {
            if server.is_empty() || to.is_empty() {
                return Err("a mail needs a server and at least one receiver".to_owned());
            }
            std::iter::once(from).chain(to).try_for_each(|address| mailbox(address).map(drop))
        }
    }
}

fn body(form: WebhookForm, notice: &Notice, cluster_name: &str) -> Value {
    match form {
        WebhookForm::Slack => json!({ "text": headline(notice, cluster_name) }),
        WebhookForm::Caelum => json!({
            "notice_id": notice.notice_id,
            "cluster": cluster_name,
            "subject": notice.subject,
            "subject_id": notice.subject_id,
            "kind": notice.kind,
            "severity": notice.severity,
            "node_id": notice.node_id,
            "place": notice.place,
            "text": notice.text,
            "created_at_ms": notice.created_at_ms,
        }),
    }
}

fn headline(notice: &Notice, cluster_name: &str) -> String {
    let mark = match notice.kind {
        NoticeKind::Recovery => "resolved",
        NoticeKind::Failure | NoticeKind::Escalation => notice.severity.as_str(),
    };
    let line: String = notice.text.chars().filter(|c| !c.is_control()).collect();
    format!("[{cluster_name}] {mark}: {line}")
}

fn text(notice: &Notice, cluster_name: &str) -> String {
    format!(
        "{}\n\nCluster: {cluster_name}\nWhere: {}\nWhat: {}\nNotice: {}\n",
        notice.text,
        notice.place,
        notice.kind.as_str(),
        notice.notice_id
    )
}

#[cfg(test)]
mod tests {
    use caelum_model::{alert::NoticeSubject, node::Level};
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn notice() -> Notice {
        Notice {
            notice_id: "n-1".into(),
            subject: NoticeSubject::Alert,
            subject_id: "a-1".into(),
            kind: NoticeKind::Failure,
            severity: Level::Critical,
            node_id: None,
            place: "box".into(),
            text: "box: CPU at 97 % (critical)".into(),
            channel: "hook".into(),
            created_at_ms: 1,
            next_at_ms: 1,
            attempts: 1,
            sent_at_ms: None,
            given_up_at_ms: None,
            error: None,
        }
    }

    fn notifier() -> Notifier {
        Notifier::new("lab", "").expect("a sender")
    }

    /// Takes one request and answers it; what came in is returned.
    async fn serve_once(listener: TcpListener, status: &'static str) -> (String, Value) {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let (head, length) = read_head(&mut stream).await;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.expect("the body");
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno!");
        stream.write_all(answer.as_bytes()).await.expect("answers");
        (head, serde_json::from_slice(&body).expect("JSON"))
    }

    async fn read_head(stream: &mut TcpStream) -> (String, usize) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a byte"));
        }
        let head = String::from_utf8(head).expect("text").to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        (head.clone(), length.parse().expect("a number"))
    }

    async fn told(form: WebhookForm, status: &'static str) -> (String, Value, Result<(), NotifyError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/secret", listener.local_addr().expect("bound"));
        let to = ChannelKind::Webhook { url, form };
        let (sender, notice) = (notifier(), notice());
        let (sent, (head, body)) = tokio::join!(sender.send(&to, &notice), serve_once(listener, status));
        (head, body, sent)
    }

    #[tokio::test]
    async fn a_webhook_names_the_notice_so_that_a_repeat_is_known() {
        let (head, body, sent) = told(WebhookForm::Caelum, "200 OK").await;
        sent.expect("sent");
        assert!(head.contains("caelum-notice: n-1\r\n"), "{head}");
        assert_eq!((&body["kind"], &body["severity"]), (&json!("failure"), &json!("critical")));
    }

    #[tokio::test]
    async fn a_chat_gets_a_text_and_nothing_else() {
        let (_, body, sent) = told(WebhookForm::Slack, "200 OK").await;
        sent.expect("sent");
        assert_eq!(body, json!({"text": "[lab] critical: box: CPU at 97 % (critical)"}));
    }

    #[tokio::test]
    async fn a_refusal_is_an_error_that_does_not_show_the_address() {
        let (_, _, sent) = told(WebhookForm::Caelum, "500 Internal Server Error").await;
        let error = sent.expect_err("refused").to_string();
        assert!(error.contains("500") && error.contains("no!") && !error.contains("secret"), "{error}");
    }

    #[tokio::test]
    async fn a_mail_is_handed_to_the_server_with_its_receivers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let to = ChannelKind::Mail {
            server: "127.0.0.1".into(),
            port: Some(port),
            from: "Caelum <caelum@example.net>".into(),
            to: vec!["ops@example.net".into(), "more@example.net".into()],
            user: None,
            password: None,
            tls: MailTls::None,
        };
        check(&to).expect("usable");
        let server = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut stream = BufReader::new(stream);
            stream.write_all(b"220 lab\r\n").await.expect("greets");
            let (mut seen, mut is_data) = (String::new(), false);
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.expect("a line") == 0 {
                    return seen;
                }
                seen.push_str(&line);
                let answer: &[u8] = match (is_data, line.trim_end()) {
                    (true, ".") => b"250 taken\r\n",
                    (true, _) => continue,
                    (_, "DATA") => b"354 go on\r\n",
                    (_, "QUIT") => b"221 bye\r\n",
                    _ => b"250 fine\r\n",
                };
                is_data = answer.starts_with(b"354") || (is_data && line.trim_end() != ".");
                stream.write_all(answer).await.expect("answers");
                if answer.starts_with(b"250 taken") {
                    return seen;
                }
            }
        };
        let (sender, notice) = (notifier(), notice());
        let (sent, seen) = tokio::join!(sender.send(&to, &notice), server);
        sent.expect("sent");
        for part in ["RCPT TO:<ops@example.net>", "RCPT TO:<more@example.net>", "Message-ID: <n-1@caelum>"] {
            assert!(seen.contains(part), "{part} in {seen}");
        }
    }

    #[test]
    fn a_channel_that_cannot_work_is_refused_before_it_is_used() {
        let hook = |url: &str| ChannelKind::Webhook { url: url.into(), form: WebhookForm::Caelum };
        assert!(check(&hook("https://example.net/x")).is_ok());
        assert!(check(&hook("ftp://example.net/x")).is_err() && check(&hook("nonsense")).is_err());
    }
}
