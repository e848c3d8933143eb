//! The HTTP half: as much of HTTP/1.1 as curl, probes and load generators use, with one thread per connection.
//!
//! `/healthz` answers `ok` for probes; everything else is echoed. Bodies come with Content-Length or in chunks.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::reply;

/// A header section or a body beyond this is refused.
const LIMIT: usize = 1 << 20;
/// A connection without a request for this long is closed.
const IDLE: Duration = Duration::from_secs(300);

/// What a shutdown has to know: is a request in the works?
#[derive(Debug, Default)]
pub(crate) struct Load {
    running: AtomicUsize,
    closed: AtomicBool,
}

impl Load {
    /// From now on every answer closes its connection.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// True when no request is being answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.load(Ordering::SeqCst) == 0
    }
}

/// One request, read to its end.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// HTTP/1.1 keeps the connection unless told otherwise, HTTP/1.0 the other way round.
    fn keeps_alive(&self) -> bool {
        match self.header("connection").map(str::to_ascii_lowercase).as_deref() {
            Some("close") => false,
            Some("keep-alive") => true,
            _ => self.line.ends_with("HTTP/1.1"),
        }
    }
}

/// Accepts until the process ends.
pub(crate) fn serve(listener: &TcpListener, pod: &Arc<String>, load: &Arc<Load>) {
    for accepted in listener.incoming() {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                eprintln!("cannot accept: {error}");
                // Out of descriptors, most likely: waiting beats spinning.
                thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        let (pod, load) = (Arc::clone(pod), Arc::clone(load));
        let started = thread::Builder::new().stack_size(256 << 10).spawn(move || {
            // A client that goes away in the middle is its own business.
            drop(converse(&stream, &pod, &load));
        });
        if let Err(error) = started {
            eprintln!("cannot start a thread: {error}");
        }
    }
}

/// Serves one connection until either side has enough.
fn converse(stream: &TcpStream, pod: &str, load: &Load) -> io::Result<()> {
    let client = reply::plain(stream.peer_addr()?);
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        // Not busy before the first byte is there, or an idle connection would hold up a shutdown.
        if reader.fill_buf()?.is_empty() {
            return Ok(());
        }
        load.running.fetch_add(1, Ordering::SeqCst);
        let kept = exchange(&mut reader, stream, client, pod, load);
        load.running.fetch_sub(1, Ordering::SeqCst);
        if !kept? {
            return Ok(());
        }
    }
}

/// Reads one request and answers it; false when the connection is to be closed.
fn exchange(
    reader: &mut impl BufRead,
    mut stream: &TcpStream,
    client: SocketAddr,
    pod: &str,
    load: &Load,
) -> io::Result<bool> {
    let mut go_ahead = || stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
    let request = match read_request(reader, &mut go_ahead) {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let text = format!("{error}\n");
            stream.write_all(&answer("400 Bad Request", text.as_bytes(), false, true))?;
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let keep = request.keeps_alive() && !load.closed.load(Ordering::SeqCst);
    let path = request.line.split(' ').nth(1).unwrap_or("/");
    let body = if path == "/healthz" {
        b"ok\n".to_vec()
    } else {
        println!("http {client} {}", request.line);
        let mut sent = vec![("request", request.line.clone())];
        sent.extend(request.headers.iter().map(|(key, value)| ("header", format!("{key}: {value}"))));
        reply::render(pod, client, &sent, &request.body)
    };
    stream.write_all(&answer("200 OK", &body, keep, !request.line.starts_with("HEAD ")))?;
    Ok(keep)
}

/// A whole response; a HEAD request gets everything but the body.
fn answer(status: &str, body: &[u8], keep: bool, with_body: bool) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n",
        body.len(),
        if keep { "keep-alive" } else { "close" },
    )
    .into_bytes();
    if with_body {
        bytes.extend_from_slice(body);
    }
    bytes
}

/// The next request, or nothing when the client is done. `go_ahead` is called where the client waits for permission.
fn read_request(
    reader: &mut impl BufRead,
    go_ahead: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<Option<Request>> {
    let Some(line) = read_line(reader)? else { return Ok(None) };
    if line.split(' ').count() != 3 || !line.contains(" HTTP/1.") {
        return Err(invalid(format!("`{line}` is no HTTP/1 request line")));
    }
    let mut request = Request { line, headers: Vec::new(), body: Vec::new() };
    let mut room = LIMIT;
    loop {
        let line = read_line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            break;
        }
        room = room.checked_sub(line.len()).ok_or_else(|| invalid("the headers are too long"))?;
        let (key, value) = line.split_once(':').ok_or_else(|| invalid(format!("`{line}` is no header")))?;
        request.headers.push((key.to_owned(), value.trim().to_owned()));
    }
    if request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        go_ahead()?;
    }
    request.body = if request.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        read_chunks(reader)?
    } else {
        let length = request.header("content-length").unwrap_or("0");
        read_exactly(reader, length.parse().map_err(|_| invalid(format!("`{length}` is no length")))?)?
    };
    Ok(Some(request))
}

/// A chunked body up to and including its trailers.
fn read_chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(digits, 16).map_err(|_| invalid(format!("`{line}` is no chunk length")))?;
        if length == 0 {
            while read_line(reader)?.is_some_and(|trailer| !trailer.is_empty()) {}
            return Ok(body);
        }
        if body.len().saturating_add(length) > LIMIT {
            return Err(invalid("the body is too long"));
        }
        body.extend(read_exactly(reader, length)?);
        read_line(reader)?;
    }
}

fn read_exactly(reader: &mut impl BufRead, length: usize) -> io::Result<Vec<u8>> {
    if length > LIMIT {
        return Err(invalid("the body is too long"));
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// One line without its end, or nothing at the end of the stream.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    reader.by_ref().take(LIMIT as u64).read_until(b'\n', &mut bytes)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        return Err(invalid("a line is too long or was cut off"));
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map(Some).map_err(|_| invalid("a line is not UTF-8"))
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wire: &str, expected: Option<(&str, &str)>) {
        let read = read_request(&mut wire.as_bytes(), &mut || Ok(()));
        match (read, expected) {
            (Ok(Some(request)), Some((line, body))) => {
                assert_eq!((request.line.as_str(), request.body.as_slice()), (line, body.as_bytes()), "{wire:?}");
            }
            (Err(_), None) => {}
            (read, _) => panic!("{wire:?} read as {read:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn requests_are_read_to_their_end() {
        check("GET /a HTTP/1.1\r\nHost: x\r\n\r\n", Some(("GET /a HTTP/1.1", "")));
        check("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcdef", Some(("POST / HTTP/1.1", "abc")));
        check(
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
            Some(("PUT / HTTP/1.1", "abc")),
        );
        check("nonsense\r\n\r\n", None);
        check("GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", None);
        check("GET / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", None);
        check("GET / HTTP/1.1\r\nno colon\r\n\r\n", None);
        check("GET / HTTP/1.1\r\nHost: x", None);
    }

    #[test]
    fn keep_alive_follows_the_version_and_the_header() {
        let keeps = |line: &str, headers: &[(&str, &str)]| {
            let headers = headers.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            Request { line: line.to_owned(), headers, body: Vec::new() }.keeps_alive()
        };
        assert!(keeps("GET / HTTP/1.1", &[]));
        assert!(!keeps("GET / HTTP/1.0", &[]));
        assert!(!keeps("GET / HTTP/1.1", &[("connection", "Close")]));
        assert!(keeps("GET / HTTP/1.0", &[("Connection", "keep-alive")]));
    }
}
