//! The files of the page, which are in the program.

use axum::extract::Path;
use axum::response::{IntoResponse as _, Redirect, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::error::ApiError;

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const MODULE: &str = "text/javascript; charset=utf-8";
const ICON: &str = "image/svg+xml";

/// A file of the page, from the folder `console` of this crate.
macro_rules! file {
    ($name:literal, $kind:expr) => {
        ($name, $kind, include_str!(concat!("../../../console/", $name)))
    };
}

/// The files with their media types.
const FILES: &[(&str, &str, &str)] = &[
    file!("index.html", HTML),
    file!("style.css", STYLE),
    file!("icon.svg", ICON),
    file!("main.js", MODULE),
    file!("api.js", MODULE),
    file!("dom.js", MODULE),
    file!("format.js", MODULE),
    file!("dialog.js", MODULE),
    file!("chart.js", MODULE),
    file!("live.js", MODULE),
    file!("views/overview.js", MODULE),
    file!("views/problem.js", MODULE),
    file!("views/devices.js", MODULE),
    file!("views/users.js", MODULE),
    file!("views/storage.js", MODULE),
    file!("views/server.js", MODULE),
    file!("views/sessions.js", MODULE),
    file!("views/search.js", MODULE),
];

fn answer(name: &str) -> Response {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, text)) => ([(CONTENT_TYPE, *kind)], *text).into_response(),
        None => ApiError::of_status(StatusCode::NOT_FOUND).into_response(),
    }
}

pub(super) async fn to_the_page() -> Redirect {
    Redirect::permanent("/console/")
}

pub(super) async fn page() -> Response {
    answer("index.html")
}

pub(super) async fn file(Path(name): Path<String>) -> Response {
    answer(&name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn names(directory: &Path, under: &str, into: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{under}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                names(&entry.path(), &format!("{name}/"), into);
            } else {
                into.insert(name);
            }
        }
    }

    #[test]
    fn every_file_of_the_folder_is_served_and_every_import_is_a_file() {
        let mut there = BTreeSet::new();
        names(&Path::new(env!("CARGO_MANIFEST_DIR")).join("console"), "", &mut there);
        let served: BTreeSet<String> = FILES.iter().map(|(name, ..)| (*name).to_owned()).collect();
        assert_eq!(served, there);
        for (name, kind, text) in FILES.iter().filter(|(_, kind, _)| *kind == MODULE) {
            for import in text.lines().filter_map(|line| line.split(" from '").nth(1)) {
                let import = import.trim_end_matches("';");
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                let target = match import.strip_prefix("../") {
                    Some(rest) => rest.to_owned(),
                    None if folder.is_empty() => import.trim_start_matches("./").to_owned(),
                    None => format!("{folder}/{}", import.trim_start_matches("./")),
                };
                assert!(there.contains(&target), "{name} imports {import} ({kind})");
            }
        }
    }

    #[test]
    fn no_file_makes_markup_or_code_of_text() {
        for (name, _, text) in FILES {
            for bad in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "<script>",
                " style=\"",
                " onclick=",
                "http://",
                "https://",
            ] {
                let allowed = text.replace("http://www.w3.org/2000/svg", "");
                assert!(!allowed.contains(bad), "{name} has {bad}");
            }
        }
    }
}
