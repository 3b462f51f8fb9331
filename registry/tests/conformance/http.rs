//! A client that sends what it is told, also what no honest client would.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self}"))
    }

    /// The code of the first error, in the form that the specification has for errors.
    pub fn code(&self) -> String {
        let kind = self.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/json"), "{self}");
        let value = self.json();
        let code = value["errors"][0]["code"].as_str().unwrap_or_else(|| panic!("{self}")).to_owned();
        assert!(code.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'), "{code}");
        code
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{self}");
        self
    }

    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Answer {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{self}");
        self
    }

    /// The address that it leads to, without the host.
    #[track_caller]
    pub fn location(&self) -> String {
        let location = self.header("location").unwrap_or_else(|| panic!("no Location: {self}"));
        match location.split_once("://") {
            Some((_, rest)) => format!("/{}", rest.split_once('/').map_or("", |(_, path)| path)),
            None => location.to_owned(),
        }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(600)]).into_owned();
        write!(f, "{} {:?} {body}", self.status, self.headers)
    }
}

/// A connection.
pub struct Wire(pub TcpStream);

impl Wire {
    pub fn open(host: &str) -> Wire {
        Wire::try_open(host).unwrap_or_else(|e| panic!("{host}: {e}"))
    }

    pub fn try_open(host: &str) -> std::io::Result<Wire> {
        let stream = TcpStream::connect(host)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        Ok(Wire(stream))
    }

    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes)
    }

    /// The head of a request, without the empty line.
    pub fn head(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.peer());
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        let _ = self.send(text.as_bytes());
    }

    fn peer(&self) -> String {
        self.0.peer_addr().map(|a| a.to_string()).unwrap_or_default()
    }

    /// Everything until the other side closes.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.0.read_to_end(&mut bytes);
        bytes
    }

    /// One answer, on a connection that stays. `None` when it is closed before.
    pub fn answer(&mut self, head_only: bool) -> Option<Answer> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break end;
            }
            self.more(&mut bytes)?;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut body = bytes.split_off(end + 4);
        let mut lines = head.lines();
        let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|l| l.split_once(':'))
            .map(|(n, v)| (n.trim().to_owned(), v.trim().to_owned()))
            .collect();
        if status == 100 {
            return self.answer(head_only);
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        if head_only || status == 204 || status == 304 {
            return Some(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked")) {
            answer.body = self.chunks(body)?;
            return Some(answer);
        }
        if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().ok()?;
            while body.len() < length {
                self.more(&mut body)?;
            }
            body.truncate(length);
        } else {
            while self.more(&mut body).is_some() {}
        }
        answer.body = body;
        Some(answer)
    }

    fn more(&mut self, bytes: &mut Vec<u8>) -> Option<()> {
        let mut buffer = vec![0; 64 << 10];
        match self.0.read(&mut buffer) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
        Some(())
    }

    fn chunks(&mut self, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                match bytes.windows(2).position(|w| w == b"\r\n") {
                    Some(end) => break end,
                    None => self.more(&mut bytes)?,
                }
            };
            let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).ok()?.trim(), 16).ok()?;
            while bytes.len() < end + 2 + size + 2 {
                self.more(&mut bytes)?;
            }
            body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
            bytes.drain(..end + 2 + size + 2);
            if size == 0 {
                return Some(body);
            }
        }
    }
}

/// One request on a connection of its own; `None` when nobody answers.
pub fn try_ask(
    host: &str,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Option<Answer> {
    let mut wire = Wire::try_open(host).ok()?;
    let length = body.len().to_string();
    let mut all: Vec<(&str, &str)> = headers.to_vec();
    all.push(("Connection", "close"));
    if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
        all.push(("Content-Length", &length));
    }
    wire.head(method, target, &all);
    let _ = wire.send(b"\r\n");
    // It may answer, and close, before it has read everything.
    let _ = wire.send(body);
    wire.answer(method == "HEAD")
}

/// The same of a registry that has to answer.
pub fn ask(host: &str, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    try_ask(host, method, target, headers, body).unwrap_or_else(|| panic!("{method} {target}: no answer"))
}
