//! Writes the Kotlin and the Swift of the client, as the library has them in it.

use std::env::args;
use std::error::Error;

use uniffi::{GenerateOptions, TargetLanguage, generate};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = args().skip(1);
    let (Some(source), Some(config), Some(out), None) =
        (args.next(), args.next(), args.next(), args.next())
    else {
        return Err("usage: vfs-sync-uniffi-bindgen LIBRARY CONFIG DIRECTORY".into());
    };
    generate(GenerateOptions {
        languages: vec![TargetLanguage::Kotlin, TargetLanguage::Swift],
        source: source.into(),
        out_dir: out.into(),
        config_override: Some(config.into()),
        format: false,
        crate_filter: None,
        metadata_no_deps: true,
    })?;
    Ok(())
}
