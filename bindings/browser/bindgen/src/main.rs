//! Writes the JavaScript and the types beside the WebAssembly of a page, as the program
//! `wasm-bindgen` does.
//!
//! ```console
//! $ vfs-sync-bindgen vfs_sync_browser.wasm directory
//! ```

use std::process::ExitCode;

use wasm_bindgen_cli_support::Bindgen;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, out] = arguments.as_slice() else {
        return failed("usage: vfs-sync-bindgen FILE.wasm DIRECTORY");
    };
    let mut bindgen = Bindgen::new();
    let web = bindgen.input_path(input).typescript(true).web(true);
    match web.and_then(|bindgen| bindgen.generate(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&format!("{error:?}")),
    }
}

fn failed(reason: &str) -> ExitCode {
    // The one way in which this program speaks.
    #[allow(clippy::print_stderr)]
    {
        eprintln!("{reason}");
    }
    ExitCode::FAILURE
}
