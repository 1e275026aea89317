//! The checkers: each holds one promise, and says in one sentence what broke it.

pub(crate) mod answers;
pub(crate) mod belongs;
pub(crate) mod doubts;
pub(crate) mod held;
pub(crate) mod numbers;
pub(crate) mod positions;
pub(crate) mod saved;
pub(crate) mod session;
pub(crate) mod settled;
pub(crate) mod times;
