// Digests without a crypto library: sha1 and crc32c are the real ones (a table and 40 lines), md5 and sha256 are stand-ins
// of the right length made of FNV-1a lanes. Nothing in a simulated world needs them to resist an attacker, only to agree on
// both hosts and to differ for different data. crc32c as the kernel's crypto API gives it: standard CRC-32C, little-endian
// (wire-protocol.md 3.20). `crc32cRegister` is the variant of the activity log (metadata.md 5.3).

import type { Digests } from '../runtime/ports.ts'
import { isAllZero } from './bytes.ts'

const SIZES: ReadonlyMap<string, number> = new Map([
  ['crc32c', 4],
  ['md5', 16],
  ['sha1', 20],
  ['sha256', 32],
])
const HMAC_BLOCK_BYTES = 64

export class SimDigests implements Digests {
  sizeBytes(algorithm: string): number | undefined {
    return SIZES.get(algorithm)
  }

  digest(algorithm: string, data: Uint8Array): Uint8Array {
    if (algorithm === 'sha1') return sha1(data)
    if (algorithm === 'crc32c') return crc32cDigest(data)
    const sizeBytes = SIZES.get(algorithm)
    if (sizeBytes === undefined) throw new Error(`unknown digest ${algorithm}`)
    return fnvLanes(algorithm, data, sizeBytes)
  }

  /** RFC 2104. */
  hmac(algorithm: string, key: Uint8Array, message: Uint8Array): Uint8Array {
    const block = new Uint8Array(HMAC_BLOCK_BYTES)
    block.set(key.length > HMAC_BLOCK_BYTES ? this.digest(algorithm, key) : key)
    const inner = this.digest(
      algorithm,
      concat(
        block.map((byte) => byte ^ 0x36),
        message,
      ),
    )
    return this.digest(
      algorithm,
      concat(
        block.map((byte) => byte ^ 0x5c),
        inner,
      ),
    )
  }
}

/** Four tables of 256: what a byte becomes when 0, 1, 2 or 3 further ones have passed. */
const CRC32C_TABLES = ((): Int32Array => {
  const tables = new Int32Array(4 * 256)
  for (let i = 0; i < 256; i++) {
    let value = i
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1
    tables[i] = value
  }
  for (let i = 256; i < tables.length; i++) {
    const before = tables[i - 256] as number
    tables[i] = (tables[before & 0xff] as number) ^ (before >>> 8)
  }
  return tables
})()

/** The bare register: no complement on entry or exit. */
export function crc32cRegister(register: number, data: Uint8Array): number {
  const view = new DataView(data.buffer, data.byteOffset, data.length)
  const fours = data.length - (data.length % 4)
  let value = register | 0
  for (let at = 0; at < fours; at += 4) {
    value ^= view.getInt32(at, true)
    value =
      (CRC32C_TABLES[768 + (value & 0xff)] as number) ^
      (CRC32C_TABLES[512 + ((value >>> 8) & 0xff)] as number) ^
      (CRC32C_TABLES[256 + ((value >>> 16) & 0xff)] as number) ^
      (CRC32C_TABLES[value >>> 24] as number)
  }
  for (let at = fours; at < data.length; at++) {
    value = (CRC32C_TABLES[(value ^ (data[at] as number)) & 0xff] as number) ^ (value >>> 8)
  }
  return value >>> 0
}

function crc32cDigest(data: Uint8Array): Uint8Array {
  const digest = new Uint8Array(4)
  new DataView(digest.buffer).setUint32(0, ~crc32cRegister(0xffffffff, data) >>> 0, true)
  return digest
}

function concat(first: Uint8Array, second: Uint8Array): Uint8Array {
  const both = new Uint8Array(first.length + second.length)
  both.set(first)
  both.set(second, first.length)
  return both
}

function fnvLanes(algorithm: string, data: Uint8Array, sizeBytes: number): Uint8Array {
  const digest = new Uint8Array(sizeBytes)
  const view = new DataView(digest.buffer)
  for (let lane = 0; lane < sizeBytes; lane += 4) {
    let hash = Math.imul(0x811c9dc5 ^ (lane + algorithm.length), 0x85ebca6b)
    for (let i = 0; i < data.length; i++) hash = Math.imul(hash ^ (data[i] as number), 0x01000193)
    hash = Math.imul(hash ^ data.length ^ (hash >>> 15), 0xc2b2ae35)
    view.setUint32(lane, (hash ^ (hash >>> 13)) >>> 0)
  }
  return digest
}

/** Digests of ranges that are all zero, by their length: most of what a resync compares. */
const ofZeroes = new Map<number, Uint8Array>()

function sha1(data: Uint8Array): Uint8Array {
  if (data.length < 512 || !isAllZero(data)) return sha1Of(data)
  const known = ofZeroes.get(data.length) ?? sha1Of(data)
  ofZeroes.set(data.length, known)
  return known.slice()
}

/** FIPS 180-4, section 6.1. Integers of 32 bits with a sign throughout: anything larger would make it several times slower. */
function sha1Of(data: Uint8Array): Uint8Array {
  const padded = new Uint8Array(((data.length + 8) >> 6) * 64 + 64)
  padded.set(data)
  padded[data.length] = 0x80
  const view = new DataView(padded.buffer)
  view.setUint32(padded.length - 8, Math.floor(data.length / 0x2000_0000))
  view.setUint32(padded.length - 4, (data.length << 3) >>> 0)
  const state = Int32Array.of(0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0)
  for (let offset = 0; offset < padded.length; offset += 64) sha1Block(state, view, offset)
  const digest = new Uint8Array(20)
  const out = new DataView(digest.buffer)
  for (let i = 0; i < 5; i++) out.setInt32(i * 4, state[i] as number)
  return digest
}

const words = new Int32Array(80)

function sha1Block(state: Int32Array, view: DataView, offset: number): void {
  for (let i = 0; i < 16; i++) words[i] = view.getInt32(offset + i * 4)
  for (let i = 16; i < 80; i++) {
    const mixed =
      (words[i - 3] as number) ^ (words[i - 8] as number) ^ (words[i - 14] as number) ^ (words[i - 16] as number)
    words[i] = (mixed << 1) | (mixed >>> 31)
  }
  let a = state[0] as number
  let b = state[1] as number
  let c = state[2] as number
  let d = state[3] as number
  let e = state[4] as number
  for (let i = 0; i < 80; i++) {
    let f: number
    if (i < 20) f = ((b & c) | (~b & d)) + 0x5a827999
    else if (i < 40) f = (b ^ c ^ d) + 0x6ed9eba1
    else if (i < 60) f = ((b & c) | (b & d) | (c & d)) - 0x70e44324
    else f = (b ^ c ^ d) - 0x359d3e2a
    const next = ((((a << 5) | (a >>> 27)) + (f | 0)) | 0) + ((e + (words[i] as number)) | 0)
    e = d
    d = c
    c = (b << 30) | (b >>> 2)
    b = a
    a = next | 0
  }
  state[0] = ((state[0] as number) + a) | 0
  state[1] = ((state[1] as number) + b) | 0
  state[2] = ((state[2] as number) + c) | 0
  state[3] = ((state[3] as number) + d) | 0
  state[4] = ((state[4] as number) + e) | 0
}
