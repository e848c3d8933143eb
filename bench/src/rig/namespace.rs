//! Network namespaces without names: they live as long as the value does, so nothing is left behind, whatever happens.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::packet_route::link::BondMode;
use rtnetlink::{Handle, LinkBond, LinkBridge, LinkUnspec, LinkVeth, LinkVlan, RouteMessageBuilder};

/// A network namespace, with its loopback up, and the cgroup that whoever runs in it belongs to.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    cgroup: Option<PathBuf>,
}

/// Lives in a namespace until it is dropped.
#[derive(Debug)]
pub struct Inhabitant {
    _stay: mpsc::Sender<()>,
}

impl Namespace {
    /// A new one. IPv6 addresses are of use at once: nobody is asked whether they are taken. Nor does it look for routers:
    /// old kernels let packets interrupt a program's test run (`BPF_PROG_TEST_RUN`), and the program that sees such a
    /// packet leaves its state where the interrupted one keeps its own.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            for which in ["all", "default"] {
                for (what, value) in [("accept_dad", "0"), ("router_solicitations", "0")] {
                    fs::write(format!("/proc/sys/net/ipv6/conf/{which}/{what}"), value).context("no IPv6 here")?;
                }
            }
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let file = made.join().map_err(|_| anyhow!("the thread panicked"))??;
        let namespace = Self { file, cgroup: None };
        namespace.netlink(async |handle| set_up(&handle, "lo").await)?;
        Ok(namespace)
    }

    /// The same one, seen from a threaded cgroup: what runs in it has its sockets there.
    ///
    /// # Errors
    /// There are no more file descriptors.
    pub fn in_cgroup(&self, cgroup: Option<&Path>) -> Result<Self> {
        Ok(Self { file: self.file.try_clone()?, cgroup: cgroup.map(Path::to_owned) })
    }

    /// A path under which this process can open it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Lets the calling thread live here from now on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter(&self) -> Result<()> {
        if let Some(cgroup) = &self.cgroup {
            let path = cgroup.join("cgroup.threads");
            fs::write(&path, "0").with_context(|| format!("cannot enter {}", path.display()))?;
        }
        setns(&self.file, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")
    }

    /// Runs something inside, on a thread of its own.
    ///
    /// # Errors
    /// Its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter()?;
                work()
            });
            inside.join().map_err(|_| anyhow!("the thread panicked"))?
        })
    }

    /// Somebody who lives there, as a pod's first process does, so that it is found where processes live.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn inhabit(&self) -> Result<Inhabitant> {
        let place = Self { file: self.file.try_clone()?, cgroup: None };
        let (moved, in_place) = mpsc::channel();
        let (stay, leave) = mpsc::channel::<()>();
        thread::spawn(move || {
            let _ = moved.send(place.enter());
            drop(place);
            // Ends with whoever holds the other end.
            let _ = leave.recv();
        });
        in_place.recv()??;
        Ok(Inhabitant { _stay: stay })
    }

    /// A pair of interfaces, one end here and one in another namespace, both up.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn connect(&self, name: &str, other: &Self, other_name: &str) -> Result<()> {
        let other_fd = other.file.as_raw_fd();
        self.netlink(async |handle| {
            let peer = format!("{name}p");
            handle.link().add(LinkVeth::new(name, &peer).build()).execute().await.context("cannot make a veth pair")?;
            let index = index(&peer)?;
            let moved = LinkUnspec::new_with_index(index).name(other_name.to_owned()).setns_by_fd(other_fd).build();
            handle.link().set(moved).execute().await.context("cannot move an end")?;
            set_up(&handle, name).await
        })?;
        other.netlink(async |handle| set_up(&handle, other_name).await)
    }

    /// A bridge.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn bridge(&self, name: &str) -> Result<()> {
        self.netlink(async |handle| {
            handle.link().add(LinkBridge::new(name).build()).execute().await.context("cannot make a bridge")
        })
    }

    /// A bond of these interfaces, of which one is in use at a time, up. Not every kernel knows bonds.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn bond(&self, name: &str, members: &[&str]) -> Result<()> {
        self.netlink(async |handle| {
            let bond = LinkBond::new(name).mode(BondMode::ActiveBackup).build();
            handle.link().add(bond).execute().await.context("cannot make a bond")?;
            for member in members {
                // One that is up cannot join.
                let joined = LinkUnspec::new_with_index(index(member)?).down().build();
                handle.link().set(joined).execute().await?;
                let joined = LinkUnspec::new_with_index(index(member)?).controller(index(name)?).build();
                handle.link().set(joined).execute().await.with_context(|| format!("{member} does not join"))?;
                set_up(&handle, member).await?;
            }
            set_up(&handle, name).await
        })
    }

    /// A VLAN of an interface, up. Not every kernel knows VLANs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn vlan(&self, name: &str, interface: &str, id: u16) -> Result<()> {
        self.netlink(async |handle| {
            let vlan = LinkVlan::new(name, index(interface)?, id).build();
            handle.link().add(vlan).execute().await.context("cannot make a VLAN")?;
            set_up(&handle, name).await
        })
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn up(&self, interface: &str) -> Result<()> {
        self.netlink(async |handle| set_up(&handle, interface).await)
    }

    /// Makes an interface a port of a bridge.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enslave(&self, interface: &str, bridge: &str) -> Result<()> {
        self.netlink(async |handle| {
            let port = LinkUnspec::new_with_index(index(interface)?).controller(index(bridge)?).build();
            Ok(handle.link().set(port).execute().await?)
        })
    }

    /// Sets the largest packet an interface takes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn mtu(&self, interface: &str, mtu: u32) -> Result<()> {
        self.netlink(async |handle| {
            let link = LinkUnspec::new_with_index(index(interface)?).mtu(mtu).build();
            Ok(handle.link().set(link).execute().await?)
        })
    }

    /// Gives an interface another hardware address.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn hardware(&self, interface: &str, mac: [u8; 6]) -> Result<()> {
        self.netlink(async |handle| {
            let link = LinkUnspec::new_with_index(index(interface)?).address(mac.to_vec()).build();
            Ok(handle.link().set(link).execute().await?)
        })
    }

    /// Notes the hardware address of a neighbour for good.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn neighbour(&self, interface: &str, address: impl Into<IpAddr>, mac: [u8; 6]) -> Result<()> {
        let address = address.into();
        self.netlink(async |handle| {
            let added = handle.neighbours().add(index(interface)?, address).link_layer_address(&mac);
            Ok(added.execute().await?)
        })
    }

    /// Removes an interface, and with a veth its other end.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&self, interface: &str) -> Result<()> {
        self.netlink(async |handle| Ok(handle.link().del(index(interface)?).execute().await?))
    }

    /// Writes a file below `/proc/sys/net`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.run(|| fs::write(format!("/proc/sys/net/{name}"), value).with_context(|| format!("cannot set {name}")))
    }

    /// Forwards packets of both families.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forward(&self) -> Result<()> {
        self.sysctl("ipv4/ip_forward", "1")?;
        self.sysctl("ipv6/conf/all/forwarding", "1")
    }

    /// Adds an address.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn address(&self, interface: &str, address: impl Into<IpAddr>, prefix: u8) -> Result<()> {
        let address = address.into();
        self.netlink(async |handle| Ok(handle.address().add(index(interface)?, address, prefix).execute().await?))
            .with_context(|| format!("cannot add {address} to {interface}"))
    }

    /// Adds a route, to a network on the link or through a gateway.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn route<A: Into<IpAddr>>(&self, interface: &str, net: A, prefix: u8, gateway: Option<A>) -> Result<()> {
        let (net, gateway) = (net.into(), gateway.map(Into::into));
        self.netlink(async |handle| {
            let mut route = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(net, prefix)?
                .output_interface(index(interface)?);
            route = match gateway {
                Some(gateway) => route.gateway(gateway)?.onlink(),
                // Of meaning for IPv4 alone.
                None if net.is_ipv4() => route.scope(rtnetlink::packet_route::route::RouteScope::Link),
                None => route,
            };
            Ok(handle.route().add(route.build()).execute().await?)
        })
        .with_context(|| format!("cannot add a route to {net}/{prefix} by {interface}"))
    }

    /// Removes a route.
    ///
    /// # Errors
    /// There is none.
    pub fn forget(&self, interface: &str, net: impl Into<IpAddr>, prefix: u8) -> Result<()> {
        let net = net.into();
        self.netlink(async |handle| {
            let route = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(net, prefix)?
                .output_interface(index(interface)?);
            Ok(handle.route().del(route.build()).execute().await?)
        })
        .with_context(|| format!("cannot remove the route to {net}/{prefix} by {interface}"))
    }

    fn netlink(&self, work: impl AsyncFnOnce(Handle) -> Result<()> + Send) -> Result<()> {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let tasks = tokio::task::LocalSet::new();
            tasks.block_on(&runtime, async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                let served = tokio::task::spawn_local(connection);
                let done = work(handle).await;
                served.abort();
                done
            })
        })
    }
}

fn index(interface: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(interface).with_context(|| format!("no interface {interface}"))
}

async fn set_up(handle: &Handle, interface: &str) -> Result<()> {
    let up = LinkUnspec::new_with_index(index(interface)?).up().build();
    handle.link().set(up).execute().await.with_context(|| format!("cannot set {interface} up"))
}
