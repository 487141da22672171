//! Asking a server over its API.
//!
//! Without an address it is the server on this machine, whose data directory says where it serves and
//! which authority signed its certificate.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, bail};
use caelum_drivers::tls;
use caelum_model::wire::ErrorJson;
use reqwest::{Method, Response, StatusCode, header::ACCEPT};
use serde_json::Value;

use crate::{arguments, data::DataDirectory, events, exit::Unreachable};

/// Time after which a server that says nothing is given up.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Time for a call that may run a command on other machines.
const CALL_MAX: Duration = Duration::from_secs(3_600);

/// A server that can be asked.
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
    patience: Duration,
}

/// A file that a server made.
pub struct Download {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// The package that it is.
    pub package_id: String,
    /// SHA-256 of the bytes, as the server says.
    pub sha256: String,
    /// What engines call it, if it is an image.
    pub image: String,
}

impl Client {
    /// Works out which server is meant and how it is trusted. Nothing is sent yet.
    pub fn new(arguments: &arguments::Client) -> Result<Self> {
        let data = DataDirectory::locate(arguments.data.clone());
        let authority = match &data {
            Ok(data) => fs::read_to_string(data.authority_certificate()).unwrap_or_default(),
            Err(_) => String::new(),
        };
        let base = match &arguments.server {
            Some(server) => server.trim_end_matches('/').to_owned(),
            None => local_address(&data?)?,
        };
        let Some(token) = arguments.token.clone() else {
            bail!(
                "a token is needed: set CAELUM_TOKEN, or give --token; on the server's machine \
                 `caelum token new --scope read` makes one"
            );
        };
        let roots = tls::root_store(&authority).context("read the authorities that are trusted")?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(roots).context("prepare TLS")?)
            .build()
            .context("prepare the HTTP client")?;
        Ok(Self { http, base, token, patience: TIMEOUT })
    }

    /// Waits longer for an answer that takes long.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Waits as long as the longest command may run.
    pub fn for_long_calls(self) -> Self {
        self.with_patience(CALL_MAX)
    }

    /// Sends one message of a protocol of messages, whose answers say themselves what went wrong; none where
    /// nothing is answered.
    pub async fn message(
        &self,
        path: &str,
        message: &Value,
        headers: &[(&'static str, String)],
    ) -> Result<Option<Value>> {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.post(&url).timeout(self.patience).bearer_auth(&self.token).json(message);
        request = request.header(ACCEPT, "application/json, text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let answer = request.send().await.map_err(|error| unreachable(&self.base, &error))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| unreachable(&self.base, &error))?;
        match serde_json::from_str::<Value>(&text) {
            Ok(answer) if answer["jsonrpc"] == "2.0" => Ok(Some(answer)),
            _ if status == StatusCode::UNAUTHORIZED => bail!("{url} does not know the token"),
            Ok(answer) => match answer["error"]["message"].as_str() {
                Some(said) => bail!("{url}: {said}"),
                None => bail!("{url} answers {status} and no message"),
            },
            Err(_) if status.is_success() && text.is_empty() => Ok(None),
            Err(_) => bail!("{url} answers {status} and no message"),
        }
    }

    /// Asks, and answers the JSON of a good answer. Anything else is said with the server's own words.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.send(method, path, body, "application/json").await?;
        let text = answer.text().await.map_err(|error| unreachable(&self.base, &error))?;
        match text.is_empty() {
            true => Ok(Value::Null),
            false => {
                serde_json::from_str(&text).with_context(|| format!("read the answer of {}{path}", self.base))
            }
        }
    }

    /// Asks, and answers the text of a good answer.
    pub async fn text(&self, method: Method, path: &str, body: Option<&Value>) -> Result<String> {
        let answer = self.send(method, path, body, "text/plain").await?;
        answer.text().await.map_err(|error| unreachable(&self.base, &error))
    }

    /// Asks for a stream of events, and hands over each as it comes: its name and its JSON. It ends with the
    /// stream.
    pub async fn follow(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        mut each: impl FnMut(&str, Value) -> Result<()>,
    ) -> Result<()> {
        let mut answer = self.send(method, path, body, "text/event-stream").await?;
        let mut reader = events::Reader::default();
        let context = || format!("read the answer of {}{path}", self.base);
        while let Some(bytes) = answer.chunk().await.map_err(|error| unreachable(&self.base, &error))? {
            for event in reader.read(&bytes).with_context(context)? {
                let value = serde_json::from_str(&event.data).with_context(context)?;
                each(&event.name, value)?;
            }
        }
        Ok(())
    }

    /// Asks for a file, of at most so many bytes.
    pub async fn download(&self, path: &str, body: &Value, bytes_max: u64) -> Result<Download> {
        let mut answer = self.send(Method::POST, path, Some(body), "application/octet-stream").await?;
        let header = |name: &str| {
            let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (package_id, sha256) = (header("x-caelum-package-id"), header("x-caelum-sha256"));
        let image = header("x-caelum-image");
        let mut bytes = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|error| unreachable(&self.base, &error))? {
            if (bytes.len() + part.len()) as u64 > bytes_max {
                bail!("{}{path} answers more than {bytes_max} bytes", self.base);
            }
            bytes.extend_from_slice(&part);
        }
        Ok(Download { bytes, package_id, sha256, image })
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>, accept: &str) -> Result<Response> {
        let url = format!("{}{path}", self.base);
        let mut request = self
            .http
            .request(method, &url)
            .timeout(self.patience)
            .bearer_auth(&self.token)
            .header(ACCEPT, accept);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| unreachable(&self.base, &error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.map_err(|error| unreachable(&self.base, &error))?;
        let said = serde_json::from_str::<ErrorJson>(&text).map(|said| said.error);
        let said = said.map_or_else(
            |_| status.to_string(),
            |error| format!("{} ({}, request {})", error.message, error.code, error.request_id),
        );
        match status {
            StatusCode::UNAUTHORIZED => bail!("{url} does not know the token: {said}"),
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Err(Unreachable(format!("{url} cannot answer now: {said}")).into())
            }
            _ => bail!("{url} refused: {said}"),
        }
    }
}

/// What the server on this machine wrote when it was ready.
fn local_address(data: &DataDirectory) -> Result<String> {
    let file = data.ready_file();
    let Ok(text) = fs::read_to_string(&file) else {
        let what = format!(
            "no server runs on the data in {}: start it with `caelum up`, or name another with --server or \
             CAELUM_SERVER",
            data.root().display()
        );
        return Err(Unreachable(what).into());
    };
    let ready: Value = serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))?;
    let urls: Vec<&str> = ready["urls"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let url = urls.iter().find(|url| url.starts_with("https://")).or(urls.first());
    let url = url.with_context(|| format!("find an address in {}", file.display()))?;
    Ok(url.trim_end_matches('/').to_owned())
}

fn unreachable(base: &str, error: &reqwest::Error) -> anyhow::Error {
    let mut what = format!("{base} cannot be reached");
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    let mut last = String::new();
    while let Some(error) = cause {
        last = error.to_string();
        cause = error.source();
    }
    what.push_str(&format!(": {last}"));
    Unreachable(what).into()
}

/// A path segment in which nothing has a meaning of its own.
pub fn segment(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_escapes_what_would_have_a_meaning() {
        assert_eq!(segment("a-1"), "a-1");
        assert_eq!(segment("a/b?c=ü"), "a%2Fb%3Fc%3D%C3%BC");
    }
}
