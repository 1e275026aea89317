//! The history of a world of live folders, drawn from a seed.

use vfs_sync_testkit::Random;

use crate::infra::network::Weather;

/// A world and its history.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) devices: usize,
    /// True if the replicas are SQLite files, which a killed process opens again.
    pub(crate) on_disks: bool,
    pub(crate) steps: Vec<Step>,
}

/// A step of a history, whose choices do not depend on other steps.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) what: What,
    /// The seed of the step's choices.
    pub(crate) chance: u64,
    pub(crate) wait_millis: u64,
}

/// The events of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// A program starts in a device's directory.
    Start { device: usize },
    /// The programs of a device take some steps.
    Work { device: usize },
    /// The engine imports, synchronises and exports.
    Round { device: usize, trouble: Trouble },
    /// The network of a device changes.
    Weather { device: usize, weather: Weather },
    /// The clock of a device jumps.
    Clock { device: usize },
    /// The engine looks while the directory's disk is not mounted.
    Unmounted { device: usize },
}

/// The trouble that the engine meets in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// Programs take steps between the engine's operations.
    Busy,
    /// An operation fails, and perhaps the same for a while.
    Fails,
    /// The process is killed.
    Killed,
}

impl Plan {
    pub(crate) fn of_seed(seed: u64, steps: usize, on_disks: bool) -> Self {
        let mut random = Random::new(seed ^ 0x000f_01de_a5ee_d000);
        random.below(2);
        let devices = 2 + random.below(2);
        // Each kind of trouble is in half of the worlds: many at once hide what few reveal.
        let [fails, kills, clocks, network, unmounts] = [0; 5].map(|_| random.below(2) == 0);
        let steps = (0..steps).map(|_| {
            let device = random.below(devices);
            let trouble = match random.below(8) {
                0..=3 => Trouble::Busy,
                4 if fails => Trouble::Fails,
                5 if kills => Trouble::Killed,
                _ => Trouble::None,
            };
            let what = match random.below(40) {
                0..=11 => What::Start { device },
                12..=19 => What::Work { device },
                20 if clocks => What::Clock { device },
                21 if network => {
                    What::Weather { device, weather: *random.one(&[Weather::Cut, Weather::Lossy]) }
                }
                22 if network => What::Weather { device, weather: Weather::Calm },
                23 if unmounts => What::Unmounted { device },
                _ => What::Round { device, trouble },
            };
            let chance = random.below(1 << 30) as u64;
            let wait_millis = *random.one(&[0, 1, 40, 700, 2_500, 6_000]);
            Step { what, chance, wait_millis }
        });
        let steps = steps.collect();
        Self { seed, devices, on_disks, steps }
    }

    /// Returns a random source for a part of the world.
    pub(crate) fn random(&self, part: u64) -> Random {
        let mut random = Random::new(self.seed.wrapping_mul(1_000_003).wrapping_add(part));
        random.below(2);
        random
    }
}
