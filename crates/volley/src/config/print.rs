//! Writing a file: what `SaveConfig` and `volley save` leave behind.

use std::fmt::{self, Display, Formatter};

use encrypt::{PresharedKey, PrivateKey};

use super::{Config, Interface, Peer, Table};

impl Display for Config {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.interface)?;
        for peer in &self.peers {
            write!(f, "\n{peer}")?;
        }
        Ok(())
    }
}

impl Display for Interface {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "[Interface]")?;
        for address in &self.addresses {
            writeln!(f, "Address = {address}")?;
        }
        for dns in self.dns.iter().chain(&self.dns_search) {
            writeln!(f, "DNS = {dns}")?;
        }
        option(f, "MTU", self.mtu)?;
        match &self.table {
            Table::Auto => {}
            Table::Off => writeln!(f, "Table = off")?,
            Table::Named(name) => writeln!(f, "Table = {name}")?,
        }
        if self.save {
            writeln!(f, "SaveConfig = true")?;
        }
        let hooks = &self.hooks;
        let hooks = [
            ("PreUp", &hooks.pre_up),
            ("PostUp", &hooks.post_up),
            ("PreDown", &hooks.pre_down),
            ("PostDown", &hooks.post_down),
        ];
        for (name, commands) in hooks {
            for command in commands {
                writeln!(f, "{name} = {command}")?;
            }
        }
        option(f, "ListenPort", self.listen_port.filter(|port| *port != 0))?;
        let mark = self.fwmark.filter(|mark| *mark != 0);
        option(f, "FwMark", mark.map(|mark| format!("{mark:#x}")))?;
        option(f, "PrivateKey", self.private_key.as_ref().map(PrivateKey::to_base64).as_deref())
    }
}

impl Display for Peer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "[Peer]\nPublicKey = {}", self.public_key.to_base64())?;
        option(f, "PresharedKey", self.preshared_key.as_ref().map(PresharedKey::to_base64).as_deref())?;
        if !self.allowed_ips.is_empty() {
            let prefixes: Vec<_> = self.allowed_ips.iter().map(ToString::to_string).collect();
            writeln!(f, "AllowedIPs = {}", prefixes.join(", "))?;
        }
        option(f, "Endpoint", self.endpoint.as_ref())?;
        option(f, "PersistentKeepalive", self.persistent_keepalive)
    }
}

fn option(f: &mut Formatter<'_>, name: &str, value: Option<impl Display>) -> fmt::Result {
    value.map_or(Ok(()), |value| writeln!(f, "{name} = {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_to_the_same() {
        let key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
        let text = format!(
            "[Interface]\nAddress = 10.0.0.1/24\nDNS = ::1\nDNS = home.lan\nMTU = 1380\nTable = off\nSaveConfig = true\n\
             PreUp = a\nPostUp = b\nPreDown = c\nPostDown = d\nListenPort = 5\nFwMark = 0x1f\nPrivateKey = {key}\n\n\
             [Peer]\nPublicKey = {key}\nPresharedKey = {key}\nAllowedIPs = 10.0.0.0/8, ::/0\n\
             Endpoint = [2001:db8::1]:5\nPersistentKeepalive = 25\n\n[Peer]\nPublicKey = {key}\n"
        );
        assert_eq!(text.parse::<Config>().expect("a good file").to_string(), text);
    }
}
