//! A server that says who it is and whom it sees, and ways to ask it.
//!
//! Over a stream it answers each line with its number and the client's address; `give N` makes it add N bytes to the
//! answer. A datagram is answered likewise, padded to its own length.
//!
//! On a stream the server speaks first, and clients wait for that. A kernel without the fix of Linux 6.19 ("inet: Avoid
//! ehash lookup race in `inet_ehash_insert()`") takes a connection's request out of its table a moment before it puts the
//! socket in. If the client's first data meet that moment on another processor, nobody is found and the kernel itself
//! resets the connection, whatever carried it there. A processor that an emulator stops just then makes the moment
//! milliseconds long. Once the server has spoken, it is over.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::namespace::Namespace;

/// Port of every server.
pub const PORT: u16 = 8080;

/// Who answered, and whom it saw.
pub type Seen = (u8, SocketAddr);

/// How long an answer may take. Emulated machines are slow; who looks for a mistake is not
/// (`FAIRLEAD_PATIENCE=2`, in seconds).
pub fn patience() -> Duration {
    static PATIENCE: OnceLock<Duration> = OnceLock::new();
    *PATIENCE.get_or_init(|| {
        let told = std::env::var("FAIRLEAD_PATIENCE").ok().and_then(|seconds| seconds.parse().ok());
        Duration::from_secs(told.unwrap_or(20))
    })
}

/// The transports a server answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP, by `sendto`.
    Udp,
    /// UDP, by `connect` and `send`.
    UdpConnected,
    /// SCTP.
    Sctp,
}

/// Whether the kernel knows SCTP, which Debian's loads as a module.
pub fn has_sctp() -> bool {
    sctp_socket(Domain::IPV4).is_ok()
}

fn sctp_socket(domain: Domain) -> std::io::Result<Socket> {
    Socket::new(domain, Type::STREAM, Some(Protocol::from(i32::from(fairlead_abi::proto::SCTP))))
}

/// Answers over TCP, UDP and, where the kernel has it, SCTP, on all addresses.
///
/// # Errors
/// The port is taken.
pub fn serve(namespace: &Namespace, id: u8) -> Result<()> {
    serve_on(namespace, id, PORT)
}

/// Like [`serve`], on another port.
///
/// # Errors
/// The port is taken.
pub fn serve_on(namespace: &Namespace, id: u8, port: u16) -> Result<()> {
    let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
    let (listeners, socket) = namespace.run(|| {
        let mut listeners = vec![TcpListener::bind(any)?];
        if let Ok(sctp) = sctp_socket(Domain::IPV6) {
            sctp.bind(&any.into())?;
            sctp.listen(16)?;
            listeners.push(sctp.into());
        }
        Ok((listeners, UdpSocket::bind(any)?))
    })?;
    for listener in listeners {
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream, id));
            }
        });
    }
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            // An error is of an earlier answer: its client is gone.
            let Ok((len, client)) = socket.recv_from(&mut buffer) else { continue };
            let mut answer = format!("{id} {}\n", plain(client)).into_bytes();
            answer.resize(len.max(answer.len()), b'.');
            let _ = socket.send_to(&answer, client);
        }
    });
    Ok(())
}

/// What the server says first of all.
const GREETING: u8 = b'!';

fn answer(stream: TcpStream, id: u8) -> Option<()> {
    let client = plain(stream.peer_addr().ok()?);
    (&stream).write_all(&[GREETING]).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 0 {
        let wanted = line.strip_prefix("give ").and_then(|count| count.trim().parse().ok()).unwrap_or(0);
        let mut answer = format!("{id} {client}\n").into_bytes();
        answer.resize(answer.len() + wanted, b'.');
        (&stream).write_all(&answer).ok()?;
        line.clear();
    }
    Some(())
}

/// `::ffff:a.b.c.d` as what it means.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Who answered, and whom it saw.
fn read(line: &[u8]) -> Result<Seen> {
    let line = std::str::from_utf8(line)?.lines().next().unwrap_or_default();
    let (id, client) = line.split_once(' ').with_context(|| format!("answer {line:?}"))?;
    Ok((id.parse()?, client.parse()?))
}

/// A connection that the server has taken, with a limit on how long it may stay silent.
///
/// # Errors
/// It is refused, or nobody answers.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    greeted(TcpStream::connect_timeout(&address, patience()).with_context(|| format!("connect to {address}"))?)
}

/// The same over SCTP: the library's stream does not care what carries it.
///
/// # Errors
/// It is refused, or nobody answers.
pub fn connect_sctp(address: SocketAddr) -> Result<TcpStream> {
    let socket = sctp_socket(Domain::for_address(address))?;
    let done = socket.connect_timeout(&SockAddr::from(address), patience());
    done.with_context(|| format!("connect to {address}"))?;
    greeted(socket.into())
}

/// A new connection, as [`connect`] returns one.
///
/// # Errors
/// The server does not speak.
pub fn greeted(mut stream: TcpStream) -> Result<TcpStream> {
    stream.set_read_timeout(Some(patience()))?;
    stream.set_write_timeout(Some(patience()))?;
    let mut byte = [0];
    stream.read_exact(&mut byte).context("no greeting")?;
    ensure!(byte == [GREETING], "the greeting is {byte:?}");
    Ok(stream)
}

/// One line there and one back.
///
/// # Errors
/// No answer.
pub fn ask(stream: &mut TcpStream) -> Result<Seen> {
    stream.write_all(b"hello\n")?;
    read(&line(stream)?)
}

fn line(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).context("no answer")?;
        line.push(byte[0]);
    }
    Ok(line)
}

/// Asks once over a connection of its own, whose peer must be shown as the address asked.
///
/// # Errors
/// No answer, or not in order.
pub fn tcp(address: SocketAddr) -> Result<Seen> {
    shown_as_asked(connect(address)?, address)
}

/// The same over SCTP.
///
/// # Errors
/// No answer, or not in order.
pub fn sctp(address: SocketAddr) -> Result<Seen> {
    shown_as_asked(connect_sctp(address)?, address)
}

fn shown_as_asked(mut stream: TcpStream, address: SocketAddr) -> Result<Seen> {
    ensure!(stream.peer_addr()? == address, "the peer of {address} is shown as {}", stream.peer_addr()?);
    ask(&mut stream)
}

/// Asks once with a datagram; the answer must come from the address asked.
///
/// # Errors
/// No answer, or not in order.
pub fn udp(address: SocketAddr, connected: bool) -> Result<Seen> {
    let socket = udp_socket(address)?;
    if connected {
        socket.connect(address)?;
    }
    ask_datagram(&socket, address, connected, 5)
}

/// A socket that can talk to the address, with a limit on how long it waits.
///
/// # Errors
/// There are no more file descriptors.
pub fn udp_socket(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(patience()))?;
    Ok(socket)
}

/// One datagram of some length there and its answer back.
///
/// # Errors
/// No answer, not from the address asked, or shorter than asked.
pub fn ask_datagram(socket: &UdpSocket, address: SocketAddr, connected: bool, length: usize) -> Result<Seen> {
    let message = vec![b'x'; length];
    let sent = if connected { socket.send(&message) } else { socket.send_to(&message, address) };
    sent.with_context(|| format!("send to {address}"))?;
    let mut buffer = vec![0; 1 << 16];
    let (len, from) = socket.recv_from(&mut buffer).with_context(|| format!("no answer from {address}"))?;
    ensure!(from == address, "the answer of {address} came from {from}");
    ensure!(len >= length, "{len} of {length} bytes came back");
    read(&buffer[..len])
}

/// Asks once.
///
/// # Errors
/// No answer, or not in order.
pub fn once(transport: Transport, address: SocketAddr) -> Result<Seen> {
    match transport {
        Transport::Tcp => tcp(address),
        Transport::Udp => udp(address, false),
        Transport::UdpConnected => udp(address, true),
        Transport::Sctp => sctp(address),
    }
}

/// Enough in both directions to fill segments and let offloads work.
///
/// # Errors
/// It stops on the way.
pub fn bulk(stream: &mut TcpStream) -> Result<()> {
    const MUCH: usize = 1 << 20;
    let mut long = vec![b'x'; MUCH];
    long.push(b'\n');
    stream.write_all(&long).context("a megabyte there")?;
    line(stream).context("a megabyte there")?;
    stream.write_all(format!("give {MUCH}\n").as_bytes())?;
    line(stream)?;
    let mut back = vec![0; MUCH];
    stream.read_exact(&mut back).context("a megabyte back")
}

/// One echo request and its answer, written by hand on a raw socket.
///
/// # Errors
/// No answer within a second.
pub fn ping(to: IpAddr) -> Result<()> {
    let (domain, protocol, request, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut echo = [request, 0, 0, 0, 0x12, 0x34, 0, 1, 1, 2, 3, 4];
    // For ICMPv6 the kernel does it.
    if to.is_ipv4() {
        let check = internet_checksum(&echo);
        echo[2..4].copy_from_slice(&check);
    }
    socket.send_to(&echo, &SocketAddr::new(to, 0).into())?;
    let mut buffer = [0; 256];
    for _ in 0..20 {
        let len = (&socket).read(&mut buffer).context("no echo came back")?;
        // IPv4 hands the IP header out, too.
        let answer = if to.is_ipv4() { &buffer[20..len.max(20)] } else { &buffer[..len] };
        if answer.len() == echo.len() && answer[0] == reply && answer[4..6] == [0x12, 0x34] {
            return Ok(());
        }
    }
    bail!("twenty packets came back, no echo among them")
}

/// RFC 1071, for an even number of bytes.
pub fn internet_checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn clients_do_not_speak_before_the_kernel_has_put_the_servers_socket_in_its_table() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let taken = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The kernel completes the handshake at once; the server takes the connection later.
                std::thread::sleep(Duration::from_millis(50));
                let (stream, _) = listener.accept().expect("a client");
                taken.store(true, Ordering::SeqCst);
                answer(stream, 7)
            });
            let mut stream = connect(address).expect("a server");
            assert!(taken.load(Ordering::SeqCst), "it would speak to a socket that nobody has yet");
            assert_eq!(ask(&mut stream).expect("an answer").0, 7);
        });
    }
}
