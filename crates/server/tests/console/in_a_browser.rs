//! What an operator sees and does.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vfs_sync_core::id::UserId;

use crate::desk::{Desk, HOSTILE, HOSTILE_USER};
use crate::log;

const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";

/// Users, devices, files and stages, some of them in trouble.
async fn furnish(desk: &Desk) {
    desk.files("alice", "laptop-of-alice", 1, 5).await;
    desk.calls("alice", "laptop-of-alice", "Laptop", "&queue=0").await;
    desk.calls("alice", "phone-of-alice", "Phone", "&queue=2").await;
    desk.files("bob", "desktop-of-bob", 1, 3).await;
    desk.reports("bob", "desktop-of-bob", Some("Desktop"), "pull:pullCursorRegression").await;
    desk.files("carol", "tablet-of-carol", 1, 9).await;
    desk.calls("carol", "tablet-of-carol", "Tablet", "&queue=0").await;
    desk.limit_items("carol", 10).await;
    desk.stages("carol", "stage-of-carol").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium"]
async fn an_operator_signs_in_sees_what_is_wrong_and_acts() {
    let desk = Desk::new().await;
    furnish(&desk).await;
    desk.open().await;
    desk.sign_in_with("not.a.token").await;
    desk.sees("the bearer token is malformed").await;
    desk.sign_in_with(&desk.server.token("alice")).await;
    desk.sees("The token lacks the scope vfs:admin").await;
    desk.sign_in().await;
    assert_eq!(desk.eval("document.cookie").await, "", "no script reads the cookie");
    assert_eq!(desk.eval("document.getElementById('token').value").await, "");

    // The problem is first, with what the runbook says.
    desk.sees("A device has stopped: pull:pullCursorRegression").await;
    assert_eq!(desk.text("#state").await, "1 problem");
    desk.eval("document.querySelector('.problem summary').click()").await;
    desk.sees("docs/en/vfs-sync-runbook.md#1-sync-state-divergence").await;

    // A violation is in the metric, the log and the console within 5 seconds.
    let begun = Instant::now();
    desk.reports("alice", "phone-of-alice", Some("Phone"), "pull:pullDuplicateOpReplay").await;
    desk.sees("A device has stopped: pull:pullDuplicateOpReplay").await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let url = format!("{}/metrics", desk.server.admin_url().unwrap());
    let metrics = reqwest::get(url).await.unwrap().text().await.unwrap();
    let series = "signature=\"pull:pullDuplicateOpReplay\"} 1";
    assert!(metrics.lines().any(|line| {
        line.starts_with("vfs_sync_guardrail_violation_total") && line.ends_with(series)
    }));
    assert!(log::text().contains("pull:pullDuplicateOpReplay"));
    let open = "[...document.querySelectorAll('.problem')].some((one) => one.innerText.includes('desktop-of-bob') && one.querySelector('details').open)";
    assert_eq!(desk.eval(open).await, true, "what was open stays open");
    // A device may go on after what it reported, which stays for a day.
    desk.reports("alice", "laptop-of-alice", None, "pull:lastWriteIdRegression").await;
    desk.sees("A client reported a violation: pull:lastWriteIdRegression").await;

    // Devices: details, then a revocation, which has to be confirmed.
    desk.view("Devices").await;
    desk.sees("desktop-of-bob").await;
    desk.click("Revoke Desktop").await;
    desk.sees("nothing is wiped").await;
    desk.click("Cancel").await;
    assert_eq!(log::audited("device_revoked"), [] as [Value; 0]);
    desk.click("Revoke Desktop").await;
    desk.click("Revoke").await;
    desk.until("[...document.querySelectorAll('tbody tr')].some((row) => row.innerText.includes('desktop-of-bob') && row.innerText.includes('revoked'))").await;
    let audited = log::audited("device_revoked");
    assert_eq!(audited.len(), 1);
    assert_eq!(audited[0]["what"], "desktop-of-bob");
    assert_ne!(audited[0]["by"], audited[0]["of"]);

    // Users: near a limit, limited, disabled and enabled, deleted by typing the name.
    desk.view("Users").await;
    desk.until("[...document.querySelectorAll('tbody tr')].some((row) => row.innerText.includes('carol') && row.innerText.includes('near the limit'))").await;
    desk.click("Limits carol").await;
    desk.fill("field-maxItems", "-1").await;
    desk.click("Limits").await;
    desk.sees("must be a whole number").await;
    desk.fill("field-maxItems", "1000").await;
    desk.click("Limits").await;
    desk.until("!document.getElementById('dialog').open && !document.body.innerText.includes('near the limit')").await;
    desk.click("Disable bob").await;
    desk.click("Disable").await;
    desk.until("[...document.querySelectorAll('tbody tr')].some((row) => row.innerText.includes('bob') && row.innerText.includes('disabled'))").await;
    desk.click("Delete bob").await;
    desk.fill("field-typed", "alice").await;
    desk.click("Delete").await;
    desk.sees("nothing was done").await;
    assert_eq!(log::audited("user_deletion_requested"), [] as [Value; 0]);
    desk.fill("field-typed", "bob").await;
    desk.click("Delete").await;
    desk.sees("deletion waiting").await;
    assert_eq!(log::audited("user_deletion_requested").len(), 1);
    desk.click("Allow bob").await;
    desk.click("Allow").await;
    desk.until("!document.body.innerText.includes('deletion waiting')").await;

    // Storage: a stage ends, the sweeper runs.
    desk.view("Storage").await;
    desk.sees("stage-of-carol").await;
    desk.click("End the stage stage-of-carol").await;
    desk.click("End the stage").await;
    desk.sees("No stage is open.").await;
    assert_eq!(log::audited("stage_abandoned")[0]["what"], "stage-of-carol");
    desk.click("Run now").await;
    desk.until("!document.querySelector('.tile button').disabled").await;
    assert_eq!(log::audited("task_run")[0]["what"], "sweep");

    // The doctor's examination of a user.
    desk.open_user("alice").await;
    desk.click("Examine").await;
    desk.sees("Nothing was found: ").await;
    let database = desk.server.database_file();
    let file = rusqlite::Connection::open(&database).unwrap();
    let changed = file
        .execute("DELETE FROM feed WHERE (uid, key) IN (SELECT uid, key FROM feed LIMIT 1)", []);
    assert_eq!(changed.unwrap(), 1);
    let users = ["alice", "bob", "carol"];
    let mut seen = false;
    for user in users {
        desk.open_user(user).await;
        desk.click("Examine").await;
        desk.until(
            "/Nothing was found|were compared/.test(document.querySelector('.findings').innerText)",
        )
        .await;
        seen |= desk.text(".findings").await.contains("state.feeds: 1 found");
    }
    assert!(seen, "an entry that is missing in a feed is found");
    desk.view("Server").await;
    desk.sees("primary: takes writes").await;
    desk.sees("SQLite").await;
    desk.view("Sessions").await;
    desk.sees("this one").await;

    // A search: the name of an item is shown only on request, and that is in the audit log.
    desk.fill("query", "laptop-of-alice-item-2").await;
    desk.click("Search").await;
    desk.sees("Item laptop-of-alice-item-2").await;
    let page = desk.text("body").await;
    assert!(!page.contains("secret-plan"), "{page}");
    assert_eq!(log::audited("item_name_shown"), [] as [Value; 0]);
    desk.click("Show the name").await;
    desk.sees("secret-plan-2.txt").await;
    assert_eq!(log::audited("item_name_shown")[0]["what"], "laptop-of-alice-item-2");
    assert!(!log::text().contains("secret-plan"), "no name is in the log");
    for (query, found) in [
        ("alice", "in logs"),
        ("blob-of-stage-of-carol", "Blob blob-of-stage-of-carol"),
        ("stage-of-carol", "Stage stage-of-carol"),
        ("Phon", "phone-of-alice"),
        ("database_unavailable", "Runbook: database_unavailable"),
        ("nothing-has-this-id", "Nothing has this id or name"),
    ] {
        desk.fill("query", query).await;
        desk.click("Search").await;
        desk.sees(found).await;
    }

    desk.is_clean().await;
    desk.click("Sign out").await;
    desk.sees("You are signed out.").await;
    assert_eq!(desk.text("#main").await, "", "nothing is left to whoever comes next");
    assert_eq!(desk.server.store().sessions(10_u32).await.unwrap(), []);
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium"]
async fn names_of_others_are_text_and_no_script_of_others_runs() {
    let desk = Desk::new().await;
    assert!(UserId::new(HOSTILE_USER).is_ok());
    desk.files(HOSTILE_USER, "client-1", 1, 1).await;
    desk.reports(HOSTILE_USER, "client-1", Some(HOSTILE), "pull:pullCursorRegression").await;
    desk.stages(HOSTILE_USER, "<b>stage</b>").await;
    desk.open().await;
    desk.sign_in().await;
    // The server takes signs of markup off the names of devices; users' ids and others' have them.
    desk.sees("<img src=x onerror='window.harm=2'>").await;
    // What turns the direction is written out.
    desk.sees("⟨U+202E⟩").await;
    for view in ["Devices", "Users", "Storage", "Sessions", "Overview"] {
        desk.view(view).await;
    }
    desk.view("Storage").await;
    desk.sees("<b>stage</b>").await;
    desk.view("Devices").await;
    desk.click("Details").await;
    desk.until("document.getElementById('dialog').open").await;
    desk.click("Close").await;
    desk.view("Users").await;
    desk.eval("document.querySelector('tbody a').click()").await;
    desk.until("document.querySelector('#main h1')?.innerText.startsWith('User ')").await;
    desk.sees("onerror='window.harm=2'").await;
    desk.fill("query", HOSTILE_USER).await;
    desk.click("Search").await;
    desk.sees("in logs").await;
    assert_eq!(
        desk.eval("document.querySelectorAll('#main img, #main b, #main script').length").await,
        0
    );
    assert_eq!(
        desk.eval("document.documentElement.scrollWidth <= window.innerWidth").await,
        true,
        "a long name makes nothing wider"
    );
    desk.is_clean().await;

    // Markup that came in some other way would run nothing either.
    desk.eval(
        "(() => {
            const script = document.createElement('script');
            script.textContent = 'window.harm = 3';
            document.body.append(script);
            const image = document.createElement('img');
            image.setAttribute('onerror', 'window.harm = 4');
            image.src = 'none.png';
            document.body.append(image);
            const away = document.createElement('script');
            away.src = 'http://127.0.0.1:1/x.js';
            document.body.append(away);
        })()",
    )
    .await;
    desk.until("window.notes.filter((note) => note.startsWith('policy: script-src')).length >= 3")
        .await;
    assert_eq!(desk.eval("window.harm ?? null").await, Value::Null);
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium"]
async fn a_session_that_ends_keeps_the_view_and_other_pages_have_no_part_in_it() {
    let desk = Desk::new().await;
    furnish(&desk).await;
    desk.open().await;
    desk.sign_in().await;
    desk.view("Devices").await;
    desk.server.clock().advance(Duration::from_secs(3_601));
    desk.sees("The session has ended. Sign in again to go on where you are.").await;
    desk.sees("desktop-of-bob").await;
    desk.sign_in().await;
    assert_eq!(desk.text("#main h1").await, "Devices");
    desk.is_clean().await;

    // A page of another origin, which the browser gives the cookie: ports are of one site.
    let admin = desk.server.admin_url().unwrap();
    desk.browser.call("url", json!({"url": format!("{}/healthz", desk.server.url())})).await;
    desk.eval(&format!(
        "(() => {{
            const call = (name, method, headers) => fetch('{admin}/v1/vfs/admin/users/alice/disable',
                {{ method, headers, mode: name, credentials: 'include' }}).then((it) => it.type, () => 'refused');
            window.outcomes = null;
            Promise.all([
                call('no-cors', 'POST', {{}}),
                call('cors', 'POST', {{ 'Vfs-Sync-Console': '1' }}),
            ]).then((all) => {{ window.outcomes = all; }});
        }})()"
    ))
    .await;
    desk.until("window.outcomes").await;
    assert_eq!(desk.eval("window.outcomes").await, json!(["refused", "refused"]));
    assert_eq!(log::audited("user_disabled").iter().filter(|one| one["what"] != "").count(), 0);
    let alice = UserId::new("alice").unwrap();
    let record = desk.server.store().user_record(alice).await.unwrap().unwrap();
    assert_eq!(record.disabled_at, None, "the cookie alone changes nothing");

    // A server that is away is said so, and the view stays.
    let mut desk = desk;
    desk.open().await;
    desk.until("document.querySelector('#main h1')").await;
    desk.server.stop().await;
    desk.sees("The server does not answer").await;
    desk.sees("What needs you").await;
    desk.server.start_again().await;
    desk.until("document.getElementById('trouble').hidden").await;
    desk.close().await;
}

/// Returns a description of what has the focus.
async fn focus(desk: &Desk) -> String {
    let told = desk
        .eval("(() => { const it = document.activeElement; return `${it.tagName} ${it.id} ${(it.getAttribute('aria-label') ?? it.innerText ?? '').trim()}`; })()")
        .await;
    told.as_str().unwrap().trim().to_owned()
}

/// Presses Tab until something has the focus.
async fn tab_to(desk: &Desk, wanted: &str) {
    for _ in 0..80 {
        desk.keys(TAB).await;
        let now = focus(desk).await;
        if now.contains(wanted) {
            let outlined = "getComputedStyle(document.activeElement).outlineStyle !== 'none'";
            assert_eq!(desk.eval(outlined).await, true, "the focus of {now} is seen");
            return;
        }
    }
    panic!("{wanted} is not reached by Tab: {}", focus(desk).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium"]
async fn everything_is_reached_by_the_keyboard() {
    let desk = Desk::new().await;
    furnish(&desk).await;
    desk.open().await;
    desk.until("document.activeElement?.id === 'token'").await;
    // Nobody leaves the sign-in by Escape.
    desk.keys(ESCAPE).await;
    desk.until("document.getElementById('sign-in').open && document.activeElement?.id === 'token'")
        .await;
    desk.keys(&desk.token()).await;
    desk.keys(ENTER).await;
    desk.until("document.activeElement?.tagName === 'H1'").await;

    desk.eval("document.activeElement.blur()").await;
    desk.eval("window.getSelection().removeAllRanges()").await;
    desk.open().await;
    desk.until("document.activeElement?.tagName === 'H1'").await;
    desk.eval("document.querySelector('.skip').focus()").await;
    desk.keys(ENTER).await;
    assert_eq!(desk.eval("document.activeElement.id").await, "main");
    desk.eval("document.querySelector('.skip').focus()").await;
    tab_to(&desk, "query").await;
    desk.keys("alice").await;
    desk.keys(ENTER).await;
    desk.sees("Search for alice").await;
    desk.eval("document.querySelector('.skip').focus()").await;
    tab_to(&desk, "Devices").await;
    desk.keys(ENTER).await;
    desk.until("document.querySelector('#main h1')?.innerText === 'Devices' && document.activeElement?.tagName === 'H1'").await;

    tab_to(&desk, "Revoke Desktop").await;
    desk.keys(ENTER).await;
    desk.until("document.getElementById('dialog').open").await;
    assert!(focus(&desk).await.contains("Cancel"), "what does no harm has the focus");
    // Tab stays within the dialog, as far as the page goes.
    for _ in 0..6 {
        desk.keys(TAB).await;
        let inside = "document.activeElement === document.body || document.getElementById('dialog').contains(document.activeElement)";
        assert_eq!(desk.eval(inside).await, true, "{}", focus(&desk).await);
    }
    desk.keys(ESCAPE).await;
    desk.until("!document.getElementById('dialog').open").await;
    assert!(focus(&desk).await.contains("Revoke Desktop"), "the focus returns");
    desk.keys(ENTER).await;
    tab_to(&desk, "BUTTON  Revoke").await;
    desk.keys(ENTER).await;
    desk.until("!document.getElementById('dialog').open").await;
    desk.until("[...document.querySelectorAll('tbody tr')].some((row) => row.innerText.includes('desktop-of-bob') && row.innerText.includes('revoked'))").await;
    desk.is_clean().await;
    desk.close().await;
}

/// Finds text whose contrast with its ground is below 4.5 to 1.
const FAINT: &str = "(() => {
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = (color) => {
        const [r, g, b] = parts(color).slice(0, 3).map((part) => part / 255).map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const color = getComputedStyle(at).backgroundColor;
            if ((parts(color)[3] ?? 1) > 0.99) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    const found = [];
    for (const element of document.querySelectorAll('body *')) {
        const own = [...element.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim() !== '');
        if (!own || !element.checkVisibility() || element.closest('.unseen, .skip')) continue;
        const [one, other] = [light(getComputedStyle(element).color), light(ground(element))].sort((a, b) => b - a);
        const contrast = (one + 0.05) / (other + 0.05);
        if (contrast < 4.5) found.push(`${element.tagName}.${element.className} ${contrast.toFixed(1)}: ${element.textContent.trim().slice(0, 40)}`);
    }
    return found;
})()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium"]
async fn the_page_is_readable_in_the_dark_in_the_light_and_on_a_phone() {
    let bless = std::env::var_os("VFS_SYNC_BLESS").is_some();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/images");
    let desk = Desk::new().await;
    furnish(&desk).await;
    desk.open().await;
    desk.sign_in().await;
    if bless {
        // A history that is worth a picture.
        for second in 0..70_u64 {
            desk.files("alice", "laptop-of-alice", 100 + second * 50, 1 + second % 7 * 5).await;
            for _ in 0..second % 5 * 3 {
                desk.calls("alice", "phone-of-alice", "Phone", "&queue=2").await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    for (name, view, width, height, scheme) in [
        ("console-overview-light", "Overview", 1_040, 720, "light"),
        ("console-overview-dark", "Overview", 1_040, 720, "dark"),
        ("console-users-light", "Users", 1_040, 400, "light"),
        ("console-devices-dark", "Devices", 1_040, 400, "dark"),
        ("console-overview-phone", "Overview", 390, 844, "dark"),
        ("console-devices-phone", "Devices", 390, 844, "light"),
    ] {
        desk.resize(width, height, scheme).await;
        desk.view(view).await;
        desk.sees(if view == "Users" { "near the limit" } else { "desktop-of-bob" }).await;
        let faint = desk.eval(FAINT).await;
        assert_eq!(faint, json!([]), "{name}");
        desk.eval("window.scrollTo(0, 0)").await;
        let picture = desk.picture().await;
        let file = docs.join(format!("{name}.png"));
        if bless {
            std::fs::create_dir_all(&docs).unwrap();
            std::fs::write(&file, &picture).unwrap();
        }
        let kept = std::fs::metadata(&file).unwrap_or_else(|_| panic!("{name}: VFS_SYNC_BLESS=1"));
        assert!(kept.len() < 100_000, "{name} has {} bytes", kept.len());
    }
    for view in ["Overview", "Devices", "Users", "Storage", "Server", "Sessions"] {
        desk.resize(390, 844, "light").await;
        desk.view(view).await;
        assert_eq!(
            desk.eval("document.documentElement.scrollWidth").await,
            390,
            "{view} scrolls to no side"
        );
    }
    desk.is_clean().await;
    desk.close().await;
}
