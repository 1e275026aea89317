//! Programs that answer in the place of a server: log-in pages, silence, and a proxy that changes
//! the answers of a real server.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

/// The head and the body of an answer.
pub(super) struct Reply {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

/// A program that listens until its test ends.
pub(super) struct Fake {
    url: String,
}

impl Fake {
    /// Answers each request, of which `answer` gets the head, as raw bytes.
    pub(super) fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::serving(move |stream, head, _| drop(stream.write_all(&answer(head))))
    }

    /// Accepts connections and never answers.
    pub(super) fn silent() -> Self {
        Self::serving(|stream, _, _| {
            // Until the other side gives up.
            let _ = stream.read(&mut [0; 1]);
        })
    }

    /// Passes requests on to the server at `url`, and changes its answers. `change` gets the request's
    /// head.
    pub(super) fn before(
        url: &str,
        change: impl Fn(&str, &mut Reply) + Send + Sync + 'static,
    ) -> Self {
        let address = url.trim_start_matches("http://").to_owned();
        Self::serving(move |stream, head, body| {
            if let Ok(mut reply) = forward(&address, head, body) {
                change(head, &mut reply);
                let head: Vec<&str> = reply
                    .head
                    .lines()
                    .filter(|line| !line.is_empty())
                    .filter(|line| !line.to_lowercase().starts_with("content-length"))
                    .filter(|line| !line.to_lowercase().starts_with("transfer-encoding"))
                    .filter(|line| !line.to_lowercase().starts_with("connection"))
                    .collect();
                let length = reply.body.len();
                let head = format!(
                    "{}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n",
                    head.join("\r\n")
                );
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(&reply.body);
            }
        })
    }

    fn serving(serve: impl Fn(&mut TcpStream, &str, &[u8]) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), serve) = (stream, Arc::clone(&serve)) else { continue };
                std::thread::spawn(move || {
                    if let Some((head, body)) = request(&mut stream) {
                        serve(&mut stream, &head, &body);
                    }
                });
            }
        });
        Self { url }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

/// Reads a request: its head, and a body of the length that the head states.
fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// Sends a request on, to be answered without compression on a connection of its own.
fn forward(address: &str, head: &str, body: &[u8]) -> std::io::Result<Reply> {
    let mut server = TcpStream::connect(address)?;
    let dropped = ["accept-encoding", "connection"];
    let lines = head.lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default().to_lowercase();
        !line.is_empty() && !dropped.contains(&name.as_str())
    });
    let head = lines.collect::<Vec<_>>().join("\r\n");
    server.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes())?;
    server.write_all(body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let body = answer.get(end + 4..).unwrap_or_default().to_vec();
    Ok(Reply { head, body })
}
