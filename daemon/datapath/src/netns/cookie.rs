//! The kernel's cookie of a network namespace: the name under which socket hooks know it.
//!
//! Since 5.14 a socket option tells it. Before that only programs are told, so one is asked: attached for a moment to
//! the cgroup of this process, it answers a connect to an address that nobody has by putting another in its place, out
//! of which the cookie is read:
//!
//! ```text
//! 240.0.0.1 ──► 127.x.y.1:port    x, y: bits 0 to 15 of the cookie; port: bit 15 set, bits 16 to 30 in the rest
//! ```
//!
//! Cookies count up from one, so 31 bits are enough; of one that does not fit, the program says nothing.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::error::DatapathError;
use crate::sys;

/// Class E, reserved: nobody means to connect there.
const QUESTION: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 1);

/// The kernel's cookie of a network namespace: the caller's own for `None`, else that of a bind-mounted or /proc path.
/// 0 where it cannot be learnt.
pub fn netns_cookie(path: Option<&Path>) -> Result<u64, DatapathError> {
    let failed = |source: io::Error| DatapathError::Io {
        action: "read the cookie of network namespace",
        path: path.unwrap_or(Path::new("/proc/self/ns/net")).to_owned(),
        source,
    };
    let Some(path) = path else { return of_this_thread().map_err(failed) };
    let namespace = File::open(path).map_err(failed)?;
    // A thread of its own enters the namespace and ends there.
    let entered = thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        of_this_thread()
    });
    match entered.join() {
        Ok(done) => done.map_err(failed),
        Err(_) => Err(failed(io::Error::other("the thread that entered it panicked"))),
    }
}

/// The cookie of the calling thread's namespace.
pub(super) fn of_this_thread() -> io::Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    match sys::socket_netns_cookie(socket.as_fd()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            Ok(ask_a_program(&socket).unwrap_or_else(|error| {
                tracing::debug!(%error, "the kernel does not tell the cookie of a network namespace");
                0
            }))
        }
        other => other,
    }
}

fn ask_a_program(socket: &UdpSocket) -> io::Result<u64> {
    const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
    const BPF_CGROUP_INET4_CONNECT: u32 = 10;
    let program = sys::load_program(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, &program())?;
    let cgroup = File::open(cgroup()?)?;
    let _attached = sys::create_link(program.as_fd(), cgroup.as_fd(), BPF_CGROUP_INET4_CONNECT)?;
    socket.connect((QUESTION, 9))?;
    read(socket.peer_addr()?).ok_or_else(|| io::Error::other("the cookie has more than 31 bits"))
}

/// What the program put in place of the question.
fn read(peer: SocketAddr) -> Option<u64> {
    let IpAddr::V4(ip) = peer.ip() else { return None };
    let [127, x, y, 1] = ip.octets() else { return None };
    // As it lay in the context.
    let port = u16::from_ne_bytes(peer.port().to_be_bytes());
    Some(u64::from(u16::from_le_bytes([x, y])) | u64::from(port & 0x7fff) << 16)
}

/// In C: `if (ctx->user_ip4 == QUESTION && (cookie = bpf_get_netns_cookie(ctx)) >> 31 == 0) …; return 1;`
fn program() -> [u64; 17] {
    const ALU64_MOV_X: u8 = 0xbf;
    const ALU64_MOV_K: u8 = 0xb7;
    const ALU64_AND_K: u8 = 0x57;
    const ALU64_OR_K: u8 = 0x47;
    const ALU64_LSH_K: u8 = 0x67;
    const ALU64_RSH_K: u8 = 0x77;
    const JNE_K: u8 = 0x55;
    const LDX_W: u8 = 0x61;
    const STX_W: u8 = 0x63;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const BPF_FUNC_GET_NETNS_COOKIE: i32 = 122;
    /// Offsets in `struct bpf_sock_addr`.
    const USER_IP4: i16 = 4;
    const USER_PORT: i16 = 24;
    let question = i32::from_ne_bytes(QUESTION.octets());
    [
        instruction(ALU64_MOV_X, 6, 1, 0, 0),
        instruction(LDX_W, 0, 6, USER_IP4, 0),
        instruction(JNE_K, 0, 0, 12, question),
        instruction(CALL, 0, 0, 0, BPF_FUNC_GET_NETNS_COOKIE),
        instruction(ALU64_MOV_X, 1, 0, 0, 0),
        instruction(ALU64_RSH_K, 1, 0, 0, 31),
        instruction(JNE_K, 1, 0, 8, 0),
        instruction(ALU64_MOV_X, 1, 0, 0, 0),
        instruction(ALU64_AND_K, 1, 0, 0, 0xffff),
        instruction(ALU64_LSH_K, 1, 0, 0, 8),
        instruction(ALU64_OR_K, 1, 0, 0, i32::from_ne_bytes([127, 0, 0, 1])),
        instruction(STX_W, 6, 1, USER_IP4, 0),
        // The port has sixteen bits, of which the highest is set, so that it is not zero.
        instruction(ALU64_RSH_K, 0, 0, 0, 16),
        instruction(ALU64_OR_K, 0, 0, 0, 0x8000),
        instruction(STX_W, 6, 0, USER_PORT, 0),
        instruction(ALU64_MOV_K, 0, 0, 0, 1),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// A `struct bpf_insn`.
const fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> u64 {
    code as u64 | (dst as u64 | (src as u64) << 4) << 8 | (offset as u16 as u64) << 16 | (immediate as u32 as u64) << 32
}

/// The folder of this thread's own cgroup, of version 2: its path, below whichever mount shows it.
fn cgroup() -> io::Result<PathBuf> {
    let own = fs::read_to_string("/proc/thread-self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
    own.and_then(|own| mounts.lines().find_map(|mount| below(mount, own)))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this process's cgroup v2 is not mounted"))
}

/// Where a line of `mountinfo` shows a cgroup, if it does.
fn below(mount: &str, cgroup: &str) -> Option<PathBuf> {
    let (place, kind) = mount.split_once(" - ")?;
    if !kind.starts_with("cgroup2 ") {
        return None;
    }
    let mut fields = place.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let rest = Path::new(cgroup).strip_prefix(root).ok()?;
    Some(Path::new(point).join(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_tells_what_the_socket_option_tells() {
        let told = netns_cookie(None).unwrap();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        match ask_a_program(&socket) {
            Ok(cookie) => assert!(told == 0 || cookie == told, "{cookie} is not {told}"),
            Err(error) => eprintln!("skipped: {error} (root and a cgroup v2 are needed)"),
        }
    }

    #[test]
    fn a_cookie_survives_its_disguise() {
        for cookie in [1u64, 0xabcd, 0x1234_5678, 0x7fff_ffff] {
            let [x, y] = (cookie as u16).to_le_bytes();
            let port = u16::from_be_bytes(((cookie >> 16) as u16 | 0x8000).to_ne_bytes());
            assert_eq!(read(SocketAddr::from(([127, x, y, 1], port))), Some(cookie));
        }
        assert_eq!(read("240.0.0.1:9".parse().unwrap()), None);
    }

    #[test]
    fn a_cgroup_is_found_below_the_mount_that_shows_it() {
        let line = "34 25 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw";
        assert_eq!(below(line, "/a/b"), Some("/sys/fs/cgroup/a/b".into()));
        let bound = "34 25 0:30 /a /mnt rw - cgroup2 none rw";
        assert_eq!(below(bound, "/a/b"), Some("/mnt/b".into()));
        assert_eq!(below(bound, "/c"), None);
        assert_eq!(below("34 25 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu", "/a"), None);
    }
}
