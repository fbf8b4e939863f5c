//! A small blocking HTTP/1.1 client. It does what it is told: no redirects, no clean-up of paths,
//! no retry of a change.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
    pub timeout: Duration,
}

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// Names in lower case; of a doubled field the last.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
    /// Panics unless the status is one of `wanted`.
    #[track_caller]
    pub fn expect(self, wanted: &[u16]) -> Self {
        assert!(
            wanted.contains(&self.status),
            "status {}, not {wanted:?}: {:?}\n{}",
            self.status,
            self.headers,
            self.text()
        );
        self
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None, timeout: Duration::from_secs(30) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send("GET", path, &[], b"")
    }
    pub fn put(&mut self, path: &str, body: &[u8]) -> io::Result<Response> {
        self.send("PUT", path, &[], body)
    }
    pub fn delete(&mut self, path: &str) -> io::Result<Response> {
        self.send("DELETE", path, &[], b"")
    }
    pub fn mkcol(&mut self, path: &str) -> io::Result<Response> {
        self.send("MKCOL", path, &[], b"")
    }
    pub fn propfind(&mut self, path: &str, depth: &str) -> io::Result<Response> {
        self.send("PROPFIND", path, &[("Depth", depth)], b"")
    }
    /// COPY or MOVE within this server.
    pub fn transfer(&mut self, method: &str, from: &str, to: &str) -> io::Result<Response> {
        let to = format!("http://{}{to}", self.address);
        self.send(method, from, &[("Destination", &to)], b"")
    }

    /// Sends one request, keeps the connection. Only a read on a kept connection that the server has
    /// closed meanwhile is sent a second time.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let kept = self.connection.is_some();
        let first = self.send_once(method, path, headers, body);
        let reading = matches!(method, "GET" | "HEAD" | "OPTIONS" | "PROPFIND");
        if first.is_err() && kept && reading {
            return self.send_once(method, path, headers, body);
        }
        first
    }

    fn send_once(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => BufReader::new(self.connect()?),
        };
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || method == "PUT" {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        connection.get_mut().write_all(head.as_bytes())?;
        // A server may answer and close before it has read the whole body; its answer counts.
        let sent = connection.get_mut().write_all(body);
        let response = match read_response(&mut connection, method) {
            Ok(response) => response,
            Err(error) => return Err(sent.err().unwrap_or(error)),
        };
        let closes = response.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        if sent.is_ok() && !closes {
            self.connection = Some(connection);
        }
        Ok(response)
    }

    pub fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Reads one final answer; 1xx answers are passed over.
pub fn read_response(from: &mut impl BufRead, method: &str) -> io::Result<Response> {
    let broken = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    loop {
        let status_line = line(from)?;
        let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status: u16 = status.ok_or_else(|| broken(&format!("status line {status_line:?}")))?;
        let mut headers = BTreeMap::new();
        loop {
            let field = line(from)?;
            if field.is_empty() {
                break;
            }
            let (name, value) = field.split_once(':').ok_or_else(|| broken(&field))?;
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        if (100..200).contains(&status) {
            continue;
        }
        let mut response = Response { status, headers, body: Vec::new() };
        if method == "HEAD" || status == 204 || status == 304 {
            return Ok(response);
        }
        if response.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            response.body = chunked(from)?;
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| broken("Content-Length is no number"))?;
            from.take(length).read_to_end(&mut response.body)?;
            if response.body.len() as u64 != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        } else {
            from.read_to_end(&mut response.body)?;
            response.headers.insert("connection".into(), "close".into());
        }
        return Ok(response);
    }
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    if from.take(64 * 1024).read_line(&mut text)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn chunked(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(from)?;
        let size = size.split(';').next().unwrap_or("").trim();
        let size = u64::from_str_radix(size, 16)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("chunk size {size:?}")))?;
        if size == 0 {
            while !line(from)?.is_empty() {}
            return Ok(body);
        }
        let before = body.len() as u64;
        from.take(size).read_to_end(&mut body)?;
        if body.len() as u64 != before + size || !line(from)?.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
