//! SCTP's checksum, kept right incrementally.
//!
//! CRC32c is linear: the checksum of a changed packet differs from the old one by the checksum, without the initial and
//! final complement, of the change alone, followed by zeros up to the packet's end. The change is four bytes of ports
//! at the front; the zeros are a multiplication by a power of x, which squaring makes cheap.

/// Castagnoli's polynomial, reflected.
const POLY: u32 = 0x82f6_3b78;

/// `x^(8·2^k)` modulo the polynomial, reflected, for k from 0 to 15.
const POWERS: [u32; 16] = powers();

/// Product of two polynomials modulo the polynomial, both reflected.
#[inline(always)]
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 0;
    while bit < 32 {
        // The highest bit is the power zero. Arithmetic instead of branches: the verifier follows each branch.
        product ^= b & 0u32.wrapping_sub((a >> (31 - bit)) & 1);
        b = (b >> 1) ^ (POLY & 0u32.wrapping_sub(b & 1));
        bit += 1;
    }
    product
}

const fn powers() -> [u32; 16] {
    let mut powers = [0; 16];
    // x^8: the highest bit is the power zero.
    powers[0] = 1 << (31 - 8);
    let mut i = 1;
    while i < 16 {
        powers[i] = multiply(powers[i - 1], powers[i - 1]);
        i += 1;
    }
    powers
}

/// What a change of the first four bytes does to the checksum of a packet of `len` bytes (at least 4), as a number to
/// XOR with. `change` is old XOR new.
#[inline(always)]
pub const fn delta(change: [u8; 4], len: u16) -> u32 {
    // Four bytes of message stand for the polynomial times x^32; then come len - 4 bytes of zeros: together x^(8·len).
    let mut remainder = u32::from_le_bytes(change);
    let mut k = 0;
    while k < 16 {
        if (len >> k) & 1 != 0 {
            remainder = multiply(remainder, POWERS[k]);
        }
        k += 1;
    }
    remainder
}

/// The checksum field after a change of the first four bytes, as the bytes stand in the packet. A field of zero is a
/// checksum that hardware has yet to fill in, and stays.
#[inline(always)]
pub const fn apply(field: [u8; 4], change: [u8; 4], len: u16) -> [u8; 4] {
    let old = u32::from_le_bytes(field);
    if old == 0 {
        return field;
    }
    (old ^ delta(change, len)).to_le_bytes()
}

/// The checksum of a whole packet whose field is zero, as the bytes stand in the packet. For tests and for packets made
/// here.
pub fn whole(bytes: &[u8]) -> [u8; 4] {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= *byte as u32;
        for _ in 0..8 {
            crc = (crc >> 1) ^ (POLY & 0u32.wrapping_sub(crc & 1));
        }
    }
    (!crc).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_the_field() {
        // RFC 3720 §B.4.
        assert_eq!(u32::from_le_bytes(whole(&[0; 32])), 0x8a91_36aa);
        assert_eq!(u32::from_le_bytes(whole(&[0xff; 32])), 0x62a8_ab43);
    }

    #[test]
    fn an_incremental_update_equals_a_fresh_sum() {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()
        };
        let mut bytes = [0u8; 9000];
        for len in [12usize, 13, 16, 17, 100, 255, 256, 1459, 1480, 8999, 9000] {
            for word in bytes.chunks_mut(4) {
                word.copy_from_slice(&next()[..word.len()]);
            }
            bytes[8..12].fill(0);
            let before = whole(&bytes[..len]);
            let old = [bytes[0], bytes[1], bytes[2], bytes[3]];
            let new = next();
            bytes[..4].copy_from_slice(&new);
            let change = [old[0] ^ new[0], old[1] ^ new[1], old[2] ^ new[2], old[3] ^ new[3]];
            assert_eq!(apply(before, change, len as u16), whole(&bytes[..len]), "{len}");
        }
    }

    #[test]
    fn an_unfinished_field_stays() {
        assert_eq!(apply([0; 4], [1, 2, 3, 4], 1000), [0; 4]);
    }
}
