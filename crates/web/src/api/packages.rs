//! Packages: files that make other machines nodes of this cluster.
//!
//! The file is the answer and is kept nowhere, because the invitation in it lets its holder join. Everything
//! here is audited.

use std::sync::Arc;

use axum::{
    Json,
    extract::{self, Path, rejection::JsonRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use caelum_model::{
    UnixMs,
    access::Role,
    cluster::{Ceiling, NodeRole},
    package::{PackageKind, Platform},
    wire::ErrorJson,
};
use caelum_packager::PackageError;
use caelum_roles::{
    enrol::JoinError,
    packages::{self, Availability, BuildError, Builder, Built, Listed, MailboxSight, PackageState, Wish},
};
use serde::{Deserialize, Serialize};

use crate::{
    auth::{self, Person},
    error::{ApiError, Cause},
    state::State,
};

/// What a package is to be.
#[derive(Clone, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewPackageJson {
    /// Name of the file; its ending says the kind where that is not given.
    pub(crate) package_name: String,
    /// Name of the node; its host's unless given.
    pub(crate) node_name: Option<String>,
    /// The form: `deb`, `rpm`, `pkg`, `tar.gz` or `oci`.
    pub(crate) kind: Option<PackageKind>,
    /// What node it makes; an agent unless given.
    pub(crate) role: Option<NodeRole>,
    /// The machines it is for; this server's own unless given.
    pub(crate) platform: Option<Platform>,
    /// The most that the node lets anybody do to it; `observe` unless given.
    pub(crate) ceiling: Option<Ceiling>,
    /// How long its invitation is valid, such as `1h`, `24h` or `7d`; a day unless given.
    pub(crate) expires: Option<String>,
    /// Seals the invitation: the machine then needs this passphrase to join. At least 12 characters.
    pub(crate) passphrase: Option<String>,
    /// Where the machine leaves a sealed request if it reaches no server: an address with an account for machines, as
    /// `GET /api/fleet/packages/mailboxes` shows how to make one.
    pub(crate) mailbox: Option<String>,
}

impl NewPackageJson {
    /// As the builder takes it.
    pub(crate) fn wish(self) -> Result<Wish, BuildError> {
        let mut wish = Wish::of_name(&self.package_name, self.kind, self.platform)?;
        wish.node_name = self.node_name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        wish.role = self.role.unwrap_or(wish.role);
        wish.ceiling = self.ceiling.unwrap_or(wish.ceiling);
        if let Some(expires) = &self.expires {
            wish.valid_ms = packages::validity_ms(expires)?;
        }
        wish.passphrase = self.passphrase.map(packages::Passphrase);
        wish.mailbox = self.mailbox.map(packages::Secret);
        wish.check()?;
        Ok(wish)
    }
}

/// A package that was built.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct PackageJson {
    pub(crate) package_id: String,
    /// Name of the file.
    pub(crate) name: String,
    pub(crate) node_name: Option<String>,
    pub(crate) kind: PackageKind,
    pub(crate) role: NodeRole,
    pub(crate) platform: Platform,
    /// `waiting`, `used`, `expired` or `revoked`.
    pub(crate) state: &'static str,
    /// The node that joined by it.
    pub(crate) used_by: Option<String>,
    /// Its host name when it joined.
    pub(crate) used_by_hostname: Option<String>,
    pub(crate) used_at_ms: Option<UnixMs>,
    /// Id of the join token in it.
    pub(crate) token_id: String,
    pub(crate) sha256: String,
    pub(crate) size_bytes: u64,
    pub(crate) built_at_ms: UnixMs,
    pub(crate) built_by: String,
    pub(crate) expires_at_ms: UnixMs,
    pub(crate) revoked_at_ms: Option<UnixMs>,
}

impl From<Listed> for PackageJson {
    fn from(listed: Listed) -> Self {
        let Listed { package, state, used_by, revoked_at_ms } = listed;
        Self {
            package_id: package.package_id,
            name: package.name,
            node_name: package.node_name,
            kind: package.kind,
            role: package.role,
            platform: package.platform,
            state: state.as_str(),
            used_at_ms: used_by.as_ref().map(|node| node.admitted_at_ms),
            used_by_hostname: used_by.as_ref().map(|node| node.hostname.clone()),
            used_by: used_by.map(|node| node.node_id.to_string()),
            token_id: package.token_id,
            sha256: package.sha256,
            size_bytes: package.size_bytes,
            built_at_ms: package.built_at_ms,
            built_by: package.built_by,
            expires_at_ms: package.expires_at_ms,
            revoked_at_ms,
        }
    }
}

/// The newest packages, and the one that is being built.
#[derive(Serialize, utoipa::ToSchema)]
pub struct PackagesJson {
    packages: Vec<PackageJson>,
    /// Name and stage of the package that is being built.
    #[schema(value_type = Option<Object>)]
    building: Option<packages::Progress>,
    next_cursor: Option<String>,
}

/// Whether packages of a kind can be built for a platform.
#[derive(Serialize, utoipa::ToSchema)]
pub struct PlatformJson {
    platform: Platform,
    kind: PackageKind,
    /// Whether it can.
    ready: bool,
    /// Why not.
    reason: Option<String>,
    /// What puts that right.
    remedy: Option<String>,
}

impl From<Availability> for PlatformJson {
    fn from(found: Availability) -> Self {
        Self {
            platform: found.platform,
            kind: found.kind,
            ready: found.is_ready,
            reason: found.reason,
            remedy: found.remedy,
        }
    }
}

/// Whether packages for macOS are signed.
#[derive(Serialize, utoipa::ToSchema)]
pub struct SignatureJson {
    /// By whom; null where they are not.
    by: Option<String>,
    /// Until when the certificate is valid.
    until_ms: Option<UnixMs>,
    /// What that means on a Mac.
    meaning: &'static str,
}

/// What can be built here.
#[derive(Serialize, utoipa::ToSchema)]
pub struct PlatformsJson {
    /// Whether packages for macOS are signed.
    macos_signature: SignatureJson,
    platforms: Vec<PlatformJson>,
    next_cursor: Option<String>,
}

/// A mailbox that this server looks into.
#[derive(Serialize, utoipa::ToSchema)]
pub struct MailboxJson {
    /// `postgres`, `redis` or `file`.
    kind: &'static str,
    /// Where it is, without a password.
    place: String,
    /// Why it could not be looked into at the last try.
    error: Option<String>,
    looked_at_ms: Option<UnixMs>,
    /// Requests that this server answered since it was started.
    answered: u64,
    /// What lay there and got no answer.
    ignored: u64,
    /// What to type there for an account that can do no more than join; CHOOSE-ONE stands for a password.
    rights: Vec<String>,
    /// An address of such an account.
    example: String,
    /// What to know before an address is put into a package.
    warning: &'static str,
}

impl From<MailboxSight> for MailboxJson {
    fn from(sight: MailboxSight) -> Self {
        let MailboxSight { view, rights, example, warning } = sight;
        Self {
            kind: view.kind,
            place: view.place,
            error: view.error,
            looked_at_ms: view.looked_at_ms,
            answered: view.answered,
            ignored: view.ignored,
            rights,
            example,
            warning,
        }
    }
}

/// The mailboxes that this server looks into.
#[derive(Serialize, utoipa::ToSchema)]
pub struct MailboxesJson {
    mailboxes: Vec<MailboxJson>,
    next_cursor: Option<String>,
}

/// Mailboxes for machines that reach no server, and what makes an account for machines there.
#[utoipa::path(get, path = "/api/fleet/packages/mailboxes", tag = "packages",
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = MailboxesJson), (status = 403, body = ErrorJson)))]
pub async fn mailboxes(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<MailboxesJson>, ApiError> {
    person.require(Role::Operator)?;
    let mailboxes = builder(&state)?.mailboxes().into_iter().map(MailboxJson::from).collect();
    Ok(Json(MailboxesJson { mailboxes, next_cursor: None }))
}

pub(crate) fn builder(state: &State) -> Result<&Arc<Builder>, ApiError> {
    state.packages.as_ref().ok_or(ApiError::NotFound("package builder on this server"))
}

/// Builds a package and answers its file. Its invitation admits one node, until it expires or is revoked.
#[utoipa::path(post, path = "/api/fleet/build-cluster-package", tag = "packages", request_body = NewPackageJson,
    security(("token" = ["admin"]), ("session" = [])),
    responses((status = 200, description = "The file", content_type = "application/octet-stream"),
        (status = 400, body = ErrorJson), (status = 403, body = ErrorJson),
        (status = 409, description = "There is no program for these machines; the message says how to add it",
            body = ErrorJson),
        (status = 503, description = "Another package is being built", body = ErrorJson)))]
pub async fn build(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    body: Result<Json<NewPackageJson>, JsonRejection>,
) -> Result<Response, ApiError> {
    person.require(Role::Admin)?;
    let Json(new) = body.map_err(|error| ApiError::InvalidRequest(error.body_text()))?;
    Ok(file(make(&state, &person, new).await?))
}

/// Builds a package for a person who may.
pub(crate) async fn make(state: &State, person: &Person, new: NewPackageJson) -> Result<Built, ApiError> {
    person.require(Role::Admin)?;
    let builder = builder(state)?;
    let wish = new.wish().map_err(refused)?;
    let name = wish.file_name();
    match builder.build(wish, &person.name).await {
        Ok(built) => {
            let subject = format!("{} {name}", built.package.package_id);
            auth::record(state, &person.name, "package.build", &subject, "done").await;
            Ok(built)
        }
        Err(error) => {
            auth::record(state, &person.name, "package.build", &name, "failed").await;
            Err(refused(error))
        }
    }
}

/// A built package as an answer that browsers keep as a file. Names have no character that could end a header.
pub(crate) fn file(built: Built) -> Response {
    let value = |text: String| HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
    let mut response = built.bytes.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(
        header::CONTENT_DISPOSITION,
        value(format!("attachment; filename=\"{}\"", built.package.name)),
    );
    // It is compressed already.
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert("x-caelum-package-id", value(built.package.package_id));
    headers.insert("x-caelum-sha256", value(built.package.sha256));
    if let Some(image) = built.image {
        headers.insert("x-caelum-image", value(image));
    }
    response
}

fn refused(error: BuildError) -> ApiError {
    match error {
        BuildError::Invalid(text) => ApiError::InvalidRequest(text),
        BuildError::Busy => ApiError::Overloaded { reason: error.to_string(), retry_after_ms: 3_000 },
        BuildError::Artifact(error) => ApiError::Conflict(error.to_string()),
        BuildError::Package(error @ PackageError::Program(_)) => ApiError::Conflict(error.to_string()),
        BuildError::Package(error) => ApiError::InvalidRequest(error.to_string()),
        error @ BuildError::Signing(_) => ApiError::Conflict(error.to_string()),
        BuildError::Sealed(error) => ApiError::InvalidRequest(error.to_string()),
        BuildError::Join(JoinError::Invalid(text)) => ApiError::InvalidRequest(text),
        BuildError::Join(JoinError::Store(error)) | BuildError::Store(error) => error.into(),
        error @ (BuildError::Join(_) | BuildError::Ended) => ApiError::Internal(Cause::from(error)),
    }
}

/// The newest packages, and what became of them. Nothing secret is among it.
#[utoipa::path(get, path = "/api/fleet/packages", tag = "packages", security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = PackagesJson), (status = 403, body = ErrorJson)))]
pub async fn list(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<PackagesJson>, ApiError> {
    person.require(Role::Operator)?;
    let builder = builder(&state)?;
    let packages = builder.list().await?.into_iter().map(PackageJson::from).collect();
    Ok(Json(PackagesJson { packages, building: builder.progress(), next_cursor: None }))
}

/// What can be built here, and what is missing for the rest.
#[utoipa::path(get, path = "/api/fleet/packages/platforms", tag = "packages",
    security(("token" = ["operate"]), ("session" = [])),
    responses((status = 200, body = PlatformsJson), (status = 403, body = ErrorJson)))]
pub async fn platforms(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
) -> Result<Json<PlatformsJson>, ApiError> {
    person.require(Role::Operator)?;
    let builder = builder(&state)?;
    let platforms = builder.platforms().await.into_iter().map(PlatformJson::from).collect();
    let packages::Signature { by, until_ms, meaning } = builder.signature();
    let macos_signature = SignatureJson { by, until_ms, meaning };
    Ok(Json(PlatformsJson { macos_signature, platforms, next_cursor: None }))
}

/// Revokes a package that waits: nobody joins by it from now on. One whose invitation is over is taken off the
/// list. A node that joined by it stays; `DELETE /api/nodes/{id}` shuts it out.
#[utoipa::path(delete, path = "/api/fleet/packages/{id}", tag = "packages", params(("id" = String, Path)),
    security(("token" = ["admin"]), ("session" = [])),
    responses((status = 204), (status = 403, body = ErrorJson), (status = 404, body = ErrorJson)))]
pub async fn revoke(
    person: Person,
    extract::State(state): extract::State<Arc<State>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    take_back(&state, &person, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Revokes or forgets a package for a person who may.
pub(crate) async fn take_back(state: &State, person: &Person, id: &str) -> Result<(), ApiError> {
    person.require(Role::Admin)?;
    let action = match builder(state)?.revoke(id).await? {
        None => return Err(ApiError::NotFound("package")),
        Some(PackageState::Waiting) => "package.revoke",
        Some(_) => "package.forget",
    };
    auth::record(state, &person.name, action, id, "done").await;
    Ok(())
}
