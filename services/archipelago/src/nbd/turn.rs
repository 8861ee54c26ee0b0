//! Waiting for what the limits of a disk let through. Part of [`Transmission`].

use std::io;
use std::sync::atomic::Ordering;

use super::transmission::Transmission;
use super::wire::{Request, command};

impl Transmission<'_> {
    /// Waits until the request may be carried out; replies that are ready go first. A client that hangs up, and a server that stops,
    /// wait no longer.
    pub(super) fn take_turn(&mut self, request: &Request) -> io::Result<()> {
        if !self.device.limited() {
            return Ok(());
        }
        let bytes = match request.command {
            command::READ | command::WRITE => request.len,
            command::TRIM | command::WRITE_ZEROES => 0,
            _ => return Ok(()),
        };
        self.send_before_waiting()?;
        let (channel, stopping) = (self.channel, self.stopping);
        self.device.wait_turn(bytes, &|| stopping.load(Ordering::Acquire) || channel.is_gone());
        Ok(())
    }
}
