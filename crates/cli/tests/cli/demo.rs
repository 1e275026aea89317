//! The demonstration, as a newcomer runs it.

use crate::support::Scene;

#[test]
fn the_demonstration_ends_in_identical_trees() {
    let scene = Scene::offline();
    let ran = scene.run(["--json", "demo"]).expect(0);
    let steps: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let step = |name: &str| steps.iter().find(|step| step["step"] == name).unwrap();
    assert_eq!(step("compare")["identical"], true);
    assert!(step("compare")["comparison"]["files"].as_u64().unwrap() > 2_000);
    assert!(step("live")["thereSeconds"].as_f64().unwrap() > 0.0);
    assert_eq!(steps.last().unwrap()["step"], "total");
}

#[test]
fn the_demonstration_takes_a_directory_and_leaves_it_alone() {
    let scene = Scene::offline();
    for number in 0..100 {
        scene.write(&format!("d/{}/{number}", number % 7), number.to_string());
    }
    let before = crate::support::tree_of(&scene.path("d"));
    scene.run(["demo", "d"]).expect(0).says("identical");
    assert_eq!(crate::support::tree_of(&scene.path("d")), before);
    scene.run(["demo", "nowhere"]).expect(1).says("nowhere");
}
