// CRC-32C (Castagnoli polynomial, bit-reflected 0x82F63B78), in the two forms in use here:
//
//   crc32c      preset all ones, final complement: RFC 3720 appendix B.4, the digest `crc32c` of Linux
//   crc32cRaw   the bare shift register, preset 0, no complement: checksum of DRBD's activity log blocks
//
// Slicing by eight: eight table look-ups for eight bytes, with no dependency from byte to byte.
// Source of the method: M. Kounavis and F. Berry, "Novel Table Lookup-Based Algorithms for High-Performance CRC Generation".

const POLYNOMIAL_REFLECTED = 0x82f63b78

/** `TABLES[256 * k + b]`: what byte `b` leaves in the register after `k` further zero bytes. */
const TABLES: Int32Array = buildTables()

function buildTables(): Int32Array {
  const tables = new Int32Array(8 * 256)
  for (let byte = 0; byte < 256; byte++) {
    let register = byte
    for (let bit = 0; bit < 8; bit++) {
      register = (register & 1) === 0 ? register >>> 1 : (register >>> 1) ^ POLYNOMIAL_REFLECTED
    }
    tables[byte] = register
  }
  for (let at = 256; at < tables.length; at++) {
    const before = tables[at - 256] as number
    tables[at] = (before >>> 8) ^ (tables[before & 0xff] as number)
  }
  return tables
}

/**
 * Standard CRC-32C. `seed` is the result for the bytes before these, so that
 * `crc32c(b, crc32c(a))` is the checksum of a followed by b.
 */
export function crc32c(bytes: Uint8Array, seed = 0): number {
  return ~crc32cRaw(bytes, ~seed) >>> 0
}

/** The register after `bytes`, starting from `register`; no complement on either end. */
export function crc32cRaw(bytes: Uint8Array, register = 0): number {
  const t = TABLES
  const end = bytes.length
  const endOfEights = end - (end % 8)
  let crc = register | 0
  let at = 0
  for (; at < endOfEights; at += 8) {
    crc ^=
      (bytes[at] as number) |
      ((bytes[at + 1] as number) << 8) |
      ((bytes[at + 2] as number) << 16) |
      ((bytes[at + 3] as number) << 24)
    crc =
      (t[1792 + (crc & 0xff)] as number) ^
      (t[1536 + ((crc >>> 8) & 0xff)] as number) ^
      (t[1280 + ((crc >>> 16) & 0xff)] as number) ^
      (t[1024 + (crc >>> 24)] as number) ^
      (t[768 + (bytes[at + 4] as number)] as number) ^
      (t[512 + (bytes[at + 5] as number)] as number) ^
      (t[256 + (bytes[at + 6] as number)] as number) ^
      (t[bytes[at + 7] as number] as number)
  }
  for (; at < end; at++) crc = (crc >>> 8) ^ (t[(crc ^ (bytes[at] as number)) & 0xff] as number)
  return crc >>> 0
}
