//! The UDP half: every datagram is answered with one datagram.

use std::net::UdpSocket;

use crate::reply;

/// Answers until the process ends.
pub(crate) fn serve(socket: &UdpSocket, pod: &str) {
    let mut datagram = vec![0u8; 65536];
    loop {
        match socket.recv_from(&mut datagram) {
            Ok((length, client)) => {
                let shown = reply::plain(client);
                let answer = reply::render(pod, client, &[("protocol", "UDP".to_owned())], &datagram[..length]);
                if let Err(error) = socket.send_to(&answer, client) {
                    eprintln!("cannot answer {client}: {error}");
                }
                println!("udp {shown} {length} bytes");
            }
            // An ICMP error about an earlier answer surfaces here; it says nothing about the next datagram.
            Err(error) => eprintln!("cannot receive: {error}"),
        }
    }
}
