//! Style sheets, scripts and icons, embedded in the binary and served to be kept for ever.
//!
//! One stamp over all files stands in the path, so that modules can import each other by relative names
//! and a new version never meets an old file. In development builds the files are read from disk and the
//! stamp is that of the start.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use ring::digest::{Context, SHA256};
use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "assets/"]
struct Files;

static STAMP: LazyLock<String> = LazyLock::new(|| {
    let mut digest = Context::new(&SHA256);
    let mut names: Vec<_> = Files::iter().collect();
    names.sort();
    for name in names {
        if let Some(file) = Files::get(&name) {
            digest.update(name.as_bytes());
            digest.update(&file.metadata.sha256_hash());
        }
    }
    digest.finish().as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect()
});

/// Where browsers find a file of the given name.
pub fn href(name: &str) -> String {
    format!("/assets/{}/{name}", *STAMP)
}

/// Serves one file. A path with another stamp gets the present file but may not keep it.
pub async fn serve(Path((stamp, name)): Path<(String, String)>) -> Response {
    let Some(file) = Files::get(&name) else {
        return (StatusCode::NOT_FOUND, "no such file").into_response();
    };
    let keep = if stamp == *STAMP { "public, max-age=31536000, immutable" } else { "no-cache" };
    (
        [
            (header::CONTENT_TYPE, file.metadata.mimetype().to_owned()),
            (header::CACHE_CONTROL, keep.to_owned()),
        ],
        file.data,
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_under_its_stamp_is_kept_for_ever_and_another_stamp_is_not() {
        let path = href("css/tokens.css");
        let stamp = path.split('/').nth(2).expect("href has a stamp").to_owned();
        let kept = serve(Path((stamp, "css/tokens.css".to_owned()))).await;
        assert_eq!(kept.headers()[header::CONTENT_TYPE], "text/css");
        assert!(kept.headers()[header::CACHE_CONTROL].to_str().expect("text").contains("immutable"));
        let other = serve(Path(("0".to_owned(), "css/tokens.css".to_owned()))).await;
        assert_eq!(other.headers()[header::CACHE_CONTROL], "no-cache");
        let none = serve(Path(("0".to_owned(), "../Cargo.toml".to_owned()))).await;
        assert_eq!(none.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn every_script_has_the_type_that_browsers_demand_of_modules() {
        for name in Files::iter().filter(|name| name.ends_with(".js")) {
            let file = Files::get(&name).expect("listed");
            assert_eq!(file.metadata.mimetype(), "text/javascript", "{name}");
        }
    }
}
