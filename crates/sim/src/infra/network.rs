//! The network between one device and the servers, which loses, delays, duplicates and reorders
//! requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use vfs_sync_client::TransportError;
use vfs_sync_testkit::Random;

use crate::infra::server::{Answer, Cluster};
use crate::oracle::ledger::Ledger;

/// The condition of a link of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Weather {
    #[default]
    Calm,
    /// Some requests and some answers are lost.
    Lossy,
    /// Requests arrive late and twice, and overtake each other.
    Doubling,
    /// All traffic is slow.
    Clogged,
    /// No traffic gets through.
    Cut,
    /// Requests arrive, answers do not.
    Deaf,
    /// Answers break off in the middle.
    Breaking,
}

impl Weather {
    pub(crate) const BAD: [Self; 6] =
        [Self::Lossy, Self::Doubling, Self::Clogged, Self::Cut, Self::Deaf, Self::Breaking];
}

/// The link of one device.
pub(crate) struct Link {
    device: usize,
    cluster: Arc<Cluster>,
    ledger: Ledger,
    /// True if nothing ever heals the link.
    silent: bool,
    state: Mutex<State>,
}

struct State {
    random: Random,
    weather: Weather,
}

/// The fate of one request, chosen before it is sent.
struct Fate {
    there: Duration,
    back: Duration,
    lose_request: bool,
    lose_answer: bool,
    break_answer: bool,
    /// The delay after which the request arrives once more.
    again: Option<Duration>,
    patience: Duration,
}

fn millis(count: usize) -> Duration {
    Duration::from_millis(u64::try_from(count).unwrap_or(0))
}

impl Link {
    pub(crate) fn new(
        device: usize,
        cluster: Arc<Cluster>,
        ledger: Ledger,
        random: Random,
        silent: bool,
    ) -> Self {
        let state = Mutex::new(State { random, weather: Weather::Calm });
        Self { device, cluster, ledger, silent, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    fn draw(&self) -> Fate {
        let mut state = self.state();
        let weather = if self.silent { Weather::Deaf } else { state.weather };
        let random = &mut state.random;
        let slow = match weather {
            Weather::Clogged => 3_000,
            Weather::Doubling => 200,
            _ => 12,
        };
        let mut in_ten = |bad: &[Weather], often: usize| {
            let draw = random.below(10);
            bad.contains(&weather) && draw < often
        };
        let lose_request = in_ten(&[Weather::Cut], 10) || in_ten(&[Weather::Lossy], 2);
        let lose_answer = in_ten(&[Weather::Deaf], 10) || in_ten(&[Weather::Lossy], 3);
        let break_answer = in_ten(&[Weather::Breaking], 5);
        let doubled = in_ten(&[Weather::Doubling], 4);
        Fate {
            there: millis(random.below(slow)),
            back: millis(random.below(slow)),
            lose_request,
            lose_answer,
            break_answer,
            again: doubled.then(|| millis(random.below(4_000))),
            patience: millis(1_000 + random.below(20_000)),
        }
    }

    /// Sends a request to one of the servers; returns its answer, if the answer arrives.
    pub(crate) async fn send(
        &self,
        name: &'static str,
        request: Request<Bytes>,
    ) -> Result<Answer, TransportError> {
        let fate = self.draw();
        let lost = |what: &str| Err(TransportError::network(format!("simulated: {what}")));
        let device = self.device;
        if fate.lose_request {
            self.ledger.fault("network: request lost", || format!("device {device}: {name}"));
            tokio::time::sleep(fate.patience).await;
            return lost("no answer");
        }
        tokio::time::sleep(fate.there).await;
        let Some(host) = self.cluster.any() else {
            self.ledger.fault("network: no server", || format!("device {device}: {name}"));
            return lost("connection refused");
        };
        if let Some(after) = fate.again {
            self.ledger.fault("network: request doubled", || format!("device {device}: {name}"));
            let (cluster, copy) = (Arc::clone(&self.cluster), request.clone());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                if let Some(task) = cluster.any().and_then(|host| cluster.call(host, copy)) {
                    let _ = task.await;
                }
            });
        }
        // A request that was sent arrives even if its sender ends.
        let Some(task) = self.cluster.call(host, request) else {
            return lost("connection refused");
        };
        let Ok(Some(mut answer)) = task.await else {
            return lost("connection reset");
        };
        if fate.lose_answer {
            self.ledger.fault("network: answer lost", || format!("device {device}: {name}"));
            tokio::time::sleep(fate.patience).await;
            return lost("no answer");
        }
        tokio::time::sleep(fate.back).await;
        if fate.break_answer {
            self.ledger.fault("network: answer broken off", || format!("device {device}: {name}"));
            // Only a reader of a blob's bytes can use the part before the break.
            if name != "download" || answer.status >= 300 {
                return lost("the answer broke off");
            }
            answer.body.truncate(answer.body.len() / 2);
            answer.headers.insert("x-broken-off", http::HeaderValue::from_static("1"));
        }
        Ok(answer)
    }
}
