//! The application over the real server, with the network it will meet.

use std::sync::Arc;
use std::time::Duration;

use embedder::Notebook;
use vfs_sync_testkit::client::ClientConfig;
use vfs_sync_testkit::client::transport::CallKind;
use vfs_sync_testkit::{Fault, FaultyTransport, Random, TestDevice, TestServer, run};

#[test]
fn a_note_written_offline_is_on_the_other_device_once_there_is_a_network() {
    run(async {
        let mut server = TestServer::start().await;
        let (laptop, phone) = (server.device("alice"), server.device("alice"));
        server.stop().await;
        let notes = Notebook::open(laptop.client().clone()).unwrap();
        notes.write("shopping", "milk").unwrap();
        assert_eq!(notes.read("shopping").await.unwrap(), "milk");
        assert!(laptop.sync().await.unwrap_err().is_transient());

        server.start_again().await;
        laptop.sync().await.unwrap();
        phone.sync().await.unwrap();
        let notes = Notebook::open(phone.client().clone()).unwrap();
        assert_eq!(notes.read("shopping").await.unwrap(), "milk");
    });
}

#[test]
fn a_note_survives_a_restart_and_whatever_the_line_does_to_it() {
    run(async {
        let server = TestServer::start().await;
        let line = Arc::new(FaultyTransport::new(server.transport("alice")));
        let config = ClientConfig {
            backoff: (Duration::from_millis(1), Duration::from_millis(5)),
            ..ClientConfig::default()
        };
        let mut laptop = TestDevice::on_disk("alice", line.clone(), config);
        Notebook::open(laptop.client().clone()).unwrap().write("plan", "sleep").unwrap();
        line.next(CallKind::Push, Fault::DropAnswer);
        laptop.sync().await.unwrap_err();
        laptop.reopen().await;
        line.storm(Random::new(3), 2);
        while laptop.sync().await.is_err() {}
        line.heal();
        assert_eq!(laptop.violations().violations(), []);

        let phone = server.device("alice");
        phone.sync().await.unwrap();
        let notes = Notebook::open(phone.client().clone()).unwrap();
        assert_eq!(notes.read("plan").await.unwrap(), "sleep");
    });
}
