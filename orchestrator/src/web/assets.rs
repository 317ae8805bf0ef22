//! The files that the pages load: all embedded in this program, nothing external.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::api;

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_str!(concat!("assets/", $name)))),+]
    };
}

const FILES: [(&str, &str); 30] = files![
    "api.js",
    "app.js",
    "applied.js",
    "charts.js",
    "clusters.js",
    "compare.js",
    "corner.js",
    "dialogs.js",
    "dom.js",
    "feed.js",
    "filters.js",
    "icon.svg",
    "keys.js",
    "live.js",
    "marks.js",
    "pages/activity.js",
    "pages/cluster.js",
    "pages/missing.js",
    "pages/object.js",
    "pages/overview.js",
    "pages/resources.js",
    "pages/settings.js",
    "paging.js",
    "router.js",
    "sidebar.js",
    "style.css",
    "table.js",
    "theme.js",
    "tree.js",
    "words.js",
];

/// A hash of all files (FNV-1a): browsers may cache them while it stays the same.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let bytes = FILES.iter().flat_map(|(name, content)| name.bytes().chain(content.bytes()));
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
});

/// The path prefix of the files.
pub(super) fn folder() -> String {
    format!("/assets/{}", *VERSION)
}

/// The scripts that are modules: a page lists them all, so that they load in parallel.
pub(super) fn modules() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name).filter(|name| name.ends_with(".js") && *name != "theme.js")
}

pub(super) async fn show(Path((version, name)): Path<(String, String)>) -> Response {
    let Some((name, content)) = FILES.iter().find(|(known, _)| *known == name) else {
        return api::not_found().await.into_response();
    };
    let content_type = match name.rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        _ => "image/svg+xml",
    };
    // A page from before an upgrade still gets its files, but they are not cached under the old address.
    let kept = if version == *VERSION { "private, max-age=31536000, immutable" } else { "no-store" };
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, kept),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, *content).into_response()
}
