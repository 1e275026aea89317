//! Random choices that a seed reproduces.

/// Returns the number in the environment variable `name`, such as the size of a test; `None` if the
/// variable is not set.
///
/// # Panics
/// If the value is not a number.
#[must_use]
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| fail(&format!("{name}={text:?} is not a number"))))
}

#[allow(clippy::panic)]
fn fail(message: &str) -> ! {
    panic!("{message}")
}

/// Returns the seed in `VFS_SYNC_TEST_SEED`, or one from the present time. A test prints it as
/// `VFS_SYNC_TEST_SEED=<seed>`, so that a run can be repeated.
#[must_use]
pub fn seed() -> u64 {
    number("VFS_SYNC_TEST_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        u64::try_from(now.as_micros()).unwrap_or_default()
    })
}

/// Returns the seeds of a test that plays a history for each: only `VFS_SYNC_TEST_SEED` if it is
/// set, else as many as `VFS_SYNC_TEST_SEEDS` says, or `count`.
pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
    match number("VFS_SYNC_TEST_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("VFS_SYNC_TEST_SEEDS").unwrap_or(count),
    }
}

/// A source of random numbers from a seed (xorshift64*).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Creates the source for `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds begin far apart, and none at zero, where it would stay.
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Returns the next number, from 0 to `bound` − 1; `bound` must not be 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).unwrap_or(usize::MAX) % bound
    }

    /// Returns one of `choices`, which must not be empty.
    pub fn one<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// Returns random bytes without repetition.
    #[must_use]
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 3);
        while bytes.len() < len {
            let number = self.below(1 << 24).to_le_bytes();
            bytes.extend_from_slice(&number[..3]);
        }
        bytes.truncate(len);
        bytes
    }

    /// Returns an independent source, for code that runs beside this one.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        self.below(1);
        Self::new(self.0)
    }
}
