//! Network namespaces without names: they live as long as the value does, so nothing is left behind, whatever happens.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// A network namespace, with its loopback up.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let file = made.join().map_err(|_| anyhow!("the thread panicked"))??;
        let namespace = Self { file };
        namespace.netlink(async |handle| set_up(&handle, "lo").await)?;
        Ok(namespace)
    }

    /// A path under which this process can open it.
    pub fn path(&self) -> std::path::PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Lets the calling thread live here from now on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter(&self) -> Result<()> {
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

    /// Adds an address.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn address(&self, interface: &str, address: Ipv4Addr, prefix: u8) -> Result<()> {
        self.netlink(async |handle| {
            let index = index(interface)?;
            Ok(handle.address().add(index, address.into(), prefix).execute().await?)
        })
    }

    /// Adds a route, to a network on the link or through a gateway.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn route(&self, interface: &str, net: Ipv4Addr, prefix: u8, gateway: Option<Ipv4Addr>) -> Result<()> {
        self.netlink(async |handle| {
            let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(net, prefix)
                .output_interface(index(interface)?);
            route = match gateway {
                Some(gateway) => route.gateway(gateway).onlink(),
                None => route.scope(rtnetlink::packet_route::route::RouteScope::Link),
            };
            Ok(handle.route().add(route.build()).execute().await?)
        })
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
