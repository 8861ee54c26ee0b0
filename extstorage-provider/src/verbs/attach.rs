//! `attach` and `detach`. Ganeti attaches all the time, to learn the path of a device: what is attached already costs a look.

use std::fmt::Write;

use archipelago_core::{Kind, Sharing, VolumeInfo};
use archipelago_service::attach::{AttachError, Attached, Presentation, Wanted};

use super::Call;
use crate::applet::SERVER;
use crate::error::ProviderError;
use crate::parameters::{self, Access};

/// Prints the block device, or an empty line where none can be made; then, for instances that do without one, where QEMU finds the disk.
pub fn attach(call: &Call<'_>, warn: &mut dyn FnMut(String)) -> Result<String, ProviderError> {
    let access = parameters::access(call.environment)?;
    let info = call.names.must_find(&call.pool.store, &call.pool.location.to_string())?;
    let attached = match (put(call, &info, Presentation::Device), access) {
        // An instance that needs no device does without.
        (Err(AttachError::Unsupported(why)), Access::Userspace) => {
            warn(format!("there is no block device for OS scripts: {why}"));
            put(call, &info, Presentation::File)
        }
        (other, _) => other,
    }?;
    let mut text = attached.device.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    text.push('\n');
    if access == Access::Userspace {
        let Some(socket) = &attached.record.socket else {
            return Err(ProviderError::refused(
                format!("{}: was attached by hand, without a socket for QEMU", info.name),
                format!("run `archipelago unmap {}` on this node, and try again", info.name),
            ));
        };
        let (name, socket) = (encoded(&attached.record.name), encoded(&socket.to_string_lossy()));
        let _ = writeln!(text, "kvm:nbd+unix:///{name}?socket={socket}");
    }
    Ok(text)
}

fn put(call: &Call<'_>, info: &VolumeInfo, presentation: Presentation) -> Result<Attached, AttachError> {
    call.host.attacher.attach(&Wanted {
        store: call.pool.location.to_string(),
        uuid: call.pool.store.uuid(),
        id: info.id.clone(),
        name: info.name.clone(),
        read_only: info.kind != Kind::Volume,
        presentation,
        driver: None,
        // `grow` waits for that.
        grows: true,
        // Always: the access of a disk may change while it is attached.
        socket: true,
        // As the only one if it can be had. Ganeti attaches a disk on a node to which it moves before the other one lets go: it is closed
        // there until `open` says more.
        standby: (info.kind == Kind::Volume).then_some(match info.open_by {
            None => Sharing::Exclusive,
            Some(_) => Sharing::Closed,
        }),
        server: call.host.arguments(&call.pool.location),
        server_name: Some(SERVER),
    })
}

pub fn detach(call: &Call<'_>) -> Result<(), ProviderError> {
    // What is gone is not attached.
    let Some(info) = call.names.find(&call.pool.store)? else { return Ok(()) };
    match call.host.attacher.detach(&info.id) {
        Ok(()) | Err(AttachError::NotAttached(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A text in a URI, without anything that has a meaning there or ends the value of one of QEMU's options.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s58_nothing_in_a_uri_ends_an_option_of_qemu() {
        assert_eq!(encoded("/run/a-b_c.sock"), "/run/a-b_c.sock");
        assert_eq!(encoded("a,b c&d=e?f#g%h+i@jü"), "a%2Cb%20c%26d%3De%3Ff%23g%25h%2Bi%40j%C3%BC");
    }
}
