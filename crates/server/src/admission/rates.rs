//! Rates: what one user, and one address, may ask for in a time.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::{PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use vfs_sync_core::id::UserId;

use crate::config::{Rate, ServerConfig};
use crate::error::ApiError;
use crate::state::App;

/// Users or addresses of one rate that are remembered. Whoever has used nothing for a while is
/// forgotten first; if that is not enough, all are, and begin with a full burst.
const MAX_KEYS: usize = 64 * 1024;
/// The rate of a user's reports: what a few devices in trouble send, and no flood of log lines.
const REPORTS: Rate = Rate { per_second: 1, burst: 100 };
/// The rate of sign-ins at the console, of an address; those of this machine count as one.
const SIGN_INS: Rate = Rate { per_second: 1, burst: 10 };
/// The unit in which bytes are counted.
const BYTE_UNIT: u64 = 1024;

/// The runtime's clock, which the simulator controls.
#[derive(Debug, Clone)]
struct RuntimeClock(Instant);

impl Clock for RuntimeClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

type Limiter<K> = RateLimiter<K, HashMapStateStore<K>, RuntimeClock, NoOpMiddleware<Duration>>;

/// A rate of each of many keys.
struct Keyed<K: Hash + Eq + Clone> {
    name: &'static str,
    quota: Quota,
    burst: NonZeroU32,
    clock: RuntimeClock,
    limiter: RwLock<Limiter<K>>,
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    /// Creates the limiter of a rate in `unit`s, none if the rate is not limited.
    fn new(name: &'static str, rate: Option<Rate>, unit: u64) -> Option<Self> {
        let Rate { per_second, burst } = rate?;
        let units = |amount: u64| {
            let units = u32::try_from(amount.div_ceil(unit)).unwrap_or(u32::MAX);
            NonZeroU32::new(units).unwrap_or(NonZeroU32::MIN)
        };
        let burst = units(burst.max(per_second));
        let quota = Quota::per_second(units(per_second)).allow_burst(burst);
        let clock = RuntimeClock(Instant::now());
        let limiter = RwLock::new(RateLimiter::hashmap_with_clock(quota, clock.clone()));
        Some(Self { name, quota, burst, clock, limiter })
    }

    /// Takes `amount` of what `key` may use. What is larger than a burst takes all of a burst.
    ///
    /// # Errors
    /// The time after which there is as much.
    fn take(&self, key: &K, amount: u32) -> Result<(), Duration> {
        let Some(amount) = NonZeroU32::new(amount) else { return Ok(()) };
        let limiter = self.limiter.read().unwrap_or_else(PoisonError::into_inner);
        let taken = match limiter.check_key_n(key, amount.min(self.burst)) {
            Ok(Err(not_until)) => Err(not_until.wait_time_from(self.clock.now())),
            Ok(Ok(())) | Err(_) => Ok(()),
        };
        let full = limiter.len() > MAX_KEYS;
        drop(limiter);
        if full {
            self.forget();
        }
        taken
    }

    /// Forgets those who have a full burst again, or everybody if they are too few.
    fn forget(&self) {
        let mut limiter = self.limiter.write().unwrap_or_else(PoisonError::into_inner);
        limiter.retain_recent();
        if limiter.len() > MAX_KEYS / 2 {
            *limiter = RateLimiter::hashmap_with_clock(self.quota, self.clock.clone());
        }
    }

    fn refused(&self, wait: Duration) -> ApiError {
        metrics::counter!("vfs_sync_rate_limited_total", "rate" => self.name).increment(1);
        ApiError::too_fast(self.name, wait)
    }
}

/// Takes `amount` of a rate, if it is limited and the key is known.
///
/// # Errors
/// As [`Keyed::take`].
fn take<K: Hash + Eq + Clone>(
    rate: Option<&Keyed<K>>,
    key: Option<&K>,
    amount: u32,
) -> Result<(), Duration> {
    rate.zip(key).map_or(Ok(()), |(rate, key)| rate.take(key, amount))
}

/// Takes as [`take`] does; the error is the answer to the request.
fn check<K: Hash + Eq + Clone>(
    rate: Option<&Keyed<K>>,
    key: Option<&K>,
    amount: u32,
) -> Result<(), ApiError> {
    rate.zip(key)
        .map_or(Ok(()), |(rate, key)| rate.take(key, amount).map_err(|wait| rate.refused(wait)))
}

/// The rates of users, and of addresses.
struct OfEach<K: Hash + Eq + Clone> {
    requests: Option<Keyed<K>>,
    operations: Option<Keyed<K>>,
    bytes: Option<Keyed<K>>,
}

/// The rates of a server.
pub(crate) struct Rates {
    users: OfEach<UserId>,
    addresses: OfEach<IpAddr>,
    /// Reports of users' clients.
    reports: Option<Keyed<UserId>>,
    /// Sign-ins at the console.
    sign_ins: Option<Keyed<Option<IpAddr>>>,
}

/// The user of a request, and its address where that is known.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) user: UserId,
    pub(crate) address: Option<IpAddr>,
}

impl Rates {
    pub(crate) fn new(config: &ServerConfig) -> Self {
        let rates = &config.rates;
        Self {
            users: OfEach {
                requests: Keyed::new("userRequests", rates.user_requests, 1),
                operations: Keyed::new("userOperations", rates.user_operations, 1),
                bytes: Keyed::new("userBytes", rates.user_bytes, BYTE_UNIT),
            },
            addresses: OfEach {
                requests: Keyed::new("addressRequests", rates.address_requests, 1),
                operations: Keyed::new("addressOperations", rates.address_operations, 1),
                bytes: Keyed::new("addressBytes", rates.address_bytes, BYTE_UNIT),
            },
            reports: Keyed::new("userReports", Some(REPORTS), 1),
            sign_ins: Keyed::new("consoleSignIns", Some(SIGN_INS), 1),
        }
    }

    /// Counts a request without a valid token.
    pub(crate) fn anonymous_request(&self, address: Option<IpAddr>) -> Result<(), ApiError> {
        check(self.addresses.requests.as_ref(), address.as_ref(), 1)
    }

    /// Counts a request of a user. It is refused as well while the bytes are used up.
    pub(crate) fn request(&self, origin: &Origin) -> Result<(), ApiError> {
        check(self.users.requests.as_ref(), Some(&origin.user), 1)?;
        check(self.users.bytes.as_ref(), Some(&origin.user), 1)?;
        check(self.addresses.bytes.as_ref(), origin.address.as_ref(), 1)
    }

    /// Counts the operations of a request before any of them is applied.
    pub(crate) fn operations(&self, origin: &Origin, count: usize) -> Result<(), ApiError> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        check(self.users.operations.as_ref(), Some(&origin.user), count)?;
        check(self.addresses.operations.as_ref(), origin.address.as_ref(), count)
    }

    /// Counts reports before any of them is counted for the operator.
    pub(crate) fn reports(&self, origin: &Origin, count: usize) -> Result<(), ApiError> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        check(self.reports.as_ref(), Some(&origin.user), count)
    }

    /// Counts a sign-in at the console, before the token is looked at.
    pub(crate) fn sign_in(&self, address: Option<IpAddr>) -> Result<(), ApiError> {
        check(self.sign_ins.as_ref(), Some(&address), 1)
    }

    /// Counts the bytes of a body or an answer as they pass, and delays those beyond the rate.
    pub(crate) fn metered(app: &App, origin: &Origin, body: Body) -> Body {
        let rates = &app.rates;
        let limited = rates.users.bytes.is_some()
            || (rates.addresses.bytes.is_some() && origin.address.is_some());
        if !limited || body.is_end_stream() {
            return body;
        }
        let (app, origin) = (app.clone(), origin.clone());
        Body::new(Metered { app, origin, body, rest: 0, held: None })
    }

    /// Counts bytes; `paid` says whether they count for the user already.
    fn take_bytes(&self, origin: &Origin, units: u32, paid: &mut bool) -> Result<(), Duration> {
        if !*paid {
            take(self.users.bytes.as_ref(), Some(&origin.user), units)?;
            *paid = true;
        }
        take(self.addresses.bytes.as_ref(), origin.address.as_ref(), units)
    }
}

/// A body whose bytes count.
struct Metered {
    app: App,
    origin: Origin,
    body: Body,
    /// Bytes that passed and are less than a unit.
    rest: u64,
    /// Bytes that wait until they may pass.
    held: Option<Held>,
}

struct Held {
    bytes: Bytes,
    units: u32,
    paid: bool,
    /// The time before which there are not enough; none if that was not asked yet.
    until: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(held) = &mut this.held {
                if let Some(until) = &mut held.until {
                    ready!(until.as_mut().poll(context));
                }
                match this.app.rates.take_bytes(&this.origin, held.units, &mut held.paid) {
                    Err(wait) => held.until = Some(Box::pin(tokio::time::sleep(wait))),
                    Ok(()) => {
                        let bytes = this.held.take().map(|held| held.bytes).unwrap_or_default();
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    }
                }
                continue;
            }
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            let bytes = match frame.into_data() {
                Ok(bytes) => bytes,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
            let all = this.rest + bytes.len() as u64;
            this.rest = all % BYTE_UNIT;
            let units = u32::try_from(all / BYTE_UNIT).unwrap_or(u32::MAX);
            this.held = Some(Held { bytes, units, paid: false, until: None });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.as_ref().map_or(0, |held| held.bytes.len() as u64);
        let inner = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(held));
        if let Some(upper) = inner.upper().and_then(|upper| upper.checked_add(held)) {
            hint.set_upper(upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(per_second: u64, burst: u64) -> Keyed<u32> {
        Keyed::new("test", Some(Rate { per_second, burst }), 1).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_has_a_burst_and_a_rate() {
        let rate = keyed(10, 20);
        assert_eq!((0..25).filter(|_| rate.take(&1, 1).is_ok()).count(), 20);
        assert_eq!(rate.take(&1, 5), Err(Duration::from_millis(500)));
        assert_eq!(rate.take(&2, 20), Ok(()));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(rate.take(&1, 5), Ok(()));
        assert!(rate.take(&1, 1).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_larger_than_a_burst_takes_all_of_one() {
        let rate = keyed(10, 20);
        assert_eq!(rate.take(&1, 1_000), Ok(()));
        assert_eq!(rate.take(&1, 1_000), Err(Duration::from_secs(2)));
        assert_eq!(keyed(10, 0).take(&1, 10), Ok(()), "a burst is at least a second's");
        assert!(Keyed::<u32>::new("test", None, 1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_of_keys_is_bounded() {
        let rate = keyed(1, 1);
        let len = |rate: &Keyed<u32>| rate.limiter.read().unwrap().len();
        let most = u32::try_from(MAX_KEYS).unwrap();
        for key in 0..most {
            rate.take(&key, 1).unwrap();
        }
        assert_eq!(len(&rate), MAX_KEYS);
        // Those who are idle go, those who are not stay.
        tokio::time::advance(Duration::from_secs(5)).await;
        rate.take(&most, 1).unwrap();
        assert_eq!(len(&rate), 1);
        assert!(rate.take(&most, 1).is_err());
        for key in 0..3 * most {
            let _ = rate.take(&(most + key), 1);
            assert!(len(&rate) <= MAX_KEYS);
        }
    }
}
