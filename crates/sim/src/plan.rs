//! The plan of a world, derived from its seed before the world begins. Each step has its own
//! randomness, so a history stays valid without some of its steps.

pub(crate) mod shrink;

use strum::VariantArray as _;
use vfs_sync_testkit::Random;

use crate::actor::byzantine_server::Breach;
use crate::infra::network::Weather;

/// The parameters of a world.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) users: usize,
    pub(crate) devices: Vec<DeviceSetup>,
    pub(crate) servers: usize,
    /// The skew of each server's clock, in milliseconds.
    pub(crate) server_skew: Vec<i64>,
    /// True if users open several items at a time.
    pub(crate) reads_many: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct DeviceSetup {
    pub(crate) user: usize,
    pub(crate) page_limit: u32,
    /// True if the device rematerialises automatically.
    pub(crate) rematerialise: bool,
    /// True if the device synchronises in the background.
    pub(crate) background: bool,
    pub(crate) skew: i64,
    /// True if the device treats small contents as large ones.
    pub(crate) large: bool,
    /// True if the device's user is one of several who often work on each other's shared items.
    pub(crate) shares: bool,
}

/// One event of a history, and the time until the next one.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) wait_millis: u64,
    pub(crate) what: What,
    /// The fault of a disk before the step.
    pub(crate) disk: Option<DiskTrouble>,
    /// The change of a device's token before the step.
    pub(crate) token: Option<Swap>,
    /// The seed of the step's choices.
    pub(crate) chance: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Edit {
        device: usize,
    },
    Sync {
        device: usize,
    },
    Flush {
        device: usize,
    },
    Pull {
        device: usize,
    },
    /// Reads the tree and contents.
    Read {
        device: usize,
    },
    /// Waits until the device is done, and checks its replica.
    Settle {
        device: usize,
    },
    Members,
    /// A user blocks another, or ends a block.
    Block,
    Weather {
        device: usize,
        weather: Weather,
    },
    CrashDevice {
        device: usize,
    },
    CrashServer {
        server: usize,
    },
    StartServers,
    Clock {
        device: usize,
    },
    ServerClock {
        server: usize,
    },
    Database {
        per_mille: u32,
    },
    Objects {
        per_mille: u32,
    },
    Prune,
    Sweep,
    Backup,
    Restore,
    Export {
        device: usize,
    },
    /// Replaces the device by one from an old export.
    Hydrate {
        device: usize,
    },
    Breach {
        device: usize,
        breach: Breach,
    },
    /// The device's user sends requests that no client would send.
    Rogue {
        device: usize,
    },
    /// The device loses everything and is installed again.
    Reinstall {
        device: usize,
    },
    Rest,
}

/// A replacement of a device's token, as by a wrong variable or a file that was copied over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Swap {
    pub(crate) device: usize,
    /// The user of the new token; `None` for the device's own user again.
    pub(crate) user: Option<usize>,
}

/// A fault of the disk of the servers' database, or of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskTrouble {
    /// The device; `None` for the servers.
    pub(crate) device: Option<usize>,
    pub(crate) event: DiskEvent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskEvent {
    /// The process is killed at any point; the disk is unaffected.
    Killed,
    /// The power fails: unsynced writes are lost or torn.
    Power,
    /// The power fails in the middle of the next writes.
    PowerAt(u64),
    /// An operation of the next writes fails.
    FailsAt(u64),
    /// The disk has space for this number of bytes.
    Full(u64),
    /// The disk has unlimited space again.
    Room,
}

/// The complete plan of a seed.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) setup: Setup,
    pub(crate) steps: Vec<Step>,
}

/// A kind of step, and its frequency in a world that has it.
struct Weight(usize, fn(&mut Random, &Setup) -> What);

fn device(random: &mut Random, setup: &Setup) -> usize {
    random.below(setup.devices.len())
}

/// The kinds of work that every world has.
const WORK: [Weight; 9] = [
    Weight(20, |random, setup| What::Edit { device: device(random, setup) }),
    Weight(20, |random, setup| What::Sync { device: device(random, setup) }),
    Weight(3, |random, setup| What::Flush { device: device(random, setup) }),
    Weight(3, |random, setup| What::Pull { device: device(random, setup) }),
    Weight(5, |random, setup| What::Read { device: device(random, setup) }),
    Weight(1, |random, setup| What::Settle { device: device(random, setup) }),
    Weight(3, |_, _| What::Members),
    Weight(2, |_, _| What::Block),
    Weight(1, |_, _| What::Rest),
];

/// The faults that about half of the worlds have, each kind independently: many faults at a time
/// would hide the failures that few reveal.
const TROUBLE: [&[Weight]; 11] = [
    &[Weight(6, |random, setup| What::Weather {
        device: device(random, setup),
        weather: *random.one(&[&Weather::BAD[..], &[Weather::Calm; 3]].concat()),
    })],
    &[Weight(3, |random, setup| What::CrashDevice { device: device(random, setup) })],
    &[
        Weight(2, |random, setup| What::CrashServer { server: random.below(setup.servers) }),
        Weight(2, |_, _| What::StartServers),
    ],
    &[
        Weight(2, |random, setup| What::Clock { device: device(random, setup) }),
        Weight(1, |random, setup| What::ServerClock { server: random.below(setup.servers) }),
    ],
    &[Weight(3, |random, _| What::Database { per_mille: *random.one(&[0, 0, 20, 100]) })],
    &[Weight(3, |random, _| What::Objects { per_mille: *random.one(&[0, 0, 50, 300]) })],
    &[Weight(2, |_, _| What::Prune), Weight(3, |_, _| What::Sweep)],
    &[
        Weight(1, |_, _| What::Backup),
        Weight(1, |_, _| What::Restore),
        Weight(2, |random, setup| What::Export { device: device(random, setup) }),
        Weight(1, |random, setup| What::Hydrate { device: device(random, setup) }),
    ],
    &[Weight(6, |random, setup| What::Rogue { device: device(random, setup) })],
    &[Weight(1, |random, setup| What::Reinstall { device: device(random, setup) })],
    &[Weight(3, |random, setup| What::Breach {
        device: device(random, setup),
        breach: *random.one(Breach::VARIANTS),
    })],
];

fn skew(random: &mut Random) -> i64 {
    const HOUR: i64 = 3_600_000;
    *random.one(&[0, 0, 0, 3, -700, 45_000, -90_000, HOUR, -HOUR, 24 * 365 * HOUR])
}

impl Plan {
    pub(crate) fn of_seed(seed: u64, steps: usize) -> Self {
        let mut random = Random::new(seed);
        // The first numbers of neighbouring seeds are too much alike.
        for _ in 0..8 {
            random.below(2);
        }
        let troubles: Vec<bool> = TROUBLE.iter().map(|_| random.below(2) == 0).collect();
        let clocks = troubles[3];
        let mut setup = setup(&mut random, clocks);
        setup.reads_many = of_part(seed, 60).below(3) == 0;
        for (device, part) in setup.devices.iter_mut().zip(70..) {
            device.large = of_part(seed, part).below(6) == 0;
        }
        if of_part(seed, 62).below(6) == 0 {
            setup.devices.iter_mut().for_each(|device| device.shares = true);
        }
        let mut weights: Vec<&Weight> = WORK.iter().collect();
        let troubled = TROUBLE.iter().zip(&troubles).filter(|(_, there)| **there);
        weights.extend(troubled.flat_map(|(weights, _)| weights.iter()));
        let total: usize = weights.iter().map(|weight| weight.0).sum();
        let pace = *random.one(&[10, 60, 600, 4_000]);
        let draw = |random: &mut Random| {
            let mut at = random.below(total);
            let what = weights.iter().find(|weight| {
                let here = at < weight.0;
                at = at.saturating_sub(weight.0);
                here
            });
            let what = what.map_or(What::Rest, |weight| (weight.1)(random, &setup));
            let wait_millis = u64::try_from(random.below(pace)).unwrap_or(0);
            let chance = u64::try_from(random.below(1 << 30)).unwrap_or(0);
            Step { wait_millis, what, disk: None, token: None, chance }
        };
        let mut steps: Vec<Step> = (0..steps).map(|_| draw(&mut random)).collect();
        let mut random = of_part(seed, 61);
        if random.below(3) == 0 {
            for step in &mut steps {
                let (draw, device) = (random.below(16), device(&mut random, &setup));
                // The fourth is nobody's device.
                let other = (setup.devices[device].user + 1 + random.below(3)) % 4;
                step.token = match draw {
                    0 => Some(Swap { device, user: Some(other) }),
                    1 | 2 => Some(Swap { device, user: None }),
                    _ => None,
                };
            }
        }
        Self { seed, setup, steps }
    }

    /// Adds disk faults to the history: in half of the worlds for devices, in half for the servers.
    pub(crate) fn on_disks(mut self) -> Self {
        let mut random = self.random(301);
        let (of_devices, of_servers) = (random.below(2) == 0, random.below(2) == 0);
        let devices = self.setup.devices.len();
        for step in &mut self.steps {
            let (draw, device) = (random.below(24), random.below(devices));
            let at = u64::try_from(random.below(8)).unwrap_or(0);
            let event = match random.below(8) {
                0 | 1 => DiskEvent::Power,
                2 | 3 => DiskEvent::PowerAt(at),
                4 => DiskEvent::FailsAt(at),
                5 => DiskEvent::Full(at * 5_000),
                6 => DiskEvent::Room,
                _ => DiskEvent::Killed,
            };
            step.disk = match draw {
                0 | 1 if of_devices => Some(DiskTrouble { device: Some(device), event }),
                2 if of_servers => Some(DiskTrouble { device: None, event }),
                _ => None,
            };
        }
        self
    }

    /// Returns a random source for a part of the world, independent of the steps.
    pub(crate) fn random(&self, part: u64) -> Random {
        of_part(self.seed, part)
    }
}

fn of_part(seed: u64, part: u64) -> Random {
    let mut random = Random::new(seed ^ (part + 1).wrapping_mul(0xA076_1D64_78BD_642F));
    random.below(2);
    random.fork()
}

fn setup(random: &mut Random, clocks: bool) -> Setup {
    let users = 1 + random.below(3);
    let servers = 1 + random.below(2);
    let mut devices = Vec::new();
    for user in 0..users {
        for _ in 0..1 + random.below(2) + usize::from(users == 1) {
            devices.push(DeviceSetup {
                user,
                page_limit: *random.one(&[1, 3, 10, 100, 500]),
                rematerialise: random.below(2) == 0,
                background: random.below(6) == 0,
                skew: if clocks { skew(random) } else { 0 },
                large: false,
                shares: false,
            });
        }
    }
    let server_skew = (0..servers).map(|_| if clocks { skew(random) } else { 0 }).collect();
    Setup { users, devices, servers, server_skew, reads_many: false }
}
