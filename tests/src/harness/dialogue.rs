//! A server that says who it is and whom it sees, and ways to ask it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sockopt};

use super::namespace::Namespace;

/// Emulated machines are slow.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Answers every line and every datagram with the server's number and the client's address.
pub fn serve(namespace: &Namespace, id: u8) -> Result<()> {
    let listener = namespace.run(|| Ok(TcpListener::bind("0.0.0.0:8080")?))?;
    let socket = namespace.run(|| Ok(UdpSocket::bind("0.0.0.0:8080")?))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream, id));
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{id} {client}\n").as_bytes(), client);
        }
    });
    Ok(())
}

fn answer(stream: TcpStream, id: u8) -> Option<()> {
    let client = stream.peer_addr().ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 0 {
        (&stream).write_all(format!("{id} {client}\n").as_bytes()).ok()?;
        line.clear();
    }
    Some(())
}

/// Who answered, and whom it saw.
pub fn read(line: &str) -> Result<(u8, SocketAddrV4)> {
    let (id, client) = line.trim().split_once(' ').with_context(|| format!("answer {line:?}"))?;
    Ok((id.parse()?, client.parse()?))
}

/// A connection, with a limit on how long it may stay silent.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One line there and one back.
pub fn ask(stream: &mut TcpStream) -> Result<(u8, SocketAddrV4)> {
    stream.write_all(b"hello\n")?;
    let mut line = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).context("no answer")?;
        line.push(byte[0]);
    }
    read(&String::from_utf8(line)?)
}

/// Asks once over a connection of its own, whose peer must be shown as the address asked.
pub fn tcp(address: SocketAddr) -> Result<(u8, SocketAddrV4)> {
    let mut stream = connect(address)?;
    ensure!(stream.peer_addr()? == address, "the peer of {address} is shown as {}", stream.peer_addr()?);
    ask(&mut stream)
}

/// Asks once with a datagram; the answer must come from the address asked.
pub fn udp(address: SocketAddr, connected: bool) -> Result<(u8, SocketAddrV4)> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    if connected {
        socket.connect(address)?;
        socket.send(b"hello")?;
    } else {
        socket.send_to(b"hello", address)?;
    }
    let mut buffer = [0; 256];
    let (len, from) = socket.recv_from(&mut buffer).with_context(|| format!("no answer from {address}"))?;
    ensure!(from == address, "the answer of {address} came from {from}");
    read(std::str::from_utf8(&buffer[..len])?)
}

/// Enough lines to fill segments and let offloads work.
pub fn bulk(stream: &mut TcpStream) -> Result<()> {
    let mut long = vec![b'x'; 1 << 20];
    long.push(b'\n');
    stream.write_all(&long)?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).context("no answer to a megabyte")
}

/// One echo request and its answer, on the kernel's ping socket.
pub fn ping(to: Ipv4Addr) -> Result<()> {
    let socket = socket::socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)?;
    let timeout = nix::sys::time::TimeVal::new(1, 0);
    socket::setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
    let mut echo = [8, 0, 0, 0, 0x12, 0x34, 0, 1, 1, 2, 3, 4];
    let check = !fairlead_packet::checksum::fold(fairlead_packet::checksum::sum(&echo));
    echo[2..4].copy_from_slice(&check.to_ne_bytes());
    let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
    socket::sendto(socket.as_raw_fd(), &echo, &to, MsgFlags::empty())?;
    let mut buffer = [0; 256];
    for _ in 0..20 {
        let len = socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("no echo came back")?;
        if len == 32 && buffer[20] == 0 && buffer[24..26] == [0x12, 0x34] {
            return Ok(());
        }
    }
    bail!("twenty packets came back, no echo among them")
}
