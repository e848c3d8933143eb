//! The client side of SPDY/3.1, as far as a runtime's streaming server speaks it: streams opened by us, data both ways,
//! a stream's end in one direction. No flow control: neither end of this protocol uses it.
//!
//! Runtimes offer WebSockets too, but without a way to end standard input alone, so `echo x | cat` would never end.

mod dictionary;

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use dictionary::Headers;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Control frames are marked by the first bit, and version 3 follows it.
const CONTROL: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
/// Flag of the last frame of a stream in one direction.
const FIN: u8 = 1;
/// Longest answer head taken.
const HEAD: usize = 16 << 10;
/// Data per frame.
const FRAME: usize = 32 << 10;

/// Why a stream failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SpdyError {
    /// The URL is not one of ours.
    #[error("the runtime's streaming address `{0}` is no http URL")]
    Url(String),
    /// The runtime did not switch protocols.
    #[error("the runtime's streaming server answered `{0}` instead of switching to SPDY")]
    Refused(String),
    /// A header block could not be packed.
    #[error("cannot compress headers: {0}")]
    Compress(String),
    /// The connection broke.
    #[error("the connection to the runtime's streaming server broke")]
    Io(#[from] io::Error),
}

/// The sending half.
#[derive(Debug)]
pub(crate) struct Writer {
    socket: OwnedWriteHalf,
    headers: Headers,
    next: u32,
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Reader {
    socket: BufReader<OwnedReadHalf>,
}

/// Something received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Data of a stream; `last` if the peer sends no more on it.
    Data { stream: u32, data: Bytes, last: bool },
    /// The peer has given the stream up.
    Reset { stream: u32 },
    /// To be answered with the same number.
    Ping(u32),
    /// The peer opens no more streams.
    GoAway,
}

/// Connects to a runtime's streaming URL and switches to SPDY with the given sub-protocol.
pub(crate) async fn connect(url: &str, protocol: &str) -> Result<(Writer, Reader), SpdyError> {
    let (socket, _) = switch(url, &[protocol]).await?;
    let (read, write) = socket.into_split();
    Ok((Writer { socket: write, headers: Headers::new()?, next: 1 }, Reader { socket: BufReader::new(read) }))
}

/// Connects to a runtime's streaming URL and switches to SPDY. Returns the connection, on which frames follow, and the
/// sub-protocol the runtime has chosen.
pub(crate) async fn switch(url: &str, protocols: &[&str]) -> Result<(TcpStream, Option<String>), SpdyError> {
    let uri: http::Uri = url.parse().map_err(|_| SpdyError::Url(url.to_owned()))?;
    let authority = uri.authority().ok_or_else(|| SpdyError::Url(url.to_owned()))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut socket = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await?;
    socket.set_nodelay(true)?;
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n"
    );
    for protocol in protocols {
        request.push_str(&format!("X-Stream-Protocol-Version: {protocol}\r\n"));
    }
    request.push_str("\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // Byte by byte, so that nothing of the frames behind the head is taken with it.
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD {
        head.push(socket.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        return Err(SpdyError::Refused(status.to_owned()));
    }
    let chosen = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("x-stream-protocol-version"))
        .map(|(_, value)| value.trim().to_owned());
    Ok((socket, chosen))
}

impl Writer {
    /// Opens a stream of this kind. Returns its number.
    pub(crate) async fn open(&mut self, kind: &str) -> Result<u32, SpdyError> {
        let stream = self.next;
        self.next += 2;
        let block = self.headers.block(&[("streamtype", kind)])?;
        let mut body = Vec::with_capacity(block.len() + 10);
        body.extend_from_slice(&stream.to_be_bytes());
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&block);
        self.control(SYN_STREAM, &body).await?;
        Ok(stream)
    }

    /// Sends data; `last` says that no more will follow on this stream.
    pub(crate) async fn send(&mut self, stream: u32, data: &[u8], last: bool) -> Result<(), SpdyError> {
        let mut chunks = data.chunks(FRAME).peekable();
        if chunks.peek().is_none() {
            return self.data(stream, &[], last).await;
        }
        while let Some(chunk) = chunks.next() {
            self.data(stream, chunk, last && chunks.peek().is_none()).await?;
        }
        Ok(())
    }

    /// Answers a ping.
    pub(crate) async fn pong(&mut self, number: u32) -> Result<(), SpdyError> {
        self.control(PING, &number.to_be_bytes()).await
    }

    async fn data(&mut self, stream: u32, data: &[u8], last: bool) -> Result<(), SpdyError> {
        let mut frame = Vec::with_capacity(data.len() + 8);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(&flags_and_length(if last { FIN } else { 0 }, data.len()));
        frame.extend_from_slice(data);
        Ok(self.socket.write_all(&frame).await?)
    }

    async fn control(&mut self, kind: u16, body: &[u8]) -> Result<(), SpdyError> {
        let mut frame = Vec::with_capacity(body.len() + 8);
        frame.extend_from_slice(&CONTROL.to_be_bytes());
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.extend_from_slice(&flags_and_length(0, body.len()));
        frame.extend_from_slice(body);
        Ok(self.socket.write_all(&frame).await?)
    }
}

/// One byte of flags, three of length.
fn flags_and_length(flags: u8, length: usize) -> [u8; 4] {
    let [_, a, b, c] = u32::try_from(length).unwrap_or(0).to_be_bytes();
    [flags, a, b, c]
}

impl Reader {
    /// The next thing that matters; `None` once the peer has closed the connection.
    pub(crate) async fn next(&mut self) -> Result<Option<Received>, SpdyError> {
        loop {
            let mut head = [0; 8];
            match self.socket.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            let [a, b, c, d, flags, x, y, z] = head;
            let mut body = vec![0; usize::try_from(u32::from_be_bytes([0, x, y, z])).unwrap_or(0)];
            self.socket.read_exact(&mut body).await?;
            if a & 0x80 == 0 {
                let stream = u32::from_be_bytes([a, b, c, d]);
                return Ok(Some(Received::Data { stream, data: body.into(), last: flags & FIN != 0 }));
            }
            let number = body.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
            match u16::from_be_bytes([c, d]) {
                RST_STREAM => return Ok(Some(Received::Reset { stream: number & 0x7fff_ffff })),
                PING => return Ok(Some(Received::Ping(number))),
                GOAWAY => return Ok(Some(Received::GoAway)),
                // A reply to our opening of a stream says nothing new; settings and window sizes are not used.
                _ => {}
            }
        }
    }
}

/// The streams of a remote command, by what they carry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams {
    pub(crate) error: u32,
    pub(crate) stdin: Option<u32>,
    pub(crate) stdout: Option<u32>,
    pub(crate) stderr: Option<u32>,
    pub(crate) resize: Option<u32>,
}

impl Streams {
    /// Opens the streams a command needs, in the order every client does.
    pub(crate) async fn open(writer: &mut Writer, want: &BTreeMap<&'static str, bool>) -> Result<Self, SpdyError> {
        let mut streams = Self { error: writer.open("error").await?, ..Default::default() };
        let wanted = |kind: &str| want.get(kind).copied().unwrap_or(false);
        for (kind, slot) in [
            ("stdin", &mut streams.stdin),
            ("stdout", &mut streams.stdout),
            ("stderr", &mut streams.stderr),
            ("resize", &mut streams.resize),
        ] {
            if wanted(kind) {
                *slot = Some(writer.open(kind).await?);
            }
        }
        Ok(streams)
    }
}
