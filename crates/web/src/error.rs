//! How a refusal looks: a status, a stable code, a sentence, and the id under which the log has more.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use caelum_model::{
    access::Role,
    wire::{ErrorBodyJson, ErrorJson},
};
use caelum_roles::vault::VaultError;
use caelum_store::StoreError;

/// Every error the API answers with, named by meaning.
#[derive(Debug)]
pub enum ApiError {
    /// The request is not what the route takes.
    InvalidRequest(String),
    /// Nobody, or nobody known, is asking.
    Unauthorized(&'static str),
    /// Known, and not allowed.
    Forbidden {
        /// The role that would be needed.
        needed: Role,
    },
    /// Known, and not allowed, for a reason of its own.
    ForbiddenBecause(&'static str, String),
    /// There is no such thing.
    NotFound(&'static str),
    /// It is there already.
    Conflict(String),
    /// Too many bytes.
    PayloadTooLarge {
        /// How many are allowed.
        limit_bytes: usize,
    },
    /// A kind of body that is not understood.
    UnsupportedMediaType(String),
    /// A method that the route does not have.
    MethodNotAllowed,
    /// Come back later: the sender is too fast.
    RateLimited {
        /// When.
        retry_after_ms: i64,
    },
    /// Come back later: the server is too busy.
    Overloaded {
        /// What is full.
        reason: String,
        /// When.
        retry_after_ms: i64,
    },
    /// Our fault.
    Internal(Cause),
}

/// A cause with what lies under it, as one line for the log.
#[derive(Debug)]
pub struct Cause(pub String);

impl<E: std::error::Error> From<E> for Cause {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self(text)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists { what } => Self::Conflict(format!("{what} exists already")),
            error if error.is_transient() => {
                let cause = Cause::from(error);
                tracing::warn!(code = "web.store_busy", cause = cause.0, "the store refused a request");
                Self::Overloaded {
                    reason: "the store is busy or its disk is full".into(),
                    retry_after_ms: 2_000,
                }
            }
            error => Self::Internal(error.into()),
        }
    }
}

impl From<VaultError> for ApiError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Store(error) => error.into(),
            VaultError::TooShort => Self::InvalidRequest(error.to_string()),
            error @ VaultError::Contended => Self::Conflict(error.to_string()),
            error => Self::Internal(error.into()),
        }
    }
}

impl ApiError {
    /// Status and stable code.
    pub fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::InvalidRequest(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden { .. } => (StatusCode::FORBIDDEN, "forbidden"),
            Self::ForbiddenBecause(code, _) => (StatusCode::FORBIDDEN, code),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::PayloadTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
            Self::UnsupportedMediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::Overloaded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// What is said to whoever asked; details of our own faults stay in the log.
    pub fn message(&self) -> String {
        match self {
            Self::InvalidRequest(message)
            | Self::ForbiddenBecause(_, message)
            | Self::Conflict(message)
            | Self::UnsupportedMediaType(message)
            | Self::Overloaded { reason: message, .. } => message.clone(),
            Self::Unauthorized(message) => (*message).to_owned(),
            Self::Forbidden { needed } => format!("this needs the role {}", needed.as_str()),
            Self::NotFound(what) => format!("there is no such {what}"),
            Self::PayloadTooLarge { limit_bytes } => {
                format!("the body is larger than {limit_bytes} bytes; send it in smaller parts")
            }
            Self::MethodNotAllowed => "the path is there, and does not take this method".to_owned(),
            Self::RateLimited { retry_after_ms } => {
                format!("too many at once; wait {:.1} s", *retry_after_ms as f64 / 1000.0)
            }
            Self::Internal(_) => {
                "something went wrong on the server; its log has more under this request id".to_owned()
            }
        }
    }

    fn retry_after_s(&self) -> Option<i64> {
        match self {
            Self::RateLimited { retry_after_ms } | Self::Overloaded { retry_after_ms, .. } => {
                Some((retry_after_ms + 999) / 1000)
            }
            _ => None,
        }
    }

    /// The answer, with details a program may use.
    pub fn answer(self, details: serde_json::Value) -> Response {
        let (status, code) = self.status();
        let request_id = caelum_drivers::random::secret(12);
        if let Self::Internal(cause) = &self {
            tracing::error!(code = "web.internal", request_id, cause = cause.0, "a request failed");
        }
        let body = ErrorJson {
            error: ErrorBodyJson { code: code.to_owned(), message: self.message(), details, request_id },
        };
        let mut response = (status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after_s() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.answer(serde_json::Value::Null)
    }
}

/// What a path that leads nowhere answers programs.
pub async fn not_found() -> ApiError {
    ApiError::NotFound("path")
}

/// A route that panicked answers like any other failure; the panic itself is in the log.
pub fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    ApiError::Internal(Cause("a route panicked".into())).into_response()
}

/// A refusal whose code is not one of the API's own, such as those of `/events`.
pub fn refusal(status: StatusCode, code: &str, message: String, details: serde_json::Value) -> Response {
    let request_id = caelum_drivers::random::secret(12);
    (status, Json(ErrorJson { error: ErrorBodyJson { code: code.to_owned(), message, details, request_id } }))
        .into_response()
}
