//! Programs to the places where they run, and back.
//!
//! Wherever the kernel has links, each attachment is a pinned link: it outlives the daemon, and the next one replaces
//! its program in place; so do links of an older version of the tables, which move to the folder of this one. Kernels
//! before 6.6 have no links for tc; there a filter of fixed priority and handle is used,
//! which outlives the daemon by itself and is replaced the same way.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{CgroupAttachMode, FdLink, LinkError, LinkOrder};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{CgroupSockAddr, ProgramError, SchedClassifier, TcAttachType, XdpMode};

use crate::config::UplinkMode;
use crate::error::DatapathError;
use crate::interface::Interface;
use crate::loader::{Pins, SOCKET, XDP, XDP_FRAGS, program, ready_xdp};
use crate::sys;

/// Of our tc filters on kernels without tcx.
const PRIORITY: u16 = 4097;
const HANDLE: TcHandle = TcHandle::new(0, 1);

fn failed(program: &'static str, target: &str) -> impl Fn(ProgramError) -> DatapathError {
    move |source| DatapathError::Attach { program, target: target.to_owned(), source: Box::new(source) }
}

fn io_failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> DatapathError {
    move |source| DatapathError::Io { action, path: path.to_owned(), source }
}

/// The pin of an interface's link. The BPF file system takes no dots in names.
fn pin_path(pins: &Pins, interface: &str, program: &str, mode: &str) -> PathBuf {
    pins.links.join(format!("{}:{program}{mode}", interface.replace('.', "%")))
}

/// Lets a pinned link run this program from now on; false if there is none, or what it was attached to is gone.
fn adopt(path: &Path, program: impl AsFd) -> Result<bool, DatapathError> {
    let link = match sys::open_pin(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_failed("open the pinned link", path)(error)),
    };
    match sys::update_link(link.as_fd(), program.as_fd()) {
        Ok(()) => Ok(true),
        Err(_) => {
            let _ = sys::detach_link(link.as_fd());
            fs::remove_file(path).map_err(io_failed("remove the dead link", path))?;
            Ok(false)
        }
    }
}

fn pin<L>(link: L, path: &Path) -> Result<(), ProgramError>
where
    FdLink: TryFrom<L, Error = LinkError>,
{
    let failed = |error: &dyn std::error::Error| {
        ProgramError::IOError(io::Error::other(format!("cannot pin the link at {}: {}", path.display(), chain(error))))
    };
    FdLink::try_from(link).map_err(|error| failed(&error))?.pin(path).map(drop).map_err(|error| failed(&error))
}

/// Attaches the socket hooks to a cgroup.
pub(crate) fn sockets(ebpf: &mut Ebpf, pins: &Pins, cgroup: &Path) -> Result<(), DatapathError> {
    let dir = fs::File::open(cgroup).map_err(io_failed("open the cgroup", cgroup))?;
    let target = format!("cgroup {}", cgroup.display());
    for name in SOCKET {
        let program: &mut CgroupSockAddr = program(ebpf, name)?;
        let path = pins.links.join(name);
        if adopt(&path, program.fd().map_err(failed(name, &target))?.as_fd())? {
            continue;
        }
        let id = program.attach(&dir, CgroupAttachMode::Single).map_err(failed(name, &target))?;
        let link = program.take_link(id).map_err(failed(name, &target))?;
        pin(link, &path).map_err(failed(name, &target))?;
    }
    Ok(())
}

/// How XDP can be attached. In this order, the first that the interface takes.
struct Way {
    mode: UplinkMode,
    xdp: XdpMode,
    program: &'static str,
    /// In the pin's name.
    suffix: &'static str,
}

/// A bond would run XDP at its members, where packets come in under indices that nothing is known of.
const BOND: &str = "bond";

/// Ways that are wanted on an interface, given what made it. One that software made gets the program that expects
/// unfinished checksums.
fn ways(kind: Option<&str>, wanted: Option<UplinkMode>) -> Vec<Way> {
    let is_virtual = kind.is_some();
    let [whole, parts] = [XDP, XDP_FRAGS].map(|programs| programs[usize::from(is_virtual)]);
    let native = |program| Way { mode: UplinkMode::Native, xdp: XdpMode::Driver, program, suffix: ":native" };
    match wanted {
        None | Some(UplinkMode::Native) if kind == Some(BOND) => Vec::new(),
        None | Some(UplinkMode::Native) => vec![native(whole), native(parts)],
        Some(UplinkMode::Generic) => {
            vec![Way { mode: UplinkMode::Generic, xdp: XdpMode::Skb, program: whole, suffix: ":generic" }]
        }
        Some(UplinkMode::Tc) => Vec::new(),
    }
}

/// Attaches to an uplink: tc on both sides, and XDP before it where the interface takes it. Returns the mode and the
/// reason for it.
pub(crate) fn uplink(
    ebpf: &mut Ebpf,
    pins: &Pins,
    name: &str,
    interface: &Interface,
    wanted: Option<UplinkMode>,
) -> Result<(UplinkMode, String), DatapathError> {
    tc(ebpf, pins, name, "tc_uplink_out", TcAttachType::Egress)?;
    tc(ebpf, pins, name, "tc_uplink_in", TcAttachType::Ingress)?;
    let ways = ways(interface.kind.as_deref(), wanted);
    let pinned = |way: &Way| pin_path(pins, name, way.program, way.suffix);
    for path in pins_of(pins, name, "xdp_")? {
        if !ways.iter().any(|way| pinned(way) == path) {
            drop_link(&path)?;
        }
    }
    for way in &ways {
        let path = pinned(way);
        if path.exists() && adopt(&path, xdp_fd(ebpf, way.program, name)?)? {
            return Ok((way.mode, describe(interface, way, "adopted as it was")));
        }
    }
    let mut reasons = Vec::new();
    for way in &ways {
        match attach_xdp(ebpf, way, interface.ifindex, &pinned(way)) {
            Ok(()) => return Ok((way.mode, describe(interface, way, &reasons.join("; ")))),
            Err(error) => {
                reasons.push(format!("no {} ({}): {}", way.mode, way.program, chain(error.as_ref())));
                if is_unsupported(error.as_ref()) {
                    break;
                }
            }
        }
    }
    if reasons.is_empty() {
        let is_bond = interface.kind.as_deref() == Some(BOND) && wanted != Some(UplinkMode::Tc);
        reasons
            .push(if is_bond { "its members would run XDP under names of their own" } else { "as configured" }.into());
    }
    if let Some(kind) = &interface.kind {
        reasons.insert(0, format!("a {kind} interface"));
    }
    Ok((UplinkMode::Tc, reasons.join("; ")))
}

fn describe(interface: &Interface, way: &Way, more: &str) -> String {
    let kind = interface.kind.as_deref().map_or_else(|| "hardware".to_owned(), |kind| format!("a {kind} interface"));
    let parts = if XDP_FRAGS.contains(&way.program) { ", in buffers of many parts" } else { "" };
    let more = if more.is_empty() { String::new() } else { format!(" ({more})") };
    format!("{kind}{parts}{more}")
}

fn xdp_fd(ebpf: &mut Ebpf, name: &'static str, interface: &str) -> Result<std::os::fd::OwnedFd, DatapathError> {
    let program = ready_xdp(ebpf, name)?;
    let fd = program.fd().map_err(failed(name, interface))?;
    fd.as_fd().try_clone_to_owned().map_err(io_failed("duplicate the descriptor of", Path::new(name)))
}

fn attach_xdp(ebpf: &mut Ebpf, way: &Way, ifindex: u32, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let program = ready_xdp(ebpf, way.program)?;
    let id = program.attach_to_if_index(ifindex, way.xdp)?;
    Ok(pin(program.take_link(id)?, path)?)
}

/// The driver knows nothing of it, whatever the program.
fn is_unsupported(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        let errno = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        errno == Some(libc::EOPNOTSUPP)
    })
}

/// Attaches to both sides of a pod's host-side interface.
pub(crate) fn pod(ebpf: &mut Ebpf, pins: &Pins, interface: &str) -> Result<(), DatapathError> {
    tc(ebpf, pins, interface, "tc_from_pod", TcAttachType::Ingress)?;
    tc(ebpf, pins, interface, "tc_to_pod", TcAttachType::Egress)
}

/// Detaches everything from an interface, which may be gone.
pub(crate) fn detach(pins: &Pins, interface: &str) -> Result<(), DatapathError> {
    pins_of(pins, interface, "")?.iter().try_for_each(|path| drop_link(path))?;
    drop_filters(interface);
    Ok(())
}

/// Pins of an interface's links to programs whose names begin like this.
fn pins_of(pins: &Pins, interface: &str, program: &str) -> Result<Vec<PathBuf>, DatapathError> {
    let prefix = format!("{}:{program}", interface.replace('.', "%"));
    let is_its = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
    Ok(list(&pins.links)?.into_iter().filter(is_its).collect())
}

/// Detaches every link pinned in a folder, if it is there.
pub(crate) fn detach_all(links: &Path) -> Result<(), DatapathError> {
    if !links.exists() {
        return Ok(());
    }
    list(links)?.iter().try_for_each(|path| drop_link(path))
}

fn drop_link(path: &Path) -> Result<(), DatapathError> {
    // A link whose interface is gone cannot be detached any more; the pin goes all the same.
    if let Ok(link) = sys::open_pin(path) {
        let _ = sys::detach_link(link.as_fd());
    }
    fs::remove_file(path).map_err(io_failed("remove the pinned link", path))
}

/// Names of interfaces with pinned links of a program whose name begins like this.
pub(crate) fn pinned_interfaces(pins: &Pins, program: &str) -> Result<BTreeSet<String>, DatapathError> {
    let names = list(&pins.links)?;
    let names = names.iter().filter_map(|path| path.file_name()?.to_str()?.split_once(':'));
    Ok(names
        .filter(|(_, found)| found.starts_with(program))
        .map(|(interface, _)| interface.replace('%', "."))
        .collect())
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let entries = fs::read_dir(dir).map_err(io_failed("list", dir))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn tc(
    ebpf: &mut Ebpf,
    pins: &Pins,
    interface: &str,
    name: &'static str,
    side: TcAttachType,
) -> Result<(), DatapathError> {
    let program: &mut SchedClassifier = program(ebpf, name)?;
    let path = pin_path(pins, interface, name, "");
    if adopt(&path, program.fd().map_err(failed(name, interface))?.as_fd())? {
        return Ok(());
    }
    let linked = program
        .attach_with_options(interface, side, TcAttachOptions::TcxOrder(LinkOrder::default()))
        .and_then(|id| program.take_link(id))
        .and_then(|link| pin(link, &path));
    let Err(no_link) = linked else { return Ok(()) };
    filter(program, interface, side).map_err(|error| {
        tracing::debug!(interface, program = name, error = chain(&no_link), "the kernel has no tcx links");
        failed(name, interface)(error)
    })
}

/// A filter below clsact, replaced if it is there.
fn filter(program: &mut SchedClassifier, interface: &str, side: TcAttachType) -> Result<(), ProgramError> {
    // There already, if not by us: what fails here fails again, with more to say, below.
    let _ = qdisc_add_clsact(interface);
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let id = match program.attach_with_options(interface, side, TcAttachOptions::Netlink(options)) {
        Ok(id) => id,
        Err(_) => {
            let there = SchedClassifierLink::attached(interface, side, PRIORITY, HANDLE, None)?;
            program.attach_to_link(there)?
        }
    };
    // Dropping the link would detach the filter.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Removes our filters from an interface, if it has any.
pub(crate) fn drop_filters(interface: &str) {
    let ours = [
        (TcAttachType::Ingress, "tc_uplink_in"),
        (TcAttachType::Egress, "tc_uplink_out"),
        (TcAttachType::Ingress, "tc_from_pod"),
        (TcAttachType::Egress, "tc_to_pod"),
    ];
    for (side, name) in ours {
        // Most interfaces have none of them.
        let _ = aya::programs::tc::qdisc_detach_program(interface, side, name);
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
