//! The fragments that wait: no I/O, no clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fairlead_abi::{FragmentKey, HELD_MAC, LOST_MAC, mapped};

/// How long a fragment waits. Those of one packet leave their sender within microseconds of each other; a whole second
/// is kindness.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// The first look at whether the first fragment has come, after this; each further one after as long again.
const FIRST_LOOK: Duration = Duration::from_millis(1);
/// Most fragments held.
const FRAMES_MAX: usize = 4096;
/// Most bytes held.
const BYTES_MAX: usize = 64 << 20;

/// Frames by the packet they are of.
#[derive(Debug, Default)]
pub(super) struct Held {
    packets: BTreeMap<[u8; 40], Packet>,
    frames: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Packet {
    key: FragmentKey,
    since: Instant,
    look: Instant,
    frames: Vec<Vec<u8>>,
}

impl Held {
    /// When [`Held::release`] has something to do next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.packets.values().map(|packet| packet.look).min()
    }

    /// Holds a frame, if it is one to be held. Gives it back, as lost, if there is no room.
    pub(super) fn take(&mut self, frame: &[u8], now: Instant) -> Option<Vec<u8>> {
        let key = key_of(frame)?;
        if self.frames >= FRAMES_MAX || self.bytes + frame.len() > BYTES_MAX {
            return Some(lost(frame.to_vec()));
        }
        self.frames += 1;
        self.bytes += frame.len();
        let new = || Packet { key, since: now, look: now + FIRST_LOOK, frames: Vec::new() };
        self.packets.entry(order(&key)).or_insert_with(new).frames.push(frame.to_vec());
        None
    }

    /// Frames to be written back now: those whose packet is known, and those that waited too long, as lost.
    pub(super) fn release(&mut self, now: Instant, known: impl Fn(&FragmentKey) -> bool) -> Vec<Vec<u8>> {
        let mut ready = Vec::new();
        self.packets.retain(|_, packet| {
            if packet.look > now {
                return true;
            }
            let waited = now - packet.since;
            let is_known = known(&packet.key);
            if !is_known && waited < PATIENCE {
                packet.look = (now + waited.max(FIRST_LOOK)).min(packet.since + PATIENCE);
                return true;
            }
            for frame in std::mem::take(&mut packet.frames) {
                self.frames -= 1;
                self.bytes -= frame.len();
                ready.push(if is_known { frame } else { lost(frame) });
            }
            false
        });
        ready
    }
}

/// The key as something that can be ordered.
fn order(key: &FragmentKey) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..16].copy_from_slice(&key.src);
    bytes[16..32].copy_from_slice(&key.dst);
    bytes[32..36].copy_from_slice(&key.id);
    bytes[36] = key.proto;
    bytes
}

/// Marks a frame whose first fragment never came.
fn lost(mut frame: Vec<u8>) -> Vec<u8> {
    if let Some(mark) = frame.get_mut(6..8) {
        mark.copy_from_slice(&LOST_MAC);
    }
    frame
}

/// The packet a frame from the programs is a part of; `None` for what is none of theirs.
fn key_of(frame: &[u8]) -> Option<FragmentKey> {
    if frame.get(6..8)? != HELD_MAC {
        return None;
    }
    let mut at = 12;
    // As many tags as the programs read, and the one the kernel puts back.
    for _ in 0..4 {
        let rest = frame.get(at + 2..)?;
        match frame.get(at..at + 2)? {
            [0x81, 0x00] | [0x88, 0xa8] => at += 4,
            [0x08, 0x00] => return key4(rest),
            [0x86, 0xdd] => return key6(rest),
            _ => return None,
        }
    }
    None
}

fn key4(ip: &[u8]) -> Option<FragmentKey> {
    let addr = |at: usize| Some(mapped(ip.get(at..at + 4)?.try_into().ok()?));
    Some(FragmentKey { src: addr(12)?, dst: addr(16)?, id: [ip[4], ip[5], 0, 0], proto: ip[9], pad: [0; 3] })
}

fn key6(ip: &[u8]) -> Option<FragmentKey> {
    const FRAGMENT: u8 = 44;
    let addr = |at: usize| ip.get(at..at + 16)?.try_into().ok();
    let (src, dst) = (addr(8)?, addr(24)?);
    let (mut next, mut at) = (ip[6], 40);
    for _ in 0..8 {
        let head = ip.get(at..at + 8)?;
        if next == FRAGMENT {
            return Some(FragmentKey { src, dst, id: head[4..8].try_into().ok()?, proto: 0, pad: [0; 3] });
        }
        // No authentication header comes before the fragment header (RFC 8200 §4.1).
        at += (usize::from(head[1]) + 1) * 8;
        next = head[0];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame4(id: u8, tags: usize) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, HELD_MAC[0], HELD_MAC[1], 0, 0, 0, 9];
        frame.extend([0x81, 0, 0, 5].repeat(tags));
        frame.extend([
            8, 0, 0x45, 0, 0, 28, 7, id, 0, 185, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8,
        ]);
        frame
    }

    fn frame6() -> Vec<u8> {
        let mut frame =
            vec![2, 0, 0, 0, 0, 1, HELD_MAC[0], HELD_MAC[1], 0, 0, 0, 9, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 0, 64];
        frame.extend([0xfd; 16]);
        frame.extend([0xfe; 16]);
        frame.extend([44, 0, 1, 4, 0, 0, 0, 0]);
        frame.extend([17, 0, 5, 200, 1, 2, 3, 4]);
        frame.extend([0; 8]);
        frame
    }

    #[test]
    fn a_fragment_waits_for_the_first_and_no_longer() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut held = Held::default();
        assert_eq!(held.next(), None);
        for id in [1, 1, 2] {
            assert_eq!(held.take(&frame4(id, 0), start), None);
        }
        assert_eq!(held.next(), Some(at(1)));
        assert!(held.release(start, |_| true).is_empty(), "it was not time to look yet");
        assert!(held.release(at(1), |_| false).is_empty());
        assert_eq!(held.release(at(2), |key| key.id[1] == 1), vec![frame4(1, 0); 2]);
        assert!(held.release(at(999), |_| false).is_empty());
        assert_eq!(held.next(), Some(at(1000)));
        assert_eq!(held.release(at(1000), |_| false), vec![lost(frame4(2, 0))]);
        assert_eq!((held.next(), held.frames, held.bytes), (None, 0, 0));
    }

    #[test]
    fn looks_become_rare() {
        let start = Instant::now();
        let mut held = Held::default();
        held.take(&frame6(), start);
        let looks = std::cell::Cell::new(0);
        while let Some(next) = held.next() {
            held.release(next, |_| {
                looks.set(looks.get() + 1);
                false
            });
        }
        assert_eq!(looks.get(), 11);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let now = Instant::now();
        let mut held = Held::default();
        for i in 0..FRAMES_MAX {
            assert_eq!(held.take(&frame4(i as u8, 0), now), None);
        }
        assert_eq!(held.take(&frame4(0, 0), now), Some(lost(frame4(0, 0))));
        assert_eq!(held.release(now + PATIENCE, |_| true).len(), FRAMES_MAX);
        assert_eq!(held.take(&frame4(0, 0), now), None);
    }

    #[test]
    fn keys_are_those_of_the_programs() {
        let v4 = FragmentKey {
            src: mapped([10, 0, 0, 1]),
            dst: mapped([10, 0, 0, 2]),
            id: [7, 3, 0, 0],
            proto: 17,
            pad: [0; 3],
        };
        for tags in 0..=3 {
            assert_eq!(key_of(&frame4(3, tags)), Some(v4));
        }
        let v6 = FragmentKey { src: [0xfd; 16], dst: [0xfe; 16], id: [1, 2, 3, 4], proto: 0, pad: [0; 3] };
        assert_eq!(key_of(&frame6()), Some(v6));
        assert_eq!(key_of(&frame6()[..60]), None);
        let mut foreign = frame4(1, 0);
        foreign[6] = 0;
        assert_eq!(key_of(&foreign), None);
    }
}
