//! What holds for every answer and every write: headers that browsers enforce, and no writes from elsewhere.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{auth, error::ApiError};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    style-src-attr 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; form-action 'self'; \
    frame-ancestors 'none'; base-uri 'none'; manifest-src 'self'";

/// Adds the headers that browsers enforce. Strict transport security is not among them: it holds for a host
/// with all of its ports, and this host may be a developer's `localhost`. Plain HTTP from elsewhere is led to
/// HTTPS by the listener.
pub async fn security_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Not "no-referrer": browsers then send `Origin: null` with forms, and could not be told from strangers.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Refuses writes that a browser sends with a session cookie from another site's page.
pub async fn same_origin(request: Request, next: Next) -> Response {
    let is_write = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
    if is_write
        && auth::has_session_cookie(request.headers())
        && !is_own_page(request.headers(), authority.as_deref())
    {
        let reason = "the request comes from another site's page".to_owned();
        return ApiError::ForbiddenBecause("cross_origin", reason).into_response();
    }
    next.run(request).await
}

/// Whether a browser says that the request comes from a page of this server. A program that is no browser
/// says neither, and has no session cookie unless it put it there itself. HTTP/2 has no `Host` header; there
/// the authority of the address says whom the request is for.
fn is_own_page(headers: &HeaderMap, authority: Option<&str>) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if let Some(origin) = text(header::ORIGIN) {
        let host = origin.split_once("://").map(|(_, host)| host);
        return host.is_some() && host == authority.or(text(header::HOST));
    }
    !matches!(text(header::HeaderName::from_static("sec-fetch-site")), Some("cross-site" | "same-site"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (header::HeaderName::from_static(name), HeaderValue::from_str(value).expect("valid"))
            })
            .collect()
    }

    #[test]
    fn only_a_page_of_this_server_is_its_own() {
        assert!(is_own_page(&headers(&[("host", "a:8080"), ("origin", "https://a:8080")]), None));
        assert!(!is_own_page(&headers(&[("host", "a:8080"), ("origin", "https://b:8080")]), None));
        assert!(!is_own_page(&headers(&[("host", "a:8080"), ("origin", "null")]), None));
        assert!(!is_own_page(&headers(&[("host", "a"), ("sec-fetch-site", "cross-site")]), None));
        assert!(is_own_page(&headers(&[("host", "a")]), None));
    }

    #[test]
    fn a_page_over_http_2_is_known_by_the_authority() {
        assert!(is_own_page(&headers(&[("origin", "https://a:8080")]), Some("a:8080")));
        assert!(!is_own_page(&headers(&[("origin", "https://b:8080")]), Some("a:8080")));
        assert!(!is_own_page(&headers(&[("origin", "https://a:8080")]), None));
    }
}
