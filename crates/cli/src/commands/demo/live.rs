//! The last act: the two exported directories become live folders, and a file that is saved in one
//! appears in the other.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Side, Story};
use crate::args::{Global, Up};
use crate::commands::live::Agent;
use crate::error::{Failure, Result};
use crate::output::Output;
use crate::replica::{self, LiveFolder};

/// The interval at which the demonstration looks for a file.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The time within which a file must appear.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps the directories of both sides in step for a moment, with an edit on each side.
pub(super) async fn play(story: &Story, base: &Path, sides: [Side; 2]) -> Result<()> {
    let names = sides.map(|side| side.name);
    let base = &base.canonicalize().map_err(Failure::io("cannot use the temporary directory"))?;
    let [one, two] = names.map(|name| base.join(format!("export-{name}")));
    let globals = names.map(|name| global(&base.join(name)));
    for (global, directory) in globals.iter().zip([&one, &two]) {
        let replica = replica::directory(global)?;
        let mut settings = replica::read_settings(&replica)?;
        settings.folders.push(LiveFolder::new(directory.clone(), None));
        settings.write(&replica)?;
    }
    let stop = story.stop.child_token();
    let quiet = Output { json: false, quiet: true };
    let args = Up { interval: 1, ..Up::default() };
    let [first, second] = &globals;
    let agent = |global, name| Agent::new(global, base.join(name), &args, quiet, stop.clone());
    let agents =
        futures::future::try_join(agent(first, names[0]).run(), agent(second, names[1]).run());
    let edits = async {
        let started = Instant::now();
        let save = |at: &Path, text: &str| {
            std::fs::write(at, text).map_err(Failure::io(format!("cannot write {}", at.display())))
        };
        let name = "saved while both are up.txt";
        save(&one.join(name), "saved in one\n")?;
        appears(story, &two.join(name), "saved in one\n").await?;
        let there = started.elapsed();
        save(&two.join(name), "edited in two\n")?;
        appears(story, &one.join(name), "edited in two\n").await?;
        let back = started.elapsed() - there;
        let text = format!(
            "two live folders: saved in one, whole in two after {:.1} s · edited in two, in one after {:.1} s",
            there.as_secs_f64(),
            back.as_secs_f64(),
        );
        let more =
            json!({ "thereSeconds": there.as_secs_f64(), "backSeconds": back.as_secs_f64() });
        story.report("live", started, &text, more)
    };
    tokio::select! {
        ended = agents => ended.map(drop)?,
        edited = edits => edited?,
    }
    stop.cancel();
    Ok(())
}

/// Waits until a file has the text.
async fn appears(story: &Story, at: &PathBuf, text: &str) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(at).is_ok_and(|found| found == text) {
        story.go_on()?;
        if Instant::now() > until {
            return Err(Failure::failed(format!("{} did not arrive", at.display())));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn global(replica: &Path) -> Global {
    Global {
        no_report: true,
        replica: Some(replica.to_owned()),
        json: false,
        quiet: true,
        insecure_http: false,
        transfers: None,
        cache_size: None,
    }
}
