//! The few things that need `unsafe`: arrays shared with the kernel, a socket option and two BPF commands that no
//! library offers.

use std::ffi::{CString, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// A BPF array mapped into this process, as 64-bit words. Each store is whole: a program sees the old or the new word.
#[derive(Debug)]
pub(crate) struct MappedWords {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping belongs to this value alone, lives until it is dropped, and is only accessed through atomics.
unsafe impl Send for MappedWords {}
// SAFETY: as above.
unsafe impl Sync for MappedWords {}

impl MappedWords {
    /// Maps an array of this many words. The map must have been made with `BPF_F_MMAPABLE`.
    pub(crate) fn new(map: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        let len = words * size_of::<u64>();
        // SAFETY: a new shared mapping at an address of the kernel's choice; nothing of ours is touched.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { start, words })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words, "word {index} of an array of {}", self.words);
        // SAFETY: the index is inside the mapping, which is page aligned and lives as long as `self`.
        unsafe { self.start.add(index).as_ref() }
    }

    /// Reads a word.
    pub(crate) fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Writes a word, after everything written before it.
    pub(crate) fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }

    /// Adds to a word, before anything written after it, and wraps around.
    pub(crate) fn add(&self, index: usize, value: u64) {
        self.word(index).fetch_add(value, Ordering::SeqCst);
    }
}

impl Drop for MappedWords {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; no reference into it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast::<c_void>(), self.words * size_of::<u64>()) };
    }
}

/// Gives the kernel back what the allocator keeps of memory that was freed, and lets go of the pages of this program that
/// are as in its file. Those that are needed again come back from the page cache.
pub(crate) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: looks at the allocator's own lists, under its own locks.
    unsafe {
        libc::malloc_trim(0)
    };
    // SAFETY: the function that is called does not unwind and keeps nothing of what it is given.
    unsafe { libc::dl_iterate_phdr(Some(leave_pages), std::ptr::null_mut()) };
}

/// Of a loaded program or library: segments that nobody writes to, neither now nor when it was linked.
unsafe extern "C" fn leave_pages(loaded: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> i32 {
    const PAGE: usize = 4096;
    // SAFETY: the linker calls this with a description that is whole for as long as the call lasts.
    let (base, headers) = unsafe {
        let loaded = &*loaded;
        (loaded.dlpi_addr as usize, std::slice::from_raw_parts(loaded.dlpi_phdr, loaded.dlpi_phnum.into()))
    };
    for header in headers.iter().filter(|one| one.p_type == libc::PT_LOAD && one.p_flags & libc::PF_W == 0) {
        let start = base + header.p_vaddr as usize;
        let (first, end) = (start.next_multiple_of(PAGE), (start + header.p_filesz as usize) / PAGE * PAGE);
        if first < end {
            // SAFETY: a private mapping of a file without pages of its own: each reads the same again.
            unsafe { libc::madvise(first as *mut c_void, end - first, libc::MADV_DONTNEED) };
        }
    }
    0
}

/// Lets all threads share one store of free memory. Each by itself keeps what it freed from the others, and those who
/// read objects are not those who keep what comes of them. To be called before there are other threads.
pub(crate) fn share_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number in the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// `SO_NETNS_COOKIE` of a socket: the cookie of the network namespace it was made in.
pub(crate) fn socket_netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    const SO_NETNS_COOKIE: i32 = 71;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `cookie`, which has that many.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast::<c_void>(),
            &raw mut len,
        )
    };
    if done == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Opens a pinned BPF object.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    const BPF_OBJ_GET: i64 = 7;
    /// The part of `union bpf_attr` this command reads.
    #[repr(C)]
    struct Attr {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = Attr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the kernel reads `attr` and the string, both of which outlive the call, and writes nothing.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attr, size_of::<Attr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Loads a program given by its instructions, for one kind of attachment; one that needs neither maps nor BTF.
pub(crate) fn load_program(kind: u32, attach: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: i64 = 5;
    /// The part of `union bpf_attr` this command reads.
    #[repr(C)]
    struct Attr {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log: [u32; 4],
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    let attr = Attr {
        prog_type: kind,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log: [0; 4],
        kern_version: 0,
        prog_flags: 0,
        prog_name: [0; 16],
        prog_ifindex: 0,
        expected_attach_type: attach,
    };
    // SAFETY: the kernel reads `attr`, the instructions and the string, all of which outlive the call, and writes nothing.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<Attr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches a program beside others. It is detached when the link is dropped.
pub(crate) fn create_link(program: BorrowedFd<'_>, target: BorrowedFd<'_>, attach: u32) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: i64 = 28;
    /// The part of `union bpf_attr` this command reads.
    #[repr(C)]
    struct Attr {
        prog_fd: u32,
        target_fd: u32,
        attach_type: u32,
        flags: u32,
    }
    let attr = Attr {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: target.as_raw_fd() as u32,
        attach_type: attach,
        flags: 0,
    };
    // SAFETY: the kernel reads `attr`, which outlives the call, and writes nothing.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attr, size_of::<Attr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Puts entries into a hash table with one call, or says that not all were put.
pub(crate) fn update_batch<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    const BPF_MAP_UPDATE_BATCH: i64 = 26;
    /// The part of `union bpf_attr` this command reads.
    #[repr(C)]
    struct Attr {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map_fd: u32,
        elem_flags: u64,
        flags: u64,
    }
    assert_eq!(keys.len(), values.len(), "a value for each key");
    let mut attr = Attr {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: map.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads as many keys and values as `count` says, of the sizes that the map has, which the caller's
    // typed map has checked, and writes to `attr` how many it took; all of them outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_BATCH, &raw mut attr, size_of::<Attr>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Replaces the program of a link, without a moment in which none runs.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_LINK_UPDATE: i64 = 29;
    /// The part of `union bpf_attr` this command reads.
    #[repr(C)]
    struct Attr {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let attr =
        Attr { link_fd: link.as_raw_fd() as u32, new_prog_fd: program.as_raw_fd() as u32, flags: 0, old_prog_fd: 0 };
    // SAFETY: the kernel reads `attr`, which outlives the call, and writes nothing.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_UPDATE, &raw const attr, size_of::<Attr>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Detaches a link at once. Removing its last pin would do so too, but some time later.
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_LINK_DETACH: i64 = 34;
    let attr = link.as_raw_fd() as u32;
    // SAFETY: the kernel reads `attr`, the one field of this command, and writes nothing.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const attr, size_of::<u32>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A question about an interface, to be filled in.
fn request_for(name: &str) -> libc::ifreq {
    // SAFETY: plain numbers, of which all zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request
}

/// Makes a TAP interface that lives as long as its descriptor, in the caller's network namespace, and sets it up. `%d` in
/// the name becomes the first free number; the name that came of it is returned.
pub(crate) fn open_tap(name: &str) -> io::Result<(OwnedFd, String)> {
    const TUNSETIFF: u64 = 0x4004_54ca;
    let tap: OwnedFd = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?
        .into();
    let mut request = request_for(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
    let ioctl = |fd: BorrowedFd<'_>, command: u64, request: &mut libc::ifreq| {
        // SAFETY: each of the commands below reads and writes one `ifreq`, which outlives the call.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), command as libc::Ioctl, std::ptr::from_mut(request)) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    ioctl(tap.as_fd(), TUNSETIFF, &mut request)?;
    let name: Vec<u8> = request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect();
    let name = String::from_utf8_lossy(&name).into_owned();
    // Nobody lives there who would want an address; where there is no IPv6, there is nothing to switch off.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_NOARP) as i16;
    ioctl(socket.as_fd(), libc::SIOCSIFFLAGS, &mut request)?;
    Ok((tap, name))
}

/// Switches generic receive offload on for an interface of the caller's network namespace.
pub(crate) fn switch_gro_on(name: &str) -> io::Result<()> {
    const ETHTOOL_SGRO: u32 = 0x2c;
    // `struct ethtool_value` (`linux/ethtool.h`): the command, and what is set.
    let mut value = [ETHTOOL_SGRO, 1];
    let mut request = request_for(name);
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: the command reads one `ifreq` and the value it points to, both of which outlive the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as libc::Ioctl, &raw mut request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
