//! The demonstration, as a newcomer runs it.

use crate::support::Scene;

#[test]
fn the_demonstration_ends_in_identical_trees() {
    let scene = Scene::offline();
    let ran = scene.run(["--json", "demo"]).expect(0);
    let last: serde_json::Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&last["step"], &last["identical"]), (&"compare".into(), &true.into()));
    assert!(last["comparison"]["files"].as_u64().unwrap() > 2_000);
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
