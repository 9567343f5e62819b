//! Packets that wait for a peer's handshake: bounded per peer and over all peers.

use std::collections::VecDeque;

/// One peer's waiting packets, oldest first, back to back in one ring: queueing allocates only while the
/// ring grows, and an empty queue holds no memory.
#[derive(Debug, Default)]
pub(crate) struct WaitingQueue {
    bytes: VecDeque<u8>,
    lens: VecDeque<u16>,
}

/// The bounds of [`WaitingQueue`]s, and what all of them hold together.
#[derive(Debug)]
pub(crate) struct WaitingBudget {
    pub(crate) max_packets: usize,
    pub(crate) max_bytes: usize,
    pub(crate) max_bytes_total: usize,
    pub(crate) used_bytes: usize,
}

impl WaitingQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.lens.len()
    }

    /// Queues a copy of `packet`, and drops this peer's oldest packets, or if that does not make enough
    /// room the packet itself. Gives how many were dropped.
    pub(crate) fn push(&mut self, packet: &[u8], budget: &mut WaitingBudget) -> u64 {
        let Ok(len) = u16::try_from(packet.len()) else { return 1 };
        if !self.could_have_room(packet.len(), budget) {
            return 1;
        }
        let mut dropped = 0;
        while !self.has_room(packet.len(), budget) {
            dropped += 1;
            if !self.pop(budget) {
                return dropped; // bounds of zero
            }
        }
        self.bytes.extend(packet);
        self.lens.push_back(len);
        budget.used_bytes += packet.len();
        dropped
    }

    /// Whether there would be room if this queue were empty.
    fn could_have_room(&self, len: usize, budget: &WaitingBudget) -> bool {
        let bytes = len <= budget.max_bytes;
        let total = budget.used_bytes - self.bytes.len() + len <= budget.max_bytes_total;
        bytes && total
    }

    fn has_room(&self, len: usize, budget: &WaitingBudget) -> bool {
        let packets = self.lens.len() < budget.max_packets;
        let bytes = self.bytes.len() + len <= budget.max_bytes;
        let total = budget.used_bytes + len <= budget.max_bytes_total;
        packets && bytes && total
    }

    /// Copies the oldest packet into `out`, replacing what was there. False when there is none.
    pub(crate) fn copy_front(&self, out: &mut Vec<u8>) -> bool {
        let Some(&len) = self.lens.front() else { return false };
        let (first, second) = self.bytes.as_slices();
        let len = usize::from(len);
        let from_first = len.min(first.len());
        out.clear();
        out.extend_from_slice(&first[..from_first]);
        out.extend_from_slice(&second[..len - from_first]);
        true
    }

    /// Removes the oldest packet. False when there is none.
    pub(crate) fn pop(&mut self, budget: &mut WaitingBudget) -> bool {
        let Some(len) = self.lens.pop_front() else { return false };
        self.bytes.drain(..usize::from(len));
        budget.used_bytes -= usize::from(len);
        if self.lens.is_empty() {
            *self = Self::default();
        }
        true
    }

    /// Removes every packet and gives how many there were.
    pub(crate) fn clear(&mut self, budget: &mut WaitingBudget) -> u64 {
        let dropped = self.lens.len() as u64;
        budget.used_bytes -= self.bytes.len();
        *self = Self::default();
        dropped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUDGET: WaitingBudget =
        WaitingBudget { max_packets: 4, max_bytes: 100, max_bytes_total: 150, used_bytes: 0 };

    fn contents(queue: &WaitingQueue) -> Vec<Vec<u8>> {
        let mut bytes = queue.bytes.iter().copied();
        queue.lens.iter().map(|len| bytes.by_ref().take(usize::from(*len)).collect()).collect()
    }

    #[test]
    fn what_can_never_fit_is_refused_and_counted() {
        let mut budget = BUDGET;
        let mut queue = WaitingQueue::default();
        assert_eq!(queue.push(&[1; 60], &mut budget), 0);
        assert_eq!(queue.push(&[2; 101], &mut budget), 1);
        assert_eq!(queue.push(&vec![0; 70_000], &mut budget), 1);
        assert_eq!(contents(&queue), [vec![1; 60]], "for nothing, nothing else is dropped");

        let mut other = WaitingQueue::default();
        assert_eq!(other.push(&[3; 60], &mut budget), 0);
        assert_eq!(other.push(&[4; 100], &mut budget), 1, "60 of the 150 bytes are the first queue's");
        assert_eq!(contents(&other), [vec![3; 60]]);

        budget.max_packets = 0;
        assert_eq!(WaitingQueue::default().push(&[0; 1], &mut budget), 1);
    }

    #[test]
    fn an_empty_queue_holds_no_memory() {
        let mut budget = BUDGET;
        let mut queue = WaitingQueue::default();
        queue.push(&[1; 60], &mut budget);
        queue.pop(&mut budget);
        assert_eq!(queue.bytes.capacity() + queue.lens.capacity(), 0);
    }

    proptest! {
        #[test]
        fn two_queues_agree_with_a_naive_model(
            steps in proptest::collection::vec((0usize..2, prop_oneof![
                4 => (1usize..120).prop_map(Some),
                2 => Just(None),
            ]), 1..200)
        ) {
            let mut budget = BUDGET;
            let mut queues = [WaitingQueue::default(), WaitingQueue::default()];
            let mut model: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
            for (serial, (which, step)) in steps.into_iter().enumerate() {
                let Some(len) = step else {
                    let mut front = Vec::new();
                    let expected = (!model[which].is_empty()).then(|| model[which].remove(0));
                    let found = queues[which].copy_front(&mut front).then_some(front);
                    prop_assert_eq!(found, expected);
                    queues[which].pop(&mut budget);
                    continue;
                };
                let packet = vec![serial as u8; len];
                let others: usize = model[1 - which].iter().map(Vec::len).sum();
                let mut dropped = 0;
                if len > 100 || others + len > 150 {
                    dropped = 1;
                } else {
                    let held = |queue: &[Vec<u8>]| queue.iter().map(Vec::len).sum::<usize>() + len;
                    while model[which].len() == 4
                        || held(&model[which]) > 100
                        || others + held(&model[which]) > 150
                    {
                        model[which].remove(0);
                        dropped += 1;
                    }
                    model[which].push(packet.clone());
                }
                prop_assert_eq!(queues[which].push(&packet, &mut budget), dropped);
                for (queue, model) in queues.iter().zip(&model) {
                    prop_assert_eq!(&contents(queue), model);
                }
                let all: usize = model.iter().flatten().map(Vec::len).sum();
                prop_assert_eq!(budget.used_bytes, all);
            }
        }
    }
}
