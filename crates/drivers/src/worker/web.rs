//! Tasks that are requests: an answer that is checked, a file that is fetched.
//!
//! Bodies are read up to a bound. A fetched file is written beside its place and put there whole, or not at
//! all.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use reqwest::{Client, Method, Response, StatusCode, redirect};
use ring::digest::{Context, SHA256};
use rustls::RootCertStore;
use serde::Deserialize;
use tokio::{fs::File, io::AsyncWriteExt as _};

use super::{Fault, RunnerError, Teller};
use crate::{poster::chain, tls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest body that is looked at.
const BODY_MAX: usize = 1 << 20;
/// Of which so much is told.
const BODY_TOLD: usize = 64 << 10;
/// Largest file that is fetched.
const FILE_MAX: u64 = 4 << 30;
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;

#[derive(Deserialize)]
pub(super) struct HttpData {
    url: String,
    method: Option<String>,
    expect_status: Option<Expected>,
    expect_text: Option<String>,
    body: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// One status, or any of a few.
#[derive(Deserialize)]
#[serde(untagged)]
enum Expected {
    One(u16),
    Any(Vec<u16>),
}

impl Expected {
    fn is_met(&self, status: StatusCode) -> bool {
        match self {
            Self::One(one) => *one == status.as_u16(),
            Self::Any(any) => any.contains(&status.as_u16()),
        }
    }

    fn is_of_redirects(&self) -> bool {
        match self {
            Self::One(one) => (300..400).contains(one),
            Self::Any(any) => any.iter().any(|one| (300..400).contains(one)),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::One(one) => one.to_string(),
            Self::Any(any) => any.iter().map(u16::to_string).collect::<Vec<_>>().join(" or "),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct FetchData {
    url: String,
    path: PathBuf,
    sha256: Option<String>,
    mode: Option<String>,
}

/// Makes requests.
pub(super) struct Visitor {
    client: Client,
    /// The same for redirects that are themselves what is expected.
    unmoved: Client,
}

impl Visitor {
    pub(super) fn new(roots: RootCertStore) -> Result<Self, RunnerError> {
        let mut config = tls::client_config(roots)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = |policy| {
            Client::builder()
                .tls_backend_preconfigured(config.clone())
                .http1_only()
                .redirect(policy)
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_max_idle_per_host(0)
                .user_agent(concat!("caelum-task/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|error| RunnerError::Client(chain(&error)))
        };
        Ok(Self {
            client: client(redirect::Policy::limited(REDIRECTS_MAX))?,
            unmoved: client(redirect::Policy::none())?,
        })
    }

    pub(super) async fn check(&self, asked: &HttpData, teller: &mut Teller) -> Result<(), Fault> {
        let method = asked.method.as_deref().unwrap_or("GET").to_uppercase();
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| Fault::failed(format!("{method:?} is no method")))?;
        let stays = asked.expect_status.as_ref().is_some_and(Expected::is_of_redirects);
        let client = if stays { &self.unmoved } else { &self.client };
        let mut request = client.request(method.clone(), &asked.url);
        if let Some(body) = &asked.body {
            request = request.body(body.clone());
        }
        for (name, value) in &asked.headers {
            request = request.header(name, value);
        }
        let began = Instant::now();
        let failed =
            |error: reqwest::Error| Fault::failed(format!("{method} {}: {}", asked.url, chain(&error)));
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        let mut body = Vec::new();
        while body.len() < BODY_MAX
            && let Some(chunk) = response.chunk().await.map_err(failed)?
        {
            body.extend_from_slice(&chunk[..chunk.len().min(BODY_MAX - body.len())]);
        }
        let took = began.elapsed().as_millis();
        let line = format!("{method} {}: {status}, {} bytes in {took} ms\n", asked.url, body.len());
        teller.write(false, line.as_bytes()).await;
        teller.write(false, &body[..body.len().min(BODY_TOLD)]).await;
        match &asked.expect_status {
            Some(expected) if !expected.is_met(status) => {
                return Err(Fault::failed(format!(
                    "the answer is {}, not {}",
                    status.as_u16(),
                    expected.words()
                )));
            }
            None if status.is_client_error() || status.is_server_error() => {
                return Err(Fault::failed(format!("the answer is {status}")));
            }
            _ => {}
        }
        match &asked.expect_text {
            Some(text) if !String::from_utf8_lossy(&body).contains(text) => {
                Err(Fault::failed(format!("the answer does not contain {text:?}")))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn fetch(&self, asked: &FetchData, teller: &mut Teller) -> Result<(), Fault> {
        let path = &asked.path;
        let name = path.file_name().filter(|_| path.is_absolute());
        let (Some(name), Some(folder)) = (name, path.parent()) else {
            return Err(Fault::failed(format!("{} is no absolute path of a file", path.display())));
        };
        let mode = asked.mode.as_deref().map(parse_mode).transpose()?;
        let failed = |error: reqwest::Error| Fault::failed(format!("fetch {}: {}", asked.url, chain(&error)));
        let response = self.client.get(&asked.url).send().await.map_err(failed)?;
        let response = response.error_for_status().map_err(|error| {
            let status = error.status().map_or_else(String::new, |status| status.to_string());
            Fault::failed(format!("fetch {}: the answer is {status}", asked.url))
        })?;
        let fence = teller.held.fence;
        let part = Part(folder.join(format!(".{}.caelum-{fence}", name.to_string_lossy())));
        let (bytes, digest) = save(response, &part.0, mode).await?;
        if let Some(wanted) = &asked.sha256
            && !wanted.eq_ignore_ascii_case(&digest)
        {
            return Err(Fault::failed(format!("SHA-256 of {} is {digest}, not {wanted}", asked.url)));
        }
        tokio::fs::rename(&part.0, path)
            .await
            .map_err(|error| Fault::failed(format!("put the file at {}: {error}", path.display())))?;
        let line = format!("{}: {bytes} bytes, SHA-256 {digest}\n", path.display());
        teller.write(false, line.as_bytes()).await;
        Ok(())
    }
}

/// A file that is not whole yet: gone when this is dropped, unless it was moved.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // Where it was moved there is nothing to remove.
        drop(std::fs::remove_file(&self.0));
    }
}

async fn save(mut response: Response, path: &Path, mode: Option<u32>) -> Result<(u64, String), Fault> {
    let failed = |error: std::io::Error| Fault::failed(format!("write {}: {error}", path.display()));
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(mode.unwrap_or(0o644));
    let mut file = options.open(path).await.map_err(failed)?;
    let (mut bytes, mut digest) = (0_u64, Context::new(&SHA256));
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| Fault::failed(format!("fetch into {}: {}", path.display(), chain(&error))))?
    {
        bytes += chunk.len() as u64;
        if bytes > FILE_MAX {
            return Err(Fault::failed(format!("the file is larger than {FILE_MAX} bytes")));
        }
        digest.update(&chunk);
        file.write_all(&chunk).await.map_err(failed)?;
    }
    if let Some(mode) = mode {
        // The process's mask does not apply to what was asked for.
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        file.set_permissions(permissions).await.map_err(failed)?;
    }
    file.sync_all().await.map_err(failed)?;
    let hex = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((bytes, hex))
}

fn parse_mode(text: &str) -> Result<u32, Fault> {
    u32::from_str_radix(text.trim_start_matches("0o"), 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| Fault::failed(format!("{text:?} is no mode such as \"0644\"")))
}
