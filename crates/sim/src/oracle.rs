//! The judgement of a history: the model of the protocol, the records of promises, and the
//! checkers, each of which checks one promise and describes in one sentence how it was broken.

pub(crate) mod belongs;
pub(crate) mod coverage;
pub(crate) mod derived;
pub(crate) mod failure;
pub(crate) mod held;
pub(crate) mod ledger;
pub(crate) mod model;
pub(crate) mod positions;
pub(crate) mod saved;
pub(crate) mod session;
pub(crate) mod settled;
pub(crate) mod times;
pub(crate) mod transactions;
pub(crate) mod uncertain_commits;
pub(crate) mod write_ids;
