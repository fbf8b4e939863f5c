//! curl as a client: what others' HTTP libraries make of our answers, and bodies of unknown length.

use std::io::{self, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::http::{Response, read_response};

/// curl's exit code when nobody takes the connection.
const NOT_CONNECTED: i32 = 7;

/// One request, on a connection of its own. A body is sent in chunks.
pub fn send(
    address: SocketAddr,
    limit: Duration,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> io::Result<Response> {
    let mut curl = Command::new("curl");
    // Raw: chunks are read here, and an answer that is cut short is no answer.
    curl.args(["--silent", "--include", "--raw", "--http1.1", "--path-as-is", "--request", method]);
    curl.args(["--max-time", &limit.as_secs_f32().to_string()]);
    for (name, value) in headers {
        curl.args(["--header", &format!("{name}: {value}")]);
    }
    if body.is_some() {
        curl.args(["--upload-file", "-"]);
    }
    curl.arg(format!("http://{address}{path}"));
    curl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut curl = curl.spawn().unwrap_or_else(|error| panic!("curl: {error}; run tests/setup"));
    let mut stdin = curl.stdin.take().unwrap();
    // It does not read to the end when the answer comes before that.
    let _ = stdin.write_all(body.unwrap_or_default());
    drop(stdin);
    let output = curl.wait_with_output()?;
    match output.status.code() {
        Some(0) => read_response(&mut BufReader::new(&output.stdout[..]), method),
        Some(NOT_CONNECTED) => Err(io::ErrorKind::ConnectionRefused.into()),
        code => Err(io::Error::other(format!("curl ended with {code:?}"))),
    }
}
