//! Requests of nobody with ever new methods and paths, as quickly as they are answered.

use std::convert::Infallible;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::Failure;
use crate::attack::{PAUSE, Target, first};

const CONNECTIONS: usize = 4;
/// The requests that are sent before the first of them is answered.
const PIPELINED: usize = 100;

pub(crate) async fn run(on: Target) -> Result<Infallible, Failure> {
    on.prepared().await;
    let one = async |connection| loop {
        if requests(&on, connection).await.is_err() {
            on.count("cut", 1);
        }
        tokio::time::sleep(PAUSE).await;
    };
    first((0..CONNECTIONS).map(one)).await
}

/// Sends requests on one connection until the server ends it.
async fn requests(on: &Target, connection: usize) -> std::io::Result<Infallible> {
    let mut stream = on.connect().await?;
    let mut buffer = vec![0; 1 << 16];
    for round in 0.. {
        let mut sent = String::new();
        for n in 0..PIPELINED {
            let path = format!("/v1/{connection}/{round}/{n}");
            let (method, path) = if n % 2 == 0 {
                (format!("M{n}X{round}"), &*path)
            } else {
                ("GET".into(), "/healthz")
            };
            sent += &format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        }
        stream.write_all(sent.as_bytes()).await?;
        let (mut came, mut answers) = (String::new(), 0);
        while answers < PIPELINED {
            let length = stream.read(&mut buffer).await?;
            if length == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            came += &String::from_utf8_lossy(&buffer[..length]);
            answers = came.matches("HTTP/1.1 ").count();
        }
        for status in came.split("HTTP/1.1 ").skip(1) {
            on.count(status.get(..3).unwrap_or("cut"), 1);
        }
    }
    unreachable!("the rounds do not end")
}
