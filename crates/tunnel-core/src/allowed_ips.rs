//! Cryptokey routing (paper §2): which peer owns an inner address.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use encrypt::PeerIndex;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// Longest-prefix tries for both families, and the same by peer. A prefix belongs to at most one peer.
#[derive(Default)]
pub(crate) struct AllowedIps {
    v4: PrefixMap<Ipv4Net, PeerIndex>,
    v6: PrefixMap<Ipv6Net, PeerIndex>,
    by_peer: HashMap<PeerIndex, BTreeSet<IpNet>>,
    last_destination: LastLookup,
    last_source: LastLookup,
}

/// The last address looked up in one direction: packets of a burst go to, or come from, the same one.
type LastLookup = Option<(IpAddr, PeerIndex)>;

impl AllowedIps {
    /// The peer that packets to `destination` go to.
    pub(crate) fn route(&mut self, destination: IpAddr) -> Option<PeerIndex> {
        if let Some((address, peer)) = self.last_destination
            && address == destination
        {
            return Some(peer);
        }
        let peer = self.longest_match(destination)?;
        self.last_destination = Some((destination, peer));
        Some(peer)
    }

    /// Whether packets from `source` may come from `peer`.
    pub(crate) fn permits(&mut self, peer: PeerIndex, source: IpAddr) -> bool {
        if self.last_source == Some((source, peer)) {
            return true;
        }
        if self.longest_match(source) != Some(peer) {
            return false;
        }
        self.last_source = Some((source, peer));
        true
    }

    fn longest_match(&self, address: IpAddr) -> Option<PeerIndex> {
        match address {
            IpAddr::V4(address) => self.v4.get_lpm(&address.into()).map(|(_, peer)| *peer),
            IpAddr::V6(address) => self.v6.get_lpm(&address.into()).map(|(_, peer)| *peer),
        }
    }

    /// Gives `prefix` (host bits ignored) to `peer`; whoever had it loses it.
    pub(crate) fn insert(&mut self, peer: PeerIndex, prefix: IpNet) {
        self.forget_lookups();
        let prefix = prefix.trunc();
        let before = match prefix {
            IpNet::V4(prefix) => self.v4.insert(prefix, peer),
            IpNet::V6(prefix) => self.v6.insert(prefix, peer),
        };
        if let Some(before) = before.filter(|before| *before != peer) {
            self.unlist(before, prefix);
        }
        self.by_peer.entry(peer).or_default().insert(prefix);
    }

    /// Takes `prefix` (host bits ignored) from `peer`, if `peer` has it.
    pub(crate) fn remove(&mut self, peer: PeerIndex, prefix: IpNet) {
        let prefix = prefix.trunc();
        if self.unlist(peer, prefix) {
            self.remove_from_trie(prefix);
        }
    }

    /// Takes every prefix from `peer`.
    pub(crate) fn remove_all(&mut self, peer: PeerIndex) {
        for prefix in self.by_peer.remove(&peer).unwrap_or_default() {
            self.remove_from_trie(prefix);
        }
    }

    /// The prefixes of `peer`, sorted.
    pub(crate) fn of_peer(&self, peer: PeerIndex) -> impl Iterator<Item = IpNet> + '_ {
        self.by_peer.get(&peer).into_iter().flatten().copied()
    }

    fn remove_from_trie(&mut self, prefix: IpNet) {
        self.forget_lookups();
        match prefix {
            IpNet::V4(prefix) => self.v4.remove(&prefix),
            IpNet::V6(prefix) => self.v6.remove(&prefix),
        };
    }

    fn unlist(&mut self, peer: PeerIndex, prefix: IpNet) -> bool {
        let Some(prefixes) = self.by_peer.get_mut(&peer) else { return false };
        let was_listed = prefixes.remove(&prefix);
        if prefixes.is_empty() {
            self.by_peer.remove(&peer);
        }
        was_listed
    }

    fn forget_lookups(&mut self) {
        self.last_destination = None;
        self.last_source = None;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn peer(index: u32) -> PeerIndex {
        PeerIndex::new(index).unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins_and_removal_uncovers_the_shorter() {
        let mut ips = AllowedIps::default();
        ips.insert(peer(1), net("0.0.0.0/0"));
        ips.insert(peer(2), net("10.0.0.0/8"));
        ips.insert(peer(3), net("10.1.2.3/32"));
        let address = "10.1.2.3".parse().unwrap();
        assert_eq!(ips.route(address), Some(peer(3)));
        ips.remove(peer(3), net("10.1.2.3/32"));
        assert_eq!(ips.route(address), Some(peer(2)), "the cached answer must not outlive the prefix");
        ips.remove_all(peer(2));
        assert_eq!(ips.route(address), Some(peer(1)));
        assert_eq!(ips.route("::1".parse().unwrap()), None, "the families are apart");
    }

    #[test]
    fn a_prefix_moves_between_peers_and_host_bits_are_ignored() {
        let mut ips = AllowedIps::default();
        ips.insert(peer(1), net("10.9.8.7/8"));
        assert_eq!(ips.of_peer(peer(1)).collect::<Vec<_>>(), [net("10.0.0.0/8")]);
        assert!(ips.permits(peer(1), "10.0.0.1".parse().unwrap()));
        ips.insert(peer(2), net("10.0.0.0/8"));
        assert_eq!(ips.of_peer(peer(1)).count(), 0);
        assert!(!ips.permits(peer(1), "10.0.0.1".parse().unwrap()));
        ips.remove(peer(1), net("10.0.0.0/8"));
        assert!(ips.permits(peer(2), "10.0.0.1".parse().unwrap()), "only its owner can give it up");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32, IpNet),
        Remove(u32, IpNet),
        RemoveAll(u32),
        Lookup(IpAddr),
    }

    /// Few addresses and all prefix lengths, so that prefixes nest and collide.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u8..4, 0u8..4, any::<u8>()).prop_map(|(a, b, c)| IpAddr::from([10, a, b, c])),
            (0u8..4, any::<u8>()).prop_map(|(a, b)| {
                let mut octets = [0; 16];
                octets[0] = 0xfd;
                octets[7] = a;
                octets[15] = b;
                IpAddr::from(octets)
            }),
        ]
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        (address(), 0u8..=128).prop_map(|(address, len)| {
            let len = if address.is_ipv4() { len % 33 } else { len };
            IpNet::new(address, len).unwrap()
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u32..4, prefix()).prop_map(|(p, n)| Step::Insert(p, n)),
            2 => (0u32..4, prefix()).prop_map(|(p, n)| Step::Remove(p, n)),
            1 => (0u32..4).prop_map(Step::RemoveAll),
            8 => address().prop_map(Step::Lookup),
        ]
    }

    fn naive_lookup(model: &BTreeMap<IpNet, u32>, address: IpAddr) -> Option<PeerIndex> {
        let covering = model.iter().filter(|(prefix, _)| prefix.contains(&address));
        covering.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, owner)| peer(*owner))
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_search(steps in proptest::collection::vec(step(), 1..120)) {
            let mut ips = AllowedIps::default();
            let mut model: BTreeMap<IpNet, u32> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Insert(p, n) => {
                        ips.insert(peer(p), n);
                        model.insert(n.trunc(), p);
                    }
                    Step::Remove(p, n) => {
                        ips.remove(peer(p), n);
                        if model.get(&n.trunc()) == Some(&p) {
                            model.remove(&n.trunc());
                        }
                    }
                    Step::RemoveAll(p) => {
                        ips.remove_all(peer(p));
                        model.retain(|_, owner| *owner != p);
                    }
                    Step::Lookup(address) => {
                        let expected = naive_lookup(&model, address);
                        prop_assert_eq!(ips.route(address), expected);
                        for p in 0..4 {
                            prop_assert_eq!(ips.permits(peer(p), address), expected == Some(peer(p)));
                        }
                    }
                }
                for p in 0..4 {
                    let listed: Vec<IpNet> = ips.of_peer(peer(p)).collect();
                    let expected: Vec<IpNet> =
                        model.iter().filter(|(_, owner)| **owner == p).map(|(n, _)| *n).collect();
                    prop_assert_eq!(listed, expected);
                }
            }
        }
    }
}
