//! `fairlead down --state-dir`: undoes what `fairlead node --proxy-only` made, whatever state a crash has left it in.
//!
//! Pinned links are taken off wherever they are. Filters of kernels without such links (before 6.6) can only be reached
//! from inside the network namespace: that of the running daemon, or the one this is started in.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fairlead_datapath::FindingState;
use nix::sched::{CloneFlags, setns, unshare};

use crate::layout::Layout;
use crate::node::namespace;
use crate::process::Identity;
use crate::{mounts, preflight};

use super::{GRACE, await_reaped};

/// Where the interfaces are that filters have to be taken from.
#[derive(Debug)]
enum Place {
    /// Here.
    Here,
    /// In a namespace that can be entered.
    There(File),
    /// Nobody knows; it may have ended.
    Unknown,
}

/// Removes it all.
pub(super) async fn run(dir: &Path) -> Result<()> {
    let layout = Layout::proxy(dir)?;
    if !layout.dir().exists() {
        println!("nothing to do: {} does not exist", layout.dir().display());
        return Ok(());
    }
    preflight::proxy_privileges()?;
    layout.check()?;
    let running = Identity::read(&layout.pid_file("node"));
    let place = place(&layout, running);
    if let Some(daemon) = running {
        daemon.stop(GRACE).await;
    }
    remove_datapath(&layout, place)?;
    remove_files(&layout)?;
    await_reaped(&running.into_iter().collect::<Vec<_>>()).await;
    println!("down");
    Ok(())
}

fn place(layout: &Layout, running: Option<Identity>) -> Place {
    let own = namespace(Path::new("/proc/self/ns/net")).ok();
    let noted = std::fs::read_to_string(layout.namespace()).ok().and_then(|text| text.trim().parse().ok());
    if noted.is_none() || noted == own {
        return Place::Here;
    }
    let opened = running.and_then(|daemon| File::open(format!("/proc/{}/ns/net", daemon.pid)).ok());
    opened.map_or(Place::Unknown, Place::There)
}

fn remove_datapath(layout: &Layout, place: Place) -> Result<()> {
    // Whichever mount namespace the daemon was in: the lasting one first, then this one.
    let lasting = mounts::lasting(layout.dir(), || remove_pins(layout, &place)).transpose()?;
    let here = remove_pins(layout, &place)?;
    if (lasting == Some(true) || here) && matches!(place, Place::Unknown) && !has_links() {
        println!(
            "the proxy worked in a network namespace that is not this one: if it still exists, run `fairlead down` there, to take the filters off its interfaces"
        );
    }
    Ok(())
}

/// True if there were any.
fn remove_pins(layout: &Layout, place: &Place) -> Result<bool> {
    let bpf = layout.bpf();
    let mounted = mounts::below(&bpf)?.contains(&bpf);
    if mounted {
        std::thread::scope(|scope| scope.spawn(|| remove_in(place, &bpf)).join())
            .unwrap_or_else(|_| bail!("the thread that removes the data path panicked"))?;
    }
    mounts::clear(layout.dir())?;
    Ok(mounted)
}

/// On a thread that ends with it.
fn remove_in(place: &Place, bpf: &Path) -> Result<()> {
    match place {
        Place::Here => {}
        Place::There(namespace) => {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the proxy's network namespace")?;
        }
        // Filters are told by their names, which another proxy's have as well: look for them where there are none.
        Place::Unknown => unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?,
    }
    fairlead_datapath::remove(bpf).context("cannot detach the data path")
}

fn has_links() -> bool {
    let config = fairlead_datapath::Config::new(PathBuf::new(), PathBuf::new());
    let findings = fairlead_datapath::preflight(&config);
    findings.iter().any(|finding| finding.name == "tcx links" && finding.state == FindingState::Present)
}

/// What the proxy made in its directory, and the directory if nothing else is in it.
fn remove_files(layout: &Layout) -> Result<()> {
    if let Some(mount) = mounts::below(layout.dir())?.first() {
        bail!("{} is still mounted: unmount it and run this again", mount.display());
    }
    for name in ["run", "bpf", "fairlead.sock", "version"] {
        let path = layout.dir().join(name);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    // Somebody else's files keep it.
    let _ = std::fs::remove_dir(layout.dir());
    Ok(())
}
