//! The quick start of docs/quickstart-rust.md.

#![allow(clippy::print_stdout, reason = "a first program prints what it found")]

use std::io::read_to_string;

use vfs_sync_client::core::{id::UserId, item::Name};
use vfs_sync_client::{StaticToken, SyncClient};

fn open(directory: &str) -> Result<SyncClient, Box<dyn std::error::Error>> {
    let server = std::env::var("VFS_SYNC_SERVER").unwrap_or("http://127.0.0.1:7070".into());
    let token = StaticToken::new(std::env::var("VFS_SYNC_TOKEN")?);
    Ok(SyncClient::http(server, token)?.create(directory, UserId::new("alice")?)?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (laptop, phone) = (open("laptop")?, open("phone")?);
    // Durable when the call returns, online or not; both devices make one folder.
    let photos = laptop.get_or_create_folder(None, Name::new("Photos")?)?;
    assert_eq!(phone.get_or_create_folder(None, Name::new("Photos")?)?, photos);
    let sea = laptop.create_file(Some(&photos), Name::new("sea.txt")?)?;
    laptop.contents().put(&sea, &b"a wave"[..])?;
    laptop.sync().await?;

    phone.sync().await?;
    println!("appeared {}", phone.path_of(&sea)?);
    let content = phone.contents().read(&sea).await?;
    println!("{}", read_to_string(content.reader()?)?);
    Ok(())
}
