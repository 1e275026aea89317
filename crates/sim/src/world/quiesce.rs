//! The end of a world: all faults end, all work drains, and the final state is checked.

use std::sync::atomic::Ordering;

use vfs_sync_client::ClientError;

use super::{ROUNDS, STRAGGLERS, World};
use crate::actor::device::Talk;
use crate::infra::network::Weather;
use crate::oracle::coverage::Kind;
use crate::oracle::failure::FailureKind;
use crate::oracle::{derived, held, saved, settled, transactions};

impl World {
    pub(super) async fn heal(&mut self) {
        self.ledger.note(|| "the world heals".into());
        self.cluster.database_faults.store(0, Ordering::Relaxed);
        self.objects.faults.store(0, Ordering::Relaxed);
        self.heal_disks().await;
        self.cluster.start_all().await;
        for device in &mut self.devices {
            device.link.set_weather(Weather::Calm);
            device.client.stop_background().await;
            device.wait().await;
            device.hostile.disarm();
            device.swap_token(&self.cluster, None);
            device.client.stop_background().await;
            device.take_over(None);
            device.home.iter().for_each(|home| home.troubled.store(false, Ordering::Relaxed));
        }
        tokio::time::sleep(STRAGGLERS).await;
        self.ledger.book().healed = true;
    }

    /// Synchronises all devices in turn until nothing waits and nothing changes any more.
    pub(super) async fn drain(&mut self) {
        let mut retried = false;
        // With which commit each of them began to synchronise last.
        let mut began: Vec<Option<u64>> = vec![None; self.devices.len()];
        for _ in 0..ROUNDS {
            let mut quiet = true;
            for (device, began) in self.devices.iter_mut().zip(&mut began) {
                let newest = Some(self.ledger.book().commits);
                if *began == newest {
                    continue;
                }
                *began = newest;
                device.talk(Talk::Sync);
                device.wait().await;
                device.take_over(None);
                let status = device.client.status().expect("memory is read");
                if status.pending + status.acknowledged + status.uploads > 0 {
                    (quiet, *began) = (false, None);
                }
                if !retried {
                    // Uploads that were rejected because of the object store may succeed now.
                    for upload in device.client.queue().rejected_uploads().expect("memory is read")
                    {
                        device
                            .client
                            .queue()
                            .retry_upload(&upload.blob_id)
                            .expect("its bytes are kept");
                        (quiet, *began) = (false, None);
                    }
                }
            }
            if self.ledger.has_failed() {
                return;
            }
            retried = true;
            let newest = Some(self.ledger.book().commits);
            if quiet && began.iter().all(|began| *began == newest) {
                self.ledger.count(Kind::Check, "the queues drain");
                return;
            }
        }
        for device in &self.devices {
            let status = device.client.status().expect("memory is read");
            let message = format!("device {} after {ROUNDS} rounds: {status:?}", device.index);
            self.ledger.fail(FailureKind::Drain, message);
        }
    }

    pub(super) async fn check(&mut self) {
        for device in &self.devices {
            settled::converged(&self.ledger, device);
        }
        settled::nothing_lost(&self.ledger, &self.devices);
        saved::accounted_for(&self.ledger, &self.devices);
        held::kept(&self.ledger, &self.devices);
        transactions::no_cycle(&self.ledger);
        derived::follows(&self.ledger, &*self.cluster.store()).await;
        for device in &self.devices {
            self.read_some(device).await;
        }
    }

    /// Checks that visible contents can be read.
    async fn read_some(&self, device: &crate::actor::device::Device) {
        let shown = self.ledger.book().model.view(&device.user).contents;
        for (item, (_, size, digest, _)) in shown.iter().take(3) {
            self.ledger.count(Kind::Check, "contents that are shown are read");
            let message = match device.client.contents().read(item).await {
                Ok(_) => continue,
                Err(ClientError::UnknownItem(_)) => "it is not shown".to_owned(),
                Err(error) => error.to_string(),
            };
            let message =
                format!("device {}: {item}, {size} bytes, {digest}: {message}", device.index);
            return self.ledger.fail(FailureKind::Content, message);
        }
    }

    pub(super) async fn end(&mut self) {
        for device in &mut self.devices {
            device.crash().await;
        }
        for host in 0..self.cluster.hosts() {
            self.cluster.crash(host);
        }
    }
}
