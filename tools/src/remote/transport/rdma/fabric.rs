//! The devices of this machine that lanes may use.

use std::net::IpAddr;
use std::sync::Arc;

use bookend_registration::verbs::{Device, Domain, devices};

use super::LANES_MAX;
use crate::remote::protocol::Port;

/// The port of a device that is used.
const PORT: u8 = 1;

/// Devices of this machine, at least one.
#[derive(Debug)]
pub struct Fabric {
    domains: Vec<Arc<Domain>>,
    ports: Vec<Port>,
}

impl Fabric {
    /// Opens the devices whose port is up, at most so many: first the one that has this machine's address `near`, if
    /// one has, then the others by their names, so that two machines alike have them in the same order.
    ///
    /// # Errors
    /// Why there is none.
    pub fn open(near: Option<IpAddr>, most: u32) -> Result<Self, String> {
        let mut names = devices().map_err(|error| error.to_string())?;
        names.sort_by(|one, other| (one.len(), one).cmp(&(other.len(), other))); // mlx5_2, mlx5_10
        let (mut found, mut reasons) = (Vec::new(), Vec::new());
        for name in names {
            match Device::open(Some(&name)) {
                Ok(device) if device.is_active(PORT) => found.push(device),
                Ok(_) => reasons.push(format!("the port of {name} is down")),
                Err(error) => reasons.push(format!("{name}: {error}")),
            }
        }
        if let Some(near) = near {
            found.sort_by_key(|device| !device.has_address(PORT, near)); // it is stable
        }
        let mut fabric = Self { domains: Vec::new(), ports: Vec::new() };
        for device in found {
            if fabric.domains.len() == most.clamp(1, LANES_MAX) as usize {
                break;
            }
            match Domain::new(&device) {
                Ok(domain) => fabric.add(domain),
                Err(error) => reasons.push(format!("{}: {error}", device.name())),
            }
        }
        match (fabric.domains.is_empty(), reasons.is_empty()) {
            (false, _) => Ok(fabric),
            (true, true) => Err("there is no RDMA device".to_owned()),
            (true, false) => Err(reasons.join("; ")),
        }
    }

    fn add(&mut self, domain: Arc<Domain>) {
        let device = domain.device();
        let (name, address) = (device.name().to_owned(), device.port_address(PORT));
        self.ports.push(Port { name, address });
        self.domains.push(domain);
    }

    /// How many.
    pub fn devices(&self) -> u32 {
        self.domains.len() as u32 // at most LANES_MAX
    }

    /// What the other end is told of them.
    pub(super) fn ports(&self) -> Vec<Port> {
        self.ports.clone()
    }

    /// One of them.
    pub(super) fn domain(&self, device: usize) -> &Arc<Domain> {
        &self.domains[device]
    }
}
